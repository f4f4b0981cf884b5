# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Types and shapes of every tensor of a graph, without carrying its weights through the inference.

Tensors with an unknown axis have a type and no shape. What a pass does with it is not known here.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import math

import onnx
from onnx import helper, TensorProto

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.onnx_tools import MARKER_DOMAIN

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
