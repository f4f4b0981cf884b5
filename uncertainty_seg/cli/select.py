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
from collections.abc import Callable
from pathlib import Path

from uncertainty_seg.cli.arguments import call_with, positive_number, print_json, whole_number
from uncertainty_seg.cli.browse import say
from uncertainty_seg.errors import ConfigError, TableError

MISUSE = (ConfigError, TableError)
# As data.strategies and data.selection have them, which need numpy; the first is the default.
STRATEGIES = ('uncertainty-diversity', 'k-centre', 'top-k', 'threshold', 'random')
DISTANCES = ('features', 'embedding')
SHEET, _MOST_PICTURES = 'contact_sheet.html', 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('tables', nargs='+', type=Path, metavar='TABLE',
                        help='score table (folder or part), of one model and its settings')
    parser.add_argument('-n', '--count', required=True, metavar='N',
                        help='frames wanted')
    parser.add_argument('-o', '--out', type=Path, default=Path('selection'),
                        help='folder to write [selection]')
    parser.add_argument('--force', action='store_true', help='replace a selection that is in OUT')
    parser.add_argument('--strategy', choices=STRATEGIES, default=STRATEGIES[0],
                        help=f'how to choose [{STRATEGIES[0]}]')
    parser.add_argument('--score', metavar='NAME',
                        help='score to choose by [score_ratio; entropy.mean of a bundle without '
                        'a calibration]')
    parser.add_argument('--seed', default=0, help='of the lots [0]')
    parser.add_argument('--limit', metavar='X', help='of threshold [1 for score_ratio]')
    parser.add_argument('--labelled', nargs='+', type=Path, default=[], metavar='TABLE',
                        help='table or selection of frames that have labels: they and what looks '
                             'like them are left out; distances count from them')
    parser.add_argument('--per-dive', metavar='M',
                        help='frames that a dive may give: a number, or a share of N as 20%% '
                             'or 0.2')
    parser.add_argument('--min-gap', metavar='SECONDS',
                        help='least time between two frames chosen from one dive; pictures of a '
                             'folder count as 1 s apart [of videos, for strategies with '
                             'distances, half of an even spread; else 0]')
    parser.add_argument('--min-distance', default=12, metavar='BITS',
                        help='frames whose perceptual hashes differ in fewer of their 64 bits '
                             'look alike; 0: none do [12]')
    parser.add_argument('--min-feature-distance', default=0.0, metavar='D',
                        help='frames whose embeddings by the network have a smaller cosine '
                             'distance look alike too; 0: none do [0]')
    parser.add_argument('--distances', choices=DISTANCES, default=DISTANCES[0],
                        help='vectors of the table that strategies with distances use: what is '
                             'seen, or what the network makes of it [features]')
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

    _read_numbers(args)
    found = call_with(select, args)
    page = browse(args.out, args.out / SHEET, most=_MOST_PICTURES, score=args.score,
                  selection=args.out, root=args.root, force=True)
    say([*found.remarks, *page.remarks])
    print(f'{len(found.selection.rows)} of {found.selection.num_candidates} frames -> {args.out}')
    print_json({'verb': 'select', 'out': args.out, **found.summary(),
                'files': [*found.files, SHEET], 'pictures_missing': page.pictures_missing,
                'pictures_changed': page.pictures_changed})
    return 0


def _read_numbers(args: argparse.Namespace) -> None:
    # Not as types of argparse, which would print its usage before the sentence.
    for name, read in _NUMBERS.items():
        text = getattr(args, name)
        if isinstance(text, str):
            try:
                setattr(args, name, read(text))
            except argparse.ArgumentTypeError as err:
                option = '-n' if name == 'count' else f'--{name.replace("_", "-")}'
                raise ConfigError(f'{option} {err}') from None


def _cap(text: str) -> int | float:
    """Read a number of frames, or a share of all wanted, as a float below 1 or up to 1."""
    value = _number(text[:-1]) / 100 if text.endswith('%') else _number(text)
    is_share = text.endswith('%') or '.' in text
    if is_share and 0 < value <= 1:
        return value
    if not is_share and value >= 1 and value.is_integer():
        return int(value)
    raise argparse.ArgumentTypeError(f'{text}, expected a whole number from 1, or a share of all '
                                     'as 20% or 0.2')


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r}, expected a number') from None


_NUMBERS: dict[str, Callable[[str], float]] = {
    'count': whole_number(1), 'seed': whole_number(0), 'limit': _number, 'per_dive': _cap,
    'min_gap': positive_number(or_zero=True), 'min_distance': whole_number(0, 32),
    'min_feature_distance': positive_number(1.0, or_zero=True),
}
