# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Reject networks that cannot be compiled, and graphs that some runtime reads incorrectly.

A network is checked before the graph passes; the error names the node that cannot be compiled. A
graph is checked before it is written; each of these rules comes from a case where TensorRT or ONNX
Runtime fails, or gives wrong results without an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
import re

import onnx
from onnx import TensorProto

from uncertainty_seg.compiler.algebra.dropout_to_masks import is_dropout
from uncertainty_seg.compiler.algebra.split import LOGITS
from uncertainty_seg.compiler.onnx_tools import (
    attribute,
    constants,
    copy_of,
    image_inputs,
    rename_tensors,
    tensor_names,
    types_of,
    UNKNOWN,
    unused,
)
from uncertainty_seg.errors import GraphError
from uncertainty_seg.storage.onnx_nodes import every_node, RANDOM_OPS, subgraphs

# -------------------------------------------------------------------------------------------------
# Networks that cannot be compiled, and names reserved for the compiler. `free_passes` checks later
# whether passes would mix.

_CONTROL_FLOW = ('If', 'Loop', 'Scan', 'SequenceMap')
_LISTS = ('SequenceConstruct', 'SequenceEmpty', 'SequenceInsert', 'SequenceErase', 'SequenceAt',
          'SequenceLength', 'SplitToSequence', 'ConcatFromSequence', 'Optional',
          'OptionalGetElement', 'OptionalHasElement')
# Names of tensors that later graph passes create.
_OURS = re.compile(r'image|image_(float|planes|scaled|scale|shift)|logits|mask_.*|stats_.*'
                   r'|inv_temperature|sum_p|sum_p2|sum_entropy|votes|moments|noise|noise_.*'
                   r'|logit_(mean|variance|spread|spread_squared|shift)')


def require_own_names(model: onnx.ModelProto) -> None:
    """Raise GraphError, with the name, if two tensors or two nodes have the same name."""
    graph = model.graph
    made = [i.name for i in image_inputs(graph)] + sorted({t.name for t in graph.initializer})
    made += [name for node in graph.node for name in node.output if name]
    for what, names in (('tensors', made), ('nodes', [n.name for n in graph.node if n.name])):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise GraphError(f'two {what} of the network are called {twice[0]!r}', 'unique names',
                             'export it again: no runtime accepts such a file')


def require_compilable(model: onnx.ModelProto) -> None:
    """Raise GraphError, with the node, for operators that later graph passes cannot compile."""
    for node in model.graph.node:
        _require_known(node, model.graph)


