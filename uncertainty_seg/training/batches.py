# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Batches of augmented images: drawing images, and changing image and mask together.

Images from another source, such as synthetic ones, can be mixed in: each batch then has the same
share of them, however few images one source has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from uncertainty_seg.storage.labelled_folder import LabelledFolder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# A class is rare if a smaller share of the images holds it.
_RARE_SHARE = 0.2
_Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class Augmentation:
    """Strength of the random changes of a training image."""

    crop: tuple[int, int]  # Width and height of the network's input.
    scale: tuple[float, float] = (0.7, 1.5)  # Range of the random zoom.
    colour: float = 0.2  # Strength of colour cast, gamma and contrast changes.
    blur_share: float = 0.15  # Share of images that are blurred, and of those that get noise.
    # Share of images into which a rare class of another image is pasted.
    paste_share: float = 0.0


def augment(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], rng: np.random.Generator,
    how: Augmentation, ignore_index: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """
    Zoom, crop to `how.crop`, mirror and recolour one pair at random.

    `image` is RGB (H, W, 3) and `mask` has class ids (H, W), both uint8; outside the image the
    mask becomes `ignore_index`.
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


def systematic_draw(
    rng: np.random.Generator, weights: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Draw len(weights) indices; the count of each is within one of its expected count."""
    points = (np.arange(len(weights)) + rng.random()) / len(weights)
    mixed = rng.permutation(len(weights))
    edges = np.cumsum(weights[mixed])
    drawn = mixed[np.minimum(np.searchsorted(edges, points * edges[-1]), len(weights) - 1)]
    return rng.permutation(drawn).astype(np.int64)


@dataclass(frozen=True)
class Mix:
    """The images that are mixed into every batch."""

    is_mixed: NDArray[np.bool_]  # Whether each image is mixed in, (images,).
    share: float  # Their share of each batch: at least one image, and not all.

    def count(self, batch: int) -> int:
        """Return the number of images of a batch that are mixed in."""
        return min(max(1, round(self.share * batch)), batch - 1)

    def draw(
        self, rng: np.random.Generator, weights: NDArray[np.float64], batch: int
    ) -> NDArray[np.int64]:
        """
        Draw the indices of an epoch batch by batch, each image by its weight within its part.

        The images of a part smaller than its share are repeated.
        """
        mixed, steps = self.count(batch), len(weights) // batch
        parts = [_endless(rng, np.flatnonzero(where), weights, steps * count).reshape(steps, count)
                 for where, count in ((~self.is_mixed, batch - mixed), (self.is_mixed, mixed))]
        return np.concatenate(parts, 1).ravel()


def _endless(
    rng: np.random.Generator, indices: NDArray[np.int64], weights: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    rounds = -(-count // len(indices))
    drawn = [indices[systematic_draw(rng, weights[indices])] for _ in range(rounds)]
    return np.concatenate(drawn)[:count] if drawn else indices[:0]


def draw_weights(data: LabelledFolder, power: float) -> NDArray[np.float64]:
    """Return probabilities (images,), larger for images with a class that few images have."""
    present = data.pixel_counts() > 40
    share = np.maximum(present.mean(0), 1.0 / len(present))
    rarity = np.where(present, share[None] ** -power, 1.0).max(1)
    return rarity / rarity.sum()


def batches(
    data: LabelledFolder, rng: np.random.Generator, how: Augmentation, batch: int,
    draw_weights: NDArray[np.float64], mix: Mix | None = None,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """
    Yield one epoch of augmented batches: RGB (N, h, w, 3) and class ids (N, h, w), both uint8.

    N is `batch`; an incomplete last batch is left out. `rng` determines order and augmentation,
    `draw_weights` (images,) holds the probability of each image, with the sum 1.
    """
    order = systematic_draw(rng, draw_weights) if mix is None else \
        mix.draw(rng, draw_weights, batch)
    rare = _holders_of_rare_classes(data) if how.paste_share else {}
    for start in range(0, len(order) - batch + 1, batch):
        pairs = [_drawn(data, i, rng, how) for i in order[start:start + batch]]
        if rare:
            pairs = [_pasted(pair, data, rare, rng, how) for pair in pairs]
        yield np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


def _drawn(
    data: LabelledFolder, index: int, rng: np.random.Generator, how: Augmentation
) -> _Pair:
    return augment(data.images[index], data.masks[index], rng, how, data.ignore_index)


def _holders_of_rare_classes(data: LabelledFolder) -> dict[int, NDArray[np.int64]]:
    """Return the indices of the images with each rare class, by class."""
    present = data.pixel_counts() > 40
    share = present.mean(0)
    return {int(c): np.flatnonzero(present[:, c])
            for c in np.flatnonzero((share > 0) & (share < _RARE_SHARE))}


def _pasted(
    pair: _Pair, data: LabelledFolder, rare: dict[int, NDArray[np.int64]],
    rng: np.random.Generator, how: Augmentation,
) -> _Pair:
    """Paste one rare class of another image over a pair, with probability `paste_share`."""
    if rng.random() >= how.paste_share:
        return pair
    chosen = int(rng.choice(list(rare)))
    image, mask = _drawn(data, int(rng.choice(rare[chosen])), rng, how)
    where = mask == chosen
    return (np.where(where[..., None], image, pair[0]), np.where(where, mask, pair[1]))


def normalise(images: NDArray[np.uint8]) -> Tensor:
    """Convert uint8 RGB images (N, h, w, 3) to the network's float32 input (N, 3, h, w)."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return tensor.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
