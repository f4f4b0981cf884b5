# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels as bags: image, mask and uncertainty of each frame, with their stamps.

For viewers, and for `ros2 bag play`. One bag a dive, since dives may have equal stamps; several
cameras have topics of their own. A compressed image is stored as it was received; a diagnostics
message says why a frame was kept. Bags are not read back.

"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from uncertainty_seg.core.status import Status
from uncertainty_seg.data.labels.frames import LabelFrame, safe_name
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.bags.writer import BagWriter, compressed_message, diagnostics_message
from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.review_record import TABLE_FILE
from uncertainty_seg.storage.whole_files import move_up

IMAGE_TOPIC = '/camera/image_raw'
COMPRESSED_TOPIC = '/camera/image_raw/compressed'
# The node's topics, so that viewer layouts for it work with an export too.
MASK_TOPIC = '/uncertainty_seg/mask'
UNCERTAINTY_TOPIC = '/uncertainty_seg/uncertainty'
REASON_TOPIC = '/uncertainty_seg/kept'


def write_labels(
    folder: Path, frames: Iterable[LabelFrame], classes: ClassTable, storage: str
) -> None:
    """
    Write a bag, or a bag for each dive if there are several.

    Raises DatasetError if the frames of a dive are not consecutive.

    Parameters
    ----------
    folder : Path
        An empty folder; it becomes the bag, or the folder of the bags.
    frames : iterable of LabelFrame
        Dive by dive; within a dive in any order, since a reader sorts by time.
    classes : ClassTable
        Names, which every diagnostics message contains.
    storage : str
        'mcap' or 'sqlite3'.

    """
    bags: dict[str, Path] = {}
    for dive, group in groupby(frames, key=lambda frame: frame.dive):
        if dive in bags:
            raise DatasetError(f'the frames of dive {dive!r} are not consecutive',
                               'dive by dive')
        bags[dive] = _free_place(folder, dive)
        with BagWriter(bags[dive], storage) as bag:
            for frame in group:
                _write(bag, frame, classes)
    if len(bags) == 1:
        move_up(next(iter(bags.values())))


def topic_of(name: str, camera: str) -> str:
    """
    Return the node's topic for one of several cameras.

    `name` is the topic of a single camera, which has the name ''. Camera 'front' makes
    '/uncertainty_seg/front/mask' of `MASK_TOPIC` and '/front/image_raw' of `IMAGE_TOPIC`.
    """
    if not camera:
        return name
    room, _, rest = name.removeprefix('/').partition('/')
    return f'/{camera}/{rest}' if room == 'camera' else f'/{room}/{camera}/{rest}'


def _free_place(folder: Path, dive: str) -> Path:
    """Return the place for the bag of a dive; different dives may have equal safe names."""
    name, count = safe_name(dive), 1
    # The table of the export is written beside the bags.
    taken = {path.name for path in folder.iterdir()} | {TABLE_FILE}
    while name in taken:
        count += 1
        name = f'{safe_name(dive)}_{count}'
    return folder / name


def _write(bag: BagWriter, frame: LabelFrame, classes: ClassTable) -> None:
    stamp_ns, frame_id, camera = frame.stamp_ns, frame.frame_id, frame.camera
    if frame.ending == '.jpg':
        message = compressed_message(stamp_ns, frame_id, 'jpeg', frame.image_file)
        bag.write(topic_of(COMPRESSED_TOPIC, camera), message, stamp_ns)
    else:
        bag.write_image(topic_of(IMAGE_TOPIC, camera), stamp_ns, frame_id, frame.image(), 'bgr8')
    bag.write_image(topic_of(MASK_TOPIC, camera), stamp_ns, frame_id, frame.mask, 'mono8')
    if frame.uncertainty is not None:
        bag.write_image(topic_of(UNCERTAINTY_TOPIC, camera), stamp_ns, frame_id,
                        frame.uncertainty, '32FC1')
    values = {key: str(value) for key, value in frame.facts().items()}
    values |= {f'class.{index}': name for index, name in enumerate(classes.names)}
    level = 0 if frame.score <= 1 else 1
    status = Status(level, 'uncertainty_seg: kept', frame.reason, values)
    bag.write(topic_of(REASON_TOPIC, camera), diagnostics_message(stamp_ns, (status,)), stamp_ns)
