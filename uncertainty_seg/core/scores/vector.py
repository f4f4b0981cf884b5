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

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap, require_shape
from uncertainty_seg.core.grid import at_cells
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.scores.density import (
    DENSITY_SCORE,
    FeatureDensity,
    KNN_SCORE,
    ScoreDensity,
)
from uncertainty_seg.core.scores.image import IMAGE_SCORES, image_scores
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import ConfigError, ShapeError

# Every frame has three scores of these two maps: they are cheap and commonly compared.
USUAL_SCORED = ('entropy', 'mutual_information')
USUAL_KINDS = ('mean', 'top', 'worst_window')
TOP_SHARE = 0.05
WINDOW_SHARE = 0.15
# Least share of a window that counts: otherwise its mean would represent only a few pixels.
SMALLEST_KEPT = 0.5
# Width of a border between two classes, on each side.
BOUNDARY_PX = 2
# The id of the class that is not foreground.
BACKGROUND = 0
_NAN = float('nan')
_IMAGE, _CLASS = 'image.', 'class.<class>'


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
        'the baseline of every comparison; `select` ranks by it; used by the density, as a guard '
        '(energy), and for the colours of the heatmap',
        ('entropy', 'mutual_information', 'aleatoric', 'energy', 'least_confidence')),
    ScoreKind(
        '<map>.top', f'mean of the most uncertain {TOP_SHARE:.0%} of the pixels',
        'the worst pixels, wherever they lie',
        'a region below 5 % is diluted; many borders look like one unknown object',
        'guard of `pipeline`; used for the colours of the heatmap; `unknown`: a guard against '
        'single objects', (*USUAL_SCORED, 'unknown', 'least_confidence')),
    ScoreKind(
        '<map>.worst_window',
        f'largest mean of a square of {WINDOW_SHARE:.0%} of the shorter side',
        'a compact uncertain object in an otherwise certain image',
        'objects that are thin or smaller than the square', 'finds single objects',
        USUAL_SCORED),
    ScoreKind(
        '<map>.foreground_top',
        'mean of the most uncertain pixels, as many as there are foreground pixels (QFR)',
        'uncertain pixels, also beside objects, in proportion to the size of the objects',
        'an object that was labelled as background; 0 without foreground',
        'in the gate of `pipeline`', ('energy',)),
    ScoreKind(
        '<map>.class_mean', 'mean of the class means, each predicted class once (BCA)',
        'a rare class that is uncertain', 'a class that is not predicted; a small part of a large '
        'class. A further class that is certain lowers it',
        'margin: first in the gates of `pipeline` and `suim`; entropy: used by the density',
        ('entropy', 'margin')),
    ScoreKind(
        '<map>.interior', f'mean farther than {BOUNDARY_PX} px from any border of the mask',
        'uncertain areas, without the uncertainty of borders',
        'thin objects, which consist of border pixels', 'used by the density',
        ('mutual_information',)),
    ScoreKind(
        f'<map>.{_CLASS}', 'mean over the pixels predicted as one class',
        'an uncertain class, with its own threshold',
        'a class that was missed: the score is 0 if it is not predicted',
        'in the gate of `pipeline` (seabed, energy); entropy: in reports; entropy and mutual '
        'information: in the features of `score`',
        ('entropy', 'mutual_information', 'energy')),
    ScoreKind(
        'image.darkness', 'one minus the mean of the brightest channel',
        'night, a lamp that has failed', 'a dark half beside a bright one',
        'used by the density'),
    ScoreKind(
        'image.blur', 'lack of fine detail in the sharpest tenth of the blocks',
        'motion, defocus, a port that is dirty all over',
        'blur of a part of the image; noise looks like detail', 'used by the density'),
    ScoreKind(
        'image.low_contrast', 'lack of contrast in the tenth of the blocks with the most contrast',
        'turbid water, clouds of particles', 'turbid water around one object of high contrast',
        'used by the density'),
    ScoreKind(
        'image.specks', 'how far small bright spots outweigh small dark ones; 0.5 if they do not',
        'marine snow, sediment stirred up in front of a lamp, bubbles',
        'particles larger than a fiftieth of the height; bright pebbles raise it too',
        'used by the density'),
    ScoreKind(
        'image.haze', 'brightness of the veil: the least brightness in each neighbourhood',
        'scattered light', 'haze in the dark; bright sand looks like haze',
        'used by the density'),
    ScoreKind(
        'image.flat_color', 'lack of difference between colours', 'water that leaves one colour '
        'only',
        'a cast that shifts all colours alike', 'used by the density'),
    ScoreKind(
        'image.green_cast', 'mean colour between red and green, 0.5 is neutral',
        'coastal water, algae', 'a red cast, which lowers it', 'used by the density'),
    ScoreKind(
        'image.blue_cast', 'mean colour between yellow and blue, 0.5 is neutral',
        'open and deep water', 'a yellow cast, which lowers it', 'used by the density'),
    ScoreKind(
        KNN_SCORE, 'distance of the features to those of the fifth nearest training frame',
        'frames unlike all training frames', 'a small unknown object in a usual scene',
        'guards the gate of `suim`'),
    ScoreKind(
        DENSITY_SCORE, 'how rare the combination of several scores is, by a Gaussian mixture '
        'fitted on training frames',
        'unusual combinations of scores that are usual by themselves',
        'whether a rare frame is bad: an exceptionally clear image is rare, too',
        'guards the gates of `pipeline` and `suim`'),
)
# For each map, the endings of the names of its scores.
_KINDS: dict[str, tuple[str, ...]] = {
    of: tuple(kind.name.removeprefix('<map>.') for kind in SCORES if of in kind.maps)
    for of in dict.fromkeys(name for kind in SCORES for name in kind.maps)}
