# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is written down of a dataset that grows, and how a version of it appears whole or not at all.

A dataset is a labelled folder with more files. ``dataset.json`` has the shares of the splits and
never changes; ``frames.jsonl`` has a line a frame, ``versions.jsonl`` a line a version;
``splits.json``, ``blocks.json`` and ``review.json`` follow from the lines of the frames. Images
and masks are only added: a frame that is replaced keeps its line and its files.

A version is made in ``.commit``, which appears by one rename. From then on it is part of the
dataset: what is in it is moved to its place, splits.json last, and a process that dies in between
leaves the rest to the next one. So those who read splits.json see the old version or the new one.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import dataclasses
from dataclasses import dataclass
from datetime import datetime, timezone
import hashlib
import json
import os
from pathlib import Path
import re
import shutil
from typing import Any

from uncertainty_seg.data.labels.folder import CLASSES_FILE, MASKS, write_classes
from uncertainty_seg.data.labels.frames import classes_as_json, IMAGES
from uncertainty_seg.errors import ConfigError, DatasetError
from uncertainty_seg.storage.foreign_files import (
    MAX_JSON_BYTES,
    parse_json,
    plain_name,
    read_bytes,
)
from uncertainty_seg.storage.labelled_folder import (
    BLOCKS_FILE,
    ClassTable,
    DATASET_FILE,
    read_classes,
)
from uncertainty_seg.storage.review_record import (
    FrameReview,
    require_texts,
    REVIEW_FILE,
    review_text,
)
from uncertainty_seg.storage.whole_files import lock_file, rename, sync, whole_folder

FORMAT_VERSION = 1
SPLITS = ('train', 'val', 'test')
FRAMES_FILE, VERSIONS_FILE, SPLITS_FILE = 'frames.jsonl', 'versions.jsonl', 'splits.json'
_COMMIT = '.commit'
# In this order: readers go by the last one, and none of the others lacks a frame of the old one.
_IN_ORDER = (CLASSES_FILE, DATASET_FILE, REVIEW_FILE, BLOCKS_FILE, FRAMES_FILE, VERSIONS_FILE,
             SPLITS_FILE)
DERIVED = (REVIEW_FILE, BLOCKS_FILE, SPLITS_FILE)


