# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every dropout node becomes ``x * mask``, the mask being an input of the graph.

Two forms are understood: ONNX's own Dropout, which drops elements, and the marker
``uncertainty_seg::Dropout`` that the torch front end writes, which also says "whole channels".

"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.onnx_tools import (
    attribute,
    constants,
    copy_of,
    float_info,
    fresh_name,
    MARKER_DOMAIN,
    replace_nodes,
    shapes,
)

PASSES_AXIS = 'T'


def dropout_to_masks(
    model: onnx.ModelProto,
) -> tuple[onnx.ModelProto, tuple[DropoutSite, ...]]:
    """
    Take the randomness out of a graph and hand it to the caller.

    Parameters
    ----------
    model : ModelProto
        Batch 1, static size; left as it is.

    Returns
    -------
    model : ModelProto
        Without dropout nodes; one more input a site, float32 (T, *site.shape).
    sites : tuple of DropoutSite
        In the order of the graph.

    Raises
    ------
    GraphError
        If there is no dropout, a rate is not a constant in (0, 1), or a shape is unknown.

    """
    found = [node for node in model.graph.node if is_dropout(node)]
    live = [node for node in found if _rate(model.graph, node) > 0]
    if not live:
        raise GraphError(
            'the network has no dropout' if not found else 'every dropout has the rate 0',
            'at least one dropout with a rate above 0, whose passes differ',
            'train it with dropout (or use a deep ensemble, or a direct or propagated variance)',
        )
    known = shapes(_without_dropout(model))
    result = copy_of(model)
    sites: list[DropoutSite] = []
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        if not is_dropout(node):
            nodes.append(node)
        elif _rate(model.graph, node) == 0:
            nodes.append(helper.make_node('Identity', [node.input[0]], [node.output[0]]))
        else:
            site = _site(result.graph, node, known, len(sites))
            sites.append(site)
            nodes.append(helper.make_node('Mul', [node.input[0], site.name], [node.output[0]]))
            result.graph.input.append(float_info(site.name, (PASSES_AXIS, *site.shape)))
    replace_nodes(result.graph, nodes)
    return result, tuple(sites)


def is_dropout(node: onnx.NodeProto) -> bool:
    """Say whether a node is dropout, of ONNX or of our marker."""
    return node.op_type == 'Dropout' and node.domain in ('', 'ai.onnx', MARKER_DOMAIN)


def _rate(graph: onnx.GraphProto, node: onnx.NodeProto) -> float:
    if node.domain == MARKER_DOMAIN:
        rate = round(attribute(node, 'p'), 7)  # stored in 32 bits, where 0.2 is 0.200000003
    elif len(node.input) > 1 and node.input[1]:
        value = constants(graph).get(node.input[1])
        if value is None:
            raise GraphError(f'dropout {node.name!r} has a computed rate', 'a constant one')
        rate = float(np.asarray(value).reshape(-1)[0].item())
        rate = round(rate, 7)
    else:
        rate = attribute(node, 'ratio', 0.5)
    if not isinstance(rate, float) or not 0 <= rate < 1:
        raise GraphError(f'dropout {node.name!r} has the rate {rate!r}', 'a number in [0, 1)')
    return rate


def _site(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    known: dict[str, tuple[int, ...]],
    index: int,
) -> DropoutSite:
    shape = known.get(node.input[0])
    if shape is None or len(shape) < 2 or shape[0] != 1:
        raise GraphError(
            f'dropout {node.name!r} works on a tensor of shape {shape}', 'a static one of batch 1',
            'export the network with a fixed input size and batch 1',
        )
    is_channel = attribute(node, 'kind', 'element') == 'channel'
    mask = (shape[1], *(1,) * (len(shape) - 2)) if is_channel else shape[1:]
    name = attribute(node, 'site', '') or f'dropout_{index}'
    return DropoutSite(fresh_name(graph, f'mask_{name}'), mask, _rate(graph, node))


def _without_dropout(model: onnx.ModelProto) -> onnx.ModelProto:
    twin = copy_of(model)
    nodes: Sequence[onnx.NodeProto] = [
        helper.make_node('Identity', [node.input[0]], [node.output[0]])
        if is_dropout(node) else node
        for node in twin.graph.node
    ]
    replace_nodes(twin.graph, nodes)
    return twin
