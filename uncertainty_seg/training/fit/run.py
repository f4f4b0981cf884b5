# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A run of a fit: its settings, what came of its epochs, what ends it, and how it goes on.

It is kept in a file, from which one that was stopped goes on as if it had not been; and after a
loss that is no number it goes on from the end of the epoch before.

"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
import copy
from dataclasses import asdict, dataclass, field, replace
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from uncertainty_seg.errors import DivergedError, TrainingError
from uncertainty_seg.storage.whole_files import whole_file
from uncertainty_seg.training.fit.augmentation import Augmentation

# What a run says of an epoch: numbers and a note, by the columns of `COLUMNS`.
Row = dict[str, float | str]
COLUMNS = ('epoch', 'loss', 'learning_rate', 'val_mean_iou', 'seconds', 'note')
# How often a run goes back, each time to a tenth of the rate, before it gives up.
MOST_RETURNS, SLOWER = 4, 0.1
_STATES = ('net', 'average', 'optimiser', 'schedule')
# What of a group of the optimiser the schedules compute its rate from.
_RATES = ('lr', 'initial_lr', 'max_lr', 'min_lr')
# How a value begins that says nothing to people.
DIGEST = 'sha256:'
_log = logging.getLogger(__name__)


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
    iou_weight : float
        So many times `losses.iou_loss` is added to the loss; 0 for none.
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
    iou_weight: float = 0.0
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


@dataclass
class FitRun:
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
        """Write all that `resume` reads, whole or not at all."""
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


def finished_epochs(progress: Path) -> int:
    """Return how many epochs of a run are done, by the file that `fit` writes."""
    return int(_read_progress(progress)['epochs'])


def planned_epochs(progress: Path, otherwise: int) -> int:
    """Return how many epochs a run was to have, by the file that `fit` writes."""
    return int(_read_progress(progress).get('planned', otherwise))


def finished_rows(progress: Path) -> list[Row]:
    """Return what is known of each finished epoch, by the file that `fit` writes."""
    return list(_read_progress(progress)['rows'])


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
