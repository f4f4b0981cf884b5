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
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper

from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.algebra.free_passes import find_passes, FoundPasses, PassesAxis
from uncertainty_seg.graph.onnx_tools import (
    attribute,
    constants,
    copy_of,
    float_info,
    fresh_name,
    MARKER_DOMAIN,
    refill,
    Shape,
    shapes,
)

# -------------------------------------------------------------------------------------------------
# The shape of a site's mask, and how it is brought to the layout of the tensor it masks.
# A mask comes as (T, *site.shape). Where the tensor has its batch on another axis than the first,
# or merged with the heads of an attention, the mask is transposed and reshaped to match.

# What AlphaDropout writes where it drops: the limit of SELU at minus infinity (torch's constant).
_SELU_LIMIT = -1.7580993408473766


def mask_shape(
    kind: str, shape: Shape, axis: PassesAxis, name: str
) -> Shape:
    """
    Return the shape of the mask of one pass.

    Parameters
    ----------
    kind : str
        As the marker says.
    shape : tuple of int
        Of the tensor, for one pass.
    axis : PassesAxis
        Where it carries the passes.
    name : str
        Of the node, for the error.

    Returns
    -------
    tuple of int
        All axes but that of the passes; with it where it also holds something else.

    Raises
    ------
    GraphError
        If channels are to be dropped from a tensor without its batch in front.

    """
    full = shape if not axis.is_alone else (*shape[:axis.axis], *shape[axis.axis + 1:])
    if kind in ('element', 'alpha'):
        return full
    if kind == 'path':
        return (1,) * len(full)
    if axis != PassesAxis(0):
        raise GraphError(f'dropout {name!r} drops channels of a tensor of shape {shape}',
                         'the batch on axis 0')
    return (shape[1], *(1,) * (len(shape) - 2))


def lay_out(
    site: DropoutSite, shape: Shape, axis: PassesAxis
) -> tuple[str, list[onnx.NodeProto], list[onnx.TensorProto]]:
    """
    Bring a mask (T, *site.shape) to where a tensor carries its passes.

    Parameters
    ----------
    site : DropoutSite
        The mask.
    shape : tuple of int
        Of the tensor, for one pass.
    axis : PassesAxis
        Where it carries the passes.

    Returns
    -------
    name : str
        The mask in the tensor's layout.
    nodes, tensors : list
        What makes it; empty where it comes that way.

    """
    if axis == PassesAxis(0):
        return site.name, [], []
    nodes, tensors, name = [], [], site.name
    mask = list(site.shape)
    if not axis.is_alone and mask[axis.axis] != axis.size:
        raise GraphError(f'{site.name} drops branches of a tensor of shape {shape}',
                         'a batch axis of its own')

    def reshape(suffix: str, sizes: list[int]) -> None:
        nonlocal name
        table = np.array(sizes, np.int64)
        tensors.append(numpy_helper.from_array(table, f'{site.name}_{suffix}_shape'))
        nodes.append(helper.make_node('Reshape', [name, f'{site.name}_{suffix}_shape'],
                                      [f'{site.name}_{suffix}']))
        name = f'{site.name}_{suffix}'

    to = axis.axis
    if axis.outer > 1:
        reshape('apart', [-1, *mask[:to], axis.outer, axis.inner, *mask[to + 1:]])
        to += 1
    if to > 0:
        rank = len(mask) + 1 + (axis.outer > 1)
        perm = [*range(1, to + 1), 0, *range(to + 1, rank)]
        nodes.append(helper.make_node('Transpose', [name], [f'{site.name}_moved'], perm=perm))
        name = f'{site.name}_moved'
    if not axis.is_alone:
        reshape('merged', [*mask[:axis.axis], -1, *mask[axis.axis + 1:]])
    return name, nodes, tensors


def alpha_nodes(
    site: DropoutSite, data: str, mask: str, output: str
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.float32]]]:
    """
    Write AlphaDropout as a function of a mask that is 0, 1/(1-p), or 1 to switch it off.

    Kept elements are ``a x + b``, dropped ones ``a s + b`` with SELU's limit s, and with a mask
    of ones nothing happens. Two parabolas in the mask go through these three points:
    ``y = m (c0 + c1 m) x + (m - 1) (d0 + d1 m)``.

    Parameters
    ----------
    site : DropoutSite
        Gives p and the names.
    data, mask, output : str
        Names of the tensors.

    Returns
    -------
    nodes : list of NodeProto
        In order.
    tensors : dict of str to ndarray
        Their constants.

    """
    p, limit = site.p, _SELU_LIMIT
    kept = 1 / (1 - p)
    a = ((limit**2 * p + 1) * (1 - p)) ** -0.5
    b = -a * limit * p
    c1 = (a / kept - 1) / (kept - 1)
    d0 = -(a * limit + b)
    d1 = (b / (kept - 1) - d0) / kept
    own = site.name
    values = {f'{own}_c0': 1 - c1, f'{own}_c1': c1, f'{own}_d0': d0, f'{own}_d1': d1,
              f'{own}_one': 1.0}

    def node(op: str, left: str, right: str, result: str) -> onnx.NodeProto:
        return helper.make_node(op, [left, right], [result])

    nodes = [
        node('Mul', mask, f'{own}_c1', f'{own}_slope'),
        node('Add', f'{own}_slope', f'{own}_c0', f'{own}_factor'),
        node('Mul', mask, f'{own}_factor', f'{own}_scale'),
        node('Mul', mask, f'{own}_d1', f'{own}_rise'),
        node('Add', f'{own}_rise', f'{own}_d0', f'{own}_level'),
        node('Sub', mask, f'{own}_one', f'{own}_switch'),
        node('Mul', f'{own}_level', f'{own}_switch', f'{own}_shift'),
        node('Mul', data, f'{own}_scale', f'{own}_scaled'),
        node('Add', f'{own}_scaled', f'{own}_shift', output),
    ]
    return nodes, {k: np.array(v, np.float32) for k, v in values.items()}


# -------------------------------------------------------------------------------------------------

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
    refill(result.graph.node, nodes)
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
    known: dict[str, Shape],
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
    node: onnx.NodeProto, known: dict[str, Shape], axes: FoundPasses
) -> tuple[Shape, PassesAxis]:
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
    refill(twin.graph.node, [
        helper.make_node('Identity', [node.input[0]], [node.output[0]])
        if is_dropout(node) else node
        for node in twin.graph.node
    ])
    return twin
