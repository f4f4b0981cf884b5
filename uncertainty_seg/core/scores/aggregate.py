# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From a map to a number a frame, by the values alone: where they lie is `region_scores`'.

A mean sees that the whole image is unsure and hides a small region; the mean of the top share
sees the region and ignores the rest. Each score is named ``<map>.<aggregate>``, grows
with uncertainty and, since the maps do, lies in 0..1.

Every function takes an optional ``ignore`` (h, w), True where a pixel is left out: a hull in
view, a vignette. NaN in a pixel that is left out does no harm; in any other it makes the score
NaN. A frame of which everything is left out has NaN for a score: nothing is known of it.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap, require_shape
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import ShapeError

# -------------------------------------------------------------------------------------------------
# Scores that depend on where in the image the uncertain pixels lie.
# The worst window sees a compact region that a mean dilutes. The largest region above a limit sees
# how far one thing reaches, whatever its form. Both take an ``ignore`` mask as `aggregate` does.

WINDOW_SHARE = 0.15
# A window that is mostly left out would stand for a few pixels.
SMALLEST_KEPT = 0.5
# Pixels on each side of a border between two classes that belong to it.
BOUNDARY_PX = 2
_NAN = float('nan')


def worst_window_score(
    values: FloatMap, share: float = WINDOW_SHARE, ignore: NDArray[np.bool_] | None = None
) -> float:
    """
    Find the square window with the largest mean.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map.
    share : float
        Side of the window as part of the shorter side.
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out.

    Returns
    -------
    float
        The largest mean over the pixels that count, of the windows of which at least half does;
        if there is none, of the fullest. NaN if any pixel that counts is NaN, or none counts. Its
        cost does not depend on the window.

    """
    return Windows.of(values.shape, share, ignore).worst(values)


@dataclass(frozen=True)
class Windows:
    """
    Where the windows of a frame lie, for any map of it.

    Attributes
    ----------
    side : int
        Of the square, in pixels.
    ignore : ndarray of bool, shape (h, w), or None
        True where a pixel is left out.
    scale : ndarray of float32, shape (h - side + 1, w - side + 1), or None
        One over the share of the window's pixels that count; 0 where too few do.

    """

    side: int
    ignore: NDArray[np.bool_] | None
    scale: FloatMap | None

    @classmethod
    def of(
        cls, shape: tuple[int, ...], share: float = WINDOW_SHARE,
        ignore: NDArray[np.bool_] | None = None,
    ) -> Windows:
        """Lay the windows over a frame (h, w); see `worst_window_score`."""
        side = max(1, round(share * min(shape)))
        if ignore is None:
            return cls(side, None, None)
        require_shape('ignore mask', ignore, shape, np.bool_)
        kept = _box_means((~ignore).view(np.uint8), side)
        # Rounding is less than one pixel of a window.
        pixel = 1 / side**2
        least = max(min(SMALLEST_KEPT, float(kept.max())) - 0.25 * pixel, 0.5 * pixel)
        scale = (kept >= least) / np.maximum(kept, np.float32(least))
        return cls(side, ignore, scale)

    def worst(self, values: FloatMap) -> float:
        """Return the largest mean of a window of a map (h, w) of 0 or more."""
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
    # Running sums in float64: a NaN stays in all that follow, and max passes it on.
    boxes = cv2.boxFilter(
        np.ascontiguousarray(values), cv2.CV_32F, (side, side), anchor=(0, 0),
        borderType=cv2.BORDER_CONSTANT,
    )
    rows, columns = values.shape
    return np.asarray(boxes[: rows - side + 1, : columns - side + 1], np.float32)


def largest_region_score(
    values: FloatMap, limit: float, ignore: NDArray[np.bool_] | None = None
) -> float:
    """
    Measure the largest connected region above a limit.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map.
    limit : float
        A pixel belongs to a region if it lies above.
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out; it connects nothing.

    Returns
    -------
    float
        Its share of the pixels that count, corners connect; NaN if any of these is NaN, or none
        counts.

    """
    above, unknown = values > np.float32(limit), np.isnan(values)
    num_kept = values.size
    if ignore is not None:
        require_shape('ignore mask', ignore, values.shape, np.bool_)
        above &= ~ignore
        unknown &= ~ignore
        num_kept -= int(np.count_nonzero(ignore))
    if not num_kept or unknown.any():
        return _NAN
    _, region = cv2.connectedComponents(above.view(np.uint8), connectivity=8)
    sizes = np.bincount(region[above])
    return int(sizes.max()) / num_kept if len(sizes) else 0.0


