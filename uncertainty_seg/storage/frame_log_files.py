# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The files that are made of a logged frame.

Pure: arrays in, bytes out. Disk and threads are not known here.

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import json
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8, require_shape
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.image_files import ImageFile
from uncertainty_seg.core.log_settings import LogSettings
from uncertainty_seg.core.perceptual_hash import perceptual_hash
from uncertainty_seg.errors import ImageError
from uncertainty_seg.storage.frame_log_format import (
    FORMAT_VERSION,
    MASK_FILE,
    SIDECAR_FILE,
    UNCERTAINTY_FILE,
    uncertainty_to_uint16,
)
from uncertainty_seg.storage.frame_log_frame import LogAbout, LogFrame


@dataclass(frozen=True)
class Looked:
    """
    A frame whose pixels were looked at.

    Attributes
    ----------
    image_bgr : ndarray of uint8, shape (H, W, 3)
        Decoded.
    phash : int
        64-bit perceptual hash.

    """

    image_bgr: ImageU8
    phash: int


def look_at(frame: LogFrame) -> Looked:
    """Decode and hash a frame; ImageError if its bytes are no image, ShapeError if its array."""
    image = decode(frame.image) if isinstance(frame.image, ImageFile) else frame.image
    return Looked(image, perceptual_hash(image))


def frame_files(
    frame: LogFrame, looked: Looked, about: LogAbout, settings: LogSettings,
    facts: Mapping[str, Any],
) -> dict[str, bytes]:
    """
    Make the files of a frame.

    Parameters
    ----------
    frame, looked : LogFrame, Looked
        The frame.
    about : LogAbout
        The run it was in.
    settings : LogSettings
        For the format of the image.
    facts : mapping
        What the log knows: frame_id, reason, reservoir.

    Returns
    -------
    dict of str to bytes
        File name to content, the sidecar last.

    Raises
    ------
    ShapeError, ImageError
        If mask or uncertainty have another size than the image, or something cannot be encoded.

    """
    height, width = looked.image_bgr.shape[:2]
    mask, uncertainty = frame.mask(), frame.uncertainty()
    require_shape('mask', mask, (height, width), np.uint8)
    require_shape('uncertainty', uncertainty, (height, width), np.float32)
    image_file, image = _image(frame, looked, settings)
    image_facts = {'height': height, 'width': width, 'encoding': frame.encoding,
                   'file': image_file}
    sidecar = _sidecar(frame, about, {**facts, 'image': image_facts,
                                      'phash': f'{looked.phash:016x}'})
    return {
        image_file: image,
        MASK_FILE: _encoded('.png', mask),
        UNCERTAINTY_FILE: _encoded('.png', uncertainty_to_uint16(uncertainty)),
        # Without `indent`: with it Python encodes by itself, and holds the node up.
        SIDECAR_FILE: (json.dumps(_plain(sidecar)) + '\n').encode(),
    }


def _image(frame: LogFrame, looked: Looked, settings: LogSettings) -> tuple[str, bytes]:
    if settings.image_format == 'jpeg':
        quality = (cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality)
        return 'image.jpg', _encoded('.jpg', looked.image_bgr, quality)
    if settings.image_format == 'received' and isinstance(frame.image, ImageFile):
        data = bytes(frame.image.data)
        # What it is is told by its first bytes; `decode` took nothing but these two.
        return ('image.png' if data.startswith(b'\x89PNG') else 'image.jpg'), data
    return 'image.png', _encoded('.png', looked.image_bgr)


def _encoded(ending: str, pixels: NDArray[Any], options: tuple[int, ...] = ()) -> bytes:
    # PNG as OpenCV has it: run lengths of differences. The next better takes three times as long
    # for a tenth less (docs/frame_log.md).
    is_done, data = cv2.imencode(ending, pixels, options)
    if not is_done:
        raise ImageError(f'{pixels.shape} of {pixels.dtype} cannot be encoded as {ending}')
    return bytes(data)


def _sidecar(frame: LogFrame, about: LogAbout, facts: Mapping[str, Any]) -> dict[str, Any]:
    verdict = frame.verdict
    classes = [{'id': k, 'name': name, 'color_rgb': list(color)}
               for k, (name, color) in enumerate(zip(about.class_names, about.palette,
                                                     strict=True))]
    return {
        'version': FORMAT_VERSION,
        **facts,
        'stamp_ns': frame.stamp_ns,
        'ros_frame': frame.ros_frame,
        'camera': frame.camera,
        'dive': about.dive,
        'verdict': {'confident': verdict.is_confident, 'kind': verdict.kind,
                    'reasons': list(verdict.reasons), 'score_ratio': verdict.score_ratio},
        'scores': dict(frame.scores),
        'thresholds': dict(frame.thresholds),
        'passes': about.passes,
        'seed': about.seed,
        'mask_policy': about.mask_policy,
        'model': {'name': about.model, 'sha256': about.model_sha256},
        'map': about.map_name,
        'classes': classes,
        'parameters': dict(about.parameters),
    }


def _plain(value: Any) -> Any:
    """Return what JSON knows: numbers of numpy as such, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
