# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is written down of a training: the card of its bundle says no more.

`NAME.facts.json` beside the weights `NAME.pt` says what these were trained on, and how long. The
text of the card is made from it, so that it is of the weights, not of the recipe of the day.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import hashlib
import json
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from uncertainty_seg.core.arrays import ConfusionMatrix
from uncertainty_seg.core.calibration import image_digest
from uncertainty_seg.core.model_card import digests_in, InputSpec
from uncertainty_seg.core.preprocess import fit_image, Geometry, unfit_label
from uncertainty_seg.errors import TrainingError
from uncertainty_seg.storage.foreign_files import MAX_JSON_BYTES, parse_json, read_bytes
from uncertainty_seg.storage.labelled_folder import LabelledFolder
from uncertainty_seg.storage.whole_files import replace_file
from uncertainty_seg.training.batches import normalise
from uncertainty_seg.training.networks import logits_of


@dataclass(frozen=True)
class RunFacts:
    """
    What a file of weights was made of.

    So many `images` were trained on, and `val_images` measured on after each of the finished
    `epochs`, of which one is kept (`kept_epoch`, from 1), chosen by its IoU or not (`is_chosen`);
    `val_mean_iou` is that of the kept weights in one pass without dropout, NaN if it was not
    measured. `folders`, `note`, `mixed` and `start` say of which images, what these are, how
    images were mixed in, and from what. `is_finished`: no further epoch was wanted. `seen` has
    the digests of the images that were trained on, or that chose the epoch.
    """

    images: int
    epochs: int
    kept_epoch: int
    start: str
    val_images: int = 0
    val_mean_iou: float = math.nan
    folders: tuple[str, ...] = ()
    note: str = ''
    is_finished: bool = False
    mixed: str = ''
    is_chosen: bool = False
    seen: tuple[str, ...] = ()

    def sentence(self, network: str) -> str:
        """Say for a card what a network was trained on."""
        images = f'{self.images:,}'.replace(',', ' ')
        where = f' of {", ".join(self.folders)}' if self.folders else ''
        text = f'{images} labelled images{where}, {self.epochs} epochs of {network}, ' \
            f'started from {self.start}.'
        if math.isfinite(self.val_mean_iou):
            chosen = f', on which epoch {self.kept_epoch} was chosen' \
                if self.is_chosen or self.kept_epoch != self.epochs else ''
            text += f' Mean IoU {self.val_mean_iou:.3f} on {self.val_images} others{chosen}.'
        if not self.is_finished:
            text += ' The run was stopped before its end.'
        return ' '.join(filter(None, [text, self.mixed, self.note]))


def write_facts(weights: Path, facts: RunFacts) -> None:
    """Write the facts beside the weights, whole or not at all."""
    known = {name: None if isinstance(value, float) and not math.isfinite(value) else value
             for name, value in vars(facts).items()} | {'seen': ''.join(facts.seen)}
    replace_file(weights.with_suffix('.facts.json'), json.dumps(known, indent=1) + '\n')


def read_facts(weights: Path) -> RunFacts | None:
    """Read the facts of a file of weights; None if there are none, TrainingError if no facts."""
    path = weights.with_suffix('.facts.json')
    if not path.is_file():
        return None
    try:
        raw = parse_json(read_bytes(path, MAX_JSON_BYTES))
        iou = raw['val_mean_iou']
        return RunFacts(**{**raw, 'folders': tuple(map(str, raw['folders'])),
                           'seen': digests_in(raw.get('seen', '')),
                           'val_mean_iou': math.nan if iou is None else float(iou)})
    except (ValueError, TypeError, KeyError) as err:
        raise TrainingError(f'{path} holds no facts of a run', 'what train wrote',
                            'delete it, and the card will not say what the weights were trained '
                            'on') from err


def digest_of(weights: Mapping[str, torch.Tensor]) -> str:
    """Return a digest of weights, their names and shapes."""
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(f'{name} {tuple(value.shape)} {value.dtype} '.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def digest_of_images(data: LabelledFolder | None) -> str:
    """Return a digest of the pixels of images and masks in their order, and of the classes."""
    digest = hashlib.sha256()
    if data is not None:
        digest.update(repr((data.class_names, data.ignore_index)).encode())
        for image, mask in zip(data.images, data.masks, strict=True):
            digest.update(f'{image.shape} '.encode())
            digest.update(np.ascontiguousarray(image).data)
            digest.update(np.ascontiguousarray(mask).data)
    return digest.hexdigest()


def seen_images(*parts: LabelledFolder | None) -> tuple[str, ...]:
    """Return what a card says of the images that a network has seen: sorted digests."""
    return tuple(sorted({image_digest(np.ascontiguousarray(image[..., ::-1]))
                         for data in parts if data is not None for image in data.images}))


@dataclass(frozen=True)
class Held:
    """Images that a net is measured on, at the size at which the bundle sees them."""

    data: LabelledFolder
    spec: InputSpec
    finish: Callable[[nn.Module], nn.Module] = field(default=lambda net: net)

    @torch.no_grad()
    def mean_iou(self, net: nn.Module) -> float:
        """Return the mean IoU over the classes that occur, in one pass; NaN if none does."""
        finished = self.finish(net).eval()
        table = ConfusionMatrix(self.data.num_classes)
        for image, mask in zip(self.data.images, self.data.masks, strict=True):
            geometry = Geometry.of(image.shape[0], image.shape[1], self.spec)
            fitted = fit_image(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), geometry, self.spec)
            logits = logits_of(finished(normalise(fitted[None])))
            full = nn.functional.interpolate(logits, fitted.shape[:2], mode='bilinear',
                                             align_corners=False)
            label = unfit_label(full[0].argmax(0).byte().numpy(), geometry)
            table.add(mask, label, self.data.ignore_index)
        return table.mean_iou() if table.counts.any() else math.nan
