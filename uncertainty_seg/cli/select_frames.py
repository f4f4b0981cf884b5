# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Choose the frames of a score table that are worth a label, with a reason for each.

Of near duplicates only the most uncertain one can be chosen. The folder OUT gets
selection.parquet (the chosen rows with rank and reason) and contact_sheet.html (their pictures in
one file). The same table, options and seed give the same choice. Strategies:

  uncertainty-diversity  largest score x distance to the nearest frame chosen before
  k-centre               farthest from all chosen before, whatever the score
  top-k                  the most uncertain
  threshold              every frame above --limit, the most uncertain first
  random                 a random draw: the control, and the input for calibrate

A frame that could not be scored counts as most uncertain and comes first (not for random).
"""

import argparse
from pathlib import Path

from uncertainty_seg.cli.arguments import call_with, print_json, whole_number
from uncertainty_seg.cli.browse import say

# As in data.strategies, which needs numpy; the first is the default.
STRATEGIES = ('uncertainty-diversity', 'k-centre', 'top-k', 'threshold', 'random')
SHEET, _MOST_PICTURES = 'contact_sheet.html', 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('tables', nargs='+', type=Path, metavar='TABLE',
                        help='score table (folder or part); all of one model and settings')
    parser.add_argument('-n', '--count', type=whole_number(1), required=True, metavar='N',
                        help='number of frames to select')
    parser.add_argument('-o', '--out', type=Path, default=Path('selection'),
                        help='output folder [selection]')
    parser.add_argument('--force', action='store_true', help='replace an existing selection')
    parser.add_argument('--control', type=whole_number(1), default=0, metavar='N',
                        help='number of additional random frames to measure on: labels import '
                        'puts them into the split control, which is never trained on')
    parser.add_argument('--strategy', choices=STRATEGIES, default=STRATEGIES[0],
                        help=f'selection strategy [{STRATEGIES[0]}]')
    parser.add_argument('--score', metavar='NAME',
                        help='score to rank by [score_ratio; entropy.mean without a calibration]')
    parser.add_argument('--seed', type=whole_number(0), default=0, help='random seed [0]')
    parser.add_argument('--limit', type=float, metavar='X',
                        help='for the strategy threshold: lowest score [1 for score_ratio]')
    parser.add_argument('--labelled', nargs='+', type=Path, default=[], metavar='TABLE',
                        help='tables or selections of labelled frames: these and their near '
                             'duplicates are left out, and distances include them')
    parser.add_argument('--per-dive', type=whole_number(1), metavar='M',
                        help='maximum number of frames per dive')
    parser.add_argument('--min-gap', type=float, metavar='SECONDS',
                        help='minimum time between two selected frames of a dive; images of a '
                             'folder count as 1 s apart [for videos and strategies with distances '
                             'half of an even spread, else 0]')
    parser.add_argument('--min-distance', type=whole_number(0, 32), default=12,
                        metavar='BITS',
                        help='frames are near duplicates if their perceptual hashes differ in '
                             'fewer of 64 bits; 0: none are [12]')
    parser.add_argument('--root', type=Path, metavar='DIR',
                        help='new folder of the bags, folders and logs, if they were moved after '
                        'scoring; used for the pictures')


def run(args: argparse.Namespace) -> int:
    """
    Choose and write. Returns 0, also for fewer frames than wanted, which is reported.

    Raises TableError if a table cannot be read, or is of another model; ConfigError if an option
    does not fit the table, or no frame is left to choose.
    """
    from uncertainty_seg.data.browse import browse
    from uncertainty_seg.data.selection import select

    found = call_with(select, args)
    page = browse(args.out, args.out / SHEET, most=_MOST_PICTURES, score=args.score,
                  root=args.root, force=True)
    say([*found.remarks, *page.remarks])
    beside = f', {found.num_control} of them control frames' if found.num_control else ''
    print(f'{len(found.selection.rows)} of {len(found.candidates)} frames{beside} -> {args.out}')
    print_json({'verb': 'select', 'out': args.out, **found.summary(),
                'pictures_missing': page.pictures_missing})
    return 0
