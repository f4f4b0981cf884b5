# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Channels that a pass drops are not computed.

With balanced masks a site keeps exactly K of its C channels in each pass, though not the same
ones. The convolution before the site then needs K rows of its weights, the one behind it K
columns, gathered for each pass. Exact, but for the order of sums, under balanced masks; under
others it is wrong.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike
import onnx
from onnx import helper

from uncertainty_seg.compiler.algebra.masked_graph import (
    MaskedView,
    touched_by,
    view_of,
    with_passes,
)
from uncertainty_seg.compiler.onnx_tools import (
    add_constant,
    attribute,
    consumers,
    copy_of,
    drop_unused,
    only_user,
    producer,
    refill,
    rename_tensors,
    Shapes,
)
from uncertainty_seg.compiler.plan import Decision, MACS_AN_ELEMENT, node_cost
from uncertainty_seg.core.dropout_masks import kept_channels
from uncertainty_seg.core.model_card import DropoutSite

# A multiply-add of a convolution with gathered weights, against one of a plain one whose weights
# the runtime has packed; the second number over the pixels is added. On one core, 3x3: ONNX
# Runtime 1.32 took 1.7 at 192x256, 1.3 at 48x64 and 24x32, 1.9 at 12x16, 3.5 at 6x8; OpenVINO
# 2026.4 1.0 to 1.3 down to 24x32. In between, the sites of p 0.3 and above are worth it.
_SLOWER, _SLOWER_PIXELS = 1.35, 100
# Each works on every channel by itself.
_BY_CHANNEL = ('Relu', 'LeakyRelu', 'Identity', 'Sigmoid', 'Tanh', 'HardSwish', 'HardSigmoid',
               'Elu', 'Selu', 'Softplus', 'Erf', 'Exp', 'Sqrt', 'Neg', 'Abs', 'Clip', 'MaxPool',
               'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool', 'Resize')
_BINARY = ('Add', 'Sub', 'Mul', 'Div')
# The factor of a mask is put into the weights behind, so these must let it pass.
_FACTOR_PASSES = ('Relu', 'LeakyRelu', 'Identity', 'Neg', 'Abs', 'MaxPool', 'AveragePool',
                  'GlobalAveragePool', 'GlobalMaxPool', 'Resize')


@dataclass(frozen=True)
class _Reach:
    """The surroundings of a site: what is made for its kept channels, and what takes them."""

    made: frozenset[str]
    before: tuple[onnx.NodeProto, ...]
    behind: tuple[tuple[onnx.NodeProto, int], ...]


