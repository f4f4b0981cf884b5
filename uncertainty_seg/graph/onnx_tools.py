# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Small things every graph pass needs: read constants, shapes, names; build a model.

Nothing here knows what a pass is for.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.errors import GraphError

OPSET = 17
# onnx writes the newest IR version by default, which TensorRT 8.6 cannot read.
IR_VERSION = 8
MARKER_DOMAIN = 'uncertainty_seg'
# Protocol buffers end at 2 GiB; the graph beside the weights needs some of it.
LARGEST_BYTES = 2**31 - 2**24


def load_model(path: str) -> onnx.ModelProto:
    """
    Read an ONNX file, and the files beside it that it keeps weights in.

    Raises
    ------
    GraphError
        If it is missing, no ONNX file, lacks a file of weights, or is too large.

    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as err:  # protobuf's own error class has moved between versions
        raise GraphError(f'{path} cannot be read ({err})', 'an ONNX file') from err
    folder = os.path.dirname(os.path.abspath(path))
    _require_files(model, path, folder)
    require_size(model, path)
    try:
        onnx.load_external_data_for_model(model, folder)
    except Exception as err:  # a file that may not be read, or lies outside of the folder
        raise GraphError(f'the weights of {path} cannot be read ({err})', 'the files it was '
                         'saved with') from err
    return model


def _require_files(model: onnx.ModelProto, path: str, folder: str) -> None:
    """Look for every file of weights, and whether it is long enough."""
    needed: dict[str, int] = {}
    for tensor in (*model.graph.initializer, *(a.t for n in model.graph.node
                                               for a in n.attribute)):
        if tensor.data_location == TensorProto.EXTERNAL:
            where = {entry.key: entry.value for entry in tensor.external_data}
            end = int(where.get('offset', 0)) + int(where.get('length', 0))
            file = where.get('location', '')
            needed[file] = max(end, needed.get(file, 0))
    for file, size in sorted(needed.items()):
        full = os.path.join(folder, file)
        found = os.path.getsize(full) if os.path.isfile(full) else None
        if found is None or found < size:
            what = 'which is not beside it' if found is None else f'which has {found} bytes'
            raise GraphError(f'{path} keeps its weights in {file!r}, {what}', f'a file of {size} '
                             'bytes', 'copy all its files into one folder, or save the network '
                             'as one file')


def require_size(model: onnx.ModelProto, name: str = 'the network') -> None:
    """Raise GraphError if a network's weights are more than one ONNX file can hold."""
    size = sum(math.prod(t.dims) * helper.tensor_dtype_to_np_dtype(t.data_type).itemsize
               for t in model.graph.initializer)
    if size > LARGEST_BYTES:
        raise GraphError(f'{name} has {size / 1e9:.3g} GB of weights', 'less than the 2 GB that '
                         'one ONNX file can hold', 'use a smaller network')


def constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """Return every initializer and Constant node's value by name."""
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == 'Constant':
            value = next((a.t for a in node.attribute if a.name == 'value'), None)
            if value is not None:
                found[node.output[0]] = numpy_helper.to_array(value)
    return found


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute's value, bytes as text, or `default`."""
    for entry in node.attribute:
        if entry.name == name:
            value = helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """
    Infer the static shape of every tensor that has one.

    Parameters
    ----------
    model : ModelProto
        Standard operators, and markers of dropout.

    Returns
    -------
    dict of str to tuple of int
        Tensors with a symbolic or unknown axis are left out.

    """
    plain = without_markers(model)
    inferred = onnx.shape_inference.infer_shapes(plain, strict_mode=False, data_prop=True).graph
    known = {}
    for info in (*inferred.value_info, *inferred.input, *inferred.output):
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField('shape') and all(d.HasField('dim_value') for d in dims):
            known[info.name] = tuple(d.dim_value for d in dims)
    known.update({t.name: tuple(t.dims) for t in inferred.initializer})
    return known


def without_markers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with each marker of dropout as Identity, which onnx can read."""
    if not any(node.domain == MARKER_DOMAIN for node in model.graph.node):
        return model
    twin = copy_of(model)
    replace_nodes(twin.graph, [
        helper.make_node('Identity', [node.input[0]], [node.output[0]])
        if node.domain == MARKER_DOMAIN else node for node in twin.graph.node
    ])
    return twin


def consumers(nodes: Iterable[onnx.NodeProto], name: str) -> list[onnx.NodeProto]:
    """Return the nodes that take a tensor."""
    return [node for node in nodes if name in node.input]


def fresh_name(graph: onnx.GraphProto, wish: str) -> str:
    """Return `wish`, or `wish` with a number, that no tensor of the graph has."""
    taken = {n for node in graph.node for n in (*node.input, *node.output)}
    taken |= {t.name for t in (*graph.initializer, *graph.input)}
    if wish not in taken:
        return wish
    return next(f'{wish}_{i}' for i in range(2, len(taken) + 3) if f'{wish}_{i}' not in taken)


def float_info(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """Describe a float32 tensor; a text is a symbolic axis."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def build_model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Iterable[onnx.TensorProto],
) -> onnx.ModelProto:
    """
    Make a checked model of the shipped opset, with only the initializers it uses.

    Raises
    ------
    GraphError
        If onnx finds it invalid.

    """
    used = {n for node in nodes for n in node.input}
    kept = [t for t in initializers if t.name in used]
    graph = helper.make_graph(list(nodes), name, list(inputs), list(outputs), kept)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=IR_VERSION,
        producer_name='uncertainty_seg',
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise GraphError(f'{name} is no valid graph ({err})', fix='report this as a bug') from err
    return model


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a deep copy."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    return twin


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Put other nodes into a graph, in order."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


