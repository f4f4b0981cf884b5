# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Choose the frames of a score table that are worth a label, with a reason for each.

Of frames that look alike only the most uncertain one can be chosen. The folder OUT gets
selection.parquet and selection.csv (the chosen rows, their rank and reason) and contact_sheet.html
(pictures of them, in one file). The same table, options and seed give the same choice. Strategies:

  uncertainty-diversity  largest score^beta x distance to the nearest frame chosen before
  power-bald             drawn without replacement, score^beta as weight
  threshold              every frame above --limit, the most uncertain first
  top-k                  the most uncertain
  k-centre               farthest from all chosen before, whatever the score
  class-balanced         for the class with least so far, by its share x percentile of the score
  random                 by lot, to compare with

A frame that could not be scored counts as most uncertain and comes first (not for random).

"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import call_with, print_json, whole_number
from uncertainty_seg.errors import ConfigError, require_libraries, TableError

if TYPE_CHECKING:
    from uncertainty_seg.data.selection.run import SelectionOutcome

MISUSE = (ConfigError, TableError)
# As in analysis.selection_pool, which needs numpy; the first one is the default.
STRATEGIES = ('uncertainty-diversity', 'power-bald', 'threshold', 'top-k', 'k-centre',
              'class-balanced', 'random')
# Columns of vectors in a table.
DISTANCES = ('features', 'embedding')


def select(
    tables: Path | str | Sequence[Path | str],
    count: int,
    out: Path | str | None = None,
    *,
    strategy: str = STRATEGIES[0],
    score: str | None = None,
    beta: float = 1.0,
    seed: int = 0,
    limit: float | None = None,
    limit_quantile: float = 0.95,
    labelled: Path | str | Sequence[Path | str] = (),
    per_dive: int | float | None = None,
    min_gap: float | None = None,
    min_distance: int = 12,
    min_feature_distance: float = 0.0,
    distances: str = DISTANCES[0],
    unscored: str = 'first',
    force: bool = False,
    sheet: int = 500,
    root: Path | str | None = None,
    masks: bool = True,
) -> SelectionOutcome:
    """
    Choose the frames of score tables that are worth a label, with a reason for each.

    Parameters
    ----------
    tables : Path, str or sequence of them
        Score tables (folders or parts), of one model and its settings.
    count : int
        Frames wanted.
    out : Path or str, optional
        Folder to write the selection to; nothing is written without.
    strategy : str
        One of `STRATEGIES`; the command line describes them.
    score : str, optional
        Score to choose by; without it 'score_ratio', or 'entropy.mean' of a bundle without a
        calibration.
    beta : float
        Power of the score as a weight; 0 ignores it.
    seed : int
        Of the random choices.
    limit : float, optional
        Of the strategy 'threshold'; 1 for 'score_ratio', else see `limit_quantile`.
    limit_quantile : float
        Without `limit`: this quantile of the labelled scores.
    labelled : Path, str or sequence of them
        Tables or selections of frames that have labels. They and frames like them are left out;
        distances and classes count from them.
    per_dive : int or float, optional
        Frames that a dive may give, at most: a number, or (a float up to 1) a share of `count`.
    min_gap : float, optional
        Least time between two frames chosen from one dive, in seconds. Without it the strategies
        with distances spread over the time of videos: half the time that a dive has for each of
        its frames, and less where that leaves too few.
    min_distance : int
        Frames whose perceptual hashes differ in fewer of their 64 bits are duplicates; 0: none.
    min_feature_distance : float
        So are frames whose embeddings by the network have a smaller cosine distance; 0: none.
    distances : str
        Vectors of the table that strategies with distances use, one of `DISTANCES`.
    unscored : str
        'first' or 'skip': frames that could not be scored.
    force : bool
        Replace a selection that is in `out`.
    sheet : int
        Pictures on the contact sheet; 0 writes none.
    root : Path or str, optional
        Folder that holds the sources now, for the pictures, if they were moved.
    masks : bool
        With mask and heatmap of each picture, where the model of the table can be opened.

    Returns
    -------
    SelectionOutcome
        Rows, reasons and counts; remarks are sentences worth reading.

    Raises
    ------
    TableError
        If a table cannot be read, or is of another model.
    ConfigError
        If an option does not fit the table, no frame is left to choose, or `out` is taken.

    """
    from uncertainty_seg.data.selection.run import select_frames
    from uncertainty_seg.data.selection.sheet import require_place, write_selection, write_sheet
    from uncertainty_seg.storage.frame_sources import Whereabouts

    places = Whereabouts(_paths(tables)[0], None if root is None else Path(root))
    if out is not None:
        if sheet:
            require_libraries('jinja2')
        require_place(Path(out), force)
    found = select_frames(
        _paths(tables), count, strategy=strategy, score=score, beta=beta, seed=seed, limit=limit,
        limit_quantile=limit_quantile, labelled=_paths(labelled), per_dive=per_dive,
        min_gap_s=min_gap, min_distance=min_distance, skips_unscored=unscored == 'skip',
        min_feature_distance=min_feature_distance, distances=distances)
    if out is None:
        return found
    files = write_selection(Path(out), found)
    missing, changed = write_sheet(Path(out), found, sheet, places, masks)
    return replace(found, files=(*files, *(['contact_sheet.html'] if sheet else ())),
                   pictures_missing=missing, pictures_changed=changed)