@dataclass(frozen=True)
class SplitShares:
    """Shares of the dives that go to val and test, at least 0 and below 1 together."""

    val: float = 0.2
    test: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to train on."""
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise ConfigError(f'shares {self.val:g} of val and {self.test:g} of test',
                              'numbers of at least 0 that leave something for train')

    def split_of(self, key: str) -> str:
        """
        Return the split of a dive or frame by its name alone, today and with any data added.

        The first 8 bytes of the SHA-256 of the name, as a big-endian number over 2^64, are below
        `test`, or below `test` + `val`, or neither.
        """
        digest = hashlib.sha256(key.encode()).digest()
        place = int.from_bytes(digest[:8], 'big') / 2**64
        return 'test' if place < self.test else 'val' if place < self.test + self.val else 'train'


@dataclass(frozen=True)
class DatasetFrame:
    """
    A line of ``frames.jsonl``.

    Attributes
    ----------
    stem, image : str
        Name without ending, of the mask too; file name of the image.
    split : str
        One of `SPLITS`.
    source : str
        Folder that it came from, without a path.
    added, since : int
        Version that it came with, and from which on the files are as they are now.
    removed : int or None
        Version from which on it is not in the dataset any more.
    image_sha256, mask_sha256 : str
        Of the files.
    pixels_sha256, ids_sha256 : str
        Of the decoded image, and of the class ids of the mask, with their sizes.
    phash : str
        Perceptual hash of the image, 16 hex digits.
    pixels : mapping of str to int
        Pixels of each id in the mask.
    review : FrameReview
        What is known of the labels; its fields are in the same line.

    """

    stem: str
    image: str
    split: str
    source: str
    added: int
    since: int
    removed: int | None
    image_sha256: str
    mask_sha256: str
    pixels_sha256: str
    ids_sha256: str
    phash: str
    pixels: dict[str, int]
    review: FrameReview

    @property
    def block(self) -> str:
        """Return the dive; a frame without one is a block of its own."""
        return self.review.dive or f'frame {self.stem}'

    def as_json(self) -> str:
        """Return the line."""
        row = {name: value for name, value in dataclasses.asdict(self).items() if name != 'review'}
        return json.dumps(row | dataclasses.asdict(self.review))

    @classmethod
    def parsed(cls, line: bytes) -> DatasetFrame:
        """Read a line; ValueError, KeyError or TypeError if it is of another form."""
        raw = parse_json(line)
        parts = {one.name: raw.pop(one.name) for one in dataclasses.fields(FrameReview)}
        frame = cls(**raw, review=FrameReview(**parts))
        plain_name(frame.stem)
        plain_name(frame.image)
        if frame.split not in SPLITS or Path(frame.image).stem != frame.stem:
            raise ValueError(f'split {frame.split!s:.20} or image {frame.image!s:.20}')
        frame._require_forms()
        return frame

    def _require_forms(self) -> None:
        """Raise ValueError if a value is of another form: people edit these lines."""
        require_texts(self, 'source', 'image_sha256', 'mask_sha256', 'pixels_sha256',
                      'ids_sha256', 'phash')
        numbers = [self.added, self.since, *([] if self.removed is None else [self.removed])]
        if not isinstance(self.pixels, dict) or any(
                type(number) is not int or number < 0
                for number in (*numbers, *self.pixels.values())):
            raise ValueError('a version or a count of pixels is no number')
        if not re.fullmatch('[0-9a-f]{16}', self.phash):
            raise ValueError(f'phash {self.phash:.20}')


def split_key(dive: str, pixels_sha256: str) -> str:
    """Return what a split follows from: the dive, or the image of a frame without one."""
    return f'dive {dive}' if dive else f'image {pixels_sha256}'


@dataclass(frozen=True)
class DatasetVersion:
    """
    A line of ``versions.jsonl``.

    Attributes
    ----------
    version : int
        1, 2, ...
    date : str
        ISO 8601, UTC.
    words, source : str
        Why, and the folder that was added, without a path.
    added, removed, frames : int
        Frames that came and went, and how many there are.
    digest : str
        SHA-256 of ``frames.jsonl``.
    classes_sha256, shares_sha256 : str
        Of ``classes.json`` and ``dataset.json``; versions of before have no second one.

    """

    version: int
    date: str
    words: str
    source: str
    added: int
    removed: int
    frames: int
    digest: str
    classes_sha256: str
    shares_sha256: str = ''

    @classmethod
    def parsed(cls, line: bytes) -> DatasetVersion:
        """Read a line; ValueError or TypeError if it is of another form."""
        found = cls(**parse_json(line))
        require_texts(found, 'date', 'words', 'source', 'digest', 'classes_sha256',
                      'shares_sha256')
        numbers = (found.version, found.added, found.removed, found.frames)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError('a count is no number')
        return found


@dataclass(frozen=True)
class DatasetBook:
    """A dataset as it is written down; `frames` by stem, with those that are replaced."""

    folder: Path
    shares: SplitShares
    classes: ClassTable | None
    frames: tuple[DatasetFrame, ...]
    versions: tuple[DatasetVersion, ...]

    @property
    def number(self) -> int:
        """Return the number of the present version; 0 before the first."""
        return self.versions[-1].version if self.versions else 0

    def at(self, version: int) -> list[DatasetFrame]:
        """Return the frames of a version, by stem."""
        return [one for one in self.frames if one.added <= version
                and (one.removed is None or one.removed > version)]

    @property
    def present(self) -> list[DatasetFrame]:
        """Return the frames of the present version."""
        return self.at(self.number)


def is_dataset(folder: Path) -> bool:
    """Say whether a folder is a dataset that grows."""
    return (folder / DATASET_FILE).is_file()


def init_dataset(folder: Path, shares: SplitShares, classes: ClassTable | None) -> None:
    """
    Make an empty dataset, of version 0; without classes it takes those of what is added first.

    Raises DatasetError if there is one, or the folder holds images already.
    """
    if (folder / _COMMIT).is_dir():
        _finish(folder)
    if is_dataset(folder):
        raise DatasetError(f'{folder} is a dataset already', 'a new folder',
                           f'add to it: uncertainty_seg dataset add {folder} FOLDER')
    there = [name for name in (IMAGES, MASKS, *_IN_ORDER) if (folder / name).exists()]
    if there:
        raise DatasetError(f'{folder} holds {there[0]} already', 'a new folder',
                           'make a dataset beside it, and add this folder to it')
    folder.mkdir(parents=True, exist_ok=True)
    content = {'version': FORMAT_VERSION, 'val_share': shares.val, 'test_share': shares.test}

    def fill(draft: Path) -> None:
        (draft / DATASET_FILE).write_text(json.dumps(content, indent=1) + '\n')

    _commit(DatasetBook(folder, shares, classes, (), ()), fill)


@contextmanager
def locked_book(folder: Path) -> Iterator[DatasetBook]:
    """
    Read a dataset that no other process changes until the end of the block.

    A version that a dead process left unfinished is finished first, or cleared away if it never
    became part of the dataset. Raises DatasetError if it is none, or another process is at it.
    """
    if not is_dataset(folder) and not (folder / _COMMIT / DATASET_FILE).is_file():
        raise DatasetError(f'{folder} is not a dataset', f'a folder with {DATASET_FILE}',
                           f'make one: uncertainty_seg dataset init {folder}')
    if not is_dataset(folder):
        _finish(folder)  # init was broken off
    try:
        lock = lock_file(folder / DATASET_FILE)
    except BlockingIOError:
        raise DatasetError(f'another process works on {folder}', 'one at a time',
                           'wait until it is done') from None
    try:
        for draft in folder.glob(f'.{_COMMIT}.*'):
            shutil.rmtree(draft, ignore_errors=True)
        _finish(folder)
        yield read_book(folder)
    finally:
        os.close(lock)


def read_book(folder: Path) -> DatasetBook:
    """Read what is written down; DatasetError if a file is missing or of another form."""
    head = folder / DATASET_FILE
    try:
        raw = parse_json(read_bytes(head, MAX_JSON_BYTES))
        if raw['version'] != FORMAT_VERSION:
            raise ValueError(f'version {raw["version"]!s:.20}')
        shares = SplitShares(float(raw['val_share']), float(raw['test_share']))
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as err:
        raise DatasetError(f'{head} is damaged', 'it as dataset init wrote it',
                           'restore it') from err
    classes = folder / CLASSES_FILE
    frames = _lines(folder / FRAMES_FILE, DatasetFrame.parsed)
    twice = [stem for stem, count in Counter(one.stem for one in frames).items() if count > 1]
    if twice:
        raise DatasetError(f'{folder / FRAMES_FILE} has {twice[0]!r} twice', 'a line a frame')
    versions = _lines(folder / VERSIONS_FILE, DatasetVersion.parsed)
    if [one.version for one in versions] != list(range(1, len(versions) + 1)) \
            or (frames and not versions):
        raise DatasetError(f'{folder / VERSIONS_FILE} lacks a version, or has one twice',
                           'a line for each, from 1 on', 'restore it')
    return DatasetBook(
        folder, shares, read_classes(classes) if frames or classes.is_file() else None,
        tuple(sorted(frames, key=lambda one: one.stem)), tuple(versions))


def _lines(path: Path, parsed: Callable[[bytes], Any]) -> list[Any]:
    number = 0
    try:
        found = []
        for line in read_bytes(path, MAX_JSON_BYTES).splitlines():
            number += 1
            found.append(parsed(line))
        return found
    except OSError as err:
        raise DatasetError(f'{path} is missing or unreadable', 'it as it was written',
                           'restore it') from err
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise DatasetError(f'line {number} of {path} is not understood', 'it as it was written',
                           'restore it') from err


def with_version(
    book: DatasetBook, frames: Sequence[DatasetFrame], words: str, source: str = '',
    fill: Callable[[Path], None] = lambda draft: None,
) -> DatasetBook:
    """
    Write the next version and return it; OSError if the disk refuses, and nothing has changed.

    Parameters
    ----------
    book : DatasetBook
        The present version, locked.
    frames : sequence of DatasetFrame
        All frames of the next one, with those that are not in it any more.
    words, source : str
        See `DatasetVersion`.
    fill : callable
        Writes new images and masks into the folders of those names of a draft.

    """
    number = book.number + 1
    ordered = tuple(sorted(frames, key=lambda one: one.stem))
    new = dataclasses.replace(book, frames=ordered)
    version = DatasetVersion(
        number, datetime.now(timezone.utc).isoformat(timespec='seconds'), words, source,
        sum(one.added == number for one in ordered),
        sum(one.removed == number for one in ordered), len(new.at(number)),
        sha256(frames_text(ordered).encode()), _classes_sha256(book),
        sha256((book.folder / DATASET_FILE).read_bytes()))
    new = dataclasses.replace(new, versions=(*book.versions, version))
    _commit(new, fill)
    return new


def _classes_sha256(book: DatasetBook) -> str:
    path = book.folder / CLASSES_FILE
    if path.is_file():
        return sha256(path.read_bytes())
    assert book.classes is not None
    return sha256(classes_text(book.classes).encode())


def _commit(book: DatasetBook, fill: Callable[[Path], None]) -> None:
    with whole_folder(book.folder / _COMMIT, f'.{_COMMIT}.{os.getpid()}',
                      is_replacing=False) as draft:
        for name in (IMAGES, MASKS):
            (draft / name).mkdir()
        fill(draft)
        if book.classes is not None and not (book.folder / CLASSES_FILE).is_file():
            write_classes(draft, book.classes)
        (draft / FRAMES_FILE).write_text(frames_text(book.frames))
        (draft / VERSIONS_FILE).write_text(''.join(
            json.dumps(dataclasses.asdict(one)) + '\n' for one in book.versions))
        write_derived(draft, book)
    _finish(book.folder)


def write_derived(folder: Path, book: DatasetBook) -> None:
    """Write the files that follow from the frames."""
    for name in DERIVED:
        (folder / name).write_text(derived_text(book, name))


def derived_text(book: DatasetBook, name: str) -> str:
    """Return the content of one of `DERIVED`; frames that are replaced are in no split only."""
    if name == REVIEW_FILE:
        return review_text({one.stem: one.review for one in book.frames})
    if name == BLOCKS_FILE:
        return _json({one.stem: one.block for one in book.frames})
    return _json({split: [one.stem for one in book.present if one.split == split]
                  for split in SPLITS})


def _finish(folder: Path) -> None:
    """Move a version that is part of the dataset to its place; what is moved already stays."""
    pending = folder / _COMMIT
    if not pending.is_dir():
        return
    for name in (IMAGES, MASKS):
        (folder / name).mkdir(exist_ok=True)
        for path in sorted((pending / name).iterdir()):
            rename(path, folder / name / path.name)
        sync(folder / name)
    for name in _IN_ORDER:
        if (pending / name).is_file():
            rename(pending / name, folder / name)
    sync(folder)
    shutil.rmtree(pending)


def frames_text(frames: Sequence[DatasetFrame]) -> str:
    """Return the content of ``frames.jsonl``."""
    return ''.join(f'{one.as_json()}\n' for one in frames)


def classes_text(classes: ClassTable) -> str:
    """Return the content of ``classes.json``, as `write_classes` writes it."""
    return json.dumps(classes_as_json(classes), indent=1) + '\n'


def sha256(content: bytes) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(content).hexdigest()


def _json(content: object) -> str:
    return json.dumps(content, indent=1) + '\n'
