# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compute one node of constant inputs with onnx's own reference.

What it cannot compute, or gives another type than the inference promised, stays in the graph.

"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, TensorProto
from onnx.reference import ReferenceEvaluator

from uncertainty_seg.graph.constant_resize import resized_constant
from uncertainty_seg.graph.folding_state import FoldingState

_log = logging.getLogger(__name__)
# Beside their weights these would store results larger than the arithmetic is worth.
_REPEATING = ('Expand', 'Tile', 'ConstantOfShape')
_MOST_REPEATED = 1 << 14
_MOST_COMPUTED = 1 << 20
# Random, or slow in the reference.
_NEVER = {
    'Dropout', 'Bernoulli', 'Multinomial', 'RandomNormal', 'RandomNormalLike', 'RandomUniform',
    'RandomUniformLike', 'If', 'Loop', 'Scan', 'SequenceMap', 'Conv', 'ConvTranspose', 'MaxPool',
    'AveragePool', 'LpPool', 'Upsample', 'GridSample', 'LSTM', 'GRU', 'RNN',
    'DeformConv', 'ConvInteger', 'QLinearConv', 'RoiAlign', 'NonMaxSuppression', 'Col2Im',
    'Attention',
}
# The reference has no older form of it, whose meaning is the same.
_FIRST_KNOWN = {'DequantizeLinear': 19}


def evaluated(node: onnx.NodeProto, state: FoldingState) -> bool:
    """
    Turn a node into constants, if that is possible.

    Parameters
    ----------
    node : NodeProto
        With renamed inputs.
    state : FoldingState
        Takes the constants.

    Returns
    -------
    bool
        Whether the node is no longer needed.

    """
    if node.domain not in ('', 'ai.onnx') or node.op_type in _NEVER:
        return False
    if node.op_type == 'Resize':
        return _resized(node, state)
    if node.op_type == 'Constant':
        return _constant(node, state)
    if node.op_type in ('Shape', 'Size'):
        return _measured(node, state)
    feeds = {name: state.value(name) for name in node.input if name}
    if any(value is None for value in feeds.values()) or not _is_small(node, state):
        return False
    values = _run(node, {k: v for k, v in feeds.items() if v is not None}, state)
    if values is None:
        return False
    for name, value in values.items():
        state.put(name, value)
    return True


def _resized(node: onnx.NodeProto, state: FoldingState) -> bool:
    value = resized_constant(node, state)
    if value is None or not _fits(value, node.output[0], state):
        return False
    state.put(node.output[0], value)
    return True


def _constant(node: onnx.NodeProto, state: FoldingState) -> bool:
    entry = node.attribute[0]
    if entry.name == 'value':
        state.put_tensor(node.output[0], entry.t)
        return True
    if entry.name not in ('value_int', 'value_ints', 'value_float', 'value_floats'):
        return False
    kind = np.int64 if 'int' in entry.name else np.float32
    state.put(node.output[0], np.asarray(helper.get_attribute_value(entry), kind))
    return True


def _measured(node: onnx.NodeProto, state: FoldingState) -> bool:
    shape = state.shape(node.input[0])
    if shape is None:
        return False
    if node.op_type == 'Size':
        state.put(node.output[0], np.array(int(np.prod(shape, dtype=np.int64)), np.int64))
        return True
    wanted = {a.name: a.i for a in node.attribute}
    cut = shape[wanted.get('start', 0):wanted.get('end', len(shape))]
    state.put(node.output[0], np.array(cut, np.int64))
    return True


def _is_small(node: onnx.NodeProto, state: FoldingState) -> bool:
    read = sum(_count(state.shape(name)) for name in node.input if name)
    written = sum(_count(state.shape(name)) for name in node.output if name)
    floor = _MOST_REPEATED if node.op_type in _REPEATING else _MOST_COMPUTED
    if node.op_type in _REPEATING and any(state.shape(n) is None for n in node.output if n):
        return False
    return written <= max(floor, read)


def _count(shape: tuple[int, ...] | None) -> int:
    return int(np.prod(shape, dtype=np.int64)) if shape is not None else 0


def _run(
    node: onnx.NodeProto, feeds: dict[str, NDArray[Any]], state: FoldingState
) -> dict[str, NDArray[Any]] | None:
    names = [name for name in node.output if name]
    graph = helper.make_graph(
        [node], 'one', [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
                        for name in feeds],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names])
    version = max(state.version, _FIRST_KNOWN.get(node.op_type, 0))
    try:
        results = ReferenceEvaluator(graph, opsets={'': version}).run(names, feeds)
    except Exception as err:  # whatever the reference cannot do stays in the graph
        _log.debug('%s %r is not folded: %s', node.op_type, node.name, err)
        return None
    values = {name: np.asarray(value) for name, value in zip(names, results, strict=True)
              if not isinstance(value, list)}
    is_right = len(values) == len(names) and all(
        _fits(value, name, state) for name, value in values.items())
    return values if is_right else None


def _fits(value: NDArray[Any], name: str, state: FoldingState) -> bool:
    known = state.type_of(name)
    try:
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    except (KeyError, ValueError):
        return False
    return known.kind in (0, kind) and known.shape in (None, value.shape)
