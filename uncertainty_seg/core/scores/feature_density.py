# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How far the features of a frame lie from those of the training frames.

What a network was never shown may get a sure answer, and its features lie apart all the same. A
frame is compared by the mean and standard deviation of each channel: with its k-th nearest
training frame, and with a Gaussian of the frames that are mostly of its class. Every place of a
frame is compared with a Gaussian of the places of its class. Directions are compared and not
lengths: bland and turbid pictures have short features, which would pass for ordinary ones.
`analysis.feature_fit` fits the parameters.

References
----------
Nearest neighbours: Sun et al., 2022, arXiv:2204.06507. Class-conditional Gaussians: Lee et al.,
2018, arXiv:1807.03888; of unit vectors: Mueller and Hein, 2025, arXiv:2505.18032. Shrinkage:
Ledoit and Wolf, 2004, doi:10.1016/S0047-259X(03)00096-4.

"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap, require_shape
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import CalibrationError

KNN_SCORE, GAUSSIAN_SCORE = 'features.knn', 'features.gaussian'
FEATURE_SCORES = (KNN_SCORE, GAUSSIAN_SCORE)
# A class of fewer frames is held against all frames: so few say little of a mean.
FEWEST_FRAMES = 20
# Where the mean of a squared distance is 1, this puts an ordinary one near 0.06, and leaves room.
_POWER = 4
# Of the mean variance: what shrinkage leaves at least, so that no direction has none.
_FLOOR = 1e-6
_FIX = 'calibrate the bundle again'

Vectors = NDArray[np.float64]
_Floats = TypeVar('_Floats', FloatMap, Vectors)


