# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A channel mask before a linear operation moves into its weights.

``conv(x * m_t)`` needs T copies of x; ``conv`` with the weights ``w * m_t`` needs none, and all
passes become one matrix product (1x1), or one convolution with T times the outputs. The algebra
is exact; only the order of sums differs. It pays where the tensor is larger than the weights.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math

import numpy as np
import onnx
from onnx import helper

from uncertainty_seg.graph.cost import MACS_AN_ELEMENT
from uncertainty_seg.graph.masked_graph import (
    add_constant,
    drop_unused,
    MaskedView,
    swap,
    view_of,
)
from uncertainty_seg.graph.onnx_tools import attribute, consumers, copy_of
from uncertainty_seg.graph.plan import Decision

# A convolution whose weights are computed runs without the layout that a runtime packs constant
# weights into, at about two thirds of the speed. On one core (ONNX Runtime 1.32 and OpenVINO
# 2026.4, T of 4 and 20) 6 to 21 outputs of 3x3 took 0.2 to 0.7 of the time of the masked batch,
# 32 outputs up to 1.7 times as long: the number of weights an input channel decides.
_MOST_WEIGHTS = 200

_Form = Callable[[onnx.GraphProto, onnx.NodeProto, str, str, MaskedView], list[onnx.NodeProto]]


