# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Names for the arrays that pass between the rooms, and one check of their form.

Axis letters everywhere: T passes, C classes, H W source image, h w network, hl wl logits.

"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from uncertainty_seg.errors import ShapeError

ImageU8: TypeAlias = NDArray[np.uint8]
LabelMap: TypeAlias = NDArray[np.uint8]
FloatMap: TypeAlias = NDArray[np.float32]


class Shaped(Protocol):
    """What has the form of an array: an array, or what gives one when it is read."""

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

    `name` is what to call the array in the sentence.
    """
    fits = len(array.shape) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != np.dtype(dtype):
        wanted = '(' + ', '.join('any' if n is None else str(n) for n in shape) + ')'
        raise ShapeError(
            f'{name} has shape {array.shape} of {array.dtype}',
            f'{wanted} of {np.dtype(dtype)}',
        )