# -------------------------------------------------------------------------------------------------
# Types and shapes of every tensor of a graph, without carrying its weights through the inference.
# Tensors with an unknown axis have a type and no shape. What a pass does with it is not known
# here.

# Small enough to be a shape, axes, or scales; what is larger is never read by the inference.
_READ_BY_INFERENCE = 1024


@dataclass(frozen=True)
class TensorType:
    """
    What is known of a tensor before anything ran.

    Attributes
    ----------
    kind : int
        TensorProto.DataType; 0 if unknown.
    dims : tuple of (int or None), or None
        Sizes as far as they are known; None if not even their number is.

    """

    kind: int
    dims: tuple[int | None, ...] | None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """All sizes, None if one is unknown."""
        if self.dims is None:
            return None
        known = tuple(size for size in self.dims if size is not None)
        return known if len(known) == len(self.dims) else None

    @property
    def rank(self) -> int:
        """Return the number of axes, -1 if unknown."""
        return -1 if self.dims is None else len(self.dims)


UNKNOWN = TensorType(0, None)


def is_marker(node: onnx.NodeProto) -> bool:
    """Say whether a node is a marker of dropout."""
    return node.domain == MARKER_DOMAIN


def tensor_types(
    nodes: Iterable[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    tensors: Mapping[str, TensorProto],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> dict[str, TensorType]:
    """
    Infer the type of every tensor.

    Parameters
    ----------
    nodes : iterable of NodeProto
        In order; markers of dropout pass for Identity, nodes of other domains are left out.
    inputs, outputs : sequence of ValueInfoProto
        Of the graph.
    tensors : mapping of str to TensorProto
        Initializers.
    opsets : sequence of OperatorSetIdProto
        What the nodes are written in.

    Returns
    -------
    dict of str to TensorType
        Tensors of unknown type are left out.

    Raises
    ------
    GraphError
        If the graph contradicts itself.

    """
    plain = [hidden(node) if is_marker(node) else node for node in nodes
             if node.domain in ('', 'ai.onnx', MARKER_DOMAIN)]
    small = [t for t in tensors.values() if is_read_by_inference(t)]
    large = [weight_info(t) for t in tensors.values() if not is_read_by_inference(t)]
    given = [info for info in inputs if info.name not in tensors]
    graph = helper.make_graph(plain, 'types', [*given, *large], list(outputs), small)
    model = helper.make_model(graph, opset_imports=list(opsets), ir_version=8)
    try:
        found = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph
    except onnx.shape_inference.InferenceError as err:
        raise GraphError(f'onnx finds the network wrong ({err})', fix='export it again') from err
    known = {info.name: _type_of(info)
             for info in (*found.value_info, *found.output, *found.input)}
    known.update({t.name: TensorType(t.data_type, tuple(t.dims)) for t in tensors.values()})
    return {name: kind for name, kind in known.items() if kind != UNKNOWN}


def types_of(model: onnx.ModelProto) -> dict[str, TensorType]:
    """Infer the type of every tensor of a model."""
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    return tensor_types(graph.node, graph.input, graph.output, tensors, model.opset_import)


def hidden(marker: onnx.NodeProto) -> onnx.NodeProto:
    """Return the Identity that stands for a marker where onnx reads the graph."""
    return helper.make_node('Identity', marker.input[:1], marker.output[:1])


def is_read_by_inference(tensor: TensorProto) -> bool:
    """Say whether onnx may look at a constant's values, and not only at its shape."""
    return math.prod(tensor.dims) <= _READ_BY_INFERENCE


def weight_info(tensor: TensorProto) -> onnx.ValueInfoProto:
    """Describe a constant as an input, which is all that inference needs of a large one."""
    return helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))


def _type_of(info: onnx.ValueInfoProto) -> TensorType:
    kind = info.type.tensor_type
    if not kind.HasField('shape'):
        return TensorType(kind.elem_type, None)
    return TensorType(kind.elem_type, tuple(
        d.dim_value if d.HasField('dim_value') else None for d in kind.shape.dim))
