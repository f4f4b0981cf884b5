# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Counts of true against predicted classes, and intersection over union from them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import LabelMap


@dataclass
class ConfusionMatrix:
    """
    Counts of (true, predicted) class over any number of images.

    Attributes
    ----------
    num_classes : int
        C.
    counts : ndarray of int64, shape (C, C)
        Rows are true classes.

    """

    num_classes: int
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Start from zero."""
        self.counts = np.zeros((self.num_classes, self.num_classes), np.int64)

    def add(self, truth: LabelMap, predicted: LabelMap, ignore_index: int) -> None:
        """Count one image; pixels of `ignore_index` are left out."""
        known = (truth != ignore_index) & (truth < self.num_classes)
        pairs = truth[known].astype(np.int64) * self.num_classes + predicted[known]
        square = np.bincount(pairs, minlength=self.num_classes**2)
        self.counts += square.reshape(self.num_classes, self.num_classes)

    def iou(self) -> NDArray[np.float64]:
        """Return (C,) intersection over union, NaN for a class never seen nor predicted."""
        inter = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - inter
        return np.where(union > 0, inter / np.maximum(union, 1), np.nan)

    def mean_iou(self) -> float:
        """Return the mean over the classes that occur."""
        return float(np.nanmean(self.iou()))

    def accuracy(self) -> float:
        """Return the share of pixels that are right."""
        return float(np.trace(self.counts) / max(self.counts.sum(), 1))
