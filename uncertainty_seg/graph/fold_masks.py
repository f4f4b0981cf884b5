# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A channel mask before a 1x1 convolution moves into its weights.

``conv(x * m_t)`` needs T copies of x; ``conv`` with the weights ``w * m_t`` needs none, and all
passes become one matrix product. The algebra is exact; only the order of sums differs.

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from uncertainty_seg.graph.onnx_tools import (
    attribute,
    constants,
    consumers,
    copy_of,
    replace_nodes,
    shapes,
)


def fold_masks(head: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """
    Fold every channel mask that is directly followed by a 1x1 convolution.

    Parameters
    ----------
    head : ModelProto
        From `split_trunk_head`; left as it is.

    Returns
    -------
    head : ModelProto
        With one matrix product in place of each pair.
    folded : tuple of str
        Names of the masks that were folded.

    """
    result = copy_of(head)
    graph = result.graph
    static = shapes(result)
    folded = []
    for node in list(graph.node):
        conv = _foldable(graph, node, static)
        if conv is not None:
            _fold(graph, node, conv, static)
            folded.append(_mask_of(node, static))
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result, tuple(folded)


def _mask_of(mul: onnx.NodeProto, static: dict[str, tuple[int, ...]]) -> str:
    """Return the input of the product that is not static, which is the mask."""
    return next((name for name in mul.input if name not in static), '')


def _foldable(
    graph: onnx.GraphProto, mul: onnx.NodeProto, static: dict[str, tuple[int, ...]]
) -> onnx.NodeProto | None:
    if mul.op_type != 'Mul':
        return None
    # What depends on T has no static shape, so this is a tensor of batch 1.
    data = [name for name in mul.input if len(static.get(name, ())) == 4]
    mask = next((i for i in graph.input if i.name == _mask_of(mul, static)), None)
    users = consumers(graph.node, mul.output[0])
    if mask is None or len(data) != 1 or len(users) != 1:
        return None
    dims = mask.type.tensor_type.shape.dim
    is_channel = len(dims) == 4 and dims[2].dim_value == dims[3].dim_value == 1
    conv = users[0]
    if not is_channel or conv.op_type != 'Conv' or conv.input[0] != mul.output[0]:
        return None
    weights = constants(graph).get(conv.input[1])
    is_plain = (
        weights is not None
        and weights.shape[2:] == (1, 1)
        and attribute(conv, 'group', 1) == 1
        and set(attribute(conv, 'strides', [1])) == {1}
        and not any(attribute(conv, 'pads', []))
    )
    return conv if is_plain else None


def _fold(
    graph: onnx.GraphProto,
    mul: onnx.NodeProto,
    conv: onnx.NodeProto,
    static: dict[str, tuple[int, ...]],
) -> None:
    mask = _mask_of(mul, static)
    data = next(name for name in mul.input if name != mask)
    _, channels, rows, columns = static[data]
    weights = constants(graph)[conv.input[1]]
    outputs = weights.shape[0]
    prefix = conv.output[0]

    def constant(suffix: str, values: object, dtype: type) -> str:
        tensor = numpy_helper.from_array(np.asarray(values, dtype), f'{prefix}_{suffix}')
        graph.initializer.append(tensor)
        return tensor.name

    def node(op: str, inputs: list[str], suffix: str) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [f'{prefix}_{suffix}'])

    flat_weights = constant('weights', weights.reshape(1, outputs, channels), np.float32)
    nodes = [
        node('Reshape', [mask, constant('mask_shape', [-1, 1, channels], np.int64)], 'mask_row'),
        node('Mul', [f'{prefix}_mask_row', flat_weights], 'masked'),  # (T, K, C)
        node('Reshape', [f'{prefix}_masked', constant('rows', [-1, channels], np.int64)], 'stack'),
        node('Reshape', [data, constant('flat', [channels, rows * columns], np.int64)], 'pixels'),
        node('MatMul', [f'{prefix}_stack', f'{prefix}_pixels'], 'product'),  # (T * K, hw)
        node('Reshape', [f'{prefix}_product',
                         constant('planes', [-1, outputs, rows, columns], np.int64)], 'unbiased'),
    ]
    bias = np.zeros(outputs, np.float32)
    if len(conv.input) > 2:
        bias = np.asarray(constants(graph)[conv.input[2]], np.float32)
    bias_name = constant('bias', bias.reshape(1, outputs, 1, 1), np.float32)
    nodes.append(helper.make_node('Add', [f'{prefix}_unbiased', bias_name], [prefix]))
    old = list(graph.node)
    at = old.index(mul)
    after = [n for n in old[at + 1:] if n != conv]
    replace_nodes(graph, [*old[:at], *nodes, *after])
