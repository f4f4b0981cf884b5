# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How unusual a frame is: by a few of its scores together, and by the features of the network.

`ScoreDensity`: each score may have a common value while the combination never occurs: a picture
that is flat and green, a confident mask with many borders. A Gaussian mixture over the scores
detects this. `FeatureDensity`: a network may be confident about something that is not in its
training images, although its features differ. A frame is compared with its k-th nearest training
frame, by the mean and standard deviation of each channel. Directions are compared, not lengths:
plain and turbid pictures have short features, which would count as ordinary.

Both measure whether a frame is unusual, not whether it is bad: a frame clearer than all training
frames is unusual, too. The subpackage `calibration` fits both; they are evaluated here.

References
----------
Nearest neighbours: Sun et al., 2022, arXiv:2204.06507.

"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass
from functools import cached_property
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, require_shape
from uncertainty_seg.core.grid import at_cells, cells, Grid
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import CalibrationError

DENSITY_SCORE = 'density.scores'
KNN_SCORE = 'features.knn'
_FIX = 'calibrate the bundle again'
# Standardised scores are clipped to this: larger values carry no more information.
_FARTHEST = 1e6
# A gate takes the largest ratio of score to threshold. Ordinary frames must be far below the
# threshold of this score: otherwise it affects their order, about which it has no information.
POWER = 8

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreDensity:
    """
    A Gaussian mixture of K components over d standardised scores.

    A score is standardised as (value - centre) / scale, both (d,). `weights` (K,) sum to 1,
    `means` are (K, d). `factors` (K, d, d) are upper triangular, with covariance^-1 =
    factor @ factor.T: scikit-learn's ``precisions_cholesky_``.
    """

    names: tuple[str, ...]
    centre: Vectors
    scale: Vectors
    weights: Vectors
    means: Vectors
    factors: Vectors

    def __post_init__(self) -> None:
        """Raise CalibrationError for parameters that define no density."""
        size, parts = len(self.names), len(self.weights)
        wanted = {'centre': (size,), 'scale': (size,), 'weights': (parts,),
                  'means': (parts, size), 'factors': (parts, size, size)}
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array.shape != shape or not size * parts or not np.isfinite(array).all():
                raise CalibrationError(f'density has {name} of shape {array.shape}',
                                       f'{shape}, all finite', _FIX)
        diagonals = np.diagonal(self.factors, axis1=1, axis2=2)
        is_sound = (self.scale > 0).all() and (self.weights > 0).all() and (diagonals > 0).all()
        if not is_sound or abs(self.weights.sum() - 1) > 1e-6 or np.tril(self.factors, -1).any():
            raise CalibrationError('density with a scale, weight or factor out of range',
                                   'positive ones, weights that sum to 1', _FIX)

    def surprise_nats(self, scores: Mapping[str, float]) -> float:
        """
        Return the negative log likelihood of a frame's standardised scores, in nats.

        Raises CalibrationError if a score is missing.
        """
        missing = [name for name in self.names if name not in scores]
        if missing:
            raise CalibrationError(f'no score {missing[0]!r} for the density',
                                   ', '.join(self.names), _FIX)
        values = np.array([scores[name] for name in self.names], np.float64)
        if not np.isfinite(values).all():
            return float('nan')
        standard = np.clip((values - self.centre) / self.scale, -_FARTHEST, _FARTHEST)
        whitened = np.einsum('ki,kij->kj', standard - self.means, self.factors)
        return -_log_sum(self._log_peaks() - 0.5 * (whitened**2).sum(1))

    def score(self, scores: Mapping[str, float]) -> float:
        """
        Return how unusual a frame is, 0..1; NaN if a score is not finite.

        It is (s / (s + d / 2)) ** 8, where s is the surprise above its lower bound, that of all
        components at their peak at once. For one Gaussian the mean of s is d / 2, so an ordinary
        frame is near 0.004, and one with twice that s near 0.04.
        """
        above = self.surprise_nats(scores) + _log_sum(self._log_peaks())
        if math.isnan(above):
            return above
        above = max(above, 0.0)
        return float((above / (above + len(self.names) / 2)) ** POWER)

    def to_facts(self) -> dict[str, object]:
        """Return the parameters as plain lists, for `from_facts`."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: list(v) if k == 'names' else v.tolist() for k, v in facts.items()}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> ScoreDensity:
        """Build a density from plain lists; CalibrationError if they define none."""
        arrays = {k: np.array(v, np.float64) for k, v in facts.items() if k != 'names'}
        return cls(tuple(str(name) for name in facts['names']), **arrays)

    def _log_peaks(self) -> Vectors:
        """Return the logarithm of each component's weight times its peak density, (K,)."""
        diagonals = np.diagonal(self.factors, axis1=1, axis2=2)
        volume = np.log(diagonals).sum(1) - 0.5 * len(self.names) * math.log(2 * math.pi)
        return np.asarray(np.log(self.weights) + volume)


def _log_sum(values: Vectors) -> float:
    highest = float(values.max())
    return highest + math.log(float(np.exp(values - highest).sum()))


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
    neighbours: int = 5

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
