# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write a head that computes kept channels only: for one pass, and for a chunk of them.

One pass at a time beat all passes of a chunk as groups of one convolution: in OpenVINO by far,
since it reorders memory around grouped convolutions, and in ONNX Runtime by a little. So a chunk
is the head of one pass repeated. Tensors keep their names; where one has K channels instead of
all, `_Kept` says which.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from uncertainty_seg.graph.onnx_tools import copy_of, replace_nodes


@dataclass(frozen=True)
class _Kept:
    """
    Which channels of a tensor there are.

    Attributes
    ----------
    index : str
        Int64 (K,), ascending: their numbers.
    values : str
        Float32 (1, K, 1, 1): what they are yet to be multiplied by; empty for nothing.
    count : int
        K.

    """

    index: str
    values: str
    count: int


def with_kept_channels(
    head: onnx.ModelProto, view: MaskedView, kept: Mapping[str, int], made: Mapping[str, str]
) -> onnx.ModelProto:
    """
    Rewrite a head for one pass.

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

    Returns
    -------
    ModelProto
        Of one pass.

    """
    result = with_passes(head, 1)
    writer = _KeptWriter(result.graph, view, made)
    nodes: list[onnx.NodeProto] = []
    for mask, count in kept.items():
        nodes += writer.choose(mask, count)
    for node in result.graph.node:
        nodes += writer.rewrite(node)
    replace_nodes(result.graph, nodes)
    drop_unused(result.graph)
    return result


def repeated(head: onnx.ModelProto, masks: Iterable[str], chunk: int) -> onnx.ModelProto:
    """
    Repeat a head of one pass for a chunk.

    Parameters
    ----------
    head : ModelProto
        Of one pass; left as it is.
    masks : iterable of str
        Inputs that differ from pass to pass.
    chunk : int
        Passes, at least 1.

    Returns
    -------
    ModelProto
        Masks and output have `chunk` in place of 1.

    """
    if chunk == 1:
        return head
    result, masks = copy_of(head), [m for m in masks if any(i.name == m for i in head.graph.input)]
    graph, touched = result.graph, set(masks)
    for info in (*graph.input, *graph.output):
        if info.name in touched or info in graph.output:
            info.type.tensor_type.shape.dim[0].dim_value = chunk
    nodes: list[onnx.NodeProto] = []
    for mask in masks:
        parts = [f'{mask}_pass_{t}' for t in range(chunk)]
        nodes.append(helper.make_node('Split', [mask], parts, axis=0))
    shared = [n for n in graph.node if not _depends(n, touched)]
    nodes += shared
    for t in range(chunk):
        nodes += [_of_pass(n, touched, t) for n in graph.node if n not in shared]
    for info in graph.output:
        outputs = [f'{info.name}_pass_{t}' for t in range(chunk)]
        nodes.append(helper.make_node('Concat', outputs, [info.name], axis=0))
    replace_nodes(graph, nodes)
    return result


def _depends(node: onnx.NodeProto, touched: set[str]) -> bool:
    """Say whether a node takes one of these tensors, and if so count its outputs among them."""
    is_touched = any(name in touched for name in node.input)
    if is_touched:
        touched.update(node.output)
    return is_touched


def _of_pass(node: onnx.NodeProto, touched: set[str], number: int) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    if copy.name:
        copy.name = f'{node.name}_pass_{number}'
    for names in (copy.input, copy.output):
        for i, name in enumerate(names):
            if name in touched:
                names[i] = f'{name}_pass_{number}'
    return copy


