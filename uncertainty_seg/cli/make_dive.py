# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Render a synthetic pipeline inspection dive into a rosbag2 bag.

Topics: /camera/image_raw (bgr8), /camera/camera_info, /ground_truth/mask (mono8, 255 is "not
known"), /ground_truth/event (String). The same options give the same bytes, whatever the number
of workers.

"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from functools import lru_cache
import hashlib
import json
from pathlib import Path

from uncertainty_seg.cli.arguments import image_size, positive_number, print_json, whole_number
from uncertainty_seg.storage.progress import progress

UNKNOWN_KINDS = ('diver', 'wreck')


@dataclass(frozen=True)
class DiveOptions:
    """
    Which dive.

    Attributes
    ----------
    seed : int
        Another seed is another dive.
    duration_s, rate_hz : float
        Its length and frames a second.
    size : tuple of int
        Width and height in pixels.
    unknown : str
        The large object never seen in training; a shoal of fish comes in every dive.

    """

    seed: int
    duration_s: float
    rate_hz: float
    size: tuple[int, int]
    unknown: str


def add_dive_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say which dive."""
    parser.add_argument('--seed', type=whole_number(0, 2**31 - 1), default=1,
                        help='another seed is another dive [1]')
    parser.add_argument('--duration', type=positive_number(600), default=40.0,
                        help='length in seconds, up to 600 [40]')
    parser.add_argument('--rate', type=positive_number(120), default=8.0,
                        help='frames a second [8]')
    parser.add_argument('--size', type=image_size, default=(640, 480), metavar='WIDTHxHEIGHT',
                        help='pixels [640x480]')
    parser.add_argument('--unknown', choices=UNKNOWN_KINDS, default=UNKNOWN_KINDS[0],
                        help=f'the large object never seen in training [{UNKNOWN_KINDS[0]}]')


def dive_options(args: argparse.Namespace) -> DiveOptions:
    """Collect the arguments that say which dive."""
    return DiveOptions(args.seed, args.duration, args.rate, args.size, args.unknown)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('out_bag', metavar='OUT_BAG', type=Path, help='bag to write')
    add_dive_arguments(parser)
    parser.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap',
                        help='format of the bag [mcap]')
    parser.add_argument('--workers', type=whole_number(1, 64), default=2,
                        help='processes that render [2]')
    parser.add_argument('--force', action='store_true', help='replace OUT_BAG if it is a bag')


def run(args: argparse.Namespace) -> int:
    """
    Render; see the module. Returns 0.

    Raises UncertaintySegError if the bag cannot be written or an option is out of range.
    """
    options = dive_options(args)
    num_frames = write_dive(args.out_bag, options, args.workers, args.storage, args.force)
    print_json({'verb': 'make-dive', 'out_bag': args.out_bag, 'frames': num_frames,
                'seed': options.seed, 'rate_hz': options.rate_hz})
    return 0


# -------------------------------------------------------------------------------------------------
# Render a dive into a bag, and know a bag that holds a certain dive already.

INFO_TOPIC = '/camera/camera_info'
FRAME_ID = 'camera_optical_frame'
RECEIPT_FILE = 'dive.json'


def write_dive(
    path: Path, options: DiveOptions, workers: int, storage: str = 'mcap',
    overwrite: bool = False,
) -> int:
    """
    Render a dive.

    Raises BagError if the bag cannot be written; ConfigError if an option is out of range.

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
    overwrite : bool
        Replace `path` if it is a bag.

    Returns
    -------
    int
        Frames written.

    """
    from uncertainty_seg.sim.demo.timeline import EVENT_TOPIC, IMAGE_TOPIC, TRUTH_TOPIC
    from uncertainty_seg.sim.dive import Dive, render_frames
    from uncertainty_seg.storage.bags.writer import (
        BagWriter,
        camera_info_message,
        PinholeCamera,
        value_message,
    )

    writer = BagWriter(path, storage, overwrite=overwrite)
    dive = Dive(options.seed, duration_s=options.duration_s, rate_hz=options.rate_hz,
                size=options.size, unknown=options.unknown)
    camera = PinholeCamera(*options.size, dive.focal_px)
    with writer:
        for frame in progress(render_frames(dive, min(workers, dive.num_frames)), desc='render',
                              total=dive.num_frames):
            stamp = frame.stamp_ns
            # The event first: who reads the bag in order knows it when the image comes.
            writer.write(EVENT_TOPIC, value_message(frame.event), stamp)
            writer.write_image(IMAGE_TOPIC, stamp, FRAME_ID, frame.image, 'bgr8')
            writer.write(INFO_TOPIC, camera_info_message(stamp, FRAME_ID, camera), stamp)
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
    write_dive(path, options, workers, overwrite=True)
    receipt.write_text(text)
    return True


@lru_cache(maxsize=1)
def _renderer_digest() -> str:
    # A changed renderer gives another dive under the same options.
    from uncertainty_seg import synthetic

    digest = hashlib.sha256()
    for source in sorted(Path(synthetic.__path__[0]).glob('*.py')):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()
