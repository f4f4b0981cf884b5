# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Photographs with masks in a folder.

The layout: ``images/STEM.jpg`` (or png), ``masks/STEM.png`` with the class id as pixel value,
``classes.json`` with names, colours and the ignore index, ``splits.json`` with lists of stems. An
orientation in the metadata of an image is ignored. The file of blocks, groups of frames that are
not independent, is read here too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
import csv
from dataclasses import dataclass, field, replace
import logging
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.calibration import image_digest
from uncertainty_seg.core.image_codec import check_file, decode, decode_unchanged
from uncertainty_seg.errors import DatasetError, ImageError, some_of
from uncertainty_seg.storage.foreign_files import (
    is_text,
    json_fault,
    MAX_JSON_BYTES,
    parse_json,
    parse_yaml,
    read_bytes,
    read_image_file,
    why,
)
from uncertainty_seg.storage.review_record import CONTROL_SPLIT, require_reviewed

# Files that a growing dataset has in addition to a labelled folder; see `data.dataset`.
DATASET_FILE, BLOCKS_FILE = 'dataset.json', 'blocks.json'
ENDINGS = ('.jpg', '.jpeg', '.png', '.JPG', '.JPEG', '.PNG', '.Jpg', '.Jpeg', '.Png')
# A mask has one byte per pixel, and one of its values is the ignore index.
MAX_CLASSES = 255
_log = logging.getLogger(__name__)
_MOST_SHOWN = 24  # characters of a value in an error
_MOST_FAULTS = 100  # frames in an error
_T = TypeVar('_T')
_Entry = tuple[int, str, tuple[int, int, int]]  # id, name and colour of a class
_SPLITS_FORM = '{"train": ["NAME", ...], "val": ["NAME", ...]}, names without ending'
_FORM = '{"classes": [{"id": 0, "name": "seabed", "rgb": [0, 0, 0]}, ...]}'
_BLOCK_FORMS = '{"frame_0001": "dive_07", ...} as JSON, or lines frame_0001,dive_07 as CSV'


@dataclass(frozen=True)
class LabelledFolder:
    """
    A data set held in memory.

    RGB images, (H, W, 3), of any size; masks of class ids, (H, W), with `ignore_index`, which
    losses and metrics leave out, where the class is unknown; file names without ending.
    """

    images: list[NDArray[np.uint8]]
    masks: list[NDArray[np.uint8]]
    stems: list[str]
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int

    @property
    def num_classes(self) -> int:
        """Return C, the number of classes."""
        return len(self.class_names)

    @property
    def classes(self) -> ClassTable:
        """Return the table of its classes."""
        return ClassTable(self.class_names, self.palette, self.ignore_index)

    def pixel_counts(self) -> NDArray[np.int64]:
        """Return (images, C) pixels of each class in each image."""
        rows = [np.bincount(m.ravel(), minlength=256)[: self.num_classes] for m in self.masks]
        return np.stack(rows).astype(np.int64)


