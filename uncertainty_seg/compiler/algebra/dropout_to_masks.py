# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every dropout node becomes an operation with a mask, the mask being an input of the graph.

Two forms are understood: ONNX's own Dropout, which drops elements, and the marker
``uncertainty_seg::Dropout`` that the torch front end writes, which also states what is dropped:
elements, whole channels, the whole branch (stochastic depth), or either of the first two in the
self-normalising way of AlphaDropout.

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from uncertainty_seg.compiler.algebra.free_passes import find_passes, FoundPasses, PassesAxis
from uncertainty_seg.compiler.algebra.lifted_constants import lay_out, lift_constants
from uncertainty_seg.compiler.onnx_tools import (
    attribute,
    constants,
    copy_of,
    float_info,
    fresh_name,
    hidden,
    image_inputs,
    MARKER_DOMAIN,
    NodeWriter,
    refill,
    Shape,
    Shapes,
    shapes,
)
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError

PASSES_AXIS = 'T'
KINDS = ('element', 'channel', 'path', 'alpha', 'feature_alpha')
# What AlphaDropout writes where it drops: the limit of SELU at minus infinity (torch's constant).
_SELU_LIMIT = -1.7580993408473766


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
    if not has_dropout(model):
        found = any(is_dropout(node) for node in model.graph.node)
        raise GraphError(
            'every dropout has the rate 0' if found else 'the network has no dropout',
            'at least one dropout with a rate above 0, whose passes differ',
            'train it with dropout, or put some in with --inject-dropout, or compile several '
            'networks with --method ensemble, or one pass with --method single',
        )
    live = {node.output[0] for node in model.graph.node if _is_live(model, node)}
    model, seeds = lift_constants(model, shapes(without_dropout(model)), live)
    plain = without_dropout(model)
    known, fixed = shapes(plain), constants(plain.graph)
    images = (info.name for info in image_inputs(model.graph))
    starts = {name: PassesAxis(0) for name in (*seeds, *images)}
    axes = find_passes(plain.graph.node, known, fixed, starts)
    result = copy_of(model)
    sites: list[DropoutSite] = []
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        if not is_dropout(node):
            nodes.append(node)
        elif _rate(model.graph, node) == 0:
            nodes.append(hidden(node))
        else:
            site, masking = _masked(result.graph, node, known, axes, len(sites))
            sites.append(site)
            nodes += masking
            result.graph.input.append(float_info(site.name, (PASSES_AXIS, *site.shape)))
    refill(result.graph.node, nodes)
    return result, tuple(sites)


def has_dropout(model: onnx.ModelProto) -> bool:
    """Say whether any dropout of a graph drops anything."""
    return any(_is_live(model, node) for node in model.graph.node)


