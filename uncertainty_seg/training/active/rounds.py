# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Train one round of active learning: the recipe for images of one's own, by steps, not epochs.

Every round takes the same number of steps, however many images are labelled, so that a strategy
gains by what it chose and not by more training.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from uncertainty_seg.compiler.capture.export import load_weights
from uncertainty_seg.errors import TrainingError
from uncertainty_seg.storage.labelled_folder import LabelledFolder, subset
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.storage.whole_files import whole_file
from uncertainty_seg.training.active.prepared import PreparedImages
from uncertainty_seg.training.encoders import encoder_kind
from uncertainty_seg.training.fit.augmentation import Augmentation
from uncertainty_seg.training.fit.run import finished_rows
from uncertainty_seg.training.init_weights import (
    load_what_fits,
    measure_norms,
    read_bundle,
    read_weights,
    STATISTICS_IMAGES,
    Taken,
)
from uncertainty_seg.training.networks import dropout_plan, PyramidNet
from uncertainty_seg.training.recipes import (
    load_net,
    progress_file,
    Recipe,
    recipe,
    train_weights,
    with_dropout,
    with_encoder,
    with_epochs,
    with_net,
    with_size,
)
from uncertainty_seg.training.run_facts import Extras, facts_file

Build = Callable[[], nn.Module]
# An epoch, after which progress is kept, has at least so many steps, if there are as many.
_EPOCH_STEPS = 100
# Between the seeds of a study; the rounds and members of one are counted in between.
_SEED_STEP, _ROUND_STEP = 100_000, 100


@dataclass(frozen=True)
class NetPlan:
    """
    The network and its training, the same in every round.

    Attributes
    ----------
    net : str
        'pyramid', the shipped architecture; else the name of a network that a function builds.
    encoder : str
        Of the shipped architecture.
    imagenet, init : str
        ImageNet weights of the encoder; a bundle or file of weights to start from; empty for
        none.
    size : (int, int)
        Width and height of the network's input.
    steps, batch : int
        Of the training of each round.
    learning_rate : float
        Its peak.
    dropout, rate : str, float
        Where dropout is in the shipped architecture, as `dropout_plan` reads it.
    passes : int
        T.
    frozen : int
        So many layers of the shipped architecture's encoder stay as they come.

    """

    net: str = 'pyramid'
    encoder: str = 'mobilenet_v2'
    imagenet: str = ''
    init: str = ''
    size: tuple[int, int] = (192, 128)
    steps: int = 600
    batch: int = 8
    learning_rate: float = 2e-3
    dropout: str = 'head'
    rate: float = 0.5
    passes: int = 20
    frozen: int = 0


def recipe_of(plan: NetPlan, build: Build | None) -> Recipe:
    """Return the recipe of a plan; raises TrainingError if it asks for what there is not."""
    base = with_size(recipe('own'), *plan.size)
    if build is None:
        encoder_kind(plan.encoder)  # refuses one that is none
        base = with_dropout(with_encoder(base, plan.encoder),
                            dropout_plan(plan.dropout, plan.rate))
        base = replace(base, frozen_layers=plan.frozen)
    else:
        base = with_net(base, build, plan.net)
    fit = replace(base.fit, batch=plan.batch, learning_rate=plan.learning_rate,
                  augmentation=_milder(base.fit.augmentation))
    return replace(base, fit=fit, passes=plan.passes)


def _milder(how: Augmentation) -> Augmentation:
    """Zoom less far out: the images are as small as the network sees them already."""
    return replace(how, scale=(0.8, 1.6))


def seed_of(seed: int, number: int, member: int = 0) -> int:
    """Return the seed of the training of a round, different for all of a study."""
    return _SEED_STEP * seed + _ROUND_STEP * number + member


@dataclass(frozen=True)
class RoundRun:
    """
    One training.

    Attributes
    ----------
    data : LabelledFolder
        Images at the network's size.
    extra : LabelledFolder, optional
        Images that are trained on too, and cost no label.
    extra_share : float
        Their share of the steps.
    seed : int
        Of order, augmentation and fresh weights.
    weights : Path
        Where the result goes.
    start : Path, optional
        Weights to go on from, instead of those of the plan.
    threads : int
        CPU threads.

    """

    data: LabelledFolder
    seed: int
    weights: Path
    extra: LabelledFolder | None = None
    extra_share: float = 0.5
    start: Path | None = None
    threads: int = 1


