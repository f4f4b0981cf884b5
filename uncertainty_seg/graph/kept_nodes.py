# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write a head that computes kept channels only.

Tensors keep their names. Where one has K channels a pass instead of all, `_Kept` says which;
`kept_channels` decides where that is.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
import onnx
from onnx import helper

from uncertainty_seg.graph.masked_graph import (
    add_constant,
    drop_unused,
    MaskedView,
    with_passes,
)
from uncertainty_seg.graph.onnx_tools import replace_nodes


@dataclass(frozen=True)
class _Kept:
    """
    Which channels of a tensor there are.

    Attributes
    ----------
    index : str
        Int64 (T, K), ascending: their numbers.
    values : str
        Float32 (T, K): what they are yet to be multiplied by; empty for nothing.
    count : int
        K.

    """

    index: str
    values: str
    count: int


def with_kept_channels(
    head: onnx.ModelProto, view: MaskedView, kept: Mapping[str, int], made: Mapping[str, str],
    chunk: int,
) -> onnx.ModelProto:
    """
    Rewrite a head.

    Parameters
    ----------
    head : ModelProto
        Left as it is.
    view : MaskedView
        Of it.
    kept : mapping of str to int
        Masks whose channels are chosen, each with K.
    made : mapping of str to str
        Tensors made for the channels of a mask alone: that mask.
    chunk : int
        T.

    Returns
    -------
    ModelProto
        Of `chunk` passes.

    """
    result = with_passes(head, chunk)
    writer = _Writer(result.graph, view, chunk, made)
    nodes = [node for mask, count in kept.items() for node in writer.choose(mask, count)]
    for node in result.graph.node:
        nodes += writer.rewrite(node)
    replace_nodes(result.graph, nodes)
    drop_unused(result.graph)
    return result