@dataclass(frozen=True)
class ClassTable:
    """Names and RGB colours of classes by id, an ignore index >= C, and where they come from."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    source: str = field(default='the table of classes', compare=False)


def read_classes(path: Path) -> ClassTable:
    """
    Read a table of classes, sorted by id, from JSON, or from YAML by the ending.

    The form is ``{"classes": [{"id": 0, "name": "seabed", "rgb": [0, 0, 0]}, ...], "ignore_index":
    255}``. A class may be given by its name alone: its position is the id, and a colour is
    generated. A class whose id is the ignore index is left out. Raises DatasetError if the file is
    missing, has another format, its ids are not 0..C-1, or a name is repeated.
    """
    if not path.is_file():
        raise DatasetError(f'{path} is {"a folder" if path.is_dir() else "missing"}',
                           f'a file with the table of classes, {_FORM}')
    return _class_table(_read_mapping(path), str(path))


def class_table(
    classes: Sequence[str | Mapping[str, Any]], source: str = 'the list of classes'
) -> ClassTable:
    """
    Make a table of classes from their names, or from entries as `read_classes` reads them.

    Raises DatasetError, which names the `source`, if an entry is damaged or a name is repeated.
    """
    entries = [one if isinstance(one, Mapping) else str(one) for one in classes]
    return _class_table({'classes': entries}, source)


def _class_table(raw: dict[str, Any], source: str) -> ClassTable:
    classes = raw.get('classes')
    try:
        count = len(classes) if isinstance(classes, list) else 0
        if not 0 < count <= MAX_CLASSES:
            raise ValueError(f'"classes" is no list of 1 to {MAX_CLASSES}, but of {count}')
        entries = sorted(_class_entry(*pair) for pair in enumerate(classes or ()))
        if not _is_byte(ignore_index := raw.get('ignore_index', 255)):
            raise ValueError(f'ignore_index is {ignore_index!s:.60}, no whole number of 0 to 255')
        entries = _without_void(entries, ignore_index, source)
    except ValueError as err:
        raise DatasetError(f'{source} has another form ({err})', _FORM) from err
    ids, names, palette = zip(*entries, strict=True)
    if ids != tuple(range(len(ids))) or ignore_index < len(ids):
        raise DatasetError(
            f'{source} has the ids {list(ids)} and ignore_index {ignore_index}',
            f'ids from 0 to {len(ids) - 1} and an ignore_index above them')
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:  # scores, thresholds and messages refer to classes by name
        raise DatasetError(f'{source} names more than one class {", ".join(map(repr, twice))}',
                           'a unique name for each class')
    return ClassTable(names, palette, ignore_index, source)


def _without_void(entries: list[_Entry], ignore_index: int, source: str) -> list[_Entry]:
    """Leave out the class of unlabelled pixels, with a line in the log; ValueError if no other."""
    kept = [entry for entry in entries if entry[0] != ignore_index]
    for _, name, _ in set(entries) - set(kept):
        _log.info('%s: the class %r has the id of ignore_index, %d, so its pixels count as '
                  'unlabelled and it is no class', source, name, ignore_index)
    if not kept:
        raise ValueError(f'its only class has the id of ignore_index, {ignore_index}')
    return kept


def _class_entry(index: int, entry: Any) -> _Entry:
    """Return id, name and colour of a class; ValueError if one is missing or of wrong type."""
    if isinstance(entry, str):
        # Steps of the golden angle give neighbours in the list different hues.
        hsv = np.array([[[int(index * 137.508) % 180, 200, 255 - 40 * (index % 3)]]], np.uint8)
        red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
        return index, entry, (red, green, blue)
    try:
        number, (red, green, blue) = entry['id'], entry['rgb']
        if not isinstance(entry['name'], str | int) or not all(
                map(_is_byte, (number, red, green, blue))):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise ValueError(f'class {index} is {entry!s:.60}') from None
    return number, str(entry['name']), (red, green, blue)


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


def require_same_classes(one: ClassTable, other: ClassTable, what: str, like: str) -> None:
    """Raise DatasetError if two tables differ in their classes or ignore index."""
    if (one.names, one.ignore_index) != (other.names, other.ignore_index):
        raise DatasetError(
            f'{what}: the classes {", ".join(one.names)} (ignored: {one.ignore_index})',
            f'those of {like}: {", ".join(other.names)} (ignored: {other.ignore_index})',
            'bring the masks to the same ids')


def load_folder(folder: Path | str, split: str = '') -> LabelledFolder:
    """
    Read one split of a labelled folder, in its order; the whole folder without splits.json.

    Raises DatasetError if a file is missing, unreadable, image and mask differ in size, or a
    mask is not reviewed (see `review_record`).

    Parameters
    ----------
    folder : Path or str
        Folder with images/, masks/ and classes.json.
    split : str
        A name in its splits.json.

    """
    folder = Path(folder)
    stems = _stems(folder, split)
    if not stems:
        raise DatasetError(f'split {split!r} of {folder} is empty', 'at least one image')
    require_reviewed(folder, stems)
    pairs = read_each(stems, lambda stem: read_pair(folder, stem))
    table = read_classes(folder / 'classes.json')
    return LabelledFolder(
        images=[np.asarray(image[..., ::-1], order='C') for image, _ in pairs],
        masks=[mask for _, mask in pairs],
        stems=stems,
        class_names=table.names, palette=table.palette, ignore_index=table.ignore_index,
    )


def read_each(stems: Sequence[str], read: Callable[[str], _T]) -> list[_T]:
    """Return `read` of each frame; one DatasetError names all frames for which it raises one."""
    found, faults = [], []
    for stem in stems:
        try:
            found.append(read(stem))
        except DatasetError as err:
            faults.append(err)
    if len(faults) > 1:
        named = some_of((err.reason for err in faults), _MOST_FAULTS)
        raise DatasetError(f'{len(faults)} of {len(stems)} frames cannot be used: {named}')
    if faults:
        raise faults[0]
    return found


def listed_splits(folder: Path) -> dict[str, list[str]]:
    """
    Return the stems of each split of a labelled folder; without splits.json all, under ``''``.

    Entries of splits.json that are no lists, such as a note, are left out.
    Raises DatasetError if splits.json is of another form.
    """
    if not (folder / 'splits.json').is_file():
        return {'': _stems(folder, '')}
    content = _read_mapping(folder / 'splits.json')
    return {split: _stems(folder, split) for split, stems in content.items()
            if isinstance(stems, list)}


def image_path(folder: Path, stem: str) -> Path | None:
    """Return the file of an image of a labelled folder; None if there is none."""
    return next(iter(_images(folder, stem)), None)


def _images(folder: Path, stem: str) -> list[Path]:
    places = (folder / 'images' / f'{stem}{ending}' for ending in ENDINGS)
    return [path for path in places if path.is_file()]


def _require_names(folder: Path, names: Iterable[str]) -> None:
    strange = [name for name in names if not is_text(name)]
    if strange:
        raise DatasetError(
            f'{len(strange)} images of {folder} have names with bytes that are no UTF-8 (the '
            f'first is {strange[0]!r})', 'names that a table can hold', 'rename them')


def _stems(folder: Path, split: str) -> list[str]:
    if not (folder / 'splits.json').is_file() and (folder / 'images').is_dir():
        stems = sorted({path.stem for path in (folder / 'images').iterdir()
                        if path.suffix in ENDINGS})
        _require_names(folder, stems)
        return stems
    splits = _read_mapping(folder / 'splits.json')
    if split not in splits:
        raise DatasetError(
            f'split {split!r} is not in {folder}/splits.json', f'one of {sorted(splits)}'
        )
    listed = splits[split]
    if not isinstance(listed, list):
        raise DatasetError(f'split {split!r} of {folder}/splits.json is no list', _SPLITS_FORM)
    for entry in listed:
        if not isinstance(entry, str | int) or Path(str(entry)).is_absolute() \
                or '..' in Path(str(entry)).parts:
            raise DatasetError(f'split {split!r} of {folder}/splits.json names '
                               f'{entry!r:.{_MOST_SHOWN}}', 'file names without extension')
    return list(dict.fromkeys(map(str, listed)))


def _read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON file, or YAML by its ending; `DatasetError` if that fails."""
    if not path.is_file():
        raise DatasetError(f'{path} is missing',
                           'a folder with images, masks, classes.json, splits.json')
    is_yaml = path.suffix in ('.yaml', '.yml')
    form = _SPLITS_FORM if path.name == 'splits.json' else _FORM
    try:
        content = parse_yaml(path) if is_yaml else parse_json(read_bytes(path, MAX_JSON_BYTES))
    except ValueError as err:
        kind = 'YAML' if is_yaml else 'JSON'
        raise DatasetError(f'{path} is no {kind} ({json_fault(err)})', form) from err
    if not isinstance(content, dict):
        came = 'is empty' if content is None else 'holds no table'
        raise DatasetError(f'{path} {came}', form)
    return content


