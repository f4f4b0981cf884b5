# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Signs of damage in an image, which a network accepts: what a lens cannot produce.

In a sample of the decoded image: rows that repeat, a step between two rows across the whole
picture, rows that alternate, a half that occurs twice, channels that do not match. Each statistic
grows with the damage and has one upper limit. Some limits hold for any camera; the others are set
by the frames of the calibration, with a margin, and are off without a calibration. Damage that is
as smooth as a photograph is not detected: a tear between two similar frames, rows that are shifted
a little each, red and blue swapped in a nearly grey picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8, require_shape
from uncertainty_seg.errors import CalibrationError, ImageError

Bytes = NDArray[np.uint8]

# Samples on each row and column, or a few more; every row and every column is sampled.
SAMPLES = 48
# Grey levels by which a step of a seam exceeds the sum of both neighbouring steps.
SEAM_LEVELS = 8
# Lines with fewer points than this, after the ignore mask, have no seam.
FEWEST_POINTS = SAMPLES // 4
# A displaced half of the picture has a seam all across, while the edge of a pipe ends: of the six
# parts of a row or column so many must have two such points, or else their share of the line must
# be `WIDE_SEAM`; `LEAST_SEAM` is needed in any case. Tears lie along rows, as sensors are read.
SEAM_PARTS, PARTS_OF_ROW, PARTS_OF_COLUMN, PART_POINTS = 6, 4, 5, 2
WIDE_SEAM, LEAST_SEAM = 0.55, 0.1
# Grey levels of black, and the largest share of a bar of a letterbox, whose two bars agree to
# within two lines.
BLACK, WIDEST_BAR = 2, 0.16
# A picture is rolled if it has a seam and its ends match at this share of their points.
JOINED = 0.7
# Size of the picture in which the colours of neighbours are compared.
COARSE_COLUMNS, COARSE_ROWS = 16, 48
# Differences of fewer grey levels may be noise or rounding.
NOISE = 6.0
# Difference of the channels, as a share of their level, at which `colourless` is 0.5.
GREY_CHROMA = 0.01
# These hold for any camera: noise has a comb of 1, a wide picture in a 4:3 frame bars of 0.125.
FIXED_LIMITS: Mapping[str, float] = {
    'still_rows': 0.16, 'still_columns': 0.16, 'row_comb': 1.15, 'column_comb': 1.15,
    'repeated_half': 1.8, 'rolled': 0.17,
}
_ONE = np.uint8(1)
_FIX = ('check the camera, its cable and its driver; if its images always look like this, '
        'calibrate the bundle on them, exclude the region by ignore_mask, or raise damage_scale')


@dataclass(frozen=True)
class ImageStatistics:
    """Signs of damage; each grows with it, and is 0 if it cannot be measured."""

    # Longest run of lines that equal the line before, as a share of all: a part that is black,
    # grey, or repeats one line.
    still_rows: float
    still_columns: float
    # Largest share of the points of a line at which the step to the next line exceeds the sum of
    # the steps before and after it by `SEAM_LEVELS`, if the line has such points all across: a
    # tear, a rolled buffer, a border.
    row_seam: float
    column_seam: float
    # Differences to the next line over those to the one after it: 1 for noise, less for a
    # picture, more if lines alternate between two pictures.
    row_comb: float
    column_comb: float
    # Differences of rows an eighth of the height apart over those between upper and lower half:
    # large if the halves are the fields of one picture.
    repeated_half: float
    # Largest share of a seam, even if not all across, in a picture whose first line (or column)
    # continues its last one.
    rolled: float
    # One minus the correlation of coarse vertical steps of blue and green, or of green and red,
    # whichever is less: channels that are shifted, or not colours at all.
    channel_mismatch: float
    # 1 where a channel has the same value everywhere.
    stuck_channel: float
    # Ratio of the means, which reveals swapped channels in a coloured picture.
    red_over_blue: float
    # 1 for a grey picture; small for a colourful one.
    colourless: float
    # Mismatch of neighbouring bytes inside a pixel over that across pixels; above 1 if pixels do
    # not start at every third byte.
    byte_shift: float
    # Number of lowest bits that are equal in all samples: values that were shifted.
    dead_bits: float