def train_round(plan: NetPlan, build: Build | None, run: RoundRun) -> float:
    """
    Train a network and write its weights; return the mean loss of the last epoch.

    A run that was stopped goes on after its last epoch. Raises TrainingError if weights cannot be
    used, or the loss is no number again and again.
    """
    made = recipe_of(plan, build)
    data, epochs = paced(_mixed(run), plan.steps, plan.batch, run.seed)
    made = with_epochs(replace(made, fit=replace(made.fit, seed=run.seed)), epochs)
    taken = read_weights(run.start) if run.start is not None else taken_of(plan)
    imagenet = Path(plan.imagenet) if plan.imagenet and taken is None else None
    train_weights(made, data, imagenet, run.weights, run.threads, extras=Extras(init=taken))
    return float(finished_rows(progress_file(run.weights))[-1]['loss'])


def tidy(weights: Path) -> None:
    """Remove what a training keeps beside its weights, once its result is written."""
    progress_file(weights).unlink(missing_ok=True)
    facts_file(weights).unlink(missing_ok=True)


def write_untrained(plan: NetPlan, build: Build | None, seed: int, images: PreparedImages,
                    weights: Path) -> None:
    """
    Write the network that a plan starts from, as it is, for a start without any label.

    Norms that a bundle has folded away are measured on images, which need no label. Raises
    TrainingError if the weights are those of another network.
    """
    torch.manual_seed(seed)
    net = build() if build is not None else PyramidNet(
        images.num_classes, dropout_plan(plan.dropout, plan.rate), plan.encoder)
    taken = taken_of(plan)
    if taken is not None:
        load_what_fits(net, taken, images.class_names)
        if taken.has_folded_norms:
            measure_norms(net, images.folder(range(min(len(images), STATISTICS_IMAGES))).images,
                          plan.size)
    with whole_file(weights) as draft:
        torch.save(net.state_dict(), draft)


def taken_of(plan: NetPlan) -> Taken | None:
    """Read what a plan starts from; None for ImageNet or fresh weights."""
    if not plan.init:
        return None
    if Path(plan.init).is_file():
        return read_weights(Path(plan.init))
    return read_bundle(load_bundle(plan.init, has_calibration=False))


def _mixed(run: RoundRun) -> LabelledFolder:
    """Return the images of both kinds so often that their shares are those asked for."""
    if run.extra is None or not len(run.extra.stems):
        return run.data
    if not len(run.data.stems):
        return run.extra
    ours, theirs = len(run.data.stems), len(run.extra.stems)
    share = run.extra_share
    whole = max(ours / (1 - share), theirs / share)
    first = cycled(run.data, max(1, round(whole * (1 - share))))
    second = cycled(run.extra, max(1, round(whole * share)))
    return replace(first, images=first.images + second.images, masks=first.masks + second.masks,
                   stems=first.stems + second.stems)


def cycled(data: LabelledFolder, count: int) -> LabelledFolder:
    """Return so many images, one after the other and again."""
    return subset(data, [index % len(data.stems) for index in range(count)])


def paced(
    data: LabelledFolder, steps: int, batch: int, seed: int
) -> tuple[LabelledFolder, int]:
    """
    Return images and a number of epochs that take so many steps in all, up to rounding.

    Images come several times an epoch where they are few; where they are more than all steps
    take, they are a part of them, drawn by the seed.
    """
    count = len(data.stems)
    epochs = max(1, steps // max(_EPOCH_STEPS, math.ceil(count / batch)))
    wanted = round(steps / epochs) * batch
    order = np.random.default_rng(seed).permutation(count)
    return subset(data, [int(order[k % count]) for k in range(wanted)]), epochs


def round_net(plan: NetPlan, build: Build | None, weights: Path, num_classes: int) -> nn.Module:
    """Build the network of a plan with its dropout and the weights of a round, in eval mode."""
    if build is None:
        return load_net(weights, num_classes, dropout_plan(plan.dropout, plan.rate), plan.encoder)
    net = build()
    load_weights(net, weights)
    return net.eval()


def droppers(net: nn.Module) -> list[nn.Module]:
    """Return the layers of a network that drop something out."""
    return [part for part in net.modules()
            if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0]


def require_dropout(net: nn.Module, name: str, strategies: str) -> None:
    """Raise TrainingError if nothing of a network drops out: its passes would be equal."""
    if not droppers(net):
        raise TrainingError(f'{name} has no dropout and --strategy {strategies}',
                            'passes that can disagree',
                            'build it with nn.Dropout2d, or take entropy, margin, ensemble-mi')


def use_threads(threads: int) -> None:
    """Compute on so many CPU threads."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