def read_pair(folder: Path, stem: str) -> tuple[ImageU8, LabelMap]:
    """
    Read an image of a labelled folder, BGR (H, W, 3), and its mask of class ids (H, W).

    DatasetError if one is missing, ambiguous or unreadable, or they differ in size.
    """
    found = _images(folder, stem)
    # On a file system that ignores case, two endings name the same file.
    if len({path.stat().st_ino for path in found}) != 1:
        raise DatasetError(f'{len(found)} images of {folder} are called {stem!r}',
                           'one jpeg or png')
    image, mask = read_image(found[0]), read_mask(folder / 'masks' / f'{stem}.png')
    if image.shape[:2] != mask.shape:
        raise DatasetError(
            f'image {stem!r} in {folder} is {image.shape[1]}x{image.shape[0]}, its mask '
            f'{mask.shape[1]}x{mask.shape[0]}', 'equal sizes')
    return image, mask


def read_image(file: Path) -> ImageU8:
    """Read an image, BGR (H, W, 3); DatasetError if it is missing or unreadable."""
    try:
        return decode(read_image_file(file))
    except (OSError, ValueError, ImageError) as err:
        raise DatasetError(f'image {file} is missing or unreadable ({why(err)})',
                           'a whole jpeg or png file') from err


def read_mask(file: Path) -> LabelMap:
    """Read a mask of class ids, (H, W) uint8; DatasetError if it is not one."""
    wanted = 'a PNG of one channel of 8 bits, whose values are the class ids'
    try:
        image = read_image_file(file)
        header, mask = check_file(image), decode_unchanged(image)
    except (OSError, ValueError, ImageError) as err:
        raise DatasetError(f'mask {file} is missing or unreadable ({why(err)})', wanted) from err
    # With fewer bits OpenCV scales the values up to 255, the ignore index; a jpeg blurs them.
    if mask.ndim != 2 or (header.kind, header.pixel_bytes) != ('png', 1):
        came = f'{mask.shape[2]} channels, or a palette' if mask.ndim > 2 else \
            f'{8 * header.pixel_bytes:g} bits as {header.kind}'
        raise DatasetError(f'mask {file} has {came}', wanted,
                           'save the ids themselves, not their colours')
    return np.asarray(mask, np.uint8)


