# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Export frames with the model's masks to a labelling tool, and import the corrected labels.

``export`` reads frame logs, or a selection, whose images come from their bags and whose masks the
model computes again. ``import`` reads the output of the tool, of one or several labellers, and
writes a folder that train, calibrate and evaluate read. A dive is never split. A mask that came
back unchanged is refused unless the tool marks its frame as finished, since a mask that nobody
corrected always agrees with the model. Formats: coco, label-studio, folder (images and masks),
fiftyone; datumaro converts COCO from and to the formats of other tools.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import call_with, print_json, rate
from uncertainty_seg.cli.browse import say
from uncertainty_seg.errors import ConfigError

if TYPE_CHECKING:
    from uncertainty_seg.data.label_review import ImportSummary

# As in data.label_formats and the frame log, which import OpenCV; a test compares them.
FORMATS = ('coco', 'label-studio', 'folder', 'fiftyone')
REASONS = ('flagged', 'window', 'control', 'trigger')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    export = actions.add_parser('export', help='write frames and masks for a labelling tool')
    export.add_argument('inputs', metavar='INPUT', nargs='+', type=Path,
                        help='frame logs, or one selection (selection.parquet or its folder)')
    export.add_argument('out', metavar='OUT', type=Path, help='new folder to write')
    # Without `choices`, for which argparse would print its usage before the sentence.
    export.add_argument('--format', required=True, dest='kind', metavar='FORMAT',
                        help=f'format to write: {", ".join(FORMATS)}')
    export.add_argument('--reasons', nargs='+', default=(), metavar='REASON',
                        help=f'logs: only frames kept for these: {", ".join(REASONS)} [all]')
    export.add_argument('--image-prefix', default='', metavar='TEXT',
                        help='label-studio: URL prefix of the images, such as '
                        '"/data/local-files/?d=dive_7/images/" [images are inside the tasks]')
    export.add_argument('--root', type=Path, metavar='DIR',
                        help='for a selection: new folder of the bags, folders, logs and the '
                        'model, if they were moved after scoring')
    back = actions.add_parser('import', help='bring corrected labels back')
    back.add_argument('labels', metavar='LABELS', type=Path, nargs='+',
                      help='file or folder that the labelling tool exported')
    back.add_argument('out', metavar='OUT', type=Path, help='new training folder to write')
    back.add_argument('--format', required=True, dest='kind', metavar='FORMAT',
                      help=f'format of LABELS: {", ".join(FORMATS)}')
    back.add_argument('--frames', type=Path, metavar='DIR',
                      help='folder written by export [LABELS, or its parent]')
    unchanged = back.add_mutually_exclusive_group()
    unchanged.add_argument('--accept-unchanged', dest='unchanged', action='store_const',
                           const='accept', default='refuse',
                           help='accept unchanged masks, because a person looked at each of them')
    unchanged.add_argument('--skip-unchanged', dest='unchanged', action='store_const',
                           const='skip', help='leave frames with unchanged masks out')
    back.add_argument('--shares', nargs='+', metavar='SPLIT=SHARE',
                      default=['train=0.8', 'val=0.2'],
                      help='splits and their shares of the frames; a dive is never split '
                           '[train=0.8 val=0.2]')


def run(args: argparse.Namespace) -> int:
    """
    Export or import; see the module. Returns 0.

    Raises UncertaintySegError if an input is of an unknown kind, labels do not match the export,
    there is nothing to write, or OUT is not empty.
    """
    {'export': _export, 'import': _import}[args.action](args)
    return 0


def _export(args: argparse.Namespace) -> None:
    from uncertainty_seg.data.label_sources import export_labels
    from uncertainty_seg.data.selection import LeftOut

    if args.image_prefix and args.kind != 'label-studio':
        raise ConfigError(f'--image-prefix with the format {args.kind}', 'label-studio')
    left_out = LeftOut()
    try:
        rows = call_with(export_labels, args, left_out=left_out)
    finally:
        say(left_out.sentences)
    print(f'{len(rows)} frames, {left_out.frames} left out -> {args.out}')
    print_json({
        'verb': 'labels', 'action': 'export', 'format': args.kind, 'out': args.out,
        'frames': len(rows), 'left_out': left_out.frames,
        'dives': len({row.dive for row in rows})})


def _import(args: argparse.Namespace) -> None:
    from uncertainty_seg.data.label_review import import_labels

    done = call_with(import_labels, args, shares=read_shares(args.shares))
    _warn(done)
    counts = ', '.join(f'{name} {count}' for name, count in done.splits.items())
    how = ', '.join(f'{count} {name}' for name, count in sorted(done.reviewed.items()))
    skipped = f' ({done.skipped} of them came back unchanged)' if done.skipped else ''
    print(f'{done.frames} frames of {done.dives} dives ({counts}): {how}; {done.control} drawn at '
          f'random; {done.unlabelled} not labelled{skipped} -> {args.out}')
    print_json({'verb': 'labels', 'action': 'import', 'format': args.kind, 'out': args.out,
                **dataclasses.asdict(done)})


def _warn(done: ImportSummary) -> None:
    empty = [name for name, count in done.splits.items() if count == 0]
    if empty:
        print(f'warning: {done.dives} dives for {len(done.splits)} splits, so {", ".join(empty)} '
              'is empty: label frames of another dive.', file=sys.stderr)
    if done.control_skipped:
        print(f'warning: {done.control_skipped} unchanged control frames were left out. The '
              'others, most of them corrected, are no longer a random sample, so all frames '
              'count as selected. Mark frames with correct masks as finished, or give '
              '--accept-unchanged.', file=sys.stderr)
    if done.control_unlabelled:
        print(f'warning: {done.control_unlabelled} control frames have no label. If they were '
              f'skipped because they are hard, the {done.control} others do not represent the '
              'dive, and thresholds fitted on them are too loose: label these, too, with unknown '
              'pixels where needed.', file=sys.stderr)


def read_shares(texts: Sequence[str]) -> dict[str, float]:
    """Read words of the form ``split=share``; ConfigError for another form or a repeated split."""
    shares: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition('=')
        try:
            share = 1.0 if number in ('1', '1.0') else rate(number)
        except argparse.ArgumentTypeError:
            raise ConfigError(f'--shares {text}',
                              'a split and its share, such as train=0.8') from None
        if name in shares:
            raise ConfigError(f'--shares names {name!r} twice', 'each split once')
        shares[name] = share
    return shares
