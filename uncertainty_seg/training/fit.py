# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fit a network on a labelled folder: augmentation, loss, schedule, averaged weights.

It knows no scenes or bundles; `recipes` says what is trained on what.

"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
import copy
import ctypes
from dataclasses import asdict, dataclass, field, replace
import logging
import math
from pathlib import Path
import sys
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from uncertainty_seg.errors import DivergedError, TrainingError
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


# What a run says of an epoch: numbers and a note, by the columns of `COLUMNS`.
Row = dict[str, float | str]
COLUMNS = ('epoch', 'loss', 'learning_rate', 'val_mean_iou', 'seconds', 'note')
# How often a run goes back, each time to a tenth of the rate, before it gives up.
MOST_RETURNS, SLOWER = 4, 0.1
# Between two lines of one epoch, seconds.
LINE_S = 30.0
# Weights and progress of a short epoch take longer to write than the epoch to compute.
KEEP_EVERY_S = 10.0


@dataclass(frozen=True)
class Watch:
    """
    What looks at a run while it trains, and may end it.

    Attributes
    ----------
    measure : callable, optional
        From the averaged net to its mean IoU on images that are not trained on; NaN if unknown.
    patience : int
        So many epochs without a better one end the run, and the best is what is kept; 0 for none.
    budget_s : float
        No epoch is begun after so many seconds of training, those of stopped runs included.
    on_rows : callable, optional
        Called with the rows of all epochs so far, after each.

    """

    measure: Callable[[nn.Module], float] | None = None
    patience: int = 0
    budget_s: float = math.inf
    on_rows: Callable[[list[Row]], None] | None = None

    def is_over(self, rows: list[Row]) -> str:
        """Say why no further epoch is wanted; empty if one is."""
        spent_s = sum(float(row['seconds']) for row in rows)
        if rows and spent_s >= self.budget_s:
            return f'the budget is used up after {len(rows)} epochs'
        best = best_epoch(rows)
        if self.patience and best is not None and len(rows) - best >= self.patience:
            return f'no epoch was better for {self.patience} after epoch {best}'
        return ''


def best_epoch(rows: list[Row]) -> int | None:
    """Return the number, from 1, of the first epoch with the largest IoU; None without any."""
    known = [(float(row['val_mean_iou']), -k) for k, row in enumerate(rows, 1)
             if math.isfinite(float(row['val_mean_iou']))]
    return -max(known)[1] if known else None


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
    run = _Run(net, average, optimiser, schedule, rng, copy.deepcopy(average))
    made_of = {**(origin or {}), **in_words(settings)}
    done = run.resume(progress, settings, made_of) if progress else 0
    epochs = _Epochs(run, data, settings, batch, feed or PLAIN_FEED)
    why, kept, kept_s = watch.is_over(run.rows), done, -math.inf
    while done < settings.epochs and not why:
        before, started_s = run.state(), time.monotonic()
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


def _said(row: Row) -> str:
    iou = float(row['val_mean_iou'])
    held_out = f', mean IoU {iou:.3f} on images not trained on' if math.isfinite(iou) else ''
    return f'loss {row["loss"]:.3f}{held_out}, {row["seconds"]:.0f} s'