STATISTICS = tuple(field.name for field in fields(ImageStatistics))
_WORDS = {
    'still_rows': 'a run of {:.0%} of the rows repeats one row',
    'still_columns': 'a run of {:.0%} of the columns repeats one column',
    'row_seam': 'two rows differ abruptly over {:.0%} of the width',
    'column_seam': 'two columns differ abruptly over {:.0%} of the height',
    'row_comb': 'rows alternate: neighbours differ {:.2f} times as much as every second',
    'column_comb': 'columns alternate: neighbours differ {:.2f} times as much as every second',
    'repeated_half': 'the lower half repeats the upper: rows in between differ {:.1f} times as '
    'much',
    'rolled': 'it is rolled: opposite borders match, and {:.0%} of a line inside does not',
    'channel_mismatch': 'the colour channels do not match: mismatch {:.2f}',
    'stuck_channel': 'a colour channel has one value everywhere: stillness {:.3f}',
    'red_over_blue': 'red is {:.2f} times blue, as if they were swapped',
    'colourless': 'the colour is missing: greyness {:.2f}',
    'byte_shift': 'pixels seem to start at a wrong byte: mismatch {:.1f}',
    'dead_bits': 'the lowest {:.0f} bits of every value are the same',
}


@dataclass(frozen=True)
class KeptPoints:
    """The points of four samples: 255 if an ignore mask keeps them, otherwise 0."""

    rows: Bytes
    columns: Bytes
    wide: Bytes
    coarse: Bytes

    @classmethod
    def of(cls, ignore: NDArray[np.bool_], height: int, width: int) -> KeptPoints:
        """Stretch a mask, bool of any shape, to images of this size; True is left out."""
        shown = np.where(ignore, np.uint8(0), np.uint8(255))
        kept = np.asarray(cv2.resize(shown, (width, height), interpolation=cv2.INTER_NEAREST),
                          np.uint8)
        lines, across = _sampled(height), _sampled(width)
        return cls(np.ascontiguousarray(kept[:, across]), _turned(kept[lines]), kept[lines][::8],
                   _coarse(kept))


def image_statistics(image_bgr: ImageU8, kept: KeptPoints | None = None) -> ImageStatistics:
    """
    Measure the signs of damage in a BGR image (H, W, 3) at full size: shrinking hides many.

    `kept` are the points to use, for an image of this size. Below 16x16 all statistics are 0.
    Raises ShapeError if it is not a BGR image of bytes.
    """
    require_shape('image', image_bgr, (None, None, 3), np.uint8)
    height, width = image_bgr.shape[:2]
    if min(height, width) < 16:
        return ImageStatistics(*(0.0 for _ in STATISTICS))
    image = np.ascontiguousarray(image_bgr)
    wide = image[_sampled(height)]
    # Green alone: the channels of a picture have their edges in the same places.
    rows = np.ascontiguousarray(image[:, _sampled(width), 1])
    columns = _turned(np.asarray(cv2.extractChannel(wide, 1), np.uint8))
    kept_rows, kept_columns, kept_wide, kept_coarse = (None,) * 4 if kept is None else (
        kept.rows, kept.columns, kept.wide, kept.coarse)
    still_rows, row_seam, row_comb, row_roll = _lines(rows, kept_rows, PARTS_OF_ROW)
    still_columns, column_seam, column_comb, column_roll = _lines(
        columns, kept_columns, PARTS_OF_COLUMN)
    return ImageStatistics(
        still_rows, still_columns, row_seam, column_seam, row_comb, column_comb,
        _repeated_half(rows, kept_rows), max(row_roll, column_roll), *_colours(image, kept_coarse),
        _byte_shift(wide[::8], kept_wide), _dead_bits(rows))


def damage(
    statistics: ImageStatistics, limits: Mapping[str, float], scale: float = 1.0
) -> str:
    """
    Return the damage of an image in one sentence; empty if there is none.

    `limits` by name are those of the calibration, or `FIXED_LIMITS`; `scale` is a factor on each.
    """
    if not scale > 0:
        return ''
    for name, limit in limits.items():
        value = getattr(statistics, name)
        if value > limit * scale:
            words = _WORDS[name]
            unit = '.0%' if '%' in words else '.2f'
            return str(ImageError(f'the image is damaged: {words.format(value)}',
                                  f'at most {limit * scale:{unit}}', _FIX))
    return ''