SCORED_MAPS = tuple(_KINDS)


def score_names() -> tuple[str, ...]:
    """Return the names of the six scores that every frame has, in a fixed order."""
    return tuple(f'{name}.{kind}' for name in USUAL_SCORED for kind in USUAL_KINDS)


def frame_scores(maps: UncertaintyMaps) -> dict[str, float]:
    """Return the scores of `score_names` of maps without padding; NaN for a map with any NaN."""
    windows = Windows.of(maps.entropy.shape)
    found: dict[str, float] = {}
    for name in USUAL_SCORED:
        values = getattr(maps, name)
        flat = kept_values(values)
        one = _MapScores(values, flat, value_sum(flat), None, windows)
        found |= {f'{name}.{kind}': value
                  for kind, value in one.compute(frozenset(USUAL_KINDS), ()).items()}
    return {name: found[name] for name in score_names()}


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


def top_means(flat: FloatMap, counts: Sequence[int]) -> list[float]:
    """
    Average the largest values of a float32 (n,), without sorting it, for several counts in 1..n.

    NaN if any value is NaN, or there is none.
    """
    if not flat.size or np.isnan(flat.max()):
        return [_NAN] * len(counts)
    return [value_sum(np.partition(flat, flat.size - count)[flat.size - count:]) / count
            for count in counts]


@dataclass(frozen=True)
class Windows:
    """
    The positions of the windows of a frame, for all of its maps.

    `side` is that of the square in pixels. `scale` (h - side + 1, w - side + 1) is one over the
    share of a window's pixels that count, 0 if too few do; None without an ignore mask.
    """

    side: int
    ignore: NDArray[np.bool_] | None
    scale: FloatMap | None

    @classmethod
    def of(
        cls, shape: tuple[int, ...], share: float = WINDOW_SHARE,
        ignore: NDArray[np.bool_] | None = None,
    ) -> Windows:
        """Return the windows of a frame (h, w), squares with this share of its shorter side."""
        side = max(1, round(share * min(shape)))
        if ignore is None:
            return cls(side, None, None)
        require_shape('ignore mask', ignore, shape, np.bool_)
        kept = _box_means((~ignore).view(np.uint8), side)
        # The margin for rounding errors is less than one pixel of a window.
        pixel = 1 / side**2
        least = max(min(SMALLEST_KEPT, float(kept.max())) - 0.25 * pixel, 0.5 * pixel)
        scale = (kept >= least) / np.maximum(kept, np.float32(least))
        return cls(side, ignore, scale)

    def worst(self, values: FloatMap) -> float:
        """
        Return the largest mean of a window of a map (h, w) of 0 or more.

        Means are over the pixels that count, of the windows of which at least half counts; if
        there is none, of those with the most. NaN if any pixel that counts is NaN, or none counts.
        """
        if self.ignore is None or self.scale is None:
            return float(_box_means(values, self.side).max())
        if not self.scale.any():
            return _NAN
        filled = cv2.copyTo(values, (~self.ignore).view(np.uint8))  # 0 elsewhere
        means = _box_means(np.asarray(filled, np.float32), self.side)
        means *= self.scale
        return float(means.max())


def _box_means(values: FloatMap | NDArray[np.uint8], side: int) -> FloatMap:
    """Return the mean of every square that lies inside the map."""
    # The running sums are float64: a NaN stays in all later sums, and max propagates it.
    boxes = cv2.boxFilter(
        np.ascontiguousarray(values), cv2.CV_32F, (side, side), anchor=(0, 0),
        borderType=cv2.BORDER_CONSTANT,
    )
    rows, columns = values.shape
    return np.asarray(boxes[: rows - side + 1, : columns - side + 1], np.float32)