def free_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rename tensors whose names the compiler uses: `image` becomes `net_image`, for example."""
    result = copy_of(model)
    graph = result.graph
    every = tensor_names(graph)
    names: dict[str, str] = {}
    for name in sorted(n for n in every if _OURS.fullmatch(n)):
        names[name] = unused(f'net_{name}', every)
        every.add(names[name])
    for node in graph.node:
        rename_tensors(node, names)
    for entry in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        entry.name = names.get(entry.name, entry.name)
    return result


def _require_known(node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
    where = f'node {node.name!r} is {node.op_type}'
    if node.op_type in RANDOM_OPS and not is_dropout(node):
        raise GraphError(f'{where}, random numbers, which differ between runtimes',
                         'dropout', 'express it as dropout, compile the torch network itself, or '
                         'export it without')
    if node.op_type in _CONTROL_FLOW:
        inside = sorted({inner.op_type for graph in subgraphs(node) for inner in every_node(
            onnx.ModelProto(graph=graph)) if inner.op_type in RANDOM_OPS})
        hidden = f' and which holds {", ".join(inside)}' if inside else ''
        raise GraphError(f'{where}, control flow that depends on the image{hidden}',
                         'a fixed sequence of operators', 'export the network for one input '
                         'size, without data-dependent branches')
    if node.op_type in _LISTS:
        raise GraphError(f'{where}, a list of tensors', 'single tensors',
                         'export the network for one input size, or with another exporter')
    mask = node.output[1] if is_dropout(node) and len(node.output) > 1 else ''
    if mask and any(mask in other.input for other in graph.node):
        raise GraphError(f'the mask of dropout {node.name!r} is read by other nodes',
                         'dropout whose mask no other node reads')


# -------------------------------------------------------------------------------------------------
# Graphs that are written to bundles.

# Largest k of TopK in TensorRT.
_LARGEST_K = 3840
# Most violations in one message.
_SHOWN = 5
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def lint(model: onnx.ModelProto) -> list[str]:
    """Check a trunk or head against every rule; return one sentence per violation."""
    return [sentence for rule in _RULES for sentence in rule(model)]


def require_clean(model: onnx.ModelProto) -> None:
    """Raise GraphError with the first violations, if there are any."""
    found = lint(model)
    if found:
        more = f'; and {len(found) - _SHOWN} more' if len(found) > _SHOWN else ''
        raise GraphError(f'{model.graph.name}: ' + '; '.join(found[:_SHOWN]) + more)


def _shifts(model: onnx.ModelProto) -> Iterator[str]:
    for node in every_node(model):
        if node.op_type == 'BitShift':
            yield f'node {node.name!r} is BitShift, which TensorRT does not have'


def _bytes_at_the_border(model: onnx.ModelProto) -> Iterator[str]:
    """Allow uint8 tensors only as the image input and as quantised tensors."""
    types = types_of(model)
    for node in model.graph.node:
        for name in node.output:
            if types.get(name, UNKNOWN).kind != TensorProto.UINT8:
                continue
            source = types.get(node.input[0], UNKNOWN).kind if node.input else 0
            if source != TensorProto.UINT8 and node.op_type != 'QuantizeLinear':
                yield f'{node.op_type} {node.name!r} makes the bytes {name!r}, which only a ' \
                      'quantisation may; keep them float32'


def _resize(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.op_type != 'Resize':
            continue
        if attribute(node, 'mode', 'nearest') not in ('nearest', 'linear'):
            yield f'Resize {node.name!r} is neither nearest nor linear; resize bilinearly'
        if attribute(node, 'antialias', 0):
            yield f'Resize {node.name!r} uses antialiasing, which TensorRT does not support'


def _constant_arguments(model: onnx.ModelProto) -> Iterator[str]:
    known = constants(model.graph)
    for node in model.graph.node:
        second = node.input[1] if len(node.input) > 1 else ''
        if node.op_type in ('OneHot', 'TopK') and second not in known:
            yield f'{node.op_type} {node.name!r} has a computed size'
        elif node.op_type == 'TopK' and known[second].max() > _LARGEST_K:
            yield f'TopK {node.name!r} takes the {known[second].max()} largest, more than ' \
                  f'{_LARGEST_K}'
        elif node.op_type.startswith('Reduce') and second and second not in known:
            yield f'{node.op_type} {node.name!r} has computed axes'


def _halves_after_logits(model: onnx.ModelProto) -> Iterator[str]:
    """Require that probabilities and their sums are computed in 32 bits."""
    types = types_of(model)
    behind = {LOGITS}
    for node in model.graph.node:
        if behind & set(node.input):
            behind |= set(node.output)
    halves = sorted(n for n in behind if types.get(n, UNKNOWN).kind in _HALVES)
    if halves:
        yield f'{halves[:_SHOWN]} at or behind {LOGITS!r} are of 16 bits'


def _convolution_types(model: onnx.ModelProto) -> Iterator[str]:
    types = types_of(model)
    for node in model.graph.node:
        if node.op_type in ('Conv', 'ConvTranspose'):
            kinds = {types.get(name, UNKNOWN).kind for name in node.input if name} - {0}
            if len(kinds) > 1:
                names = sorted(TensorProto.DataType.Name(kind) for kind in kinds)
                yield f'{node.op_type} {node.name!r} mixes {" and ".join(names)}'


_RULES: tuple[Callable[[onnx.ModelProto], Iterator[str]], ...] = (
    _shifts, _bytes_at_the_border, _resize, _constant_arguments, _halves_after_logits,
    _convolution_types,
)
