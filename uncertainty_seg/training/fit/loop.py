# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fit a network on a labelled folder: loss, optimiser, schedule, averaged weights.

It knows no scenes or bundles; `recipes` says what is trained on what.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
import copy
import ctypes
import logging
import math
from pathlib import Path
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from uncertainty_seg.errors import TrainingError
from uncertainty_seg.storage.labelled_folder import LabelledFolder
from uncertainty_seg.training.fit.augmentation import (
    batches,
    draw_weights,
    Feed,
    normalise,
    PLAIN_FEED,
)
from uncertainty_seg.training.fit.run import (
    FitRun,
    FitSettings,
    in_words,
    planned_epochs,
    Row,
    Watch,
)
from uncertainty_seg.training.losses import iou_loss, segmentation_loss

# Between two lines of one epoch, seconds.
LINE_S = 30.0
# Weights and progress of a short epoch take longer to write than the epoch to compute.
KEEP_EVERY_S = 10.0
_TIMED_STEPS = 4
_log = logging.getLogger(__name__)


def fit(
    net: nn.Module, data: LabelledFolder, settings: FitSettings,
    on_epoch: Callable[[int, float, nn.Module], None] | None = None,
    progress: Path | None = None, watch: Watch | None = None,
    origin: Mapping[str, str] | None = None, feed: Feed | None = None,
) -> nn.Module:
    """
    Train and return the averaged network, in eval mode.

    Parameters
    ----------
    net : Module
        Trained in place, but for the weights whose names begin as its attribute `frozen` says, if
        it has one; those of its attribute `encoder` at a rate of their own. Where it gives 2C
        channels, the second half are log-variances, and the loss is the attenuated one.
    data : LabelledFolder
        Training images; fewer than a batch make a smaller batch.
    settings : FitSettings
        The recipe.
    on_epoch : callable, optional
        Called with (epoch, mean loss, net to keep) after an epoch that is kept: the first, the
        last of a cycle or of the run, and else one every `KEEP_EVERY_S`.
    progress : Path, optional
        Written after each epoch that is kept; if it is there at the start, the run goes on from
        it, with the random numbers that it would have had.
    watch : Watch, optional
        Measures each epoch and may end the run.
    origin : mapping of str to str, optional
        What the run is made of beside the settings, in words by what it is; a value that begins
        with `DIGEST` is for comparison only. Kept in `progress`.
    feed : Feed, optional
        In which order images come, and what is done to them before they are augmented.

    Returns
    -------
    Module
        A copy that holds the running average of the weights; of the best epoch where there is a
        patience.

    Raises
    ------
    TrainingError
        If the loss is not a number again and again, although the run went back to its last good
        epoch each time; or `progress` is of a run with other settings or another origin, or none.

    """
    watch = watch or Watch()
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    net.to(memory_format=torch.channels_last)
    batch = min(settings.batch, len(data.images))
    optimiser, schedule = _optimiser(net, settings, len(data.images) // batch)
    average = copy.deepcopy(net).eval()
    run = FitRun(net, average, optimiser, schedule, rng, copy.deepcopy(average))
    made_of = {**(origin or {}), **in_words(settings)}
    done = run.resume(progress, settings, made_of) if progress else 0
    epochs = _Epochs(run, data, settings, batch, feed or PLAIN_FEED)
    why, kept, kept_s = watch.is_over(run.rows), done, -math.inf
    while done < settings.epochs and not why:
        before, started_s = run.state(), time.monotonic()
        with _fast_kernels(net):
            loss = epochs.train(done)
        if not math.isfinite(loss):
            run.go_back(before, done, kept)
            continue
        done += 1
        run.note(done, loss, watch, time.monotonic() - started_s)
        _log.info('epoch %d of %d: %s', done, settings.epochs, _said(run.rows[-1]))
        why = watch.is_over(run.rows)
        is_kept = (bool(why) or done == settings.epochs or done % settings.cycle_epochs == 0
                   or time.monotonic() - kept_s >= KEEP_EVERY_S)
        # First what is kept, then the progress: a run that is killed between them does the
        # epoch again, and writes the same.
        if is_kept and on_epoch is not None:
            on_epoch(done - 1, loss, run.kept(watch))
        if watch.on_rows is not None:
            watch.on_rows(run.rows)
        if is_kept and progress:
            run.save(progress, settings, done, made_of)
        if is_kept:
            kept, kept_s = done, time.monotonic()
    if done < settings.epochs:
        _log.info('stopped: %s', why)
    return run.kept(watch)


@contextmanager
def _fast_kernels(net: nn.Module) -> Iterator[None]:
    """
    Have 1x1 convolutions computed by oneDNN on one thread, as on two.

    On one thread PyTorch gives those of fewer than 16 images to a routine of its own, unless they
    are strided or dilated. The dilation of one weight changes nothing, and a step of the shipped
    networks takes a quarter less time.
    """
    taken = [] if torch.get_num_threads() > 1 else [
        m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)
        and m.dilation == (1, 1) and m.groups == 1]
    for layer in taken:
        layer.dilation = (2, 2)
    try:
        yield
    finally:
        for layer in taken:
            layer.dilation = (1, 1)


