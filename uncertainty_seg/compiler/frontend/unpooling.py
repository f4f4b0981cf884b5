# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Rewrite max unpooling, as in ENet and SegNet, to a form that works with several passes at once.

Exporters write it as a scatter into one flat tensor, or as MaxUnpool, whose indices count through
the whole batch. If the pooling windows do not overlap, unpooling equals each value repeated over
its window, times a map that is 1 at the position of the maximum. The map needs no pooling indices,
which some runtimes lack. Overlapping windows are rejected by later graph passes.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import onnx

from uncertainty_seg.compiler.algebra.dropout_to_masks import without_dropout
from uncertainty_seg.compiler.onnx_tools import (
    attribute,
    constants,
    consumers,
    copy_of,
    drop_unused,
    NodeWriter,
    refill,
    Shape,
    Shapes,
    shapes,
)

# Operators that change only the shape or type of a tensor of indices.
_FORMS = ('Reshape', 'Unsqueeze', 'Squeeze', 'Flatten', 'Identity', 'Cast')


def write_unpooling(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Rewrite every max unpooling that uses the indices of a max pooling.

    `model` has static shapes and folded constants; it is returned itself if it has no such node. A
    scatter by other indices is kept; later graph passes reject it and name the node.
    """
    if not any(node.op_type in ('ScatterND', 'MaxUnpool') for node in model.graph.node):
        return model
    result = copy_of(model)
    finder = _Finder(result.graph, shapes(without_dropout(model)))
    nodes: list[onnx.NodeProto] = []
    for node in result.graph.node:
        found = finder.unpooling(node)
        if found is None or not found.is_plain:
            nodes.append(node)
            continue
        write = NodeWriter(result.graph, node.output[0])
        _write_map(found, write)
        nodes += write.nodes
    refill(result.graph.node, nodes)
    drop_unused(result.graph)
    for node in result.graph.node:
        if node.op_type == 'MaxPool' and not consumers(result.graph.node, (*node.output, '')[1]):
            del node.output[1:]
    return result


@dataclass(frozen=True)
class _Unpooling:
    """An unpooling: its data and pooling, and the shapes (1, C, h, w) involved."""

    data: str
    pool: onnx.NodeProto
    small: Shape
    full: Shape
    form: Shape

    @property
    def kernel(self) -> tuple[int, ...]:
        """Height and width of a window."""
        return tuple(attribute(self.pool, 'kernel_shape'))

    @property
    def is_plain(self) -> bool:
        """Return whether windows do not overlap and the result has the pooling input's size."""
        pool = self.pool
        return (tuple(attribute(pool, 'strides', [1, 1])) == self.kernel
                and not any(attribute(pool, 'pads', [])) and not attribute(pool, 'ceil_mode', 0)
                and set(attribute(pool, 'dilations', [1])) == {1}
                and attribute(pool, 'auto_pad', 'NOTSET') in ('NOTSET', 'VALID')
                and math.prod(self.form) == math.prod(self.full))


class _Finder:
    """Recognises the forms of unpooling that exporters write."""

    def __init__(self, graph: onnx.GraphProto, known: Shapes) -> None:
        self._known, self._fixed = known, constants(graph)
        self._made = {name: node for node in graph.node for name in node.output}

    def unpooling(self, node: onnx.NodeProto) -> _Unpooling | None:
        """Return the unpooling that a node performs; None if it is no unpooling."""
        if node.op_type == 'MaxUnpool':
            return self._of(node, node.input[0], node.input[1])
        if node.op_type != 'ScatterND' or attribute(node, 'reduction', 'none') != 'none':
            return None
        zeros, indices, values = node.input
        flat = math.prod(self._known.get(zeros, ()))
        if self._known.get(zeros) != (flat,) or not self._is_zero(zeros):
            return None
        source = self._made.get(values)
        if source is None or source.op_type not in _FORMS:
            return None
        return self._of(node, source.input[0], indices)

    def _of(self, node: onnx.NodeProto, data: str, indices: str) -> _Unpooling | None:
        small, form = self._known.get(data, ()), self._known.get(node.output[0], ())
        pool = self._pool(indices, small, math.prod(form) // max(1, math.prod(small[:2])))
        if pool is None:
            return None
        full = self._known.get(pool.input[0], ())
        if self._known.get(pool.output[0]) != small or len(full) != 4:
            return None
        if node.op_type == 'MaxUnpool' and form != full:
            return None
        return _Unpooling(data, pool, small, full, form)

    def _is_zero(self, name: str) -> bool:
        if name in self._fixed:
            return not np.any(self._fixed[name])
        node = self._made.get(name)
        if node is None:
            return False
        if node.op_type == 'ConstantOfShape':
            value = attribute(node, 'value')
            return value is None or not np.any(onnx.numpy_helper.to_array(value))
        return node.op_type in _FORMS and self._is_zero(node.input[0])

    def _pool(self, name: str, small: Shape, plane: int) -> onnx.NodeProto | None:
        """Return the MaxPool of some indices, which may have plane offsets added; None if none."""
        node = self._made.get(name)
        if node is None or len(small) != 4:
            return None
        if node.op_type == 'MaxPool':
            is_planar = not attribute(node, 'storage_order', 0)
            return node if name == node.output[1] and is_planar else None
        if node.op_type in _FORMS:
            return self._pool(node.input[0], small, plane)
        if node.op_type not in ('Add', 'Sub'):
            return None
        data, other = node.input
        if node.op_type == 'Add' and data in self._fixed:
            data, other = other, data
        value = self._fixed.get(other)
        if self._is_start(other) if value is None else not np.any(value % plane):
            return self._pool(data, small, plane)
        return None

    def _is_start(self, name: str) -> bool:
        """Return whether a tensor holds the flat index at which each plane starts."""
        cut = self._made.get(name)
        if cut is None or cut.op_type != 'Slice':
            return False
        pool, starts = self._made.get(cut.input[0]), self._fixed.get(cut.input[1])
        return (pool is not None and pool.op_type == 'MaxPool' and starts is not None
                and set(attribute(pool, 'kernel_shape')) == {1} and not np.any(starts))


def _write_map(found: _Unpooling, write: NodeWriter) -> None:
    """Write values repeated over their windows, times the map of the maxima's positions."""
    scales = np.array([1, 1, *found.kernel], np.float32)
    wide = write.node('Resize', [found.data, '', write.constant('scales', scales)], 'repeated',
                      mode='nearest', coordinate_transformation_mode='asymmetric',
                      nearest_mode='floor')
    result = write.node('Mul', [wide, _places(found, write)], 'placed')
    covered = [n * k for n, k in zip(found.small[2:], found.kernel, strict=True)]
    missing = [n - m for n, m in zip(found.full[2:], covered, strict=True)]
    if any(missing):
        result = write.node('Pad', [result, write.shape('pads', 0, 0, 0, 0, 0, 0, *missing)],
                            'padded')
    write.node('Reshape', [result, write.shape('form', *found.form)])


def _places(found: _Unpooling, write: NodeWriter) -> str:
    """Write the map (1, C, h k, w k) that is 1 at the first maximum of each window, else 0."""
    (batch, channels, rows, columns), (height, width) = found.small, found.kernel
    name = found.pool.input[0]
    if found.full[2:] != (rows * height, columns * width):
        name = write.node('Slice', [name, write.shape('from', 0, 0), write.shape(
            'to', rows * height, columns * width), write.shape('sides', 2, 3)], 'covered')
    cut = (batch, channels, rows, height, columns, width)
    windows = (batch, channels, rows, columns, height, width)
    turn = [0, 1, 2, 4, 3, 5]
    name = write.node('Reshape', [name, write.shape('cut_shape', *cut)], 'cut')
    name = write.node('Transpose', [name], 'windows', perm=turn)
    name = write.node('Reshape', [name, write.shape('flat_shape', *windows[:4], height * width)],
                      'flat')
    name = write.node('ArgMax', [name], 'first', axis=4, keepdims=1)
    numbers = write.constant('numbers', np.arange(height * width).reshape(1, 1, 1, 1, -1),
                             np.int64)
    name = write.node('Equal', [name, numbers], 'is_first')
    name = write.node('Cast', [name], 'ones', to=onnx.TensorProto.FLOAT)
    name = write.node('Reshape', [name, write.shape('windows_shape', *windows)], 'ones_in_windows')
    name = write.node('Transpose', [name], 'ones_in_rows', perm=turn)
    return write.node('Reshape', [name, write.shape(
        'map_shape', batch, channels, rows * height, columns * width)], 'map')
