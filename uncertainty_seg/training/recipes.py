# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The two shipped models: what they are trained on, how long and with what dropout, and the steps.

From a recipe and a folder of labelled images come weights, and from weights a bundle, whose
quality is measured afterwards on the files that ship. Dropout at training regularises; which sites
stay random at run time is chosen by measurement (docs/dropout_study.md): only the one before the
classifier, since the others cost T decoder runs and rank errors no better.

"""

from __future__ import annotations

from collections.abc import Callable
import copy
from dataclasses import dataclass
import logging
from pathlib import Path

import torch
from torch import nn

from uncertainty_seg.core.model_card import InputSpec, ModelCard, SCHEMA_VERSION
from uncertainty_seg.errors import TrainingError
from uncertainty_seg.graph.compile import compile_graph
from uncertainty_seg.graph.onnx_tools import OPSET
from uncertainty_seg.graph.plan import CompileOptions
from uncertainty_seg.storage.labelled_folder import LabelledFolder
from uncertainty_seg.storage.model_bundle import write_bundle
from uncertainty_seg.training.encoders import load_imagenet
from uncertainty_seg.training.export import export_marked, load_weights
from uncertainty_seg.training.fit import (
    Augmentation,
    class_weights,
    fit,
    FitSettings,
    IMAGENET_MEAN,
    IMAGENET_STD,
    restore_priors,
    tame_malloc,
)
from uncertainty_seg.training.networks import DropoutPlan, PyramidNet


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
    encoder, frozen_layers : str, int
        One of `encoders.ENCODERS`, and how many of its layers stay as ImageNet left them.
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
    encoder: str
    frozen_layers: int
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
        encoder='mobilenet_v2',
        frozen_layers=0,
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
        encoder='mobilenet_v2',
        frozen_layers=0,
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
_log = logging.getLogger(__name__)


def recipe(name: str) -> Recipe:
    """Return the shipped recipe of a name; raises TrainingError if there is none."""
    found = {r.name: r for r in _RECIPES}
    if name not in found:
        raise TrainingError(f'no recipe {name!r}', f'one of {", ".join(found)}')
    return found[name]


def train_weights(
    recipe: Recipe, data: LabelledFolder, encoder_file: Path, weights_file: Path,
    threads: int = 2, on_epoch: Callable[[int, float, nn.Module], None] | None = None,
) -> None:
    """
    Train a recipe's network and save its averaged weights after every epoch.

    Parameters
    ----------
    recipe, data : Recipe, LabelledFolder
        What to do, with which images.
    encoder_file, weights_file : Path
        ImageNet weights of the encoder, and where torch.save writes the result.
    threads : int
        CPU threads.
    on_epoch : callable, optional
        Called with (epoch, loss, averaged net).

    """
    tame_malloc()
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.fit.seed)
    net = PyramidNet(data.num_classes, recipe.train_dropout, recipe.encoder,
                     frozen_layers=recipe.frozen_layers)
    load_imagenet(net.encoder, recipe.encoder, encoder_file)
    weights_file.parent.mkdir(parents=True, exist_ok=True)

    def save(epoch: int, loss: float, average: nn.Module) -> None:
        finished = copy.deepcopy(average)
        restore_priors(finished.decoder.classifier, class_weights(data, recipe.fit.class_power))
        torch.save(finished.state_dict(), weights_file)
        if on_epoch is not None:
            on_epoch(epoch, loss, average)

    fit(net, data, recipe.fit, save, weights_file.with_suffix('.progress'))


def load_net(
    weights_file: Path, num_classes: int, dropout: DropoutPlan, encoder: str = 'mobilenet_v2'
) -> PyramidNet:
    """
    Build the network with trained weights and other dropout rates, in eval mode.

    Raises TrainingError if the file is missing or holds another network.

    """
    net = PyramidNet(num_classes, dropout, encoder)
    load_weights(net, weights_file)
    return net.eval()


def make_bundle(
    recipe: Recipe, data: LabelledFolder, weights_file: Path, folder: Path,
    dropout: DropoutPlan | None = None,
) -> ModelCard:
    """
    Compile trained weights to a bundle without calibration.

    Parameters
    ----------
    recipe, data : Recipe, LabelledFolder
        Give input, passes and the texts of the card; class names and colours.
    weights_file, folder : Path
        From `train_weights`; of the bundle.
    dropout : DropoutPlan, optional
        Other rates than the recipe's, for the dropout study.

    """
    net = load_net(weights_file, data.num_classes, dropout or recipe.run_dropout, recipe.encoder)
    graphs = compile_graph(export_marked(net, recipe.input), recipe.input,
                           CompileOptions(passes=recipe.passes, features='auto'))
    card = ModelCard(
        schema=SCHEMA_VERSION, name=recipe.name, method='mc_dropout',
        class_names=data.class_names, palette=data.palette, ignore_index=data.ignore_index,
        input=recipe.input, dropout_sites=graphs.sites, passes=recipe.passes, opset=OPSET,
        logits_shape=graphs.logits_shape, upsampling=graphs.upsampling, training=recipe.training,
        feature_shape=graphs.feature_shape,
        license=recipe.license, not_good_for=recipe.not_good_for, metrics={}, sha256={},
    )
    return write_bundle(folder, card, graphs.files)