def boundary_mask(
    label: LabelMap, width_px: int = BOUNDARY_PX, ignore: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """
    Mark the pixels near a border between two classes.

    Parameters
    ----------
    label : ndarray of uint8, shape (h, w)
        Class ids.
    width_px : int
        How far from the border, at least 1.
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out: its class makes no border. What is returned there says
        nothing.

    Returns
    -------
    ndarray of bool, shape (h, w)
        True where another class lies within `width_px` rows or columns.

    """
    square = np.ones((2 * width_px + 1, 2 * width_px + 1), np.uint8)
    low, high = label, label
    if ignore is not None:
        require_shape('ignore mask', ignore, label.shape, np.bool_)
        # Highest where the least is looked for, lowest where the most is.
        high = label * (~ignore).view(np.uint8)
        low = label | (ignore.view(np.uint8) * np.uint8(255))
    return np.asarray(cv2.dilate(high, square) != cv2.erode(low, square), np.bool_)


# -------------------------------------------------------------------------------------------------
# Scores of a map by the classes of the mask: each class, foreground, borders and insides.
# A mean over the image is a mean over its largest class. Here every class that occurs counts by
# itself, and their equal-weight mean gives a rare one its weight. One pass over the pixels sums
# all of it, and the same counts serve every map of a frame.
# A class that does not occur has no uncertainty: its score is 0, not NaN, since other scores judge
# the frame. So none of these sees a thing that the network missed altogether.


@dataclass(frozen=True)
class Parts:
    """
    How the pixels of a frame are divided, for any map of it.

    Attributes
    ----------
    starts : ndarray of int, shape (r,)
        Where each run of pixels of one part begins, row after row.
    index : ndarray of int, shape (r,)
        Part of each run: its class, plus C if it lies at a border, or 2 C if left out.
    counts : ndarray of int, shape (2, C)
        Pixels inside and at the border of each class.

    """

    starts: NDArray[np.intp]
    index: NDArray[np.intp]
    counts: NDArray[np.intp]

    @classmethod
    def of(
        cls, label: LabelMap, num_classes: int, ignore: NDArray[np.bool_] | None = None
    ) -> Parts:
        """
        Divide a frame.

        Raises ShapeError if a class id is not below C, or the mask is not of the map's size.

        Parameters
        ----------
        label : ndarray of uint8, shape (h, w)
            Predicted class ids.
        num_classes : int
            C.
        ignore : ndarray of bool, shape (h, w), optional
            True where a pixel is left out.

        Returns
        -------
        Parts
            Of all pixels that count.

        """
        if label.size and int(label.max()) >= num_classes:
            raise ShapeError(f'class id {int(label.max())} in the mask',
                             f'less than {num_classes}')
        # In bytes as long as they last.
        kind = np.uint8 if num_classes <= 127 else np.uint16
        index = label.astype(kind)
        index += boundary_mask(label, ignore=ignore).view(np.uint8) * kind(num_classes)
        if ignore is not None:
            np.copyto(index, kind(2 * num_classes), where=ignore)
        # Neighbours are mostly of one part: a map is summed by runs, and these by parts.
        flat = index.ravel()
        starts = np.flatnonzero(np.concatenate([flat[:1] == flat[:1], flat[1:] != flat[:-1]]))
        of_run = flat[starts].astype(np.intp)
        lengths = np.diff(starts, append=flat.size)
        counts = _sums_of(of_run, lengths, 2 * num_classes).astype(np.intp)
        return cls(starts, of_run, counts.reshape(2, num_classes))

    @property
    def num_kept(self) -> int:
        """Pixels that count."""
        return int(self.counts.sum())

    def foreground_share(self, background: int = 0) -> float:
        """Return the share of the pixels that count that are of another class."""
        return 1 - int(self.counts[:, background].sum()) / max(self.num_kept, 1)

    def sums(self, values: FloatMap) -> NDArray[np.float64]:
        """Sum a map (h, w) over the inside and the border of each class, (2, C)."""
        if not values.size:
            return np.zeros(self.counts.shape)
        runs = np.add.reduceat(values.ravel(), self.starts, dtype=np.float64)
        return _sums_of(self.index, runs, self.counts.size).reshape(self.counts.shape)


def _sums_of(
    index: NDArray[np.intp], values: NDArray[np.generic], size: int
) -> NDArray[np.float64]:
    """Sum values by their index, as far as it is below a size."""
    return np.asarray(np.bincount(index, values, minlength=size)[:size], np.float64)


def class_scores(
    values: FloatMap, parts: Parts, background: int = 0
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """
    Score a map by class.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map of the frame that was divided.
    parts : Parts
        Its division.
    background : int
        The class that is not foreground.

    Returns
    -------
    scores : dict of str to float
        'foreground': mean over the foreground. 'class_mean': mean of the class means, each class
        that occurs once. 'boundary' and 'interior': mean near and away from borders. 0 where there
        is no such pixel.
    by_class : ndarray of float64, shape (C,)
        Mean of each class, 0 where it does not occur. All of it is NaN if any pixel that counts
        is, or none counts.

    """
    sums = parts.sums(values)
    if not parts.num_kept or np.isnan(sums).any():
        nan = np.full(sums.shape[1], np.nan)
        return dict.fromkeys(('foreground', 'class_mean', 'boundary', 'interior'), np.nan), nan
    of_class = parts.counts.sum(0)
    by_class = sums.sum(0) / np.maximum(of_class, 1)
    is_front = np.arange(len(by_class)) != background
    scores = {
        'foreground': _ratio(sums[:, is_front], parts.counts[:, is_front]),
        'class_mean': float(by_class[of_class > 0].mean()),
        'boundary': _ratio(sums[1], parts.counts[1]),
        'interior': _ratio(sums[0], parts.counts[0]),
    }
    return scores, by_class


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.intp]) -> float:
    return float(sums.sum() / max(int(counts.sum()), 1))


