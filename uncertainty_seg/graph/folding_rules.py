# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Rules that make a graph simpler without computing: what changes nothing goes, `If` is decided.

A rule gives the nodes that stand in for one node, or None where it does not apply.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper

from uncertainty_seg.graph.folding_state import FoldingState
from uncertainty_seg.graph.onnx_tools import attribute

Nodes = Sequence[onnx.NodeProto]
FoldingRule = Callable[[onnx.NodeProto, FoldingState], 'Nodes | None']


def rewritten(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """
    Apply the rule of a node's operator.

    Parameters
    ----------
    node : NodeProto
        With renamed inputs.
    state : FoldingState
        Knows types and constants; takes renamings.

    Returns
    -------
    sequence of NodeProto, or None
        What replaces the node; None if it stays.

    """
    rule = _RULES.get(node.op_type) if node.domain in ('', 'ai.onnx') else None
    return rule(node, state) if rule is not None else None


def _is(node: onnx.NodeProto, *operators: str) -> bool:
    return node.op_type in operators and node.domain in ('', 'ai.onnx')


def _forwarded(node: onnx.NodeProto, state: FoldingState, source: str = '') -> Nodes | None:
    """Let the readers of a node read its input; an output of the graph keeps its name."""
    source = source or node.input[0]
    if node.output[0] not in state.outputs:
        state.rename(node.output[0], source)
        return ()
    if node.op_type == 'Identity':
        return None
    state.is_changed = True
    return [helper.make_node('Identity', [source], [node.output[0]])]


def _identity(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    return _forwarded(node, state)


def _cast(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    is_same = state.type_of(node.input[0]).kind == attribute(node, 'to')
    return _forwarded(node, state) if is_same else None


def _cast_like(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    kind = state.type_of(node.input[1]).kind
    if not kind:
        return None
    state.is_changed = True
    return [helper.make_node('Cast', node.input[:1], node.output, name=node.name, to=kind)]


def _same_shape(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    old, new = state.shape(node.input[0]), state.shape(node.output[0])
    return _forwarded(node, state) if old is not None and old == new else None


def _reshape(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Make one Reshape of two; in between only the axes differ, never the order of numbers."""
    new, before = state.shape(node.output[0]), state.made.get(node.input[0])
    same = _same_shape(node, state)
    if same is not None or new is None or before is None or not _is(before, *_RESHAPING):
        return same
    state.rename_inputs(before)
    name = state.put(state.fresh(f'{node.output[0]}_shape'), np.array(new, np.int64))
    return [helper.make_node('Reshape', [before.input[0], name], node.output, name=node.name)]


def _softmax(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Take a softmax of the last axis out of the Flatten that onnx's converter puts before it."""
    before = state.made.get(node.input[0])
    if before is None or not _is(before, 'Flatten'):
        return None
    state.rename_inputs(before)
    full, flat = state.shape(before.input[0]), state.shape(node.input[0])
    if full is None or flat is None or attribute(node, 'axis', -1) not in (-1, len(flat) - 1) \
            or full[-1] != flat[-1]:
        return None
    wide = state.fresh(f'{node.output[0]}_wide')
    name = state.put(state.fresh(f'{node.output[0]}_shape'), np.array(flat, np.int64))
    return [helper.make_node(node.op_type, before.input[:1], [wide], name=node.name, axis=-1),
            helper.make_node('Reshape', [wide, name], node.output)]


def _where(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    condition = state.value(node.input[0])
    if condition is None or not condition.size or condition.min() != condition.max():
        return None
    return _chosen(node, state, node.input[1 if condition.min() else 2])


def _neutral(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Leave out a sum with zeros and a product with ones."""
    neutral = 0 if node.op_type in ('Add', 'Sub') else 1
    for index in (1,) if node.op_type in ('Sub', 'Div') else (1, 0):
        value = state.value(node.input[index])
        if value is not None and value.size and (value == neutral).all():
            return _chosen(node, state, node.input[1 - index])
    return None


def _chosen(node: onnx.NodeProto, state: FoldingState, source: str) -> Nodes | None:
    """Forward an input if it is as large as the result, which broadcasting could widen."""
    old, new = state.shape(source), state.shape(node.output[0])
    return _forwarded(node, state, source) if old is not None and old == new else None


def _single(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    return _forwarded(node, state) if len(node.input) == 1 else None


def _slice(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    steps = state.value(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(1)
    return None if steps is None or steps.min() < 1 else _same_shape(node, state)


def _pad(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    pads = state.value(node.input[1])
    return _forwarded(node, state) if pads is not None and not pads.any() else None


def _transpose(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    perm = list(attribute(node, 'perm', []))
    if perm and perm == sorted(perm):
        return _forwarded(node, state)
    before = state.made.get(node.input[0])
    if before is None or not _is(before, 'Transpose'):
        return None
    first = list(attribute(before, 'perm', []))
    if not first or not perm:
        return None
    both = [first[axis] for axis in perm]
    state.rename_inputs(before)
    state.is_changed = True
    return [helper.make_node('Transpose', before.input, node.output, name=node.name, perm=both)]


def _if(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Put the branch that is taken in place of an `If` whose condition is a constant."""
    condition = state.value(node.input[0])
    if condition is None:
        return None
    branch = attribute(node, 'then_branch' if bool(condition.reshape(-1)[0]) else 'else_branch')
    inner = {name for n in branch.node for name in n.output} | {t.name for t in branch.initializer}
    names = {name: state.fresh(f'{node.output[0]}_{name}') for name in inner if name}
    for tensor in branch.initializer:
        state.put_tensor(names[tensor.name], tensor)
    nodes = [_renamed(n, names) for n in branch.node]
    nodes += [helper.make_node('Identity', [names.get(info.name, info.name)], [name])
              for info, name in zip(branch.output, node.output, strict=True) if name]
    state.is_changed = True
    return nodes


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    for tensors in (twin.input, twin.output):
        for index, name in enumerate(tensors):
            tensors[index] = names.get(name, name)
    for entry in twin.attribute:
        if entry.type == onnx.AttributeProto.GRAPH:
            nodes = [_renamed(inner, names) for inner in entry.g.node]
            del entry.g.node[:]
            entry.g.node.extend(nodes)
            for info in entry.g.output:
                info.name = names.get(info.name, info.name)
    return twin


def _sequence_at(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Read one part of a list, as the older exporter of torch writes chunk and split."""
    before, index = state.made.get(node.input[0]), state.value(node.input[1])
    if before is None or index is None:
        return None
    number = int(index)
    if before.op_type == 'SequenceConstruct':
        return _forwarded(node, state, before.input[number])
    shape = state.shape(before.input[0])
    if before.op_type != 'SplitToSequence' or shape is None:
        return None
    axis = attribute(before, 'axis', 0)
    bounds = _bounds(before, state, shape[axis])
    if bounds is None:
        return None
    first, last = bounds[number]
    numbers = [state.put(state.fresh(f'{node.output[0]}_{word}'), np.array([value], np.int64))
               for word, value in (('from', first), ('to', last), ('axis', axis))]
    is_squeezed = len(before.input) < 2 and not attribute(before, 'keepdims', 1)
    part = state.fresh(f'{node.output[0]}_part') if is_squeezed else node.output[0]
    nodes = [helper.make_node('Slice', [before.input[0], *numbers], [part])]
    if is_squeezed:
        nodes.append(helper.make_node('Squeeze', [part, numbers[2]], node.output))
    return nodes


def _bounds(
    split: onnx.NodeProto, state: FoldingState, size: int
) -> list[tuple[int, int]] | None:
    if len(split.input) < 2 or not split.input[1]:
        return [(i, i + 1) for i in range(size)]
    given = state.value(split.input[1])
    if given is None:
        return None
    if given.ndim == 0:
        step = int(given)
        return [(i, min(i + step, size)) for i in range(0, size, step)]
    ends = np.cumsum(given)
    return [(int(e - n), int(e)) for e, n in zip(ends, given, strict=True)]


def _concat_sequence(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    before = state.made.get(node.input[0])
    if before is None or before.op_type != 'SequenceConstruct':
        return None
    axis, parts, nodes = attribute(node, 'axis'), list(before.input), []
    if attribute(node, 'new_axis', 0):
        where = state.put(state.fresh(f'{node.output[0]}_axis'), np.array([axis], np.int64))
        fresh = [state.fresh(f'{node.output[0]}_{i}') for i in range(len(parts))]
        nodes = [helper.make_node('Unsqueeze', [part, where], [name])
                 for part, name in zip(parts, fresh, strict=True)]
        parts = fresh
    state.is_changed = True
    return [*nodes, helper.make_node('Concat', parts, node.output, name=node.name, axis=axis)]


_RESHAPING = ('Reshape', 'Flatten', 'Squeeze', 'Unsqueeze')
_RULES: dict[str, FoldingRule] = {
    'Identity': _identity, 'Cast': _cast, 'CastLike': _cast_like, 'Concat': _single,
    'Sum': _single, 'Transpose': _transpose, 'Slice': _slice, 'If': _if, 'Pad': _pad,
    'SequenceAt': _sequence_at, 'ConcatFromSequence': _concat_sequence,
    **dict.fromkeys(_RESHAPING, _reshape), 'Expand': _same_shape, 'Tile': _same_shape,
    **dict.fromkeys(('Add', 'Sub', 'Mul', 'Div'), _neutral), 'Where': _where,
    'Softmax': _softmax, 'LogSoftmax': _softmax,
}