def require_ids(mask: LabelMap, num_classes: int, ignore_index: int, what: str) -> None:
    """Raise DatasetError, which names the mask, if it has an id that is no class."""
    strange = mask[(mask >= num_classes) & (mask != ignore_index)]
    if strange.size:
        raise DatasetError(f'{what} has the class id {int(strange[0])}',
                           f'ids from 0 to {num_classes - 1}, or {ignore_index} for unknown')


def load_folders(folders: Sequence[Path], splits: Sequence[str]) -> LabelledFolder:
    """
    Read splits of labelled folders with the same classes as one data set.

    A folder without splits.json is read as a whole. With several folders the images are called
    FOLDER/STEM. Raises DatasetError if a folder cannot be read or has other classes than the
    first, a mask has an id that is no class, or no pixel has a class.
    """
    parts = [load_splits(folder, splits) for folder in folders]
    for folder, part in zip(folders, parts, strict=True):
        require_same_classes(part.classes, parts[0].classes, str(folder), str(folders[0]))
        _require_ids_in(part, folder)
    if not any((mask != part.ignore_index).any() for part in parts for mask in part.masks):
        raise DatasetError(
            f'no pixel of the {sum(len(part.stems) for part in parts)} masks in '
            f'{" and ".join(map(str, folders))} has a class', 'some that have',
            'label some of them, or check that the masks hold class ids')
    if len(parts) == 1:
        return parts[0]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [f'{index}_{name}' for index, name in enumerate(names)]
    return _joined(parts, [f'{name}/{stem}' for name, part in zip(names, parts, strict=True)
                           for stem in part.stems])


def _require_ids_in(part: LabelledFolder, folder: Path) -> None:
    masks = dict(zip(part.stems, part.masks, strict=True))
    read_each(part.stems, lambda stem: require_ids(
        masks[stem], part.num_classes, part.ignore_index, f'the mask of {stem!r} in {folder}'))


def load_splits(folder: Path, splits: Sequence[str]) -> LabelledFolder:
    """
    Read several splits of a labelled folder as one data set, one after the other.

    Without splits.json the whole folder is read, once. Of several splits, empty ones are skipped.
    """
    if not (folder / 'splits.json').is_file():
        splits = splits[:1]
    elif len(splits) > 1:
        listed = listed_splits(folder)
        splits = [split for split in splits if listed.get(split) != []] or splits
    first, *others = (load_folder(folder, split) for split in splits)
    return _joined([first, *others], [*first.stems, *(s for one in others for s in one.stems)])


def _joined(parts: Sequence[LabelledFolder], stems: list[str]) -> LabelledFolder:
    return replace(parts[0], images=[image for part in parts for image in part.images],
                   masks=[mask for part in parts for mask in part.masks], stems=stems)


def subset(data: LabelledFolder, indices: Sequence[int]) -> LabelledFolder:
    """Return these images, in this order; an index may be repeated."""
    return replace(data, images=[data.images[i] for i in indices],
                   masks=[data.masks[i] for i in indices], stems=[data.stems[i] for i in indices])


