# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""How far the logits of a compiled network are from the network's own, and how far they may be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import GraphError

TOLERANCE = 1e-5
# A wide network's sums are not exact to `TOLERANCE` in float32, whoever computes them: allow the
# error of the network itself this many times, measured against float64 where it can run so, else
# by what the runtime changes when it reorders the sums; up to a bound.
_NOISE_FACTOR, _MOST = 4.0, 1e-3


def require_near(error: float, noise: float, when: str) -> None:
    """
    Refuse an error that float32 does not explain.

    Parameters
    ----------
    error : float
        A `distance`; NaN is refused.
    noise : float
        How far the network is from itself in float32, as a `distance`.
    when : str
        Which comparison it was, for the message.

    Raises
    ------
    GraphError
        If the error is above `TOLERANCE` and above some times the noise.

    """
    allowed = max(TOLERANCE, min(_NOISE_FACTOR * noise, _MOST))
    if not error <= allowed:
        raise GraphError(
            f'{when} the result differs from the network by {error:.2g} of the spread of its '
            'logits', f'at most {allowed:.2g}',
            'report this network: a step of the compiler does not hold for it',
        )


def distance(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """
    Return the largest difference between two tensors of logits.

    Parameters
    ----------
    ours, theirs : ndarray of float32, shape (T, C, h, w)
        Logits; where theirs are probabilities, the softmax of ours is compared.

    Returns
    -------
    float
        As a share of the spread of theirs. What is common to all classes does not count.

    Raises
    ------
    GraphError
        If the shapes differ.

    """
    if ours.shape != theirs.shape:
        raise GraphError(f'the result has the shape {ours.shape}', f'{theirs.shape}')
    if theirs.min() >= 0 and np.allclose(theirs.sum(1), 1, atol=1e-4):
        powers = np.exp(ours - ours.max(1, keepdims=True))
        return float(abs(powers / powers.sum(1, keepdims=True) - theirs).max())
    # Softmax forgets what is common to all classes, and so may the compiled graph.
    ours, theirs = (v - v.mean(1, keepdims=True) for v in (ours, theirs))
    return float(abs(ours - theirs).max() / max(np.ptp(theirs), 1e-6))


def as_planes(theirs: NDArray[np.float32], num_classes: int) -> NDArray[np.float32]:
    """
    Bring what a network gave into the order of the compiled graph's logits.

    Parameters
    ----------
    theirs : ndarray of float32, shape (T, C, h, w), (T, h, w, C) or (T, h, w)
        The last where one channel was squeezed.
    num_classes : int
        C.

    Returns
    -------
    ndarray of float32, shape (T, C, h, w)
        The same values.

    """
    if theirs.ndim == 3:  # one channel whose axis was squeezed
        theirs = theirs[:, None]
    is_last = theirs.shape[-1] in (1, num_classes) and theirs.shape[1] not in (1, num_classes)
    return np.moveaxis(theirs, -1, 1) if is_last else theirs
