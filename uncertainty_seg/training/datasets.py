# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is done to labelled images before the network sees them: drawn, zoomed, cropped, recoloured.

`storage.labelled_folder` reads them from disk.

"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.storage.labelled_folder import LabelledFolder


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
    image: NDArray[np.uint8], mask: NDArray[np.uint8], rng: np.random.Generator,
    how: Augmentation, ignore_index: int,
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
    data: LabelledFolder, rng: np.random.Generator, how: Augmentation, batch: int,
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
            for i in order[start:start + batch]
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
