# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Where masks are applied: behind what does not care, or in the weights of what follows.

Both are exact, but for the order of sums, and done where they save work. An input whose first axis
is symbolic carries the passes; everything that depends on one differs from pass to pass, and the
rest is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
import math

import numpy as np
import onnx
from onnx import helper

from uncertainty_seg.compiler.onnx_tools import (
    add_constant,
    attribute,
    constants,
    consumers,
    copy_of,
    drop_unused,
    fresh_name,
    NodeWriter,
    only_user,
    producer,
    refill,
    replace_node,
    Shapes,
    shapes,
    Values,
)
from uncertainty_seg.compiler.plan import Decision, MACS_AN_ELEMENT, node_cost
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


def view_of(model: onnx.ModelProto, sites: Iterable[DropoutSite] | None = None) -> MaskedView:
    """Look at a graph; without `sites`, every input with a symbolic first axis is a mask."""
    inputs = {info.name for info in model.graph.input if _is_symbolic(info)}
    if sites is not None:
        inputs = {site.name for site in sites}
    masks = set(inputs)
    for node in model.graph.node:
        if node.op_type in ('Mul', 'Identity') and all(name in masks for name in node.input):
            masks.update(node.output)
    return MaskedView(shapes(with_passes(model, 1)), constants(model.graph), frozenset(masks),
                      touched_by(model.graph.node, inputs))


def touched_by(nodes: Iterable[onnx.NodeProto], names: Iterable[str]) -> frozenset[str]:
    """Return some tensors and all that are computed from them."""
    touched = set(names)
    for node in nodes:
        if any(name in touched for name in node.input):
            touched.update(node.output)
    return frozenset(touched)


def with_passes(model: onnx.ModelProto, passes: int) -> onnx.ModelProto:
    """Return a graph whose symbolic axis of the passes is a number, so that shapes are static."""
    fixed = copy_of(model)
    for info in (*fixed.graph.input, *fixed.graph.output):
        if _is_symbolic(info):
            info.type.tensor_type.shape.dim[0].Clear()
            info.type.tensor_type.shape.dim[0].dim_value = passes
    del fixed.graph.value_info[:]
    return fixed


def _is_symbolic(info: onnx.ValueInfoProto) -> bool:
    dims = info.type.tensor_type.shape.dim
    return bool(dims) and not dims[0].HasField('dim_value')


# -------------------------------------------------------------------------------------------------
# Masks move into the weights of linear operations.

# A convolution whose weights are computed runs without the layout that a runtime packs constant
# weights into, at about two thirds of the speed. On one core (ONNX Runtime 1.32 and OpenVINO
# 2026.4, T of 4 and 20) 6 to 21 outputs of 3x3 took 0.2 to 0.7 of the time of the masked batch,
# 32 outputs up to 1.7 times as long: the number of weights an input channel decides.


