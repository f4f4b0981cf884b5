# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Patch accuracy against patch uncertainty: is what is wrong unsure, and what is sure right.

The value depends on where "unsure" begins, so it is kept as a curve over that limit.

"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, require_shape

_PAVPU_BINS = 1024
PATCH_PX = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PavpuCurve:
    """
    One point a limit; a patch is uncertain above it.

    Attributes
    ----------
    limits : ndarray of float64, shape (1024,)
        Growing, 0..1.
    accurate_if_certain : ndarray of float64, shape (1024,)
        p(accurate | certain); NaN where no patch is certain.
    uncertain_if_inaccurate : ndarray of float64, shape (1024,)
        p(uncertain | inaccurate); NaN without an inaccurate patch.
    pavpu : ndarray of float64, shape (1024,)
        Share of patches that are accurate and certain, or neither.
    median : int
        Index of the limit at the median uncertainty of the patches, a default that needs no
        choice.

    """

    limits: Floats
    accurate_if_certain: Floats
    uncertain_if_inaccurate: Floats
    pavpu: Floats
    median: int


@dataclass
class PatchUncertainty:
    """
    Patches of 4 x 4 pixels over any number of images; sums only.

    A patch is accurate if more than half of its known pixels are right, and its uncertainty is
    their mean. Patches at the right and lower edge may be smaller; one without a known pixel is
    left out.

    Attributes
    ----------
    accurate, inaccurate : ndarray of float64, shape (1024,)
        Histograms of the uncertainty.

    References
    ----------
    Mukhoti and Gal, 2018, arXiv:1811.12709.

    """

    accurate: Floats = field(default_factory=lambda: np.zeros(_PAVPU_BINS))
    inaccurate: Floats = field(default_factory=lambda: np.zeros(_PAVPU_BINS))

    def add(
        self, uncertainty: FloatMap, is_right: NDArray[np.bool_], known: NDArray[np.bool_]
    ) -> None:
        """
        Count the patches of one image.

        Parameters
        ----------
        uncertainty : ndarray of float32, shape (H, W)
            0..1; NaN counts as 1.
        is_right : ndarray of bool, shape (H, W)
            Whether the predicted class is the true one.
        known : ndarray of bool, shape (H, W)
            Whether anybody knows.

        Raises
        ------
        ShapeError
            If the three differ in size.

        """
        require_shape('is_right', is_right, uncertainty.shape, np.bool_)
        require_shape('known', known, uncertainty.shape, np.bool_)
        counts = _patch_sums(known)
        kept = counts > 0
        counts = counts[kept]
        values = np.where(known, np.nan_to_num(uncertainty, nan=1.0), 0.0)
        mean = np.clip(_patch_sums(values)[kept] / counts, 0, 1)
        is_accurate = _patch_sums(is_right & known)[kept] > 0.5 * counts
        # Bin k holds what is above limit k - 1 and at or below limit k; limits are squares.
        bins = np.clip(np.ceil(np.sqrt(mean) * (_PAVPU_BINS - 1)).astype(np.int64), 0, _PAVPU_BINS - 1)
        self.accurate += np.bincount(bins[is_accurate], minlength=_PAVPU_BINS)
        self.inaccurate += np.bincount(bins[~is_accurate], minlength=_PAVPU_BINS)

    def curve(self) -> PavpuCurve:
        """Return the three measures at every limit; all NaN without a patch."""
        sure_right, sure_wrong = np.cumsum(self.accurate), np.cumsum(self.inaccurate)
        unsure_wrong = sure_wrong[-1] - sure_wrong
        total = sure_right[-1] + sure_wrong[-1]
        sure = sure_right + sure_wrong
        return PavpuCurve(
            np.linspace(0, 1, _PAVPU_BINS) ** 2, _share(sure_right, sure),
            _share(unsure_wrong, sure_wrong[-1:]), _share(sure_right + unsure_wrong, total),
            int(np.searchsorted(sure, total / 2)),
        )


def _patch_sums(values: NDArray[np.bool_] | Floats) -> Floats:
    rows, columns = (np.arange(0, size, PATCH_PX) for size in values.shape)
    summed = np.add.reduceat(values.astype(np.float64), rows, axis=0)
    return np.add.reduceat(summed, columns, axis=1)


def _share(part: Floats, whole: Floats) -> Floats:
    known = np.where(whole > 0, whole, np.nan)
    return part / known
