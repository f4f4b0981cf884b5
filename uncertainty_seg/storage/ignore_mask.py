# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A picture of the pixels that no score may count: the hull in view, a vignette."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import ConfigError


def load_ignore_mask(path: str) -> NDArray[np.bool_] | None:
    """
    Read an ignore mask.

    Parameters
    ----------
    path : str
        A picture; empty for none.

    Returns
    -------
    ndarray of bool, shape (H, W), or None
        True where a pixel of any channel is not 0.

    Raises
    ------
    ConfigError
        If the file is missing or no picture, or it leaves no pixel.

    """
    if not path:
        return None
    fix = 'set ignore_mask to a PNG that is white where pixels are left out and black elsewhere'
    # As the node decodes: what a camera says of its orientation turns nothing.
    kind = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    picture = cv2.imread(path, kind) if Path(path).is_file() else None
    if picture is None:
        raise ConfigError(f'ignore_mask {path!r} cannot be read', 'a picture', fix)
    mask = picture.any(axis=2)
    if mask.all():
        raise ConfigError(f'ignore_mask {path!r} leaves out every pixel', 'some that count', fix)
    return mask