@dataclass
class _Run:
    """All that a run needs to go on where it was stopped, or where it was still sound."""

    net: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    rng: np.random.Generator
    best: nn.Module
    rows: list[Row] = field(default_factory=list)
    returns: int = 0
    remark: str = ''

    def kept(self, watch: Watch) -> nn.Module:
        """Return the net that is worth keeping by now."""
        return self.best if watch.patience else self.average

    def note(self, epoch: int, loss: float, watch: Watch, seconds: float) -> None:
        """Write down what came of an epoch, and keep the net if it is the best."""
        iou = watch.measure(self.average) if watch.measure else math.nan
        self.rows.append({
            'epoch': epoch, 'loss': loss, 'val_mean_iou': iou, 'seconds': seconds,
            'learning_rate': float(self.optimiser.param_groups[-1]['lr']), 'note': self.remark})
        self.remark = ''
        if best_epoch(self.rows) in (epoch, None):
            self.best.load_state_dict(self.average.state_dict())

    def state(self) -> dict[str, Any]:
        """Return a copy of what an epoch changes."""
        return {**{name: copy.deepcopy(getattr(self, name).state_dict()) for name in _STATES},
                'torch': torch.get_rng_state(), 'numpy': str(self.rng.bit_generator.state)}

    def go_back(self, before: dict[str, Any], done: int, kept: int) -> None:
        """Undo an epoch whose loss was no number, and go on from there at a tenth of the rate."""
        self.returns += 1
        if self.returns > MOST_RETURNS:
            raise DivergedError(
                f'the loss of epoch {done + 1} is not a number, for the {self.returns}th time',
                'a loss that falls', 'give a smaller --learning-rate, or look at the images and '
                f'masks; what was kept is of the first {kept} epochs')
        self._load(before)
        self.rng.random(self.returns)  # another draw than the one that led there
        for group in self.optimiser.param_groups:
            group.update({key: group[key] * SLOWER for key in _RATES if key in group})
        self.schedule.base_lrs = [rate * SLOWER for rate in self.schedule.base_lrs]
        self.remark = (f'the loss was not a number: back to the end of epoch {done}, on at a '
                       'tenth of the rate')
        _log.warning('epoch %d: %s', done + 1, self.remark)

    def _load(self, saved: dict[str, Any]) -> None:
        for name in _STATES:
            getattr(self, name).load_state_dict(saved[name])
        torch.set_rng_state(saved['torch'])
        self.rng.bit_generator.state = ast.literal_eval(saved['numpy'])

    def save(
        self, path: Path, settings: FitSettings, epochs: int, made_of: Mapping[str, str]
    ) -> None:
        with whole_file(path) as draft:
            torch.save({**self.state(), 'best': self.best.state_dict(), 'rows': self.rows,
                        'returns': self.returns, 'settings': repr(settings),
                        'made_of': dict(made_of), 'planned': settings.epochs, 'epochs': epochs},
                       draft)

    def resume(self, path: Path, settings: FitSettings, made_of: Mapping[str, str]) -> int:
        """Go on from a file, if it is there; return how many epochs are done."""
        if not path.is_file():
            return 0
        saved = _read_progress(path)
        # Of a run from before it was kept nothing but the settings can be compared.
        other = _other_part(saved.get('made_of', {}), made_of)
        if other or saved['settings'] != repr(settings):
            raise _is_another_run(path, other or 'other settings')
        try:
            self._load(saved)
            if 'rows' in saved:  # not of a run from before they were kept
                self.best.load_state_dict(saved['best'])
                self.rows, self.returns = list(saved['rows']), int(saved['returns'])
        except Exception as err:  # weights and states of another network raise almost anything
            _log.debug('%s: %s', path, err)
            raise _is_another_run(path, 'weights that do not fit this network') from err
        _log.info('%s: %d of %d epochs are done', path, saved['epochs'], settings.epochs)
        return int(saved['epochs'])


# How a value begins that says nothing to people.
DIGEST = 'sha256:'


def in_words(settings: FitSettings) -> dict[str, str]:
    """Return the settings by name, as text; those of the augmentation among them."""
    flat = asdict(settings)
    flat |= flat.pop('augmentation')
    return {name.replace('_', ' '): 'x'.join(map(str, value)) if name == 'crop' else str(value)
            for name, value in flat.items()}


