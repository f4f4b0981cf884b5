# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Render a synthetic pipeline inspection: a dive into a bag, or labelled scenes to train on.

A dive has the topics /camera/image_raw (bgr8), /camera/camera_info, /ground_truth/mask (mono8, 255
is unknown) and /ground_truth/event (String). Scenes are a labelled folder: images, masks, classes
and splits. The same options give the same bytes.
"""

import argparse
from pathlib import Path

from uncertainty_seg.cli.arguments import call_with, image_size, print_json, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    kinds = parser.add_subparsers(dest='kind', metavar='WHAT', required=True)
    dive = kinds.add_parser('dive', help='a dive of one camera along a pipe, as a bag')
    dive.add_argument('out_bag', metavar='OUT_BAG', type=Path, help='bag to write')
    add_dive_arguments(dive)
    dive.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap',
                      help='format of the bag [mcap]')
    dive.add_argument('--force', action='store_true', help='replace OUT_BAG if it is a bag')
    scenes = kinds.add_parser('scenes', help='single labelled scenes, as a folder')
    scenes.add_argument('folder', metavar='FOLDER', type=Path, help='a new folder')
    scenes.add_argument('--count', type=whole_number(2), default=1760, help='scenes [1760]')
    scenes.add_argument('--ood', type=whole_number(0), default=0,
                        help='number of out-of-distribution scenes of each kind, in ood/ [0]')
    scenes.add_argument('--seed', type=whole_number(0), default=1, help='random seed [1]')
    scenes.add_argument('--size', type=image_size, default=(512, 384), metavar='WIDTHxHEIGHT',
                        help='pixels [512x384]')


def add_dive_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of a dive."""
    parser.add_argument('--seed', type=whole_number(0, 2**31 - 1), default=1,
                        help='random seed of the dive [1]')
    parser.add_argument('--duration', type=float, default=40.0,
                        help='length in seconds, up to 600 [40]')
    parser.add_argument('--rate', type=float, default=8.0,
                        help='frames per second [8]')
    parser.add_argument('--size', type=image_size, default=(640, 480), metavar='WIDTHxHEIGHT',
                        help='pixels [640x480]')


def run(args: argparse.Namespace) -> int:
    """Render; see the module. Returns 0."""
    if args.kind == 'dive':
        from uncertainty_seg.sim.dive import simulate_dive

        num_frames = call_with(simulate_dive, args)
        print(f'{num_frames} frames of a dive -> {args.out_bag}')
        print_json({'out_bag': args.out_bag, 'frames': num_frames, 'seed': args.seed,
                    'rate_hz': args.rate})
        return 0
    from uncertainty_seg.sim.dataset import simulate_scenes

    call_with(simulate_scenes, args)
    print(f'{args.count} labelled scenes, {args.ood} of another kind -> {args.folder}')
    print_json({'folder': args.folder, 'scenes': args.count, 'ood': args.ood})
    return 0