def require_limits(limits: Mapping[str, float]) -> None:
    """Raise CalibrationError if limits are of unknown statistics, or not finite and above 0."""
    wrong = [name for name, limit in limits.items()
             if name not in STATISTICS or not 0 < limit < float('inf')]
    if wrong:
        raise CalibrationError(f'damage limits of {wrong} are unknown or out of range',
                               'limits above 0 of the statistics of an image',
                               'calibrate the bundle again')


def _sampled(length: int) -> slice:
    """Return about `SAMPLES` positions along a side."""
    every = max(1, length // SAMPLES)
    return slice(every // 2, None, every)


def _turned(lines: NDArray[np.uint8]) -> Bytes:
    return np.asarray(cv2.transpose(lines), np.uint8)


def _steps(lines: Bytes, kept: Bytes | None, lag: int) -> tuple[Bytes, Bytes | None]:
    """Return absolute differences to a later line, 0 if left out, and which of them were kept."""
    steps = np.asarray(cv2.absdiff(lines[lag:], lines[:-lag]), np.uint8)
    if kept is None:
        return steps, None
    both = kept[lag:] & kept[:-lag]
    return steps & both, both


def _sums(values: Bytes) -> NDArray[np.int32]:
    return np.asarray(cv2.reduce(values, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S), np.int32).ravel()


def _mean(steps: Bytes, kept: Bytes | None, total: float) -> float:
    count = steps.size if kept is None else int(np.count_nonzero(kept))
    return total / max(count, 1)


def _lines(
    lines: Bytes, kept: Bytes | None, num_parts: int
) -> tuple[float, float, float, float]:
    """Return the still run, the seam, the comb and the roll of lines, uint8 (n, m)."""
    steps, both = _steps(lines, kept, 1)
    sums = _sums(steps)
    second, second_both = _steps(lines, kept, 2)
    first_mean = _mean(steps, both, float(sums.sum()))
    second_mean = _mean(second, second_both, cv2.norm(second, cv2.NORM_L1))
    # A quarter of a grey level accounts for rounding.
    comb = (first_mean + 0.25) / (second_mean + 0.25)
    still = sums == 0
    if both is not None:
        still &= _sums(both & _ONE) > 0
    bar = _bar(lines)
    inner, shown = slice(bar, len(steps) - bar), slice(bar, len(lines) - bar)
    seam, anywhere = _seam(steps[inner], None if both is None else both[inner], num_parts)
    is_rolled = anywhere > LEAST_SEAM and _are_ends_joined(
        lines[shown], steps[inner], None if kept is None else kept[shown])
    return _longest(still) / len(still), seam, comb, anywhere if is_rolled else 0.0


def _bar(lines: Bytes) -> int:
    """Return the width of a letterbox's bars in lines, with one blurred line; 0 without bars."""
    shown = np.flatnonzero(_sums(lines) > BLACK * lines.shape[1])
    ends = (int(shown[0]), len(lines) - 1 - int(shown[-1])) if shown.size else (0, 0)
    is_box = 0 < max(ends) <= WIDEST_BAR * len(lines) and abs(ends[0] - ends[1]) <= 2
    return max(ends) + 1 if is_box else 0


def _longest(marks: NDArray[np.bool_]) -> int:
    if not marks.any():
        return 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marks, [False]])))
    return int((edges[1::2] - edges[::2]).max())


def _are_ends_joined(lines: Bytes, steps: Bytes, kept: Bytes | None) -> bool:
    """Return whether the first line continues the last one, as in a rolled picture."""
    near = np.maximum(steps[0], steps[-1])
    joined = cv2.absdiff(lines[:1], lines[-1:])[0] <= near.astype(np.int16) + 2
    if kept is not None:
        joined = joined[(kept[0] & kept[-1]) > 0]
    # Two black bars are equal too, but have no noise.
    return (len(joined) >= FEWEST_POINTS and float(joined.mean()) >= JOINED
            and min(float(steps[0].mean()), float(steps[-1].mean())) >= 0.5)


def _seam(steps: Bytes, both: Bytes | None, num_parts: int) -> tuple[float, float]:
    """Return the largest share of a seam across `num_parts` parts, and of any seam."""
    over = np.asarray(cv2.subtract(steps[1:-1], cv2.add(steps[:-2], steps[2:])), np.uint8)
    is_over = (over > SEAM_LEVELS).view(np.uint8)
    kept = None if both is None else both[1:-1] & both[:-2] & both[2:] & _ONE
    if kept is None:
        shares = _sums(is_over) / steps.shape[1]
    else:
        is_over, counts = is_over & kept, _sums(kept)
        shares = np.where(counts >= FEWEST_POINTS, _sums(is_over) / np.maximum(counts, 1), 0)
    high = np.flatnonzero(shares > LEAST_SEAM)
    left = np.ones_like(is_over[high]) if kept is None else kept[high]
    is_across = _count_parts(is_over[high], left) >= num_parts
    across = shares[high][is_across | (shares[high] >= WIDE_SEAM)]
    return float(across.max(initial=0)), float(shares.max(initial=0))


