# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure what a strategy saves: select frames of a labelled pool, train on them, measure, repeat.

RECIPE is the included recipe active, or a YAML file with the keys below. The masks of the pool
stand for the labeller; for real labelling use select. OUT/rounds.csv has one row per round, and
OUT/round-K/network its bundle. To measure the gain of a strategy, run another folder with `--set
strategy=random`.
"""

import argparse
from pathlib import Path
import time

from uncertainty_seg.cli.arguments import call_with, print_json, read_assignments, whole_number
from uncertainty_seg.training.recipes import ActiveRecipe, describe

GOES_ON = 'from the last finished epoch of its round'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('recipe', metavar='RECIPE',
                        help='active, or a .yaml file of the keys below')
    parser.add_argument('--pool', required=True, metavar='DIR[:SPLIT]',
                        help='labelled folder to choose from [its split train]')
    parser.add_argument('--test', required=True, metavar='DIR[:SPLIT]',
                        help='labelled folder to measure on [its split test]')
    parser.add_argument('--out', type=Path, required=True, help='folder of the rounds')
    parser.add_argument('--mix', type=Path, nargs='+', default=[], metavar='DIR',
                        help='labelled folders that every round is also trained on and that cost '
                        'no labels, such as rendered scenes')
    parser.add_argument('--init', default='', metavar='START',
                        help='initial weights of every training, as for train')
    parser.add_argument('--set', dest='assignments', action='append', default=[],
                        metavar='KEY=VALUE', help='one key of the recipe; repeatable')
    parser.add_argument('--threads', type=whole_number(1, 256), default=0,
                        help='CPU threads [2, or 1 on a busy computer]')
    parser.epilog = (f'keys of a recipe [default]:\n{describe(ActiveRecipe)}\n'
                     'those of train: uncertainty_seg train --help').replace('%', '%%')


def run(args: argparse.Namespace) -> int:
    """Run all rounds."""
    from uncertainty_seg.training.active_learning import active_learn

    start_s = time.monotonic()
    rows = call_with(active_learn, args, changes=read_assignments(args.assignments))
    for row in rows:
        print(f'round {row["round"]}: {row["labelled"]} frames labelled, mean IoU '
              f'{row["mean_iou"]:.3f}')
    print_json({'verb': 'active-learn', 'out': str(args.out), 'rounds': len(rows),
                'mean_iou': rows[-1]['mean_iou'],
                'seconds': round(time.monotonic() - start_s, 1)})
    return 0
