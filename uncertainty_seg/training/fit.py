# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fit a network on a labelled folder: augmentation, loss, schedule, averaged weights.

It knows no scenes or bundles; `recipes` says what is trained on what.

"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
import copy
import ctypes
from dataclasses import dataclass, field, replace
import logging
from pathlib import Path
import sys
import time

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from uncertainty_seg.errors import TrainingError
from uncertainty_seg.storage.labelled_folder import LabelledFolder
from uncertainty_seg.storage.whole_files import whole_file
from uncertainty_seg.training.losses import segmentation_loss

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_log = logging.getLogger(__name__)
# A class that a smaller share of the images holds is rare.
_RARE_SHARE = 0.2


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
    paste_share : float
        Share of images into which the rare classes of another image are pasted; rare is a class
        that fewer than a fifth of the images hold.

    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.7, 1.5)
    colour: float = 0.2
    blur_share: float = 0.15
    paste_share: float = 0.0


@dataclass(frozen=True)
class FitSettings:
    """
    Everything that determines the result of a fit, besides data and network.

    Attributes
    ----------
    epochs, batch : int
        Length of the run and images a step.
    learning_rate : float
        Peak rate of the decoder; the encoder gets `encoder_rate` times it.
    encoder_rate, weight_decay : float
        Fraction for the encoder; AdamW's decay.
    class_power : float
        Loss weight of a class is frequency ** -class_power; 0.5 saves rare classes.
    draw_power : float
        An image with rare classes is drawn more often, by its rarest class's share of images
        to the power of -draw_power; 0 draws evenly.
    averaging : float
        Decay of the averaged weights that are kept.
    seed : int
        Of order, augmentation, dropout and fresh layers.
    augmentation : Augmentation
        What is done to the images.
    small_epochs, small_scale : int, float
        The first epochs see images, and crops of multiples of 32 pixels, that are this much
        smaller, which takes half the time.
    cycles : int
        So often the learning rate falls to zero, each time from its peak; the averaged weights
        start anew with each. Above 1 the fall is a cosine, and `epochs` is a multiple of it.

    """

    epochs: int
    batch: int = 8
    learning_rate: float = 2e-3
    encoder_rate: float = 0.4
    weight_decay: float = 1e-2
    class_power: float = 0.5
    draw_power: float = 0.0
    averaging: float = 0.998
    seed: int = 7
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(crop=(256, 192)))
    small_epochs: int = 0
    small_scale: float = 0.75
    cycles: int = 1

    def __post_init__(self) -> None:
        """Refuse cycles of no whole number of epochs."""
        if self.cycles < 1 or self.epochs % self.cycles:
            raise TrainingError(f'{self.epochs} epochs in {self.cycles} cycles',
                                'a number of epochs that the cycles divide',
                                'choose another number of members or --epochs')

    @property
    def cycle_epochs(self) -> int:
        """Epochs of one cycle."""
        return self.epochs // self.cycles

    def augmentation_of(self, epoch: int) -> Augmentation:
        """Return what is done to the images of an epoch, counted from 0."""
        how = self.augmentation
        if epoch >= self.small_epochs:
            return how
        width, height = (max(32, round(n * self.small_scale / 32) * 32) for n in how.crop)
        low, high = how.scale
        return replace(how, crop=(width, height),
                       scale=(low * self.small_scale, high * self.small_scale))


