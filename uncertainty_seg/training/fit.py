# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fit a network on a labelled folder: loss, optimiser, schedule, averaged weights, resumption.

The state of a run is stored in a file, from which a stopped run continues as if it had not been
stopped. A loss that is not finite ends the run.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
import copy
import ctypes
from dataclasses import dataclass, field, replace
import logging
import math
from pathlib import Path
import sys
import time

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from uncertainty_seg.errors import DivergedError, TrainingError
from uncertainty_seg.storage.labelled_folder import LabelledFolder
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.whole_files import whole_file
from uncertainty_seg.training.batches import Augmentation, batches, draw_weights, Mix, normalise
from uncertainty_seg.training.losses import iou_loss
from uncertainty_seg.training.networks import logits_of

WEIGHT_DECAY = 1e-2
# Decay of the averaged weights, which are the ones that are stored.
AVERAGING = 0.998
# Smallest interval of storing: a short epoch takes less time than writing weights and progress.
KEEP_EVERY_S = 10.0
_log = logging.getLogger(__name__)
# Figures of one epoch.
Row = dict[str, float]
_STATES = ('net', 'average', 'optimiser', 'schedule', 'best')


@dataclass(frozen=True)
class FitSettings:
    """Everything that determines the result of a fit, besides data and network."""

    epochs: int
    batch: int = 8  # Images per step.
    learning_rate: float = 2e-3  # Peak rate of the decoder.
    encoder_rate: float = 0.4  # The encoder's rate as a fraction of `learning_rate`.
    # The loss weight of a class is frequency ** -class_power; 0.5 preserves rare classes.
    class_power: float = 0.5
    iou_weight: float = 0.0  # Factor with which `losses.iou_loss` is added to the loss.
    # An image with rare classes is drawn more often, by its rarest class's share of images to the
    # power of -draw_power; 0 draws evenly.
    draw_power: float = 0.0
    seed: int = 7  # Seed of order, augmentation, dropout and new layers.
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(crop=(256, 192)))
    # The first epochs use images and crops (multiples of 32 pixels) scaled by `small_scale`, which
    # takes half the time.
    small_epochs: int = 0
    small_scale: float = 0.75

    def augmentation_of(self, epoch: int) -> Augmentation:
        """Return the augmentation of an epoch, counted from 0."""
        how = self.augmentation
        if epoch >= self.small_epochs:
            return how
        width, height = (max(32, round(n * self.small_scale / 32) * 32) for n in how.crop)
        low, high = how.scale
        return replace(how, crop=(width, height),
                       scale=(low * self.small_scale, high * self.small_scale))


@dataclass(frozen=True)
class Watch:
    """Callbacks that observe a run, and the rule for ending it early."""

    # Maps the averaged net to its mean IoU on held-out images; NaN if unknown.
    measure: Callable[[nn.Module], float] | None = None
    # The run ends after this many epochs without a better one, and the best is stored; 0: never.
    patience: int = 0
    # Called after each epoch with the rows of all epochs so far.
    on_rows: Callable[[list[Row]], None] | None = None

    def is_over(self, rows: list[Row]) -> str:
        """Return why the run should end; an empty string if it should continue."""
        best = best_epoch(rows)
        if self.patience and best is not None and len(rows) - best >= self.patience:
            return f'no epoch was better for {self.patience} after epoch {best}'
        return ''


def best_epoch(rows: list[Row]) -> int | None:
    """Return the number, from 1, of the first epoch with the largest IoU; None without any."""
    known = [(row['val_mean_iou'], -k) for k, row in enumerate(rows, 1)
             if math.isfinite(row['val_mean_iou'])]
    return -max(known)[1] if known else None