def boundary_mask(
    label: LabelMap, width_px: int = BOUNDARY_PX, ignore: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """
    Return where in a mask (h, w) another class lies within `width_px` rows or columns.

    Ignored pixels do not make borders; the result is undefined there.
    """
    square = np.ones((2 * width_px + 1, 2 * width_px + 1), np.uint8)
    low, high = label, label
    if ignore is not None:
        require_shape('ignore mask', ignore, label.shape, np.bool_)
        # Ignored pixels are 0 for the maximum and 255 for the minimum.
        high = label * (~ignore).view(np.uint8)
        low = label | (ignore.view(np.uint8) * np.uint8(255))
    return np.asarray(cv2.dilate(high, square) != cv2.erode(low, square), np.bool_)


@dataclass(frozen=True)
class Parts:
    """
    The division of a frame's pixels into parts, for all of its maps.

    `index` (h * w,) is the part of each pixel: its class, plus C if it lies at a border, or 2 C if
    it is left out. `counts` (2, C) are the pixels inside and at the border of each class.
    """

    index: NDArray[np.intp]
    counts: NDArray[np.intp]

    @classmethod
    def of(
        cls, label: LabelMap, num_classes: int, ignore: NDArray[np.bool_] | None = None,
        border_px: int = BOUNDARY_PX,
    ) -> Parts:
        """
        Divide a frame by its predicted class ids (h, w), with borders of `border_px`.

        Raises ShapeError if an id is not below C, or the ignore mask is not of the map's size.
        """
        if label.size and int(label.max()) >= num_classes:
            raise ShapeError(f'class id {int(label.max())} in the mask',
                             f'less than {num_classes}')
        index = label.astype(np.intp)
        index += num_classes * boundary_mask(label, border_px, ignore)
        if ignore is not None:
            index[ignore] = 2 * num_classes
        counts = np.bincount(index.ravel(), minlength=2 * num_classes)[:2 * num_classes]
        return cls(index.ravel(), counts.reshape(2, num_classes))

    def num_foreground(self) -> int:
        """Return how many of the pixels that count are not background."""
        return int(self.counts.sum() - self.counts[:, BACKGROUND].sum())

    def scores(self, values: FloatMap) -> dict[str, float]:
        """
        Score a map (h, w) of the frame by class; all pixels that count must be finite.

        Returns 'class_mean' and 'interior', see `SCORES`, 0 if there is no such pixel, and the
        mean of each class by its id; all are NaN if no pixel counts.
        """
        of_class = self.counts.sum(0)
        if not of_class.any():
            names = ('class_mean', 'interior', *range(len(of_class)))
            return dict.fromkeys(map(str, names), _NAN)
        size = self.counts.size
        sums = np.bincount(self.index, values.ravel(), minlength=size)[:size].reshape(
            self.counts.shape)
        means = sums.sum(0) / np.maximum(of_class, 1)
        return {
            'class_mean': float(means[of_class > 0].mean()),
            'interior': float(sums[0].sum() / max(int(self.counts[0].sum()), 1)),
            **{str(index): float(mean) for index, mean in enumerate(means)},
        }


class ScoreVector:
    """
    Compute the scores of one frame after another.

    'density.scores' requires a `density`; 'features.knn' requires `features`, and maps that have
    features. The argument `names` are the scores to compute, None for all possible ones; the
    attribute has them in a fixed order, and `maps` are the maps that they use. Raises ConfigError
    if a name, or a score that the density uses, is not possible.
    """

    def __init__(
        self,
        card: ModelCard,
        density: ScoreDensity | None = None,
        names: Collection[str] | None = None,
        features: FeatureDensity | None = None,
    ) -> None:
        # Cached here so that no frame reads the model card.
        self._num_classes, self._color_order = card.num_classes, card.input.color_order
        self._class_keys = class_keys(card)
        # The width of a border at the grid of the maps.
        self._border_px = max(1, round(BOUNDARY_PX * card.grid.rows / card.grid.height))
        possible = self._possible(features is not None)
        _require_names(density.names if density else (), possible)
        if density:
            possible += (DENSITY_SCORE,)
        _require_names(possible if names is None else names, possible)
        self.names = tuple(name for name in possible if names is None or name in names)
        self._density = density if DENSITY_SCORE in self.names else None
        wanted = {*self.names, *(self._density.names if self._density else ())}
        self._needs_image = any(name.startswith(_IMAGE) for name in wanted)
        self._features = features if KNN_SCORE in wanted else None
        self._kinds = {
            map_name: frozenset(name.removeprefix(f'{map_name}.') for name in wanted
                                if name.startswith(f'{map_name}.'))
            for map_name in SCORED_MAPS
        }
        self.maps = frozenset(name for name, kinds in self._kinds.items() if kinds)
        of_parts = {'foreground_top', 'class_mean', 'interior', *self._class_keys}
        self._needs_windows = any('worst_window' in kinds for kinds in self._kinds.values())
        self._needs_parts = any(of_parts & kinds for kinds in self._kinds.values())

    def compute(
        self, maps: UncertaintyMaps, image: ImageU8, ignore: NDArray[np.bool_] | None = None
    ) -> dict[str, float]:
        """
        Score one frame, in the order of `names`, each in 0..1 and growing with uncertainty.

        `maps` (hg, wg) are at the grid or finer, `image` (h, w, 3) is what the network saw, and
        `ignore` is (h, w); all are cut to the image, without padding. A cell counts if the pixel
        at its centre does. NaN throughout if a cell that counts has no finite uncertainty, or none
        counts. Raises ShapeError if the maps are empty or the mask is not of the image's size.
        """
        size = maps.entropy.shape
        if maps.entropy.size == 0:
            raise ShapeError('maps without a cell', 'at least 1x1')
        require_shape('image', image, (None, None, 3), np.uint8)
        pixels = ignore
        if ignore is not None:
            require_shape('ignore mask', ignore, image.shape[:2], np.bool_)
            ignore = at_cells(ignore, *size)
        looked_at = [name for name, kinds in self._kinds.items() if kinds or name in USUAL_SCORED]
        kept = {name: kept_values(maps.of(name), ignore) for name in looked_at}
        sums = {name: value_sum(values) for name, values in kept.items()}
        if not all(np.isfinite(total) for total in sums.values()):
            return dict.fromkeys(self.names, _NAN)
        parts = Parts.of(maps.label, self._num_classes, ignore, self._border_px) \
            if self._needs_parts else None
        windows = Windows.of(size, ignore=ignore if self._needs_windows else None)
        found: dict[str, float] = {}
        for name in looked_at:
            one = _MapScores(maps.of(name), kept[name], sums[name], parts, windows)
            of_map = one.compute(self._kinds[name], self._class_keys)
            found |= {f'{name}.{kind}': value for kind, value in of_map.items()}
        if self._needs_image:
            of_image = image_scores(image, self._color_order, pixels)
            found |= {f'{_IMAGE}{name}': value for name, value in of_image.items()}
        if self._features:
            found[KNN_SCORE] = self._features.frame_score(maps, pixels)
        if self._density:
            found[DENSITY_SCORE] = self._density.score(found)
        return {name: found.get(name, _NAN) for name in self.names}

    def _possible(self, has_features: bool) -> tuple[str, ...]:
        of_maps = (
            f'{name}.{key}' for name, kinds in _KINDS.items() for kind in kinds
            for key in (self._class_keys if kind == _CLASS else (kind,)))
        of_image = (f'{_IMAGE}{name}' for name in IMAGE_SCORES)
        return (*of_maps, *of_image, *((KNN_SCORE,) if has_features else ()))


def _require_names(names: Collection[str], possible: Collection[str]) -> None:
    for name in names:
        if name not in possible:
            raise ConfigError(f'no score {name!r}', f'one of {", ".join(possible)}')


@dataclass(frozen=True)
class _MapScores:
    """One map of one frame: its pixels that count, all finite, their sum, parts and windows."""

    values: FloatMap
    kept: FloatMap
    total: float
    parts: Parts | None
    windows: Windows

    def compute(self, kinds: frozenset[str], keys: tuple[str, ...]) -> dict[str, float]:
        """Return the scores of these kinds; if one class is requested, those of all classes."""
        found = self._top(kinds)
        if 'mean' in kinds:
            found['mean'] = self.total / self.kept.size
        if 'worst_window' in kinds:
            found['worst_window'] = self.windows.worst(self.values)
        if self.parts is not None and kinds & {'class_mean', 'interior', *keys}:
            of_parts = self.parts.scores(self.values)
            found |= {**of_parts, **{key: of_parts[str(index)] for index, key in enumerate(keys)}}
        return found

    def _top(self, kinds: frozenset[str]) -> dict[str, float]:
        counts = {'top': max(1, round(TOP_SHARE * self.kept.size)),
                  'foreground_top': self.parts.num_foreground() if self.parts else 0}
        asked = [kind for kind in counts if kind in kinds]
        some = [kind for kind in asked if counts[kind]]
        means = top_means(self.kept, [counts[kind] for kind in some])
        return dict.fromkeys(asked, 0.0) | dict(zip(some, means, strict=True))
