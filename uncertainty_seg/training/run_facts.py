# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a run has beside recipe and images, and what is written down of it: the card says no more.

`NAME.facts.json` beside the weights `NAME.pt` says what these were trained on, and how long. The
text of the card is made from it, so that it is of the weights, not of the options of the day.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
import hashlib
import json
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from uncertainty_seg.core.model_card import EPOCH_CHOSEN, InputSpec
from uncertainty_seg.core.preprocess import fit_image, Geometry, unfit_label
from uncertainty_seg.errors import TrainingError
from uncertainty_seg.storage.foreign_files import MAX_JSON_BYTES, parse_json, read_bytes
from uncertainty_seg.storage.labelled_folder import LabelledFolder
from uncertainty_seg.storage.whole_files import replace_file
from uncertainty_seg.training.fit.augmentation import normalise
from uncertainty_seg.training.fit.loop import logits_of
from uncertainty_seg.training.fit.run import best_epoch, DIGEST, Row
from uncertainty_seg.training.init_weights import Taken
from uncertainty_seg.training.sim_to_real import NO_TARGET, SimToReal

# An epoch of fewer images than two batches takes each so often that it has this many batches.
_SHORT_EPOCH = 8


@dataclass(frozen=True)
class Extras:
    """
    What a run may have beside recipe and images.

    Attributes
    ----------
    val : LabelledFolder, optional
        Images that are not trained on: each epoch is measured on them.
    patience : int
        So many epochs without a better one end the run, and the best is kept; 0 for none.
    budget_s : float
        Seconds of training; the epochs are as many as fit.
    init : Taken, optional
        Weights to start from.
    folders : tuple of str
        Where the images are from, for the card.
    note : str
        What they are, for the card.
    on_rows : callable, optional
        Called with the file of weights and the rows of its run, after each epoch.
    target : SimToReal
        What is done for images of another place than those with labels.

    """

    val: LabelledFolder | None = None
    patience: int = 0
    budget_s: float = math.inf
    init: Taken | None = None
    folders: tuple[str, ...] = ()
    note: str = ''
    on_rows: Callable[[Path, list[Row]], None] | None = None
    target: SimToReal = NO_TARGET


NOTHING_MORE = Extras()


