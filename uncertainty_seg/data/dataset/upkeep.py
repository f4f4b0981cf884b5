# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What was changed by hand in a dataset since its last version, and an old version of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uncertainty_seg.core.image_codec import decode, ImageFile
from uncertainty_seg.data.dataset.book import (
    DatasetBook,
    DatasetFrame,
    DERIVED,
    derived_text,
    FRAMES_FILE,
    is_dataset,
    read_book,
    sha256,
    with_version,
    write_derived,
)
from uncertainty_seg.data.labels.folder import CLASSES_FILE, MASKS, write_classes
from uncertainty_seg.data.labels.frames import IMAGES, read_mask
from uncertainty_seg.errors import DatasetError, ImageError, some_of
from uncertainty_seg.storage.foreign_files import read_bytes, why
from uncertainty_seg.storage.labelled_folder import ClassTable, DATASET_FILE, image_path
from uncertainty_seg.storage.perceptual_hash import perceptual_hash
from uncertainty_seg.storage.review_record import mask_sha256


@dataclass(frozen=True)
class HandEdits:
    """
    What differs from the last version.

    Attributes
    ----------
    changed, missing : tuple of str
        Stems of frames with another image or mask, or without one of them.
    tables : tuple of str
        Names of other files that were changed.
    strays : tuple of str
        Images and masks that belong to no version; they harm nothing.

    """

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    tables: tuple[str, ...]
    strays: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether anything but strays differs."""
        return bool(self.changed or self.missing or self.tables)

    def __str__(self) -> str:
        """Return all of it in words."""
        parts = ((self.changed, 'changed'), (self.missing, 'missing'), (self.tables, 'changed'))
        return '; '.join(f'{len(names)} {what} ({some_of(names, 3)})' for names, what in parts
                         if names)


def hand_edits(book: DatasetBook) -> HandEdits:
    """Compare all files with what is written down."""
    changed, missing = [], []
    for one in book.present:
        digests = [_digest(path) for path in _files(book, one)]
        if '' in digests:
            missing.append(one.stem)
        elif digests != [one.image_sha256, one.mask_sha256] or _other_image(book, one):
            changed.append(one.stem)
    return HandEdits(tuple(changed), tuple(missing), tuple(_tables(book)), tuple(_strays(book)))


def _files(book: DatasetBook, one: DatasetFrame) -> tuple[Path, Path]:
    return book.folder / IMAGES / one.image, book.folder / MASKS / f'{one.stem}.png'


def _other_image(book: DatasetBook, one: DatasetFrame) -> str:
    """Return the name of another image of that stem, which readers would take; mostly empty."""
    found = image_path(book.folder, one.stem)
    return found.name if found is not None and found.name != one.image else ''


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()) if path.is_file() else ''


def _tables(book: DatasetBook) -> Iterator[str]:
    if book.versions:
        last = book.versions[-1]
        if _digest(book.folder / CLASSES_FILE) != last.classes_sha256:
            yield CLASSES_FILE
        if last.shares_sha256 and _digest(book.folder / DATASET_FILE) != last.shares_sha256:
            yield DATASET_FILE
        if _digest(book.folder / FRAMES_FILE) != last.digest:
            yield FRAMES_FILE
            return  # from which the others follow
    for name in DERIVED:
        if _digest(book.folder / name) != sha256(derived_text(book, name).encode()):
            yield name


def _strays(book: DatasetBook) -> Iterator[str]:
    known = {path for one in book.frames for path in _files(book, one)}
    for name in (IMAGES, MASKS):
        for path in sorted((book.folder / name).glob('*')):
            if path not in known:
                yield f'{name}/{path.name}'


def require_untouched(book: DatasetBook) -> None:
    """Raise DatasetError if anything was changed by hand."""
    edits = hand_edits(book)
    if edits:
        raise DatasetError(
            f'{book.folder} was edited by hand since version {book.number}: {edits}',
            'files as they were written', 'restore them, or take them as they are now with '
            f'uncertainty_seg dataset status {book.folder} --accept')


def name_of(folder: Path) -> str:
    """Return the name of a labelled folder for a card; of a dataset with its version."""
    name = folder.resolve().name
    if not is_dataset(folder):
        return name
    book = read_book(folder)
    return f'{name} (version {book.number}{", edited by hand since" if hand_edits(book) else ""})'


def accept_edits(book: DatasetBook, words: str = 'edited by hand') -> DatasetBook:
    """
    Write a version of the files as they are now; frames without image or mask leave the dataset.

    Raises DatasetError if the classes or the shares were changed, lines of frames are gone, a mask
    or image cannot be used, or a dive is in two splits.
    """
    edits, number = hand_edits(book), book.number + 1
    if not edits:
        return book
    if CLASSES_FILE in edits.tables:
        raise DatasetError(f'{book.folder / CLASSES_FILE} was edited by hand',
                           'it as it was, since it says what every mask means',
                           'restore it; for other classes begin a new dataset')
    if DATASET_FILE in edits.tables:
        raise DatasetError(f'{book.folder / DATASET_FILE} was edited by hand',
                           'it as it was, since it says in which split each new dive is',
                           'restore it; for other shares begin a new dataset and add this one')
    _require_all_lines(book)
    _require_whole_dives(book)
    lines = {one.stem: one for one in book.frames}
    for stem in edits.missing:
        lines[stem] = dataclasses.replace(lines[stem], removed=number)
    for stem in edits.changed:
        lines[stem] = _read_again(book, lines[stem], number)
    return with_version(book, list(lines.values()), words)


def _require_all_lines(book: DatasetBook) -> None:
    """Raise DatasetError unless each version has the lines that it added."""
    came = Counter(one.added for one in book.frames)
    for version in book.versions:
        if came.pop(version.version, 0) != version.added:
            raise DatasetError(
                f'{book.folder / FRAMES_FILE} has not the {version.added} frames that version '
                f'{version.version} added', 'every line, as older versions need them',
                'restore it; to take a frame out, delete its image and accept that')
    if came:
        raise DatasetError(f'{book.folder / FRAMES_FILE} has frames of version {min(came)}',
                           f'1 to {book.number}', 'restore it; use dataset add for new frames')


def _require_whole_dives(book: DatasetBook) -> None:
    split_of: dict[str, str] = {}
    for one in book.present:
        if split_of.setdefault(one.block, one.split) != one.split:
            raise DatasetError(
                f'{FRAMES_FILE} of {book.folder} has dive {one.block!r} in {split_of[one.block]} '
                f'and in {one.split}', 'a dive in one split', 'restore or correct it')


def _read_again(book: DatasetBook, one: DatasetFrame, number: int) -> DatasetFrame:
    assert book.classes is not None
    image, mask = _files(book, one)
    other = _other_image(book, one)
    if other:
        raise DatasetError(f'{book.folder / IMAGES} has {other} beside {one.image}',
                           'one image of a name', 'remove the one that is wrong')
    return dataclasses.replace(one, since=number, **file_facts(image, mask, book.classes))


def file_facts(image: Path, mask: Path, classes: ClassTable) -> dict[str, Any]:
    """
    Return what `DatasetFrame` says of the files of a frame: digests, hash, pixels of each id.

    Raises DatasetError if one cannot be read, they differ in size, or an id is no class.
    """
    try:
        data = read_bytes(image)
        picture = decode(ImageFile(data))
    except (OSError, ValueError, ImageError) as err:
        raise DatasetError(f'{image} is no image that can be read ({why(err)})',
                           'JPEG or PNG') from err
    ids = read_mask(mask)
    if ids.shape != picture.shape[:2]:
        sizes = [f'{part.shape[1]}x{part.shape[0]}' for part in (ids, picture)]
        raise DatasetError(f'mask {mask} is {sizes[0]}, its image {sizes[1]}', 'equal sizes',
                           'save the mask in the size of the image')
    counts = np.bincount(ids.ravel(), minlength=256)
    there = np.flatnonzero(counts).tolist()
    strange = sorted({*there} - {*range(len(classes.names)), classes.ignore_index})
    if strange:
        raise DatasetError(
            f'mask {mask} has the class id {strange[0]}', f'ids from 0 to '
            f'{len(classes.names) - 1}, or {classes.ignore_index} where nothing is known')
    return {'image_sha256': sha256(data), 'mask_sha256': sha256(mask.read_bytes()),
            'pixels_sha256': mask_sha256(picture), 'ids_sha256': mask_sha256(ids),
            'phash': f'{perceptual_hash(picture):016x}',
            'pixels': {str(i): int(counts[i]) for i in there}}


def export_version(book: DatasetBook, number: int, out: Path) -> int:
    """
    Copy a version into an empty folder, as a labelled folder; returns its number of frames.

    Raises DatasetError if there is no such version, or files of it are not kept.
    """
    if not 1 <= number <= book.number:
        there = f'1 to {book.number}' if book.number else 'one after something was added'
        raise DatasetError(f'{book.folder} has no version {number}', there)
    frames = book.at(number)
    later = [one.stem for one in frames if one.since > number]
    if later:
        raise DatasetError(
            f'{len(later)} frames of version {number} were edited by hand afterwards '
            f'({some_of(later, 3)}), and their files are not kept',
            f'version {max(one.since for one in frames)} or later',
            'or restore the folder from where it is kept, such as DVC')
    assert book.classes is not None
    (out / IMAGES).mkdir()
    (out / MASKS).mkdir()
    for one in frames:
        _copy(book, one, out)
    write_classes(out, book.classes)
    write_derived(out, dataclasses.replace(
        book, frames=tuple(frames), versions=book.versions[:number]))
    return len(frames)


def _copy(book: DatasetBook, one: DatasetFrame, out: Path) -> None:
    digests = (one.image_sha256, one.mask_sha256)
    for path, digest in zip(_files(book, one), digests, strict=True):
        data = path.read_bytes() if path.is_file() else b''
        if sha256(data) != digest:
            raise DatasetError(f'{path} is missing or was edited by hand', 'it as it was added',
                               'restore it, or accept it with dataset status --accept')
        (out / path.relative_to(book.folder)).write_bytes(data)
