# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Bags on disk, without ROS: the one door to `bag_reader`, `bag_writer` and `bag_messages`."""

from uncertainty_seg.storage.bag_messages import PinholeCamera, Status
from uncertainty_seg.storage.bag_reader import (
    BadMessage,
    BagImage,
    BagMessage,
    BagReader,
    header_stamp_ns,
    read_images,
)
from uncertainty_seg.storage.bag_writer import BagWriter, METADATA_FILE, STORAGES

__all__ = [
    'BadMessage',
    'BagImage',
    'BagMessage',
    'BagReader',
    'BagWriter',
    'METADATA_FILE',
    'PinholeCamera',
    'STORAGES',
    'Status',
    'header_stamp_ns',
    'read_images',
]