def fold_masks(
    head: onnx.ModelProto, passes: int = 20
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """
    Fold every mask of channels that stands before products, where it is cheaper.

    Into no convolution with T times the outputs: TensorRT takes none of a symbolic number of them.
    Decisions are one a mask that is applied to a tensor of batch 1.
    """
    result = copy_of(head)
    graph, view = result.graph, view_of(result)
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
        weights = sum(math.prod(view.shapes[user.input[1]]) for user in users)
        names = ', '.join(f'{u.op_type} {u.name or u.output[0]!r}' for u in users)
        decisions.append(Decision(
            'fold_masks', mask, True, f'moved into the weights of {names}',
            passes * MACS_AN_ELEMENT * (math.prod(view.shapes[data]) - weights)))
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


# -------------------------------------------------------------------------------------------------
# A mask moves behind what does not care whether it comes before or after.

def push_masks(
    masked: onnx.ModelProto, sites: Iterable[DropoutSite], passes: int = 20
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """Move every mask of a graph, not split yet, as far back as it saves work; decide on each."""
    result, sites = copy_of(masked), tuple(sites)
    _merge(result, sites)
    view, decisions = view_of(result, sites), []
    for name in [node.output[0] for node in result.graph.node if view.masked(node)]:
        decisions.append(_push(result, sites, name, passes))
        _merge(result, sites)  # it may have come to stand before the next one
    drop_unused(result.graph)
    return result, tuple(decisions)


def _merge(model: onnx.ModelProto, sites: tuple[DropoutSite, ...]) -> None:
    while _merge_two(model, sites):
        pass


def _merge_two(model: onnx.ModelProto, sites: tuple[DropoutSite, ...]) -> bool:
    """Turn a ``(x * m) * n`` into ``x * (m * n)`` where the masks are far smaller than x."""
    graph, view = model.graph, view_of(model, sites)
    for outer in graph.node:
        second = view.masked(outer)
        inner = producer(graph.node, second[0]) if second else None
        first = view.masked(inner) if inner is not None else None
        if second is None or inner is None or first is None:
            continue
        shapes = (view.shapes[name] for name in (first[1], second[1]))
        size = math.prod(np.broadcast_shapes(*shapes))
        if 4 * size > math.prod(view.shapes[first[0]]) or not only_user(graph, inner.output[0]):
            continue
        both = fresh_name(graph, f'{first[1]}_and_{second[1]}')
        replace_node(graph, outer, [
            helper.make_node('Mul', [first[1], second[1]], [both]),
            helper.make_node('Mul', [first[0], both], [outer.output[0]])])
        replace_node(graph, inner, [])
        return True
    return False


def _push(
    model: onnx.ModelProto, sites: tuple[DropoutSite, ...], name: str, passes: int
) -> Decision:
    """Move the mask whose product has this name; return how far it went, or why it stays."""
    graph, view = model.graph, view_of(model, sites)
    mul = producer(graph.node, name)
    found = view.masked(mul) if mul is not None else None
    if mul is None or found is None:
        raise KeyError(name)
    data, mask = found
    if data in view.touched:
        return Decision('push_masks', mask, False, 'its tensor differs from pass to pass already')
    cost = _PushCost(graph, view, mask, passes)
    saved = int(cost.stay(name) - cost.best(name))
    if saved <= 0:
        return Decision('push_masks', mask, False, cost.obstacle(name))
    passed: list[onnx.NodeProto] = []
    waiting = [mul]
    while waiting:
        mul = waiting.pop()
        if cost.push(mul.output[0]) < cost.stay(mul.output[0]):
            users = consumers(graph.node, mul.output[0])
            replace_node(graph, mul, [])
            late = [_exchange(graph, mul, user, view) for user in users]
            # A product before a bias has a new name, and stays where it is.
            waiting += [node for node in late if node.output[0] in view.shapes]
            passed += users
    behind = ', '.join(node.op_type for node in passed)
    return Decision('push_masks', mask, True, f'moved behind {behind}', saved)


@dataclass(frozen=True)
class _PushCost:
    """What it costs to apply a mask at a tensor, or further back; in multiply-adds."""

    graph: onnx.GraphProto
    view: MaskedView
    mask: str
    passes: int

    def best(self, name: str) -> float:
        return min(self.stay(name), self.push(name))

    def stay(self, name: str) -> int:
        """Cost of masking a tensor, and of all that the mask could pass, in every pass."""
        users = consumers(self.graph.node, name)
        is_folded = not obstacle(name, self.mask, users, self.view)
        masking = 0 if is_folded else self._elements(name)
        return self.passes * (masking + self._behind(name))

    def push(self, name: str) -> float:
        """Cost of the same if the mask is moved behind everything that takes the tensor."""
        users = consumers(self.graph.node, name)
        is_output = any(info.name == name for info in self.graph.output)
        if is_output or not users or not all(self._commutes(user, name) for user in users):
            return math.inf
        return sum(self._once(user) for user in users)

    def obstacle(self, name: str) -> str:
        """Say what stops it at a tensor."""
        users = consumers(self.graph.node, name)
        stops = [u for u in users if not self._commutes(u, name)]
        if stops:
            return f'{stops[0].op_type} {stops[0].name or stops[0].output[0]!r} needs it before'
        return 'to move it costs more than it saves' if users else 'nothing follows it'

    def _commutes(self, node: onnx.NodeProto, data: str) -> bool:
        mixed = mixed_axes(node, data, self.view)
        return mixed is not None and not mixed & self.view.varies(self.mask)

    def _once(self, node: onnx.NodeProto) -> float:
        cost, out = node_cost(node, self.view.shapes).total, node.output[0]
        if _repeats_pixels(node) and self._would_end(out):
            return math.inf
        if bias_of(node, self.view):  # is added behind the mask, and ends its way
            return cost + 2 * self.passes * self._elements(out)
        return cost + self.best(out)

    def _would_end(self, name: str) -> bool:
        """Say whether a mask at a tensor would multiply it there."""
        is_folded = not obstacle(name, self.mask, consumers(self.graph.node, name), self.view)
        return not is_folded and self.stay(name) <= self.push(name)

    def _behind(self, name: str) -> int:
        total = 0
        for user in consumers(self.graph.node, name):
            if self._commutes(user, name):
                total += node_cost(user, self.view.shapes).total
                total += 0 if bias_of(user, self.view) else self._behind(user.output[0])
        return total

    def _elements(self, name: str) -> int:
        return MACS_AN_ELEMENT * math.prod(self.view.shapes[name])


def _repeats_pixels(node: onnx.NodeProto) -> bool:
    # To multiply what it makes costs as much as to make it, and OpenVINO can merge it with the
    # convolution behind it, if the mask does not stand between.
    return node.op_type == 'Resize' and attribute(node, 'mode', 'nearest') == 'nearest'


def _exchange(
    graph: onnx.GraphProto, mul: onnx.NodeProto, user: onnx.NodeProto, view: MaskedView
) -> onnx.NodeProto:
    """Let a user work on the unmasked tensor and mask what it makes; return the new product."""
    masked, out, bias = mul.output[0], user.output[0], bias_of(user, view)
    data, mask = mul.input
    if data in view.masks:
        data, mask = mask, data
    early = copy_of(user)
    early.output[0] = fresh_name(graph, f'{out}_unmasked')
    refill(early.input, [data if name == masked else name for name in user.input])
    if not bias:
        late = helper.make_node('Mul', [early.output[0], mask], [out])
        replace_node(graph, user, [early, late])
        return late
    del early.input[2:]
    late = helper.make_node('Mul', [early.output[0], mask], [fresh_name(graph, f'{out}_unbiased')])
    replace_node(graph, user, [early, late, helper.make_node(
        'Add', [late.output[0], _bias_of_rank(graph, user, bias, view)], [out])])
    return late


def _bias_of_rank(
    graph: onnx.GraphProto, node: onnx.NodeProto, bias: str, view: MaskedView
) -> str:
    values = np.asarray(view.constants[bias], np.float32)
    if node.op_type == 'Gemm':
        values = values * np.float32(attribute(node, 'beta', 1.0))
    else:
        values = values.reshape(1, -1, *[1] * (len(view.shapes[node.output[0]]) - 2))
    return add_constant(graph, f'{node.output[0]}_bias', values, np.float32)


# -------------------------------------------------------------------------------------------------
# Which operations a mask can be moved behind: ``f(x * m) == f(x) * m`` for every ``m >= 0``.
# True where f is linear, or takes the largest or the positive part, and does not mix entries along
# an axis on which the mask varies. Each operation has a rule that names the axes it mixes.

Axes = frozenset[int] | set[int]
_Rule = Callable[[onnx.NodeProto, MaskedView], Axes | None]


def mixed_axes(node: onnx.NodeProto, data: str, view: MaskedView) -> Axes | None:
    """
    Return the axes along which an operation mixes the entries of its input `data`.

    None if a factor cannot be taken out of it, whatever its shape. A bias counts as taken off: see
    `bias_of`.
    """
    rule = _RULES.get(node.op_type)
    others = [name for name in node.input if name and name != data]
    out = view.shapes.get(node.output[0])
    known = view.shapes.get(data)
    if rule is None or out is None or known is None or len(out) != len(known):
        return None
    if len([name for name in node.output if name]) != 1 or list(node.input).count(data) != 1:
        return None
    if out[0] != known[0] or (node.input[0] != data and node.op_type != 'Mul'):
        return None
    if any(name in view.touched for name in others):
        return None
    is_linear = node.op_type in ('Conv', 'ConvTranspose', 'Gemm')
    if is_linear and any(name not in view.constants for name in others):
        return None
    return rule(node, view)


def bias_of(node: onnx.NodeProto, view: MaskedView) -> str:
    """Return the name of the bias that a linear operation adds, or an empty text."""
    if node.op_type in ('Conv', 'ConvTranspose', 'Gemm') and len(node.input) > 2:
        return node.input[2] if np.any(view.constants.get(node.input[2], 0)) else ''
    return ''


def _elementwise(node: onnx.NodeProto, view: MaskedView) -> Axes | None:
    return set()


def _spatial(node: onnx.NodeProto, view: MaskedView) -> Axes | None:
    return set(range(2, len(view.shapes[node.input[0]])))


def _resized(node: onnx.NodeProto, view: MaskedView) -> Axes | None:
    if attribute(node, 'coordinate_transformation_mode') == 'tf_crop_and_resize':
        return None  # it may write a constant where it looks outside
    old, new = view.shapes[node.input[0]], view.shapes[node.output[0]]
    return {i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b}


def _padded(node: onnx.NodeProto, view: MaskedView) -> Axes | None:
    value = view.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    is_zero = len(node.input) < 3 or not node.input[2] or (value is not None and not np.any(value))
    if attribute(node, 'mode', 'constant') == 'constant' and not is_zero:
        return None
    return _resized(node, view)


def _reduced(node: onnx.NodeProto, view: MaskedView) -> Axes | None:
    if not attribute(node, 'keepdims', 1):
        return None
    rank = len(view.shapes[node.input[0]])
    name = node.input[1] if len(node.input) > 1 else ''
    axes = view.constants.get(name) if name else np.arange(rank)
    if axes is None:
        return None
    found = {int(a) % rank for a in np.asarray(axes).flat}
    return None if 0 in found else found


def _convolved(node: onnx.NodeProto, view: MaskedView) -> Axes | None:
    rank = len(view.shapes[node.input[0]])
    channels = view.shapes[node.input[0]][1]
    outputs = view.shapes[node.output[0]][1]
    is_depthwise = attribute(node, 'group', 1) == channels == outputs
    return set(range(2 if is_depthwise else 1, rank))


def _multiplied(node: onnx.NodeProto, view: MaskedView) -> Axes | None:
    is_matrix = len(view.shapes.get(node.input[1], ())) > 1
    return {len(view.shapes[node.output[0]]) - 1} if is_matrix else None


def _gemm(node: onnx.NodeProto, view: MaskedView) -> Axes | None:
    return None if attribute(node, 'transA', 0) else {1}


def _transposed(node: onnx.NodeProto, view: MaskedView) -> Axes | None:
    rank = len(view.shapes[node.input[0]])
    perm = list(attribute(node, 'perm', list(range(rank))[::-1]))
    return None if perm[0] else {i for i, a in enumerate(perm) if i != a}


def _rearranged(node: onnx.NodeProto, view: MaskedView) -> Axes | None:
    return set(range(1, len(view.shapes[node.input[0]])))


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(('Identity', 'Relu', 'LeakyRelu', 'PRelu', 'Neg', 'Abs', 'Mul', 'Div'),
                    _elementwise),
    **dict.fromkeys(('MaxPool', 'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool'), _spatial),
    **dict.fromkeys(('ReduceMean', 'ReduceSum', 'ReduceMax'), _reduced),
    **dict.fromkeys(('Conv', 'ConvTranspose'), _convolved),
    **dict.fromkeys(('DepthToSpace', 'SpaceToDepth'), _rearranged),
    'Resize': _resized, 'Pad': _padded, 'MatMul': _multiplied, 'Gemm': _gemm,
    'Transpose': _transposed,
}
