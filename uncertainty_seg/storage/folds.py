# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Folds of a labelled folder for cross-fitting: which network must not see which image.

The fold of an image follows from its name, the other names and a seed, on every machine alike.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
import hashlib
import json
import logging
from pathlib import Path

import numpy as np

from uncertainty_seg.core.calibration import image_digest
from uncertainty_seg.errors import DatasetError, some_of
from uncertainty_seg.storage.foreign_files import MAX_JSON_BYTES, parse_json, read_bytes
from uncertainty_seg.storage.labelled_folder import LabelledFolder, listed_splits, load_folder
from uncertainty_seg.storage.whole_files import replace_file

FOLDS_FILE = 'folds.json'
_log = logging.getLogger(__name__)
_NAMED = 3


def fold_of(stems: Sequence[str], folds: int, seed: int = 0) -> dict[str, int]:
    """
    Return the fold, 0..folds-1, of each image; folds differ by one image at most.

    Parameters
    ----------
    stems : sequence of str
        Names without ending, each once; their order makes no difference.
    folds : int
        K, at least 2 and at most the number of images.
    seed : int
        Another one gives other folds.

    Raises
    ------
    DatasetError
        If K is out of range or a name comes twice.

    """
    if len(set(stems)) < len(stems):
        raise DatasetError('a name of an image comes twice', 'each image once')
    if not 2 <= folds <= len(stems):
        raise DatasetError(f'{folds} folds of {len(stems)} images', f'2 to {len(stems)} folds')
    order = sorted(stems, key=lambda stem: hashlib.sha256(f'{seed}:{stem}'.encode()).digest())
    return {stem: rank % folds for rank, stem in enumerate(order)}


def without_fold(data: LabelledFolder, fold: int, fold_by_stem: Mapping[str, int]) -> \
        LabelledFolder:
    """
    Return the images outside of a fold, for the network that must not see it.

    Raises DatasetError if there is no such fold, or the rest lacks a class that all images
    together have.
    """
    folds = max(fold_by_stem.values()) + 1
    if not 0 <= fold < folds:
        raise DatasetError(f'fold {fold} of {folds}', f'0 to {folds - 1}')
    rest = subset(data, [i for i, s in enumerate(data.stems) if fold_by_stem[s] != fold])
    require_classes(rest, data, f'the images outside of fold {fold}')
    return rest


def subset(data: LabelledFolder, indices: Sequence[int]) -> LabelledFolder:
    """Return these images, in this order; one may come more than once."""
    return replace(data, images=[data.images[i] for i in indices],
                   masks=[data.masks[i] for i in indices], stems=[data.stems[i] for i in indices])


def counted_once(data: LabelledFolder) -> LabelledFolder:
    """Return the images without repeats of both pixels and mask; a warning says of how many."""
    seen: dict[tuple[str, str], int] = {}
    for index, pair in enumerate(zip(data.images, data.masks, strict=True)):
        seen.setdefault((image_digest(pair[0]), image_digest(pair[1])), index)
    if len(seen) == len(data.stems):
        return data
    kept = list(seen.values())
    again = [data.stems[i] for i in sorted(set(range(len(data.stems))) - set(kept))]
    _log.warning('%d of %d images are there before, pixel for pixel with their masks, and are '
                 'left out: %s', len(again), len(data.stems), some_of(again, _NAMED))
    return subset(data, kept)


def require_apart(
    train: LabelledFolder, val: LabelledFolder,
    names: tuple[str, str] = ('train', 'the split val'),
    wanted: str = 'other images to measure on',
    fix: str = 'take them out of one of the two in splits.json',
) -> None:
    """Raise DatasetError if pixels that are trained on are measured on too."""
    trained = {image_digest(image): stem
               for image, stem in zip(train.images, train.stems, strict=True)}
    both = [(stem, trained[digest]) for image, stem in zip(val.images, val.stems, strict=True)
            if (digest := image_digest(image)) in trained]
    if both:
        named = some_of((f'{stem!r} is {other!r} there' for stem, other in both), _NAMED)
        raise DatasetError(f'{len(both)} of {len(val.stems)} images of {names[1]} are in '
                           f'{names[0]} too, pixel for pixel ({named})',
                           wanted, fix)


