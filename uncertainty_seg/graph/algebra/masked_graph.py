# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the passes over a graph with masks share: which tensor depends on what, and edits.

An input whose first axis is symbolic carries the passes; everything that needs one differs from
pass to pass, and the rest is the same in all of them.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
import onnx
from onnx import helper, numpy_helper

from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.graph.onnx_tools import (
    constants,
    consumers,
    copy_of,
    fresh_name,
    replace_nodes,
    shapes,
)

_LARGE = 64  # elements; a shape or a list of sizes has fewer


@dataclass(frozen=True)
class MaskedView:
    """
    What a pass needs to know of a graph.

    Attributes
    ----------
    shapes : mapping of str to tuple of int
        Of one pass.
    constants : mapping of str to ndarray
        Initializers and Constant nodes.
    masks : frozenset of str
        Mask inputs, and products of nothing but masks: never negative.
    touched : frozenset of str
        Every tensor that differs from pass to pass.

    """

    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, NDArray[np.generic]]
    masks: frozenset[str]
    touched: frozenset[str]

    def varies(self, mask: str) -> frozenset[int]:
        """Return the axes along which a mask is not the same, without that of the passes."""
        return frozenset(i for i, n in enumerate(self.shapes[mask]) if i > 0 and n > 1)

    def masked(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        """Return (data, mask) if a node multiplies a tensor by a mask of its rank."""
        if node.op_type != 'Mul':
            return None
        for data, mask in (node.input, reversed(node.input)):
            if mask in self.masks and data not in self.masks and data in self.shapes:
                if len(self.shapes[data]) == len(self.shapes[mask]):
                    return data, mask
        return None


def view_of(model: onnx.ModelProto, sites: Iterable[DropoutSite] | None = None) -> MaskedView:
    """
    Look at a graph with masks.

    Parameters
    ----------
    model : ModelProto
        Before or after the split.
    sites : iterable of DropoutSite, optional
        Mask inputs; without them every input with a symbolic first axis.

    Returns
    -------
    MaskedView
        Its shapes are those of one pass.

    """
    graph = model.graph
    inputs = {info.name for info in graph.input if _is_symbolic(info)}
    if sites is not None:
        inputs = {site.name for site in sites}
    masks, touched = set(inputs), set(inputs)
    for node in graph.node:
        if any(name in touched for name in node.input):
            touched.update(node.output)
        if node.op_type == 'Mul' and all(name in masks for name in node.input):
            masks.update(node.output)
    known = shapes(with_passes(_without_weights(model), 1))
    return MaskedView(known, constants(graph), frozenset(masks), frozenset(touched))


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with its large constants as inputs: shapes are inferred ten times faster."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _LARGE:
            light.graph.input.append(helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            light.graph.initializer.append(tensor)
    return light


def with_passes(model: onnx.ModelProto, passes: int) -> onnx.ModelProto:
    """Return a graph whose symbolic axis of the passes is a number, so that shapes are static."""
    fixed = copy_of(model)
    for info in (*fixed.graph.input, *fixed.graph.output):
        if _is_symbolic(info):
            info.type.tensor_type.shape.dim[0].Clear()
            info.type.tensor_type.shape.dim[0].dim_value = passes
    del fixed.graph.value_info[:]
    return fixed


def _is_symbolic(info: onnx.ValueInfoProto) -> bool:
    dims = info.type.tensor_type.shape.dim
    return bool(dims) and not dims[0].HasField('dim_value')


def producer(nodes: Iterable[onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    """Return the node that writes a tensor, or None."""
    return next((node for node in nodes if name in node.output), None)


def only_user(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """Return the one node that takes a tensor, or None if there are more, or it is an output."""
    users = consumers(graph.node, name)
    is_output = any(info.name == name for info in graph.output)
    return users[0] if len(users) == 1 and not is_output else None


def add_constant(graph: onnx.GraphProto, wish: str, values: ArrayLike, dtype: type) -> str:
    """Store an initializer under a name that is free, and return that name."""
    name = fresh_name(graph, wish)
    graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
    return name


def swap(graph: onnx.GraphProto, old: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
    """Put nodes in the place of one."""
    nodes = list(graph.node)
    at = next(i for i, node in enumerate(nodes) if node is old or node == old)
    replace_nodes(graph, [*nodes[:at], *new, *nodes[at + 1:]])


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that no output needs."""
    wanted = {info.name for info in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    replace_nodes(graph, kept[::-1])
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
