# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What no shipped graph may hold, because some runtime reads it wrong without a word.

Each rule comes from a trap found in TensorRT 8.6 to 11 or ONNX Runtime.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import TensorProto

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.dropout_to_masks import PASSES_AXIS
from uncertainty_seg.graph.onnx_tools import attribute, consumers, OPSET

_RANDOM = {'Dropout', 'Bernoulli', 'Multinomial', 'RandomNormal', 'RandomNormalLike',
           'RandomUniform', 'RandomUniformLike'}
_REDUCE_BY_ATTRIBUTE = {'ReduceMean', 'ReduceMax', 'ReduceMin', 'ReduceProd', 'ReduceL1',
                        'ReduceL2', 'ReduceLogSum', 'ReduceLogSumExp', 'ReduceSumSquare'}


def lint(model: onnx.ModelProto) -> list[str]:
    """
    Check a graph against every rule.

    Parameters
    ----------
    model : ModelProto
        Trunk or head.

    Returns
    -------
    list of str
        One sentence a violation, empty when clean.

    """
    return [sentence for rule in _RULES for sentence in rule(model)]


def require_clean(model: onnx.ModelProto) -> None:
    """Raise GraphError with every violation, if there is one."""
    found = lint(model)
    if found:
        raise GraphError(f'{model.graph.name}: ' + '; '.join(found))


def _opset(model: onnx.ModelProto) -> Iterator[str]:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions != {'': OPSET}:
        # TensorRT 8.6 ignores the axes input that opset 18 gave ReduceMean and ReduceMax.
        yield f'opsets {versions} instead of {OPSET} alone'


def _random(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.op_type in _RANDOM:
            yield f'node {node.name!r} is {node.op_type}, which runtimes drop or reseed'


def _reduce_axes(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.op_type in _REDUCE_BY_ATTRIBUTE and len(node.input) > 1:
            yield f'{node.op_type} {node.name!r} takes its axes as an input'


def _bytes_at_the_border(model: onnx.ModelProto) -> Iterator[str]:
    for info in model.graph.input:
        if info.type.tensor_type.elem_type == TensorProto.UINT8:
            for node in consumers(model.graph.node, info.name):
                if node.op_type != 'Cast' or attribute(node, 'to') != TensorProto.FLOAT:
                    yield f'bytes of {info.name!r} go into {node.op_type}, not a cast to float'
    made = {name: node for node in model.graph.node for name in node.output}
    for info in model.graph.output:
        kind = info.type.tensor_type.elem_type
        if kind in (TensorProto.INT64, TensorProto.DOUBLE):
            yield f'output {info.name!r} is {TensorProto.DataType.Name(kind)}'
        if kind == TensorProto.UINT8 and made[info.name].op_type != 'Cast':
            yield f'output {info.name!r} is bytes without a cast'


def _resize(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.op_type != 'Resize':
            continue
        if attribute(node, 'mode', 'nearest') not in ('nearest', 'linear'):
            yield f'Resize {node.name!r} is neither nearest nor linear'
        if attribute(node, 'antialias', 0):
            yield f'Resize {node.name!r} wants antialiasing'


def _constant_arguments(model: onnx.ModelProto) -> Iterator[str]:
    known = {tensor.name for tensor in model.graph.initializer}
    known |= {n.output[0] for n in model.graph.node if n.op_type == 'Constant'}
    for node in model.graph.node:
        if node.op_type in ('OneHot', 'TopK') and node.input[1] not in known:
            yield f'{node.op_type} {node.name!r} has a computed size'


def _passes_axis(model: onnx.ModelProto) -> Iterator[str]:
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        symbolic = [d.dim_param for d in dims if d.dim_param]
        if symbolic and symbolic != [PASSES_AXIS]:
            yield f'input {info.name!r} has the symbolic axes {symbolic}, not {PASSES_AXIS} alone'


def _inside_the_file(model: onnx.ModelProto) -> Iterator[str]:
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            yield f'weight {tensor.name!r} lies in another file'


_RULES: tuple[Callable[[onnx.ModelProto], Iterator[str]], ...] = (
    _opset, _random, _reduce_axes, _bytes_at_the_border, _resize, _constant_arguments,
    _passes_axis, _inside_the_file,
)
