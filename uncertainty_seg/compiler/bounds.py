# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Say which values an output can have at most, by the nodes that make it.

Images show what an output does on them; a tanh at the end shows what it can do on any. Intervals
are carried from what is bounded (tanh, sigmoid, clip) through arithmetic with constants, and
through what only moves values or averages them. A convolution mixes channels, and is unbounded.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray
import onnx

from uncertainty_seg.compiler.onnx_tools import attribute, constants

_FIXED = {'Tanh': (-1.0, 1.0), 'Softsign': (-1.0, 1.0), 'Erf': (-1.0, 1.0), 'Sin': (-1.0, 1.0),
          'Cos': (-1.0, 1.0), 'Sigmoid': (0.0, 1.0), 'HardSigmoid': (0.0, 1.0),
          'Softmax': (0.0, 1.0)}
# A value of the first input stays what it is, or becomes a mean or the largest of several.
_PASSES = {'Transpose', 'Reshape', 'Squeeze', 'Unsqueeze', 'Flatten', 'Identity', 'Cast', 'Slice',
           'Split', 'Gather', 'Expand', 'Tile', 'ReduceMean', 'ReduceMax', 'ReduceMin', 'MaxPool',
           'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool', 'Dropout'}
_TOGETHER = {'Concat', 'Max', 'Min', 'Mean'}
_MOST_NODES = 200


@dataclass(frozen=True)
class Bounds:
    """
    What values lie between, and the operators that hold them there.

    Attributes
    ----------
    low, high : float
        Infinite where there is no bound.
    operators : frozenset of str
        By their names in ONNX.
    before : str
        The tensor that the last of them is given; '' if there is none.

    """

    low: float = -math.inf
    high: float = math.inf
    operators: frozenset[str] = frozenset()
    before: str = ''

    @property
    def is_finite(self) -> bool:
        """Whether there is a bound on both sides."""
        return math.isfinite(self.low) and math.isfinite(self.high)


_FREE = Bounds()


def bounds_of(graph: onnx.GraphProto, name: str) -> Bounds:
    """
    Bound a tensor of a graph.

    Parameters
    ----------
    graph : GraphProto
        Without branches.
    name : str
        Of the tensor.

    Returns
    -------
    Bounds
        Infinite where nothing is known, as behind a convolution.

    """
    return _Search(graph).of(name)


class _Search:
    """Walks back from a tensor, each node once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._made = {out: node for node in graph.node for out in node.output}
        self._values = constants(graph)
        self._known: dict[str, Bounds] = {}

    def of(self, name: str) -> Bounds:
        if name not in self._known:
            self._known[name] = _FREE  # for what is deeper than is looked at
            if len(self._known) <= _MOST_NODES:
                self._known[name] = self._bounded(name)
        return self._known[name]

    def _bounded(self, name: str) -> Bounds:
        if (value := self._values.get(name)) is not None:
            return _of_constant(value)
        node = self._made.get(name)
        if node is None or node.domain not in ('', 'ai.onnx'):
            return _FREE
        kind = node.op_type
        if kind in _FIXED:
            return Bounds(*_FIXED[kind], frozenset({kind}), node.input[0])
        if kind == 'Clip':
            return self._clipped(node)
        if kind == 'Div' and self._is_softsign(node):
            return Bounds(-1.0, 1.0, frozenset({'Softsign'}), node.input[0])
        if kind in _PASSES or (kind == 'Resize' and attribute(node, 'mode') != b'cubic'):
            return self.of(node.input[0])
        given = [self.of(entry) for entry in node.input if entry]
        if kind in _TOGETHER:
            return _joined(given, min(b.low for b in given), max(b.high for b in given))
        rule = _RULES.get(kind)
        return _joined(given, *rule(*given)) if rule is not None else _FREE

    def _clipped(self, node: onnx.NodeProto) -> Bounds:
        inner = self.of(node.input[0])
        limits = [self._values.get(entry) if entry else None for entry in node.input[1:3]]
        low, high = (
            sign * math.inf if value is None else float(value)
            for sign, value in zip((-1, 1), [*limits, None, None], strict=False))
        if inner.low >= low and inner.high <= high:
            return inner
        return Bounds(max(low, inner.low), min(high, inner.high), inner.operators | {'Clip'},
                      node.input[0])

    def _is_softsign(self, node: onnx.NodeProto) -> bool:
        """Whether a node divides x by 1 + |x|, as torch writes it."""
        below = self._made.get(node.input[1])
        if below is None or below.op_type != 'Add':
            return False
        sides = [self._made.get(entry) for entry in below.input]
        ones = [self._values.get(entry) for entry in below.input]
        return any(side is not None and side.op_type == 'Abs' and side.input[0] == node.input[0]
                   for side in sides) and any(v is not None and bool((v == 1).all()) for v in ones)


def _of_constant(value: NDArray[np.generic]) -> Bounds:
    if not value.size or value.dtype.kind not in 'fiu':
        return _FREE
    return Bounds(float(value.min()), float(value.max()))


def _joined(given: list[Bounds], low: float, high: float) -> Bounds:
    found = frozenset().union(*(b.operators for b in given))
    before = next((b.before for b in given if b.before), '')
    return _FREE if math.isnan(low) or math.isnan(high) else Bounds(low, high, found, before)


def _product(a: Bounds, b: Bounds) -> tuple[float, float]:
    ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    return (math.nan, math.nan) if any(map(math.isnan, ends)) else (min(ends), max(ends))


def _quotient(a: Bounds, b: Bounds) -> tuple[float, float]:
    if b.low <= 0 <= b.high:
        return -math.inf, math.inf
    return _product(a, Bounds(1 / b.high, 1 / b.low))


def _size(a: Bounds) -> tuple[float, float]:
    least = 0.0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high))
    return least, max(abs(a.low), abs(a.high))


_RULES: Mapping[str, Callable[..., tuple[float, float]]] = {
    'Add': lambda a, b: (a.low + b.low, a.high + b.high),
    'Sub': lambda a, b: (a.low - b.high, a.high - b.low),
    'Mul': _product,
    'Div': _quotient,
    'Neg': lambda a: (-a.high, -a.low),
    'Abs': _size,
    'Relu': lambda a: (max(a.low, 0.0), max(a.high, 0.0)),
}
