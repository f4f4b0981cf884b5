# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compute the sums over the passes in strips of rows, each small enough for a CPU's cache.

A runtime computes one operator after another on all passes of all pixels, so megabytes go through
memory for each of twenty operators. Operators that treat each pixel separately can instead process
a few rows at a time, which takes two thirds of the time. Two slow operators are replaced besides,
which rounds differently. The bundle's graph is not changed, since GPUs are faster without strips.
"""

from __future__ import annotations

from collections.abc import Iterator
import math
from typing import Any

import numpy as np

from uncertainty_seg.backends.runner import (
    MAX_CHUNK,
    SUM_ENTROPY,
    SUM_P,
    SUMS,
    tensor_shapes,
)

# Size of the largest tensor of a strip: two or three such tensors fit into a core's L2 cache.
STRIP_BYTES = 2**19
# Names of tensors of the sums: the probabilities, and each pass's sum of exponentials.
_P, _TOTAL, _LOG_TOTAL = 'sums_p', 'sums_total', 'sums_log_total'
# Each strip costs a few microseconds per operator, and a few milliseconds when opened.
MOST_STRIPS = 64
# Splitting a larger input tensor costs more than the strips save (DeepLabV3+ with 250 MB before
# its last convolution: 9 %).
MOST_CUT_BYTES = 12 * 2**20
_ELEMENTWISE = frozenset({
    'Abs', 'Add', 'Cast', 'Clip', 'Div', 'Equal', 'Exp', 'Identity', 'Log', 'Max', 'Min', 'Mul',
    'Neg', 'Pow', 'Relu', 'Sigmoid', 'Sqrt', 'Sub', 'Tanh', 'Where',
})
_REDUCING = frozenset({'ReduceMax', 'ReduceMean', 'ReduceSum'})
_Shape = tuple[int, ...]


def in_strips(content: bytes, passes: int) -> bytes:
    """
    Return passes.onnx as a graph that computes the same sums in strips of rows.

    `passes` is the number of passes per call. The strips contain the last operators of the graph,
    as far back as each treats pixels separately or slices larger planes. The content is returned
    unchanged if one strip is enough.
    """
    import onnx

    model = onnx.load_model_from_string(content)
    rows = _Rows(model, passes)
    inside = rows.last_nodes()
    made = {name for node in inside for name in node.output}
    cut = {name for node in inside for name in node.input if name not in made and rows.end(name)}
    largest, largest_cut = (max(map(rows.num_bytes, names), default=0) for names in (made, cut))
    count = min(math.ceil(largest / STRIP_BYTES), rows.height, MOST_STRIPS)
    if count < 2 or largest_cut > MOST_CUT_BYTES or not made.issuperset(SUMS):
        return content
    nodes = [node for node in model.graph.node if not made.intersection(node.output)]
    inside = list(_with_faster_sums(inside, rows.shapes[SUM_P][0]))
    nodes += _Strips(model, rows, inside, sorted(cut), count).nodes()
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for weight in [one for one in model.graph.initializer if one.name not in used]:
        model.graph.initializer.remove(weight)
    return bytes(model.SerializeToString())


def _with_faster_sums(nodes: list[Any], num_classes: int) -> Iterator[Any]:
    """Replace a division by a reciprocal, and the logarithms of all passes by one of a product."""
    import onnx

    # Each total lies in 1..C, so the product over the passes of a chunk is at most C^25.
    is_finite = num_classes ** MAX_CHUNK < float(np.finfo(np.float32).max)
    for node in nodes:
        made = node.output[0]
        if (node.op_type, made) == ('Div', _P):
            yield onnx.helper.make_node('Reciprocal', [_TOTAL], [f'{made}_factor'])
            yield onnx.helper.make_node('Mul', [node.input[0], f'{made}_factor'], [made])
        elif is_finite and node.input[0] == _LOG_TOTAL:
            product = f'{made}_product'
            yield onnx.helper.make_node('ReduceProd', [_TOTAL, node.input[1]], [product],
                                        keepdims=0)
            yield onnx.helper.make_node('Log', [product], [made])
        elif not (is_finite and made == _LOG_TOTAL):
            yield node


class _Rows:
    """Finds tensors with the rows of the sums, and operators that treat rows separately."""

    def __init__(self, model: Any, passes: int) -> None:
        self.shapes: dict[str, _Shape] = tensor_shapes(model, passes)
        self.height, self.width = self.shapes[SUM_ENTROPY]
        self._graph = model.graph
        self.constants = {weight.name: weight for weight in model.graph.initializer}
        self.shapes |= {name: tuple(one.dims) for name, one in self.constants.items()}

    def end(self, name: str) -> int:
        """Return how many last axes hold rows and columns: 2, 1 if they are merged, or 0."""
        shape = self.shapes.get(name, ())
        if shape[-2:] == (self.height, self.width):
            return 2
        return int(shape[-1:] == (self.height * self.width,))

    def num_bytes(self, name: str) -> int:
        """Return the size in bytes of a tensor with 32-bit elements."""
        return 4 * math.prod(self.shapes[name])

    def last_nodes(self) -> list[Any]:
        """Return the last operators that treat each pixel separately, in their order."""
        found: list[Any] = []
        # Tensors that an operator outside the strips needs as a whole.
        whole: set[str] = set()
        for node in reversed(self._graph.node):
            if not whole.intersection(node.output) and self._is_alone(node):
                found.append(node)
            else:
                whole.update(node.input)
        return found[::-1]

    def _is_alone(self, node: Any) -> bool:
        ends = [self.end(name) for name in node.output]
        if 0 in ends or len(set(ends)) > 1:
            return False
        kind, inputs = node.op_type, [name for name in node.input if name]
        if kind in _ELEMENTWISE:
            return all(self._is_broadcast(name, ends[0]) for name in inputs)
        if kind == 'Reshape':
            return self.end(inputs[0]) > 0 and self._target(node) is not None
        if kind == 'MatMul':
            return ends[0] == self.end(inputs[1]) == 1 and self.end(inputs[0]) == 0
        if kind == 'Slice':
            return self._is_part(node)
        if kind == 'Concat':
            axis, rank = node.attribute[0].i, len(self.shapes[node.output[0]])
            return axis % rank < rank - 2 and all(self.end(name) == 2 for name in inputs)
        return kind in _REDUCING and self.end(inputs[0]) == 2 and self._is_before(node)

    def _is_broadcast(self, name: str, end: int) -> bool:
        """Return whether an elementwise operator's input has the rows, or is equal in all rows."""
        shape = self.shapes.get(name)
        return self.end(name) == end or (
            shape is not None and not self.end(name) and set(shape[-end:]) <= {1})

    def _is_before(self, node: Any) -> bool:
        """Return whether a reduction has constant axes, all before rows and columns."""
        axes, rank = self.numbers(node.input[-1]), len(self.shapes[node.input[0]])
        return bool(axes) and all(axis % rank < rank - 2 for axis in axes)

    def _target(self, node: Any) -> list[int] | None:
        """Return the target shape of a Reshape; None if rows or columns are implied by -1 or 0."""
        target = self.numbers(node.input[1])
        return target if target and min(target[-self.end(node.output[0]):]) > 0 else None

    def _is_part(self, node: Any) -> bool:
        """Return whether a Slice takes adjacent rows and columns of a larger plane."""
        first, stop, axes, *steps = map(self.numbers, node.input[1:])
        return (not self.end(node.input[0]) and len(first) == 2 and axes == [2, 3]
                and min(*first, *stop) >= 0 and all(set(one) == {1} for one in steps))

    def numbers(self, name: str) -> list[int]:
        """Return the integers of a constant; an empty list for other tensors."""
        import onnx

        one = self.constants.get(name)
        return [] if one is None else [int(v) for v in onnx.numpy_helper.to_array(one).ravel()]

    def target_of_strip(self, node: Any, height: int) -> list[int]:
        """Return the target shape of a Reshape in a strip of `height` rows."""
        target = self.numbers(node.input[1])
        if self.end(node.output[0]) == 2:
            return [*target[:-2], height, self.width]
        return [*target[:-1], height * self.width]


