# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labelled images at the size of the network, resized once and kept in one file for all processes.

What labels cost is counted before: pixels whose class is known, and regions, which are what a
labeller outlines.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.core.preprocess import fit_image, Geometry
from uncertainty_seg.errors import TrainingError
from uncertainty_seg.storage.labelled_folder import LabelledFolder
from uncertainty_seg.storage.whole_files import whole_file

# A mask that is larger than so many times the network's size is measured at that.
MOST_ENLARGED = 2


@dataclass(frozen=True)
class PreparedImages:
    """
    N images in the middle of the network's input, as `fit_image` places them.

    Attributes
    ----------
    images : ndarray of uint8, shape (N, h, w, 3)
        RGB, with grey where there is no image.
    masks : ndarray of uint8, shape (N, h, w)
        Class ids, and the ignore index where there is no image.
    boxes : ndarray of int64, shape (N, 4)
        First row, last row + 1, first column, last column + 1 of each image.
    truths : tuple of ndarray of uint8
        Masks that a network is measured against, at most twice the network's size; none of images
        that nothing is measured on.
    pixels, regions : ndarray of int64, shape (N,)
        Pixels of a known class, and connected regions of one class, of each mask as it came.
    stems : tuple of str
        Names of the images.
    class_names, palette, ignore_index
        As a `LabelledFolder` has them.

    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    boxes: NDArray[np.int64]
    truths: tuple[NDArray[np.uint8], ...]
    pixels: NDArray[np.int64]
    regions: NDArray[np.int64]
    stems: tuple[str, ...]
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int

    def __len__(self) -> int:
        return len(self.stems)

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    @property
    def digest(self) -> str:
        """Return a digest of names, pixels and classes."""
        digest = hashlib.sha256(repr((self.stems, self.class_names, self.ignore_index)).encode())
        for array in (self.images, self.masks, self.boxes, self.pixels, self.regions,
                      *self.truths):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def box(self, index: int) -> tuple[slice, slice]:
        """Return rows and columns of an image in the network's input."""
        top, bottom, left, right = (int(side) for side in self.boxes[index])
        return slice(top, bottom), slice(left, right)

    def folder(self, indices: Sequence[int]) -> LabelledFolder:
        """Return some images without the grey around them, to train on."""
        boxes = [self.box(index) for index in indices]
        return LabelledFolder(
            images=[self.images[i][box] for i, box in zip(indices, boxes, strict=True)],
            masks=[self.masks[i][box] for i, box in zip(indices, boxes, strict=True)],
            stems=[self.stems[i] for i in indices], class_names=self.class_names,
            palette=self.palette, ignore_index=self.ignore_index)

    def cut(self, indices: Sequence[int]) -> PreparedImages:
        """Return some images, in this order."""
        rows = np.asarray(indices, np.int64)
        return PreparedImages(
            self.images[rows], self.masks[rows], self.boxes[rows],
            tuple(self.truths[i] for i in indices) if self.truths else (), self.pixels[rows],
            self.regions[rows], tuple(self.stems[i] for i in indices), self.class_names,
            self.palette, self.ignore_index)


def prepare(data: LabelledFolder, spec: InputSpec, is_measured: bool) -> PreparedImages:
    """Resize images and masks to a network's input; `is_measured` keeps masks to measure by."""
    places = [Geometry.of(image.shape[0], image.shape[1], spec) for image in data.images]
    pairs = list(zip(data.masks, places, strict=True))
    return PreparedImages(
        images=np.stack([fit_image(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), place, spec)
                         for image, place in zip(data.images, places, strict=True)]),
        masks=np.stack([_fitted(mask, place, spec, data.ignore_index) for mask, place in pairs]),
        boxes=np.array([(p.rows.start, p.rows.stop, p.columns.start, p.columns.stop)
                        for p in places], np.int64),
        truths=tuple(_truth(mask, spec) for mask in data.masks) if is_measured else (),
        pixels=np.array([(mask != data.ignore_index).sum() for mask in data.masks], np.int64),
        regions=np.array([num_regions(mask, data.ignore_index) for mask in data.masks], np.int64),
        stems=tuple(data.stems), class_names=data.class_names, palette=data.palette,
        ignore_index=data.ignore_index)


def _fitted(
    mask: NDArray[np.uint8], place: Geometry, spec: InputSpec, ignore_index: int
) -> NDArray[np.uint8]:
    whole = np.full((spec.height, spec.width), ignore_index, np.uint8)
    rows, columns = place.rows, place.columns
    size = (columns.stop - columns.start, rows.stop - rows.start)
    whole[rows, columns] = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return whole


def _truth(mask: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    height, width = mask.shape
    scale = MOST_ENLARGED * min(spec.width / width, spec.height / height)
    if scale >= 1:
        return mask
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def num_regions(mask: NDArray[np.uint8], ignore_index: int) -> int:
    """Count the connected regions of one class in a mask (H, W); corners connect."""
    return sum(cv2.connectedComponents((mask == c).view(np.uint8), connectivity=8)[0] - 1
               for c in np.unique(mask) if c != ignore_index)


_ARRAYS = ('images', 'masks', 'boxes', 'pixels', 'regions')


def write_prepared(path: Path, data: PreparedImages) -> None:
    """Write images to a file, whole or not at all."""
    arrays: dict[str, Any] = {name: getattr(data, name) for name in _ARRAYS}
    arrays |= {name: np.array(getattr(data, name), np.str_) for name in ('stems', 'class_names')}
    shapes = np.array([truth.shape for truth in data.truths], np.int64).reshape(-1, 2)
    flat = np.concatenate([truth.ravel() for truth in data.truths]) if data.truths \
        else np.zeros(0, np.uint8)
    with whole_file(path) as draft, draft.open('wb') as file:
        np.savez(file, shapes=shapes, truths=flat,
                 palette=np.array(data.palette, np.int64),
                 ignore_index=np.array(data.ignore_index), **arrays)


def read_prepared(path: Path) -> PreparedImages:
    """Read what `write_prepared` wrote; raises TrainingError if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as err:
        raise TrainingError(f'{path} is missing or damaged', 'the images of the study',
                            'delete it and run the same command again') from err
    ends = np.cumsum(found['shapes'].prod(1))
    parts = np.split(found['truths'], ends[:-1]) if len(ends) else []
    truths = tuple(part.reshape(shape)
                   for part, shape in zip(parts, found['shapes'], strict=True))
    r_g_b = tuple((int(r), int(g), int(b)) for r, g, b in found['palette'])
    return PreparedImages(
        **{name: found[name] for name in _ARRAYS}, truths=truths,
        stems=tuple(map(str, found['stems'])), class_names=tuple(map(str, found['class_names'])),
        palette=r_g_b, ignore_index=int(found['ignore_index']))