class _KeptWriter:
    """Rewrites nodes in the order of the graph and remembers who has which channels."""

    def __init__(
        self, graph: onnx.GraphProto, view: MaskedView, made: Mapping[str, str]
    ) -> None:
        self._graph, self._view, self._made = graph, view, made
        self._chosen: dict[str, _Kept] = {}
        self._kept: dict[str, _Kept] = {}

    def choose(self, mask: str, count: int) -> list[onnx.NodeProto]:
        """Find the channels that a mask keeps, in ascending order and without ties."""
        channels = self._view.shapes[mask][1]
        self._chosen[mask] = _Kept(f'{mask}_index', f'{mask}_values', count)
        flat = self._constant(f'{mask}_flat_shape', [channels])
        twice = self._constant(f'{mask}_twice', 2 * channels, np.float32)
        order = self._constant(f'{mask}_order', np.arange(channels, 0, -1), np.float32)
        number = self._constant(f'{mask}_number', [count])
        return [
            _node('Reshape', [mask, flat], f'{mask}_flat'),
            _node('Sign', [f'{mask}_flat'], f'{mask}_is_kept'),
            _node('Mul', [f'{mask}_is_kept', twice], f'{mask}_bonus'),
            _node('Add', [f'{mask}_bonus', order], f'{mask}_rank'),
            helper.make_node('TopK', [f'{mask}_rank', number], [f'{mask}_top', f'{mask}_index'],
                             axis=0),
            _node('Gather', [mask, f'{mask}_index'], f'{mask}_values', axis=1),
        ]

    def rewrite(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return what takes the place of a node."""
        found, out = self._view.masked(node), node.output[0]
        if found is not None and found[1] in self._chosen:
            return self._apply(out, *found)
        if out not in self._made and not any(name in self._kept for name in node.input):
            return [node]
        if node.op_type == 'Conv':
            return self._convolve(node)
        if node.op_type == 'Concat':
            return self._join(node)
        kept = self._kept[out] = next(self._kept[n] for n in node.input if n in self._kept)
        if node.op_type == 'Resize':
            return [self._resize(node, kept.count)]
        nodes: list[onnx.NodeProto] = []
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for i, name in enumerate(node.input):
            if name and name not in self._kept and self._channels(name) > 1:
                nodes.append(self._pick(name, kept, f'{out}_side_{i}'))
                copy.input[i] = f'{out}_side_{i}'
        return [*nodes, copy]

    def _apply(self, out: str, data: str, mask: str) -> list[onnx.NodeProto]:
        """Drop the product with a mask: the convolutions behind take its values as weights."""
        kept = self._kept[out] = self._chosen[mask]
        if data in self._kept:
            return [_node('Identity', [data], out)]
        return [self._pick(data, kept, out)]

    def _pick(self, name: str, kept: _Kept, out: str) -> onnx.NodeProto:
        """Pick channels of a tensor that has all of them."""
        axis = len(self._view.shapes[name]) - 3
        return _node('Gather', [name, kept.index], out, axis=axis)

    def _convolve(self, conv: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Convolve with the rows and columns of the weights that are needed."""
        out, columns = conv.output[0], self._kept.get(conv.input[0])
        copy, nodes = onnx.NodeProto(), []
        copy.CopyFrom(conv)
        if out in self._made:
            rows = self._chosen[self._made[out]]
            self._kept[out] = _Kept(rows.index, '', rows.count)
            for i, suffix in enumerate(('weight_rows', 'bias_rows'), 1):
                if len(conv.input) > i and conv.input[i]:
                    copy.input[i] = f'{out}_{suffix}'
                    nodes.append(_node('Gather', [conv.input[i], rows.index], copy.input[i],
                                       axis=0))
        if columns is not None:
            nodes += [_node('Gather', [copy.input[1], columns.index], f'{out}_picked', axis=1),
                      _node('Mul', [f'{out}_picked', columns.values], f'{out}_weights')]
            copy.input[1] = f'{out}_weights'
        return [*nodes, copy]

    def _join(self, concat: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Join the lists of channels as the tensors are joined."""
        out, start, count = concat.output[0], 0, 0
        nodes, indices, values = [], [], []
        for i, name in enumerate(concat.input):
            kept, channels = self._kept.get(name), self._channels(name)
            if kept is None:
                indices.append(self._constant(f'{out}_all_{i}', start + np.arange(channels)))
                values.append(self._constant(
                    f'{out}_ones_{i}', np.ones((1, channels, 1, 1)), np.float32))
            else:
                offset = self._constant(f'{out}_offset_{i}', start)
                nodes.append(_node('Add', [kept.index, offset], f'{out}_moved_{i}'))
                indices.append(f'{out}_moved_{i}')
                values.append(kept.values)
            start, count = start + channels, count + (kept.count if kept else channels)
        self._kept[out] = _Kept(f'{out}_index', f'{out}_values', count)
        return [*nodes, _node('Concat', indices, f'{out}_index', axis=0),
                _node('Concat', values, f'{out}_values', axis=1), concat]

    def _resize(self, resize: onnx.NodeProto, count: int) -> onnx.NodeProto:
        """Say the number of channels where the size of the result is given."""
        copy = onnx.NodeProto()
        copy.CopyFrom(resize)
        if len(resize.input) > 3 and resize.input[3]:
            out = resize.output[0]
            copy.input[3] = self._constant(
                f'{out}_sizes', [1, count, *self._view.shapes[out][2:]])
        return copy

    def _channels(self, name: str) -> int:
        return ((1,) * 4 + self._view.shapes[name])[-3]

    def _constant(self, wish: str, values: ArrayLike, dtype: type = np.int64) -> str:
        return add_constant(self._graph, wish, values, dtype)


def _node(
    op: str, inputs: Sequence[str], output: str, **attributes: object
) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], **attributes)
