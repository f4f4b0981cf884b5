# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How unusual a frame is, by the features of the network.

A network may be confident about something that is not in its training images, although its
features differ. A frame is compared with its k-th nearest training frame, by the mean and standard
deviation of each channel. Directions are compared, not lengths: plain and turbid pictures have
short features, which would count as ordinary.

This measures whether a frame is unusual, not whether it is bad: a frame clearer than all training
frames is unusual, too. The subpackage `calibration` fits the density; it is evaluated here.

References
----------
Nearest neighbours: Sun et al., 2022, arXiv:2204.06507.

"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, require_shape
from uncertainty_seg.core.grid import at_cells, cells, Grid
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import CalibrationError

KNN_SCORE = 'features.knn'
_FIX = 'calibrate the bundle again'

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureDensity:
    """
    The features of the training frames, with which a frame is compared.

    `bank` (n, 2 D) is `pooled` of each training frame, each row at any scale, since only its
    direction counts. `neighbours` is k, at least 1. `centre` (D,) is the mean of all training
    patches, and `axes` (D, K) are directions in which patches vary little, each divided by the
    standard deviation along it. Raises CalibrationError if an array is no such matrix of finite
    numbers, the frames do not differ, or there are no more of them than neighbours.
    """

    bank: NDArray[np.float16]
    centre: FloatMap
    axes: FloatMap
    neighbours: int = 1

    def __post_init__(self) -> None:
        """Raise CalibrationError for arrays that define no distance."""
        frames, size = self.bank.shape if self.bank.ndim == 2 else (0, 1)
        if size % 2 or not self.bank.size or not np.isfinite(self.bank).all():
            raise CalibrationError(f'features with a bank of shape {self.bank.shape}',
                                   'an even number of columns, all finite', _FIX)
        if not 1 <= self.neighbours < frames:
            raise CalibrationError(f'the features of {frames} training frames for '
                                   f'{self.neighbours} neighbours', 'more frames than neighbours',
                                   'take more training frames')
        if not (self.bank != self.bank[:1]).any():
            raise CalibrationError(f'the features of all {frames} training frames are equal',
                                   'frames that differ', 'compile with features of another layer')
        shapes, channels = (self.centre.shape, self.axes.shape), self.num_channels
        is_finite = np.isfinite(self.centre).all() and np.isfinite(self.axes).all()
        if shapes != ((channels,), (channels, self.axes.size // channels)) \
                or not self.axes.size or not is_finite:
            raise CalibrationError(f'features with a centre and axes of the shapes {shapes}',
                                   f'({channels},) and ({channels}, K), all finite', _FIX)

    @property
    def num_channels(self) -> int:
        """Return D."""
        return self.bank.shape[1] // 2

    @cached_property
    def units(self) -> Vectors:
        """Return the bank's rows (n, 2 D), of length 1."""
        return unit_rows(self.bank.astype(np.float64))

    def score(self, vector: Vectors) -> float:
        """
        Return (1 - cosine) / 2 of `pooled` features (2 D,) to the k-th nearest training frame.

        It lies in 0..1 and grows; NaN if a feature is not finite.
        """
        cosines = np.einsum('ni,i->n', self.units, unit_rows(vector))
        if not np.isfinite(cosines).all():
            return float('nan')
        nearest = -float(np.partition(-cosines, self.neighbours - 1)[self.neighbours - 1])
        return min(max((1 - nearest) / 2, 0.0), 1.0)

    def frame_score(
        self, maps: UncertaintyMaps, ignore: NDArray[np.bool_] | None = None
    ) -> float:
        """
        Return the `score` of a frame, without the pixels of an `ignore` mask (h, w).

        Raises ShapeError if the maps have no features, or other channels than the training frames.
        """
        features = np.empty(0, np.float32) if maps.features is None else maps.features
        require_shape('features', features, (1, self.num_channels, None, None), np.float32)
        return self.score(pooled(features, ignore))

    def strangeness(
        self, features: FloatMap, grid: Grid, rows: slice, columns: slice
    ) -> FloatMap:
        """
        Return the squared distance of patches from the centre along the axes, at a grid.

        It is the mean over the axes and over 3 x 3 patches, 1 on average over the training images;
        NaN where one of these is not finite.
        The features are (1, D, hf, wf); the image lies in `rows` and `columns` of the network's
        input, and padding gets the nearest value of the image. Raises ShapeError if the number of
        channels is not that of the training frames.
        """
        require_shape('features', features, (1, self.num_channels, None, None), np.float32)
        down, across = features.shape[2:]
        inside = cells(rows, grid.height, down), cells(columns, grid.width, across)
        places = features[0, :, inside[0], inside[1]] - self.centre[:, None, None]
        along = np.einsum('dk,dhw->khw', self.axes, places)
        height, width = along.shape[1:]
        padded = np.pad((along * along).mean(0), 1, 'edge')
        near = np.mean([padded[i:i + height, j:j + width] for i, j in np.ndindex(3, 3)], 0)
        whole = np.pad(near, [(one.start, size - one.stop)
                              for one, size in zip(inside, (down, across), strict=True)], 'edge')
        return np.asarray(Grid(down, across, grid.rows, grid.columns).spread(whole), np.float32)


def pooled(features: FloatMap, ignore: NDArray[np.bool_] | None = None) -> Vectors:
    """
    Return mean and standard deviation of each channel of features (1, D, hf, wf), float64 (2 D,).

    With an `ignore` mask (h, w) a cell counts if the pixel at its centre does. NaN if no cell
    counts, or where a feature is not finite.
    """
    places = patches_of(features, ignore)
    if not places.size:
        return np.full(2 * len(places), np.nan)
    with np.errstate(all='ignore'):
        return np.concatenate([places.mean(1), places.std(1)])


def patches_of(features: FloatMap, ignore: NDArray[np.bool_] | None = None) -> Vectors:
    """Return the cells of features that count, see `pooled`, as float64 (D, n)."""
    places = features[0].reshape(features.shape[1], -1).astype(np.float64)
    if ignore is not None:
        places = places[:, ~at_cells(ignore, *features.shape[-2:]).ravel()]
    return places


def unit_rows(vectors: Vectors) -> Vectors:
    """
    Scale vectors (..., d) to length 1; a zero vector stays zero, orthogonal to all.

    A vector whose square overflows becomes NaN: divided by an infinite length it would be zero.
    """
    lengths = np.sqrt((vectors**2).sum(-1, keepdims=True))
    lengths[lengths == 0], lengths[np.isinf(lengths)] = 1, np.nan
    return np.asarray(vectors / lengths, vectors.dtype)
