# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Keep labelled frames in a growing dataset: a labelled folder to which imports are added.

train, calibrate and evaluate read it like any labelled folder. Each dive is in one split, which
follows from its name and never changes. An addition is written completely or not at all.
Unreviewed frames are refused. All files are plain, so git or DVC can keep versions.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from uncertainty_seg.cli.arguments import call_with, print_json
from uncertainty_seg.cli.labels import read_shares

if TYPE_CHECKING:
    from uncertainty_seg.data.dataset import Dataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    add = actions.add_parser('add', help='add a labelled folder, an import or another dataset')
    add.add_argument('folder', metavar='DIR', type=Path, help='the dataset, or a new folder')
    add.add_argument('source', metavar='FOLDER', type=Path, help='folder to add; stays unchanged')
    add.add_argument('--dive', default='', metavar='NAME',
                     help='dive of frames whose dive is unknown [each frame is its own dive]')
    add.add_argument('--split', default='',
                     help="split of new dives [by a hash of the dive's name]")
    add.add_argument('--replace', action='store_true',
                     help='replace the mask of an image that has another one [refuse]')
    add.add_argument('--shares', nargs='+', metavar='SPLIT=SHARE',
                     help='for a new dataset: splits and their shares of the dives, fixed from '
                     'then on; limits is for calibrate [train=0.7 val=0.15 limits=0.15]')
    status = actions.add_parser('status', help='print the splits and their dives')
    status.add_argument('folder', metavar='DIR', type=Path, help='the dataset')


def run(args: argparse.Namespace) -> int:
    """Run the action and return 0; DatasetError if a folder is no dataset, or cannot be added."""
    {'add': _add, 'status': _status}[args.action](args)
    return 0


def _add(args: argparse.Namespace) -> None:
    from uncertainty_seg.data.dataset import dataset_add

    grown = call_with(dataset_add, args, shares=read_shares(args.shares) if args.shares else None)
    dataset = grown.dataset
    for remark in grown.remarks:
        print(f'warning: {remark}.', file=sys.stderr)
    splits = Counter(dataset.frames[stem].split for stem in grown.added)
    counts = ', '.join(f'{name} {count}' for name, count in sorted(splits.items())) or 'none'
    print(f'{len(grown.added)} frames are new ({counts}); {grown.same} were there '
          f'already; {grown.replaced} have a new mask -> {args.folder}, {len(dataset.frames)} '
          'frames')
    _print(args, frames=len(dataset.frames), added=len(grown.added), same=grown.same,
           replaced=grown.replaced, splits=_splits(dataset))


def _status(args: argparse.Namespace) -> None:
    from uncertainty_seg.data.dataset import read_dataset

    dataset = read_dataset(args.folder)
    frames = dataset.frames.values()
    for split in dataset.splits:
        inside = [one.review for one in frames if one.split == split]
        drawn = sum(one.origin == 'control' for one in inside)
        dives = len({one.dive for one in inside if one.dive})
        print(f'{split}: {len(inside)} frames of {dives} dives, {drawn} drawn at random')
    _print(args, frames=len(frames), splits=_splits(dataset),
           dives=len({one.review.dive for one in frames if one.review.dive}),
           control=sum(one.review.origin == 'control' for one in frames))


def _splits(dataset: Dataset) -> dict[str, int]:
    return {split: sum(one.split == split for one in dataset.frames.values())
            for split in dataset.splits}


def _print(args: argparse.Namespace, **values: Any) -> None:
    print_json({'verb': 'dataset', 'action': args.action, 'dataset': args.folder, **values})
