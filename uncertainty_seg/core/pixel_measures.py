# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""All that labelled pixels tell of mask, confidence and maps, image after image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.core.frame_result import FrameResult
from uncertainty_seg.core.metrics import CalibrationError15, ConfusionMatrix, Ranking
from uncertainty_seg.core.pavpu import PatchUncertainty
from uncertainty_seg.core.reliability import AdaptiveCalibrationError, TopLabelBrier
from uncertainty_seg.core.uncertainty import MAP_NAMES


@dataclass
class PixelMeasures:
    """
    Measures over any number of images; pixels that nobody knows are left out.

    Attributes
    ----------
    num_classes : int
        C.
    confusion : ConfusionMatrix
        True against predicted class.
    calibration, adaptive, brier : CalibrationError15, AdaptiveCalibrationError, TopLabelBrier
        Confidence against accuracy.
    patches : PatchUncertainty
        Entropy of patches against their accuracy.
    rankings : dict of str to Ranking
        Of each map, how well it ranks wrong pixels.
    class_entropy : ndarray of float64, shape (C,)
        Summed entropy over the pixels of each true class.

    """

    num_classes: int
    confusion: ConfusionMatrix = field(init=False)
    calibration: CalibrationError15 = field(default_factory=CalibrationError15)
    adaptive: AdaptiveCalibrationError = field(default_factory=AdaptiveCalibrationError)
    brier: TopLabelBrier = field(default_factory=TopLabelBrier)
    patches: PatchUncertainty = field(default_factory=PatchUncertainty)
    rankings: dict[str, Ranking] = field(
        default_factory=lambda: {name: Ranking() for name in MAP_NAMES})
    class_entropy: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        """Start from nothing."""
        self.confusion = ConfusionMatrix(self.num_classes)
        self.class_entropy = np.zeros(self.num_classes)

    def add(self, result: FrameResult, truth: LabelMap, ignore_index: int) -> None:
        """
        Count one image.

        Parameters
        ----------
        result : FrameResult
            What the pipeline found.
        truth : ndarray of uint8, shape (H, W)
            True class ids.
        ignore_index : int
            Of pixels nobody knows.

        """
        label = result.label_at_source()
        self.confusion.add(truth, label, ignore_index)
        known = truth != ignore_index
        is_right = label == truth
        confidence, entropy = (result.map_at_source(name) for name in ('confidence', 'entropy'))
        for measure in (self.calibration, self.adaptive, self.brier):
            measure.add(confidence[known], is_right[known])
        self.patches.add(entropy, is_right, known)
        for name, ranking in self.rankings.items():
            ranking.add(result.map_at_source(name)[known], ~is_right[known])
        self.class_entropy += np.bincount(
            truth[known], weights=entropy[known].astype(np.float64),
            minlength=self.num_classes)[:self.num_classes]

    def totals(self) -> NDArray[np.float64]:
        """
        Return the sums that IoU, accuracy and calibration error are made of, (C * C + 45,).

        Those of one image are what it adds. `core.pixel_intervals` draws images by them.

        """
        bins = self.calibration
        return np.concatenate([self.confusion.counts.ravel(), bins.count, bins.hits,
                               bins.confidence])

    def mean_entropy(self) -> NDArray[np.float64]:
        """Return the mean entropy over the pixels of each true class, (C,); NaN without one."""
        pixels = self.confusion.counts.sum(1)
        return np.where(pixels > 0, self.class_entropy / np.maximum(pixels, 1), np.nan)
