# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the model over many bags, folders and frame logs; write one row per frame to a Parquet table.

Each row has every score, the gate's verdict, the share of each class, a hash and a feature vector;
`select` chooses from them. The table is a folder of parts, one for each topic of a bag, each
folder and each log. A second run computes only parts that are missing or whose source, model or
settings have changed. Unreadable frames are counted and left out.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
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
from uncertainty_seg.cli.browse import say
from uncertainty_seg.errors import BagError

if TYPE_CHECKING:
    from uncertainty_seg.data.scoring import ScoreSummary
GOES_ON = 'with what is not finished: whole parts are kept'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('inputs', metavar='INPUT', type=Path, nargs='+',
                        help='bag, folder of images, frame log, or a folder that contains such')
    parser.add_argument('--out', dest='table', metavar='TABLE', type=Path, required=True,
                        help='folder of the table; finished parts in it are kept')
    parser.add_argument('--topic', dest='topics', action='append', default=[],
                        help='image topic; repeatable, each topic is a separate shard')
    parser.add_argument('--dive', metavar='NAME', default='',
                        help='dive of all INPUTs [the folder of each]')
    parser.add_argument('--stride', type=whole_number(1), default=1, metavar='N',
                        help='score only every N-th frame [1]')
    machines = parser.add_mutually_exclusive_group()
    machines.add_argument('--workers', type=whole_number(1, 256), default=1, metavar='N',
                          help='processes on this machine, one per shard [1]')
    machines.add_argument('--ray', metavar='auto|ADDRESS',
                          help='score on a Ray cluster; its machines must share all paths')
    add_settings(parser, names_model=True)


def run(args: argparse.Namespace) -> int:
    """
    Score; see the module. Returns 0 even with bad frames, which are counted.

    Raises UncertaintySegError if nothing can be read, or the model, the table or a setting cannot
    be used; and, after all others are finished, if a source cannot be read or ended early.
    """
    from uncertainty_seg.data.scoring import score

    start_s = time.perf_counter()
    summary = call_with(score, args, settings=settings_from_args(args))
    seconds = time.perf_counter() - start_s
    for problem in summary.problems:
        print(f'bad {problem}', file=sys.stderr)
    say(_remarks(summary))
    print(f'{summary.num_scored} frames in {seconds:.1f} s '
          f'({summary.num_scored / seconds:.1f} a second), {summary.num_frames} in all, '
          f'{summary.num_bad} unreadable -> {args.table}')
    said = {name: value for name, value in asdict(summary).items()
            if name not in ('problems', 'unread')}
    print_json({'verb': 'score', 'table': args.table, **said, 'broken': len(summary.broken)})
    if summary.broken:
        more = f' (and {len(summary.broken) - 1} more)' if len(summary.broken) > 1 else ''
        raise BagError(f'{summary.broken[0].rstrip(".")}{more}; the {summary.num_frames} frames '
                       f'that could be read are in {args.table}')
    return 0


def _remarks(summary: ScoreSummary) -> list[str]:
    """Return remarks about the frames for the user."""
    remarks = list(summary.unread)
    if summary.num_doubtful:
        remarks.append(f'{summary.num_doubtful} frames look damaged, frozen or out of time: they '
                       'are in the table, not confident, with verdict_reason')
    if summary.num_turned:
        remarks.append(f'{summary.num_turned} photographs are turned by their EXIF: they are '
                       'scored, and exported, as their pixels are stored')
    return remarks
