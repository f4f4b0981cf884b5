# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From a torch network to an ONNX graph whose dropout is still visible.

Each dropout becomes a marker node that names its rate and kind. Which masks come of it is the
business of `graph`.

"""

from __future__ import annotations

import onnx
from torch import nn

from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.training.exporters import export_net
from uncertainty_seg.training.marking import find_dropout
from uncertainty_seg.training.net_weights import load_weights

__all__ = ['export_marked', 'load_weights']


def export_marked(net: nn.Module, spec: InputSpec) -> onnx.ModelProto:
    """
    Export a network with a marker for each dropout of a rate above 0.

    Parameters
    ----------
    net : Module
        Maps (1, 3, h, w) to logits, or to a dict, sequence or dataclass with logits in it; left
        as it is.
    spec : InputSpec
        Gives h and w.

    Returns
    -------
    ModelProto
        Opset 17 or 18, everything but dropout in eval mode. One output a tensor: 'output', or
        by keys, fields and places ('output_0').

    Raises
    ------
    GraphError
        If the net drops out in a way that is no multiplication by a mask, or torch cannot
        export it.

    """
    return export_net(find_dropout(net, spec.height, spec.width), spec.height, spec.width)
