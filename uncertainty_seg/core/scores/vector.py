# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From the maps of a frame to its scores; only the requested ones are computed.

`SCORES` lists what each score detects, what it misses and why it is kept. Every score grows with
uncertainty and lies in 0..1. Intermediate results that scores share are computed once: the pixels
that count, the largest of them, the division of the frame into classes and borders.

An ``ignore`` mask (h, w) is True where a pixel is left out, such as a hull in view or a vignette;
NaN there has no effect. If any other pixel has no finite uncertainty, or none is left, every score
of the frame is NaN, those of the photograph too, because the gate treats NaN as a fault.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap, require_shape
from uncertainty_seg.core.grid import at_cells
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.scores.density import FeatureDensity, KNN_SCORE
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import ConfigError, ShapeError

# Every frame has two scores of these two maps: they are cheap and commonly compared.
USUAL_SCORED = ('entropy', 'mutual_information')
USUAL_KINDS = ('mean', 'top')
TOP_SHARE = 0.05
_NAN = float('nan')
_CLASS = 'class.<class>'


@dataclass(frozen=True)
class ScoreKind:
    """
    One kind of score: its meaning, what it detects, what it misses, and the reason to keep it.

    In `name`, ``<map>`` stands for each of `maps` and ``<class>`` for each class; `maps` is empty
    for a score that uses no map.
    """

    name: str
    meaning: str
    sees: str
    misses: str
    reason: str
    maps: tuple[str, ...] = ()


SCORES = (
    ScoreKind(
        '<map>.mean', 'mean over the image', 'uncertainty of the whole image',
        'a small region: 1 % of the pixels moves it by 1 %',
        'the baseline of every comparison; `select` ranks by it; for the colours of the heatmap',
        ('entropy', 'mutual_information', 'aleatoric', 'energy', 'least_confidence')),
    ScoreKind(
        '<map>.top', f'mean of the most uncertain {TOP_SHARE:.0%} of the pixels',
        'the worst pixels, wherever they lie',
        'a region below 5 % is diluted; many borders look like one unknown object',
        'for the colours of the heatmap; `unknown`: detects single objects',
        (*USUAL_SCORED, 'unknown', 'least_confidence')),
    ScoreKind(
        '<map>.class_mean', 'mean of the class means, each predicted class once (BCA)',
        'a rare class that is uncertain', 'a class that is not predicted; a small part of a large '
        'class. A further class that is certain lowers it',
        'margin: the order of the default gate; entropy: its closest rival',
        ('entropy', 'margin')),
    ScoreKind(
        f'<map>.{_CLASS}', 'mean over the pixels predicted as one class',
        'an uncertain class, with its own threshold',
        'a class that was missed: the score is 0 if it is not predicted',
        'in the features of `score`; entropy: in reports', USUAL_SCORED),
    ScoreKind(
        KNN_SCORE, 'distance of the features to those of the nearest training frame',
        'frames unlike all training frames', 'a small unknown object in a usual scene',
        'the guard of the default gate'),
)
# For each map, the endings of the names of its scores.
_KINDS: dict[str, tuple[str, ...]] = {
    of: tuple(kind.name.removeprefix('<map>.') for kind in SCORES if of in kind.maps)
    for of in dict.fromkeys(name for kind in SCORES for name in kind.maps)}
SCORED_MAPS = tuple(_KINDS)


def score_names() -> tuple[str, ...]:
    """Return the names of the four scores that every frame has, in a fixed order."""
    return tuple(f'{name}.{kind}' for name in USUAL_SCORED for kind in USUAL_KINDS)


def class_keys(card: ModelCard) -> tuple[str, ...]:
    """Return the ending of the name of each class's score, with the id if names are repeated."""
    names = card.class_names
    return tuple(f'class.{name}' if names.count(name) == 1 else f'class.{name} {index}'
                 for index, name in enumerate(names))


def kept_values(values: FloatMap, ignore: NDArray[np.bool_] | None = None) -> FloatMap:
    """Return the pixels that are not ignored, (n,); ShapeError if the mask is of another size."""
    if ignore is None:
        return values.ravel()
    require_shape('ignore mask', ignore, values.shape, np.bool_)
    return values[~ignore]


def value_sum(flat: FloatMap) -> float:
    """Sum the values of a line in float64; not finite if any is not, NaN if there is none."""
    # Several times as fast as numpy, which converts to float64 first.
    return float(cv2.sumElems(flat.reshape(1, -1))[0]) if flat.size else _NAN


def top_mean(flat: FloatMap) -> float:
    """
    Average the `TOP_SHARE` largest values of a float32 (n,), at least one, without sorting it.

    NaN if any value is NaN, or there is none.
    """
    if not flat.size or np.isnan(flat.max()):
        return _NAN
    count = max(1, round(TOP_SHARE * flat.size))
    return value_sum(np.partition(flat, flat.size - count)[flat.size - count:]) / count