def _count_parts(is_over: Bytes, kept: Bytes) -> NDArray[np.intp]:
    """Count the parts of lines (n, m) that have a step or are left out."""
    parts = np.arange(SEAM_PARTS) * kept.shape[1] // SEAM_PARTS
    over, left = (np.add.reduceat(points, parts, 1, dtype=np.int32) for points in (is_over, kept))
    return np.asarray(((over >= PART_POINTS) | (left < PART_POINTS)).sum(1), np.intp)


def _repeated_half(rows: Bytes, kept: Bytes | None) -> float:
    half, eighth = len(rows) // 2, len(rows) // 8
    means = [_mean(steps, both, cv2.norm(steps, cv2.NORM_L1)) for steps, both in
             (_steps(rows, kept, eighth), _steps(rows, kept, len(rows) - half))]
    return means[0] / (means[1] + 0.5)


def _colours(image: ImageU8, kept: Bytes | None) -> tuple[float, float, float, float]:
    """Return channel mismatch, stillness of a channel, red over blue, and greyness."""
    coarse = _coarse(image)
    levels = coarse.astype(np.float64)
    steps = (levels[1:] - levels[:-1]).reshape(-1, 3)
    levels = levels.reshape(-1, 3)
    if kept is not None:
        whole = kept == 255
        steps = steps * (whole[1:] & whole[:-1]).reshape(-1, 1)
        levels = levels[whole.ravel()]
        if not len(levels):
            return 0.0, 0.0, 0.0, 0.0
    # Mean squares, and products between channels.
    products = (np.einsum('ni,nj->ij', steps, steps) / len(steps) + NOISE**2).tolist()
    (blue, blue_green, _), (_, green, green_red), (_, _, red) = products
    mismatch = 1 - min(blue_green / (blue * green) ** 0.5, green_red / (green * red) ** 0.5)
    stillness = 1 / (1 + min(blue, green, red) - NOISE**2)
    b, g, r = levels.mean(0).tolist()
    apart = float(np.abs(levels[:, ::2] - levels[:, 1:2]).sum()) / len(levels)
    chroma = apart / ((b + g + r) / 3 + NOISE)
    greyness = GREY_CHROMA / (chroma + GREY_CHROMA)
    return mismatch, stillness, (r + NOISE) / (b + NOISE), greyness


def _coarse(image: Bytes) -> Bytes:
    """Average 2x2 samples of a picture."""
    size = COARSE_COLUMNS, COARSE_ROWS
    twice = cv2.resize(image, (2 * size[0], 2 * size[1]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.resize(twice, size, interpolation=cv2.INTER_AREA), np.uint8)


def _byte_shift(wide: Bytes, kept: Bytes | None) -> float:
    rows = wide.reshape(len(wide), -1)
    steps = np.asarray(cv2.absdiff(rows[:, 3:], rows[:, :-3]), np.uint8)
    if kept is not None:
        steps &= np.repeat(kept[:, 1:] & kept[:, :-1], 3, axis=1)
    unlike = cv2.absdiff(steps[:, 1:], steps[:, :-1])
    sums = np.asarray(cv2.reduce(unlike, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)).ravel()
    # The last bytes are not a whole pixel's; half a grey level accounts for rounding.
    blue_green, green_red, across = sums[: len(sums) // 3 * 3].reshape(-1, 3).sum(0).tolist()
    rounding = unlike.size / 6
    return float((max(blue_green, green_red) + rounding) / (across + rounding))


def _dead_bits(rows: Bytes) -> float:
    words = rows.ravel()[: rows.size // 8 * 8].view(np.uint64)
    changing = np.bitwise_or.reduce(words) ^ np.bitwise_and.reduce(words)
    bits = int(np.bitwise_or.reduce(np.array([changing], np.uint64).view(np.uint8)))
    return float(8 if not bits else (bits & -bits).bit_length() - 1)
