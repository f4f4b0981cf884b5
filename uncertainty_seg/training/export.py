# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From a torch network to an ONNX graph whose dropout is still visible.

torch's exporter deletes dropout in eval mode and refuses channel dropout in training mode, so
each dropout module is exported as a marker node that names its rate and kind. Which masks come
of it is the business of `graph`.

"""

from __future__ import annotations

import copy
import io
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
import warnings

import onnx
import torch
from torch import nn, Tensor

from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.errors import GraphError, TrainingError
from uncertainty_seg.graph.onnx_tools import MARKER_DOMAIN, OPSET

_CHANNEL = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_ELEMENT = (nn.Dropout,)
_UNKNOWN = (nn.AlphaDropout, nn.FeatureAlphaDropout)


class _Mark(torch.autograd.Function):
    """Identity for torch, a marker node for the exporter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, kind: str, site: str) -> Tensor:
        return x.clone()

    @staticmethod
    def symbolic(g: Any, x: Any, p: float, kind: str, site: str) -> Any:
        node = g.op(f'{MARKER_DOMAIN}::Dropout', x, p_f=p, kind_s=kind, site_s=site)
        return node.setType(x.type())


class _Marker(nn.Module):
    def __init__(self, p: float, kind: str, site: str) -> None:
        super().__init__()
        self.arguments = (p, kind, site)

    def forward(self, x: Tensor) -> Tensor:
        return _Mark.apply(x, *self.arguments)


def load_weights(net: nn.Module, path: Path) -> None:
    """
    Fill a network from a state dict.

    Raises
    ------
    TrainingError
        If the file is missing, no state dict, or of another network.

    """
    try:
        net.load_state_dict(torch.load(path, map_location='cpu', weights_only=True))
    except (OSError, RuntimeError, UnpicklingError) as err:
        raise TrainingError(f'{path} cannot be loaded ({err})', 'weights of this network') from err


def export_marked(net: nn.Module, spec: InputSpec) -> onnx.ModelProto:
    """
    Export a network with a marker for each dropout module.

    Parameters
    ----------
    net : Module
        Maps (1, 3, h, w) to logits (1, C, hl, wl); left as it is.
    spec : InputSpec
        Gives h and w.

    Returns
    -------
    ModelProto
        Opset 17, everything but dropout in eval mode, batch norms folded.

    Raises
    ------
    GraphError
        If a module drops out in a way that is no multiplication by a mask.

    """
    marked = _with_markers(copy.deepcopy(net).eval())
    image = torch.zeros(1, 3, spec.height, spec.width)
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The older exporter is the one that can write opset 17; it says that it is old.
        warnings.simplefilter('ignore')
        torch.onnx.export(
            marked, (image,), file, input_names=['input'], output_names=['output'],
            opset_version=OPSET, dynamo=False, custom_opsets={MARKER_DOMAIN: 1},
        )
    return onnx.load_from_string(file.getvalue())


def _with_markers(net: nn.Module) -> nn.Module:
    for name, module in list(net.named_modules()):
        if isinstance(module, _UNKNOWN):
            raise GraphError(
                f'{name} is {type(module).__name__}, which also shifts what it keeps',
                'Dropout, Dropout1d, Dropout2d or Dropout3d',
            )
        if isinstance(module, (*_CHANNEL, *_ELEMENT)):
            kind = 'channel' if isinstance(module, _CHANNEL) else 'element'
            parent = net.get_submodule(name.rpartition('.')[0])
            site = name.replace('.', '_')
            setattr(parent, name.rpartition('.')[2], _Marker(module.p, kind, site))
    return net
