# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which frames look alike: a vector and a hash of a frame, and near duplicates by the hash.

`frame_features` describes the image and the network's output. Of frames that look alike the first
in order stays and represents all that are closer to it than a distance. So no two remaining frames
are closer, and each removed frame is close to a remaining one; groups by chains of neighbours (a
slow pan) would not guarantee that.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.errors import ConfigError

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]

ROWS, COLUMNS = 4, 6
_DIRECTIONS, _COLORS = 3, 5
# Size for gradients and colours, to which an image of any size is averaged.
_HEIGHT, _WIDTH = 96, 144
# Squares sum to 1; the image counts as much as the network's output.
_WEIGHTS = np.sqrt([0.25, 0.15, 0.10, 0.30, 0.20])
# Constants in the norms of thumbnail and edges, so that noise on a uniform image becomes no
# direction: one relative to the thumbnail's values, one a mean gradient in grey values per pixel.
_GREY, _FLAT = 0.1, 1.0

# Random 64-bit hashes differ in 32 bits on average, and hardly ever in fewer than 12.
MAX_DISTANCE = 12


def num_features(num_classes: int) -> int:
    """Return the length of the vector for C classes."""
    return ROWS * COLUMNS * (3 + _DIRECTIONS) + _COLORS**2 + 5 * num_classes


def class_means(values: FloatMap, label: LabelMap, num_classes: int) -> list[float]:
    """Return the mean of a map (h, w) over each predicted class; NaN for one without pixels."""
    counts = np.bincount(label.ravel(), minlength=num_classes)
    sums = np.bincount(label.ravel(), values.ravel(), num_classes)
    return [float(total / count) if count else math.nan
            for total, count in zip(sums, counts, strict=True)]


def frame_features(
    image_bgr: ImageU8,
    shares: Sequence[float],
    entropies: Sequence[float],
    informations: Sequence[float],
) -> NDArray[np.float32]:
    """
    Describe a frame by five parts of unit length, each with a fixed weight.

    ====================  ===========  =======================================================
    part                  length       what it holds
    ====================  ===========  =======================================================
    thumbnail             4 x 6 x 3    Lab colours of the image, averaged over cells
    edges                 4 x 6 x 3    gradient magnitude along three directions, per cell
    colours               5 x 5        histogram of a and b of Lab
    classes               C            share of each class
    uncertainty           4 C          entropy and mutual information of each class
    ====================  ===========  =======================================================

    Histograms, shares and uncertainties enter by their square root, so that distances are
    Hellinger distances. Image size, JPEG quality, noise and small shifts change the vector little;
    mirroring, rotation or other light change it much.

    The image is uint8 (H, W, 3), from 1x1. `shares` (C,) are those of each class among the pixels
    of the mask, `entropies` and `informations` (C,) its mean entropy and mean mutual information,
    all 0..1; NaN counts as 1, the least certain. The vector (num_features(C),) has unit length:
    the dot product of two is their cosine.
    """
    small = cv2.resize(image_bgr, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_BGR2LAB)
    parts = (_thumbnail(lab), _edges(lab[..., 0]), _colors(lab),
             _roots(np.asarray(shares, np.float64)), _certainty(entropies, informations))
    vector = np.concatenate([w * part for w, part in zip(_WEIGHTS, parts, strict=True)])
    return (vector / _length(vector)).astype(np.float32)


def _length(vector: NDArray[np.float64]) -> np.float64:
    # Not np.linalg.norm, which calls BLAS: see uncertainty_seg.core.
    return np.sqrt(np.einsum('i,i->', vector, vector))


