# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Record of a training, from which the text of the bundle's card is made.

`NAME.facts.json` next to the weights `NAME.pt` states on which images and for how long they were
trained. The card therefore describes the weights, even if the recipe has changed since.
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
    Facts about the training of a file of weights.

    `images` is the number of training images, `val_images` that of images measured after each of
    the finished `epochs`. `kept_epoch` (from 1) is the epoch of the stored weights, chosen by its
    IoU if `is_chosen`; `val_mean_iou` is measured with these weights in one pass without dropout,
    NaN if not measured. `folders` names the folders of the images, `note` describes the images,
    `mixed` states how images were mixed in, and `start` the initial weights. `is_finished` means
    that the run ended by itself. `seen` has the digests of the images that were used to train or
    to choose the epoch.
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
        """Return the card's text on the training of a network."""
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
    """Write the facts next to the weights, atomically."""
    known = {name: None if isinstance(value, float) and not math.isfinite(value) else value
             for name, value in vars(facts).items()} | {'seen': ''.join(facts.seen)}
    replace_file(weights.with_suffix('.facts.json'), json.dumps(known, indent=1) + '\n')


def read_facts(weights: Path) -> RunFacts | None:
    """Read the facts of a file of weights; None if missing, TrainingError if invalid."""
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
    """Return sorted digests of the images of some folders, for a card."""
    return tuple(sorted({image_digest(np.ascontiguousarray(image[..., ::-1]))
                         for data in parts if data is not None for image in data.images}))


@dataclass(frozen=True)
class Held:
    """Images on which a net is measured, at the input size of the bundle."""

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
