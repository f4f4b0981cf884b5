# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How much risk is left when the most uncertain frames are refused: the risk-coverage curve.

One frame is one sample, with a score that grows with uncertainty and a loss in 0..1 (bad or not,
or one minus its IoU). Frames of equal score are accepted together: no limit separates them. Every
function takes scores and losses of shape (n,); a score of NaN is refused first, with infinity.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from uncertainty_seg.analysis.metrics import Floats
from uncertainty_seg.errors import ShapeError


@dataclass(frozen=True)
class RiskCoverage:
    """
    One point a limit, from strict to loose.

    Attributes
    ----------
    limits : ndarray of float64, shape (k,)
        Distinct scores, growing; accepted is what is at or below. Infinite stands for NaN too.
    coverage : ndarray of float64, shape (k,)
        Share of frames accepted; ends at 1.
    risk : ndarray of float64, shape (k,)
        Mean loss of those.

    References
    ----------
    Geifman and El-Yaniv, 2017, arXiv:1705.08500.

    """

    limits: Floats
    coverage: Floats
    risk: Floats

    def risk_at_coverage(self, coverage: float) -> float:
        """Return the risk of the strictest limit that accepts at least this share, 0..1."""
        return float(self.risk[np.searchsorted(self.coverage, min(coverage, 1.0) - 1e-12)])

    def coverage_at_risk(self, risk: float) -> float:
        """Return the largest share of frames that a limit accepts at this risk or less, or 0."""
        return float(self.coverage[self.risk <= risk].max(initial=0.0))


def risk_coverage(scores: ArrayLike, losses: ArrayLike) -> RiskCoverage:
    """
    Refuse frames from the most uncertain on, and compute the risk of the rest, in 1 to n points.

    Raises
    ------
    ShapeError
        If there is no frame, or scores and losses differ in length.

    """
    ranks, loss = _checked(scores, losses)
    limits, index = np.unique(ranks, return_inverse=True)
    counts = np.cumsum(np.bincount(index))
    return RiskCoverage(limits, counts / len(loss), np.cumsum(np.bincount(index, loss)) / counts)


def aurc(scores: ArrayLike, losses: ArrayLike) -> float:
    """
    Return the area under the curve, the mean risk over the coverages 1/n .. 1; smaller is better.

    Where scores are equal it is the mean over every order of those frames, so that the order of
    the data never counts. Errors are those of `risk_coverage`.

    """
    ranks, loss = _checked(scores, losses)
    _, index = np.unique(ranks, return_inverse=True)
    of_tie = np.bincount(index, loss) / np.bincount(index)
    return _mean_risk(of_tie[np.sort(index)])


def excess_aurc(scores: ArrayLike, losses: ArrayLike) -> float:
    """
    Return E-AURC: `aurc` less that of a score that knew the losses; 0 for a perfect order.

    It compares scores of one network, not networks. Errors are those of `risk_coverage`.

    References
    ----------
    Geifman, Uziel and El-Yaniv, 2019, arXiv:1805.08206.

    """
    return aurc(scores, losses) - _mean_risk(np.sort(_checked(scores, losses)[1]))


def _mean_risk(losses: Floats) -> float:
    return float((np.cumsum(losses) / np.arange(1, len(losses) + 1)).mean())


def _checked(scores: ArrayLike, losses: ArrayLike) -> tuple[Floats, Floats]:
    ranks, loss = np.asarray(scores, np.float64), np.asarray(losses, np.float64)
    if ranks.shape != loss.shape or ranks.ndim != 1 or not ranks.size:
        raise ShapeError(f'scores of shape {ranks.shape} and losses of {loss.shape}',
                         'one of each a frame, and at least one frame')
    return np.where(np.isnan(ranks), np.inf, ranks), loss