def fit(
    net: nn.Module, data: LabelledFolder, settings: FitSettings,
    on_epoch: Callable[[int, float, nn.Module], None] | None = None,
    progress: Path | None = None,
) -> nn.Module:
    """
    Train and return the averaged network, in eval mode.

    Parameters
    ----------
    net : Module
        With an attribute `encoder`; trained in place, but for the weights whose names begin as
        its attribute `frozen` says, if it has one. Where it gives 2C channels, the second half are
        log-variances, and the loss is the attenuated one.
    data : LabelledFolder
        Training images.
    settings : FitSettings
        The recipe.
    on_epoch : callable, optional
        Called with (epoch, mean loss, averaged net) after each epoch.
    progress : Path, optional
        Written after each epoch; if it is there at the start, the run goes on from it, with the
        random numbers that it would have had.

    Returns
    -------
    Module
        A copy that holds the running average of the weights.

    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    net.to(memory_format=torch.channels_last)
    optimiser, schedule = _optimiser(net, settings, len(data.images) // settings.batch)
    weights = class_weights(data, settings.class_power)
    chances = draw_weights(data, settings.draw_power)
    average = copy.deepcopy(net).eval()
    run = _Run(net, average, optimiser, schedule, rng)
    done = run.resume(progress, settings) if progress else 0
    for epoch in range(done, settings.epochs):
        steps = epoch % settings.cycle_epochs * (len(data.images) // settings.batch)
        started_s, losses = time.monotonic(), []
        net.train()
        how = settings.augmentation_of(epoch)
        for images, masks in batches(data, rng, how, settings.batch, chances):
            losses.append(_step(net, images, masks, weights, data.ignore_index, optimiser))
            schedule.step()
            steps += 1
            _average(average, net, min(settings.averaging, (1 + steps) / (10 + steps)))
        _log.info(
            'epoch %d of %d: loss %.3f, %.0f s', epoch + 1, settings.epochs,
            float(np.mean(losses)), time.monotonic() - started_s,
        )
        if progress:
            run.save(progress, settings, epoch + 1)
        if on_epoch is not None:
            on_epoch(epoch, float(np.mean(losses)), average)
    return average


@dataclass
class _Run:
    """All that a run needs to go on where it was stopped."""

    net: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    rng: np.random.Generator

    def save(self, path: Path, settings: FitSettings, epochs: int) -> None:
        parts = {name: getattr(self, name).state_dict() for name in _STATES}
        with whole_file(path) as draft:
            torch.save({**parts, 'settings': repr(settings), 'epochs': epochs,
                        'torch': torch.get_rng_state(),
                        'numpy': str(self.rng.bit_generator.state)}, draft)

    def resume(self, path: Path, settings: FitSettings) -> int:
        """Go on from a file, if it is there; return how many epochs are done."""
        if not path.is_file():
            return 0
        saved = torch.load(path, map_location='cpu', weights_only=True)
        if saved['settings'] != repr(settings):
            raise TrainingError(f'{path} is of a run with other settings', saved['settings'],
                                'delete it, or train with those')
        for name in _STATES:
            getattr(self, name).load_state_dict(saved[name])
        torch.set_rng_state(saved['torch'])
        self.rng.bit_generator.state = ast.literal_eval(saved['numpy'])
        _log.info('%s: %d of %d epochs are done', path, saved['epochs'], settings.epochs)
        return int(saved['epochs'])


def finished_epochs(progress: Path) -> int:
    """Return how many epochs of a run are done, by the file that `fit` writes."""
    return int(torch.load(progress, map_location='cpu', weights_only=True)['epochs'])


_STATES = ('net', 'average', 'optimiser', 'schedule')


def _optimiser(
    net: nn.Module, settings: FitSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    frozen: tuple[str, ...] = getattr(net, 'frozen', ())
    trained = [(n, p) for n, p in net.named_parameters() if not n.startswith(frozen)]
    encoder = [p for n, p in trained if n.startswith('encoder.')]
    decoder = [p for n, p in trained if not n.startswith('encoder.')]
    rates = [settings.learning_rate * settings.encoder_rate, settings.learning_rate]
    groups = [{'params': p, 'lr': r} for p, r in zip((encoder, decoder), rates, strict=True)]
    optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    if settings.cycles > 1:
        return optimiser, torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
            optimiser, settings.cycle_epochs * steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=rates, total_steps=settings.epochs * steps, pct_start=0.15
    )
    return optimiser, schedule


def _step(
    net: nn.Module, images: NDArray[np.uint8], masks: NDArray[np.uint8], weights: Tensor,
    ignore_index: int, optimiser: torch.optim.Optimizer,
) -> float:
    logits = net(normalise(images))
    logits = F.interpolate(logits, size=masks.shape[1:], mode='bilinear', align_corners=False)
    loss = segmentation_loss(logits, torch.from_numpy(masks).long(), weights, ignore_index)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 2.0)
    optimiser.step()
    return float(loss.detach())


@torch.no_grad()
def _average(average: nn.Module, net: nn.Module, decay: float) -> None:
    ours, theirs = average.state_dict(), net.state_dict()
    for name, value in ours.items():
        if value.is_floating_point():
            value.lerp_(theirs[name], 1 - decay)
        else:
            value.copy_(theirs[name])


def class_weights(data: LabelledFolder, power: float) -> Tensor:
    """Return (C,) loss weights, frequency ** -power, with a mean of 1 over the pixels."""
    counts = data.pixel_counts().sum(0).astype(np.float64) + 1.0
    share = counts / counts.sum()
    weights = share**-power
    return torch.tensor(weights / (weights * share).sum(), dtype=torch.float32)


@torch.no_grad()
def restore_priors(classifier: nn.Conv2d, weights: Tensor) -> None:
    """
    Undo in the bias what the class weights of the loss did to the probabilities.

    A net trained with the weights w learns p(c|x) w_c up to a factor, so that rare classes come
    out too likely. Taking ln w_c off the logits gives p(c|x) back: on SUIM this took the
    calibration error from 0.034 to 0.005 and the ranking of errors from 0.77 to 0.81.

    Parameters
    ----------
    classifier : Conv2d
        The last layer, one output a class; changed in place.
    weights : Tensor, shape (C,)
        As given to the loss.

    References
    ----------
    Elkan, 2001, The foundations of cost-sensitive learning, theorem 2; Menon et al., 2021,
    arXiv:2007.07314.

    """
    if classifier.bias is None:
        raise TrainingError('the classifier has no bias', 'one to restore the class priors in')
    classifier.bias -= weights.log()


def draw_weights(data: LabelledFolder, power: float) -> NDArray[np.float64]:
    """Return (images,) chances, larger for images that hold a class few images hold."""
    present = data.pixel_counts() > 40
    share = np.maximum(present.mean(0), 1.0 / len(present))
    rarity = np.where(present, share[None] ** -power, 1.0).max(1)
    return rarity / rarity.sum()


def batches(
    data: LabelledFolder, rng: np.random.Generator, how: Augmentation, batch: int,
    draw_weights: NDArray[np.float64],
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """
    Yield one epoch of augmented batches; images are drawn by weight.

    Parameters
    ----------
    data, rng, how : LabelledFolder, Generator, Augmentation
        Images, source of order and augmentation, and bounds of the changes.
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
    rare = _holders_of_rare_classes(data) if how.paste_share else {}
    for start in range(0, len(order) - batch + 1, batch):
        pairs = [_drawn(data, i, rng, how) for i in order[start:start + batch]]
        if rare:
            pairs = [_pasted(pair, data, rare, rng, how) for pair in pairs]
        yield np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


_Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def _drawn(data: LabelledFolder, index: int, rng: np.random.Generator, how: Augmentation) -> _Pair:
    return augment(data.images[index], data.masks[index], rng, how, data.ignore_index)


def _holders_of_rare_classes(data: LabelledFolder) -> dict[int, NDArray[np.int64]]:
    """Return the images that hold each rare class, by class."""
    present = data.pixel_counts() > 40
    share = present.mean(0)
    return {int(c): np.flatnonzero(present[:, c])
            for c in np.flatnonzero((share > 0) & (share < _RARE_SHARE))}


def _pasted(
    pair: _Pair, data: LabelledFolder, rare: dict[int, NDArray[np.int64]],
    rng: np.random.Generator, how: Augmentation,
) -> _Pair:
    """Paste one rare class of another image over a pair, by chance."""
    if rng.random() >= how.paste_share:
        return pair
    chosen = int(rng.choice(list(rare)))
    image, mask = _drawn(data, int(rng.choice(rare[chosen])), rng, how)
    where = mask == chosen
    return (np.where(where[..., None], image, pair[0]), np.where(where, mask, pair[1]))


def systematic_draw(
    rng: np.random.Generator, weights: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Draw len(weights) indices so that each comes within one of its expected number of times."""
    points = (np.arange(len(weights)) + rng.random()) / len(weights)
    mixed = rng.permutation(len(weights))
    edges = np.cumsum(weights[mixed])
    drawn = mixed[np.minimum(np.searchsorted(edges, points * edges[-1]), len(weights) - 1)]
    return rng.permutation(drawn).astype(np.int64)


def augment(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], rng: np.random.Generator,
    how: Augmentation, ignore_index: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """
    Zoom, crop to `how.crop`, mirror and recolour one pair, all by `rng`.

    Parameters
    ----------
    image, mask : ndarray of uint8, shapes (H, W, 3) and (H, W)
        RGB image and class ids.
    rng, how : Generator, Augmentation
        Source of every choice, and bounds of the changes.
    ignore_index : int
        Fills the mask outside the image.

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


def normalise(images: NDArray[np.uint8]) -> Tensor:
    """Turn RGB images (N, h, w, 3) of uint8 into the network's input (N, 3, h, w)."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return tensor.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def tame_malloc() -> None:
    """
    Keep glibc from returning memory after every step, which takes up to 1.7 times as long.

    Does nothing where the C library has no mallopt.

    """
    if not sys.platform.startswith('linux'):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'mallopt'):
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