def require_classes(part: LabelledFolder, whole: LabelledFolder, what: str) -> None:
    """Raise DatasetError if a part of a data set lacks a class that the whole has."""
    has, had = (data.pixel_counts().sum(0) > 0 for data in (part, whole))
    lost = [whole.class_names[c] for c in np.flatnonzero(had & ~has)]
    if lost:
        raise DatasetError(f'{what} hold no pixel of {", ".join(map(repr, lost))}',
                           'every class in every training set', 'take another --seed or more data')


def load_folders(folders: Sequence[Path], splits: Sequence[str]) -> LabelledFolder:
    """
    Read splits of several labelled folders with the same classes as one data set.

    Parameters
    ----------
    folders : sequence of Path
        At least one; with several the images are called FOLDER/STEM.
    splits : sequence of str
        Of each folder; all images of a folder without splits.json.

    Raises
    ------
    DatasetError
        If one cannot be read, has other classes than the first, or a mask an id that is no class;
        or no pixel has a class.

    """
    parts = [load_splits(folder, splits) for folder in folders]
    for folder, part in zip(folders, parts, strict=True):
        _require_same_classes(part, parts[0], folder, folders[0])
        _require_ids(part, folder)
    if not any((mask != part.ignore_index).any() for part in parts for mask in part.masks):
        raise DatasetError(
            f'no pixel of the {sum(len(part.stems) for part in parts)} masks in '
            f'{" and ".join(map(str, folders))} has a class', 'some that have',
            'label some of them, or look whether the masks hold ids')
    if len(parts) == 1:
        return parts[0]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [f'{index}_{name}' for index, name in enumerate(names)]
    return replace(
        parts[0], images=[image for part in parts for image in part.images],
        masks=[mask for part in parts for mask in part.masks],
        stems=[f'{name}/{stem}' for name, part in zip(names, parts, strict=True)
               for stem in part.stems])


def has_split(folder: Path, split: str) -> bool:
    """Say whether a labelled folder sets a split aside that is not empty."""
    path = folder / 'splits.json'
    if not path.is_file():
        return False
    try:
        raw = parse_json(read_bytes(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as err:
        raise DatasetError(f'{path} cannot be read ({err})', '{"train": [...], ...}') from err
    return isinstance(raw, dict) and bool(raw.get(split))


def _require_same_classes(
    part: LabelledFolder, first: LabelledFolder, folder: Path, before: Path
) -> None:
    if part.class_names != first.class_names or part.ignore_index != first.ignore_index:
        raise DatasetError(
            f'{folder} has the classes {", ".join(part.class_names)} (ignored: '
            f'{part.ignore_index}), and {before} {", ".join(first.class_names)} (ignored: '
            f'{first.ignore_index})', 'the same classes.json in every folder of --data')


def _require_ids(data: LabelledFolder, folder: Path) -> None:
    for stem, mask in zip(data.stems, data.masks, strict=True):
        strange = mask[(mask >= data.num_classes) & (mask != data.ignore_index)]
        if strange.size:
            raise DatasetError(
                f'the mask of {stem!r} in {folder} has the class id {int(strange[0])}',
                f'ids from 0 to {data.num_classes - 1}, or {data.ignore_index} where nothing is '
                'known')


def load_splits(folder: Path, splits: Sequence[str]) -> LabelledFolder:
    """
    Read several splits of a labelled folder as one data set, one after the other.

    Without splits.json it is all of the folder, once. Of several an empty one is left out.
    """
    if not (folder / 'splits.json').is_file():
        splits = splits[:1]
    elif len(splits) > 1:
        listed = listed_splits(folder)
        splits = [split for split in splits if listed.get(split) != []] or splits
    first, *others = (load_folder(folder, split) for split in splits)
    for other in others:
        first = replace(first, images=first.images + other.images,
                        masks=first.masks + other.masks, stems=first.stems + other.stems)
    return first


def write_folds(path: Path, fold_by_stem: Mapping[str, int]) -> None:
    """Write ``{"STEM": FOLD, ...}``, sorted by name."""
    replace_file(path, json.dumps(dict(sorted(fold_by_stem.items())), indent=1) + '\n')


def read_folds(path: Path) -> dict[str, int]:
    """Read what `write_folds` wrote; raises DatasetError if it is missing or something else."""
    try:
        raw = parse_json(read_bytes(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as err:
        raise DatasetError(f'{path} cannot be read ({err})', '{"STEM": FOLD, ...}') from err
    if not isinstance(raw, dict) or not raw or not all(type(v) is int for v in raw.values()):
        raise DatasetError(f'{path} has another form', '{"STEM": FOLD, ...}')
    return {str(stem): fold for stem, fold in raw.items()}
