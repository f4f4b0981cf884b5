# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Numbers of learning curves: labels that reach a quality, gains over another, bands over seeds.

A curve is a row of points whose share of labels grows; between two points it is a line.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np


@dataclass(frozen=True)
class SeedBand:
    """
    A figure over seeds.

    Attributes
    ----------
    mean, low, high : float
        Mean, and the ends of its 95 % t interval; these are NaN of a single seed.
    least, most : float
        The smallest and largest.
    count : int
        Seeds that have the figure.

    """

    mean: float
    low: float
    high: float
    least: float
    most: float
    count: int


def band_of(values: Sequence[float]) -> SeedBand:
    """Return the band of the values that are numbers; all NaN if none is."""
    from scipy.stats import t

    known = np.array([value for value in values if math.isfinite(value)], np.float64)
    if not known.size:
        return SeedBand(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    mean, half = float(known.mean()), math.nan
    if known.size > 1:
        half = float(t.ppf(0.975, known.size - 1) * known.std(ddof=1) / math.sqrt(known.size))
    return SeedBand(mean, mean - half, mean + half, float(known.min()), float(known.max()),
                    int(known.size))


def share_reaching(
    shares: Sequence[float], values: Sequence[float], target: float
) -> float:
    """
    Return the smallest share at which a curve is at a target, between points on the line.

    NaN if it never is. That of the first point if it is there already.
    """
    for index, value in enumerate(values):
        if value >= target:
            if not index:
                return float(shares[0])
            before = values[index - 1]
            part = (target - before) / (value - before)
            return float(shares[index - 1] + part * (shares[index] - shares[index - 1]))
    return math.nan


def value_at(shares: Sequence[float], values: Sequence[float], share: float) -> float:
    """Return the value of a curve at a share, on the line between points; NaN outside of them."""
    if not shares or not shares[0] - 1e-12 <= share <= shares[-1] + 1e-12:
        return math.nan
    return float(np.interp(share, shares, values))