def counted_once(data: LabelledFolder) -> LabelledFolder:
    """Return the images without duplicates of pixels and mask; a warning gives their number."""
    seen: dict[tuple[str, str], int] = {}
    for index, pair in enumerate(zip(data.images, data.masks, strict=True)):
        seen.setdefault((image_digest(pair[0]), image_digest(pair[1])), index)
    if len(seen) == len(data.stems):
        return data
    kept = list(seen.values())
    again = [data.stems[i] for i in sorted(set(range(len(data.stems))) - set(kept))]
    _log.warning('%d of %d images are duplicates with the same masks and are left out: %s',
                 len(again), len(data.stems), some_of(again, 3))
    return subset(data, kept)


def require_apart(
    train: LabelledFolder, val: LabelledFolder, names: tuple[str, str] = ('train', 'val'),
) -> None:
    """Raise DatasetError if images used for training are also used for measurement."""
    trained = {image_digest(image): stem
               for image, stem in zip(train.images, train.stems, strict=True)}
    both = [(stem, trained[digest]) for image, stem in zip(val.images, val.stems, strict=True)
            if (digest := image_digest(image)) in trained]
    if both:
        named = some_of((f'{stem!r} is {other!r} there' for stem, other in both), 3)
        raise DatasetError(f'{len(both)} of {len(val.stems)} images of {names[1]} are in '
                           f'{names[0]} too, pixel for pixel ({named})',
                           'other images to measure on', 'take them out of one of the two')


def has_split(folder: Path, split: str) -> bool:
    """Return whether a labelled folder has a split of this name that is not empty."""
    return bool(split and listed_splits(folder).get(split))


def measured_split(folder: Path, split: str = '') -> str:
    """Return the split to measure on: the one named, or control if there is one, or val."""
    return split or (CONTROL_SPLIT if has_split(folder, CONTROL_SPLIT) else 'val')


# -------------------------------------------------------------------------------------------------
# Blocks of frames.


def blocks_path(folder: Path | str, given: Path | str | None) -> Path | None:
    """Return the file of blocks that is given; else that of a growing dataset; else None."""
    if given is not None:
        return Path(given)
    is_dataset = (Path(folder) / DATASET_FILE).is_file()
    return Path(folder) / BLOCKS_FILE if is_dataset else None


def read_blocks(path: Path | None, stems: Sequence[str]) -> NDArray[np.str_]:
    """
    Return the block of each of n frames; frames of a block are not independent of each other.

    The file is JSON ``{"frame_0001": "dive_07", ...}``, or CSV with a line ``frame_0001,dive_07``
    per frame; `stems` are file names without ending. Other frames in the file are ignored. Without
    a file each frame is a separate block. Raises DatasetError if the file cannot be read, lacks a
    frame, or has one twice.
    """
    if path is None:
        return np.array(stems, dtype=np.str_)
    block_of = blocks_in(path)
    missing = [stem for stem in stems if stem not in block_of]
    if missing:
        raise DatasetError(f'{path} has no block for {missing[0]!r} and {len(missing) - 1} more',
                           'one for every frame')
    return np.array([block_of[stem] for stem in stems], dtype=np.str_)


def blocks_in(path: Path) -> dict[str, str]:
    """Return the blocks of a file of `read_blocks` by frame; DatasetError as there."""
    try:
        pairs = _pairs(path)
    except (OSError, ValueError, TypeError, csv.Error) as err:
        raise DatasetError(f'{path} gives no blocks ({err})', _BLOCK_FORMS) from err
    block_of = dict(pairs)
    if len(block_of) < len(pairs):
        twice, _ = Counter(stem for stem, _ in pairs).most_common(1)[0]
        raise DatasetError(f'{path} has the frame {twice!r} twice', 'one block a frame')
    return block_of


def _pairs(path: Path) -> list[tuple[str, str]]:
    # Spreadsheets write a byte order mark.
    text = read_bytes(path, MAX_JSON_BYTES).decode('utf-8-sig')
    if path.suffix.lower() == '.csv':
        pairs = [tuple(map(str.strip, line)) for line in csv.reader(text.splitlines()) if line]
    else:
        # As pairs, because a dict would lose a repeated key.
        pairs = parse_json(text, object_pairs_hook=list)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[1], str):
            raise ValueError(f'{pair!s:.{_MOST_SHOWN}} is no frame and its block')
    return [(stem, block) for stem, block in pairs]
