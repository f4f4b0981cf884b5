# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Hand frames and the model's masks to a labelling tool.

The frames are those of frame logs, as the vehicle kept them, or of a selection, whose images are
read from their bags and whose masks the model makes again. Formats: coco, cvat (images 1.1),
label-studio, labelme, folder (images and masks), fiftyone, yolo (segmentation), voc, mcap and
rosbag2. Every frame carries its dive, its score and the reason it is there. Corrected labels come
back by import-labels.

"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import print_json
from uncertainty_seg.errors import (
    ConfigError,
    DatasetError,
    FrameLogError,
    ModelBundleError,
    TableError,
)
from uncertainty_seg.storage.progress import progress

if TYPE_CHECKING:
    from uncertainty_seg.data.selection.export_sources import FrameFeed

MISUSE = (ConfigError, DatasetError, FrameLogError, ModelBundleError, TableError)
# As label_formats and frame_log_format have them, which import OpenCV; a test compares.
FORMATS = ('coco', 'cvat', 'label-studio', 'labelme', 'folder', 'fiftyone', 'yolo', 'voc', 'mcap',
           'rosbag2')
SHAPES, WITH_SHAPES = ('masks', 'instances', 'polygons'), ('coco', 'cvat', 'labelme')
REASONS = ('flagged', 'window', 'control', 'trigger')
_PROBLEMS_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument('inputs', metavar='INPUT', nargs='+', type=Path,
                        help='frame logs, or one selection (selection.parquet or its folder)')
    parser.add_argument('out', metavar='OUT', type=Path, help='new folder to write')
    # Not `choices`: argparse would print its usage before the sentence.
    parser.add_argument('--format', required=True, dest='kind', metavar='FORMAT',
                        help=f'what to write: {", ".join(FORMATS)}')
    parser.add_argument('--reasons', nargs='+', default=(), metavar='REASON',
                        help='logs: only frames that were kept for these: '
                        f'{", ".join(REASONS)} [all]')
    parser.add_argument('--image-prefix', default='', metavar='TEXT',
                        help='label-studio: address of the images up to their names, such as '
                        '"/data/local-files/?d=dive_7/images/" [images inside the tasks]')
    parser.add_argument('--shapes', default=SHAPES[0], metavar='SHAPES',
                        help='coco, cvat, labelme: masks, one for each class; instances, a mask '
                        'for each part of a class; or polygons, one for each part [masks]')
    parser.add_argument('--model', metavar='BUNDLE',
                        help='selection: where the bundle that scored it is now')
    parser.add_argument('--root', type=Path, metavar='DIR',
                        help='selection: folder that holds the bags, folders and logs now, if '
                        'they were moved since they were scored')
    parser.add_argument('--backend', help='selection: what runs the bundle [as it was scored]')


def run(args: argparse.Namespace) -> int:
    """
    Export; see the module. Returns 0.

    Frames that cannot be used are left out, counted, and reported on stderr. Raises
    UncertaintySegError if an input is of no known kind, nothing can be exported, or OUT is not
    empty.
    """
    from uncertainty_seg.data.labels.formats import write_export

    _require_known('--format', [args.kind], FORMATS)
    _require_known('--reasons', args.reasons, REASONS)
    _require_known('--shapes', [args.shapes], SHAPES)
    if args.shapes != SHAPES[0] and args.kind not in WITH_SHAPES:
        raise ConfigError(f'--shapes {args.shapes} with the format {args.kind}',
                          f'one of {", ".join(WITH_SHAPES)}')
    if args.image_prefix and args.kind != 'label-studio':
        raise ConfigError(f'--image-prefix with the format {args.kind}', 'label-studio')
    feed = _feed(args)
    bar = progress(feed.frames, desc='export', total=feed.total)
    try:
        rows = write_export(args.out, args.kind, bar, feed.classes, args.image_prefix,
                            args.shapes)
    except DatasetError:
        _show(feed.left_out.sentences)
        raise
    _show(feed.left_out.sentences)
    print(f'{len(rows)} frames, {feed.left_out.frames} left out -> {args.out}')
    print_json({
        'verb': 'export-labels', 'format': args.kind, 'out': args.out, 'frames': len(rows),
        'left_out': feed.left_out.frames, 'dives': dict(Counter(row.dive for row in rows)),
        'classes': list(feed.classes.names)})
    return 0


def _feed(args: argparse.Namespace) -> FrameFeed:
    from uncertainty_seg.data.labels.formats import BAGS
    from uncertainty_seg.data.selection.export_sources import frames_of_logs

    has_uncertainty = args.kind in (*BAGS, 'fiftyone')
    selections = [path for path in args.inputs if _is_selection(path)]
    if not selections:
        _require_unused(args, ('model', 'backend', 'root'), 'frame logs, which hold their masks',
                        'a selection')
        return frames_of_logs([_log(path) for path in args.inputs], has_uncertainty, args.reasons)
    if len(args.inputs) > 1:
        raise ConfigError(f'{len(args.inputs)} inputs with the selection {selections[0]}',
                          'one selection alone, or frame logs')
    _require_unused(args, ('reasons',), f'the selection {selections[0]}', 'frame logs')
    from uncertainty_seg.data.selection.export_sources import frames_of_selection

    return frames_of_selection(selections[0], has_uncertainty, args.model, args.backend,
                               args.root)


def _require_known(option: str, words: Sequence[str], known: Sequence[str]) -> None:
    strange = [word for word in words if word not in known]
    if strange:
        raise ConfigError(f'{option} {strange[0]}', f'one of {", ".join(known)}')


def _require_unused(
    args: argparse.Namespace, options: Sequence[str], inputs: str, wanted: str
) -> None:
    for option in options:
        if getattr(args, option):
            raise ConfigError(f'--{option} with {inputs}', f'it with {wanted} alone',
                              'leave it out')


def _is_selection(path: Path) -> bool:
    return path.suffix == '.parquet' or (path / 'selection.parquet').is_file()


def _log(path: Path) -> Path:
    from uncertainty_seg.storage.frame_log.format import FRAMES_FOLDER

    if not (path / FRAMES_FOLDER).is_dir():
        came = f'{path} is missing' if not path.exists() else \
            f'{path} is neither a frame log nor a selection'
        raise DatasetError(came, f'a folder with {FRAMES_FOLDER}/, or selection.parquet',
                           'the output folder comes last')
    return path


def _show(problems: Sequence[str]) -> None:
    for problem in problems[:_PROBLEMS_SHOWN]:
        print(f'left out: {" ".join(problem.split())}', file=sys.stderr)
    if len(problems) > _PROBLEMS_SHOWN:
        print(f'and {len(problems) - _PROBLEMS_SHOWN} more', file=sys.stderr)
