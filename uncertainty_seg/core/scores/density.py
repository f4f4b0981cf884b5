# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How unusual a frame is: by a few of its scores together, and by the features of the network.

`ScoreDensity`: each score may have a value that is seen every day while the two together never
are: a picture that is flat and green, a mask that is sure and has many borders. A Gaussian mixture
over the scores tells. `FeatureDensity`: what a network was never shown may get a sure answer, and
its features lie apart all the same. A frame is compared by the mean and standard deviation of each
channel: with its k-th nearest training frame, and with a Gaussian of the frames that are mostly of
its class. Directions are compared and not lengths: bland and turbid pictures have short features,
which would pass for ordinary ones.

Both measure whether a frame is unusual, not whether it is bad: a frame that is clearer than all
training frames is unusual too. Both are fitted in the room `calibration`, and evaluated here.

References
----------
Nearest neighbours: Sun et al., 2022, arXiv:2204.06507. Class-conditional Gaussians: Lee et al.,
2018, arXiv:1807.03888; of unit vectors: Mueller and Hein, 2025, arXiv:2505.18032. Shrinkage:
Ledoit and Wolf, 2004, doi:10.1016/S0047-259X(03)00096-4.

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

from uncertainty_seg.core.arrays import FloatMap, LabelMap, require_shape
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import CalibrationError

