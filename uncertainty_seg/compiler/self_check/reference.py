# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Is what a backend computes what it should be: maps held against those of a reference.

Pure comparisons, each with its limit. Who ran what, on which images, and how long it took is the
tool's. A value that is not a number never passes.

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.scores.vector import frame_scores
from uncertainty_seg.core.uncertainty import MAP_NAMES, UncertaintyMaps

# Compared by value; a variation ratio moves in steps of 1 / T, so that its pixels are counted.
# Least confidence is no array of its own.
VALUE_MAPS = ('confidence', *(name for name in MAP_NAMES
                              if name not in ('variation_ratio', 'least_confidence')))
QUANTILE = 0.999
# Rounding may take a map that is zero or one by definition this far beyond.
_SLACK = 1e-5
# What a score without a calibrated limit is measured in.
_PLAIN_LIMIT = 0.1


@dataclass(frozen=True)
class Tolerance:
    """
    How far maps may lie from the reference.

    Attributes
    ----------
    label_share, vote_share : float
        Share of the pixels with another label; whose variation ratio differs.
    mean, quantile, largest : float
        Difference of a map between 0 and 1: mean, `QUANTILE` of the pixels, any pixel.
    score : float
        Difference of a frame's score, in shares of its calibrated limit.

    """

    label_share: float
    vote_share: float
    mean: float
    quantile: float
    largest: float
    score: float


@dataclass(frozen=True)
class Difference(Tolerance):
    """How far maps do lie from the reference, in the same numbers."""


@dataclass(frozen=True)
class Check:
    """
    One thing that was looked at.

    Attributes
    ----------
    name : str
        What.
    measured, limit : float
        Passed if `measured` is at most `limit`; NaN never is.
    about : str
        What the number is, for a reader.

    """

    name: str
    measured: float
    limit: float
    about: str

    @property
    def is_passed(self) -> bool:
        """Whether it holds."""
        return self.measured <= self.limit


# By the precision; about four times what was measured on the shipped bundles
# (docs/measurements.md), fp16 with each result rounded by the backend onnxruntime. No tf32 was
# there to be measured: it rounds less often than fp16, to a mantissa of the same length. A network
# in bf16 or int8 is another network, near the first: it has to be calibrated as such.
TOLERANCES: Mapping[str, Tolerance] = {
    'fp32': Tolerance(2e-4, 1e-3, 5e-6, 5e-5, 1e-3, 1e-4),
    'tf32': Tolerance(7e-3, 0.05, 2e-3, 0.03, 0.05, 0.03),
    'fp16': Tolerance(7e-3, 0.05, 2e-3, 0.03, 0.05, 0.03),
    'bf16': Tolerance(0.02, 0.2, 0.025, 0.25, 0.6, 0.05),
    'int8': Tolerance(0.02, 0.2, 0.025, 0.25, 0.6, 0.05),
}


def difference(
    maps: UncertaintyMaps, reference: UncertaintyMaps, passes: int, limits: Mapping[str, float],
    score: Callable[[UncertaintyMaps], Mapping[str, float]] = frame_scores,
) -> Difference:
    """
    Measure how far maps lie from those of the reference, of the same image and the same masks.

    Parameters
    ----------
    maps, reference : UncertaintyMaps
        Compared.
    passes : int
        T; a variation ratio differs where it moved by half a vote or more.
    limits : mapping of str to float
        Calibrated limit of each score; scores without one are not compared. All of them, against a
        limit of 0.1, if there are none.
    score : callable
        Computes the scores of maps, at least those with a limit.

    Returns
    -------
    Difference
        The largest over the maps; NaN if a map holds one.

    """
    gaps = [_gap(getattr(maps, name), getattr(reference, name)) for name in VALUE_MAPS
            if getattr(reference, name) is not None]
    votes = _gap(maps.variation_ratio, reference.variation_ratio)
    return Difference(
        label_share=float((maps.label != reference.label).mean()),
        # A vote that is no number differs.
        vote_share=float((~(votes < 0.5 / passes)).mean()),
        mean=_largest(gap.mean() for gap in gaps),
        quantile=_largest(np.quantile(gap, QUANTILE) for gap in gaps),
        largest=_largest(gap.max() for gap in gaps),
        score=_score_gap(score(maps), score(reference), limits),
    )


