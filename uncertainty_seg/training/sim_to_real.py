# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From images that are cheap to label to those of the place where the network shall work.

Four ways, each by itself or together: images of both in every batch, the colours of the target on
the other ones, batch norms measured anew on the target, and labels that a network gives to images
of the target where it is sure. The last three need no labels of the target.

References
----------
Reinhard et al., 2001, Color transfer between images; Li et al., 2018, arXiv:1603.04779 (AdaBN);
Zou et al., 2018, arXiv:1810.07911 (self-training, balanced by class).

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.errors import TrainingError
from uncertainty_seg.storage.labelled_folder import LabelledFolder
from uncertainty_seg.training.fit.augmentation import Feed, normalise, systematic_draw

FloatArray = NDArray[np.float64]
# A channel of an image without contrast is stretched by no more.
_MOST_GAIN = 4.0
_BATCH = 8
# How the sentence on adapted batch norms begins.
NORMS_MEASURED = 'Its batch norms were measured anew on'


@dataclass(frozen=True)
class SimToReal:
    """
    What is done for a target, beside training on the images.

    Attributes
    ----------
    mixed, share : int, float
        So many of the training images, the last ones, are mixed in: they make up this share of
        each batch, and their colours stay.
    pseudo : int
        So many of these have labels that a network gave; they do not count as labelled.
    colours : ndarray of float64, shape (K, 2, 3), optional
        `colour_statistics` of K images, one of which each other image takes when it is drawn.
    norm_images : sequence of ndarray of uint8, shape (h, w, 3)
        Network inputs to measure the batch norms on, after the training; none leaves them.
    words : tuple of str
        What is done while training, for the card.
    norm_words : str
        What is done after it.

    """

    mixed: int = 0
    share: float = 0.5
    pseudo: int = 0
    colours: FloatArray | None = None
    norm_images: Sequence[ImageU8] = field(default=(), repr=False)
    words: tuple[str, ...] = ()
    norm_words: str = ''

    def feed(self, count: int, repeated: int) -> Feed:
        """Return how batches are made of `count` images that are `repeated` with repeats."""
        is_mixed = np.arange(repeated) % count >= count - self.mixed
        change = None if self.colours is None else partial(
            _with_drawn_colours, self.colours, is_mixed)
        if not self.mixed:
            return Feed(change=change)
        return Feed(partial(mixed_draw, is_mixed=is_mixed, share=self.share), change)


NO_TARGET = SimToReal()


# --- mixed batches -------------------------------------------------------------------------------


def mixed_draw(
    rng: np.random.Generator, weights: FloatArray, batch: int, is_mixed: NDArray[np.bool_],
    share: float,
) -> NDArray[np.int64]:
    """
    Draw an epoch in which each batch has the same number of mixed images.

    Parameters
    ----------
    rng, weights : Generator, ndarray of float64, shape (images,)
        Source of the order, and the chance of each image within its part.
    batch : int
        N, of which `share` but at least one and not all are mixed.
    is_mixed : ndarray of bool, shape (images,)
        Which are mixed in.
    share : float
        Of each batch.

    Returns
    -------
    ndarray of int64
        As many whole batches as the images fill; a part that is smaller than its share comes
        again and again, each image about as often as its chance says.

    """
    mixed = mixed_count(batch, share)
    steps = len(weights) // batch
    parts = [_endless(rng, np.flatnonzero(where), weights, steps * count).reshape(steps, count)
             for where, count in ((~is_mixed, batch - mixed), (is_mixed, mixed))]
    return np.concatenate(parts, 1).ravel()


def mixed_count(batch: int, share: float) -> int:
    """Return how many images of a batch are mixed in."""
    return min(max(1, round(share * batch)), batch - 1)


