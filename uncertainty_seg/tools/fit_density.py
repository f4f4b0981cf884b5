# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fit the Gaussian mixture of `core.score_density` on frames of known kind, with scikit-learn.

The number of components, and whether each has a full or a diagonal covariance, is what has the
least Bayesian information criterion: on few frames that is one plain Gaussian.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.score_density import DENSITY_INPUTS, ScoreDensity
from uncertainty_seg.errors import BackendUnavailableError, CalibrationError

COMPONENTS = range(1, 7)
FORMS = ('full', 'diag')
# Added to variances, which are 1 on the whole: frames of one video fall into thin sheets.
FLOOR = 1e-3
STARTS = 3
# A covariance of d scores needs more frames than d, by far.
FRAMES_A_SCORE = 5


def fit_density(
    frames: Sequence[Mapping[str, float]], names: Sequence[str] = DENSITY_INPUTS, seed: int = 0,
) -> ScoreDensity:
    """
    Fit a density over scores.

    Parameters
    ----------
    frames : sequence of mapping
        Scores of each frame; frames where one of `names` is not finite are left out.
    names : sequence of str
        Scores to look at.
    seed : int
        Of the starts.

    Returns
    -------
    ScoreDensity
        With the least Bayesian information criterion.

    Raises
    ------
    CalibrationError
        If a score is missing, or there are fewer than five frames a score.
    BackendUnavailableError
        If scikit-learn is not installed.

    """
    table = _table(frames, names)
    centre, scale = table.mean(0), table.std(0)
    # A score that never moves must not be divided by nothing.
    scale = np.where(scale > 1e-9, scale, 1.0)
    mixture, form = _best_mixture((table - centre) / scale, seed)
    factors = mixture.precisions_cholesky_
    if form == 'diag':
        factors = np.stack([np.diag(row) for row in factors])
    return ScoreDensity(tuple(names), centre, scale, np.asarray(mixture.weights_),
                        np.asarray(mixture.means_), np.asarray(factors))


def _table(
    frames: Sequence[Mapping[str, float]], names: Sequence[str]
) -> NDArray[np.float64]:
    for frame in frames:
        missing = [name for name in names if name not in frame]
        if missing:
            raise CalibrationError(f'a frame without a score {missing[0]!r}',
                                   f'those of {", ".join(frame)}', 'fit on other scores')
    table = np.array([[frame[name] for name in names] for frame in frames], np.float64)
    table = table.reshape(len(frames), len(names))
    table = table[np.isfinite(table).all(1)]
    if len(table) < FRAMES_A_SCORE * len(names):
        raise CalibrationError(
            f'{len(table)} frames for a density over {len(names)} scores',
            f'at least {FRAMES_A_SCORE * len(names)}', 'take more frames or fewer scores',
        )
    return table


def _best_mixture(table: NDArray[np.float64], seed: int) -> tuple[Any, str]:
    """Return the fitted mixture of least criterion, and its form."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as err:
        raise BackendUnavailableError('scikit-learn is not installed', 'it, to fit a density',
                                      'pip install scikit-learn') from err
    fitted = [
        (GaussianMixture(count, covariance_type=form, reg_covar=FLOOR, n_init=STARTS,
                         random_state=seed).fit(table), form)
        for form in FORMS for count in COMPONENTS if count <= len(table) // 2
    ]
    return min(fitted, key=lambda pair: pair[0].bic(table))
