# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Tools of all graph passes: files, constants, types and shapes, names, edits, new models."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
import math
import os
import re
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.errors import BackendUnavailableError, GraphError, install_command
from uncertainty_seg.storage.onnx_nodes import subgraphs

# The newest opset that TensorRT 10.3 reads.
OPSET = 20
IR_VERSION = 9
MARKER_DOMAIN = 'uncertainty_seg'
# Largest size of the weights: a protocol buffer holds 2 GiB, some of it for the graph.
LARGEST_BYTES = 2**31 - 2**24
# Most elements of a shape, axes or scales; shape inference never reads a larger constant.
_READ_BY_INFERENCE = 1024
_MOST_SAID = 200  # characters
# In a library's message: colours of a terminal, and a place in its C++ source.
_OF_MACHINES = re.compile(r'\x1b\[\d*m|\S+\.h:\d+: \w+: Assertion .* failed: ')

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Values = Mapping[str, NDArray[np.generic]]
_Message = TypeVar('_Message', onnx.ModelProto, onnx.NodeProto, onnx.TensorProto,
                   onnx.AttributeProto)

# -------------------------------------------------------------------------------------------------
# Read a file.


def load_model(path: str) -> onnx.ModelProto:
    """Read an ONNX file and its weights; GraphError if a file is missing, invalid or too large."""
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as err:
        raise GraphError(f'{path} {why_unreadable(path)}', 'an ONNX file') from err
    except Exception as err:  # protobuf's error class has moved between versions
        raise GraphError(f'{path} is no ONNX file, or only a part of one', 'an ONNX file',
                         'export the network again, or copy the whole file') from err
    if not model.graph.node:
        raise GraphError(f'{path} holds no network', 'an ONNX file', 'export the network again')
    folder = os.path.dirname(os.path.abspath(path))
    _require_files(model, path, folder)
    require_size(model, path)
    try:
        onnx.load_external_data_for_model(model, folder)
    except Exception as err:  # an unreadable file, or one outside the folder
        raise GraphError(f'the weights of {path} cannot be read ({first_line(err)})',
                         'the files it was saved with') from err
    _sort_nodes(model.graph)
    for node in model.graph.node:
        node.name = node.name or node.output[0]  # sentences name nodes
    return model


def _sort_nodes(graph: onnx.GraphProto) -> None:
    """Put each node behind those that it reads from; some converters append theirs at the end."""
    made = {name for node in graph.node for name in node.output}
    left, ordered, done = list(graph.node), [], set[str]()
    while left:
        late = []
        for node in left:
            if used_by(node) & made <= done:
                ordered.append(node)
                done.update(node.output)
            else:
                late.append(node)
        if len(late) == len(left):
            return  # in a circle, which the checker names
        left = late
    refill(graph.node, ordered)


def session_of(model: onnx.ModelProto, level: str = 'ENABLE_ALL', threads: int = 0) -> Any:
    """Open an ONNX Runtime CPU session with an optimisation level; 0 threads means all cores."""
    try:
        import onnxruntime
    except ImportError as err:
        raise BackendUnavailableError(
            f'onnxruntime cannot be imported ({err})', 'onnxruntime, for the checks',
            install_command('onnxruntime')) from err
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f'ORT_{level}')
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider'])


def why_unreadable(path: str) -> str:
    """Return why a file cannot be opened."""
    if os.path.isdir(path):
        return 'is a folder'
    return 'may not be read' if os.path.exists(path) else 'is missing'


def _require_files(model: onnx.ModelProto, path: str, folder: str) -> None:
    """Check that every file of weights exists and is long enough."""
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
    """Raise GraphError if a network's weights do not fit into one ONNX file."""
    size = sum(math.prod(t.dims) * helper.tensor_dtype_to_np_dtype(t.data_type).itemsize
               for t in model.graph.initializer)
    if size > LARGEST_BYTES:
        raise GraphError(f'{name} has {size / 1e9:.3g} GB of weights', 'less than the 2 GB that '
                         'one ONNX file can hold', 'use a smaller network')


# -------------------------------------------------------------------------------------------------
# Read a graph.


def constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """Return the value of every initializer and Constant node by name."""
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == 'Constant':
            value = next((a.t for a in node.attribute if a.name == 'value'), None)
            if value is not None:
                found[node.output[0]] = numpy_helper.to_array(value)
    return found