@dataclass(frozen=True)
class FeatureDensity:
    """
    The features of the training frames, and what is compared with them.

    Raises CalibrationError if arrays do not fit together or are not finite, the frames do not
    differ, or there are no more of them than neighbours.

    Attributes
    ----------
    bank : ndarray of float16, shape (n, 2 D)
        `pooled` of each training frame, times any factor of its own: its direction counts.
    classes : ndarray of uint8, shape (n,)
        The class that most of its pixels were predicted to be.
    weights : ndarray of float32, shape (D, q)
        Makes the features of a place, of length 1 and less `centre`, q numbers that vary by 1 in
        each class.
    centre : ndarray of float32, shape (D,)
        Mean of the features of all places, each of length 1.
    means : ndarray of float32, shape (C, q)
        Of these numbers, of each class.
    neighbours : int
        k, at least 1.

    """

    bank: NDArray[np.float16]
    classes: NDArray[np.uint8]
    weights: NDArray[np.float32]
    centre: NDArray[np.float32]
    means: NDArray[np.float32]
    neighbours: int = 5

    def __post_init__(self) -> None:
        """Refuse what gives no distance."""
        frames, size = self.bank.shape if self.bank.ndim == 2 else (0, 0)
        reduced, num_classes = self.weights.shape[-1:], self.means.shape[:1]
        wanted = {'bank': (frames, size // 2 * 2), 'classes': (frames,),
                  'weights': (size // 2, *reduced), 'centre': (size // 2,),
                  'means': (*num_classes, *reduced)}
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array.shape != shape or not array.size or not np.isfinite(array).all():
                raise CalibrationError(f'features with {name} of shape {array.shape}',
                                       f'{shape}, all finite', _FIX)
        if not 1 <= self.neighbours < frames:
            raise CalibrationError(f'the features of {frames} training frames for '
                                   f'{self.neighbours} neighbours', 'more frames than neighbours',
                                   'take more training frames')
        if not (self.bank != self.bank[:1]).any():
            raise CalibrationError(f'the features of all {frames} training frames are equal',
                                   'frames that differ', 'compile with other --features')

    def scores(self, vector: Vectors, frame_class: int) -> dict[str, float]:
        """
        Return how far a frame lies from the training frames.

        Parameters
        ----------
        vector : ndarray of float64, shape (2 D,)
            Its `pooled` features.
        frame_class : int
            The class that most of its pixels are predicted to be.

        Returns
        -------
        dict of str to float
            'features.knn': (1 - cosine) / 2 to the k-th nearest.
            'features.gaussian': from the squared Mahalanobis distance. Both in 0..1 and growing;
            NaN if a feature is not finite.

        """
        if not np.isfinite(vector).all():
            return dict.fromkeys(FEATURE_SCORES, float('nan'))
        frames, unit = self._frames, unit_rows(vector)
        nearest = np.partition(-(frames.units @ unit), self.neighbours - 1)[self.neighbours - 1]
        offset = (unit - frames.centre) / frames.scale - frames.class_means[frame_class]
        squared = ((offset @ frames.factor) ** 2).mean()
        return {KNN_SCORE: min(max((1 + float(nearest)) / 2, 0.0), 1.0),
                GAUSSIAN_SCORE: float(to_unit(squared))}

    def frame_scores(
        self, maps: UncertaintyMaps, ignore: NDArray[np.bool_] | None = None
    ) -> dict[str, float]:
        """
        Return `scores` of a frame, without the pixels that an `ignore` (h, w) leaves out.

        Raises ShapeError if the maps have no features, or other channels than the training frames.
        """
        features = self._features_of(maps)
        return self.scores(pooled(features, ignore), dominant(maps.label, ignore))

    def held_out_scores(self) -> dict[str, Vectors]:
        """Return the scores (n,) of each training frame against all the others."""
        frames = self._frames
        cosines = frames.units @ frames.units.T
        np.fill_diagonal(cosines, -np.inf)
        nearest = np.sort(cosines, 1)[:, -self.neighbours]
        squared = frames.left_out(self.classes) / frames.standard.shape[1]
        return {KNN_SCORE: np.clip((1 - nearest) / 2, 0, 1), GAUSSIAN_SCORE: to_unit(squared)}

    def distance_map(self, features: FloatMap, label: LabelMap) -> FloatMap:
        """
        Return how far each place lies from the places of its class.

        Parameters
        ----------
        features : ndarray of float32, shape (1, D, hf, wf)
            Of the frame.
        label : ndarray of uint8, shape (h, w)
            Predicted class ids.

        Returns
        -------
        ndarray of float32, shape (h, w)
            In 0..1, growing, NaN where a feature is not finite; upsampled from (hf, wf).

        """
        channels, rows, columns = features.shape[1:]
        places = features[0].reshape(channels, -1).T  # (D, hf, wf) -> (hf wf, D)
        with np.errstate(all='ignore'):
            offsets = (unit_rows(places) - self.centre) @ self.weights
            offsets -= self.means[at_cells(label, rows, columns).ravel()]
            unit = to_unit((offsets**2).mean(1, dtype=np.float64)).reshape(rows, columns)
        # Not at the top: the help of a command, which knows bundles, must not load OpenCV.
        import cv2

        return np.asarray(cv2.resize(unit.astype(np.float32), label.shape[::-1],
                                     interpolation=cv2.INTER_LINEAR))

    def described(self, maps: UncertaintyMaps) -> UncertaintyMaps:
        """
        Return the maps with `feature_distance`.

        Raises ShapeError if they have no features, or other channels than the training frames.
        """
        features = self._features_of(maps)
        return maps.with_features(features, self.distance_map(features, maps.label))

    def _features_of(self, maps: UncertaintyMaps) -> FloatMap:
        features = np.empty(0, np.float32) if maps.features is None else maps.features
        require_shape('features', features, (1, len(self.centre), None, None), np.float32)
        return features

    @cached_property
    def _frames(self) -> _Frames:
        return _Frames.of(self.bank.astype(np.float64), self.classes)


@dataclass(frozen=True)
class _Frames:
    """
    What follows from the bank: frames of length 1, these standardised, and the Gaussians.

    Attributes
    ----------
    units : ndarray of float64, shape (n, d)
        Frames of length 1.
    centre, scale : ndarray of float64, shape (d,)
        Mean and standard deviation of these.
    standard : ndarray of float64, shape (n, d)
        Frames less `centre` over `scale`.
    class_means : ndarray of float64, shape (256, d)
        Of the standardised frames; where a class has few, the mean of all, which is 0.
    counts : ndarray of int, shape (256,)
        How many frames each of these is a mean of.
    ridge : float
        What shrinkage adds to every variance.
    share : float
        What it leaves of the covariance.
    factor : ndarray of float64, shape (d, d)
        covariance^-1 = factor @ factor.T.

    """

    units: Vectors
    centre: Vectors
    scale: Vectors
    standard: Vectors
    class_means: Vectors
    counts: NDArray[np.intp]
    ridge: float
    share: float
    factor: Vectors

    @classmethod
    def of(cls, bank: Vectors, classes: NDArray[np.uint8]) -> _Frames:
        units = unit_rows(bank)
        centre, scale = units.mean(0), units.std(0)
        # A channel that never moves must not be divided by nothing.
        scale = np.where(scale > 1e-9, scale, 1.0)
        standard = (units - centre) / scale
        means, counts = np.zeros((256, bank.shape[1])), np.full(256, len(bank))
        for index in np.flatnonzero(np.bincount(classes) >= FEWEST_FRAMES):
            of_class = standard[classes == index]
            means[index], counts[index] = of_class.mean(0), len(of_class)
        share, ridge, covariance = shrunk(standard - means[classes])
        return cls(units, centre, scale, standard, means, counts, ridge, share,
                   whitening(covariance))

    def left_out(self, classes: NDArray[np.uint8]) -> Vectors:
        """
        Return each frame's squared distance (n,) from a mean and covariance without it.

        One rank is taken out of the covariance by the formula of Sherman and Morrison; what
        shrinkage adds stays.
        """
        offsets = self.standard - self.class_means[classes]
        count = len(offsets)
        grown = self.counts[classes] / np.maximum(self.counts[classes] - 1, 1)
        base = self.share * offsets.T @ offsets / max(count - 1, 1)
        base.flat[::len(base) + 1] += self.ridge
        inside = ((offsets @ whitening(base)) ** 2).sum(1)
        taken = self.share * grown / max(count - 1, 1) * inside
        return np.asarray(grown**2 * inside / np.maximum(1 - taken, 1e-9))


def shrunk(offsets: Vectors) -> tuple[float, float, Vectors]:
    """
    Estimate a covariance, drawn towards a multiple of the unit matrix as far as its noise says.

    Parameters
    ----------
    offsets : ndarray of float64, shape (n, d)
        Values less their means.

    Returns
    -------
    share, ridge : float
        The estimate is share times the sample covariance plus ridge times the unit matrix.
    covariance : ndarray of float64, shape (d, d)
        That estimate, not singular.

    Raises
    ------
    CalibrationError
        If the values do not vary at all.

    References
    ----------
    Ledoit and Wolf, 2004, doi:10.1016/S0047-259X(03)00096-4.

    """
    count, size = offsets.shape
    sample = offsets.T @ offsets / count
    mean = float(np.trace(sample)) / size
    if not mean > 0:
        raise CalibrationError('features that do not vary within a class', 'a covariance',
                               'take more training frames, or compile with other --features')
    spread = float((sample**2).sum()) - size * mean**2
    noise = (float(((offsets**2).T @ offsets**2).sum()) / count - float((sample**2).sum())) / count
    drawn = min(noise / spread, 1.0) if spread > 0 else 1.0
    ridge = mean * max(drawn, _FLOOR)
    covariance = (1 - drawn) * sample
    covariance.flat[::size + 1] += ridge
    return 1 - drawn, ridge, covariance


def whitening(covariance: Vectors) -> Vectors:
    """
    Return an F (d, d) with covariance^-1 = F @ F.T.

    Raises CalibrationError if the covariance is singular.
    """
    try:
        lower = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as err:
        raise CalibrationError('the covariance of the features is singular', 'one that is not',
                               'take more training frames') from err
    return np.asarray(np.linalg.inv(lower).T)


def pooled(features: FloatMap, ignore: NDArray[np.bool_] | None = None) -> Vectors:
    """
    Return the mean and the standard deviation of each channel over the places that count.

    Parameters
    ----------
    features : ndarray of float32, shape (1, D, hf, wf)
        Of a frame.
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out; a place counts if the pixel at its centre does.

    Returns
    -------
    ndarray of float64, shape (2 D,)
        NaN if no place counts, or where a feature is not finite.

    """
    places = features[0].reshape(features.shape[1], -1).astype(np.float64)
    if ignore is not None:
        places = places[:, ~at_cells(ignore, *features.shape[-2:]).ravel().astype(np.bool_)]
    if not places.size:
        return np.full(2 * len(places), np.nan)
    with np.errstate(all='ignore'):
        return np.concatenate([places.mean(1), places.std(1)])


def at_cells(values: NDArray[np.generic], rows: int, columns: int) -> NDArray[np.generic]:
    """Return what lies at the centres of (rows, columns) cells of a map (h, w)."""
    height, width = values.shape
    down, right = ((np.arange(count) + 0.5) * size / count
                   for count, size in ((rows, height), (columns, width)))
    return values[down.astype(np.intp)[:, None], right.astype(np.intp)]


def dominant(label: LabelMap, ignore: NDArray[np.bool_] | None = None) -> int:
    """Return the class of most pixels of a mask (h, w) that count; the lowest of equals."""
    counted = label if ignore is None else label[~ignore]
    return int(np.bincount(counted.ravel(), minlength=1).argmax())


def to_unit(squared: Vectors) -> Vectors:
    """Map squared distances, 1 on average, to 0..1, growing; NaN and infinity to NaN."""
    return np.asarray((squared / (1 + squared)) ** _POWER)


def unit_rows(vectors: _Floats) -> _Floats:
    """
    Return vectors (..., d) of length 1; a zero stays, at a right angle to all.

    One that is too long to be squared is NaN: over an infinite length it would be a zero.
    """
    lengths = np.sqrt((vectors**2).sum(-1, keepdims=True))
    lengths[lengths == 0], lengths[np.isinf(lengths)] = 1, np.nan
    return np.asarray(vectors / lengths, vectors.dtype)