def _said(row: Row) -> str:
    iou = float(row['val_mean_iou'])
    held_out = f', mean IoU {iou:.3f} on images not trained on' if math.isfinite(iou) else ''
    return f'loss {row["loss"]:.3f}{held_out}, {row["seconds"]:.0f} s'


class _Epochs:
    """Train epoch after epoch on the same images."""

    def __init__(
        self, run: FitRun, data: LabelledFolder, settings: FitSettings, batch: int, feed: Feed
    ) -> None:
        self._run, self._data, self._settings, self._batch = run, data, settings, batch
        self._feed = feed
        self._weights = class_weights(data, settings.class_power)
        self._chances = draw_weights(data, settings.draw_power)

    def train(self, epoch: int) -> float:
        """Train for an epoch, counted from 0; return its mean loss, NaN as soon as one is none."""
        run, data, settings = self._run, self._data, self._settings
        in_all = len(data.images) // self._batch
        steps = epoch % settings.cycle_epochs * in_all
        losses: list[float] = []
        said_s = started_s = time.monotonic()
        run.net.train()
        how = settings.augmentation_of(epoch)
        for number, (images, masks) in enumerate(
                batches(data, run.rng, how, self._batch, self._chances, self._feed), 1):
            loss = _step(run.net, images, masks, self._weights, data.ignore_index, run.optimiser,
                         settings.iou_weight)
            if loss is not None:
                losses.append(loss)
            if losses and not math.isfinite(losses[-1]):
                return math.nan
            run.schedule.step()
            steps += 1
            _average(run.average, run.net, min(settings.averaging, (1 + steps) / (10 + steps)))
            now_s = time.monotonic()
            if now_s - said_s >= LINE_S:
                said_s = now_s
                _log.info('epoch %d of %d: %d of %d steps, loss %.3f, %.0f s left', epoch + 1,
                          settings.epochs, number, in_all, float(np.mean(losses or [math.nan])),
                          (now_s - started_s) / number * (in_all - number))
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
    ignore_index: int, optimiser: torch.optim.Optimizer, iou_weight: float,
) -> float | None:
    """Return the loss; None if no pixel counts, NaN if loss or gradient are no numbers."""
    if (masks == ignore_index).all():
        return None
    coarse, labels = logits_of(net(normalise(images))), torch.from_numpy(masks).long()
    logits = F.interpolate(coarse, size=masks.shape[1:], mode='bilinear', align_corners=False)
    loss = segmentation_loss(logits, labels, weights, ignore_index)
    if iou_weight:
        # Of the probabilities that ship, from which the weights are taken off (`restore_priors`).
        used = coarse[:, :len(weights)] - weights.log()[:, None, None]
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


def logits_of(output: Any) -> Tensor:
    """
    Return the logits of what a network returns: a tensor, or 'out' or 'logits' of a mapping.

    Of a sequence it is the first, of an object its attribute `logits`. Raises TrainingError if
    there is none.
    """
    if isinstance(output, Mapping):
        output = next((output[key] for key in ('out', 'logits') if key in output), None)
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    elif not isinstance(output, Tensor):
        output = getattr(output, 'logits', None)
    if not isinstance(output, Tensor) or output.dim() != 4:
        raise TrainingError('a network whose output has no logits',
                            "a tensor (N, C, h, w), alone, first, or as 'out' or 'logits'")
    return output


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


def affordable_epochs(
    net: nn.Module, data: LabelledFolder, settings: FitSettings, budget_s: float,
    progress: Path | None = None, measure: Callable[[nn.Module], float] | None = None,
) -> int:
    """
    Return how many epochs fit into a time, 1 to `settings.epochs`, by a few steps on a copy.

    A run that has begun stays as long as it was planned: its rates fall over that length.
    """
    if progress is not None and progress.is_file():
        return planned_epochs(progress, settings.epochs)
    batch = min(settings.batch, len(data.images))
    weights, copied = class_weights(data, settings.class_power), copy.deepcopy(net).train()
    optimiser, _ = _optimiser(copied, settings, len(data.images) // batch)
    rng, times = np.random.default_rng(0), []
    with torch.random.fork_rng():
        for _ in range(_TIMED_STEPS):
            images, masks = next(batches(data, rng, settings.augmentation, batch,
                                         draw_weights(data, 0.0)))
            started_s = time.monotonic()
            _step(copied, images, masks, weights, data.ignore_index, optimiser,
                  settings.iou_weight)
            times.append(time.monotonic() - started_s)
    started_s = time.monotonic()
    if measure is not None:
        measure(copied.eval())
    epoch_s = float(np.median(times)) * (len(data.images) // batch) \
        + time.monotonic() - started_s
    fitting = min(settings.epochs, max(1, int(budget_s / max(epoch_s, 1e-9))))
    _log.info('%d of %d epochs of about %.1f s fit into the budget', fitting, settings.epochs,
              epoch_s)
    return fitting


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
