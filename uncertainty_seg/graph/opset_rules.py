# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From opset 18 to 23 down to 17, one rule an operator that changed its form.

Operators not named here changed at most the types they take. A rule that cannot say the same
in opset 17 raises, and so does an attribute that opset 17 does not know.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import defs, helper, TensorProto

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.folding_state import FoldingState
from uncertainty_seg.graph.onnx_tools import attribute, MARKER_DOMAIN, OPSET

OpsetRule = Callable[[onnx.NodeProto, FoldingState], 'Sequence[onnx.NodeProto] | None']


def lowered(node: onnx.NodeProto, state: FoldingState) -> Sequence[onnx.NodeProto]:
    """
    Write one node in opset 17.

    Parameters
    ----------
    node : NodeProto
        Of opset 18 to 23; changed in place where that is enough.
    state : FoldingState
        Knows shapes and constants; takes new constants.

    Returns
    -------
    sequence of NodeProto
        That compute the same.

    Raises
    ------
    GraphError
        Naming the node, if opset 17 has no words for it.

    """
    if node.domain == MARKER_DOMAIN:
        return [node]
    rule = _RULES.get(node.op_type)
    replaced = rule(node, state) if rule is not None else None
    nodes = [node] if replaced is None else replaced
    for new in nodes:
        _require_known_operator(new)
    return nodes


def refused(node: onnx.NodeProto, what: str, fix: str = '') -> GraphError:
    """Make the error of a node that opset 17 cannot express."""
    return GraphError(f'{node.op_type} {node.name!r} {what}, which opset {OPSET} cannot express',
                      fix=fix or f'export the network again with opset_version={OPSET}')


def schema_of(operator: str, opset: int) -> Any:
    """Return the definition of an operator in an opset, None if it has none."""
    try:
        return defs.get_schema(operator, opset)
    except defs.SchemaError:
        return None


def _require_known_operator(node: onnx.NodeProto) -> None:
    schema = schema_of(node.op_type, OPSET)
    if schema is None:
        raise refused(node, 'is newer')
    for entry in node.attribute:
        if entry.name not in schema.attributes:
            raise refused(node, f'has the attribute {entry.name}')
    if len(node.input) > schema.max_input:
        raise refused(node, f'has {len(node.input)} inputs')


