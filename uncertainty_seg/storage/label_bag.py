# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels as a bag: image, mask and uncertainty of each frame, with the stamps they had.

For viewers, and for `ros2 bag play`. The image is as it was received where it came compressed; why
a frame is there stands in its diagnostics message. A bag is not read back.

"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from uncertainty_seg.storage.bags import BagWriter, Status
from uncertainty_seg.storage.label_frames import LabelFrame
from uncertainty_seg.storage.labelled_folder import ClassTable

IMAGE_TOPIC = '/camera/image_raw'
COMPRESSED_TOPIC = '/camera/image_raw/compressed'
# Those of the node, so that layouts for it show an export too.
MASK_TOPIC = '/uncertainty_seg/mask'
UNCERTAINTY_TOPIC = '/uncertainty_seg/uncertainty'
REASON_TOPIC = '/uncertainty_seg/kept'


def write_labels(
    folder: Path, frames: Iterable[LabelFrame], classes: ClassTable, storage: str
) -> None:
    """
    Write a bag.

    Parameters
    ----------
    folder : Path
        The bag; must not exist.
    frames : iterable of LabelFrame
        Written as they come; a reader sorts by time.
    classes : ClassTable
        Names, which every diagnostics message carries.
    storage : str
        'mcap' or 'sqlite3'.

    """
    with BagWriter(folder, storage) as bag:
        for frame in frames:
            _write(bag, frame, classes)


def _write(bag: BagWriter, frame: LabelFrame, classes: ClassTable) -> None:
    stamp_ns, frame_id = frame.stamp_ns, frame.frame_id
    if frame.ending == '.jpg':
        bag.write_compressed(COMPRESSED_TOPIC, stamp_ns, frame_id, 'jpeg', frame.image_file)
    else:
        bag.write_image(IMAGE_TOPIC, stamp_ns, frame_id, frame.image(), 'bgr8')
    bag.write_image(MASK_TOPIC, stamp_ns, frame_id, frame.mask, 'mono8')
    if frame.uncertainty is not None:
        bag.write_image(UNCERTAINTY_TOPIC, stamp_ns, frame_id, frame.uncertainty, '32FC1')
    values = {key: str(value) for key, value in frame.facts().items()}
    values |= {f'class.{index}': name for index, name in enumerate(classes.names)}
    level = 0 if frame.score <= 1 else 1
    bag.write_diagnostics(REASON_TOPIC, stamp_ns,
                          (Status(level, 'uncertainty_seg: kept', frame.reason, values),))
