# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The two shipped models: on what, how long, and with what dropout they are trained.

Dropout at training regularises; which sites stay random at run time is chosen by measurement
(docs/dropout_study.md): the one before the classifier alone, since the others cost T decoder
runs and rank errors no better.

"""

from __future__ import annotations

from dataclasses import dataclass

from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.errors import TrainingError
from uncertainty_seg.training.datasets import Augmentation
from uncertainty_seg.training.fit import FitSettings, IMAGENET_MEAN, IMAGENET_STD
from uncertainty_seg.training.networks import DropoutPlan


@dataclass(frozen=True)
class Recipe:
    """
    All that is needed to make a bundle from a folder of labelled images.

    Attributes
    ----------
    name : str
        Of the bundle.
    input : InputSpec
        Network size and fit.
    fit : FitSettings
        Length, rates, augmentation.
    train_dropout, run_dropout : DropoutPlan
        Rates while training, and in the shipped graph.
    passes : int
        T of the shipped bundle.
    training, license, not_good_for : str
        For the card.

    """

    name: str
    input: InputSpec  # noqa: A003
    fit: FitSettings
    train_dropout: DropoutPlan
    run_dropout: DropoutPlan
    passes: int
    training: str
    license: str  # noqa: A003
    not_good_for: str


_TRAIN_DROPOUT = DropoutPlan(context=0.1, level16=0.1, level8=0.1, level4=0.1, head=0.5)
_RUN_DROPOUT = DropoutPlan(head=0.5)


def _input(width: int, height: int) -> InputSpec:
    return InputSpec(width, height, 'letterbox', 'rgb', IMAGENET_MEAN, IMAGENET_STD)


_RECIPES = (
    Recipe(
        name='suim',
        input=_input(320, 256),
        fit=FitSettings(
            epochs=28, draw_power=0.5,
            augmentation=Augmentation(crop=(288, 224), scale=(0.72, 1.55), colour=0.15),
        ),
        train_dropout=_TRAIN_DROPOUT,
        run_dropout=_RUN_DROPOUT,
        passes=20,
        training='1 020 photographs of SUIM (Islam et al., IROS 2020, arXiv:2004.01241), long '
        'side 320 px, 28 epochs on MobileNetV2 pretrained on ImageNet; measured on 180 others.',
        license='Apache-2.0; trained on SUIM (MIT), encoder from torchvision (BSD-3-Clause)',
        not_good_for='Plants (IoU 0.11) and robots (6 validation images, so their IoU is noise); '
        'water more turbid than the photographs of divers and reefs it was trained on; pipelines.',
    ),
    Recipe(
        name='pipeline',
        input=_input(512, 384),
        fit=FitSettings(
            epochs=12,
            augmentation=Augmentation(crop=(288, 224), scale=(0.75, 1.3), colour=0.1),
        ),
        train_dropout=_TRAIN_DROPOUT,
        run_dropout=_RUN_DROPOUT,
        passes=20,
        training='1 566 procedural pipeline scenes (uncertainty_seg make-scenes, seed 1), 12 '
        'epochs on MobileNetV2 pretrained on ImageNet; measured on 194 others.',
        license='Apache-2.0; encoder from torchvision (BSD-3-Clause)',
        not_good_for='Real water without labels of that water: it has never seen a photograph. '
        'Its numbers say how the method works, not how it does on your pipe.',
    ),
)


def recipe(name: str) -> Recipe:
    """
    Return a shipped recipe.

    Raises
    ------
    TrainingError
        If there is none of that name.

    """
    found = {r.name: r for r in _RECIPES}
    if name not in found:
        raise TrainingError(f'no recipe {name!r}', f'one of {", ".join(found)}')
    return found[name]


def recipe_names() -> tuple[str, ...]:
    """Return the names of the shipped recipes."""
    return tuple(r.name for r in _RECIPES)