def worst(differences: Iterable[Difference]) -> Difference:
    """Return the largest of every number; NaN if one is."""
    found = list(differences)
    names = [f.name for f in fields(Difference)]
    return Difference(*(_largest(getattr(d, name) for d in found) for name in names))


def closeness_checks(found: Difference, tolerance: Tolerance) -> list[Check]:
    """Hold a difference against what is tolerated, number by number."""
    about = {
        'label_share': 'share of pixels with another label',
        'vote_share': 'share of pixels with another variation ratio',
        'mean': 'mean difference of a map',
        'quantile': f'difference of a map that {QUANTILE:.1%} of its pixels stay below',
        'largest': 'largest difference of a map at any pixel',
        'score': 'largest difference of a frame score, in shares of its limit',
    }
    return [Check(name, getattr(found, name), getattr(tolerance, name), text)
            for name, text in about.items()]


def sanity_checks(maps: UncertaintyMaps, passes: int, has_steps: bool) -> list[Check]:
    """
    Check what holds for the maps of any network: finite, within 0..1, variation ratio k / T.

    `has_steps` says whether the variation ratio moves in steps of 1 / T; it does not where maps
    are upsampled.
    """
    floats = {name: getattr(maps, name) for name in ('confidence', *MAP_NAMES)
              if getattr(maps, name) is not None}
    broken = sum(int((~np.isfinite(values)).sum()) for values in floats.values())
    # Total variance is at most 1 - 1/C, so that 0..1 holds for all of them.
    beyond = _largest(max(0.0, -float(v.min()), float(v.max()) - 1.0) for v in floats.values())
    checks = [
        Check('finite', broken, 0, 'values that are not finite'),
        Check('mutual_information', _largest([max(0.0, -float(maps.mutual_information.min()))]),
              0, 'how far mutual information goes below zero'),
        Check('range', beyond, _SLACK, 'how far a map goes beyond 0..1'),
    ]
    if has_steps:
        votes = maps.variation_ratio.astype(np.float64) * passes
        off = float(np.abs(votes - np.rint(votes)).max())
        checks.append(Check('votes', off, 1e-3, 'how far T times variation ratio is from whole'))
    return checks


def same_check(name: str, first: UncertaintyMaps, again: UncertaintyMaps, about: str) -> Check:
    """Count the values of two runs that are not the same bits; NaN equals NaN."""
    moved = sum(int((_bits(getattr(first, name)) != _bits(getattr(again, name))).sum())
                for name in first.present)
    return Check(name, moved, 0, about)


def worst_checks(checks: Iterable[Check]) -> list[Check]:
    """Keep the worst of the checks of each name, in the order of their first."""
    kept: dict[str, Check] = {}
    for check in checks:
        before = kept.get(check.name, check)
        kept[check.name] = replace(check, measured=_largest([before.measured, check.measured]))
    return list(kept.values())


def growth_check(samples_mb: Iterable[float], limit_mb: float) -> Check:
    """
    Check that memory does not go on growing, in MB.

    The first half of the samples, one after each run, is left for warming up; the second may add
    `limit_mb` to its beginning. Fewer than four samples fail.
    """
    samples = list(samples_mb)
    late = samples[len(samples) // 2:]
    grown = max(late) - late[0] if len(samples) >= 4 else math.nan
    return Check('memory', grown, limit_mb, 'MB of growth in the second half of the runs')


def _gap(values: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    if values.shape != reference.shape:
        return np.full(reference.shape, np.nan)
    return np.abs(values.astype(np.float64) - reference.astype(np.float64))


def _score_gap(
    scores: Mapping[str, float], wanted: Mapping[str, float], limits: Mapping[str, float]
) -> float:
    scales = dict(limits) or dict.fromkeys(wanted, _PLAIN_LIMIT)
    return _largest(abs(scores[name] - wanted[name]) / scale for name, scale in scales.items())


def _largest(values: Iterable[float]) -> float:
    """Return the maximum, and NaN if any is; the builtin depends on the order."""
    return float(np.max(np.fromiter(values, np.float64), initial=0.0))


def _bits(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return values.view(np.uint32) if values.dtype == np.float32 else values