def _endless(
    rng: np.random.Generator, indices: NDArray[np.int64], weights: FloatArray, count: int
) -> NDArray[np.int64]:
    rounds = -(-count // len(indices))
    drawn = [indices[systematic_draw(rng, weights[indices])] for _ in range(rounds)]
    return np.concatenate(drawn)[:count] if drawn else indices[:0]


# --- colours of the target -----------------------------------------------------------------------


def colour_statistics(image: ImageU8) -> FloatArray:
    """Return mean and standard deviation (2, 3) of an RGB image in Lab, in steps of a byte."""
    mean, spread = cv2.meanStdDev(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
    return np.stack([mean[:, 0], spread[:, 0]])


def with_colours(image: ImageU8, target: FloatArray) -> ImageU8:
    """
    Give an image the colours of another: mean and spread of each channel in Lab.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        RGB.
    target : ndarray of float64, shape (2, 3)
        From `colour_statistics` of the other one.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        With the statistics of the target, but for rounding and for colours that RGB has not.

    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    mean, spread = (part[:, 0] for part in cv2.meanStdDev(lab))
    gain = np.minimum(target[1] / np.maximum(spread, 1e-6), _MOST_GAIN)
    table = (np.arange(256)[:, None] - mean) * gain + target[0]
    moved = cv2.LUT(lab, np.clip(np.rint(table), 0, 255).astype(np.uint8)[None])
    return np.asarray(cv2.cvtColor(moved, cv2.COLOR_LAB2RGB), np.uint8)


def _with_drawn_colours(
    colours: FloatArray, is_mixed: NDArray[np.bool_], image: ImageU8, index: int,
    rng: np.random.Generator,
) -> ImageU8:
    if is_mixed[index]:
        return image
    return with_colours(image, colours[rng.integers(len(colours))])


# --- batch norms of the target -------------------------------------------------------------------


def require_norms(net: nn.Module) -> None:
    """Raise TrainingError if a network has no batch norms with statistics."""
    if not _norms_of(net):
        raise TrainingError('a network without batch norms', 'one that has some to measure anew',
                            'leave --adapt-batchnorm out')


def _norms_of(net: nn.Module) -> list[_BatchNorm]:
    return [part for part in net.modules()
            if isinstance(part, _BatchNorm) and part.running_mean is not None]


@torch.no_grad()
def adapt_norms(net: nn.Module, images: Sequence[ImageU8], seed: int = 0) -> None:
    """
    Measure the statistics of all batch norms anew, and leave everything else.

    Dropout is on, as it is when the network runs. (`torch.optim.swa_utils.update_bn` would forget
    the statistics of frozen layers, which stay in eval mode, and not measure them.)

    Parameters
    ----------
    net : Module
        Its norms are changed in place; modes stay as they are.
    images : sequence of ndarray of uint8, shape (h, w, 3)
        Two or more network inputs. They are taken in batches of about eight, by chance; the
        statistics are the mean of those of the batches.
    seed : int
        Of order and dropout.

    Raises
    ------
    TrainingError
        If there are no norms, or fewer than two images.

    """
    require_norms(net)
    if len(images) < 2:
        raise TrainingError(f'{len(images)} images to measure the batch norms on', 'two or more')
    norms, modes = _norms_of(net), [(part, part.training) for part in net.modules()]
    momenta = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    for part in net.modules():
        if isinstance(part, (_BatchNorm, _DropoutNd)):
            part.training = True
    order = np.random.default_rng(seed).permutation(len(images))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for chosen in np.array_split(order, max(1, round(len(order) / _BATCH))):
            net(normalise(np.stack([images[i] for i in chosen])))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for part, mode in modes:
        part.training = mode


# --- labels of a network -------------------------------------------------------------------------


def pseudo_masks(
    labels: Sequence[LabelMap], uncertainty: Sequence[NDArray[np.float32]], quantile: float,
    ignore_index: int, by_class: bool = False,
) -> list[LabelMap]:
    """
    Turn what a network says into masks to train on, where it is sure.

    Parameters
    ----------
    labels : sequence of ndarray of uint8, shape (H, W)
        Predicted classes; sizes may differ.
    uncertainty : sequence of ndarray of float32, shape (H, W)
        Grows with uncertainty; a pixel without a number is never kept.
    quantile : float
        This share of all pixels is kept, the least uncertain ones: to the pixel, equals in their
        order.
    ignore_index : int
        Of the others.
    by_class : bool
        Keep the share of the pixels of each predicted class, so that a class that is never sure
        is not lost.

    """
    flat = np.concatenate([np.ravel(part) for part in labels])
    unsure = np.concatenate([np.ravel(part) for part in uncertainty])
    kept = np.full(len(flat), ignore_index, np.uint8)
    groups = [np.flatnonzero(flat == value) for value in np.unique(flat)] if by_class else \
        [np.arange(len(flat))]
    for group in groups:
        order = group[np.argsort(unsure[group], kind='stable')]  # NaN last
        sure = order[:round(quantile * len(group))]
        sure = sure[np.isfinite(unsure[sure])]
        kept[sure] = flat[sure]
    ends = np.cumsum([np.size(part) for part in labels])[:-1]
    return [part.reshape(label.shape)
            for part, label in zip(np.split(kept, ends), labels, strict=True)]


def pseudo_labelled(
    images: Iterable[tuple[str, ImageU8]],
    predict: Callable[[ImageU8], tuple[LabelMap, NDArray[np.float32]]],
    classes: LabelledFolder, quantile: float, by_class: bool = False,
) -> LabelledFolder:
    """
    Label images with a network, and ignore where it is not sure.

    Parameters
    ----------
    images : iterable of (str, ndarray of uint8, shape (H, W, 3))
        Names and RGB images.
    predict : callable
        From an image to classes and uncertainty (h, w), of any one size, of all of the image.
    classes : LabelledFolder
        Gives names, colours and ignore index.
    quantile, by_class : float, bool
        As of `pseudo_masks`, at the size of what was predicted.

    Raises
    ------
    TrainingError
        If nothing is kept.

    """
    stems, pixels, labels, unsure = [], [], [], []
    for stem, image in images:
        label, uncertainty = predict(image)
        stems.append(stem)
        pixels.append(image)
        labels.append(label)
        unsure.append(uncertainty)
    masks = pseudo_masks(labels, unsure, quantile, classes.ignore_index, by_class)
    if not any((mask != classes.ignore_index).any() for mask in masks):
        raise TrainingError(f'no pixel of {len(masks)} images is sure enough for a label',
                            'some', 'raise --pseudo-quantile')
    sizes = [(image.shape[1], image.shape[0]) for image in pixels]
    return replace(classes, stems=stems, images=pixels, masks=[
        np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
        for mask, size in zip(masks, sizes, strict=True)])