# Of these the usual six are; the others are scored where somebody asks.
USUAL_SCORED = ('entropy', 'mutual_information')
SCORED_MAPS = (*USUAL_SCORED, 'aleatoric', 'least_confidence', 'margin', 'unknown', 'energy',
               'max_logit')
TOP_SHARE = 0.05
QUANTILE = 0.95
# Pixels, for bounds of the largest; it changes no result. A divisor of the width would see a few
# columns only.
_SAMPLED_EVERY = 61

Ignore = NDArray[np.bool_] | None


def kept_values(values: FloatMap, ignore: Ignore = None) -> FloatMap:
    """
    Return the pixels that count, as one line (n,).

    Raises ShapeError if the mask is not of the map's size.
    """
    if ignore is None:
        return values.ravel()
    require_shape('ignore mask', ignore, values.shape, np.bool_)
    return values[~ignore]


def value_sum(flat: FloatMap) -> float:
    """Add the values of a line in float64; not finite if one is not, NaN if there is none."""
    # Several times as fast as numpy, which converts first.
    return float(cv2.sumElems(flat.reshape(1, -1))[0]) if flat.size else float('nan')


def mean_score(values: FloatMap, ignore: Ignore = None) -> float:
    """Return the mean of the pixels that count; NaN if any is NaN, or none counts."""
    kept = kept_values(values, ignore)
    return value_sum(kept) / kept.size if kept.size else float('nan')


def sum_score(values: FloatMap, ignore: Ignore = None) -> float:
    """Return the sum over the pixels that count, as a share of the pixels of the frame."""
    kept = kept_values(values, ignore)
    return value_sum(kept) / values.size if kept.size else float('nan')


def max_score(values: FloatMap, ignore: Ignore = None) -> float:
    """Return the largest value that counts; NaN if any is NaN, or none counts."""
    kept = kept_values(values, ignore)
    return float(kept.max()) if kept.size else float('nan')


