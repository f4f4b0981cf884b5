# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A channel mask before a linear operation moves into its weights.

``conv(x * m_t)`` needs T copies of x; ``conv`` with the weights ``w * m_t`` needs none, and all
passes become one matrix product (1x1), or one convolution with T times the outputs. The algebra
is exact; only the order of sums differs. It pays where the tensor is larger than the weights.

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
import itertools
import math

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper

from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.algebra.masked_graph import MaskedView, view_of
from uncertainty_seg.graph.onnx_tools import (
    add_constant,
    attribute,
    constants,
    consumers,
    copy_of,
    drop_unused,
    only_user,
    producer,
    refill,
    replace_node,
    Shape,
    shapes,
)
from uncertainty_seg.graph.plan import Decision, MACS_AN_ELEMENT, node_cost

# -------------------------------------------------------------------------------------------------
# A batch normalisation behind a linear operation moves into its weights.
# In eval mode it is ``x * a + b`` a channel, so that ``bn(conv(x, w) + c)`` is ``conv`` with the
# weights ``w * a`` and the bias ``c * a + b``. Where it stands before the linear operation, with
# an activation between, it stays.

_LINEAR = ('Conv', 'ConvTranspose', 'Gemm')
_Constants = dict[str, NDArray[np.generic]]


def fold_batch_norm(
    model: onnx.ModelProto,
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """
    Fold every batch normalisation that directly follows a convolution or Gemm.

    Parameters
    ----------
    model : ModelProto
        Left as it is.

    Returns
    -------
    model : ModelProto
        With fewer nodes; differs by rounding.
    decisions : tuple of Decision
        One a batch normalisation.

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


def _scale(norm: onnx.NodeProto, fixed: _Constants) -> NDArray[np.float64]:
    gain, variance = (np.asarray(fixed[norm.input[i]], np.float64) for i in (1, 4))
    return gain / np.sqrt(variance + attribute(norm, 'epsilon', 1e-5))


def _bias(linear: onnx.NodeProto, fixed: _Constants) -> NDArray[np.float64]:
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
    for entry in list(merged.attribute):
        if entry.name == 'beta':  # is in the bias now
            merged.attribute.remove(entry)
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
    Rewrite every convolution whose weights depend on a mask.

    Parameters
    ----------
    masked : ModelProto
        From `dropout_to_masks`, static at one pass; left as it is.
    sites : iterable of DropoutSite
        Its mask inputs.

    Returns
    -------
    masked : ModelProto
        Computes the same to rounding, for any number of passes.
    decisions : tuple of Decision
        One a convolution with such weights.

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
        replace_node(result.graph, node, _Dynamic(result.graph, node, view).nodes())
        decisions.append(Decision('dynamic_conv', name, True,
                                  'its weights differ from pass to pass: a product for each'))
    drop_unused(result.graph)
    return result, tuple(decisions)


@dataclass(frozen=True)
class _Dynamic:
    """One convolution on its way to a product; shapes in comments are those of T passes."""

    graph: onnx.GraphProto
    conv: onnx.NodeProto
    view: MaskedView

    def nodes(self) -> list[onnx.NodeProto]:
        data, weights, out = (self.view.shapes[n] for n in (*self.conv.input[:2],
                                                            self.conv.output[0]))
        groups = attribute(self.conv, 'group', 1)
        copies, nodes = self._copies(data[2:], weights[2:], out[2:])
        if groups == data[1] == out[1]:
            nodes += self._by_channel(copies, out)
        else:
            nodes += self._by_product(copies, groups, weights, out)
        return [*nodes, *self._bias(len(data))]

    def _copies(
        self, size: Sequence[int], kernel: Sequence[int], out: Sequence[int]
    ) -> tuple[list[str], list[onnx.NodeProto]]:
        """Return the input as each weight of the kernel sees it, (T, C, h, w) each."""
        rank = len(size)
        strides = attribute(self.conv, 'strides', [1] * rank)
        dilations = attribute(self.conv, 'dilations', [1] * rank)
        pads = _pads(self.conv, size, kernel, out, strides, dilations)
        name, nodes = self.conv.input[0], []
        if any(pads):
            amounts = self._shape('pads', [0, 0, *pads[:rank], 0, 0, *pads[rank:]])
            nodes.append(self._node('Pad', [name, amounts], 'padded'))
            name = nodes[-1].output[0]
        if set(kernel) == set(strides) == {1}:
            return [name], nodes
        copies = []
        axes = self._shape('axes', range(2, 2 + rank))
        steps = self._shape('steps', strides)
        for at in itertools.product(*(range(k) for k in kernel)):
            first = [i * d for i, d in zip(at, dilations, strict=True)]
            last = [f + (n - 1) * s + 1 for f, n, s in zip(first, out, strides, strict=True)]
            tag = 'x'.join(map(str, at))
            nodes.append(self._node('Slice', [
                name, self._shape(f'first_{tag}', first), self._shape(f'last_{tag}', last),
                axes, steps], f'copy_{tag}'))
            copies.append(nodes[-1].output[0])
        return copies, nodes

    def _by_product(
        self, copies: list[str], groups: int, weights: Shape, out: Shape
    ) -> list[onnx.NodeProto]:
        outputs, inputs = weights[0] // groups, weights[1]
        kernel, pixels = math.prod(weights[2:]), math.prod(out[2:])
        wide = self._shape('grouped', [-1, groups, inputs, pixels])
        nodes = [self._node('Reshape', [copy, wide], f'columns_{i}')
                 for i, copy in enumerate(copies)]  # (T, g, C/g, hw)
        columns = [node.output[0] for node in nodes]
        if len(columns) > 1:
            nodes.append(self._node('Concat', columns, 'columns', axis=2))
        split = self._shape('split', [-1, groups, outputs, inputs, kernel])
        flat = self._shape('rows', [-1, groups, outputs, kernel * inputs])
        back = self._shape('planes', [-1, *out[1:]])
        rows = [self._node('Reshape', [self.conv.input[1], split], 'kernels'),
                self._node('Transpose', [self._name('kernels')], 'moved', perm=[0, 1, 2, 4, 3]),
                self._node('Reshape', [self._name('moved'), flat], 'rows_of_weights')]
        product = self._node('MatMul', [rows[-1].output[0], nodes[-1].output[0]], 'product')
        return [*nodes, *rows, product, self._node('Reshape', [product.output[0], back], 'plain')]

    def _by_channel(self, copies: list[str], out: Shape) -> list[onnx.NodeProto]:
        shape = [-1, out[1], len(copies), *[1] * (len(out) - 2)]
        nodes = [self._node('Reshape', [self.conv.input[1], self._shape('kernels', shape)],
                            'kernels')]  # (T, C, k * k, 1, 1)
        total = ''
        for i, copy in enumerate(copies):
            pick = add_constant(self.graph, self._name(f'pick_{i}'), i, np.int64)
            nodes.append(self._node('Gather', [nodes[0].output[0], pick], f'weight_{i}', axis=2))
            nodes.append(self._node('Mul', [copy, self._name(f'weight_{i}')], f'term_{i}'))
            if total:
                nodes.append(self._node('Add', [total, self._name(f'term_{i}')], f'sum_{i}'))
            total = nodes[-1].output[0]
        return [*nodes, self._node('Identity', [total], 'plain')]

    def _bias(self, rank: int) -> list[onnx.NodeProto]:
        plain, out = self._name('plain'), self.conv.output[0]
        if len(self.conv.input) < 3 or not self.conv.input[2]:
            return [helper.make_node('Identity', [plain], [out])]
        outputs = self.view.shapes[self.conv.output[0]][1]
        tall = self._shape('bias_shape', [-1, outputs, *[1] * (rank - 2)])
        return [self._node('Reshape', [self.conv.input[2], tall], 'bias'),
                helper.make_node('Add', [plain, self._name('bias')], [out])]

    def _name(self, suffix: str) -> str:
        return f'{self.conv.output[0]}_{suffix}'

    def _node(
        self, op: str, inputs: Sequence[str], suffix: str, **attributes: object
    ) -> onnx.NodeProto:
        return helper.make_node(op, list(inputs), [self._name(suffix)], **attributes)

    def _shape(self, suffix: str, values: Iterable[int]) -> str:
        return add_constant(self.graph, self._name(f'{suffix}_values'), list(values), np.int64)


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
                replace_node(graph, user, _form(user)(graph, user, data, mask, view))
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