@dataclass
class FitRun:
    """The state that a run needs to continue after a stop."""

    net: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    rng: np.random.Generator
    best: nn.Module
    rows: list[Row] = field(default_factory=list)

    def kept(self, watch: Watch) -> nn.Module:
        """Return the net to store: the best with a patience, else the current average."""
        return self.best if watch.patience else self.average

    def note(self, epoch: int, loss: float, watch: Watch, seconds: float) -> None:
        """Record the figures of an epoch, and store the net as `best` if it is the best."""
        iou = watch.measure(self.average) if watch.measure else math.nan
        self.rows.append({
            'epoch': epoch, 'loss': loss, 'val_mean_iou': iou, 'seconds': seconds,
            'learning_rate': float(self.optimiser.param_groups[-1]['lr'])})
        if best_epoch(self.rows) in (epoch, None):
            self.best.load_state_dict(self.average.state_dict())

    def save(self, path: Path, epochs: int, made_of: Mapping[str, str]) -> None:
        """Write the state for `resume`, atomically."""
        with whole_file(path) as draft:
            torch.save({**{name: getattr(self, name).state_dict() for name in _STATES},
                        'torch': torch.get_rng_state(), 'rows': self.rows, 'epochs': epochs,
                        'numpy': str(self.rng.bit_generator.state), 'made_of': dict(made_of),
                        'threads': torch.get_num_threads()}, draft)

    def resume(self, path: Path, made_of: Mapping[str, str], keeps_threads: bool = False) -> int:
        """
        Restore the state from a file, if it exists; return the number of finished epochs.

        Another number of threads would round differently; `keeps_threads` uses that of the file.
        """
        if not path.is_file():
            return 0
        try:
            saved = torch.load(path, map_location='cpu', weights_only=True)
            other = next((what for what, value in made_of.items()
                          if saved['made_of'][what] != value), '')
        except Exception as err:  # damaged pickles raise almost anything
            _log.debug('%s: %s', path, err)
            raise TrainingError(f'{path} is damaged or no progress of a run', 'what train wrote',
                                'delete it to begin anew') from err
        if other:
            raise _is_another_run(path, f'another {other}')
        try:
            for name in _STATES:
                getattr(self, name).load_state_dict(saved[name])
            torch.set_rng_state(saved['torch'])
            self.rng.bit_generator.state = ast.literal_eval(saved['numpy'])
            self.rows = list(saved['rows'])
            if keeps_threads:
                torch.set_num_threads(int(saved['threads']))
        except Exception as err:  # states of another network may raise almost anything
            _log.debug('%s: %s', path, err)
            raise _is_another_run(path, 'weights that do not fit this network') from err
        _log.info('%s: %d epochs are done', path, saved['epochs'])
        return int(saved['epochs'])


def _is_another_run(path: Path, what: str) -> TrainingError:
    return TrainingError(f'{path} is of a run with {what}', 'the progress of this run',
                         'take another folder, or delete it to begin anew')


