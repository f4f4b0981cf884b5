# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How far figures of pixels would move on other images.

A million pixels of one image are not a million samples: images are drawn, by block, and the
figure is computed anew over all pixels of those that were drawn.

"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.core.bootstrap import block_interval, Interval
from uncertainty_seg.core.metrics import CalibrationError15, ConfusionMatrix

DRAWS = 500
Rows = NDArray[np.float64]


def pixel_intervals(
    totals: Rows, blocks: ArrayLike, num_classes: int, draws: int = DRAWS
) -> dict[str, Interval]:
    """
    Return mean IoU, accuracy and expected calibration error with their intervals.

    Parameters
    ----------
    totals : ndarray of float64, shape (n, C * C + 45)
        Of each image, as `core.evaluation.Evaluation` has them.
    blocks : array of str, shape (n,)
        The block of each image.
    num_classes : int
        C.
    draws : int
        Of the bootstrap.

    Returns
    -------
    dict of str to Interval
        'mean_iou', 'accuracy' and 'ece', 0..1, with 95 % intervals. A class that a draw does not
        have is left out of its mean. Chance alone adds to a calibration error and never takes
        from it, so that its interval lies to the upper side.

    Raises
    ------
    ShapeError
        If there is no image, or not one block an image.

    """
    figures: dict[str, Callable[[Rows], float]] = {
        'mean_iou': lambda rows: _confusion(rows, num_classes).mean_iou(),
        'accuracy': lambda rows: _confusion(rows, num_classes).accuracy(),
        'ece': lambda rows: CalibrationError15(
            *rows.sum(0)[num_classes**2:].reshape(3, -1)).value(),
    }
    return {name: block_interval(figure, totals, blocks, draws=draws)
            for name, figure in figures.items()}


def _confusion(rows: Rows, num_classes: int) -> ConfusionMatrix:
    found = ConfusionMatrix(num_classes)
    summed = rows.sum(0)[:num_classes**2].reshape(num_classes, num_classes)
    found.counts += summed.astype(found.counts.dtype)
    return found
