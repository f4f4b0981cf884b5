# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Let a graph exported for one image take T passes, wherever it was written for a batch of 1.

An exporter writes the batch into reshapes, sizes and joins as the number 1. Where a mask reaches
such a node it is rewritten so that T follows from its input; what cannot be, is refused by name.

"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.onnx_tools import (
    constants,
    copy_of,
    replace_nodes,
    shapes,
)
from uncertainty_seg.graph.passes_axis import find_passes, FoundPasses
from uncertainty_seg.graph.passes_rules import PassesAxis

_RESHAPES = ('Reshape', 'Flatten', 'Squeeze', 'Unsqueeze')
_BROADCASTS = ('Add', 'Sub', 'Mul', 'Div', 'Pow', 'Min', 'Max', 'Mean', 'Sum', 'Where', 'Equal',
               'Less', 'Greater', 'LessOrEqual', 'GreaterOrEqual', 'And', 'Or', 'Xor', 'Mod',
               'PRelu', 'MatMul')


def free_passes(model: onnx.ModelProto, sites: Iterable[DropoutSite]) -> onnx.ModelProto:
    """
    Rewrite what depends on the number of passes.

    Parameters
    ----------
    model : ModelProto
        From `dropout_to_masks`, whole or its head, shape arithmetic folded; left as it is.
    sites : iterable of DropoutSite
        Its mask inputs.

    Returns
    -------
    ModelProto
        Computes for T masks what the graph of one pass computes for each.

    Raises
    ------
    GraphError
        With the node at which passes would mix, if the output depends on it.

    """
    result = copy_of(model)
    sites = tuple(sites)
    known = shapes(one_pass(model, sites))
    # Masks are laid out as (T, ...): whatever inner they have is on axes of their own.
    seeds = {site.name: PassesAxis(0) for site in sites}
    found = find_passes(model.graph.node, known, constants(model.graph), seeds)
    for info in model.graph.output:
        if info.name in found.lost:
            raise GraphError(f'passes would mix at {found.lost[info.name]}',
                             'an operation that treats every image of a batch alike',
                             'write that step without the batch size, or move the dropout '
                             'behind it')
    editor = _Editor(result, known, found, sites)
    nodes = [new for node in result.graph.node for new in editor.freed(node)]
    replace_nodes(result.graph, [*editor.front, *nodes])
    del result.graph.value_info[:]
    for info in result.graph.output:
        info.type.tensor_type.ClearField('shape')  # it held the batch too
    return result


def one_pass(model: onnx.ModelProto, sites: Iterable[DropoutSite]) -> onnx.ModelProto:
    """Return the graph with T = 1, whose shapes are all static."""
    fixed = copy_of(model)
    names = {site.name for site in sites}
    for info in fixed.graph.input:
        if info.name in names:
            info.type.tensor_type.shape.dim[0].Clear()
            info.type.tensor_type.shape.dim[0].dim_value = 1
    del fixed.graph.value_info[:]
    return fixed


