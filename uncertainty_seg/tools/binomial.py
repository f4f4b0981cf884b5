# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How many of the accepted are bad, at most: the bound of Clopper and Pearson.

It answers "when the flag is true, how often is the mask bad?", which the promise of
`core.conformal` does not. It is exact for independent units drawn after everything was fitted.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from uncertainty_seg.errors import BackendUnavailableError, ConfigError, ShapeError


@dataclass(frozen=True)
class BadShare:
    """
    Bad ones among the accepted.

    Attributes
    ----------
    num_accepted, num_bad : int
        Units: frames, or blocks with an accepted frame.
    share : float
        Seen, 0..1; NaN if nothing was accepted.
    upper : float
        Not above this, with the confidence; 1 if nothing was accepted.
    confidence : float
        In (0, 1).
    unit : str
        'frame' or 'block'.

    """

    num_accepted: int
    num_bad: int
    share: float
    upper: float
    confidence: float
    unit: str


def upper_bound(num_bad: int, num: int, confidence: float = 0.95, num_tries: int = 1) -> float:
    """
    Bound a share from above.

    Parameters
    ----------
    num_bad, num : int
        Bad ones among how many.
    confidence : float
        In (0, 1).
    num_tries : int
        How many limits or scores the same units were asked about; shares the error among them
        (Bonferroni).

    Returns
    -------
    float
        0..1, one-sided; 1 if `num` is 0.

    Raises
    ------
    ConfigError
        If the numbers contradict each other or the confidence is not between 0 and 1.
    BackendUnavailableError
        If scipy is not installed.

    References
    ----------
    Clopper and Pearson, Biometrika 26 (1934), by the quantile of a beta distribution.

    """
    if not (0 <= num_bad <= num and 0 < confidence < 1 and num_tries >= 1):
        raise ConfigError(
            f'{num_bad} bad of {num} at confidence {confidence:g} in {num_tries} tries',
            'at most all bad, a confidence between 0 and 1, and a try',
        )
    if num_bad == num:
        return 1.0
    try:
        from scipy.stats import beta
    except ImportError as err:
        raise BackendUnavailableError('scipy is not installed', 'it, for the bound of a share',
                                      'pip install scipy') from err

    return float(beta.ppf(1 - (1 - confidence) / num_tries, num_bad + 1, num - num_bad))


def bad_share(
    accepted: ArrayLike, is_bad: ArrayLike, blocks: ArrayLike | None = None,
    confidence: float = 0.95, num_tries: int = 1,
) -> BadShare:
    """
    Bound P(bad | accepted) by the frames, or by blocks of them.

    Parameters
    ----------
    accepted, is_bad : array of bool, shape (n,)
        Of each frame.
    blocks : array of int or str, shape (n,), optional
        The block of each frame. Frames of one block are alike, and n of them prove less than n
        others do: with blocks, a unit is a block with an accepted frame, bad if any accepted one
        is. The bound is of "a block has a bad accepted frame", and so of "an accepted frame is
        bad" where each block with an accepted frame counts alike, however many it has.
    confidence, num_tries : float, int
        See `upper_bound`.

    Returns
    -------
    BadShare
        Counts and bound.

    Raises
    ------
    ShapeError
        If the arrays differ in length.
    ConfigError
        See `upper_bound`.

    """
    taken, bad = np.asarray(accepted, bool), np.asarray(is_bad, bool)
    names = np.arange(taken.size) if blocks is None else np.asarray(blocks)
    if not taken.shape == bad.shape == names.shape or taken.ndim != 1:
        raise ShapeError(f'accepted {taken.shape}, is_bad {bad.shape}, blocks {names.shape}',
                         'one of each a frame')
    num, num_bad = len(np.unique(names[taken])), len(np.unique(names[taken & bad]))
    return BadShare(
        num, num_bad, num_bad / num if num else float('nan'),
        upper_bound(num_bad, num, confidence, num_tries), confidence,
        'frame' if blocks is None else 'block',
    )
