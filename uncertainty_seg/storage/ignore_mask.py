# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The mask of pixels that are left out of every score: the hull in view, a vignette."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.errors import ConfigError, ImageError
from uncertainty_seg.storage.foreign_files import read_image_file, why


def load_ignore_mask(path: str) -> NDArray[np.bool_] | None:
    """
    Read an ignore mask: bool (H, W), True where a pixel of any channel of the image is not 0.

    None for an empty path. Raises ConfigError if the file is missing or no image, or no pixel
    remains.
    """
    if not path:
        return None
    fix = 'set ignore_mask to a PNG that is white where pixels are left out and black elsewhere'
    try:
        picture = decode(read_image_file(Path(path)))
    except (OSError, ValueError, ImageError) as err:
        raise ConfigError(f'ignore_mask {path!r} cannot be read', 'a picture',
                          f'{why(err)}; {fix}') from err
    mask: NDArray[np.bool_] = np.asarray(picture.any(axis=2))
    if mask.all():
        raise ConfigError(f'ignore_mask {path!r} leaves out every pixel', 'some that count', fix)
    return mask
