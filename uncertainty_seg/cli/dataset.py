# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Keep labelled frames in a dataset that grows: a folder of plain files with versions.

Everything that reads a labelled folder reads it: train, calibrate, evaluate, crossfit and compare.
A dive is in one split, which follows from its name and stays as data is added. An addition is part
of the dataset whole or not at all. Frames that nobody reviewed are refused.

"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from uncertainty_seg.cli.arguments import print_json, whole_number
from uncertainty_seg.errors import ConfigError, DatasetError
from uncertainty_seg.storage.progress import progress

if TYPE_CHECKING:
    from uncertainty_seg.data.dataset.book import DatasetBook, DatasetFrame
    from uncertainty_seg.data.dataset.growth import Growth
    from uncertainty_seg.data.dataset.upkeep import HandEdits

MISUSE = (ConfigError, DatasetError)
# As storage.dataset has them, which imports OpenCV; a test compares.
SPLITS = ('train', 'val', 'test')
SPLIT_CHOICES = (*SPLITS, 'given')
PREFER_CHOICES = ('new', 'old')
# Frames of other splits that differ in fewer bits of their perceptual hash are reported; `select`
# takes such frames for the same view.
_NEAR_BITS = 12
_ROWS = 256  # of new frames that are compared at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    init = actions.add_parser('init', help='make an empty dataset')
    init.add_argument('folder', metavar='DIR', type=Path, help='a new folder')
    init.add_argument('--val-share', type=float, default=0.2, metavar='SHARE',
                      help='of the dives for val; cannot be changed later [0.2]')
    init.add_argument('--test-share', type=float, default=0.0, metavar='SHARE',
                      help='of the dives for test; cannot be changed later [0]')
    init.add_argument('--classes', type=Path, metavar='FILE',
                      help='table of classes, JSON or YAML [that of what is added first]')
    add = actions.add_parser('add', help='add a labelled folder, an import or another dataset')
    add.add_argument('folder', metavar='DIR', type=Path, help='the dataset')
    add.add_argument('source', metavar='FOLDER', type=Path, help='what to add; it is only read')
    add.add_argument('--dive', default='', metavar='NAME',
                     help='of the frames whose dive is not known [each stands alone]')
    # Not `choices`: argparse would print its usage before the sentence.
    add.add_argument('--split', default='', metavar='SPLIT',
                     help='where new dives go: train, val, test, or given, as FOLDER has them [by '
                     'the name of the dive]')
    add.add_argument('--prefer', default='', metavar='WHICH',
                     help='where an image has another mask already: new or old [refuse]')
    add.add_argument('--labeller', default='', metavar='WHO',
                     help='of the frames that do not say who labelled them')
    add.add_argument('-m', '--words', default='', help='why, for the list of versions')
    status = actions.add_parser('status', help='print splits, classes, versions, edits by hand')
    status.add_argument('folder', metavar='DIR', type=Path, help='the dataset')
    status.add_argument('--accept', action='store_true',
                        help='make a version of what was edited by hand')
    export = actions.add_parser('export', help='write a version as a labelled folder')
    export.add_argument('folder', metavar='DIR', type=Path, help='the dataset')
    export.add_argument('out', metavar='OUT', type=Path, help='a new folder')
    export.add_argument('--version', type=whole_number(1), dest='number', metavar='K',
                        help='number of the version [the last]')


def run(args: argparse.Namespace) -> int:
    """
    Do what is asked for; see the module. Returns 0.

    Raises DatasetError if a folder is no dataset, or what is added cannot be part of it.
    """
    {'init': _init, 'add': _add, 'status': _status, 'export': _export}[args.action](args)
    return 0


def _init(args: argparse.Namespace) -> None:
    from uncertainty_seg.data.dataset.book import init_dataset, SplitShares
    from uncertainty_seg.storage.labelled_folder import read_classes

    classes = read_classes(args.classes) if args.classes else None
    init_dataset(args.folder, SplitShares(args.val_share, args.test_share), classes)
    print(f'an empty dataset -> {args.folder}')
    _print(args, version=0, frames=0)


def _add(args: argparse.Namespace) -> None:
    from uncertainty_seg.data.dataset.book import locked_book
    from uncertainty_seg.data.dataset.growth import add_folder, AddRules

    for option, value, known in (('--split', args.split, SPLIT_CHOICES),
                                 ('--prefer', args.prefer, PREFER_CHOICES)):
        if value not in ('', *known):
            raise ConfigError(f'{option} {value}', f'one of {", ".join(known)}')
    rules = AddRules(args.dive, args.split, args.prefer, args.labeller, args.words)
    with locked_book(args.folder) as book:
        grown = add_folder(book, args.source, rules,
                           lambda stems: progress(stems, desc='dataset add'))
    for remark in (*grown.remarks, *_near(grown), *_empty(grown.book)):
        print(f'warning: {remark}.', file=sys.stderr)
    _report(args, grown)


def _near(grown: Growth) -> Iterable[str]:
    """Say which new frames look like one of another split; not for images without any content."""
    from uncertainty_seg.data.selection.near_duplicates import bits_apart

    new = [one for one in grown.added if int(one.phash, 16)]
    rest = [one for one in grown.book.present if int(one.phash, 16)]
    pairs = []
    for start in range(0, len(new), _ROWS):
        part = new[start:start + _ROWS]
        near = bits_apart(_hashes(part)[:, None], _hashes(rest)) < _NEAR_BITS
        pairs += [(part[i], rest[j]) for i, j in zip(*near.nonzero(), strict=True)
                  if part[i].split != rest[j].split]
    if pairs:
        count = len({one.stem for one, _ in pairs})
        one, other = pairs[0]
        yield f'{count} new frames look like one in another split (the first is {one.stem!r} in ' \
            f'{one.split}, as {other.stem!r} in {other.split}): if they are of one dive, give ' \
            'both one name'


