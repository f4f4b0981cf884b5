# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the model over many bags, folders and frame logs; one row a frame in a table (Parquet).

Each row has every score, the gate's verdict, the share of each class, a hash and a vector of
features: what `select` chooses from. The table is a folder of parts, one for each topic of a bag,
each folder, each log. A second run makes only what is missing or whose source, model or settings
have changed. Frames that cannot be read are counted and left out.

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
import time
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import (
    add_settings,
    call_with,
    print_json,
    settings_from_args,
    whole_number,
)
from uncertainty_seg.errors import BagError

if TYPE_CHECKING:
    from uncertainty_seg.core.settings import Settings
    from uncertainty_seg.data.scoring.run import ScoreSummary



def score(
    inputs: Path | str | Sequence[Path | str],
    table: Path | str,
    *,
    settings: Settings | None = None,
    topics: Sequence[str] = (),
    dive: str = '',
    stride: int = 1,
    workers: int = 1,
    ray: str | None = None,
) -> ScoreSummary:
    """
    Score the frames of bags, folders of pictures and frame logs into a table, one row a frame.

    Parameters
    ----------
    inputs : Path, str or sequence of them
        Bags, folders of pictures, frame logs, or folders of such.
    table : Path or str
        Folder of the table; what is finished in it is kept.
    settings : Settings, optional
        Model, backend, T, seed, mask policy, precision, reduction and ignore mask; every
        score is computed.
    topics : sequence of str
        Image topics of the bags; needed where a bag has several.
    dive : str
        Name of the dive that all inputs are of; empty takes the name of each folder.
    stride : int
        Score each `stride`-th frame only.
    workers : int
        Processes on this machine.
    ray : str, optional
        Address of a Ray cluster ('auto' for the one of this machine), instead of `workers`.

    Returns
    -------
    ScoreSummary
        Counts; sources that could not be read are in ``broken``.

    Raises
    ------
    UncertaintySegError
        If nothing is found, or the model, the table or a setting cannot be used. What is finished
        by then is kept.

    """
    from uncertainty_seg.backends.opening import checked_settings
    from uncertainty_seg.data.scoring.run import require_engines, RunChoice, score_sources

    choice = RunChoice(workers, ray, stride, dive.strip())
    require_engines(choice)
    paths = [inputs] if isinstance(inputs, (str, Path)) else inputs
    return score_sources([Path(path) for path in paths], topics, Path(table),
                         checked_settings(settings), choice)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('inputs', metavar='INPUT', type=Path, nargs='+',
                        help='bag, folder of pictures, frame log, or a folder of such')
    parser.add_argument('--out', dest='table', metavar='TABLE', type=Path, required=True,
                        help='folder of the table; what is finished in it is kept')
    parser.add_argument('--topic', dest='topics', action='append', default=[],
                        help='image topic; give it again for more; each is a shard of its own')
    parser.add_argument('--dive', metavar='NAME', default='',
                        help='name of the dive that all INPUTs are of [the folder of each]')
    parser.add_argument('--stride', type=whole_number(1), default=1, metavar='N',
                        help='score each N-th frame only [1]')
    machines = parser.add_mutually_exclusive_group()
    machines.add_argument('--workers', type=whole_number(1, 256), default=1, metavar='N',
                          help='processes on this machine, a shard each [1]')
    machines.add_argument('--ray', metavar='auto|ADDRESS',
                          help='score on a Ray cluster; its machines must share all paths')
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """
    Score; see the module. Returns 0, bad frames or not: they are counted.

    Raises UncertaintySegError if nothing can be read, the model, the table or a setting cannot be
    used; and, after all the others are finished, if a source cannot be read or broke off.
    """
    start_s = time.perf_counter()
    summary = call_with(score, args, settings=settings_from_args(args))
    seconds = time.perf_counter() - start_s
    for problem in summary.problems:
        print(f'bad {problem}', file=sys.stderr)
    print(f'{summary.num_scored} frames in {seconds:.1f} s '
          f'({summary.num_scored / seconds:.1f} a second), {summary.num_frames} in all, '
          f'{summary.num_bad} bad -> {args.table}')
    print_json({'verb': 'score', 'table': args.table, **summary.as_dict()})
    if summary.broken:
        more = f' (and {len(summary.broken) - 1} more)' if len(summary.broken) > 1 else ''
        raise BagError(f'{summary.broken[0].rstrip(".")}{more}; the {summary.num_frames} frames '
                       f'that could be read are in {args.table}')
    return 0