@dataclass(frozen=True)
class Parts:
    """
    The division of a frame's pixels into classes, for all of its maps.

    `index` (h * w,) is the class of each pixel, or C if it is left out. `counts` (C,) are the
    pixels of each class.
    """

    index: NDArray[np.intp]
    counts: NDArray[np.intp]

    @classmethod
    def of(
        cls, label: LabelMap, num_classes: int, ignore: NDArray[np.bool_] | None = None
    ) -> Parts:
        """
        Divide a frame by its predicted class ids (h, w).

        Raises ShapeError if an id is not below C, or the ignore mask is not of the map's size.
        """
        if label.size and int(label.max()) >= num_classes:
            raise ShapeError(f'class id {int(label.max())} in the mask',
                             f'less than {num_classes}')
        index = label.astype(np.intp)
        if ignore is not None:
            require_shape('ignore mask', ignore, label.shape, np.bool_)
            index[ignore] = num_classes
        counts = np.bincount(index.ravel(), minlength=num_classes)[:num_classes]
        return cls(index.ravel(), counts)

    def scores(self, values: FloatMap) -> dict[str, float]:
        """
        Score a map (h, w) of the frame by class; all pixels that count must be finite.

        Returns 'class_mean', see `SCORES`, and the mean of each class by its id, 0 if it has no
        pixel; all are NaN if no pixel counts.
        """
        size = self.counts.size
        if not self.counts.any():
            return dict.fromkeys(('class_mean', *map(str, range(size))), _NAN)
        sums = np.bincount(self.index, values.ravel(), minlength=size)[:size]
        means = sums / np.maximum(self.counts, 1)
        return {'class_mean': float(means[self.counts > 0].mean()),
                **{str(index): float(mean) for index, mean in enumerate(means)}}


class ScoreVector:
    """
    Compute the scores of one frame after another.

    'features.knn' requires `features`, and maps that have features. The argument `names` are the
    scores to compute, None for all possible ones; the attribute has them in a fixed order, and
    `maps` are the maps that they use. Raises ConfigError if a name is not possible.
    """

    def __init__(
        self,
        card: ModelCard,
        names: Collection[str] | None = None,
        features: FeatureDensity | None = None,
    ) -> None:
        # Cached here so that no frame reads the model card.
        self._num_classes = card.num_classes
        self._class_keys = class_keys(card)
        possible = self._possible(features is not None)
        _require_names(possible if names is None else names, possible)
        self.names = tuple(name for name in possible if names is None or name in names)
        self._features = features if KNN_SCORE in self.names else None
        self._kinds = {
            map_name: frozenset(name.removeprefix(f'{map_name}.') for name in self.names
                                if name.startswith(f'{map_name}.'))
            for map_name in SCORED_MAPS
        }
        self.maps = frozenset(name for name, kinds in self._kinds.items() if kinds)
        of_parts = {'class_mean', *self._class_keys}
        self._needs_parts = any(of_parts & kinds for kinds in self._kinds.values())

    def compute(
        self, maps: UncertaintyMaps, ignore: NDArray[np.bool_] | None = None
    ) -> dict[str, float]:
        """
        Score one frame, in the order of `names`, each in 0..1 and growing with uncertainty.

        `maps` (hg, wg) are at the grid or finer, and `ignore` is (h, w), of the network's input;
        both are cut to the image, without padding. A cell counts if the pixel at its centre does.
        NaN throughout if a cell that counts has no finite uncertainty, or none counts. Raises
        ShapeError if the maps are empty.
        """
        size = maps.entropy.shape
        if maps.entropy.size == 0:
            raise ShapeError('maps without a cell', 'at least 1x1')
        pixels = ignore
        if ignore is not None:
            ignore = at_cells(ignore, *size)
        looked_at = [name for name, kinds in self._kinds.items() if kinds or name in USUAL_SCORED]
        kept = {name: kept_values(maps.of(name), ignore) for name in looked_at}
        sums = {name: value_sum(values) for name, values in kept.items()}
        if not all(np.isfinite(total) for total in sums.values()):
            return dict.fromkeys(self.names, _NAN)
        parts = Parts.of(maps.label, self._num_classes, ignore) \
            if self._needs_parts else None
        found: dict[str, float] = {}
        for name in looked_at:
            one = _MapScores(maps.of(name), kept[name], sums[name], parts)
            of_map = one.compute(self._kinds[name], self._class_keys)
            found |= {f'{name}.{kind}': value for kind, value in of_map.items()}
        if self._features:
            found[KNN_SCORE] = self._features.frame_score(maps, pixels)
        return {name: found.get(name, _NAN) for name in self.names}

    def _possible(self, has_features: bool) -> tuple[str, ...]:
        of_maps = (
            f'{name}.{key}' for name, kinds in _KINDS.items() for kind in kinds
            for key in (self._class_keys if kind == _CLASS else (kind,)))
        return (*of_maps, *((KNN_SCORE,) if has_features else ()))


def _require_names(names: Collection[str], possible: Collection[str]) -> None:
    for name in names:
        if name not in possible:
            raise ConfigError(f'no score {name!r}', f'one of {", ".join(possible)}')


@dataclass(frozen=True)
class _MapScores:
    """One map of one frame: its pixels that count, all finite, their sum, and parts."""

    values: FloatMap
    kept: FloatMap
    total: float
    parts: Parts | None

    def compute(self, kinds: frozenset[str], keys: tuple[str, ...]) -> dict[str, float]:
        """Return the scores of these kinds; if one class is requested, those of all classes."""
        found = dict[str, float]()
        if 'top' in kinds:
            found['top'] = top_mean(self.kept)
        if 'mean' in kinds:
            found['mean'] = self.total / self.kept.size
        if self.parts is not None and kinds & {'class_mean', *keys}:
            of_parts = self.parts.scores(self.values)
            found |= {**of_parts, **{key: of_parts[str(index)] for index, key in enumerate(keys)}}
        return found