def _hashes(frames: Sequence[DatasetFrame]) -> Any:
    import numpy as np

    return np.array([int(one.phash, 16) for one in frames], np.uint64)


def _empty(book: DatasetBook) -> Iterable[str]:
    wanted = {'train': 1.0, 'val': book.shares.val, 'test': book.shares.test}
    there = {one.split for one in book.present}
    for split in SPLITS:
        if wanted[split] > 0 and split not in there:
            yield f'{split} is empty: of few dives none may fall to it; add more, or put a new ' \
                f'dive there with --split {split}'


def _report(args: argparse.Namespace, grown: Growth) -> None:
    book = grown.book
    counts = Counter(one.split for one in grown.added)
    parts = [f'{_dives(grown.added)} are new ({_counted(counts)})',
             f'{grown.same} were there already']
    more = ((grown.replaced, 'have a new mask'), (grown.kept, 'keep their old mask'),
            (grown.drawn, 'are now known to be drawn by chance'))
    parts += [f'{count} {what}' for count, what in more if count]
    print(f'{"; ".join(parts)} -> version {book.number} of {args.folder}, '
          f'{len(book.present)} frames')
    _print(args, version=book.number, frames=len(book.present), added=len(grown.added),
           same=grown.same, replaced=grown.replaced, kept=grown.kept, drawn=grown.drawn,
           splits=_splits(book))


def _status(args: argparse.Namespace) -> None:
    from uncertainty_seg.data.dataset.book import locked_book
    from uncertainty_seg.data.dataset.upkeep import accept_edits, hand_edits

    with locked_book(args.folder) as book:
        if args.accept:
            book = accept_edits(book)
        edits = hand_edits(book)
    for line in _lines_of(book, edits):
        print(line)
    reviews = [one.review for one in book.present]
    _print(args, version=book.number, frames=len(reviews), splits=_splits(book),
           dives=len(_names(book.present)), classes=_classes(book),
           reviewed=sum(one.reviewed for one in reviews),
           control=sum(one.origin == 'control' for one in reviews),
           edited=edits.changed, missing=edits.missing, tables=edits.tables,
           strays=len(edits.strays))


def _lines_of(book: DatasetBook, edits: HandEdits) -> Iterable[str]:
    frames = book.present
    yield f'version {book.number}: {_dives(frames)}'
    for split in SPLITS:
        inside = [one for one in frames if one.split == split]
        drawn = sum(one.review.origin == 'control' for one in inside)
        yield f'{split}: {_dives(inside)}, {drawn} drawn by chance'
    for name, found in _classes(book).items():
        yield f'class {name}: {found["share"]:.1%} of the pixels; frames: ' \
            f'{_counted(found["frames"])}'
    for what, field in (('labelled by', 'labeller'), ('reviewed', 'evidence')):
        counts = Counter(getattr(one.review, field) or 'nobody named' for one in frames)
        if counts:
            yield f'{what}: {_counted(counts)}'
    for one in book.versions:
        yield f'version {one.version}, {one.date}: +{one.added} -{one.removed}, {one.frames} ' \
            f'frames: {one.words}'
    if edits:
        yield f'edited by hand since: {edits}'
    if edits.strays:
        yield f'in no version: {len(edits.strays)} files ({edits.strays[0]} ...)'


def _classes(book: DatasetBook) -> dict[str, Any]:
    """Return for each class its share of the known pixels, and the frames that have it."""
    names = book.classes.names if book.classes else ()
    pixels, frames = Counter[str](), {name: Counter[str]() for name in names}
    for one in book.present:
        for index, name in enumerate(names):
            count = one.pixels.get(str(index), 0)
            pixels[name] += count
            frames[name][one.split] += bool(count)
    total = max(1, pixels.total())
    return {name: {'share': pixels[name] / total, 'frames': dict(frames[name])} for name in names}


def _splits(book: DatasetBook) -> dict[str, int]:
    return {split: sum(one.split == split for one in book.present) for split in SPLITS}


def _names(frames: Sequence[DatasetFrame]) -> set[str]:
    return {one.review.dive for one in frames if one.review.dive}


def _dives(frames: Sequence[DatasetFrame]) -> str:
    """Say how many frames of how many dives there are."""
    alone = sum(not one.review.dive for one in frames)
    return f'{len(frames)} frames of {len(_names(frames))} dives' + \
        (f' ({alone} of no dive)' if alone else '')


def _counted(counts: Mapping[str, int]) -> str:
    return ', '.join(f'{name} {count}' for name, count in sorted(counts.items())) or 'none'


def _export(args: argparse.Namespace) -> None:
    from uncertainty_seg.data.dataset.book import locked_book
    from uncertainty_seg.data.dataset.upkeep import export_version
    from uncertainty_seg.data.labels.formats import new_folder

    with locked_book(args.folder) as book:
        number = args.number or book.number
        with new_folder(args.out) as work:
            count = export_version(book, number, work)
    print(f'version {number} of {args.folder}, {count} frames -> {args.out}')
    _print(args, version=number, frames=count, out=args.out)


def _print(args: argparse.Namespace, **values: Any) -> None:
    print_json({'verb': 'dataset', 'action': args.action, 'dataset': args.folder, **values})