def _cells(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Average (h, w) or (h, w, n) over the cells of the grid, and flatten."""
    cells = cv2.resize(values, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)
    return np.asarray(cells, np.float64).ravel()


def _thumbnail(lab: ImageU8) -> NDArray[np.float64]:
    values = _cells(lab.astype(np.float32)) / 127.5 - 1
    padded = np.append(values, _GREY * np.sqrt(values.size))
    return values / _length(padded)


def _edges(light: NDArray[np.uint8]) -> NDArray[np.float64]:
    smooth = cv2.GaussianBlur(light, (0, 0), 1.5).astype(np.float32)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3, scale=1 / 8)
                    for order in ((1, 0), (0, 1)))
    size, angle = cv2.cartToPolar(across, down)
    # Soft bins of the unsigned direction: neighbouring bins share what lies between them.
    centres = np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    nearness = np.cos(angle[..., None] - centres) ** 2 * (2 / _DIRECTIONS)
    cells = _cells((size[..., None] * nearness).astype(np.float32))
    return np.sqrt(cells / (cells.sum() + _FLAT * ROWS * COLUMNS))


def _colors(lab: ImageU8) -> NDArray[np.float64]:
    """Return the histogram of a and b, each pixel shared among its four nearest bins."""
    # Bins are 16 grey values wide around neutral; stronger colours fall into the outer ones.
    at = np.clip((lab[..., 1:].reshape(-1, 2).astype(np.float64) - 128) / 16 + _COLORS // 2,
                 0, _COLORS - 1)
    low = np.minimum(at.astype(np.int64), _COLORS - 2)
    part = at - low
    found = np.zeros((_COLORS, _COLORS))
    for da in (0, 1):
        for db in (0, 1):
            weight = (np.abs(1 - da - part[:, 0])) * (np.abs(1 - db - part[:, 1]))
            index = (low[:, 0] + da) * _COLORS + low[:, 1] + db
            found += np.bincount(index, weight, _COLORS**2).reshape(_COLORS, _COLORS)
    return _roots(found.ravel())


def _certainty(*kinds: Sequence[float]) -> NDArray[np.float64]:
    values = np.nan_to_num(np.concatenate([np.asarray(kind, np.float64) for kind in kinds]),
                           nan=1.0)
    values = np.clip(values, 0, 1)
    # With its complement each value is a unit vector, so that normalisation keeps its size.
    return np.sqrt(np.concatenate([values, 1 - values]) / values.size)


def _roots(values: NDArray[np.float64]) -> NDArray[np.float64]:
    total = values.sum()
    return np.sqrt(values / total) if total > 0 else np.full(values.size, values.size**-0.5)


def bits_apart(one: Hashes, other: Hashes) -> NDArray[np.uint8]:
    """Return the Hamming distance of hashes, broadcast; 0 to 64 bits."""
    words = np.ascontiguousarray(np.bitwise_xor(one, other))
    # numpy 2 has bitwise_count; Humble has numpy 1.21.
    return np.asarray(np.bitwise_count(words) if hasattr(np, 'bitwise_count') else
                      np.unpackbits(words[..., None].view(np.uint8), axis=-1).sum(-1), np.uint8)


def stand_ins(
    hashes: Hashes, order: Rows, min_distance: int, most: int | None = None
) -> Rows:
    """
    Return for every frame the row that represents it, int64 (n,).

    For a row that stays this is the row itself, else the first in `order` (rows from the most to
    the least wanted) of the rows that stay and look alike. Frames look alike if their perceptual
    hashes, uint64 (n,), differ in fewer bits than `min_distance`: 0 joins none, 1 joins equal
    ones. The first `most` that stay are compared with all rows, the rest only with these.

    Raises ConfigError if the distance is not from 0 to `MAX_DISTANCE`.
    """
    if not 0 <= min_distance <= MAX_DISTANCE:
        raise ConfigError(f'a least distance of {min_distance} bits', f'0 to {MAX_DISTANCE}')
    owners = _greedy(np.asarray(hashes, np.uint64)[order], min_distance,
                     len(hashes) if most is None else most)
    result = np.empty(len(hashes), np.int64)
    result[order] = order[owners]
    return result


def _greedy(hashes: Hashes, min_distance: int, most: int) -> Rows:
    """Return for each place in the order the place of the frame that represents it."""
    # Each frame that stays is compared with all remaining ones, and removes those that look like
    # it. For frames of a dive no index of the hashes is faster.
    owners, left = np.arange(len(hashes)), np.arange(len(hashes))
    for _ in range(most):
        if not len(left):
            break
        row, one = left[0], hashes[0]
        left, hashes = left[1:], hashes[1:]
        near = bits_apart(one, hashes) < min_distance
        if near.any():
            owners[left[near]] = row
            left, hashes = left[~near], hashes[~near]
    return owners
