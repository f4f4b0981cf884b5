# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Masks and batch normalisations move into the weights of linear operations.

``conv(x * m_t)`` needs T copies of x; ``conv`` with the weights ``w * m_t`` needs none, and all
passes become one matrix product (1x1), or one convolution with T times the outputs. The algebra
is exact; only the order of sums differs. It pays where the tensor is larger than the weights.
Where a network generates weights that depend on a mask, a convolution becomes a product a pass.

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import itertools
import math

import numpy as np
from numpy.typing import NDArray
import onnx

from uncertainty_seg.compiler.algebra.masked_graph import MaskedView, view_of
from uncertainty_seg.compiler.onnx_tools import (
    add_constant,
    attribute,
    constants,
    consumers,
    copy_of,
    drop_unused,
    NodeWriter,
    only_user,
    producer,
    refill,
    replace_node,
    Shape,
    shapes,
    Values,
)
from uncertainty_seg.compiler.plan import Decision, MACS_AN_ELEMENT, node_cost
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError

# -------------------------------------------------------------------------------------------------
# Masks into weights.

# A convolution whose weights are computed runs without the layout that a runtime packs constant
# weights into, at about two thirds of the speed. On one core (ONNX Runtime 1.32 and OpenVINO
# 2026.4, T of 4 and 20) 6 to 21 outputs of 3x3 took 0.2 to 0.7 of the time of the masked batch,
# 32 outputs up to 1.7 times as long: the number of weights an input channel decides.
_MOST_WEIGHTS = 200