def _other_part(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say in what two runs differ; the empty string if they do not."""
    what = next((key for key, value in now.items() if before.get(key, value) != value), None)
    what = what or next((key for key in before if key not in now), None)
    if what is None:
        return ''
    if DIGEST in before[what] or DIGEST in now.get(what, DIGEST):
        return f'other {what}'
    return f'the {what} {before[what]}, not {now[what]}'


def _is_another_run(path: Path, what: str) -> TrainingError:
    return TrainingError(f'{path} is of a run with {what}', 'the run that is to go on',
                         'take another --out, or delete it to begin anew')


def _read_progress(path: Path) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as err:  # damaged pickles raise almost anything
        _log.debug('torch.load of %s: %s', path, err)
        raise _is_no_progress(path) from err
    wanted = {*_STATES, 'torch', 'numpy', 'settings', 'epochs'}
    if not isinstance(saved, dict) or not wanted <= saved.keys() \
            or not isinstance(saved['epochs'], int):
        raise _is_no_progress(path)
    return saved


def _is_no_progress(path: Path) -> TrainingError:
    return TrainingError(f'{path} is damaged or no progress of a run', 'what train wrote',
                         'delete it to begin anew')


class _Epochs:
    """Train epoch after epoch on the same images."""

    def __init__(
        self, run: _Run, data: LabelledFolder, settings: FitSettings, batch: int, feed: Feed
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
            loss = _step(run.net, images, masks, self._weights, data.ignore_index, run.optimiser)
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


def affordable_epochs(
    net: nn.Module, data: LabelledFolder, settings: FitSettings, budget_s: float,
    progress: Path | None = None, measure: Callable[[nn.Module], float] | None = None,
) -> int:
    """
    Return how many epochs fit into a time, 1 to `settings.epochs`, by a few steps on a copy.

    A run that has begun stays as long as it was planned: its rates fall over that length.
    """
    if progress is not None and progress.is_file():
        return int(_read_progress(progress).get('planned', settings.epochs))
    batch = min(settings.batch, len(data.images))
    weights, copied = class_weights(data, settings.class_power), copy.deepcopy(net).train()
    optimiser, _ = _optimiser(copied, settings, len(data.images) // batch)
    rng, times = np.random.default_rng(0), []
    with torch.random.fork_rng():
        for _ in range(_TIMED_STEPS):
            images, masks = next(batches(data, rng, settings.augmentation, batch,
                                         draw_weights(data, 0.0)))
            started_s = time.monotonic()
            _step(copied, images, masks, weights, data.ignore_index, optimiser)
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


_TIMED_STEPS = 4


def finished_epochs(progress: Path) -> int:
    """Return how many epochs of a run are done, by the file that `fit` writes."""
    return int(_read_progress(progress)['epochs'])


def finished_rows(progress: Path) -> list[Row]:
    """Return what is known of each finished epoch, by the file that `fit` writes."""
    return list(_read_progress(progress)['rows'])


_STATES = ('net', 'average', 'optimiser', 'schedule')
# What of a group of the optimiser the schedules compute its rate from.
_RATES = ('lr', 'initial_lr', 'max_lr', 'min_lr')


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
    ignore_index: int, optimiser: torch.optim.Optimizer,
) -> float | None:
    """Return the loss; None if no pixel counts, NaN if loss or gradient are no numbers."""
    if (masks == ignore_index).all():
        return None
    logits = logits_of(net(normalise(images)))
    logits = F.interpolate(logits, size=masks.shape[1:], mode='bilinear', align_corners=False)
    loss = segmentation_loss(logits, torch.from_numpy(masks).long(), weights, ignore_index)
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


def draw_weights(data: LabelledFolder, power: float) -> NDArray[np.float64]:
    """Return (images,) chances, larger for images that hold a class few images hold."""
    present = data.pixel_counts() > 40
    share = np.maximum(present.mean(0), 1.0 / len(present))
    rarity = np.where(present, share[None] ** -power, 1.0).max(1)
    return rarity / rarity.sum()


def batches(
    data: LabelledFolder, rng: np.random.Generator, how: Augmentation, batch: int,
    draw_weights: NDArray[np.float64], feed: Feed | None = None,
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
    feed : Feed, optional
        The order, and what comes before the augmentation.

    Yields
    ------
    images : ndarray of uint8, shape (N, h, w, 3)
        RGB.
    masks : ndarray of uint8, shape (N, h, w)
        Class ids.

    """
    feed = feed or PLAIN_FEED
    order = feed.order(rng, draw_weights, batch)
    rare = _holders_of_rare_classes(data) if how.paste_share else {}
    for start in range(0, len(order) - batch + 1, batch):
        pairs = [_drawn(data, i, rng, how, feed) for i in order[start:start + batch]]
        if rare:
            pairs = [_pasted(pair, data, rare, rng, how, feed) for pair in pairs]
        yield np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


_Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def _drawn(
    data: LabelledFolder, index: int, rng: np.random.Generator, how: Augmentation, feed: Feed
) -> _Pair:
    image = data.images[index]
    if feed.change is not None:
        image = feed.change(image, index, rng)
    return augment(image, data.masks[index], rng, how, data.ignore_index)


def _holders_of_rare_classes(data: LabelledFolder) -> dict[int, NDArray[np.int64]]:
    """Return the images that hold each rare class, by class."""
    present = data.pixel_counts() > 40
    share = present.mean(0)
    return {int(c): np.flatnonzero(present[:, c])
            for c in np.flatnonzero((share > 0) & (share < _RARE_SHARE))}


def _pasted(
    pair: _Pair, data: LabelledFolder, rare: dict[int, NDArray[np.int64]],
    rng: np.random.Generator, how: Augmentation, feed: Feed,
) -> _Pair:
    """Paste one rare class of another image over a pair, by chance."""
    if rng.random() >= how.paste_share:
        return pair
    chosen = int(rng.choice(list(rare)))
    image, mask = _drawn(data, int(rng.choice(rare[chosen])), rng, how, feed)
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


def _plain_order(
    rng: np.random.Generator, weights: NDArray[np.float64], batch: int
) -> NDArray[np.int64]:
    return systematic_draw(rng, weights)


@dataclass(frozen=True)
class Feed:
    """
    How images come into the batches of an epoch.

    Attributes
    ----------
    order : callable
        From a generator, the chance of each image and the size of a batch to their indices.
    change : callable, optional
        From an RGB image, its index and the generator to what is augmented instead.

    """

    order: Callable[[np.random.Generator, NDArray[np.float64], int], NDArray[np.int64]] = \
        _plain_order
    change: Callable[[NDArray[np.uint8], int, np.random.Generator], NDArray[np.uint8]] | None = \
        None


PLAIN_FEED = Feed()


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