def fit(
    net: nn.Module, data: LabelledFolder, settings: FitSettings,
    on_epoch: Callable[[int, float, nn.Module], None] | None = None,
    progress: Path | None = None, watch: Watch | None = None,
    origin: Mapping[str, str] | None = None, mix: Mix | None = None,
    keeps_threads: bool = False,
) -> nn.Module:
    """
    Train and return the averaged network in eval mode; with a patience, that of the best epoch.

    `net` is trained in place, except for weights whose names begin with a prefix in its attribute
    `frozen`, if it has one; its attribute `encoder` has a separate learning rate. With fewer
    images than a batch, the batch is smaller. `on_epoch` is called with (epoch, mean loss, net to
    store) after epochs that are stored: the first, the last, and otherwise one every
    `KEEP_EVERY_S`. `progress` is written after it. If `progress` exists at the start, the run
    continues from it with the random numbers that it would have had; with `keeps_threads`, which
    uses its number of threads, the result is bit-identical. `watch` measures each epoch and may
    end the run; `origin` states what the run depends on besides the settings. Raises DivergedError
    if the loss is not finite, TrainingError if `progress` is invalid or belongs to a run with
    other settings or another origin.
    """
    watch = watch or Watch()
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    net.to(memory_format=torch.channels_last)
    batch = min(settings.batch, len(data.images))
    optimiser, schedule = _optimiser(net, settings, len(data.images) // batch)
    average = copy.deepcopy(net).eval()
    run = FitRun(net, average, optimiser, schedule, rng, copy.deepcopy(average))
    made_of = {'recipe': repr(settings), **(origin or {})}
    done = run.resume(progress, made_of, keeps_threads) if progress else 0
    epochs = _Epochs(run, data, settings, batch, mix)
    why, kept, kept_s = watch.is_over(run.rows), done, -math.inf
    while done < settings.epochs and not why:
        started_s = time.monotonic()
        loss = epochs.train(done)
        done += 1
        if not math.isfinite(loss):
            raise DivergedError(
                f'the loss of epoch {done} is not a number', 'a loss that falls',
                'give a smaller learning_rate, or look at the images and masks; what was kept is '
                f'of the first {kept} epochs')
        run.note(done, loss, watch, time.monotonic() - started_s)
        _log.info('epoch %d of %d: %s', done, settings.epochs, _said(run.rows[-1]))
        why = watch.is_over(run.rows)
        is_kept = (bool(why) or done == settings.epochs
                   or time.monotonic() - kept_s >= KEEP_EVERY_S)
        # The weights are stored before the progress: a run that is killed in between repeats the
        # epoch and writes the same.
        if is_kept and on_epoch is not None:
            on_epoch(done - 1, loss, run.kept(watch))
        if watch.on_rows is not None:
            watch.on_rows(run.rows)
        if is_kept and progress:
            run.save(progress, done, made_of)
        if is_kept:
            kept, kept_s = done, time.monotonic()
    if done < settings.epochs:
        _log.info('stopped: %s', why)
    return run.kept(watch)


def _said(row: Row) -> str:
    iou = row['val_mean_iou']
    held_out = f', mean IoU {iou:.3f} on images not trained on' if math.isfinite(iou) else ''
    return f'loss {row["loss"]:.3f}{held_out}, {row["seconds"]:.0f} s'


class _Epochs:
    """Trains epochs on the same images."""

    def __init__(
        self, run: FitRun, data: LabelledFolder, settings: FitSettings, batch: int,
        mix: Mix | None,
    ) -> None:
        self._run, self._data, self._settings, self._batch = run, data, settings, batch
        self._mix = mix
        self._weights = class_weights(data, settings.class_power)
        self._chances = draw_weights(data, settings.draw_power)

    def train(self, epoch: int) -> float:
        """Train epoch `epoch`, from 0; return its mean loss, or NaN if a loss is not finite."""
        run, data, settings = self._run, self._data, self._settings
        in_all = len(data.images) // self._batch
        steps = epoch * in_all
        losses: list[float] = []
        run.net.train()
        how = settings.augmentation_of(epoch)
        drawn = batches(data, run.rng, how, self._batch, self._chances, self._mix)
        for images, masks in progress(drawn, desc=f'epoch {epoch + 1} of {settings.epochs}',
                                      total=in_all, unit='step'):
            loss = _step(run.net, images, masks, self._weights, data.ignore_index, run.optimiser,
                         settings.iou_weight)
            if loss is not None:
                losses.append(loss)
            if losses and not math.isfinite(losses[-1]):
                return math.nan
            run.schedule.step()
            steps += 1
            _average(run.average, run.net, min(AVERAGING, (1 + steps) / (10 + steps)))
        return float(np.mean(losses)) if losses else 0.0


def _optimiser(
    net: nn.Module, settings: FitSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    frozen: tuple[str, ...] = getattr(net, 'frozen', ())
    trained = [(n, p) for n, p in net.named_parameters() if not n.startswith(frozen)]
    encoder = [p for n, p in trained if n.startswith('encoder.')]
    decoder = [p for n, p in trained if not n.startswith('encoder.')]
    rates = [settings.learning_rate * settings.encoder_rate, settings.learning_rate]
    groups = [{'params': p, 'lr': r} for p, r in zip((encoder, decoder), rates, strict=True) if p]
    rates = [rate for part, rate in zip((encoder, decoder), rates, strict=True) if part]
    optimiser = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=rates, total_steps=settings.epochs * steps, pct_start=0.15
    )
    return optimiser, schedule


def _step(
    net: nn.Module, images: NDArray[np.uint8], masks: NDArray[np.uint8], weights: Tensor,
    ignore_index: int, optimiser: torch.optim.Optimizer, iou_weight: float,
) -> float | None:
    """Return the loss; None without labelled pixels, NaN if loss or gradient is not finite."""
    if (masks == ignore_index).all():
        return None
    coarse, labels = logits_of(net(normalise(images))), torch.from_numpy(masks).long()
    logits = F.interpolate(coarse, size=masks.shape[1:], mode='bilinear', align_corners=False)
    loss = F.cross_entropy(logits, labels, weight=weights, ignore_index=ignore_index)
    if iou_weight:
        # Computed for the final probabilities, without the class weights (`restore_priors`).
        used = coarse - weights.log()[:, None, None]
        loss = loss + iou_weight * iou_loss(used, labels, ignore_index)
    optimiser.zero_grad(set_to_none=True)
    if not bool(loss.isfinite()):
        return math.nan
    loss.backward()
    norm = nn.utils.clip_grad_norm_(net.parameters(), 2.0)
    if not bool(norm.isfinite()):
        return math.nan
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
    """Return the loss weights (C,), frequency ** -power, with a mean of 1 over the pixels."""
    counts = data.pixel_counts().sum(0).astype(np.float64) + 1.0
    share = counts / counts.sum()
    weights = share**-power
    return torch.tensor(weights / (weights * share).sum(), dtype=torch.float32)


@torch.no_grad()
def restore_priors(classifier: nn.Conv2d, weights: Tensor) -> None:
    """
    Remove the effect of the loss's class weights (C,) through the bias of the last layer.

    A net trained with the weights w learns p(c|x) w_c up to a factor, which makes rare classes too
    probable. Subtracting ln w_c from the logits restores p(c|x): on SUIM this changed the
    calibration error from 0.034 to 0.005 and the AUROC of errors from 0.77 to 0.81 (Elkan, 2001,
    theorem 2; Menon et al., 2021, arXiv:2007.07314).
    """
    if classifier.bias is None:
        raise TrainingError('the classifier has no bias', 'one to restore the class priors in')
    classifier.bias -= weights.log()


def tame_malloc() -> None:
    """Keep glibc from returning memory after every step, which takes up to 1.7 times as long."""
    if not sys.platform.startswith('linux'):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'mallopt'):
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
