# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From a recipe and a folder of labelled images to weights, and from weights to a bundle.

What the bundle is worth is measured afterwards, on the very files that ship.

"""

from __future__ import annotations

from collections.abc import Callable
import copy
import logging
from pathlib import Path

import torch
from torch import nn

from uncertainty_seg.core.model_card import ModelCard, SCHEMA_VERSION
from uncertainty_seg.graph.compile import compile_graph
from uncertainty_seg.graph.onnx_tools import OPSET
from uncertainty_seg.storage.labelled_folder import LabelledFolder
from uncertainty_seg.storage.model_bundle import write_bundle
from uncertainty_seg.training.export import export_marked, load_weights
from uncertainty_seg.training.fit import class_weights, fit, restore_priors, tame_malloc
from uncertainty_seg.training.networks import DropoutPlan, load_encoder_weights, PyramidNet
from uncertainty_seg.training.recipes import Recipe

_log = logging.getLogger(__name__)


def train_weights(
    recipe: Recipe,
    data: LabelledFolder,
    encoder_file: Path,
    weights_file: Path,
    threads: int = 2,
    on_epoch: Callable[[int, float, nn.Module], None] | None = None,
) -> None:
    """
    Train a recipe's network and save its averaged weights after every epoch.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    data : LabelledFolder
        Training images.
    encoder_file : Path
        ImageNet weights of MobileNetV2.
    weights_file : Path
        Written with torch.save.
    threads : int
        CPU threads.
    on_epoch : callable, optional
        Called with (epoch, loss, averaged net).

    """
    tame_malloc()
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.fit.seed)
    net = PyramidNet(data.num_classes, recipe.train_dropout)
    load_encoder_weights(net, encoder_file)
    weights_file.parent.mkdir(parents=True, exist_ok=True)

    def save(epoch: int, loss: float, average: nn.Module) -> None:
        finished = copy.deepcopy(average)
        restore_priors(finished.classifier, class_weights(data, recipe.fit.class_power))
        torch.save(finished.state_dict(), weights_file)
        if on_epoch is not None:
            on_epoch(epoch, loss, average)

    fit(net, data, recipe.fit, save)


def load_net(weights_file: Path, num_classes: int, dropout: DropoutPlan) -> PyramidNet:
    """
    Build the network with trained weights and other dropout rates, in eval mode.

    Raises
    ------
    TrainingError
        If the file is missing or holds another network.

    """
    net = PyramidNet(num_classes, dropout)
    load_weights(net, weights_file)
    return net.eval()


def make_bundle(
    recipe: Recipe,
    data: LabelledFolder,
    weights_file: Path,
    folder: Path,
    dropout: DropoutPlan | None = None,
) -> ModelCard:
    """
    Compile trained weights to a bundle without calibration.

    Parameters
    ----------
    recipe : Recipe
        Gives input, passes and the texts of the card.
    data : LabelledFolder
        Gives class names and colours.
    weights_file : Path
        From `train_weights`.
    folder : Path
        Of the bundle.
    dropout : DropoutPlan, optional
        Other rates than the recipe's, for the dropout study.

    Returns
    -------
    ModelCard
        As written.

    """
    net = load_net(weights_file, data.num_classes, dropout or recipe.run_dropout)
    graphs = compile_graph(export_marked(net, recipe.input), recipe.input)
    card = ModelCard(
        schema=SCHEMA_VERSION, name=recipe.name, method='mc_dropout',
        class_names=data.class_names, palette=data.palette, ignore_index=data.ignore_index,
        input=recipe.input, dropout_sites=graphs.sites, passes=recipe.passes, opset=OPSET,
        logits_shape=graphs.logits_shape, upsampling=graphs.upsampling, training=recipe.training,
        license=recipe.license, not_good_for=recipe.not_good_for, metrics={}, sha256={},
    )
    return write_bundle(folder, card, graphs.files)
