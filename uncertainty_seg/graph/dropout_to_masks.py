# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every dropout node becomes an operation with a mask, the mask being an input of the graph.

Two forms are understood: ONNX's own Dropout, which drops elements, and the marker
``uncertainty_seg::Dropout`` that the torch front end writes, which also says what is dropped:
elements, whole channels, the whole branch (stochastic depth), or either of the first two in the
self-normalising way of AlphaDropout.

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.mask_layout import alpha_nodes, lay_out, mask_shape
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
from uncertainty_seg.graph.passes_axis import find_passes, FoundPasses
from uncertainty_seg.graph.passes_rules import PassesAxis

PASSES_AXIS = 'T'
KINDS = ('element', 'channel', 'path', 'alpha', 'feature_alpha')


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
            'train it with dropout, or put some in with --inject-dropout, or compile several '
            'networks with --method ensemble',
        )
    plain = without_dropout(model)
    known, fixed = shapes(plain), constants(plain.graph)
    images = {i.name: PassesAxis(0) for i in model.graph.input if i.name not in fixed}
    axes = find_passes(plain.graph.node, known, fixed, images)
    result = copy_of(model)
    sites: list[DropoutSite] = []
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        if not is_dropout(node):
            nodes.append(node)
        elif _rate(model.graph, node) == 0:
            nodes.append(helper.make_node('Identity', [node.input[0]], [node.output[0]]))
        else:
            site, made, tensors = _masked(result.graph, node, known, axes, len(sites))
            sites.append(site)
            nodes.extend(made)
            result.graph.initializer.extend(tensors)
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


def _masked(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    known: dict[str, tuple[int, ...]],
    axes: FoundPasses,
    index: int,
) -> tuple[DropoutSite, list[onnx.NodeProto], list[onnx.TensorProto]]:
    shape, axis = _place(node, known, axes)
    kind = attribute(node, 'kind', 'element')
    if kind not in KINDS:
        raise GraphError(f'dropout {node.name!r} is of the kind {kind!r}', f'one of {KINDS}')
    name = attribute(node, 'site', '') or f'dropout_{index}'
    wish = fresh_name(graph, f'mask_{name}')
    site = DropoutSite(wish, mask_shape(kind, shape, axis, node.name), _rate(graph, node))
    mask, nodes, tensors = lay_out(site, shape, axis)
    data, output = node.input[0], node.output[0]
    if 'alpha' not in kind:
        return site, [*nodes, helper.make_node('Mul', [data, mask], [output])], tensors
    more, values = alpha_nodes(site, data, mask, output)
    tensors += [numpy_helper.from_array(v, k) for k, v in values.items()]
    return site, [*nodes, *more], tensors


def _place(
    node: onnx.NodeProto, known: dict[str, tuple[int, ...]], axes: FoundPasses
) -> tuple[tuple[int, ...], PassesAxis]:
    """Return the shape of one pass and where the passes go in it."""
    data = node.input[0]
    what = f'dropout {attribute(node, "site", "") or node.name!r}'
    shape = known.get(data)
    if shape is None or len(shape) < 2:
        raise GraphError(
            f'{what} works on a tensor of shape {shape}', 'a static one of batch 1',
            'export the network with a fixed input size and batch 1',
        )
    if data in axes.axes:
        return shape, axes.axes[data]
    if data in axes.lost:
        raise GraphError(f'{what}: the batch was lost at {axes.lost[data]}',
                         'a tensor whose batch axis is known',
                         'compute that step without mixing the batch with other axes')
    if shape[0] != 1:
        raise GraphError(f'{what} works on a constant of shape {shape}, a weight for example',
                         'dropout of what depends on the image')
    return shape, PassesAxis(0)


def without_dropout(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with every dropout switched off."""
    twin = copy_of(model)
    replace_nodes(twin.graph, [
        helper.make_node('Identity', [node.input[0]], [node.output[0]])
        if is_dropout(node) else node
        for node in twin.graph.node
    ])
    return twin
