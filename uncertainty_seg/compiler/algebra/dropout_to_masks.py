# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Replace every dropout node by a multiplication with a mask, which is an input of the graph.

Two forms are supported: ONNX's own Dropout, which drops elements where its training_mode is true,
and the marker ``uncertainty_seg::Dropout`` that the torch front end writes, which also states what
is dropped: elements or whole channels. Dropout of a tensor of ones becomes the mask itself.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from uncertainty_seg.compiler.algebra.free_passes import find_passes, FoundPasses, PassesAxis
from uncertainty_seg.compiler.algebra.move_masks import touched_by
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


def dropout_to_masks(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[DropoutSite, ...]]:
    """
    Turn the dropout of a graph of batch 1 and static size into mask inputs.

    Returns the model without dropout nodes, and its sites in the order of the graph. Each site is
    one more input, float32 (T, *site.shape). Raises GraphError if no dropout is active, a rate is
    not a constant in [0, 1), or a shape is unknown.
    """
    if not has_dropout(model):
        raise _no_dropout(model)
    plain = without_dropout(model)
    known, fixed = shapes(plain), constants(plain.graph)
    images = [info.name for info in image_inputs(model.graph)]
    varied = touched_by(plain.graph.node, images)
    # Dropout of a tensor independent of the image has the passes on axis 0 if that has size 1.
    seeds = [node.output[0] for node in model.graph.node if is_live_dropout(model, node)
             and node.input[0] not in varied and known.get(node.output[0], ())[:1] == (1,)]
    axes = find_passes(plain.graph.node, known, fixed,
                       dict.fromkeys((*seeds, *images), PassesAxis(0)))
    result = copy_of(model)
    sites: list[DropoutSite] = []
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        if not is_dropout(node):
            nodes.append(node)
        elif not is_live_dropout(model, node):
            nodes.append(hidden(node))
        else:
            site, masking = _masked(result.graph, node, known, axes, len(sites))
            sites.append(site)
            nodes += masking
            result.graph.input.append(float_info(site.name, (PASSES_AXIS, *site.shape)))
    refill(result.graph.node, nodes)
    return result, tuple(sites)


def has_dropout(model: onnx.ModelProto) -> bool:
    """Return whether any dropout of a graph is active with a rate above 0."""
    return any(is_live_dropout(model, node) for node in model.graph.node)


def is_live_dropout(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Return whether a node is an active dropout with a rate above 0."""
    return is_dropout(node) and _is_on(model.graph, node) and rate_of(model.graph, node) > 0


def _is_on(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Return whether a runtime applies this dropout: ONNX's is off without a training_mode."""
    if node.domain == MARKER_DOMAIN:
        return True
    flag = constants(graph).get(node.input[2]) if len(node.input) > 2 and node.input[2] else False
    if flag is None:
        raise GraphError(f'dropout {node.name!r} has a computed training_mode', 'a constant one')
    return bool(np.any(flag))


def _no_dropout(model: onnx.ModelProto) -> GraphError:
    found = [node for node in model.graph.node if is_dropout(node)]
    fix = ('train it with dropout that train() switches on, which an ONNX file keeps if it is '
           'exported in that mode, or let some be injected, or compile several networks as an '
           'ensemble, or one pass by the method single')
    expected = 'at least one dropout with a rate above 0, whose passes differ'
    if found and not any(_is_on(model.graph, node) for node in found):
        return GraphError(
            f'every dropout of the network is off: {len(found)} with training_mode false or '
            'absent', 'dropout with training_mode true, whose passes differ',
            'export it again with its dropout in train() (torch.onnx.export with training='
            'TrainingMode.PRESERVE and opset_version of 12 or more), or compile the torch network')
    return GraphError('every dropout has the rate 0' if found else
                      'no dropout reaches the output of the network',
                      expected, fix)


def is_dropout(node: onnx.NodeProto) -> bool:
    """Return whether a node is ONNX's Dropout or our marker."""
    return node.op_type == 'Dropout' and node.domain in ('', 'ai.onnx', MARKER_DOMAIN)


def without_dropout(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with every dropout switched off."""
    twin = copy_of(model)
    refill(twin.graph.node, [hidden(n) if is_dropout(n) else n for n in twin.graph.node])
    return twin


def rate_of(graph: onnx.GraphProto, node: onnx.NodeProto) -> float:
    """Return the rate of a dropout; raises GraphError if it is no constant in [0, 1)."""
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
    wish = f'mask_{attribute(node, "site", "") or f"dropout_{index}"}'
    site = DropoutSite(fresh_name(graph, wish), mask_shape(kind, shape, axis, node.name),
                       rate_of(graph, node))
    write = NodeWriter(graph, site.name)
    mask = _lay_out(site.name, list(site.shape), axis, write)
    value = constants(graph).get(node.input[0])
    if value is not None and (value == 1).all():
        write.nodes.append(helper.make_node('Identity', [mask], [node.output[0]]))
    else:
        write.nodes.append(helper.make_node('Mul', [node.input[0], mask], [node.output[0]]))
    return site, write.nodes


def _place(node: onnx.NodeProto, known: Shapes, axes: FoundPasses) -> tuple[Shape, PassesAxis]:
    """Return the shape of one pass and the axis that carries the passes."""
    data = node.output[0]  # not the input: that carries no passes if it is a constant
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
        raise GraphError(f'{what}: the batch axis was lost at {axes.lost[data]}',
                         'a tensor whose batch axis is known',
                         'keep the batch of 1 there (no squeeze(0), no x[0])')
    raise GraphError(f'{what} drops from a constant of shape {shape}', 'a batch on axis 0',
                     'give queries or positions an axis of 1 in front, drop the input of a layer '
                     'in place of its weights, and draw a mask of your own before the image is '
                     'cut into windows')


def mask_shape(kind: str, shape: Shape, axis: PassesAxis, name: str) -> Shape:
    """
    Return the mask shape for one pass of a tensor of `shape` that carries the passes on `axis`.

    The mask has all axes but that of the passes; it keeps that one where it also holds other
    entries. Raises GraphError for channel dropout of a tensor whose batch is not axis 0.
    """
    full = shape if not axis.is_alone else (*shape[:axis.axis], *shape[axis.axis + 1:])
    if kind == 'element':
        return full
    if axis.axis:
        raise GraphError(f'dropout {name!r} drops channels of a tensor of shape {shape}',
                         'the batch on axis 0')
    same = len(shape) - 2  # axes along which a channel has one value
    return (*full[:len(full) - same], *(1,) * same)


def _lay_out(name: str, sizes: list[int], axis: PassesAxis, write: NodeWriter) -> str:
    """Move the T of a mask (T, *sizes) to the tensor's passes axis; return the mask's new name."""
    to = axis.axis
    if axis == PassesAxis(0):
        return name

    def reshaped(suffix: str, *shape: int) -> str:
        return write.node('Reshape', [name, write.shape(f'{suffix}_shape', *shape)], suffix)

    if axis.outer > 1:
        name = reshaped('apart', -1, *sizes[:to], axis.outer, axis.inner, *sizes[to + 1:])
        to += 1
    if to > 0:
        rank = len(sizes) + 1 + (axis.outer > 1)
        perm = [*range(1, to + 1), 0, *range(to + 1, rank)]
        name = write.node('Transpose', [name], 'moved', perm=perm)
    if not axis.is_alone:
        name = reshaped('merged', *sizes[:axis.axis], -1, *sizes[axis.axis + 1:])
    return name
