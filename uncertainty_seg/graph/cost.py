# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a graph costs: multiply-adds and tensor elements a node, from static shapes.

The counts decide between two ways to compute the same thing; they are no prediction of time.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import math

import onnx

from uncertainty_seg.graph.onnx_tools import attribute

Shapes = Mapping[str, tuple[int, ...]]
# An elementwise operation reads and writes memory; a multiply-add of a convolution works in
# registers. On two CPU cores one element moved took as long as about this many multiply-adds.
MACS_AN_ELEMENT = 8


@dataclass(frozen=True)
class Cost:
    """
    Cost of some nodes, for one pass.

    Attributes
    ----------
    macs : int
        Multiply-adds of convolutions and matrix products.
    elements : int
        Elements written by all nodes.

    """

    macs: int
    elements: int

    def __add__(self, other: Cost) -> Cost:
        """Add two costs."""
        return Cost(self.macs + other.macs, self.elements + other.elements)

    @property
    def total(self) -> int:
        """One number to compare by, in multiply-adds."""
        return self.macs + MACS_AN_ELEMENT * self.elements


def node_cost(node: onnx.NodeProto, known: Shapes) -> Cost:
    """Return the cost of a node; tensors without a static shape count nothing."""
    written = sum(math.prod(known[name]) for name in node.output if name in known)
    return Cost(_macs(node, known), written)


def graph_cost(nodes: Iterable[onnx.NodeProto], known: Shapes) -> Cost:
    """Return the cost of nodes together."""
    return sum((node_cost(node, known) for node in nodes), Cost(0, 0))


def _macs(node: onnx.NodeProto, known: Shapes) -> int:
    shapes = [known.get(name) for name in node.input]
    out = known.get(node.output[0]) if node.output else None
    if out is None or len(shapes) < 2 or shapes[0] is None or shapes[1] is None:
        return 0
    if node.op_type == 'Conv':
        return math.prod(out) * math.prod(shapes[1][1:])
    if node.op_type == 'ConvTranspose':
        return math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if node.op_type == 'MatMul':
        return math.prod(out) * shapes[0][-1]
    if node.op_type == 'Gemm':
        return math.prod(out) * shapes[0][0 if attribute(node, 'transA', 0) else 1]
    return 0