def fold_masks(
    head: onnx.ModelProto, passes: int = 20, into_kernels: bool = True
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """
    Fold every mask of channels that stands before linear operations, where it is cheaper.

    `into_kernels` allows convolutions with T times the outputs. TensorRT takes none of a symbolic
    number of outputs; products it does. Decisions are one a mask that is applied to a tensor of
    batch 1.

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


def obstacle(
    masked: str, mask: str, users: Sequence[onnx.NodeProto], view: MaskedView
) -> str:
    """
    Say why a mask is not folded into the operations that read its product; empty if it is.

    `masked` names the product and `mask` the mask.

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
    pixels = write.node('Reshape', [data, write.shape('flat', channels, rows * columns)],
                        'pixels')
    product = write.node('MatMul', [stack, pixels], 'product')  # (T * K, hw)
    _unstack(conv, product, view, write)


def _one_convolution(
    conv: onnx.NodeProto, data: str, mask: str, view: MaskedView, write: NodeWriter
) -> None:
    weights = view.constants[conv.input[1]]
    _, channels, *kernel = weights.shape
    stored = write.constant('weights', weights[None])
    row = write.node('Reshape', [mask, write.shape('mask_shape', -1, 1, channels, 1, 1)],
                     'mask_row')
    masked = write.node('Mul', [row, stored], 'masked')  # (T, K, C, k, k)
    stack = write.node('Reshape', [masked, write.shape('rows', -1, channels, *kernel)], 'stack')
    product = write.node('Conv', [data, stack], 'product')  # (1, T * K, h, w)
    write.nodes[-1].attribute.extend(conv.attribute)
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
    if user.op_type == 'MatMul':
        return _batched_product
    return _one_product if _is_plain_1x1(user) else _one_convolution


# -------------------------------------------------------------------------------------------------
# A convolution whose weights differ from pass to pass becomes a product for each pass.
# Networks that generate weights from the image (HyperSeg and other dynamic convolutions) are
# exported for one image, with weights (O, C, k, k). With T passes there are T sets of them, which
# no Conv takes at once. The shifted copies of the input under the kernel, side by side, turn it
# into one matrix product a pass and group; a depthwise one is a sum of products by channel.


def dynamic_conv(
    masked: onnx.ModelProto, sites: Iterable[DropoutSite]
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """
    Rewrite every convolution whose weights depend on a mask, for any number of passes.

    Decisions are one a convolution with such weights.

    Raises
    ------
    GraphError
        If it is a transposed one, or a shape is not static.

    """
    result = copy_of(masked)
    view, decisions = view_of(result, sites), []
    for node in list(result.graph.node):
        if node.op_type not in ('Conv', 'ConvTranspose') or node.input[1] not in view.touched:
            continue
        name = node.name or node.output[0]
        if node.op_type == 'ConvTranspose' or any(
                n not in view.shapes for n in (*node.input[:2], node.output[0])):
            raise GraphError(
                f'{node.op_type} {name!r} has weights that differ from pass to pass',
                'that of a plain Conv of static shape',
                'keep dropout out of what its weights are computed from')
        write = NodeWriter(result.graph, node.output[0])
        _write_products(node, view, write)
        replace_node(result.graph, node, write.nodes)
        decisions.append(Decision('dynamic_conv', name, True,
                                  'its weights differ from pass to pass: a product for each'))
    drop_unused(result.graph)
    return result, tuple(decisions)


def _write_products(conv: onnx.NodeProto, view: MaskedView, write: NodeWriter) -> None:
    """Write one convolution as products; shapes in comments are those of T passes."""
    out = view.shapes[conv.output[0]]
    copies = _copies(conv, view, write)
    if attribute(conv, 'group', 1) == view.shapes[conv.input[0]][1] == out[1]:
        plain = _sum_by_channel(conv, copies, out, write)
    else:
        plain = _grouped_product(conv, copies, view, write)
    if len(conv.input) < 3 or not conv.input[2]:
        write.node('Identity', [plain])
        return
    tall = write.shape('bias_shape_values', -1, out[1], *[1] * (len(out) - 2))
    write.node('Add', [plain, write.node('Reshape', [conv.input[2], tall], 'bias')])


def _copies(conv: onnx.NodeProto, view: MaskedView, write: NodeWriter) -> list[str]:
    """Return the input as each weight of the kernel sees it, (T, C, h, w) each."""
    size, kernel, out = (view.shapes[n][2:] for n in (*conv.input[:2], conv.output[0]))
    rank = len(size)
    strides = attribute(conv, 'strides', [1] * rank)
    dilations = attribute(conv, 'dilations', [1] * rank)
    pads = _pads(conv, size, kernel, out, strides, dilations)
    name = conv.input[0]
    if any(pads):
        amounts = write.shape('pads_values', 0, 0, *pads[:rank], 0, 0, *pads[rank:])
        name = write.node('Pad', [name, amounts], 'padded')
    if set(kernel) == set(strides) == {1}:
        return [name]
    axes = write.shape('axes_values', *range(2, 2 + rank))
    steps = write.shape('steps_values', *strides)
    copies = []
    for at in itertools.product(*(range(k) for k in kernel)):
        first = [i * d for i, d in zip(at, dilations, strict=True)]
        last = [f + (n - 1) * s + 1 for f, n, s in zip(first, out, strides, strict=True)]
        tag = 'x'.join(map(str, at))
        copies.append(write.node('Slice', [
            name, write.shape(f'first_{tag}_values', *first),
            write.shape(f'last_{tag}_values', *last), axes, steps], f'copy_{tag}'))
    return copies


def _grouped_product(
    conv: onnx.NodeProto, copies: list[str], view: MaskedView, write: NodeWriter
) -> str:
    weights, out = view.shapes[conv.input[1]], view.shapes[conv.output[0]]
    groups = attribute(conv, 'group', 1)
    outputs, inputs, kernel = weights[0] // groups, weights[1], math.prod(weights[2:])
    wide = write.shape('grouped_values', -1, groups, inputs, math.prod(out[2:]))
    columns = [write.node('Reshape', [copy, wide], f'columns_{i}')
               for i, copy in enumerate(copies)]  # (T, g, C/g, hw)
    if len(columns) > 1:
        columns = [write.node('Concat', columns, 'columns', axis=2)]
    split = write.shape('split_values', -1, groups, outputs, inputs, kernel)
    flat = write.shape('rows_values', -1, groups, outputs, kernel * inputs)
    kernels = write.node('Reshape', [conv.input[1], split], 'kernels')
    moved = write.node('Transpose', [kernels], 'moved', perm=[0, 1, 2, 4, 3])
    rows = write.node('Reshape', [moved, flat], 'rows_of_weights')
    product = write.node('MatMul', [rows, *columns], 'product')
    return write.node('Reshape', [product, write.shape('planes_values', -1, *out[1:])], 'plain')


def _sum_by_channel(
    conv: onnx.NodeProto, copies: list[str], out: Shape, write: NodeWriter
) -> str:
    tall = write.shape('kernels_values', -1, out[1], len(copies), *[1] * (len(out) - 2))
    kernels = write.node('Reshape', [conv.input[1], tall], 'kernels')  # (T, C, k * k, 1, 1)
    total = ''
    for i, copy in enumerate(copies):
        pick = write.constant(f'pick_{i}', i, np.int64)
        weight = write.node('Gather', [kernels, pick], f'weight_{i}', axis=2)
        term = write.node('Mul', [copy, weight], f'term_{i}')
        total = write.node('Add', [total, term], f'sum_{i}') if total else term
    return total


def _pads(
    conv: onnx.NodeProto, size: Sequence[int], kernel: Sequence[int], out: Sequence[int],
    strides: Sequence[int], dilations: Sequence[int],
) -> list[int]:
    """Return the padding before and after each axis, as `pads` has it."""
    mode = attribute(conv, 'auto_pad', 'NOTSET')
    if mode in ('NOTSET', 'VALID'):
        return list(attribute(conv, 'pads', [0] * 2 * len(size)))
    total = [max(0, (n - 1) * s + (k - 1) * d + 1 - i)
             for n, s, k, d, i in zip(out, strides, kernel, dilations, size, strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*small, *large] if mode == 'SAME_UPPER' else [*large, *small]


# -------------------------------------------------------------------------------------------------
# A batch normalisation behind a linear operation moves into its weights.
# In eval mode it is ``x * a + b`` a channel, so that ``bn(conv(x, w) + c)`` is ``conv`` with the
# weights ``w * a`` and the bias ``c * a + b``. Where it stands before the linear operation, with
# an activation between, it stays.

_LINEAR = ('Conv', 'ConvTranspose', 'Gemm')


def fold_batch_norm(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """
    Fold every batch normalisation that directly follows a convolution or Gemm.

    Decisions are one a batch normalisation.

    Raises
    ------
    GraphError
        If one is in training mode: it would normalise the passes by each other.

    """
    result = copy_of(model)
    known = shapes(model)
    decisions = []
    for node in [n for n in model.graph.node if n.op_type == 'BatchNormalization']:
        _require_eval(node)
        linear = producer(result.graph.node, node.input[0])
        reason = _obstacle(result.graph, node, linear)
        if linear is not None and not reason:
            _fold(result.graph, node, linear)
        saved = 0 if reason else node_cost(node, known).total
        decisions.append(Decision('fold_batch_norm', node.name or node.output[0], not reason,
                                  reason or 'moved into the weights before it', saved))
    drop_unused(result.graph)
    return result, tuple(decisions)


def _require_eval(node: onnx.NodeProto) -> None:
    if attribute(node, 'training_mode', 0) or len([n for n in node.output if n]) > 1:
        raise GraphError(
            f'batch normalisation {node.name or node.output[0]!r} is in training mode',
            'eval mode', 'export in eval mode: net.eval(), with dropout alone switched on')


def _obstacle(
    graph: onnx.GraphProto, norm: onnx.NodeProto, linear: onnx.NodeProto | None
) -> str:
    """Say why it cannot be folded; empty if it can."""
    fixed = constants(graph)
    if any(name not in fixed for name in norm.input[1:5]):
        return 'its statistics are computed'
    if linear is None or linear.op_type not in _LINEAR:
        return f'it stands behind {linear.op_type if linear else "an input"}, which has no weights'
    if only_user(graph, norm.input[0]) is None:
        return f'{linear.op_type} {linear.name or linear.output[0]!r} has other users'
    if any(name not in fixed for name in linear.input[1:] if name):
        return f'{linear.op_type} {linear.name or linear.output[0]!r} has computed weights'
    if linear.op_type == 'Gemm' and _bias(linear, fixed).size not in (1, _scale(norm, fixed).size):
        return f'Gemm {linear.name or linear.output[0]!r} has another bias for each row'
    return ''


def _scale(norm: onnx.NodeProto, fixed: Values) -> NDArray[np.float64]:
    gain, variance = (np.asarray(fixed[norm.input[i]], np.float64) for i in (1, 4))
    return gain / np.sqrt(variance + attribute(norm, 'epsilon', 1e-5))


def _bias(linear: onnx.NodeProto, fixed: Values) -> NDArray[np.float64]:
    """Return the bias as the operation applies it, or one zero."""
    if len(linear.input) < 3 or not linear.input[2]:
        return np.zeros(1)
    factor = attribute(linear, 'beta', 1.0) if linear.op_type == 'Gemm' else 1.0
    return factor * np.asarray(fixed[linear.input[2]], np.float64)


def _fold(graph: onnx.GraphProto, norm: onnx.NodeProto, linear: onnx.NodeProto) -> None:
    fixed = constants(graph)
    scale = _scale(norm, fixed)
    shift, mean = (np.asarray(fixed[norm.input[i]], np.float64) for i in (2, 3))
    weights = _scaled(linear, np.asarray(fixed[linear.input[1]], np.float64), scale)
    bias = (_bias(linear, fixed).reshape(-1) - mean) * scale + shift
    # Constants of their own, since two convolutions may share one tensor.
    names = [add_constant(graph, f'{norm.output[0]}_{suffix}', values, np.float32)
             for suffix, values in (('weights', weights), ('bias', bias))]
    merged = copy_of(linear)
    del merged.input[1:]
    merged.input.extend(names)
    merged.output[0] = norm.output[0]
    # A factor of Gemm's bias is in the bias now.
    refill(merged.attribute, [entry for entry in merged.attribute if entry.name != 'beta'])
    refill(graph.node, [merged if node == linear else node for node in graph.node
                        if node != norm])


def _scaled(
    linear: onnx.NodeProto, weights: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Multiply weights by one number an output channel."""
    if linear.op_type == 'Conv':  # (M, C / group, ...)
        return weights * scale.reshape(-1, *[1] * (weights.ndim - 1))
    if linear.op_type == 'Gemm':
        return weights * (scale[:, None] if attribute(linear, 'transB', 0) else scale)
    group = attribute(linear, 'group', 1)  # ConvTranspose: (C, M / group, ...)
    grouped = weights.reshape(group, -1, *weights.shape[1:])
    wide = scale.reshape(group, 1, -1, *[1] * (weights.ndim - 2))
    return (grouped * wide).reshape(weights.shape)
