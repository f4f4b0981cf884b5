# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Render a dive into a bag, and know a bag that holds a certain dive already."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
import hashlib
import json
from pathlib import Path
import sys

from tqdm import tqdm

from uncertainty_seg.storage.bags import BagWriter, PinholeCamera
from uncertainty_seg.synthetic import dive as dive_module
from uncertainty_seg.synthetic.dive import Dive, render_frames
from uncertainty_seg.tools.demo_frames import TRUTH_TOPIC
from uncertainty_seg.tools.demo_timeline import EVENT_TOPIC, IMAGE_TOPIC
from uncertainty_seg.tools.make_dive import DiveOptions

INFO_TOPIC = '/camera/camera_info'
FRAME_ID = 'camera_optical_frame'
RECEIPT_FILE = 'dive.json'


def write_dive(
    path: Path, options: DiveOptions, workers: int, storage: str = 'mcap',
    is_overwriting: bool = False,
) -> int:
    """
    Render a dive.

    Parameters
    ----------
    path : Path
        Bag to write.
    options : DiveOptions
        Which dive.
    workers : int
        Processes that render.
    storage : str
        'mcap' or 'sqlite3'.
    is_overwriting : bool
        Replace `path` if it is a bag.

    Returns
    -------
    int
        Frames written.

    Raises
    ------
    BagError
        If the bag cannot be written.
    ConfigError
        If an option is out of range.

    """
    writer = BagWriter(path, storage, is_overwriting=is_overwriting)
    dive = Dive(options.seed, duration_s=options.duration_s, rate_hz=options.rate_hz,
                size=options.size, unknown=options.unknown)
    camera = PinholeCamera(*options.size, dive.focal_px)
    with writer:
        for frame in tqdm(render_frames(dive, min(workers, dive.num_frames)),
                          total=dive.num_frames, desc='render', unit='frame', file=sys.stderr,
                          disable=None):
            stamp = frame.stamp_ns
            # The event first: who reads the bag in order knows it when the image comes.
            writer.write_string(EVENT_TOPIC, stamp, frame.event)
            writer.write_image(IMAGE_TOPIC, stamp, FRAME_ID, frame.image, 'bgr8')
            writer.write_camera_info(INFO_TOPIC, stamp, FRAME_ID, camera)
            writer.write_image(TRUTH_TOPIC, stamp, FRAME_ID, frame.mask, 'mono8')
    return dive.num_frames


def ensure_dive(path: Path, options: DiveOptions, workers: int) -> bool:
    """
    Render a dive unless the same one is there.

    Parameters
    ----------
    path : Path
        The bag; replaced if it holds another dive.
    options : DiveOptions
        Which dive.
    workers : int
        Processes that render.

    Returns
    -------
    bool
        True if it had to be rendered.

    """
    receipt = path.parent / RECEIPT_FILE
    wanted = {**dataclasses.asdict(options), 'renderer_sha256': _renderer_digest()}
    text = json.dumps(wanted, indent=2) + '\n'
    if receipt.is_file() and receipt.read_text() == text and path.is_dir():
        return False
    receipt.unlink(missing_ok=True)
    write_dive(path, options, workers, is_overwriting=True)
    receipt.write_text(text)
    return True


@lru_cache(maxsize=1)
def _renderer_digest() -> str:
    # A changed renderer gives another dive under the same options.
    digest = hashlib.sha256()
    for source in sorted(Path(dive_module.__file__).parent.glob('*.py')):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()