class _Writer:
    """Rewrites nodes in the order of the graph and remembers who has which channels."""

    def __init__(
        self, graph: onnx.GraphProto, view: MaskedView, chunk: int, made: Mapping[str, str]
    ) -> None:
        self._graph, self._view, self._chunk, self._made = graph, view, chunk, made
        self._chosen: dict[str, _Kept] = {}
        self._kept: dict[str, _Kept] = {}

    def choose(self, mask: str, count: int) -> list[onnx.NodeProto]:
        """Find the channels that a mask keeps, in ascending order and without ties."""
        channels = self._view.shapes[mask][1]
        self._chosen[mask] = _Kept(f'{mask}_index', f'{mask}_values', count)
        rows = self._constant(f'{mask}_row_shape', [self._chunk, channels])
        twice = self._constant(f'{mask}_twice', 2 * channels, np.float32)
        order = self._constant(f'{mask}_order', np.arange(channels, 0, -1)[None], np.float32)
        number = self._constant(f'{mask}_number', [count])
        return [
            _node('Reshape', [mask, rows], f'{mask}_rows'),
            _node('Sign', [f'{mask}_rows'], f'{mask}_is_kept'),
            _node('Mul', [f'{mask}_is_kept', twice], f'{mask}_bonus'),
            _node('Add', [f'{mask}_bonus', order], f'{mask}_rank'),
            helper.make_node('TopK', [f'{mask}_rank', number],
                             [f'{mask}_top', f'{mask}_index'], axis=1),
            _node('GatherElements', [f'{mask}_rows', f'{mask}_index'], f'{mask}_values', axis=1),
        ]

    def rewrite(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return what takes the place of a node."""
        found = self._view.masked(node)
        if found is not None and found[1] in self._chosen:
            return self._apply(node, *found)
        out = node.output[0]
        if out not in self._made and not any(name in self._kept for name in node.input):
            return [node]
        if node.op_type == 'Conv':
            return self._convolve(node)
        if node.op_type == 'Concat':
            return self._join(node)
        first = self._kept[next(name for name in node.input if name in self._kept)]
        self._kept[out] = first
        if node.op_type == 'Resize':
            return [self._resize(node, first.count)]
        nodes: list[onnx.NodeProto] = []
        if len(node.input) == 2 and out in self._made:  # arithmetic with what has all channels
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for i, name in enumerate(node.input):
                if name not in self._kept and self._channels(name) > 1:
                    nodes += self._gather(name, first, f'{out}_side_{i}')
                    copy.input[i] = f'{out}_side_{i}'
            node = copy
        return [*nodes, node]

    def _apply(self, mul: onnx.NodeProto, data: str, mask: str) -> list[onnx.NodeProto]:
        """Drop the product with a mask: the convolutions behind take its values as weights."""
        out = mul.output[0]
        self._kept[out] = self._chosen[mask]
        if data in self._kept:
            return [_node('Identity', [data], out)]
        return self._gather(data, self._chosen[mask], out)

    def _gather(self, name: str, kept: _Kept, out: str) -> list[onnx.NodeProto]:
        """Pick channels of a tensor that has all of them."""
        shape = self._view.shapes[name]
        _, channels, rows, columns = (1,) * (4 - len(shape)) + shape
        if name not in self._view.touched:
            flat = self._constant(f'{out}_flat', [channels, rows, columns])
            return [_node('Reshape', [name, flat], f'{out}_planes'),
                    _node('Gather', [f'{out}_planes', kept.index], out, axis=0)]
        flat = self._constant(f'{out}_flat', [self._chunk * channels, rows, columns])
        first = self._constant(f'{out}_first', channels * np.arange(self._chunk)[:, None])
        return [_node('Reshape', [name, flat], f'{out}_planes'),
                _node('Add', [kept.index, first], f'{out}_where'),
                _node('Gather', [f'{out}_planes', f'{out}_where'], out, axis=0)]

    def _convolve(self, conv: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Write one group a pass, with the weights that it needs."""
        data, out = conv.input[0], conv.output[0]
        columns = self._kept.get(data)
        rows = self._chosen[self._made[out]] if out in self._made else None
        inputs, outputs = self._channels(data), self._channels(out)
        if columns is not None:
            inputs = columns.count
        if rows is not None:
            outputs = rows.count
            self._kept[out] = _Kept(rows.index, '', rows.count)
        nodes = self._weights(conv, rows, columns)
        kernel = self._view.shapes[conv.input[1]][2:]
        stack = self._constant(f'{out}_stack_shape', [self._chunk * outputs, inputs, *kernel])
        wide = self._constant(f'{out}_wide', [
            1, self._chunk * inputs, *self._view.shapes[data][2:]])
        back = self._constant(f'{out}_back', [
            self._chunk, outputs, *self._view.shapes[out][2:]])
        bias, more = self._bias(conv, rows)
        grouped = _node('Conv', [f'{out}_grouped', f'{out}_stack', *bias], f'{out}_groups',
                        group=self._chunk)
        grouped.attribute.extend(a for a in conv.attribute if a.name != 'group')
        return [*nodes, *more, _node('Reshape', [f'{out}_gathered', stack], f'{out}_stack'),
                _node('Reshape', [data, wide], f'{out}_grouped'), grouped,
                _node('Reshape', [f'{out}_groups', back], out)]

    def _weights(
        self, conv: onnx.NodeProto, rows: _Kept | None, columns: _Kept | None
    ) -> list[onnx.NodeProto]:
        """Gather weights (T, R, K, k, k) of the rows and columns that there are."""
        out = conv.output[0]
        outputs, inputs, *kernel = self._view.shapes[conv.input[1]]
        if columns is None:
            which = rows.index if rows else self._constant(
                f'{out}_rows', np.tile(np.arange(outputs), (self._chunk, 1)))
            return [_node('Gather', [conv.input[1], which], f'{out}_gathered', axis=0)]
        flat = self._constant(f'{out}_flat', [outputs * inputs, *kernel])
        across = self._constant(f'{out}_across', [self._chunk, 1, -1])
        nodes = [_node('Reshape', [conv.input[1], flat], f'{out}_list')]
        if rows is None:
            first = self._constant(f'{out}_rows', inputs * np.arange(outputs)[None, :, None])
        else:
            first = f'{out}_rows'
            width = self._constant(f'{out}_width', inputs)
            down = self._constant(f'{out}_down', [self._chunk, -1, 1])
            nodes += [_node('Mul', [rows.index, width], f'{out}_starts'),
                      _node('Reshape', [f'{out}_starts', down], first)]
        nodes += [_node('Reshape', [columns.index, across], f'{out}_columns'),
                  _node('Add', [first, f'{out}_columns'], f'{out}_where'),
                  _node('Gather', [f'{out}_list', f'{out}_where'], f'{out}_picked', axis=0)]
        factor = self._constant(f'{out}_factor_shape', [self._chunk, 1, -1, *[1] * len(kernel)])
        return [*nodes, _node('Reshape', [columns.values, factor], f'{out}_factor'),
                _node('Mul', [f'{out}_picked', f'{out}_factor'], f'{out}_gathered')]

    def _bias(
        self, conv: onnx.NodeProto, rows: _Kept | None
    ) -> tuple[list[str], list[onnx.NodeProto]]:
        if len(conv.input) < 3 or not conv.input[2]:
            return [], []
        out = conv.output[0]
        if rows is None:
            tiled = np.tile(self._view.constants[conv.input[2]], self._chunk)
            return [self._constant(f'{out}_bias', tiled, np.float32)], []
        flat = self._constant(f'{out}_bias_shape', [-1])
        return [f'{out}_bias'], [
            _node('Gather', [conv.input[2], rows.index], f'{out}_biases', axis=0),
            _node('Reshape', [f'{out}_biases', flat], f'{out}_bias')]

    def _join(self, concat: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Join the lists of channels as the tensors are joined."""
        out, nodes, start = concat.output[0], [], 0
        indices, values, count = [], [], 0
        for i, name in enumerate(concat.input):
            kept, channels = self._kept.get(name), self._channels(name)
            if kept is None:
                everything = np.tile(start + np.arange(channels), (self._chunk, 1))
                indices.append(self._constant(f'{out}_all_{i}', everything))
                values.append(self._constant(
                    f'{out}_ones_{i}', np.ones((self._chunk, channels)), np.float32))
            else:
                offset = self._constant(f'{out}_offset_{i}', start)
                nodes.append(_node('Add', [kept.index, offset], f'{out}_moved_{i}'))
                indices.append(f'{out}_moved_{i}')
                values.append(kept.values)
            start, count = start + channels, count + (kept.count if kept else channels)
        self._kept[out] = _Kept(f'{out}_index', f'{out}_values', count)
        return [*nodes, _node('Concat', indices, f'{out}_index', axis=1),
                _node('Concat', values, f'{out}_values', axis=1), concat]

    def _resize(self, resize: onnx.NodeProto, count: int) -> onnx.NodeProto:
        """Say the number of channels where the size of the result is given."""
        if len(resize.input) < 4 or not resize.input[3]:
            return resize
        copy = onnx.NodeProto()
        copy.CopyFrom(resize)
        out = resize.output[0]
        copy.input[3] = self._constant(f'{out}_sizes', [
            self._chunk, count, *self._view.shapes[out][2:]])
        return copy

    def _channels(self, name: str) -> int:
        shape = self._view.shapes[name]
        return ((1,) * (4 - len(shape)) + shape)[1]

    def _constant(self, wish: str, values: ArrayLike, dtype: type = np.int64) -> str:
        return add_constant(self._graph, wish, values, dtype)


def _node(
    op: str, inputs: Sequence[str], output: str, **attributes: object
) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], **attributes)
