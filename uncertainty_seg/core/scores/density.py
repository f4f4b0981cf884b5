# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How ordinary a frame's scores are together: a Gaussian mixture over a few of them.

Each score may be at a value that is seen every day while the two together never are: a picture
that is flat and green, a mask that is sure and has many borders. The mixture is fitted on frames
of the data the network was trained for (`tools.fit_density`); here it is evaluated only.

It measures whether a frame is unusual, not whether it is bad: a frame that is clearer than all
that it was fitted on is unusual too.

"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass
import json
import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import CalibrationError

DENSITY_SCORE = 'density.scores'
# Few, since a mixture of many dimensions fits its own frames only; each smooth, since one that
# is 0 on most frames (a region, an overexposed part, a rare class) has no density there.
DENSITY_INPUTS = (
    'entropy.mean', 'entropy.class_mean', 'mutual_information.mean',
    'mutual_information.interior', 'image.darkness', 'image.blur', 'image.low_contrast',
    'image.specks', 'image.haze', 'image.flat_color', 'image.green_cast', 'image.blue_cast',
)
_FIX = 'fit the density again'
# Beyond this distance the square of a score carries no more information.
_FARTHEST = 1e6
# A gate takes the largest score over threshold. Ordinary frames must be far below the threshold of
# this score, or it decides their order too, about which it carries no information.
POWER = 8


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
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    factors: NDArray[np.float64]

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

        Notes
        -----
        With s the surprise above the least that any frame could have (all components at their
        peak at once), the score is (s / (s + d / 2)) ** 8. For one Gaussian the mean of s is
        d / 2, so that an ordinary frame is near 0.004, and one as far again near 0.04. The
        mapping keeps the order.

        """
        above = self.surprise_nats(scores) + _log_sum(self._log_peaks())
        if math.isnan(above):
            return above
        above = max(above, 0.0)
        return float((above / (above + len(self.names) / 2)) ** POWER)

    def _log_peaks(self) -> NDArray[np.float64]:
        """Return the logarithm of weight times density at its mean, (K,)."""
        diagonals = np.diagonal(self.factors, axis1=1, axis2=2)
        volume = np.log(diagonals).sum(1) - 0.5 * len(self.names) * math.log(2 * math.pi)
        return np.asarray(np.log(self.weights) + volume)


def _log_sum(values: NDArray[np.float64]) -> float:
    highest = float(values.max())
    return highest + math.log(float(np.exp(values - highest).sum()))


def density_to_json(density: ScoreDensity) -> str:
    """Write a density as JSON."""
    facts = {f.name: getattr(density, f.name) for f in dataclasses.fields(density)}
    return json.dumps({k: v if k == 'names' else v.tolist() for k, v in facts.items()}) + '\n'


def density_from_json(text: str | bytes) -> ScoreDensity:
    """
    Read a density.

    Raises CalibrationError if the text is no JSON, lacks a key, or gives no density.
    """
    try:
        raw = json.loads(text)
        names = tuple(str(name) for name in raw.pop('names'))
        return ScoreDensity(names, **{k: np.array(v, np.float64) for k, v in raw.items()})
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise CalibrationError(f'the density cannot be read ({err})',
                               'what fit_density wrote', _FIX) from err