def first_line(err: object) -> str:
    """Return the first line of a library's message, shortened for use in a sentence."""
    text = next((line.strip() for line in str(err).splitlines() if line.strip()), '')
    text = _OF_MACHINES.sub('', text)
    return text if len(text) <= _MOST_SAID else f'{text[:_MOST_SAID]}...'


def told(err: BaseException) -> str:
    """Return the class and the first line of an error for use in a sentence."""
    return f'{type(err).__name__}: {first_line(err) or "without a message"}'


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of an attribute, bytes as text, or `default`."""
    for entry in node.attribute:
        if entry.name == name:
            value = helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def is_marker(node: onnx.NodeProto) -> bool:
    """Return whether a node is a dropout marker."""
    return node.domain == MARKER_DOMAIN


def hidden(marker: onnx.NodeProto) -> onnx.NodeProto:
    """Return an Identity that replaces a dropout node."""
    return helper.make_node('Identity', marker.input[:1], marker.output[:1])


def image_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs without a default value (old files also list weights as inputs)."""
    given = {tensor.name for tensor in graph.initializer}
    return [info for info in graph.input if info.name not in given]


def producer(nodes: Iterable[onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    """Return the node that writes a tensor, or None."""
    return next((node for node in nodes if name in node.output), None)


def consumers(nodes: Iterable[onnx.NodeProto], name: str) -> list[onnx.NodeProto]:
    """Return the nodes that read a tensor."""
    return [node for node in nodes if name in node.input]


def only_user(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """Return the only node that reads a tensor; None if several do or it is a graph output."""
    users = consumers(graph.node, name)
    is_output = any(info.name == name for info in graph.output)
    return users[0] if len(users) == 1 and not is_output else None


def tensor_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all tensors."""
    names = {n for node in graph.node for n in (*node.input, *node.output)}
    return names | {t.name for t in (*graph.initializer, *graph.input)}


def unused(wish: str, taken: Container[str]) -> str:
    """Return `wish`, or `wish` with the first number from 2 up that is not taken."""
    name, number = wish, 2
    while name in taken:
        name, number = f'{wish}_{number}', number + 1
    return name


def fresh_name(graph: onnx.GraphProto, wish: str) -> str:
    """Return a name that no tensor of the graph has, `wish` if possible."""
    return unused(wish, tensor_names(graph))


def used_by(node: onnx.NodeProto) -> set[str]:
    """Return the names of all tensors that a node or its subgraphs read."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names |= {o.name for o in graph.output}.union(*(used_by(inner) for inner in graph.node))
    return names


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes needed to compute `outputs`, in their order."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= used_by(node)
            kept.append(node)
    return kept[::-1]


# -------------------------------------------------------------------------------------------------
# Infer types and shapes without passing large weights through onnx's inference.


@dataclass(frozen=True)
class TensorType:
    """Statically known type of a tensor."""

    kind: int  # TensorProto.DataType; 0 if unknown.
    dims: tuple[int | None, ...] | None  # Sizes, None where unknown; None if the rank is unknown.

    @property
    def shape(self) -> Shape | None:
        """All sizes; None if one is unknown."""
        if self.dims is None:
            return None
        known = tuple(size for size in self.dims if size is not None)
        return known if len(known) == len(self.dims) else None

    @property
    def rank(self) -> int:
        """Return the number of axes; -1 if unknown."""
        return -1 if self.dims is None else len(self.dims)


UNKNOWN = TensorType(0, None)


def tensor_types(
    nodes: Iterable[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    tensors: Mapping[str, TensorProto],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> dict[str, TensorType]:
    """Infer the type of every tensor; GraphError if the graph contradicts itself."""
    plain = [hidden(node) if is_marker(node) else node for node in nodes
             if node.domain in ('', 'ai.onnx', MARKER_DOMAIN)]
    small = [t for t in tensors.values() if is_read_by_inference(t)]
    large = [weight_info(t) for t in tensors.values() if not is_read_by_inference(t)]
    given = [info for info in inputs if info.name not in tensors]
    graph = helper.make_graph(plain, 'types', [*given, *large], list(outputs), small)
    model = helper.make_model(graph, opset_imports=list(opsets), ir_version=IR_VERSION)
    try:
        found = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph
    except onnx.shape_inference.InferenceError as err:
        raise GraphError(f'onnx finds the network wrong ({first_line(err)})',
                         fix='export it again') from err
    known = {info.name: _type_of(info)
             for info in (*found.value_info, *found.output, *found.input)}
    known.update({t.name: TensorType(t.data_type, tuple(t.dims)) for t in tensors.values()})
    return {name: kind for name, kind in known.items() if kind != UNKNOWN}


def types_of(model: onnx.ModelProto) -> dict[str, TensorType]:
    """Infer the type of every tensor of a model; see `tensor_types`."""
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    return tensor_types(graph.node, graph.input, graph.output, tensors, model.opset_import)


def shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Infer the shape of every tensor of a model; tensors with an unknown size are left out."""
    return {name: kind.shape for name, kind in types_of(model).items() if kind.shape is not None}


def is_read_by_inference(tensor: TensorProto) -> bool:
    """Return whether inference may read a constant's values, not only its shape."""
    return math.prod(tensor.dims) <= _READ_BY_INFERENCE


def weight_info(tensor: TensorProto) -> onnx.ValueInfoProto:
    """Describe a constant as an input: inference needs only the type of a large one."""
    return helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))


def _type_of(info: onnx.ValueInfoProto) -> TensorType:
    kind = info.type.tensor_type
    if not kind.HasField('shape'):
        return TensorType(kind.elem_type, None)
    return TensorType(kind.elem_type, tuple(
        d.dim_value if d.HasField('dim_value') else None for d in kind.shape.dim))


# -------------------------------------------------------------------------------------------------
# Edit a graph, and build one.


def copy_of(message: _Message) -> _Message:
    """Return a deep copy of a model, node, tensor or attribute."""
    twin = type(message)()
    twin.CopyFrom(message)
    return twin


def refill(field: Any, items: Iterable[Any]) -> None:
    """Replace all entries of a repeated field, such as `graph.node`; `items` may read it."""
    kept = list(items)
    del field[:]
    field.extend(kept)


def rename_tensors(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Rename inputs and outputs of a node; its subgraphs are not changed."""
    for tensors in (node.input, node.output):
        for index, name in enumerate(tensors):
            tensors[index] = names.get(name, name)


def replace_node(
    graph: onnx.GraphProto, old: onnx.NodeProto, new: Sequence[onnx.NodeProto]
) -> None:
    """Replace one node by several."""
    nodes = list(graph.node)
    at = next(i for i, node in enumerate(nodes) if node is old or node == old)
    refill(graph.node, [*nodes[:at], *new, *nodes[at + 1:]])


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes and initializers that no output needs."""
    outputs = {info.name for info in graph.output}
    refill(graph.node, needed_nodes(graph.node, outputs))
    used = outputs.union(*(used_by(node) for node in graph.node))
    refill(graph.initializer, [t for t in graph.initializer if t.name in used])


def add_constant(graph: onnx.GraphProto, wish: str, values: Any, dtype: Any = None) -> str:
    """Store an initializer under an unused name, `wish` if possible; return that name."""
    name = fresh_name(graph, wish)
    graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
    return name


def resize_scale(old: int, new: int) -> np.float32:
    """
    Return the float32 scale that makes a runtime resize from the old size to the new.

    Runtimes round the product of size and scale down, in float32 or, as onnx does, in float64.
    """
    scale = np.float32(new / old)
    while float(scale) * old < new:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


class NodeWriter:
    """Writes nodes whose tensors are named after one tensor."""

    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph, self._prefix = graph, prefix

    def node(self, op: str, inputs: Sequence[str], suffix: str = '', **attributes: Any) -> str:
        """Write a node of one output and return the output's name."""
        name = f'{self._prefix}_{suffix}' if suffix else self._prefix
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, suffix: str, values: Any, dtype: Any = np.float32) -> str:
        """Store a constant and return its name."""
        return add_constant(self._graph, f'{self._prefix}_{suffix}', values, dtype)

    def shape(self, suffix: str, *sizes: int) -> str:
        """Store integers as an int64 (n,) constant and return its name."""
        return self.constant(suffix, sizes, np.int64)


def float_info(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """Describe a float32 tensor; a string in `shape` is a symbolic axis."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def build_model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Iterable[onnx.TensorProto],
) -> onnx.ModelProto:
    """Build a model with the initializers it uses; GraphError if onnx's checker rejects it."""
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
        raise GraphError(f'{name} is no valid graph ({first_line(err)})',
                         fix='export the network again with another opset_version, or with the '
                         'other exporter of torch (dynamo=True or False)') from err
    return model
