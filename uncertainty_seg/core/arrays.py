# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Array types shared by the package, a check of shape and dtype, and a confusion matrix.

Axis letters everywhere: T passes, C classes, H W source image, h w network, hl wl logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from uncertainty_seg.errors import ShapeError

ImageU8: TypeAlias = NDArray[np.uint8]
# One score of many frames: one value per frame.
Column: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = Mapping[str, Column]
LabelMap: TypeAlias = NDArray[np.uint8]
FloatMap: TypeAlias = NDArray[np.float32]


class Shaped(Protocol):
    """An array, or an object that yields one when it is read, such as `LazyRows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...


def require_shape(
    name: str, array: Shaped, shape: tuple[int | None, ...], dtype: DTypeLike
) -> None:
    """
    Raise ShapeError unless an array has this shape and dtype; None in the shape is any length.

    `name` is the name of the array in the error.
    """
    if not hasattr(array, 'shape'):
        raise ShapeError(f'{name} is {type(array).__name__}', 'an array, which cv2.imread returns '
                         'for a file that it can read')
    fits = len(array.shape) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != np.dtype(dtype):
        wanted = '(' + ', '.join('any' if n is None else str(n) for n in shape) + ')'
        raise ShapeError(
            f'{name} has shape {array.shape} of {array.dtype}',
            f'{wanted} of {np.dtype(dtype)}',
        )


@dataclass
class ConfusionMatrix:
    """Counts (C, C) of (true, predicted) class over any number of images."""

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
        """Return (C,) intersection over union; NaN for a class neither labelled nor predicted."""
        inter = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - inter
        return np.where(union > 0, inter / np.maximum(union, 1), np.nan)

    def mean_iou(self) -> float:
        """Return the mean over the classes that occur."""
        return float(np.nanmean(self.iou()))

    def accuracy(self) -> float:
        """Return the share of pixels that are predicted correctly; 0 without any pixel."""
        return float(np.trace(self.counts) / max(self.counts.sum(), 1))