class _Strips:
    """Writes the last operators of a graph once per strip, and the nodes that join the sums."""

    def __init__(
        self, model: Any, rows: _Rows, inside: list[Any], cut: list[str], count: int
    ) -> None:
        self._graph, self._rows, self._inside = model.graph, rows, inside
        # Inputs of the strips that have the rows.
        self._cut = cut
        self._own = {name for node in inside for name in node.output} | {*cut}
        self._heights = [rows.height // count + (index < rows.height % count)
                         for index in range(count)]

    def nodes(self) -> Iterator[Any]:
        """Yield the nodes that replace the operators in `inside`."""
        import onnx

        node = onnx.helper.make_node
        for name in self._cut:
            end = self._rows.end(name)
            sizes = [height * (self._rows.width if end == 1 else 1) for height in self._heights]
            yield node('Split', [name, self._constant(f'{name}_sizes', sizes)],
                       [self._strip(name, index) for index in range(len(sizes))],
                       axis=len(self._rows.shapes[name]) - end)
        for index, height in enumerate(self._heights):
            yield from self._one(index, height, sum(self._heights[:index]))
        # All sums of a strip are joined first, so that a runtime finishes one strip before the
        # next.
        yield node('Concat', [f'strip_{index}' for index in range(len(self._heights))],
                   ['strips'], axis=1)
        planes = [self._rows.shapes[name][0] if self._is_deep(name) else 1 for name in SUMS]
        yield node('Split', ['strips', self._constant('planes', planes)],
                   [name if self._is_deep(name) else f'{name}_deep' for name in SUMS], axis=0)
        for name in SUMS:
            if not self._is_deep(name):
                yield node('Squeeze', [f'{name}_deep', self._constant('deep_axis', [0])], [name])

    def _one(self, index: int, height: int, first: int) -> Iterator[Any]:
        import onnx

        for original in self._inside:
            made = type(original)()
            made.CopyFrom(original)
            made.name = ''
            for names in (made.input, made.output):
                names[:] = [self._strip(name, index) for name in names]
            if made.op_type == 'Slice':
                (row, column), (_, stop) = map(self._rows.numbers, original.input[1:3])
                made.input[1] = self._constant(f'from_{row + first}_{column}',
                                               [row + first, column])
                made.input[2] = self._constant(f'to_{row + first + height}_{stop}',
                                               [row + first + height, stop])
            if made.op_type == 'Reshape':
                target = self._rows.target_of_strip(original, height)
                made.input[1] = self._constant(f'{original.output[0]}_{height}_rows', target)
            yield made
        parts = [self._strip(name, index) for name in SUMS]
        for place, name in enumerate(SUMS):
            if not self._is_deep(name):
                yield onnx.helper.make_node(
                    'Unsqueeze', [parts[place], self._constant('deep_axis', [0])],
                    [f'{parts[place]}_deep'])
                parts[place] += '_deep'
        yield onnx.helper.make_node('Concat', parts, [f'strip_{index}'], axis=0)

    def _strip(self, name: str, index: int) -> str:
        return f'{name}_strip_{index}' if name in self._own else name

    def _is_deep(self, name: str) -> bool:
        return len(self._rows.shapes[name]) == 3

    def _constant(self, name: str, values: list[int]) -> str:
        import onnx

        name = f'strips_{name}'
        if name not in self._rows.constants:
            made = onnx.numpy_helper.from_array(np.array(values, np.int64), name)
            self._rows.constants[name] = made
            self._graph.initializer.append(made)
        return name
