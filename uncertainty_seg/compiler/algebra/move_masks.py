# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Masks move into the weights of the linear operation that follows.

That is exact, but for the order of sums, and done where it saves work. Everything that depends on
a mask differs from pass to pass, and the rest is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
import math

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
    """What a pass needs to know of a graph."""

    shapes: Shapes  # Of one pass.
    constants: Values  # Initializers and Constant nodes.
    masks: frozenset[str]  # Mask inputs, and products of nothing but masks: never negative.
    touched: frozenset[str]  # Every tensor that differs from pass to pass.

    def varies(self, mask: str) -> frozenset[int]:
        """Return the axes along which a mask varies, that of the passes left out."""
        return frozenset(i for i, n in enumerate(self.shapes[mask]) if i > 0 and n > 1)

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
    """Look at a graph whose masks are the inputs of some sites."""
    inputs = {site.name for site in sites}
    masks = set(inputs)
    for node in model.graph.node:
        if node.op_type in ('Mul', 'Identity') and all(name in masks for name in node.input):
            masks.update(node.output)
    return MaskedView(shapes(one_pass(model, sites)), constants(model.graph), frozenset(masks),
                      touched_by(model.graph.node, inputs))


def touched_by(nodes: Iterable[onnx.NodeProto], names: Iterable[str]) -> frozenset[str]:
    """Return some tensors and all that are computed from them."""
    touched = set(names)
    for node in nodes:
        if any(name in touched for name in node.input):
            touched.update(node.output)
    return frozenset(touched)


# A convolution whose weights are computed runs without the layout that a runtime packs constant
# weights into, at about two thirds of the speed. On one core (ONNX Runtime 1.32 and OpenVINO
# 2026.4, T of 4 and 20) 6 to 21 outputs of 3x3 took 0.2 to 0.7 of the time of the masked batch,
# 32 outputs up to 1.7 times as long: the number of weights an input channel decides.


def fold_masks(
    head: onnx.ModelProto, sites: Sequence[DropoutSite]
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """
    Fold every mask of channels that stands before products, where it is cheaper.

    Into no convolution with T times the outputs: TensorRT takes none of a symbolic number of them.
    Decisions are one a mask that is applied to a tensor of batch 1.
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
        reason = obstacle(mul.output[0], mask, users, view)
        if reason:
            decisions.append(Decision('fold_masks', mask, False, reason))
            continue
        for user in users:
            write = NodeWriter(graph, user.output[0])
            _form(user)(user, data, mask, view, write)
            replace_node(graph, user, write.nodes)
        names = ', '.join(f'{u.op_type} {u.name or u.output[0]!r}' for u in users)
        decisions.append(
            Decision('fold_masks', mask, True, f'moved into the weights of {names}'))
    drop_unused(graph)
    return result, tuple(decisions)


def obstacle(masked: str, mask: str, users: Sequence[onnx.NodeProto], view: MaskedView) -> str:
    """Say why a mask is not folded into what reads its product, `masked`; empty if it is."""
    reasons = [_obstacle_at(masked, mask, user, view) for user in users]
    return next((r for r in reasons if r), '' if users else 'nothing uses it')


def _obstacle_at(masked: str, mask: str, user: onnx.NodeProto, view: MaskedView) -> str:
    name = f'{user.op_type} {user.name or user.output[0]!r}'
    shape, varies = view.shapes[masked], view.varies(mask)
    if user.op_type not in ('Conv', 'MatMul'):
        return f'{name} follows it, into which a mask cannot be folded'
    if list(user.input).count(masked) != 1 or user.input[0] != masked:
        return f'{name} takes it as weights'
    if any(other not in view.constants for other in user.input[1:] if other):
        return f'{name} has computed weights'
    weights = view.shapes[user.input[1]]
    if user.op_type == 'MatMul':
        if len(shape) < 3 or varies != {len(shape) - 1} or len(weights) != 2:
            return f'it is no mask over the {weights[0]} columns that {name} sums'
        rows, outputs = math.prod(shape[1:-1]), weights[1]
        return '' if outputs <= rows else f'{name} has {outputs} outputs for {rows} rows'
    if len(shape) != 4 or varies != {1}:
        return 'it is no mask over whole channels'
    if attribute(user, 'group', 1) != 1:
        return f'{name} works in groups'
    per_input, pixels = weights[0] * math.prod(weights[2:]), math.prod(shape[2:])
    if per_input > pixels:
        return f'{name} has {per_input} weights an input channel for {pixels} pixels'
    if not _is_plain_1x1(user):
        return f'{name} would become a convolution of a symbolic number of outputs'
    return ''


def _is_plain_1x1(conv: onnx.NodeProto) -> bool:
    return (set(attribute(conv, 'kernel_shape', [0])) == {1}
            and set(attribute(conv, 'strides', [1])) == {1}
            and not any(attribute(conv, 'pads', [])))


def _one_product(
    conv: onnx.NodeProto, data: str, mask: str, view: MaskedView, write: NodeWriter
) -> None:
    _, channels, rows, columns = view.shapes[data]
    weights = view.constants[conv.input[1]]
    outputs = len(weights)
    flat = write.constant('weights', weights.reshape(1, outputs, channels))
    row = write.node('Reshape', [mask, write.shape('mask_shape', -1, 1, channels)], 'mask_row')
    masked = write.node('Mul', [row, flat], 'masked')  # (T, K, C)
    stack = write.node('Reshape', [masked, write.shape('rows', -1, channels)], 'stack')
    pixels = write.node('Reshape', [data, write.shape('flat', channels, rows * columns)], 'pixels')
    product = write.node('MatMul', [stack, pixels], 'product')  # (T * K, hw)
    _unstack(conv, product, view, write)


def _unstack(conv: onnx.NodeProto, product: str, view: MaskedView, write: NodeWriter) -> None:
    """Bring T * K planes to (T, K, h, w) and add the bias."""
    planes = write.shape('planes', -1, *view.shapes[conv.output[0]][1:])
    if len(conv.input) < 3 or not conv.input[2]:
        write.node('Reshape', [product, planes])
        return
    bias = write.constant('bias', view.constants[conv.input[2]].reshape(1, -1, 1, 1))
    write.node('Add', [write.node('Reshape', [product, planes], 'unbiased'), bias])


def _batched_product(
    matmul: onnx.NodeProto, data: str, mask: str, view: MaskedView, write: NodeWriter
) -> None:
    rank, columns = len(view.shapes[data]), view.shapes[data][-1]
    tall = write.shape('mask_shape', -1, *[1] * (rank - 3), columns, 1)
    column = write.node('Reshape', [mask, tall], 'mask_column')
    stack = write.node('Mul', [column, matmul.input[1]], 'stack')  # (T, C, K)
    write.node('MatMul', [data, stack])


def _form(user: onnx.NodeProto) -> Callable[..., None]:
    return _batched_product if user.op_type == 'MatMul' else _one_product