def _drop(node: onnx.NodeProto, name: str) -> Any:
    """Take an attribute off a node and return its value, or None."""
    value = attribute(node, name)
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    return value


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    _drop(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def _input(node: onnx.NodeProto, index: int) -> str:
    return node.input[index] if index < len(node.input) else ''


def _constant(
    node: onnx.NodeProto, index: int, state: FoldingState
) -> NDArray[Any] | None:
    """Return a constant input, None where the node has none there."""
    name = _input(node, index)
    if not name:
        return None
    value = state.value(name)
    if value is None:
        raise refused(node, f'takes the computed value {name!r}',
                      'export the network with a fixed input size')
    return value


def _rank(node: onnx.NodeProto, state: FoldingState) -> int:
    rank = state.type_of(node.input[0]).rank
    if rank < 0:
        raise refused(node, 'works on a tensor of unknown shape',
                      'export the network with a fixed input size')
    return rank


def _reduce(node: onnx.NodeProto, state: FoldingState) -> Sequence[onnx.NodeProto] | None:
    axes = _constant(node, 1, state)
    is_noop = bool(_drop(node, 'noop_with_empty_axes'))
    del node.input[1:]
    if axes is not None and axes.size:
        _set(node, 'axes', [int(axis) for axis in axes.reshape(-1)])
    elif is_noop and node.op_type in ('ReduceMean', 'ReduceMax', 'ReduceMin', 'ReduceProd'):
        return [helper.make_node('Identity', node.input[:1], node.output, name=node.name)]
    elif is_noop:
        raise refused(node, 'reduces no axis')
    return None


def _split(node: onnx.NodeProto, state: FoldingState) -> None:
    count = _drop(node, 'num_outputs')
    if count is None or _input(node, 1):
        return
    dims, axis = state.type_of(node.input[0]).dims or (), attribute(node, 'axis', 0)
    size = dims[axis] if -len(dims) <= axis < len(dims) else None
    if size is None:
        raise refused(node, 'splits an axis of unknown size',
                      'export the network with a fixed input size')
    part = -(-size // count)
    sizes = [part] * (count - 1) + [size - part * (count - 1)]
    name = state.put(state.fresh(f'{node.output[0]}_sizes'), np.array(sizes, np.int64))
    del node.input[1:]
    node.input.append(name)


def _pad(node: onnx.NodeProto, state: FoldingState) -> None:
    if attribute(node, 'mode', 'constant') == 'wrap':
        raise refused(node, 'wraps around')
    axes = _constant(node, 3, state)
    if axes is not None:
        pads, rank = _constant(node, 1, state), _rank(node, state)
        full = np.zeros((2, rank), np.int64)
        full[:, axes % rank] = np.asarray(pads).reshape(2, -1)
        node.input[1] = state.put(state.fresh(f'{node.output[0]}_pads'), full.reshape(-1))
    del node.input[3:]


def _resize(node: onnx.NodeProto, state: FoldingState) -> None:
    policy = _drop(node, 'keep_aspect_ratio_policy') or 'stretch'
    if policy != 'stretch' and _input(node, 3):
        raise refused(node, f'has the policy {policy}')
    if attribute(node, 'coordinate_transformation_mode') == 'half_pixel_symmetric':
        raise refused(node, 'has the mode half_pixel_symmetric')
    if _drop(node, 'antialias') and not _is_upsampling(node, state):
        raise refused(node, 'makes an image smaller with antialiasing',
                      'export the network without antialiasing')
    axes = _drop(node, 'axes')
    if axes is not None:
        _fill_axes(node, [axis % _rank(node, state) for axis in axes], state)


def _is_upsampling(node: onnx.NodeProto, state: FoldingState) -> bool:
    """Say whether no axis shrinks, where antialiasing has no effect."""
    old, new = state.shape(node.input[0]), state.shape(node.output[0])
    if old is None or new is None:
        raise refused(node, 'has a computed size', 'export the network with a fixed input size')
    return all(n >= o for o, n in zip(old, new, strict=True))


def _fill_axes(node: onnx.NodeProto, axes: Sequence[int], state: FoldingState) -> None:
    """Say for all axes what the node says for some."""
    rank = _rank(node, state)
    roi, scales, sizes = (_constant(node, index, state) for index in (1, 2, 3))
    prefix = node.output[0]
    names = ['', '', '']
    if roi is not None and roi.size:
        full = np.concatenate([np.zeros(rank), np.ones(rank)]).reshape(2, rank)
        full[:, list(axes)] = roi.reshape(2, -1)
        names[0] = state.put(state.fresh(f'{prefix}_roi'), full.reshape(-1).astype(roi.dtype))
    if scales is not None and scales.size:
        ones = np.ones(rank, np.float32)
        ones[list(axes)] = scales
        names[1] = state.put(state.fresh(f'{prefix}_scales'), ones)
    if sizes is not None and sizes.size:
        shape = state.shape(node.input[0])
        if shape is None:
            raise refused(node, 'resizes a tensor of unknown shape',
                          'export the network with a fixed input size')
        numbers = np.array(shape, np.int64)
        numbers[list(axes)] = sizes
        names[2] = state.put(state.fresh(f'{prefix}_size'), numbers)
    del node.input[1:]
    node.input.extend(names if names[2] else names[:2])


def _pool(node: onnx.NodeProto, state: FoldingState) -> None:
    if set(_drop(node, 'dilations') or [1]) != {1}:
        raise refused(node, 'has dilations')
    if node.op_type == 'LpPool' and _drop(node, 'ceil_mode'):
        raise refused(node, 'rounds its size up')


def _grid_sample(node: onnx.NodeProto, state: FoldingState) -> None:
    mode = attribute(node, 'mode', 'linear')
    if _rank(node, state) != 4:
        raise refused(node, 'samples a volume')
    _set(node, 'mode', {'linear': 'bilinear', 'cubic': 'bicubic'}.get(mode, mode))


def _cast(node: onnx.NodeProto, state: FoldingState) -> None:
    _drop(node, 'saturate')  # of 8-bit floats only, which opset 17 does not have


def _quantize(node: onnx.NodeProto, state: FoldingState) -> None:
    kind = _drop(node, 'output_dtype') or TensorProto.UINT8
    _drop(node, 'saturate')
    if _drop(node, 'block_size') or _drop(node, 'precision'):
        raise refused(node, 'quantises by blocks')
    if not _input(node, 2) and kind != TensorProto.UINT8:
        scale = state.shape(node.input[1])
        if scale is None:
            raise refused(node, 'has a scale of unknown shape')
        zero = np.zeros(scale, helper.tensor_dtype_to_np_dtype(kind))
        del node.input[2:]
        node.input.append(state.put(state.fresh(f'{node.output[0]}_zero'), zero))


def _dequantize(node: onnx.NodeProto, state: FoldingState) -> None:
    kind = _drop(node, 'output_dtype')
    if _drop(node, 'block_size'):
        raise refused(node, 'dequantises by blocks')
    if kind not in (None, 0, TensorProto.FLOAT):
        raise refused(node, 'gives another type than float32')


def _scatter(node: onnx.NodeProto, state: FoldingState) -> None:
    if attribute(node, 'reduction', 'none') in ('min', 'max'):
        raise refused(node, f'keeps the {attribute(node, "reduction")}')


def _dft(node: onnx.NodeProto, state: FoldingState) -> None:
    axis = _constant(node, 2, state)
    _set(node, 'axis', int(axis.reshape(-1)[0]) if axis is not None else -2)
    del node.input[2:]


_RULES: dict[str, OpsetRule] = {
    **dict.fromkeys(('ReduceL1', 'ReduceL2', 'ReduceLogSum', 'ReduceLogSumExp', 'ReduceMax',
                     'ReduceMean', 'ReduceMin', 'ReduceProd', 'ReduceSumSquare'), _reduce),
    'Split': _split, 'Pad': _pad, 'Resize': _resize, 'AveragePool': _pool, 'LpPool': _pool,
    'GridSample': _grid_sample, 'Cast': _cast, 'CastLike': _cast, 'QuantizeLinear': _quantize,
    'DequantizeLinear': _dequantize, 'ScatterElements': _scatter, 'ScatterND': _scatter,
    'DFT': _dft,
}
