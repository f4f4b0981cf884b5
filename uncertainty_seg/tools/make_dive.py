# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Render a synthetic pipeline inspection dive into a rosbag2 bag.

Topics: /camera/image_raw (bgr8), /camera/camera_info, /ground_truth/mask (mono8, 255 is "not
known"), /ground_truth/event (String). The same options give the same bytes, whatever the number
of workers.

"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from uncertainty_seg.tools.arguments import image_size, positive_number, print_json, whole_number

HELP = 'render a synthetic dive with ground truth into a bag'
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
    Render; see the module.

    Returns
    -------
    int
        0.

    Raises
    ------
    UncertaintySegError
        If the bag cannot be written or an option is out of range.

    """
    from uncertainty_seg.tools.dive_bag import write_dive

    options = dive_options(args)
    num_frames = write_dive(args.out_bag, options, args.workers, args.storage, args.force)
    print_json({'verb': 'make-dive', 'out_bag': args.out_bag, 'frames': num_frames,
                'seed': options.seed, 'rate_hz': options.rate_hz})
    return 0
