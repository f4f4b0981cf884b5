# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A compressed image as cameras record it, which the package reads and never writes."""

from __future__ import annotations

from typing import Any

import numpy as np

from uncertainty_seg.storage.bags.reader import COMPRESSED_TYPE, typestore
from uncertainty_seg.storage.bags.writer import image_message


def compressed_message(stamp_ns: int, frame_id: str, kind: str, data: bytes) -> Any:
    """Build a sensor_msgs/CompressedImage; `kind` is its format field, such as 'jpeg'."""
    header = image_message(stamp_ns, frame_id, np.zeros((1, 1), np.uint8), 'mono8').header
    return typestore().types[COMPRESSED_TYPE](header, kind, np.frombuffer(data, np.uint8))
