# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Bring an output of logits to planes, and one channel of a binary network to two classes.

Both go in front of a last Resize, which works plane by plane, so that it stays the last node and
can be left to the reduction. Nothing is rounded: the factors are halves.

"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.graph.onnx_tools import (
    constants,
    consumers,
    copy_of,
    float_info,
    fresh_name,
    replace_nodes,
)

_FIRST = (0, 3, 1, 2)


def planes_first(
    model: onnx.ModelProto, shape: Sequence[int], axis: int
) -> onnx.ModelProto:
    """
    Give the output four axes and the classes axis 1.

    Parameters
    ----------
    model : ModelProto
        With one output; left as it is.
    shape : sequence of int
        The output's, with four axes; it may have fewer in the graph.
    axis : int
        Of the classes in that shape, 1 or 3.

    Returns
    -------
    ModelProto
        With the output (1, C, h, w).

    """
    result = copy_of(model)
    graph = result.graph
    info = graph.output[0]
    name = info.name
    if len(info.type.tensor_type.shape.dim) < 4:
        full = fresh_name(graph, f'{name}_full')
        size = _add(graph, f'{full}_shape', np.array(shape, np.int64))
        graph.node.append(helper.make_node('Reshape', [name, size], [full]))
        name = full
    if axis == 3:
        name = _turned(graph, name)
        shape = [shape[i] for i in _FIRST]
    del graph.output[:]
    graph.output.append(float_info(name, shape))
    return result


def _turned(graph: onnx.GraphProto, name: str) -> str:
    """Transpose a tensor to planes, before the Resize that makes it if there is one."""
    target = fresh_name(graph, f'{name}_planes')
    last = _last_resize(graph, name)
    if last is None:
        graph.node.append(helper.make_node('Transpose', [name], [target], perm=_FIRST))
        return target
    low = fresh_name(graph, f'{target}_low')
    turn = helper.make_node('Transpose', last.input[:1], [low], perm=_FIRST)
    inputs = [low]
    for index, entry in enumerate(last.input[1:]):
        value = constants(graph)[entry] if entry else None
        order = list(_FIRST) if index else [*_FIRST, *(i + 4 for i in _FIRST)]
        inputs.append(_add(graph, f'{target}_{index}', value[order])
                      if value is not None and value.size else '')
    last.input[:] = inputs
    last.output[0] = target
    nodes = list(graph.node)
    at = nodes.index(last)
    replace_nodes(graph, [*nodes[:at], turn, *nodes[at:]])
    return target


def two_classes(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Make two classes of one channel z: logits -z / 2 and z / 2, whose softmax is its sigmoid.

    Parameters
    ----------
    model : ModelProto
        With one output (1, 1, h, w); left as it is.

    Returns
    -------
    ModelProto
        With the output (1, 2, h, w). A convolution that makes z gets two filters.

    """
    result = copy_of(model)
    graph = result.graph
    name = graph.output[0].name
    dims = [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
    last = _last_resize(graph, name)
    source = last.input[0] if last is not None else name
    conv = next((n for n in graph.node if source in n.output), None)
    if conv is None or not _doubled(graph, conv):
        source, name = _concatenated(graph, source, last)
    if last is not None:
        _resize_two(graph, last)
        last.input[0] = source
        name = last.output[0]
    del graph.output[:]
    graph.output.append(float_info(name, (1, 2, *dims[2:])))
    return result


def _last_resize(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """Return the Resize that makes the output, if its arguments are constants."""
    node = next((n for n in graph.node if name in n.output), None)
    known = constants(graph)
    is_plain = (node is not None and node.op_type == 'Resize'
                and all(entry in known for entry in node.input[1:] if entry)
                and not consumers(graph.node, name))
    return node if is_plain else None


def _doubled(graph: onnx.GraphProto, conv: onnx.NodeProto) -> bool:
    """Give a convolution of one filter two of them."""
    known = constants(graph)
    weights = [known.get(entry) for entry in conv.input[1:]]
    if (conv.op_type != 'Conv' or any(w is None or len(w) != 1 for w in weights)
            or len(consumers(graph.node, conv.output[0])) > 1):
        return False
    for index, value in enumerate(weights, 1):
        if value is not None:
            half = np.asarray(value, np.float32) / 2
            pair = np.concatenate([-half, half])
            conv.input[index] = _add(graph, f'{conv.input[index]}_two', pair)
    return True


def _concatenated(
    graph: onnx.GraphProto, source: str, last: onnx.NodeProto | None
) -> tuple[str, str]:
    both = fresh_name(graph, f'{source}_two_classes')
    halves = []
    nodes = []
    for word, factor in (('background', -0.5), ('object', 0.5)):
        half = fresh_name(graph, f'{both}_{word}')
        scale = _add(graph, f'{half}_factor', np.array(factor, np.float32))
        nodes.append(helper.make_node('Mul', [source, scale], [half]))
        halves.append(half)
    nodes.append(helper.make_node('Concat', halves, [both], axis=1))
    kept = list(graph.node)
    at = kept.index(last) if last is not None else len(kept)
    replace_nodes(graph, [*kept[:at], *nodes, *kept[at:]])
    return both, both


def _resize_two(graph: onnx.GraphProto, last: onnx.NodeProto) -> None:
    """Let a Resize that states all four sizes state two planes."""
    if len(last.input) > 3 and last.input[3]:
        sizes = np.array(constants(graph)[last.input[3]])
        sizes[1] = 2
        last.input[3] = _add(graph, f'{last.input[3]}_two', sizes)


def _add(graph: onnx.GraphProto, wish: str, value: NDArray[Any]) -> str:
    tensor: TensorProto = numpy_helper.from_array(value, fresh_name(graph, wish))
    graph.initializer.append(tensor)
    return tensor.name
