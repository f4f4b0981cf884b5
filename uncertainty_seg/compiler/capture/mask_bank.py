# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Train with the very masks that run: a bank of B passes, drawn from instead of fresh masks.

The bank is what `core.dropout_masks` draws for the bundle, so that nothing is new at run time. The
network then knows its passes, like Masksembles, whose masks differ in how they are drawn.

References
----------
Durasov et al., 2021, arXiv:2012.08334 (Masksembles).

"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn, Tensor

from uncertainty_seg.compiler.capture.export import export_marked
from uncertainty_seg.compiler.capture.marking import find_dropout
from uncertainty_seg.compiler.compile import compile_graph
from uncertainty_seg.core.dropout_masks import make_masks, PassInputs
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.errors import TrainingError


class BankedDropout(nn.Module):
    """
    Multiply each image by the mask of the pass that it has in this step; nothing in eval mode.

    Parameters
    ----------
    masks : Tensor, shape (B, D, 1, 1)
        Scaled, as they run.

    """

    masks: Tensor

    def __init__(self, masks: Tensor) -> None:
        super().__init__()
        self.register_buffer('masks', masks, persistent=False)
        self.passes: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, D, h, w) of (N, D, h, w)."""
        if not self.training or self.passes is None:
            return features
        return features * self.masks[self.passes]


def train_with_bank(net: nn.Module, random: nn.Module, spec: InputSpec, size: int,
                    seed: int) -> PassInputs:
    """
    Put the masks of a bank in the place of the dropout that is random at run time.

    In each step each image gets one pass of the bank by chance, the same at every site.

    Parameters
    ----------
    net : Module
        To be trained; changed in place. Its other dropout stays.
    random : Module
        The same network with the dropout of the bundle.
    spec : InputSpec
        Network size.
    size, seed : int
        B, at least 2, and what the masks are drawn from.

    Returns
    -------
    dict of str to ndarray of float32, shape (B, D, 1, 1)
        The bank.

    Raises
    ------
    TrainingError
        If there are fewer than two masks or no dropout.

    """
    if size < 2:
        raise TrainingError(f'a bank of {size} masks', 'at least 2', 'raise --mask-bank')
    drops = find_dropout(random, spec.height, spec.width).drops
    if not drops:
        raise TrainingError('a bank of masks without dropout', 'a place for it', 'add --dropout')
    bank = make_masks(compile_graph(export_marked(random, spec), spec).sites, size, seed)
    banked = []
    for drop in drops:
        parent, _, name = drop.module.rpartition('.')
        banked.append(BankedDropout(torch.from_numpy(bank[f'mask_{drop.site}'])))
        setattr(net.get_submodule(parent), name, banked[-1])

    def choose(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module.training:
            passes = torch.randint(size, (len(inputs[0]),))
            for site in banked:
                site.passes = passes

    net.register_forward_pre_hook(choose)
    return bank
