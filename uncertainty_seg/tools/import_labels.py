# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Bring corrected labels back as a folder that `train`, `calibrate` and `evaluate` read.

LABELS is what the tool exported, or the corrected export itself. Images, classes and dives come
from the folder that export-labels wrote, which is LABELS, the folder around it, or --frames. A
dive is never split; frames that nobody labelled are left out and counted.

"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
import sys

from uncertainty_seg.errors import ConfigError, DatasetError
from uncertainty_seg.tools.arguments import print_json, rate, whole_number

MISUSE = (ConfigError, DatasetError)
# As label_formats has them, which imports OpenCV; a test compares.
FORMATS = ('coco', 'cvat', 'label-studio', 'labelme', 'folder')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('labels', metavar='LABELS', type=Path,
                        help='file or folder that the labelling tool exported')
    parser.add_argument('out', metavar='OUT', type=Path, help='new training folder to write')
    # Not `choices`: argparse would print its usage before the sentence.
    parser.add_argument('--format', required=True, dest='kind', metavar='FORMAT',
                        help=f'what LABELS is: {", ".join(FORMATS)}')
    parser.add_argument('--frames', type=Path, metavar='DIR',
                        help='folder that export-labels wrote [LABELS, or the folder around it]')
    parser.add_argument('--shares', nargs='+', metavar='SPLIT=SHARE',
                        default=['train=0.8', 'val=0.2'],
                        help='splits and their shares of the frames [train=0.8 val=0.2]')
    parser.add_argument('--seed', type=whole_number(0), default=0,
                        help='decides between splits that are equally good [0]')


def run(args: argparse.Namespace) -> int:
    """
    Import; see the module. Returns 0.

    Raises UncertaintySegError if labels do not fit to the export, none is there, or OUT is not
    empty.
    """
    from tqdm import tqdm

    from uncertainty_seg.storage.labels.formats import find_table, new_folder, READERS
    from uncertainty_seg.storage.labels.frames import read_table
    from uncertainty_seg.storage.labels.training import write_training_folder

    if args.kind not in FORMATS:
        raise ConfigError(f'--format {args.kind}', f'one of {", ".join(FORMATS)}')
    if not args.labels.exists():
        raise DatasetError(f'no labels at {args.labels}', 'what the labelling tool exported')
    shares = dict(_share(text) for text in args.shares)
    if len(shares) < len(args.shares):
        raise ConfigError('--shares names a split twice', 'each once')
    table = read_table(find_table(args.labels, args.frames))
    bar = tqdm(READERS[args.kind](args.labels, table), total=len(table.rows), desc='import',
               unit='frame', disable=None)
    with new_folder(args.out) as work:
        done = write_training_folder(work, table, bar, shares, args.seed)
    empty = [name for name, count in done.splits.items() if count == 0]
    if empty:
        print(f'warning: {done.dives} dives for {len(shares)} splits, so {", ".join(empty)} is '
              f'empty: label frames of another dive.', file=sys.stderr)
    counts = ', '.join(f'{name} {count}' for name, count in done.splits.items())
    print(f'{done.frames} frames of {done.dives} dives ({counts}), {done.unlabelled} not labelled '
          f'-> {args.out}')
    print_json({'verb': 'import-labels', 'format': args.kind, 'out': args.out,
                **dataclasses.asdict(done)})
    return 0


def _share(text: str) -> tuple[str, float]:
    name, _, number = text.partition('=')
    try:
        return name, 1.0 if number in ('1', '1.0') else rate(number)
    except argparse.ArgumentTypeError:
        raise ConfigError(f'--shares {text}', 'a split and its share, such as train=0.8') from None
