# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How much risk is left when the most uncertain frames are refused, and which scores lower it.

One frame is one sample, with a score that grows with uncertainty and a loss in 0..1 (bad or not,
or one minus its IoU). Frames of equal score are accepted together: no limit separates them. Every
function takes scores and losses of shape (n,); a score of NaN is refused first, with infinity.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from uncertainty_seg.calibration.statistics.metrics import Floats
from uncertainty_seg.core.calibration import Column, Columns, RankFamily
from uncertainty_seg.errors import CalibrationError, ShapeError


@dataclass(frozen=True)
class RiskCoverage:
    """
    One point a limit, from strict to loose.

    Attributes
    ----------
    limits : ndarray of float64, shape (k,)
        Distinct scores, growing; accepted is what is at or below. Infinite stands for NaN too.
    coverage : ndarray of float64, shape (k,)
        Share of frames accepted; ends at 1.
    risk : ndarray of float64, shape (k,)
        Mean loss of those.

    References
    ----------
    Geifman and El-Yaniv, 2017, arXiv:1705.08500.

    """

    limits: Floats
    coverage: Floats
    risk: Floats

    def risk_at_coverage(self, coverage: float) -> float:
        """Return the risk of the strictest limit that accepts at least this share, 0..1."""
        return float(self.risk[np.searchsorted(self.coverage, min(coverage, 1.0) - 1e-12)])

    def coverage_at_risk(self, risk: float) -> float:
        """Return the largest share of frames that a limit accepts at this risk or less, or 0."""
        return float(self.coverage[self.risk <= risk].max(initial=0.0))


def risk_coverage(scores: ArrayLike, losses: ArrayLike) -> RiskCoverage:
    """
    Refuse frames from the most uncertain on, and compute the risk of the rest, in 1 to n points.

    Raises ShapeError if there is no frame, or scores and losses differ in length.
    """
    ranks, loss = _checked(scores, losses)
    limits, index = np.unique(ranks, return_inverse=True)
    counts = np.cumsum(np.bincount(index))
    return RiskCoverage(limits, counts / len(loss), np.cumsum(np.bincount(index, loss)) / counts)


def aurc(scores: ArrayLike, losses: ArrayLike) -> float:
    """
    Return the area under the curve, the mean risk over the coverages 1/n .. 1; smaller is better.

    Where scores are equal it is the mean over every order of those frames, so that the order of
    the data never counts. Errors are those of `risk_coverage`.
    """
    ranks, loss = _checked(scores, losses)
    _, index = np.unique(ranks, return_inverse=True)
    of_tie = np.bincount(index, loss) / np.bincount(index)
    return _mean_risk(of_tie[np.sort(index)])


def excess_aurc(scores: ArrayLike, losses: ArrayLike) -> float:
    """
    Return E-AURC: `aurc` less that of a score that knew the losses; 0 for a perfect order.

    It compares scores of one network, not networks. Errors are those of `risk_coverage`.

    References
    ----------
    Geifman, Uziel and El-Yaniv, 2019, arXiv:1805.08206.

    """
    return aurc(scores, losses) - _mean_risk(np.sort(_checked(scores, losses)[1]))


def _mean_risk(losses: Floats) -> float:
    return float((np.cumsum(losses) / np.arange(1, len(losses) + 1)).mean())


def _checked(scores: ArrayLike, losses: ArrayLike) -> tuple[Floats, Floats]:
    ranks, loss = np.asarray(scores, np.float64), np.asarray(losses, np.float64)
    if ranks.shape != loss.shape or ranks.ndim != 1 or not ranks.size:
        raise ShapeError(f'scores of shape {ranks.shape} and losses of {loss.shape}',
                         'one of each a frame, and at least one frame')
    return np.where(np.isnan(ranks), np.inf, ranks), loss


# -------------------------------------------------------------------------------------------------
# Choose which scores are worth a threshold in the gate.
# The choice is made on data that the promise is not made on.

# A score has to take this share off the area under risk and coverage to be added.
SMALLEST_GAIN = 0.02


def choose_scores(
    family: RankFamily, scores: Columns, losses: Column, required: Sequence[str] = (),
    most: int = 4,
) -> tuple[str, ...]:
    """
    Choose the scores of a gate by the area under its curve of risk and coverage.

    Raises CalibrationError if all losses are equal, so that no score is better than another, or
    there is no score.

    Parameters
    ----------
    family : RankFamily
        Its names are the candidates.
    scores : mapping of str to ndarray, shape (n,)
        Frames that nothing else is promised on.
    losses : ndarray of float64, shape (n,)
        What it costs to accept each frame, 0..1.
    required : sequence of str
        Scores that are taken in any case, first.
    most : int
        Scores, at most.

    Returns
    -------
    tuple of str
        The required ones, then one after the other that which lowers the area most, as long as
        it takes `SMALLEST_GAIN` of it away.

    """
    if np.ptp(losses) == 0:
        raise all_alike(len(losses), bool(losses[:1].any()))
    columns = {name: family.ranks(name, scores[name]) for name in family.names}
    chosen = list(required)
    while len(chosen) < most:
        areas = {
            name: aurc(np.max([columns[n] for n in (*chosen, name)], axis=0), losses)
            for name in columns if name not in chosen
        }
        if not areas:
            break
        best = min(areas, key=lambda name: areas[name])
        now = aurc(np.max([columns[n] for n in chosen], axis=0), losses) if chosen else np.inf
        if areas[best] > now * (1 - SMALLEST_GAIN):
            break
        chosen.append(best)
    if not chosen:
        raise CalibrationError(f'no score of {len(losses)} frames takes enough different values',
                               'scores that differ', 'take more frames')
    return tuple(chosen)


def all_alike(count: int, is_bad: bool) -> CalibrationError:
    """Return the error for frames that are all bad or all good: no score tells them apart."""
    word, fix = ('bad', 'train the network on, or give --bad a rule that some frames keep') \
        if is_bad else ('good', 'give --bad a rule that some frames break')
    return CalibrationError(f'all {count} frames to choose scores on are {word}', 'some of each',
                            f'{fix}, or name the scores with --scores')
