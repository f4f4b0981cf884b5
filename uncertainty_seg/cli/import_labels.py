# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Bring corrected labels back as a folder that `train`, `calibrate` and `evaluate` read.

LABELS is what the tool exported, or the corrected export itself; there may be several, of several
labellers. Images, classes and dives come from the folder that export-labels wrote, which is
LABELS, the folder around it, or --frames. A dive is never split; frames that nobody labelled are
left out and counted. A mask that came back as it was exported is refused unless the tool marks its
frame as finished: a mask that nobody corrected proves nothing. Two public datasets are read as
they are laid out, without an export.

"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import dataclasses
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import print_json, rate, whole_number
from uncertainty_seg.errors import ConfigError, DatasetError
from uncertainty_seg.storage.progress import progress

if TYPE_CHECKING:
    from uncertainty_seg.data.labels.frames import ExportedFrames
    from uncertainty_seg.data.labels.regions import Labelled
    from uncertainty_seg.data.labels.review import ReviewRules
    from uncertainty_seg.data.labels.training import TrainingFolder

MISUSE = (ConfigError, DatasetError)
# As label_formats has them, which imports OpenCV; a test compares.
FORMATS = ('coco', 'cvat', 'label-studio', 'labelme', 'folder', 'fiftyone')
PUBLIC, ANNOTATIONS = ('subpipe', 'marinapipe'), ('fine', 'coarse')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('labels', metavar='LABELS', type=Path, nargs='+',
                        help='file or folder that the labelling tool exported, or of a public '
                        'dataset')
    parser.add_argument('out', metavar='OUT', type=Path, help='new training folder to write')
    # Not `choices`: argparse would print its usage before the sentence.
    parser.add_argument('--format', required=True, dest='kind', metavar='FORMAT',
                        help=f'what LABELS is: {", ".join(FORMATS)}, or a public dataset: '
                        f'{", ".join(PUBLIC)}')
    parser.add_argument('--frames', type=Path, metavar='DIR',
                        help='folder that export-labels wrote [LABELS, or the folder around it]')
    unchanged = parser.add_mutually_exclusive_group()
    unchanged.add_argument('--accept-unchanged', action='store_true',
                           help='masks that came back as they were exported: a person looked at '
                           'each of them')
    unchanged.add_argument('--skip-unchanged', action='store_true',
                           help='leave those frames out')
    parser.add_argument('--prefer', default='', metavar='WHO',
                        help='where the masks of two labellers differ, take those of WHO: one of '
                        'LABELS, or a labeller by the name in the file')
    parser.add_argument('--shares', nargs='+', metavar='SPLIT=SHARE',
                        default=['train=0.8', 'val=0.2'],
                        help='splits and their shares of the frames [train=0.8 val=0.2]')
    parser.add_argument('--seed', type=whole_number(0), default=0,
                        help='decides between splits that are equally good [0]')
    public = parser.add_argument_group('public datasets')
    public.add_argument('--annotation', metavar='WHICH', default='',
                        help=f'of marinapipe: {" or ".join(ANNOTATIONS)} [{ANNOTATIONS[0]}]')
    public.add_argument('--parts', type=whole_number(1, 1000), metavar='N', default=1,
                        help='cut each chunk or video into N parts of time, which count as dives '
                        '[1]')


def run(args: argparse.Namespace) -> int:
    """
    Import; see the module. Returns 0.

    Raises UncertaintySegError if labels do not fit to the export, none is there, or OUT is not
    empty.
    """
    from uncertainty_seg.data.labels.formats import find_table, new_folder
    from uncertainty_seg.data.labels.frames import read_table
    from uncertainty_seg.data.labels.training import write_training_folder

    if args.kind not in (*FORMATS, *PUBLIC):
        raise ConfigError(f'--format {args.kind}', f'one of {", ".join((*FORMATS, *PUBLIC))}')
    _require_options_of_the_format(args)
    for place in args.labels:
        if not place.exists():
            raise DatasetError(f'no labels at {place}', 'what the labelling tool exported')
    shares = dict(_share(text) for text in args.shares)
    if len(shares) < len(args.shares):
        raise ConfigError('--shares names a split twice', 'each once')
    if args.kind in PUBLIC:
        return _import_public(args, shares)
    table = read_table(find_table(args.labels[0], args.frames))
    bar = progress(_labels(args, table), desc='import', total=len(table.rows))
    with new_folder(args.out) as work:
        done = write_training_folder(work, table, bar, shares, args.seed, _rules(args))
    _report(args, done)
    return 0


