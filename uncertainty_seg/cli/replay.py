# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the model over a recorded bag and write what the node would have published.

Every image goes through the same pipeline as in the node, without ROS. Outputs carry the stamps of
their images; the same bag, model and seed give the same bytes. An unusable frame is counted,
reported and written as not confident.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
import sys
import time

from uncertainty_seg.cli.arguments import (
    add_settings,
    call_with,
    print_json,
    settings_from_args,
)
from uncertainty_seg.errors import BagError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('in_bag', metavar='IN_BAG', type=Path,
                        help='bag with images, or folder of images')
    parser.add_argument('out_bag', metavar='OUT_BAG', type=Path, help='bag to write')
    parser.add_argument('--topic', help='image topic, required if the bag has several cameras')
    parser.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap',
                        help='format of OUT_BAG [mcap]')
    parser.add_argument('--maps', action='store_true',
                        help='also write the uncertainty map, the map unknown (32FC1) and the '
                        'confidence (mono8)')
    parser.add_argument('--views', action='store_true', help='also write heatmap and overlay')
    parser.add_argument('--force', action='store_true', help='replace an existing bag OUT_BAG')
    add_settings(parser, names_model=True)


def run(args: argparse.Namespace) -> int:
    """
    Replay; see the module.

    Returns 0 even with bad frames, which are in the output as not confident. Raises
    UncertaintySegError if a bag, the model or a setting cannot be used, or the input ended early.
    """
    from uncertainty_seg.data.replay import replay

    start_s = time.perf_counter()
    report = call_with(replay, args, settings=settings_from_args(args))
    for problem in report.problems:
        print(f'bad {problem}', file=sys.stderr)
    print(f'{report.num_frames} frames, {report.num_confident} confident, {report.num_bad} bad, '
          f'in {time.perf_counter() - start_s:.1f} s -> {args.out_bag}')
    said = {name: value for name, value in asdict(report).items() if name != 'problems'}
    print_json({'verb': 'replay', 'in_bag': args.in_bag, 'out_bag': args.out_bag, **said})
    if report.broke_off:
        kept = f'the {report.num_frames} frames before it are in {args.out_bag}'
        raise BagError(f'{report.broke_off} Input ended early; {kept}')
    return 0
