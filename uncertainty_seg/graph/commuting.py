# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which operations a mask can be moved behind: ``f(x * m) == f(x) * m`` for every ``m >= 0``.

True where f is linear, or takes the largest or the positive part, and does not mix entries along
an axis on which the mask varies. Each operation has a rule that names the axes it mixes.

"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from uncertainty_seg.graph.masked_graph import MaskedView
from uncertainty_seg.graph.onnx_tools import attribute

Axes = frozenset[int] | set[int]
_Rule = Callable[[onnx.NodeProto, MaskedView], Axes | None]


def mixed_axes(node: onnx.NodeProto, data: str, view: MaskedView) -> Axes | None:
    """
    Return the axes along which an operation mixes the entries of a tensor.

    Parameters
    ----------
    node : NodeProto
        It takes `data`.
    data : str
        The tensor that would be masked.
    view : MaskedView
        Shapes and constants.

    Returns
    -------
    set of int or None
        None if a factor cannot be taken out of it, whatever its shape. A bias counts as taken
        off: see `bias_of`.

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
    axes = attribute(node, 'axes')
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = view.constants.get(node.input[1])
        if axes is None:
            return None
    found = {int(a) % rank for a in (range(rank) if axes is None else np.asarray(axes).flat)}
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