DENSITY_SCORE = 'density.scores'
# Few, since a mixture of many dimensions fits its own frames only; each smooth, since one that
# is 0 on most frames (a region, a rare class) has no density there.
DENSITY_INPUTS = (
    'entropy.mean', 'entropy.class_mean', 'mutual_information.mean',
    'mutual_information.interior', 'image.darkness', 'image.blur', 'image.low_contrast',
    'image.specks', 'image.haze', 'image.flat_color', 'image.green_cast', 'image.blue_cast',
)
KNN_SCORE, GAUSSIAN_SCORE = 'features.knn', 'features.gaussian'
FEATURE_SCORES = (KNN_SCORE, GAUSSIAN_SCORE)
_FIX = 'calibrate the bundle again'
# Beyond this distance the square of a score carries no more information.
_FARTHEST = 1e6
# A gate takes the largest score over threshold. Ordinary frames must be far below the threshold of
# these scores, or they decide their order too, about which they carry no information.
POWER, _FEATURE_POWER = 8, 4
# A class of fewer frames is held against all frames: so few say little of a mean.
FEWEST_FRAMES = 20
# Of the mean variance: what shrinkage leaves at least, so that no direction has none.
_FLOOR = 1e-6

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreDensity:
    """
    A Gaussian mixture over d standardised scores.

    Attributes
    ----------
    names : tuple of str, length d
        Scores it looks at.
    centre, scale : ndarray of float64, shape (d,)
        A score is standardised as (value - centre) / scale.
    weights : ndarray of float64, shape (K,)
        Of the components; their sum is 1.
    means : ndarray of float64, shape (K, d)
        Of the components.
    factors : ndarray of float64, shape (K, d, d)
        Upper triangular, with covariance^-1 = factor @ factor.T: what scikit-learn names
        ``precisions_cholesky_``.

    """

    names: tuple[str, ...]
    centre: Vectors
    scale: Vectors
    weights: Vectors
    means: Vectors
    factors: Vectors

    def __post_init__(self) -> None:
        """Refuse parameters that give no density."""
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
        # (K, 1, d) @ (K, d, d) -> (K, d)
        whitened = ((standard - self.means)[:, None] @ self.factors)[:, 0]
        return -_log_sum(self._log_peaks() - 0.5 * (whitened**2).sum(1))

    def score(self, scores: Mapping[str, float]) -> float:
        """
        Return how unusual a frame is, in 0..1, growing; NaN if a score is not finite.

        With s the surprise above the least that any frame could have (all components at their peak
        at once), it is (s / (s + d / 2)) ** 8. For one Gaussian the mean of s is d / 2, so that an
        ordinary frame is near 0.004, and one as far again near 0.04.
        """
        above = self.surprise_nats(scores) + _log_sum(self._log_peaks())
        if math.isnan(above):
            return above
        above = max(above, 0.0)
        return float((above / (above + len(self.names) / 2)) ** POWER)

    def to_facts(self) -> dict[str, object]:
        """Return what `from_facts` reads, as plain lists."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: list(v) if k == 'names' else v.tolist() for k, v in facts.items()}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> ScoreDensity:
        """Build a density from plain lists; CalibrationError if they give none."""
        arrays = {k: np.array(v, np.float64) for k, v in facts.items() if k != 'names'}
        return cls(tuple(str(name) for name in facts['names']), **arrays)

    def _log_peaks(self) -> Vectors:
        """Return the logarithm of weight times density at its mean, (K,)."""
        diagonals = np.diagonal(self.factors, axis1=1, axis2=2)
        volume = np.log(diagonals).sum(1) - 0.5 * len(self.names) * math.log(2 * math.pi)
        return np.asarray(np.log(self.weights) + volume)


def _log_sum(values: Vectors) -> float:
    highest = float(values.max())
    return highest + math.log(float(np.exp(values - highest).sum()))


@dataclass(frozen=True)
class FeatureDensity:
    """
    The features of the training frames, which a frame is compared with.

    Raises CalibrationError if arrays do not fit together or are not finite, the frames do not
    differ, or there are no more of them than neighbours.

    Attributes
    ----------
    bank : ndarray of float16, shape (n, 2 D)
        `pooled` of each training frame, times any factor of its own: its direction counts.
    classes : ndarray of uint8, shape (n,)
        The class that most of its pixels were predicted to be.
    neighbours : int
        k, at least 1.

    """

    bank: NDArray[np.float16]
    classes: NDArray[np.uint8]
    neighbours: int = 5

    def __post_init__(self) -> None:
        """Refuse what gives no distance."""
        frames, size = self.bank.shape if self.bank.ndim == 2 else (0, 0)
        for name, shape in (('bank', (frames, size // 2 * 2)), ('classes', (frames,))):
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
                                   'frames that differ', 'compile with features of another layer')

    @property
    def num_channels(self) -> int:
        """D."""
        return self.bank.shape[1] // 2

    def scores(self, vector: Vectors, frame_class: int) -> dict[str, float]:
        """
        Return 'features.knn' and 'features.gaussian' of a frame, both in 0..1 and growing.

        `vector` is its `pooled` features (2 D,), `frame_class` the class that most of its pixels
        are predicted to be. The first is (1 - cosine) / 2 to the k-th nearest training frame, the
        second follows from the squared Mahalanobis distance. NaN if a feature is not finite.
        """
        if not np.isfinite(vector).all():
            return dict.fromkeys(FEATURE_SCORES, float('nan'))
        frames, unit = self._frames, unit_rows(vector)
        nearest = np.partition(-(frames.units @ unit), self.neighbours - 1)[self.neighbours - 1]
        offset = (unit - frames.centre) / frames.scale - frames.class_means[frame_class]
        squared = ((offset @ frames.factor) ** 2).mean()
        return {KNN_SCORE: min(max((1 + float(nearest)) / 2, 0.0), 1.0),
                GAUSSIAN_SCORE: float(_to_unit(squared))}

    def frame_scores(
        self, maps: UncertaintyMaps, ignore: NDArray[np.bool_] | None = None
    ) -> dict[str, float]:
        """
        Return `scores` of a frame, without the pixels that an `ignore` (h, w) leaves out.

        Raises ShapeError if the maps have no features, or other channels than the training frames.
        """
        features = np.empty(0, np.float32) if maps.features is None else maps.features
        require_shape('features', features, (1, self.num_channels, None, None), np.float32)
        return self.scores(pooled(features, ignore), dominant(maps.label, ignore))

    def held_out_scores(self) -> dict[str, Vectors]:
        """Return the scores (n,) of each training frame against all the others."""
        frames = self._frames
        cosines = frames.units @ frames.units.T
        np.fill_diagonal(cosines, -np.inf)
        nearest = np.sort(cosines, 1)[:, -self.neighbours]
        squared = frames.left_out(self.classes) / frames.standard.shape[1]
        return {KNN_SCORE: np.clip((1 - nearest) / 2, 0, 1), GAUSSIAN_SCORE: _to_unit(squared)}

    @cached_property
    def _frames(self) -> _Frames:
        return _Frames.of(self.bank.astype(np.float64), self.classes)


@dataclass(frozen=True)
class _Frames:
    """What follows from the bank: frames of length 1, these standardised, and the Gaussians."""

    units: Vectors  # (n, d), frames of length 1
    centre: Vectors  # (d,), their mean
    scale: Vectors  # (d,), their standard deviation
    standard: Vectors  # (n, d), frames less centre over scale
    class_means: Vectors  # (256, d), of these; 0, the mean of all, where a class has few
    counts: NDArray[np.intp]  # (256,), how many frames each of these is a mean of
    ridge: float  # what shrinkage adds to every variance
    share: float  # what it leaves of the covariance
    factor: Vectors  # (d, d), covariance^-1 = factor @ factor.T

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
        """Return each frame's squared distance (n,) from a mean and covariance without it."""
        # One rank is taken out of the covariance by the formula of Sherman and Morrison; what
        # shrinkage adds stays.
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
    Estimate a covariance (d, d), drawn towards a multiple of the unit matrix by its noise.

    `offsets` (n, d) are values less their means. Returns share and ridge, of which the estimate is
    share times the sample covariance plus ridge times the unit matrix, and that estimate, which is
    not singular. Raises CalibrationError if the values do not vary at all.
    """
    count, size = offsets.shape
    sample = offsets.T @ offsets / count
    mean = float(np.trace(sample)) / size
    if not mean > 0:
        raise CalibrationError('features that do not vary within a class', 'a covariance',
                               'take more training frames, or features of another layer')
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
    Return mean and standard deviation of each channel of features (1, D, hf, wf), float64 (2 D,).

    With an `ignore` mask (h, w) a place counts if the pixel at its centre does. NaN if no place
    counts, or where a feature is not finite.
    """
    places = features[0].reshape(features.shape[1], -1).astype(np.float64)
    if ignore is not None:
        rows, columns = ((np.arange(count) + 0.5) * size / count
                         for count, size in zip(features.shape[-2:], ignore.shape, strict=True))
        left_out = ignore[rows.astype(np.intp)[:, None], columns.astype(np.intp)]
        places = places[:, ~left_out.ravel()]
    if not places.size:
        return np.full(2 * len(places), np.nan)
    with np.errstate(all='ignore'):
        return np.concatenate([places.mean(1), places.std(1)])


def dominant(label: LabelMap, ignore: NDArray[np.bool_] | None = None) -> int:
    """Return the class of most pixels of a mask (h, w) that count; the lowest of equals."""
    counted = label if ignore is None else label[~ignore]
    return int(np.bincount(counted.ravel(), minlength=1).argmax())


def unit_rows(vectors: Vectors) -> Vectors:
    """
    Return vectors (..., d) of length 1; a zero stays, at a right angle to all.

    One that is too long to be squared is NaN: over an infinite length it would be a zero.
    """
    lengths = np.sqrt((vectors**2).sum(-1, keepdims=True))
    lengths[lengths == 0], lengths[np.isinf(lengths)] = 1, np.nan
    return np.asarray(vectors / lengths, vectors.dtype)


def _to_unit(squared: Vectors) -> Vectors:
    """Map squared distances, 1 on average, to 0..1, growing; NaN and infinity to NaN."""
    # This puts an ordinary distance near 0.06, and leaves room.
    return np.asarray((squared / (1 + squared)) ** _FEATURE_POWER)
