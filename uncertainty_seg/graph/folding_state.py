# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What a round of constant folding knows and has done: constants, types, renamed tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import numpy_helper, TensorProto

from uncertainty_seg.graph.tensor_types import tensor_types, TensorType, UNKNOWN


@dataclass
class FoldingState:
    """
    Constants, types and renamings of a graph under work.

    Attributes
    ----------
    opsets : tuple of OperatorSetIdProto
        What the nodes are written in.
    inputs, outputs : sequences
        Inputs, and names of the outputs, whose tensors keep their names.
    tensors : dict of str to TensorProto
        All constants.
    types : dict of str to TensorType
        From the start of the round.
    made : dict of str to NodeProto
        Producer of each tensor, from the start of the round.
    is_changed : bool
        Whether this round did anything.

    """

    opsets: tuple[onnx.OperatorSetIdProto, ...]
    inputs: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[str, ...]
    output_infos: tuple[onnx.ValueInfoProto, ...]
    tensors: dict[str, TensorProto]
    types: dict[str, TensorType] = field(default_factory=dict)
    made: dict[str, onnx.NodeProto] = field(default_factory=dict)
    is_changed: bool = False
    _arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    _renamed: dict[str, str] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> FoldingState:
        """Take the constants of a model."""
        graph = model.graph
        return cls(
            tuple(model.opset_import), tuple(graph.input), tuple(o.name for o in graph.output),
            tuple(graph.output), {t.name: t for t in graph.initializer},
        )

    @property
    def version(self) -> int:
        """Opset of the standard operators."""
        return next(o.version for o in self.opsets if o.domain in ('', 'ai.onnx'))

    def start(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Begin a round: infer all types anew."""
        self.is_changed = False
        self._renamed = {}
        self.made = {name: node for node in nodes for name in node.output}
        self._taken = {*self.made, *self.tensors, *(i.name for i in self.inputs)}
        self.types = tensor_types(nodes, self.inputs, self.output_infos, self.tensors,
                                  self.opsets)

    def type_of(self, name: str) -> TensorType:
        """Return what is known of a tensor."""
        return self.types.get(name, UNKNOWN)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the static shape of a tensor, if it has one."""
        return self.type_of(name).shape

    def value(self, name: str) -> NDArray[Any] | None:
        """Return the value of a constant."""
        if name not in self._arrays and name in self.tensors:
            self._arrays[name] = numpy_helper.to_array(self.tensors[name])
        return self._arrays.get(name)

    def put(self, name: str, value: NDArray[Any]) -> str:
        """Make a tensor a constant."""
        array = np.ascontiguousarray(value) if value.ndim else value
        self.put_tensor(name, numpy_helper.from_array(array, name))
        self._arrays[name] = array
        return name

    def put_tensor(self, name: str, tensor: TensorProto) -> None:
        """Make a tensor a constant, given as onnx stores it."""
        if tensor.name != name:
            named = TensorProto()
            named.CopyFrom(tensor)
            named.name = name
            tensor = named
        self.tensors[name] = tensor
        self._arrays.pop(name, None)
        self.types[name] = TensorType(tensor.data_type, tuple(tensor.dims))
        self.is_changed = True

    def fresh(self, wish: str) -> str:
        """Return a name no tensor has."""
        name, number = wish, 2
        while name in self._taken or name in self.tensors:
            name, number = f'{wish}_{number}', number + 1
        self._taken.add(name)
        return name

    def rename(self, old: str, new: str) -> None:
        """Let every later node read another tensor."""
        self._renamed[old] = new
        self.is_changed = True

    def rename_inputs(self, node: onnx.NodeProto) -> None:
        """Apply the renamings to a node and its subgraphs."""
        for index, name in enumerate(node.input):
            if name in self._renamed:
                node.input[index] = self._renamed[name]
        for entry in node.attribute:
            graphs = [entry.g] if entry.type == onnx.AttributeProto.GRAPH else entry.graphs
            for graph in graphs:
                for inner in graph.node:
                    self.rename_inputs(inner)
                for info in graph.output:
                    info.name = self._renamed.get(info.name, info.name)
