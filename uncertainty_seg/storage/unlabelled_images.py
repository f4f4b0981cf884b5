# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Images whose labels are not looked at: those of a folder, or of a split of a labelled folder.

A labelled folder that sets images aside gives those of `train`, so that nothing is fitted to what
it is measured on.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.errors import DatasetError, ImageError
from uncertainty_seg.storage.foreign_files import read_image_file, why
from uncertainty_seg.storage.labelled_folder import (
    ENDINGS,
    image_path,
    listed_splits,
    require_names,
)

_SPLIT = 'train'


@dataclass(frozen=True)
class UnlabelledImages:
    """
    Image files of one place.

    Attributes
    ----------
    name : str
        Of the place, for people.
    paths : tuple of Path
        At least one, sorted or in the order of the split.

    """

    name: str
    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[tuple[str, ImageU8]]:
        """Yield name and RGB pixels (H, W, 3); DatasetError if one cannot be read."""
        for path in self.paths:
            try:
                image = decode(read_image_file(path))
            except (OSError, ValueError, ImageError) as err:
                raise DatasetError(f'{path} cannot be read ({why(err)})',
                                   'a whole jpeg or png file') from err
            yield path.stem, np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def find_unlabelled(text: str) -> UnlabelledImages:
    """
    Return the images of DIR, or of DIR:SPLIT.

    DIR holds pictures, or `images/` as a labelled folder does; where that has a splits.json and no
    split is named it is `train`. Raises DatasetError if there is nothing.
    """
    folder, split = Path(text), ''
    if not folder.exists() and ':' in text:
        base, _, split = text.rpartition(':')
        folder = Path(base)
    if not folder.is_dir():
        raise DatasetError(f'no folder {folder}', 'a folder of images, or FOLDER:SPLIT')
    paths = _of_split(folder, split) if (folder / 'images').is_dir() else _pictures(folder, split)
    if not paths:
        raise DatasetError(f'no images in {text}', f'files that end in {", ".join(ENDINGS[:3])}')
    require_names(folder, (path.stem for path in paths))
    name = folder.resolve().name
    return UnlabelledImages(f'{name}:{split}' if split else name, tuple(paths))


def _pictures(folder: Path, split: str) -> Sequence[Path]:
    if split:
        raise DatasetError(f'a split {split!r} of {folder}, which has no folder images',
                           'a labelled folder with splits.json', 'leave the split out')
    return sorted(path for path in folder.iterdir() if path.suffix in ENDINGS)


def _of_split(folder: Path, split: str) -> Sequence[Path]:
    splits = listed_splits(folder)
    if split and split not in splits:
        raise DatasetError(f'no split {split!r} in {folder}',
                           f'one of {", ".join(sorted(filter(None, splits))) or "none"}')
    chosen = splits.get(split or _SPLIT)
    stems = chosen if chosen is not None else [s for part in splits.values() for s in part]
    paths = [(stem, image_path(folder, stem)) for stem in dict.fromkeys(stems)]
    missing = [stem for stem, path in paths if path is None]
    if missing:
        raise DatasetError(f'image {missing[0]!r} of {folder} is missing', 'the images of its '
                           'splits.json')
    return [path for _, path in paths if path is not None]
