# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Error propagation from a network to maps: the moments rank pixels as sampling does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ConfigError, GraphError
from uncertainty_seg.graph.compile import compile_moments
from uncertainty_seg.graph.plan import CompileOptions
from uncertainty_seg.tools.compile.moment_checks import check_moments, rank_correlation
from uncertainty_seg.tools.compile_net import compile_network
from uncertainty_seg.tools.main import main
from uncertainty_seg.training.export import export_marked

pytestmark = pytest.mark.torch
SIZE = 64, 48
SPEC = InputSpec(*SIZE, 'stretch', 'rgb', (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def conv(channels_in: int, channels_out: int, act: type[nn.Module], kernel: int = 3,
         stride: int = 1) -> list[nn.Module]:
    """Make convolution, batch norm and activation."""
    return [nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(channels_out), act()]


class Residual(nn.Module):
    """A block with a skip connection and stochastic depth's counterpart, channel dropout."""

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv(channels, channels, act), nn.Dropout2d(0.2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def network(act: type[nn.Module], place: str) -> nn.Module:
    """Make a small encoder and decoder with dropout at its head, in its middle, or both."""
    torch.manual_seed(0)
    middle = nn.Dropout2d(0.3) if place != 'head' else nn.Identity()
    last = nn.Dropout2d(0.5) if place != 'middle' else nn.Identity()
    net = nn.Sequential(
        *conv(3, 16, act, stride=2), nn.MaxPool2d(2), *conv(16, 24, act), middle,
        Residual(24, act) if place == 'everywhere' else nn.Identity(),
        nn.Upsample(scale_factor=2, mode='bilinear'), *conv(24, 24, act), last,
        nn.Conv2d(24, 4, 1))
    for _ in range(3):  # batch statistics that fit its inputs
        net(torch.rand(4, 3, 48, 64) * 4 - 2)
    return net.eval()


def propagated(net: nn.Module, std: float = 0.0):  # noqa: ANN201
    return compile_moments(export_marked(net, SPEC), SPEC, CompileOptions(sensor_std=std))
