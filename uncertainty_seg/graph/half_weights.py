# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Store weights in 16 bits and compute in 32: half the file, the same arithmetic.

Each large initializer becomes float16 with a Cast behind it, which runtimes fold when they load.

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.onnx_tools import attribute, copy_of, replace_nodes

_SMALLEST = 256


def halve_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Round every large float32 initializer to float16.

    Parameters
    ----------
    model : ModelProto
        Left as it is.

    Returns
    -------
    ModelProto
        About half the size. Weights move by up to 0.05 %, so measure what you ship.

    Raises
    ------
    GraphError
        If a weight is too large for 16 bits.

    """
    result = copy_of(model)
    casts, tensors = [], []
    for tensor in result.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _SMALLEST:
            tensors.append(tensor)
            continue
        with np.errstate(over='ignore'):  # what does not fit is found in the next line
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise GraphError(f'weight {tensor.name!r} is too large for 16 bits', 'at most 65504',
                             'compile with 32-bit weights')
        stored = f'{tensor.name}_half'
        tensors.append(numpy_helper.from_array(half, stored))
        casts.append(helper.make_node('Cast', [stored], [tensor.name], to=TensorProto.FLOAT))
    del result.graph.initializer[:]
    result.graph.initializer.extend(tensors)
    replace_nodes(result.graph, [*casts, *result.graph.node])
    return result


def restore_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Undo `halve_weights`: float32 initializers without a Cast, of the rounded values.

    Parameters
    ----------
    model : ModelProto
        Left as it is.

    Returns
    -------
    ModelProto
        For passes that look at weights: quantisers, and other precisions.

    """
    result = copy_of(model)
    halves = {t.name: t for t in result.graph.initializer
              if t.data_type == TensorProto.FLOAT16}
    nodes, restored = [], []
    for node in result.graph.node:
        is_cast = node.op_type == 'Cast' and attribute(node, 'to') == TensorProto.FLOAT
        if not is_cast or node.input[0] not in halves:
            nodes.append(node)
            continue
        values = numpy_helper.to_array(halves[node.input[0]]).astype(np.float32)
        restored.append(numpy_helper.from_array(values, node.output[0]))
    used = {name for node in nodes for name in node.input}
    kept = [t for t in result.graph.initializer if t.name in used or t.name not in halves]
    del result.graph.initializer[:]
    result.graph.initializer.extend([*kept, *restored])
    replace_nodes(result.graph, nodes)
    return result