def _require_options_of_the_format(args: argparse.Namespace) -> None:
    is_public = args.kind in PUBLIC
    for option, is_given, is_known in (
            ('--frames', args.frames, not is_public), ('--prefer', args.prefer, not is_public),
            ('--accept-unchanged', args.accept_unchanged, not is_public),
            ('--skip-unchanged', args.skip_unchanged, not is_public),
            ('--annotation', args.annotation, args.kind == 'marinapipe'),
            ('--parts', args.parts > 1, is_public)):
        if is_given and not is_known:
            raise ConfigError(f'{option} with --format {args.kind}', 'a format that has it',
                              'leave it out')
    if args.annotation not in ('', *ANNOTATIONS):
        raise ConfigError(f'--annotation {args.annotation}', f'one of {", ".join(ANNOTATIONS)}')


def _import_public(args: argparse.Namespace, shares: dict[str, float]) -> int:
    from uncertainty_seg.data.labels.formats import new_folder
    from uncertainty_seg.data.labels.public import find_public, write_public

    frames, remarks = find_public(args.kind, args.labels, args.annotation or ANNOTATIONS[0])
    for remark in remarks:
        print(f'warning: {remark}.', file=sys.stderr)
    with new_folder(args.out) as work:
        done = write_public(work, progress(frames, desc='import'), args.kind, shares, args.seed,
                            args.parts)
    _report(args, done)
    return 0


def _labels(args: argparse.Namespace, table: ExportedFrames) -> Iterator[tuple[str, Labelled]]:
    from uncertainty_seg.data.labels.formats import READERS

    for place in args.labels:
        for one in READERS[args.kind](place, table):
            yield str(place), one


def _rules(args: argparse.Namespace) -> ReviewRules:
    from uncertainty_seg.data.labels.formats import HOW_TO_MARK
    from uncertainty_seg.data.labels.review import ReviewRules, Unchanged

    unchanged = Unchanged.ACCEPT if args.accept_unchanged else \
        Unchanged.SKIP if args.skip_unchanged else Unchanged.REFUSE
    return ReviewRules(unchanged, args.prefer, HOW_TO_MARK[args.kind])


_MORE_DIVES = ('label frames of another dive', 'cut them with --parts, or add another dataset')


def _report(args: argparse.Namespace, done: TrainingFolder) -> None:
    empty = [name for name, count in done.splits.items() if count == 0]
    if empty:
        print(f'warning: {done.dives} dives for {len(done.splits)} splits, so {", ".join(empty)} '
              f'is empty: {_MORE_DIVES[args.kind in PUBLIC]}.', file=sys.stderr)
    if done.control_skipped:
        print(f'warning: {done.control_skipped} control frames came back unchanged and were left '
              'out: the others are no longer drawn by chance, since the model was wrong on them, '
              'and all count as selected. Mark frames whose masks are right as finished, or give '
              '--accept-unchanged.', file=sys.stderr)
    if done.control_unlabelled:
        print(f'warning: {done.control_unlabelled} frames that were drawn by chance have no '
              f'label. If that is because of what they show, the {done.control} others do not '
              'stand for the dive, and calibrate promises too much on them: label these too, with '
              'unknown pixels where nobody can tell.', file=sys.stderr)
    counts = ', '.join(f'{name} {count}' for name, count in done.splits.items())
    how = ', '.join(f'{count} {name}' for name, count in sorted(done.reviewed.items()))
    skipped = f' ({done.skipped} of them came back unchanged)' if done.skipped else ''
    print(f'{done.frames} frames of {done.dives} dives ({counts}): {how}; {done.control} drawn by '
          f'chance; {done.unlabelled} not labelled{skipped} -> {args.out}')
    print_json({'verb': 'import-labels', 'format': args.kind, 'out': args.out,
                **dataclasses.asdict(done)})


def _share(text: str) -> tuple[str, float]:
    name, _, number = text.partition('=')
    try:
        return name, 1.0 if number in ('1', '1.0') else rate(number)
    except argparse.ArgumentTypeError:
        raise ConfigError(f'--shares {text}', 'a split and its share, such as train=0.8') from None
