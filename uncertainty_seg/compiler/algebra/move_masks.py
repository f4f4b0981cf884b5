# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Move masks into the weights of the linear operation that follows.

This is exact up to the order of summation, and is done where it saves work. Every tensor that
depends on a mask differs between passes; all others are the same in every pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import itertools
import math

import numpy as np
import onnx

from uncertainty_seg.compiler.algebra.free_passes import one_pass
from uncertainty_seg.compiler.onnx_tools import (
    attribute,
    constants,
    consumers,
    copy_of,
    drop_unused,
    NodeWriter,
    replace_node,
    Shapes,
    shapes,
    Values,
)
from uncertainty_seg.compiler.plan import Decision
from uncertainty_seg.core.model_card import DropoutSite


@dataclass(frozen=True)
class MaskedView:
    """Facts about a graph that a graph pass reads."""

    shapes: Shapes  # For one forward pass.
    constants: Values  # Initializers and Constant nodes.
    masks: frozenset[str]  # Mask inputs and products of masks alone: never negative.
    touched: frozenset[str]  # Every tensor that differs between passes.

    def masked(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        """Return (data, mask) if a node multiplies a tensor by a mask of its rank."""
        if node.op_type != 'Mul':
            return None
        for data, mask in (node.input, reversed(node.input)):
            if mask in self.masks and data not in self.masks and data in self.shapes:
                if len(self.shapes[data]) == len(self.shapes[mask]):
                    return data, mask
        return None


def view_of(model: onnx.ModelProto, sites: Sequence[DropoutSite]) -> MaskedView:
    """Return the view of a graph whose masks are the inputs of `sites`."""
    inputs = {site.name for site in sites}
    masks = set(inputs)
    for node in model.graph.node:
        if node.op_type in ('Mul', 'Identity') and all(name in masks for name in node.input):
            masks.update(node.output)
    return MaskedView(shapes(one_pass(model, sites)), constants(model.graph), frozenset(masks),
                      touched_by(model.graph.node, inputs))


def touched_by(nodes: Iterable[onnx.NodeProto], names: Iterable[str]) -> frozenset[str]:
    """Return the tensors `names` and all tensors computed from them."""
    touched = set(names)
    for node in nodes:
        if any(name in touched for name in node.input):
            touched.update(node.output)
    return frozenset(touched)


# With more outputs, a folded 3x3 convolution can be slower than a masked batch. Time ratio on one
# core, T = 20, ONNX Runtime 1.32 and OpenVINO 2026.4: 5 outputs 0.45 to 0.5 and 0.33 to 0.56,
# 20 outputs 0.7 to 0.8 and 0.4 to 1.3, 64 outputs 1.2 to 1.3 and 0.5 to 2.6.
MOST_OUTPUTS = 16
# Limit on the receptive fields of all pixels, which do not count in a GPU's budget for passes.
MOST_SEEN_BYTES = 2**28


def fold_masks(
    head: onnx.ModelProto, sites: Sequence[DropoutSite], passes: int
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """
    Fold every channel mask before a convolution where that is cheaper for T = `passes`.

    The convolution becomes one matrix product of T masked copies of its weights and each pixel's
    receptive field, since TensorRT supports no convolution with a symbolic number of outputs.
    Returns one decision for each mask that is applied to a tensor of batch 1.
    """
    result = copy_of(head)
    graph, view = result.graph, view_of(result, sites)
    decisions = []
    for mul in list(graph.node):
        found = view.masked(mul)
        if found is None or found[0] in view.touched:
            continue
        data, mask = found
        users = consumers(graph.node, mul.output[0])
        reasons = [_obstacle(mul.output[0], mask, user, view, passes) for user in users]
        reason = next(filter(None, reasons), '' if users else 'nothing uses it')
        if reason:
            decisions.append(Decision('fold_masks', mask, False, reason))
            continue
        for user in users:
            write = NodeWriter(graph, user.output[0])
            _one_product(user, data, mask, view, write)
            replace_node(graph, user, write.nodes)
        names = ', '.join(f'{u.op_type} {u.name or u.output[0]!r}' for u in users)
        decisions.append(
            Decision('fold_masks', mask, True, f'moved into the weights of {names}'))
    drop_unused(graph)
    return result, tuple(decisions)


def _obstacle(
    masked: str, mask: str, user: onnx.NodeProto, view: MaskedView, passes: int
) -> str:
    """Return why a mask is not folded into `user`, which reads `masked`; empty if it is."""
    name = f'{user.op_type} {user.name or user.output[0]!r}'
    shape = view.shapes[masked]
    varies = [axis for axis, n in enumerate(view.shapes[mask]) if axis and n > 1]
    if user.op_type != 'Conv':
        return f'{name} follows it, into which a mask cannot be folded'
    if list(user.input).count(masked) != 1 or user.input[0] != masked:
        return f'{name} takes it as weights'
    if any(other not in view.constants for other in user.input[1:] if other):
        return f'{name} has computed weights'
    weights = view.shapes[user.input[1]]
    if len(shape) != 4 or varies != [1]:
        return 'it is no mask over whole channels'
    if attribute(user, 'group', 1) != 1:
        return f'{name} works in groups'
    per_input, pixels = weights[0] * math.prod(weights[2:]), math.prod(shape[2:])
    if per_input > pixels:
        return f'{name} has {per_input} weights an input channel for {pixels} pixels'
    if _is_plain_1x1(user):
        return ''
    return _obstacle_of_taps(user, (*weights, pixels), name, passes)


def _obstacle_of_taps(
    conv: onnx.NodeProto, sizes: Sequence[int], name: str, passes: int
) -> str:
    """Return why receptive fields of a conv (K, C, y, x, pixels) are not laid out, or empty."""
    taps, seen_bytes = math.prod(sizes[2:-1]), 4 * math.prod(sizes[1:])
    if set(attribute(conv, 'strides', [1])) != {1}:
        return f'{name} skips pixels'
    if attribute(conv, 'auto_pad', 'NOTSET') != 'NOTSET':
        return f'{name} pads by itself'
    if sizes[0] > MOST_OUTPUTS:
        return f'{name} has {sizes[0]} outputs, more than {MOST_OUTPUTS}'
    if seen_bytes > MOST_SEEN_BYTES:
        return f'{name} sees {seen_bytes / 2**20:.0f} MB'
    return '' if taps <= passes else f'{name} has {taps} taps for {passes} passes'


def _is_plain_1x1(conv: onnx.NodeProto) -> bool:
    return (set(attribute(conv, 'kernel_shape', [0])) == {1}
            and set(attribute(conv, 'strides', [1])) == {1}
            and not any(attribute(conv, 'pads', [])))


def _one_product(
    conv: onnx.NodeProto, data: str, mask: str, view: MaskedView, write: NodeWriter
) -> None:
    weights = view.constants[conv.input[1]]
    outputs, channels = weights.shape[:2]
    taps, pixels = math.prod(weights.shape[2:]), math.prod(view.shapes[conv.output[0]][2:])
    by_tap = weights.reshape(1, outputs, channels, taps).swapaxes(2, 3)  # (1, K, taps, C)
    flat = write.constant('weights', np.ascontiguousarray(by_tap))
    row = write.node('Reshape', [mask, write.shape('mask_shape', -1, 1, 1, channels)], 'mask_row')
    masked = write.node('Mul', [row, flat], 'masked')  # (T, K, taps, C)
    rows = write.shape('rows', -1, taps * channels)
    stack = write.node('Reshape', [masked, rows], 'stack')
    if not _is_plain_1x1(conv):
        data = _seen(conv, data, view, write)
    seen = write.node('Reshape', [data, write.shape('flat', taps * channels, pixels)], 'pixels')
    product = write.node('MatMul', [stack, seen], 'product')  # (T * K, hw)
    _unstack(conv, product, view, write)


def _seen(conv: onnx.NodeProto, data: str, view: MaskedView, write: NodeWriter) -> str:
    """Write each pixel's receptive field in a convolution of stride 1, (1, taps * C, h, w)."""
    rows, columns = view.shapes[conv.output[0]][2:]
    down, across = attribute(conv, 'dilations', [1, 1])
    top, left, bottom, right = attribute(conv, 'pads', [0] * 4)
    around = write.shape('around', 0, 0, top, left, 0, 0, bottom, right)
    padded, axes = write.node('Pad', [data, around], 'padded'), write.shape('axes', 2, 3)
    high, wide = view.shapes[conv.input[1]][2:]
    parts = []
    for y, x in itertools.product(range(0, high * down, down), range(0, wide * across, across)):
        first = write.shape(f'first_{y}_{x}', y, x)
        stop = write.shape(f'stop_{y}_{x}', y + rows, x + columns)
        parts.append(write.node('Slice', [padded, first, stop, axes], f'at_{y}_{x}'))
    return write.node('Concat', parts, 'seen', axis=1)


def _unstack(conv: onnx.NodeProto, product: str, view: MaskedView, write: NodeWriter) -> None:
    """Reshape T * K planes to (T, K, h, w) and add the bias."""
    planes = write.shape('planes', -1, *view.shapes[conv.output[0]][1:])
    if len(conv.input) < 3 or not conv.input[2]:
        write.node('Reshape', [product, planes])
        return
    bias = write.constant('bias', view.constants[conv.input[2]].reshape(1, -1, 1, 1))
    write.node('Add', [write.node('Reshape', [product, planes], 'unbiased'), bias])
