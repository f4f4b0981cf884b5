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
    attribute,
    constants,
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
    values = [constants(graph)[entry] if entry else None for entry in last.input[2:]]
    last.input[:] = [low, '', *(
        _add(graph, f'{target}_size', value[list(_FIRST)])
        if value is not None and value.size else '' for value in values)]
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
    if last is not None:
        _resize_two(graph, last)
    conv = next((n for n in graph.node if source in n.output), None)
    if conv is None or not _doubled(graph, conv):
        name = _concatenated(graph, source, last)
    del graph.output[:]
    graph.output.append(float_info(name, (1, 2, *dims[2:])))
    return result


def _last_resize(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """Return the Resize that makes the output, if its arguments are constants and no region."""
    node = next((n for n in graph.node if name in n.output), None)
    known = constants(graph)
    if node is None or node.op_type != 'Resize':
        return None
    is_plain = (all(entry in known for entry in node.input[1:] if entry) and attribute(
        node, 'coordinate_transformation_mode') != 'tf_crop_and_resize')
    return node if is_plain else None


def _doubled(graph: onnx.GraphProto, conv: onnx.NodeProto) -> bool:
    """Give a convolution of one filter two of them."""
    known = constants(graph)
    weights = [known.get(entry) for entry in conv.input[1:]]
    if conv.op_type != 'Conv' or any(w is None or len(w) != 1 for w in weights):
        return False
    for index, value in enumerate(weights, 1):
        if value is not None:
            half = np.asarray(value, np.float32) / 2
            pair = np.concatenate([-half, half])
            conv.input[index] = _add(graph, f'{conv.input[index]}_two', pair)
    return True


def _concatenated(
    graph: onnx.GraphProto, source: str, last: onnx.NodeProto | None
) -> str:
    """Join -z / 2 and z / 2; return the name of the output then."""
    both = fresh_name(graph, f'{source}_two_classes')
    halves = []
    nodes = []
    for word, factor in (('background', -0.5), ('object', 0.5)):
        half = fresh_name(graph, f'{both}_{word}')
        scale = _add(graph, f'{half}_factor', np.array(factor, np.float32))
        nodes.append(helper.make_node('Mul', [source, scale], [half]))
        halves.append(half)
    nodes.append(helper.make_node('Concat', halves, [both], axis=1))
    if last is None:
        graph.node.extend(nodes)
        return both
    last.input[0] = both
    kept, name = list(graph.node), last.output[0]
    at = kept.index(last)
    replace_nodes(graph, [*kept[:at], *nodes, *kept[at:]])
    return name


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