def _is_live(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    return is_dropout(node) and _rate(model.graph, node) > 0


def is_dropout(node: onnx.NodeProto) -> bool:
    """Say whether a node is dropout, of ONNX or of our marker."""
    return node.op_type == 'Dropout' and node.domain in ('', 'ai.onnx', MARKER_DOMAIN)


def without_dropout(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with every dropout switched off."""
    twin = copy_of(model)
    refill(twin.graph.node, [hidden(n) if is_dropout(n) else n for n in twin.graph.node])
    return twin


def _rate(graph: onnx.GraphProto, node: onnx.NodeProto) -> float:
    rate = attribute(node, 'ratio', 0.5)
    if node.domain == MARKER_DOMAIN:
        rate = round(attribute(node, 'p'), 7)  # stored in 32 bits, where 0.2 is 0.200000003
    elif len(node.input) > 1 and node.input[1]:
        value = constants(graph).get(node.input[1])
        if value is None:
            raise GraphError(f'dropout {node.name!r} has a computed rate', 'a constant one')
        rate = round(float(np.asarray(value).reshape(-1)[0].item()), 7)
    if not isinstance(rate, float) or not 0 <= rate < 1:
        raise GraphError(f'dropout {node.name!r} has the rate {rate!r}', 'a number in [0, 1)')
    return rate


def _masked(
    graph: onnx.GraphProto, node: onnx.NodeProto, known: Shapes, axes: FoundPasses, index: int
) -> tuple[DropoutSite, list[onnx.NodeProto]]:
    shape, axis = _place(node, known, axes)
    kind = attribute(node, 'kind', 'element')
    if kind not in KINDS:
        raise GraphError(f'dropout {node.name!r} is of the kind {kind!r}', f'one of {KINDS}')
    wish = f'mask_{attribute(node, "site", "") or f"dropout_{index}"}'
    site = DropoutSite(fresh_name(graph, wish), mask_shape(kind, shape, axis, node.name),
                       _rate(graph, node))
    write = NodeWriter(graph, site.name)
    mask = _laid_out(site, shape, axis, write)
    if 'alpha' in kind:
        _write_alpha(site.p, node.input[0], mask, write)
        write.nodes[-1].output[0] = node.output[0]
    else:
        write.nodes.append(helper.make_node('Mul', [node.input[0], mask], [node.output[0]]))
    return site, write.nodes


def _place(
    node: onnx.NodeProto, known: Shapes, axes: FoundPasses
) -> tuple[Shape, PassesAxis]:
    """Return the shape of one pass and where the passes go in it."""
    data = node.output[0]  # carries the passes where its input is a constant
    what = f'dropout {attribute(node, "site", "") or node.name!r}'
    shape = known.get(data)
    if shape is None or not shape:
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
    raise GraphError(f'{what} drops channels of a constant of shape {shape}', 'a batch on axis 0',
                     'give it an axis of 1 in front')


def mask_shape(kind: str, shape: Shape, axis: PassesAxis, name: str) -> Shape:
    """
    Return the shape of the mask of one pass.

    `kind` is one of `KINDS`, `shape` that of the tensor for one pass and `axis` where it carries
    the passes; `name` is that of the node, for the error. The mask has all axes but that of the
    passes, and that one too where it also holds something else.

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


def _laid_out(site: DropoutSite, shape: Shape, axis: PassesAxis, write: NodeWriter) -> str:
    """Bring a mask (T, *site.shape) to where a tensor carries its passes."""
    if not axis.is_alone and site.shape[axis.axis] != axis.size:
        raise GraphError(f'{site.name} drops branches of a tensor of shape {shape}',
                         'a batch axis of its own')
    return lay_out(site.name, list(site.shape), axis, write)


def _write_alpha(p: float, data: str, mask: str, write: NodeWriter) -> None:
    """
    Write AlphaDropout as a function of a mask that is 0, 1/(1-p), or 1 to switch it off.

    Kept elements are ``a x + b``, dropped ones ``a s + b`` with SELU's limit s, and with a mask
    of ones nothing happens. Two parabolas in the mask go through these three points:
    ``y = m (c0 + c1 m) x + (m - 1) (d0 + d1 m)``.

    """
    kept = 1 / (1 - p)
    a = ((_SELU_LIMIT**2 * p + 1) * (1 - p)) ** -0.5
    b = -a * _SELU_LIMIT * p
    c1 = (a / kept - 1) / (kept - 1)
    d0 = -(a * _SELU_LIMIT + b)
    d1 = (b / (kept - 1) - d0) / kept
    values = {'c0': 1 - c1, 'c1': c1, 'd0': d0, 'd1': d1, 'one': 1.0}
    named = {key: write.constant(key, value) for key, value in values.items()}
    slope = write.node('Mul', [mask, named['c1']], 'slope')
    factor = write.node('Add', [slope, named['c0']], 'factor')
    scale = write.node('Mul', [mask, factor], 'scale')
    rise = write.node('Mul', [mask, named['d1']], 'rise')
    level = write.node('Add', [rise, named['d0']], 'level')
    switch = write.node('Sub', [mask, named['one']], 'switch')
    shift = write.node('Mul', [level, switch], 'shift')
    scaled = write.node('Mul', [data, scale], 'scaled')
    write.node('Add', [scaled, shift], 'dropped')