@dataclass(frozen=True)
class RunFacts:
    """
    What a file of weights was made of.

    Attributes
    ----------
    images, val_images : int
        Trained on; and measured on after each epoch.
    epochs : int
        Finished; of the weights that are kept `kept_epoch`.
    kept_epoch : int
        Whose weights are kept, from 1.
    start : str
        What the run started from.
    val_mean_iou : float
        Of the kept weights, in one pass without dropout; NaN if it was not measured.
    folders : tuple of str
        Of the images.
    note : str
        What the images are.
    is_finished : bool
        Whether no further epoch was wanted.
    asked : int
        The epochs that were asked for, of which a budget or patience may leave some out.
    target : tuple of str
        What was done for images of another place, in sentences.
    is_chosen : bool
        Whether the kept epoch was chosen by `val_mean_iou`, be it the last one.

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
    asked: int = 0
    target: tuple[str, ...] = ()
    is_chosen: bool = False

    def sentence(self, network: str) -> str:
        """Say for a card what a network was trained on."""
        images = f'{self.images:,}'.replace(',', ' ')
        where = f' of {", ".join(self.folders)}' if self.folders else ''
        text = f'{images} labelled images{where}, {self.epochs} epochs of {network}, ' \
            f'started from {self.start}.'
        if math.isfinite(self.val_mean_iou):
            chosen = f', {EPOCH_CHOSEN} {self.kept_epoch} was chosen' \
                if self.is_chosen or self.kept_epoch != self.epochs else ''
            text += f' Mean IoU {self.val_mean_iou:.3f} on {self.val_images} others{chosen}.'
        if not self.is_finished:
            text += ' The run was stopped before its end.'
        return ' '.join(filter(None, [text, *self.target, self.note]))


def facts_file(weights: Path) -> Path:
    """Return where the facts of a file of weights are."""
    return weights.with_suffix('.facts.json')


def write_facts(weights: Path, facts: RunFacts) -> None:
    """Write the facts beside the weights, whole or not at all."""
    known = {name: None if isinstance(value, float) and not math.isfinite(value) else value
             for name, value in vars(facts).items()}
    replace_file(facts_file(weights), json.dumps(known, indent=1) + '\n')


def read_facts(weights: Path) -> RunFacts | None:
    """Read the facts of a file of weights; None if there are none, TrainingError if no facts."""
    path = facts_file(weights)
    if not path.is_file():
        return None
    try:
        raw = parse_json(read_bytes(path, MAX_JSON_BYTES))
    except ValueError as err:
        raise _are_no_facts(path) from err
    if not isinstance(raw, dict) or not _FACTS.keys() - _LATER <= raw.keys() <= _FACTS.keys() \
            or not all(_is_a(raw[name], _FACTS[name]) for name in raw):
        raise _are_no_facts(path)
    iou = raw['val_mean_iou']
    return RunFacts(**{**raw, 'folders': tuple(map(str, raw['folders'])),
                       'target': tuple(map(str, raw.get('target', ()))),
                       'val_mean_iou': math.nan if iou is None else float(iou)})


# Types in the file; JSON has no NaN and no tuples.
_FACTS: dict[str, tuple[type, ...]] = {
    'images': (int,), 'epochs': (int,), 'kept_epoch': (int,), 'start': (str,),
    'val_images': (int,), 'val_mean_iou': (float, int, type(None)), 'folders': (list,),
    'note': (str,), 'is_finished': (bool,), 'asked': (int,), 'target': (list,),
    'is_chosen': (bool,)}
_LATER = {'val_images', 'note', 'is_finished', 'asked', 'target', 'is_chosen'}


def _is_a(value: object, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _are_no_facts(path: Path) -> TrainingError:
    return TrainingError(f'{path} holds no facts of a run', 'what train wrote',
                         'delete it, and the card will not say what the weights were trained on')


def digest_of(weights: Mapping[str, torch.Tensor]) -> str:
    """Return a digest of weights, their names and shapes."""
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(f'{name} {tuple(value.shape)} {value.dtype} '.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return DIGEST + digest.hexdigest()


def digest_of_images(data: LabelledFolder | None) -> str:
    """Return a digest of the pixels of images and masks in their order, and of the classes."""
    digest = hashlib.sha256()
    if data is not None:
        digest.update(repr((data.class_names, data.ignore_index)).encode())
        for image, mask in zip(data.images, data.masks, strict=True):
            digest.update(f'{image.shape} '.encode())
            digest.update(np.ascontiguousarray(image).data)
            digest.update(np.ascontiguousarray(mask).data)
    return DIGEST + digest.hexdigest()


def facts_of(
    extras: Extras, images: int, start: str, rows: Sequence[Row], is_finished: bool, asked: int
) -> RunFacts:
    """Return the facts of a run after these epochs, of `asked` ones."""
    epochs = len(rows)
    kept = (best_epoch(list(rows)) if extras.patience else None) or epochs
    iou = float(rows[kept - 1]['val_mean_iou']) if rows else math.nan
    return RunFacts(
        images, epochs, kept, start, 0 if extras.val is None else len(extras.val.stems), iou,
        extras.folders, extras.note, is_finished, asked, extras.target.words,
        extras.patience > 0)


def enough_images(data: LabelledFolder, batch: int) -> LabelledFolder:
    """Return the images, each several times where they are fewer than two batches."""
    count = len(data.images)
    if count >= 2 * batch:
        return data
    times = math.ceil(_SHORT_EPOCH * batch / count)
    return replace(data, images=data.images * times, masks=data.masks * times,
                   stems=data.stems * times)


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
        num, ignored = self.data.num_classes, self.data.ignore_index
        table = np.zeros((num, num), np.int64)
        for image, mask in zip(self.data.images, self.data.masks, strict=True):
            geometry = Geometry.of(image.shape[0], image.shape[1], self.spec)
            fitted = fit_image(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), geometry, self.spec)
            logits = logits_of(finished(normalise(fitted[None])))
            full = nn.functional.interpolate(logits[:, :num], fitted.shape[:2], mode='bilinear',
                                             align_corners=False)
            label = unfit_label(full[0].argmax(0).byte().numpy(), geometry)
            known = mask != ignored
            table += np.bincount(mask[known].astype(np.int64) * num + label[known],
                                 minlength=num * num).reshape(num, num)
        hits = np.diag(table)
        union = table.sum(0) + table.sum(1) - hits
        return float((hits[union > 0] / union[union > 0]).mean()) if union.any() else math.nan


def find_classifier(net: nn.Module, num_classes: int, spec: InputSpec) -> str:
    """
    Return the name of the layer whose bias is added to the logits; empty if there is none.

    It is the last convolution of C channels that runs, and is tried: a larger bias of a class has
    to make its logits larger by as much.
    """
    seen: list[nn.Module] = []
    layers = [part for part in net.modules() if isinstance(part, nn.Conv2d)
              and part.out_channels == num_classes and part.bias is not None]
    handles = [part.register_forward_hook(lambda part, *_: seen.append(part)) for part in layers]
    image, was_training = torch.zeros(1, 3, spec.height, spec.width), net.training
    net.eval()
    try:
        with torch.no_grad():
            before = logits_of(net(image))
            if not seen or before.shape[1] != num_classes:
                return ''
            bias = seen[-1].bias
            assert isinstance(bias, torch.Tensor)
            step = torch.arange(1.0, num_classes + 1)
            bias.add_(step)
            moved = logits_of(net(image)) - before
            bias.sub_(step)
    finally:
        for handle in handles:
            handle.remove()
        net.train(was_training)
    if not torch.allclose(moved, step.view(1, -1, 1, 1).expand_as(moved), atol=1e-3):
        return ''
    return next(name for name, part in net.named_modules() if part is seen[-1])


def require_classes_of(net: nn.Module, data: LabelledFolder, spec: InputSpec, what: str) -> None:
    """Raise TrainingError if a network of one's own does not give C logits, or does not run."""
    was_training = net.training
    net.eval()
    try:
        with torch.no_grad():
            logits = logits_of(net(torch.zeros(1, 3, spec.height, spec.width)))
    except (RuntimeError, ValueError, TypeError) as err:
        words = ' '.join(str(err).split())[:160]
        raise TrainingError(f'{what} cannot take an image of {spec.width}x{spec.height} ({words})',
                            'a network of normalised RGB images (N, 3, h, w)',
                            'give another --size') from err
    net.train(was_training)
    if logits.shape[1] != data.num_classes:
        raise TrainingError(
            f'{what} gives {logits.shape[1]} channels', f'{data.num_classes}, one for each of '
            f'{", ".join(data.class_names)}', 'build it for the classes of classes.json')
