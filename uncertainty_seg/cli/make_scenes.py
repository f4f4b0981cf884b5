# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Render labelled pipeline scenes to train on: images, masks, classes and splits in a folder.

The same arguments give the same bytes.

"""

from __future__ import annotations

import argparse
from pathlib import Path

from uncertainty_seg.cli.arguments import image_size, print_json, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('folder', type=Path, help='a new folder')
    parser.add_argument('--count', type=whole_number(2), default=1760, help='scenes [1760]')
    parser.add_argument('--ood', type=whole_number(0), default=0,
                        help='scenes with unknown objects and turbid water, in ood/ [0]')
    parser.add_argument('--seed', type=whole_number(0), default=1, help='[1]')
    parser.add_argument('--size', type=image_size, default=(512, 384), help='[512x384]')
    parser.add_argument('--workers', type=whole_number(1, 256), default=2, help='processes [2]')


def run(args: argparse.Namespace) -> int:
    """Render and say how many."""
    from uncertainty_seg.sim.dataset import write_dataset

    write_dataset(args.folder, args.count, seed=args.seed, size=args.size, workers=args.workers,
                  splits={'train': 0.89, 'val': 0.11}, ood=args.ood)
    print_json({'folder': str(args.folder), 'scenes': args.count, 'ood': args.ood})
    return 0