def fold_masks(
    head: onnx.ModelProto, passes: int = 20, into_kernels: bool = True
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """
    Fold every mask of channels that stands before linear operations, where it is cheaper.

    Parameters
    ----------
    head : ModelProto
        From `split_trunk_head`; left as it is.
    passes : int
        T that the savings are counted for.
    into_kernels : bool
        Fold into convolutions with T times the outputs, too. TensorRT takes none of a symbolic
        number of outputs; products it does.

    Returns
    -------
    head : ModelProto
        Computes the same to rounding.
    decisions : tuple of Decision
        One a mask that is applied to a tensor of batch 1; `where` names the mask.

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
        if not (reason or into_kernels) and any(_form(u) is _one_convolution for u in users):
            reason = 'a convolution of a symbolic number of outputs would follow'
        saved = 0
        if not reason:
            for user in users:
                swap(graph, user, _form(user)(graph, user, data, mask, view))
            saved = passes * MACS_AN_ELEMENT * (_size(data, view) - _weights(users, view))
        decisions.append(Decision('fold_masks', mask, not reason,
                                  reason or _what(users), saved))
    drop_unused(graph)
    return result, tuple(decisions)


def obstacle(
    masked: str, mask: str, users: Sequence[onnx.NodeProto], view: MaskedView
) -> str:
    """
    Say why a mask is not folded into the operations behind it.

    Parameters
    ----------
    masked, mask : str
        The product and the mask.
    users : sequence of NodeProto
        What takes the product.
    view : MaskedView
        Of the graph.

    Returns
    -------
    str
        Empty if it is folded.

    """
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
    if not _is_plain_1x1(user) and per_input > _MOST_WEIGHTS:
        return (f'{name} has {per_input} weights an input channel: above {_MOST_WEIGHTS} '
                'computed weights cost more than they save')
    return ''


def _is_plain_1x1(conv: onnx.NodeProto) -> bool:
    return (set(attribute(conv, 'kernel_shape', [0])) == {1}
            and set(attribute(conv, 'strides', [1])) == {1}
            and not any(attribute(conv, 'pads', [])))


def _size(data: str, view: MaskedView) -> int:
    return math.prod(view.shapes[data])


def _weights(users: Sequence[onnx.NodeProto], view: MaskedView) -> int:
    return sum(math.prod(view.shapes[user.input[1]]) for user in users)


def _what(users: Sequence[onnx.NodeProto]) -> str:
    names = ', '.join(f'{u.op_type} {u.name or u.output[0]!r}' for u in users)
    return f'moved into the weights of {names}'


def _form(user: onnx.NodeProto) -> _Form:
    if user.op_type == 'MatMul':
        return _batched_product
    return _one_product if _is_plain_1x1(user) else _one_convolution


def _node(prefix: str, op: str, inputs: Sequence[str], suffix: str) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [f'{prefix}_{suffix}'])


def _one_product(
    graph: onnx.GraphProto, conv: onnx.NodeProto, data: str, mask: str, view: MaskedView
) -> list[onnx.NodeProto]:
    _, channels, rows, columns = view.shapes[data]
    weights = view.constants[conv.input[1]]
    outputs, name = weights.shape[0], conv.output[0]

    def shape(suffix: str, *values: int) -> str:
        return add_constant(graph, f'{name}_{suffix}', values, np.int64)

    flat = add_constant(graph, f'{name}_weights', weights.reshape(1, outputs, channels),
                        np.float32)
    nodes = [
        _node(name, 'Reshape', [mask, shape('mask_shape', -1, 1, channels)], 'mask_row'),
        _node(name, 'Mul', [f'{name}_mask_row', flat], 'masked'),  # (T, K, C)
        _node(name, 'Reshape', [f'{name}_masked', shape('rows', -1, channels)], 'stack'),
        _node(name, 'Reshape', [data, shape('flat', channels, rows * columns)], 'pixels'),
        _node(name, 'MatMul', [f'{name}_stack', f'{name}_pixels'], 'product'),  # (T * K, hw)
    ]
    planes = shape('planes', -1, outputs, rows, columns)
    return [*nodes, *_unstack(graph, conv, f'{name}_product', planes, view)]


def _one_convolution(
    graph: onnx.GraphProto, conv: onnx.NodeProto, data: str, mask: str, view: MaskedView
) -> list[onnx.NodeProto]:
    weights = view.constants[conv.input[1]]
    outputs, channels, *kernel = weights.shape
    name = conv.output[0]

    def shape(suffix: str, *values: int) -> str:
        return add_constant(graph, f'{name}_{suffix}', values, np.int64)

    stored = add_constant(graph, f'{name}_weights', weights[None], np.float32)
    wide = _node(name, 'Conv', [data, f'{name}_stack'], 'product')  # (1, T * K, h, w)
    wide.attribute.extend(conv.attribute)
    nodes = [
        _node(name, 'Reshape', [mask, shape('mask_shape', -1, 1, channels, 1, 1)], 'mask_row'),
        _node(name, 'Mul', [f'{name}_mask_row', stored], 'masked'),  # (T, K, C, k, k)
        _node(name, 'Reshape', [f'{name}_masked', shape('rows', -1, channels, *kernel)], 'stack'),
        wide,
    ]
    planes = shape('planes', -1, *view.shapes[name][1:])
    return [*nodes, *_unstack(graph, conv, f'{name}_product', planes, view)]


def _unstack(
    graph: onnx.GraphProto, conv: onnx.NodeProto, product: str, planes: str, view: MaskedView
) -> list[onnx.NodeProto]:
    """Bring T * K planes to (T, K, h, w) and add the bias."""
    name = conv.output[0]
    if len(conv.input) < 3 or not conv.input[2]:
        return [helper.make_node('Reshape', [product, planes], [name])]
    bias = add_constant(graph, f'{name}_bias',
                        view.constants[conv.input[2]].reshape(1, -1, 1, 1), np.float32)
    return [_node(name, 'Reshape', [product, planes], 'unbiased'),
            helper.make_node('Add', [f'{name}_unbiased', bias], [name])]


def _batched_product(
    graph: onnx.GraphProto, matmul: onnx.NodeProto, data: str, mask: str, view: MaskedView
) -> list[onnx.NodeProto]:
    rank, columns = len(view.shapes[data]), view.shapes[data][-1]
    name = matmul.output[0]
    tall = add_constant(graph, f'{name}_mask_shape', [-1, *[1] * (rank - 3), columns, 1],
                        np.int64)
    return [
        _node(name, 'Reshape', [mask, tall], 'mask_column'),
        _node(name, 'Mul', [f'{name}_mask_column', matmul.input[1]], 'stack'),  # (T, C, K)
        helper.make_node('MatMul', [data, f'{name}_stack'], [name]),
    ]
