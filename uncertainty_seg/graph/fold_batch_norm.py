# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A batch normalisation behind a linear operation moves into its weights.

In eval mode it is ``x * a + b`` a channel, so that ``bn(conv(x, w) + c)`` is ``conv`` with the
weights ``w * a`` and the bias ``c * a + b``. Where it stands before the linear operation, with an
activation between, it stays.

"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
import onnx

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.cost import node_cost
from uncertainty_seg.graph.masked_graph import add_constant, drop_unused, only_user, producer
from uncertainty_seg.graph.onnx_tools import (
    attribute,
    constants,
    copy_of,
    replace_nodes,
    shapes,
)
from uncertainty_seg.graph.plan import Decision

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
    merged = onnx.NodeProto()
    merged.CopyFrom(linear)
    del merged.input[1:]
    merged.input.extend(names)
    merged.output[0] = norm.output[0]
    for entry in list(merged.attribute):
        if entry.name == 'beta':  # is in the bias now
            merged.attribute.remove(entry)
    replace_nodes(graph, [merged if node == linear else node for node in graph.node
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
