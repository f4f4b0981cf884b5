# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the model over a recorded bag and write what the node would have published.

The same pipeline as the node's, over every image, without ROS. Outputs carry the stamps of their
images; the same bag, model and seed give the same bytes. A frame that cannot be used is counted,
reported and written as not confident.

"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
import sys
import time

from uncertainty_seg.errors import BagError
from uncertainty_seg.tools.arguments import add_settings, print_json, settings_from_args

HELP = 'run the model over a bag; write mask, flag, score and status to another bag'

SETTINGS = ('model', 'backend', 'threads', 'passes', 'seed', 'mask_policy',
            'precision', 'map')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('in_bag', metavar='IN_BAG', type=Path, help='bag with images')
    parser.add_argument('out_bag', metavar='OUT_BAG', type=Path, help='bag to write')
    parser.add_argument('--topic', help='image topic, if the bag has several')
    parser.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap',
                        help='format of OUT_BAG [mcap]')
    parser.add_argument('--maps', action='store_true',
                        help='write the uncertainty map (32FC1) and the confidence (mono8) too')
    parser.add_argument('--views', action='store_true', help='write heatmap and overlay too')
    parser.add_argument('--force', action='store_true', help='replace OUT_BAG if it is a bag')
    add_settings(parser, SETTINGS)


def run(args: argparse.Namespace) -> int:
    """
    Replay; see the module.

    Returns
    -------
    int
        0, bad frames or not: they are in the output as not confident.

    Raises
    ------
    UncertaintySegError
        If a bag, the model or a setting cannot be used, or the input broke off.

    """
    from uncertainty_seg.tools.replay_bag import replay_bag
    from uncertainty_seg.tools.replay_outputs import OutputChoice

    settings = settings_from_args(args, SETTINGS)
    start_s = time.perf_counter()
    report = replay_bag(
        args.in_bag, args.out_bag, settings, args.topic, args.storage,
        OutputChoice(args.maps, args.views), is_overwriting=args.force,
    )
    for problem in report.problems:
        print(f'bad {problem}', file=sys.stderr)
    print(f'{report.num_frames} frames, {report.num_confident} confident, {report.num_bad} bad, '
          f'in {time.perf_counter() - start_s:.1f} s -> {args.out_bag}')
    print_json({'verb': 'replay', 'in_bag': args.in_bag, 'out_bag': args.out_bag,
                **dataclasses.asdict(report)})
    if report.broke_off:
        kept = f'the {report.num_frames} frames before it are in {args.out_bag}'
        raise BagError(f'{report.broke_off} Input ended early; {kept}')
    return 0
