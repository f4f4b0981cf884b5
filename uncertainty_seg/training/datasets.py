# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Photographs with masks from a folder, and what is done to them before the network sees them.

The folder layout is that of SUIM as it is handed round here: ``images/STEM.jpg`` (or png),
``masks/STEM.png`` with the class id as pixel value, ``classes.json``, ``splits.json``.

"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.errors import TrainingError


@dataclass(frozen=True)
class LabelledFolder:
    """
    A data set held in memory.

    Attributes
    ----------
    images : list of ndarray of uint8, shape (H, W, 3)
        RGB; sizes may differ.
    masks : list of ndarray of uint8, shape (H, W)
        Class ids, and `ignore_index` where nothing is known.
    stems : list of str
        File names without ending.
    class_names : tuple of str
        C names.
    palette : tuple of (int, int, int)
        RGB colour of each class.
    ignore_index : int
        Pixel value that no loss or metric may count.

    """

    images: list[NDArray[np.uint8]]
    masks: list[NDArray[np.uint8]]
    stems: list[str]
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    def pixel_counts(self) -> NDArray[np.int64]:
        """Return (images, C) pixels of each class in each image."""
        rows = [np.bincount(m.ravel(), minlength=256)[: self.num_classes] for m in self.masks]
        return np.stack(rows).astype(np.int64)


def load_folder(folder: Path, split: str) -> LabelledFolder:
    """
    Read one split of a labelled folder.

    Parameters
    ----------
    folder : Path
        With images/, masks/, classes.json and splits.json.
    split : str
        A key of splits.json.

    Returns
    -------
    LabelledFolder
        All images of the split, in its order.

    Raises
    ------
    TrainingError
        If a file is missing, unreadable, or image and mask differ in size.

    """
    classes = _read_json(folder / 'classes.json')
    splits = _read_json(folder / 'splits.json')
    if split not in splits:
        raise TrainingError(
            f'split {split!r} is not in {folder}/splits.json', f'one of {sorted(splits)}'
        )
    stems = [str(stem) for stem in splits[split]]
    pairs = [_read_pair(folder, stem) for stem in stems]
    entries = sorted(classes['classes'], key=lambda entry: entry['id'])
    return LabelledFolder(
        images=[image for image, _ in pairs],
        masks=[mask for _, mask in pairs],
        stems=stems,
        class_names=tuple(entry['name'] for entry in entries),
        palette=tuple((int(r), int(g), int(b)) for r, g, b in (e['rgb'] for e in entries)),
        ignore_index=int(classes['ignore_index']),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TrainingError(
            f'{path} is missing', 'a folder with images, masks, classes.json, splits.json'
        )
    return json.loads(path.read_text())


def _read_pair(folder: Path, stem: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    places = [folder / 'images' / f'{stem}{ending}' for ending in ('.jpg', '.png')]
    found = [path for path in places if path.is_file()]
    image = cv2.imread(str(found[0]), cv2.IMREAD_COLOR) if found else None
    mask = cv2.imread(str(folder / 'masks' / f'{stem}.png'), cv2.IMREAD_UNCHANGED)
    if image is None or mask is None:
        raise TrainingError(f'image or mask of {stem!r} in {folder} is missing or unreadable')
    if image.shape[:2] != mask.shape:
        raise TrainingError(
            f'image {stem!r} is {image.shape[:2]}, its mask {mask.shape}', 'equal sizes'
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), mask


@dataclass(frozen=True)
class Augmentation:
    """
    How far a training image may be changed.

    Attributes
    ----------
    crop : (int, int)
        Width and height of what the network sees.
    scale : (float, float)
        Range of the random zoom.
    colour : float
        Strength of colour cast, gamma and contrast changes, 0 for none.
    blur_share : float
        Share of images that are blurred, and of those that get noise.

    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.7, 1.5)
    colour: float = 0.2
    blur_share: float = 0.15


def augment(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    rng: np.random.Generator,
    how: Augmentation,
    ignore_index: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """
    Zoom, crop, mirror and recolour one pair.

    Parameters
    ----------
    image, mask : ndarray of uint8, shapes (H, W, 3) and (H, W)
        RGB image and class ids.
    rng : numpy Generator
        Source of every choice.
    how : Augmentation
        Bounds of the changes.
    ignore_index : int
        Fills the mask outside the image.

    Returns
    -------
    image, mask : ndarray of uint8
        Of the size `how.crop`.

    """
    width, height = how.crop
    zoom = float(np.exp(rng.uniform(*np.log(how.scale))))
    zoom *= max(width / image.shape[1], height / image.shape[0]) ** 0.5
    aspect = float(np.exp(rng.uniform(-0.1, 0.1)))
    scaled_w = round(image.shape[1] * zoom * aspect)
    scaled_h = round(image.shape[0] * zoom / aspect)
    shift_x = rng.uniform(min(0, width - scaled_w), max(0, width - scaled_w))
    shift_y = rng.uniform(min(0, height - scaled_h), max(0, height - scaled_h))
    matrix = np.array(
        [[scaled_w / image.shape[1], 0, shift_x], [0, scaled_h / image.shape[0], shift_y]]
    )
    if rng.random() < 0.5:
        matrix[0] = -matrix[0] + [0, 0, width - 1]
    image = cv2.warpAffine(image, matrix, how.crop, flags=cv2.INTER_LINEAR,
                           borderMode=cv2.BORDER_CONSTANT, borderValue=(114, 114, 114))
    mask = cv2.warpAffine(mask, matrix, how.crop, flags=cv2.INTER_NEAREST,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=ignore_index)
    return _recolour(image, rng, how), mask


def _recolour(
    image: NDArray[np.uint8], rng: np.random.Generator, how: Augmentation
) -> NDArray[np.uint8]:
    if how.colour > 0:
        gains = np.exp(rng.normal(0, how.colour * 0.5, 3) + rng.normal(0, how.colour * 0.7))
        gamma = np.exp(rng.normal(0, how.colour))
        ramp = np.linspace(0, 1, 256)[:, None] ** gamma * gains + rng.normal(0, how.colour * 0.1)
        table = np.clip(ramp * 255, 0, 255).astype(np.uint8)[None]
        image = cv2.LUT(image, table)
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        keep = float(np.clip(1 + rng.normal(0, how.colour * 1.5), 0.2, 1.6))
        image = cv2.addWeighted(image, keep, grey, 1 - keep, 0)
    if rng.random() < how.blur_share:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 1.6)))
    if rng.random() < how.blur_share:
        noisy = image + rng.normal(0, rng.uniform(2, 8), image.shape)
        image = np.clip(noisy, 0, 255).astype(np.uint8)
    return image


def batches(
    data: LabelledFolder,
    rng: np.random.Generator,
    how: Augmentation,
    batch: int,
    draw_weights: NDArray[np.float64],
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """
    Yield one epoch of augmented batches; rare images come more often by weight.

    Parameters
    ----------
    data : LabelledFolder
        Where images come from.
    rng : numpy Generator
        Source of order and augmentation.
    how : Augmentation
        Bounds of the changes.
    batch : int
        N, images a batch; the rest that fills no batch is left out.
    draw_weights : ndarray of float64, shape (images,)
        Chance of each image, summing to 1.

    Yields
    ------
    images : ndarray of uint8, shape (N, h, w, 3)
        RGB.
    masks : ndarray of uint8, shape (N, h, w)
        Class ids.

    """
    order = systematic_draw(rng, draw_weights)
    for start in range(0, len(order) - batch + 1, batch):
        pairs = [
            augment(data.images[i], data.masks[i], rng, how, data.ignore_index)
            for i in order[start : start + batch]
        ]
        yield np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


def systematic_draw(
    rng: np.random.Generator, weights: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Draw len(weights) indices so that each comes within one of its expected number of times."""
    points = (np.arange(len(weights)) + rng.random()) / len(weights)
    mixed = rng.permutation(len(weights))
    edges = np.cumsum(weights[mixed])
    drawn = mixed[np.minimum(np.searchsorted(edges, points * edges[-1]), len(weights) - 1)]
    return rng.permutation(drawn).astype(np.int64)