def quantile_score(values: FloatMap, share: float = QUANTILE, ignore: Ignore = None) -> float:
    """
    Find the value that a share of the pixels does not exceed.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map.
    share : float
        In (0, 1].
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out.

    Returns
    -------
    float
        A value of the map, the smallest of its top; NaN if any pixel that counts is NaN.

    """
    kept = kept_values(values, ignore)
    return top_values(kept, [top_count(round(1 - share, 9), kept.size)])[0][1]


def top_score(values: FloatMap, share: float = TOP_SHARE, ignore: Ignore = None) -> float:
    """
    Average the most uncertain pixels.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map.
    share : float
        Part of the pixels that counts, in (0, 1].
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out.

    Returns
    -------
    float
        Their mean, NaN if any pixel that counts is NaN.

    """
    kept = kept_values(values, ignore)
    return top_values(kept, [top_count(share, kept.size)])[0][0]


def foreground_top_score(values: FloatMap, share: float, ignore: Ignore = None) -> float:
    """Average as many of the top pixels as the share of foreground says; 0 if there is none."""
    kept = kept_values(values, ignore)
    count = round(share * kept.size)
    if count < 1:
        return 0.0 * max_score(values, ignore)
    return top_values(kept, [count])[0][0]


def area_above_score(values: FloatMap, limit: float, ignore: Ignore = None) -> float:
    """Return the share of the pixels that count that lie above a limit; NaN if any is NaN."""
    kept = kept_values(values, ignore)
    if not kept.size or np.isnan(kept.max()):
        return float('nan')
    return int(np.count_nonzero(kept > np.float32(limit))) / kept.size


def top_count(share: float, size: int) -> int:
    """Return how many of `size` pixels are a share, at least 1."""
    return max(1, round(share * size))


def top_values(flat: FloatMap, counts: Sequence[int]) -> list[tuple[float, float]]:
    """
    Average the largest values of a float32 (n,) without sorting it, for several counts in 1..n.

    Returns for each count the mean of so many largest, and the smallest of these; NaN if any value
    is NaN, or there is none.
    """
    if not flat.size or np.isnan(flat.max()):
        return [(float('nan'), float('nan'))] * len(counts)
    sample = np.sort(flat[::_SAMPLED_EVERY])
    return [_top(flat, count, sample) for count in counts]


def _top(flat: FloatMap, count: int, sample: FloatMap) -> tuple[float, float]:
    """Return mean and smallest of the `count` largest values, by bounds from a sorted sample."""
    # Only what lies between the bounds is selected from (Floyd and Rivest, 1975); if the sample
    # was not like the whole, all of it is.
    place, margin = sample.size - count / flat.size * sample.size, 2 * sample.size**0.5
    low = sample[max(0, int(place - margin))]
    high = sample[min(sample.size - 1, int(place + margin))]
    upper = flat[flat >= low]
    is_above = upper > high
    largest, between = upper[is_above], upper[~is_above]
    if not largest.size < count <= upper.size:
        largest, between = flat[:0], flat
    wanted = count - largest.size
    rest = np.partition(between, between.size - wanted)[between.size - wanted:]
    total = value_sum(rest) + (value_sum(largest) if largest.size else 0.0)
    return total / count, float(rest[0])


_AGGREGATES: dict[str, Callable[[FloatMap], float]] = {
    'mean': mean_score,
    'top': top_score,
    'worst_window': worst_window_score,
}


def score_names() -> tuple[str, ...]:
    """Return the names of the six scores that every frame has, in a fixed order."""
    return tuple(f'{name}.{aggregate}' for name in USUAL_SCORED for aggregate in _AGGREGATES)


def frame_scores(maps: UncertaintyMaps) -> dict[str, float]:
    """
    Compute the scores that need only the maps, which are cut to the image, without padding.

    They are in the order of `score_names`; NaN where a map holds one. Raises ShapeError if the
    maps are empty.
    """
    if maps.entropy.size == 0:
        raise ShapeError('maps without a pixel', 'at least 1x1')
    return {
        f'{name}.{aggregate}': function(getattr(maps, name))
        for name in USUAL_SCORED
        for aggregate, function in _AGGREGATES.items()
    }