class _Editor:
    """Rewrites one node after the other; `front` holds what goes before all."""

    def __init__(
        self, model: onnx.ModelProto, known: dict[str, tuple[int, ...]], found: FoundPasses,
        sites: tuple[DropoutSite, ...],
    ) -> None:
        self.front: list[onnx.NodeProto] = []
        self._graph = model.graph
        self._known, self._found, self._sites = known, found, sites

    def freed(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return what to put in place of a node."""
        axis = self._found.axes.get(node.output[0])
        if axis is None:
            return [node]
        if node.op_type in _RESHAPES:
            return [self._reshape(node, axis)]
        if node.op_type == 'Expand':
            return [self._expand(node, axis)]
        if node.op_type == 'Resize' and len(node.input) > 3 and node.input[3]:
            return [self._resize(node)]
        if node.op_type == 'Conv' and node.input[1] in self._found.axes:
            raise GraphError(f'the weights of Conv {node.name or node.output[0]!r} depend on '
                             'dropout', 'a 1x1 or depthwise convolution of that kind')
        if node.op_type == 'Concat' or node.op_type in _BROADCASTS:
            return self._stretched(node, axis)
        return [node]

    def _constant(self, name: str, values: np.ndarray) -> str:
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _reshape(self, node: onnx.NodeProto, axis: PassesAxis) -> onnx.NodeProto:
        shape = list(self._known[node.output[0]])
        shape[axis.axis] = -1
        name = self._constant(f'{node.output[0]}_free', np.array(shape, np.int64))
        return helper.make_node('Reshape', [node.input[0], name], list(node.output),
                                name=node.name)

    def _expand(self, node: onnx.NodeProto, axis: PassesAxis) -> onnx.NodeProto:
        shape = list(self._known[node.output[0]])
        shape[axis.axis] = 1  # keeps what the input has there
        name = self._constant(f'{node.output[0]}_free', np.array(shape, np.int64))
        return helper.make_node('Expand', [node.input[0], name], list(node.output),
                                name=node.name)

    def _resize(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Say the size by scales, which hold no batch."""
        old, new = self._known[node.input[0]], self._known[node.output[0]]
        scales = np.array([_scale(a, b) for a, b in zip(old, new, strict=True)], np.float32)
        name = self._constant(f'{node.output[0]}_free', scales)
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        del twin.input[2:]
        twin.input.append(name)
        return twin

    def _stretched(self, node: onnx.NodeProto, axis: PassesAxis) -> list[onnx.NodeProto]:
        """Repeat for every pass the inputs that would not broadcast."""
        before: list[onnx.NodeProto] = []
        rank = len(self._known[node.output[0]])
        if node.op_type == 'MatMul' and axis.axis >= rank - 2:
            return [node]
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        for index, name in enumerate(node.input):
            shape = self._known.get(name)
            if not name or name in self._found.axes or shape is None:
                continue
            at = axis.axis - (rank - len(shape))
            if at < 0 or (shape[at] == 1 and node.op_type != 'Concat'):
                continue
            nodes, repeated = self._repeat(name, shape, axis.at(at), f'{node.output[0]}_in{index}')
            before += nodes
            twin.input[index] = repeated
        return [*before, twin]

    def _repeat(
        self, name: str, shape: tuple[int, ...], axis: PassesAxis, prefix: str
    ) -> tuple[list[onnx.NodeProto], str]:
        """Repeat a tensor T times where the passes are."""
        before, behind = shape[:axis.axis], shape[axis.axis + 1:]
        if shape[axis.axis] != axis.size:
            raise GraphError(f'{name!r} of shape {shape} meets passes on an axis of {axis.size}',
                             'a network whose batch axis is not stretched')
        left, right = (*before, axis.outer), (axis.inner, *behind)
        rows = self._constant(f'{prefix}_one', np.array((*left, 1, *right), np.int64))
        front = self._constant(f'{prefix}_left', np.array(left, np.int64))
        back = self._constant(f'{prefix}_right', np.array(right, np.int64))
        flat = self._constant(f'{prefix}_flat', np.array((*before, -1, *behind), np.int64))
        return [
            helper.make_node('Reshape', [name, rows], [f'{prefix}_own']),
            helper.make_node('Concat', [front, self._passes(), back], [f'{prefix}_size'], axis=0),
            helper.make_node('Expand', [f'{prefix}_own', f'{prefix}_size'], [f'{prefix}_all']),
            helper.make_node('Reshape', [f'{prefix}_all', flat], [f'{prefix}_repeated']),
        ], f'{prefix}_repeated'

    def _passes(self) -> str:
        """Return a tensor that holds T, int64 (1,)."""
        if not self.front:
            first = self._constant('passes_from', np.array([0], np.int64))
            stop = self._constant('passes_to', np.array([1], np.int64))
            self.front = [
                helper.make_node('Shape', [self._sites[0].name], ['passes_shape']),
                helper.make_node('Slice', ['passes_shape', first, stop], ['passes_count']),
            ]
        return 'passes_count'


def _scale(old: int, new: int) -> np.float32:
    """Return the float32 by which a runtime comes from the old size to the new."""
    scale = np.float32(new / old)
    while int(scale * np.float32(old)) < new:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale
