# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Fit what the features of a frame are compared with, on frames of the training set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap
from uncertainty_seg.core.scores.density import (
    dominant,
    FeatureDensity,
    pooled,
)
from uncertainty_seg.errors import CalibrationError

NEIGHBOURS = 5
# Features (1, D, hf, wf) and predicted classes (h, w) of a frame, and pixels left out (h, w).
FeatureFrame: TypeAlias = tuple[FloatMap, LabelMap, 'NDArray[np.bool_] | None']
_Rows: TypeAlias = 'NDArray[np.float64]'


def fit_feature_density(
    frames: Iterable[FeatureFrame], neighbours: int = NEIGHBOURS
) -> FeatureDensity:
    """
    Keep the pooled features of some frames.

    Parameters
    ----------
    frames : iterable of (ndarray, ndarray, ndarray or None)
        Float32 (1, D, hf, wf) features, uint8 (h, w) predicted class ids, both without padding,
        and bool (h, w), True where a pixel is left out. A frame with features that are not
        finite, or of which nothing counts, is an error: its row of the bank would be missing.
    neighbours : int
        k of 'features.knn'.

    Returns
    -------
    FeatureDensity
        Rows of its bank in the order of the frames.

    Raises
    ------
    CalibrationError
        If there are no more frames than neighbours, features are not finite, or do not vary.

    """
    bank: list[_Rows] = []
    classes: list[int] = []
    for features, label, ignore in frames:
        bank.append(pooled(features, ignore))
        classes.append(dominant(label, ignore))
    if not bank:
        raise CalibrationError('no training frame with features', 'more frames than neighbours',
                               'take more training frames')
    stored = np.array(bank)
    if not np.isfinite(stored).all():
        raise CalibrationError('features of a training frame that are not finite', 'numbers',
                               'compile with other --features')
    return FeatureDensity(_halved(stored), np.array(classes, np.uint8), neighbours)


def _halved(rows: _Rows) -> NDArray[np.float16]:
    """
    Round rows to float16, each times a power of two by which its largest value is below 2^15.

    Their directions alone are compared, and features may be of any size: below 6e-5 float16 has
    fewer digits, below 3e-8 it is zero, and above 65504 infinite. So a value has all its digits
    unless it is less than 2e-9 of the largest of its row.
    """
    _, exponents = np.frexp(np.abs(rows).max(1, keepdims=True))
    return np.ldexp(rows, 15 - exponents).astype(np.float16)