def keep_channels(
    head: onnx.ModelProto, sites: Iterable[DropoutSite], chunk: int
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """
    Compute only the channels that a pass keeps, where that pays, for `chunk` passes a call.

    The head then takes exactly `chunk` passes of balanced masks; it is as it came if it pays
    nowhere. Decisions are one a site that drops channels; savings are those of one chunk.

    """
    sites = tuple(sites)
    view, decisions = view_of(head, sites), []
    applied: dict[str, int] = {}
    made: dict[str, str] = {}
    for site in sites:
        kept = kept_channels(site)
        if kept == site.shape[0]:
            continue
        reach = _reach(head.graph, site, view)
        reason = reach if isinstance(reach, str) else ''
        saved = 0
        if isinstance(reach, _Reach):
            saved = _saving(reach, site.shape[0], kept, chunk, view)
            reason = '' if saved > 0 else 'to gather the weights costs more than it saves'
        if isinstance(reach, _Reach) and not reason:
            applied[site.name] = kept
            made |= dict.fromkeys(reach.made, site.name)
        decisions.append(Decision(
            'kept_channels', site.name, not reason,
            reason or f'{kept} of {site.shape[0]} channels computed', max(saved, 0)))
    if not applied:
        return head, tuple(decisions)
    once = _with_kept_channels(head, view, applied, made)
    return _repeated(once, [site.name for site in sites], chunk), tuple(decisions)


def _reach(graph: onnx.GraphProto, site: DropoutSite, view: MaskedView) -> _Reach | str:
    users = consumers(graph.node, site.name)
    found = view.masked(users[0]) if len(users) == 1 else None
    if found is None or found[1] != site.name or len(view.shapes[found[0]]) != 4:
        return 'its mask is not applied to an image of its own, or folded already'
    behind = _behind(graph, users[0].output[0], site.shape[0], 0, view)
    if isinstance(behind, str):
        return behind
    made, before = _before(graph, found[0], view) or (frozenset[str](), ())
    return _Reach(made, before, behind)


def _behind(
    graph: onnx.GraphProto, name: str, channels: int, more: int, view: MaskedView
) -> tuple[tuple[onnx.NodeProto, int], ...] | str:
    """Return the convolutions that take a masked tensor, with their other inputs; or why not."""
    if any(info.name == name for info in graph.output):
        return 'it is applied to the output'
    found: list[tuple[onnx.NodeProto, int]] = []
    for user in consumers(graph.node, name):
        out = user.output[0]
        if _is_plain_conv(user, view) and list(user.input).count(name) == 1:
            found.append((user, more))
            continue
        if user.op_type == 'Concat' and attribute(user, 'axis') == 1:
            deeper = _behind(graph, out, channels, view.shapes[out][1] - channels, view)
        elif user.op_type in _FACTOR_PASSES and user.input[0] == name and _keeps_rank(user, view):
            deeper = _behind(graph, out, channels, more, view)
        else:
            return f'{user.op_type} {user.name or out!r} behind it needs all channels'
        if isinstance(deeper, str):
            return deeper
        found += deeper
    return tuple(found)


def _before(
    graph: onnx.GraphProto, name: str, view: MaskedView
) -> tuple[frozenset[str], tuple[onnx.NodeProto, ...]] | None:
    """Return tensors that can be made for some channels only, and the convolutions before."""
    node = producer(graph.node, name)
    if node is None or name not in view.touched or only_user(graph, name) is None:
        return None
    if _is_plain_conv(node, view):
        return frozenset([name]), (node,)
    if node.op_type in _BY_CHANNEL and _keeps_rank(node, view):
        sources = [node.input[0]]
    elif node.op_type in _BINARY and _is_by_channel(node, view):
        sources = [n for n in node.input if n in view.touched]
    else:
        return None
    made, convs = frozenset([name]), ()
    for source in sources:
        deeper = _before(graph, source, view)
        if deeper is None:
            return None
        made, convs = made | deeper[0], (*convs, *deeper[1])
    return made, convs


def _is_plain_conv(node: onnx.NodeProto, view: MaskedView) -> bool:
    return (node.op_type == 'Conv' and attribute(node, 'group', 1) == 1
            and all(name in view.constants for name in node.input[1:] if name)
            and len(view.shapes.get(node.output[0], ())) == 4)


def _keeps_rank(node: onnx.NodeProto, view: MaskedView) -> bool:
    old, new = view.shapes.get(node.input[0], ()), view.shapes.get(node.output[0], ())
    outputs = [name for name in node.output if name]
    return len(old) == len(new) == 4 and old[:2] == new[:2] and len(outputs) == 1


def _is_by_channel(node: onnx.NodeProto, view: MaskedView) -> bool:
    """Whether each input has the channels of the output, or one number for all of them."""
    out = view.shapes.get(node.output[0], ())
    for name in node.input:
        shape = view.shapes.get(name)
        if shape is None or len(out) != 4:
            return False
        wide = (1,) * (4 - len(shape)) + shape
        if wide[1] not in (1, out[1]) or (wide[1] == 1 and name in view.touched):
            return False
    return True


def _saving(reach: _Reach, channels: int, kept: int, chunk: int, view: MaskedView) -> int:
    parts = [(conv, (more + kept) / (more + channels)) for conv, more in reach.behind]
    parts += [(conv, kept / channels) for conv in reach.before]
    return int(chunk * sum(_saved_at(conv, share, view.shapes) for conv, share in parts))


def _saved_at(conv: onnx.NodeProto, share: float, shapes: Shapes) -> float:
    macs = node_cost(conv, shapes).macs
    factor = _SLOWER + _SLOWER_PIXELS / math.prod(shapes[conv.output[0]][2:])
    gathered = MACS_AN_ELEMENT * math.prod(shapes[conv.input[1]])
    return macs - share * (factor * macs + gathered)


# -------------------------------------------------------------------------------------------------
# Write a head that computes kept channels only: for one pass, and for a chunk of them.
# One pass at a time beat all passes of a chunk as groups of one convolution: in OpenVINO by far,
# since it reorders memory around grouped convolutions, and in ONNX Runtime by a little. So a chunk
# is the head of one pass repeated. Tensors keep their names; where one has K channels instead of
# all, `_Kept` lists them.


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


def _with_kept_channels(
    head: onnx.ModelProto, view: MaskedView, kept: Mapping[str, int], made: Mapping[str, str]
) -> onnx.ModelProto:
    """
    Rewrite a head for one pass.

    `kept` gives K of each mask whose channels are chosen, and `made` the mask of each tensor that
    is made for its channels alone.

    """
    result = with_passes(head, 1)
    writer = _KeptWriter(result.graph, view, made)
    nodes: list[onnx.NodeProto] = []
    for mask, count in kept.items():
        nodes += writer.choose(mask, count)
    for node in result.graph.node:
        nodes += writer.rewrite(node)
    refill(result.graph.node, nodes)
    drop_unused(result.graph)
    return result


def _repeated(head: onnx.ModelProto, masks: Iterable[str], chunk: int) -> onnx.ModelProto:
    """Repeat a head of one pass: masks and output have `chunk` in place of 1."""
    if chunk == 1:
        return head
    result, masks = copy_of(head), [m for m in masks if any(i.name == m for i in head.graph.input)]
    graph, touched = result.graph, touched_by(head.graph.node, masks)
    for info in (*(i for i in graph.input if i.name in masks), *graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = chunk
    nodes: list[onnx.NodeProto] = []
    for mask in masks:
        parts = [f'{mask}_pass_{t}' for t in range(chunk)]
        nodes.append(helper.make_node('Split', [mask], parts, axis=0))
    is_shared = [not touched & set(n.input) for n in graph.node]
    nodes += [n for n, shared in zip(graph.node, is_shared, strict=True) if shared]
    for t in range(chunk):
        names = {name: f'{name}_pass_{t}' for name in touched}
        nodes += [_of_pass(n, names, t)
                  for n, shared in zip(graph.node, is_shared, strict=True) if not shared]
    for info in graph.output:
        outputs = [f'{info.name}_pass_{t}' for t in range(chunk)]
        nodes.append(helper.make_node('Concat', outputs, [info.name], axis=0))
    refill(graph.node, nodes)
    return result


def _of_pass(node: onnx.NodeProto, names: Mapping[str, str], number: int) -> onnx.NodeProto:
    copy = copy_of(node)
    if copy.name:
        copy.name = f'{node.name}_pass_{number}'
    rename_tensors(copy, names)
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
        copy = copy_of(node)
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
        copy = copy_of(resize)
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
