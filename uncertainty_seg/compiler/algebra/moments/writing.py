# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is known of a random tensor, and the nodes that compute it.

A tensor is carried as mean and variance of each element. Two facts about its noise go with them,
since a diagonal variance alone is wrong wherever pixels are mixed: whether one draw is shared by
all pixels of a channel (a channel mask is; the noise of a sensor is not), and if so, the signed
amplitude that it multiplies, where that is known.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper

from uncertainty_seg.compiler.onnx_tools import copy_of, Shapes, tensor_names, unused, Values
from uncertainty_seg.errors import GraphError


@dataclass(frozen=True)
class Moments:
    """
    Names of the tensors that describe a random one; all have its shape.

    Attributes
    ----------
    mean, variance : str
        Of each element.
    is_shared : bool
        Whether the noise of a channel (axis 1) is one draw for all pixels (axes 2 and on).
    amplitude : str or None
        What that draw, of variance 1, multiplies; its square is the variance. None if only the
        size is known, as after channels were mixed.

    """

    mean: str
    variance: str
    is_shared: bool = False
    amplitude: str | None = None


class MomentWriter:
    """
    Writes nodes and constants with names of their own.

    Parameters
    ----------
    model : ModelProto
        The network with masks; left as it is.
    known : mapping of str to tuple of int
        Shapes of its tensors, for one pass.
    fixed : mapping of str to ndarray
        Its constants.
    macs : int
        Multiply-adds of the network, which bound what exactness may cost.

    """

    def __init__(
        self, model: onnx.ModelProto, known: Shapes, fixed: Values, macs: int = 0
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.shapes, self.fixed, self.macs = known, fixed, macs
        self._taken = tensor_names(model.graph)
        self._roots: dict[str, str] = {}

    def name(self, wish: str) -> str:
        """Return a name near `wish` that no tensor has."""
        found = unused(wish, self._taken)
        self._taken.add(found)
        return found

    def node(self, op: str, inputs: Sequence[str], wish: str, **attributes: Any) -> str:
        """Write a node of one output and return the name of that."""
        output = self.name(wish)
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(self, wish: str, values: Any, dtype: Any = np.float32) -> str:
        """Store a constant and return its name."""
        name = self.name(wish)
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype), name))
        return name

    def twin(
        self, node: onnx.NodeProto, inputs: Sequence[str], wish: str, **changed: Any
    ) -> str:
        """Write a node as another one, with other inputs and attributes; return its output."""
        output = self.name(wish)
        twin = helper.make_node(node.op_type, list(inputs), [output], **changed)
        twin.attribute.extend(copy_of(a) for a in node.attribute if a.name not in changed)
        self.nodes.append(twin)
        return output

    def square(self, name: str) -> str:
        """Return the square of a tensor; that of a constant is computed here."""
        if name in self.fixed:
            return self.constant(f'{name}_squared', np.square(self.values(name)))
        return self.node('Mul', [name, name], f'{name}_squared')

    def scaled(self, name: str, factor: Any, wish: str) -> str:
        """Return a tensor times a number or an array."""
        return self.node('Mul', [name, self.constant(f'{wish}_by', factor)], wish)

    def values(self, name: str) -> NDArray[np.float64]:
        """Return a constant in float64."""
        return np.asarray(self.fixed[name], np.float64)

    def root(self, moments: Moments) -> str:
        """Return the standard deviation."""
        if moments.variance not in self._roots:
            self._roots[moments.variance] = self.node(
                'Sqrt', [moments.variance], f'{moments.variance}_root')
        return self._roots[moments.variance]

    def amplitude(self, moments: Moments) -> str:
        """Return the signed amplitude, or the standard deviation where the sign is not known."""
        return moments.amplitude or self.root(moments)

    def from_amplitude(self, mean: str, amplitude: str) -> Moments:
        """Return moments whose noise is one draw for all pixels of a channel."""
        return Moments(mean, self.square(amplitude), True, amplitude)

    def spread(self, name: str, source: str, target: str) -> str:
        """Repeat what has the shape of `source` to that of `target`, where they differ."""
        if self.shapes[source] == self.shapes[target]:
            return name
        shape = self.constant(f'{target}_shape', self.shapes[target], np.int64)
        return self.node('Expand', [name, shape], f'{name}_spread')


def unknown(node: onnx.NodeProto, why: str = '') -> GraphError:
    """Return the error for a node whose moments nobody knows, with the alternative."""
    return GraphError(
        f'error propagation does not know {node.op_type} (node {node.name or node.output[0]!r})'
        f'{why}', 'operators whose mean and variance are known',
        'compile with --method mc_dropout, which takes any operator')
