# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Choose the frames of a score table that are worth a label, with a reason for each.

Of frames that look alike only the most uncertain one can be chosen. The folder OUT gets
selection.parquet (the chosen rows, their rank and reason) and contact_sheet.html
(pictures of them, in one file). The same table, options and seed give the same choice. Strategies:

  uncertainty-diversity  largest score x distance to the nearest frame chosen before
  k-centre               farthest from all chosen before, whatever the score
  top-k                  the most uncertain
  threshold              every frame above --limit, the most uncertain first
  random                 by lot: the control, and what calibrate wants

A frame that could not be scored counts as most uncertain and comes first (not for random).

"""

from __future__ import annotations

import argparse
from pathlib import Path

from uncertainty_seg.cli.arguments import call_with, positive_number, print_json, whole_number
from uncertainty_seg.cli.browse import say

# As data.strategies has them, which needs numpy; the first is the default.
STRATEGIES = ('uncertainty-diversity', 'k-centre', 'top-k', 'threshold', 'random')
SHEET, _MOST_PICTURES = 'contact_sheet.html', 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('tables', nargs='+', type=Path, metavar='TABLE',
                        help='score table (folder or part), of one model and its settings')
    parser.add_argument('-n', '--count', type=whole_number(1), required=True, metavar='N',
                        help='frames wanted')
    parser.add_argument('-o', '--out', type=Path, default=Path('selection'),
                        help='folder to write [selection]')
    parser.add_argument('--force', action='store_true', help='replace a selection that is in OUT')
    parser.add_argument('--control', type=whole_number(1), default=0, metavar='N',
                        help='frames to draw by chance besides, to measure on: labels import puts '
                        'them into the split control, which nothing is trained on')
    parser.add_argument('--strategy', choices=STRATEGIES, default=STRATEGIES[0],
                        help=f'how to choose [{STRATEGIES[0]}]')
    parser.add_argument('--score', metavar='NAME',
                        help='score to choose by [score_ratio; entropy.mean of a bundle without '
                        'a calibration]')
    parser.add_argument('--seed', type=whole_number(0), default=0, help='of the lots [0]')
    parser.add_argument('--limit', type=float, metavar='X',
                        help='of threshold [1 for score_ratio]')
    parser.add_argument('--labelled', nargs='+', type=Path, default=[], metavar='TABLE',
                        help='table or selection of frames that have labels: they and what looks '
                             'like them are left out; distances count from them')
    parser.add_argument('--per-dive', type=whole_number(1), metavar='M',
                        help='frames that a dive may give')
    parser.add_argument('--min-gap', type=positive_number(or_zero=True), metavar='SECONDS',
                        help='least time between two frames chosen from one dive; pictures of a '
                             'folder count as 1 s apart [of videos, for strategies with '
                             'distances, half of an even spread; else 0]')
    parser.add_argument('--min-distance', type=whole_number(0, 32), default=12,
                        metavar='BITS',
                        help='frames whose perceptual hashes differ in fewer of their 64 bits '
                             'look alike; 0: none do [12]')
    parser.add_argument('--root', type=Path, metavar='DIR',
                        help='folder that holds the bags, folders and logs now, for the pictures, '
                        'if they were moved since they were scored')


def run(args: argparse.Namespace) -> int:
    """
    Choose and write. Returns 0, also if there were fewer frames than wanted, which is reported.

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