def _paths(places: Path | str | Sequence[Path | str]) -> list[Path]:
    return [Path(path) for path in ([places] if isinstance(places, (str, Path)) else places)]


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
    parser.add_argument('--beta', default=1.0,
                        help='power of the score as a weight; 0 ignores it [1]')
    parser.add_argument('--seed', default=0, help='of the lots [0]')
    parser.add_argument('--limit', metavar='X',
                        help='of threshold [1 for score_ratio; see --limit-quantile]')
    parser.add_argument('--limit-quantile', default=0.95, metavar='Q',
                        help='without --limit: this quantile of the --labelled scores [0.95]')
    parser.add_argument('--labelled', nargs='+', type=Path, default=[], metavar='TABLE',
                        help='table or selection of frames that have labels: they and what looks '
                             'like them are left out; distances and classes count from them')
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
    parser.add_argument('--unscored', choices=('first', 'skip'), default='first',
                        help='frames that could not be scored [first]')
    parser.add_argument('--sheet', default=500, metavar='K',
                        help='pictures on the contact sheet; 0 writes none [500]')
    parser.add_argument('--root', type=Path, metavar='DIR',
                        help='folder that holds the bags, folders and logs now, for the pictures, '
                        'if they were moved since they were scored')
    parser.add_argument('--no-masks', dest='masks', action='store_false',
                        help='leave mask and heatmap out of the contact sheet, for which the '
                             'model of the table is run')


def run(args: argparse.Namespace) -> int:
    """
    Choose and write. Returns 0, also if there were fewer frames than wanted, which is reported.

    Raises TableError if a table cannot be read, or is of another model; ConfigError if an option
    does not fit the table, or no frame is left to choose.
    """
    _read_numbers(args)
    found = call_with(select, args)
    for sentence in found.remarks:
        print(sentence, file=sys.stderr)
    if found.pictures_changed:
        print(f'{found.pictures_changed} of the frames are other pictures now than those that '
              'were scored: score their sources again.', file=sys.stderr)
    print(f'{len(found.selection.rows)} of {found.selection.num_candidates} frames -> {args.out}')
    print_json({'verb': 'select', 'out': args.out, **found.summary(), 'files': found.files,
                'pictures_missing': found.pictures_missing,
                'pictures_changed': found.pictures_changed})
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


def _from_zero(text: str) -> float:
    value = _number(text)
    if not 0 <= value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text}, expected a number from 0 up')
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text}, expected a number from 0 to 1')
    return value


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
    'count': whole_number(1), 'beta': _from_zero, 'seed': whole_number(0), 'limit': _number,
    'limit_quantile': _share, 'per_dive': _cap, 'min_gap': _from_zero,
    'min_distance': whole_number(0, 32), 'min_feature_distance': _share, 'sheet': whole_number(0),
}
