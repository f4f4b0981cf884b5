# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compute nodes that do not depend on the image, and remove nodes without effect.

Exporters write shape arithmetic into the graph; at one size and batch 1 all of it is constant.
Each round computes nodes with constant inputs by onnx's reference implementation, and rewrites the
others by a rule of their operator, until nothing changes. Dropout and nodes that depend on its
values are never folded, nor are nodes whose result would make the file much larger.

Why this is not onnxscript's optimizer: docs/explanation/decisions.md, "Constant folding".
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper, TensorProto
from onnx.reference import ReferenceEvaluator

from uncertainty_seg.compiler.onnx_tools import (
    add_constant,
    attribute,
    constants,
    copy_of,
    drop_unused,
    IR_VERSION,
    needed_nodes,
    only_user,
    producer,
    refill,
    rename_tensors,
    session_of,
    Shape,
    tensor_types,
    TensorType,
    types_of,
    UNKNOWN,
    unused,
    used_by,
    Values,
)
from uncertainty_seg.errors import GraphError
from uncertainty_seg.storage.onnx_nodes import RANDOM_OPS, subgraphs

_log = logging.getLogger(__name__)
Nodes = Sequence[onnx.NodeProto]
# Folding ends after a round without changes; this only bounds an error in a rule.
_ROUNDS = 200


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold shape arithmetic and weights, and remove nodes without effect."""
    result = copy_of(model)
    del result.graph.value_info[:]
    state = FoldingState.of(result)
    nodes: Nodes = list(result.graph.node)
    for _ in range(_ROUNDS):
        before = len(nodes)
        state.start(nodes)
        nodes = _round(nodes, state)
        if not state.is_changed:
            break
        _log.debug('folded %d nodes to %d', before, len(nodes))
    refill(result.graph.node, _without_copied_outputs(nodes, state))
    _keep_used(result.graph, state)
    _write_output_shapes(result)
    return result


def _round(nodes: Nodes, state: FoldingState) -> Nodes:
    kept: list[onnx.NodeProto] = []
    for node in nodes:
        state.rename_inputs(node)
        if evaluated(node, state):
            continue
        replaced = rewritten(node, state)
        kept.extend([node] if replaced is None else replaced)
    return needed_nodes(kept, state.outputs)


def _without_copied_outputs(nodes: Nodes, state: FoldingState) -> Nodes:
    """Remove an Identity before a graph output; its producer then writes the output itself."""
    made = {name for node in nodes for name in node.output}
    kept, names = [], dict[str, str]()
    for node in nodes:
        source = node.input[0] if node.input else ''
        if _is(node, 'Identity') and node.output[0] in state.outputs and source in made \
                and source not in state.outputs and source not in names:
            names[source] = node.output[0]
        else:
            kept.append(node)
    for node in kept:
        rename_tensors(node, names)
    return kept


def _keep_used(graph: onnx.GraphProto, state: FoldingState) -> None:
    used = set(state.outputs).union(*(used_by(node) for node in graph.node))
    refill(graph.initializer, [t for name, t in state.tensors.items() if name in used])
    refill(graph.input, [info for info in graph.input if info.name not in state.tensors])


def _write_output_shapes(model: onnx.ModelProto) -> None:
    types = types_of(model)
    for info in model.graph.output:
        known = types.get(info.name, UNKNOWN)
        if known.shape is not None:
            info.CopyFrom(helper.make_tensor_value_info(info.name, known.kind, known.shape))


@dataclass
class FoldingState:
    """State of a round of rewriting: constants, types and renamings."""

    opsets: tuple[onnx.OperatorSetIdProto, ...]  # Opsets of the nodes.
    inputs: tuple[onnx.ValueInfoProto, ...]
    output_infos: tuple[onnx.ValueInfoProto, ...]  # Outputs of the graph, which keep their names.
    tensors: dict[str, TensorProto]  # All constants.
    types: dict[str, TensorType] = field(default_factory=dict)  # From the start of the round.
    # Producer of each tensor at the start of the round.
    made: dict[str, onnx.NodeProto] = field(default_factory=dict)
    is_changed: bool = False  # Whether this round changed anything.
    _arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    _renamed: dict[str, str] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> FoldingState:
        """Return the state for a model, with its initializers as constants."""
        graph = model.graph
        return cls(tuple(model.opset_import), tuple(graph.input), tuple(graph.output),
                   {t.name: t for t in graph.initializer})

    @property
    def outputs(self) -> frozenset[str]:
        """Names of the outputs."""
        return frozenset(info.name for info in self.output_infos)

    @property
    def version(self) -> int:
        """Opset of the standard operators."""
        return next(o.version for o in self.opsets if o.domain in ('', 'ai.onnx'))

    def start(self, nodes: Nodes) -> None:
        """Begin a round: infer all types again."""
        self.is_changed = False
        self._renamed = {}
        self.made = {name: node for node in nodes for name in node.output}
        self._taken = {*self.made, *self.tensors, *(i.name for i in self.inputs)}
        self.types = tensor_types(nodes, self.inputs, self.output_infos, self.tensors, self.opsets)

    def type_of(self, name: str) -> TensorType:
        """Return the type of a tensor as far as it is known."""
        return self.types.get(name, UNKNOWN)

    def shape(self, name: str) -> Shape | None:
        """Return the static shape of a tensor; None if it has none."""
        return self.type_of(name).shape

    def value(self, name: str) -> NDArray[Any] | None:
        """Return the value of a constant; None if the tensor is not constant."""
        if name not in self._arrays and name in self.tensors:
            self._arrays[name] = numpy_helper.to_array(self.tensors[name])
        return self._arrays.get(name)

    def put(self, name: str, value: NDArray[Any]) -> str:
        """Make a tensor a constant; return its name."""
        array = np.ascontiguousarray(value) if value.ndim else value
        self.put_tensor(name, numpy_helper.from_array(array, name))
        self._arrays[name] = array
        return name

    def put_tensor(self, name: str, tensor: TensorProto) -> None:
        """Make a tensor a constant, given as a TensorProto."""
        if tensor.name != name:
            tensor = copy_of(tensor)
            tensor.name = name
        self.tensors[name] = tensor
        self._taken.add(name)
        self._arrays.pop(name, None)
        self.types[name] = TensorType(tensor.data_type, tuple(tensor.dims))
        self.is_changed = True

    def fresh(self, wish: str) -> str:
        """Return a name that no tensor has, `wish` if possible."""
        name = unused(wish, self._taken)
        self._taken.add(name)
        return name

    def put_fresh(self, wish: str, *values: int) -> str:
        """Store integers as an int64 (n,) constant under an unused name; return the name."""
        return self.put(self.fresh(wish), np.array(values, np.int64))

    def rename(self, old: str, new: str) -> None:
        """Make every later node read `new` in place of `old`."""
        self._renamed[old] = new
        self.is_changed = True

    def rename_inputs(self, node: onnx.NodeProto) -> None:
        """Apply the renamings to a node and its subgraphs."""
        for index, name in enumerate(node.input):
            node.input[index] = self._renamed.get(name, name)
        for graph in subgraphs(node):
            for inner in graph.node:
                self.rename_inputs(inner)
            for info in graph.output:
                info.name = self._renamed.get(info.name, info.name)


# -------------------------------------------------------------------------------------------------
# Compute one node. A node stays in the graph if the reference implementation cannot compute it, or
# its result has another type or shape than inferred.

# Storing the results of these operators would enlarge the file more than folding is worth.
_REPEATING = ('Expand', 'Tile', 'ConstantOfShape')
_MOST_REPEATED = 1 << 14
_MOST_COMPUTED = 1 << 20
# Random operators, operators slow in the reference, and those that mark 8-bit weights.
_NEVER = {
    *RANDOM_OPS, 'If', 'Loop', 'Scan', 'SequenceMap', 'Conv', 'ConvTranspose', 'MaxPool',
    'AveragePool', 'LpPool', 'Upsample', 'GridSample', 'LSTM', 'GRU', 'RNN',
    'DeformConv', 'ConvInteger', 'QLinearConv', 'DequantizeLinear', 'RoiAlign',
    'NonMaxSuppression', 'Col2Im', 'Attention',
}


def evaluated(node: onnx.NodeProto, state: FoldingState) -> bool:
    """Replace a node, inputs already renamed, by constants; return whether that was possible."""
    if node.domain not in ('', 'ai.onnx') or node.op_type in _NEVER:
        return False
    if node.op_type == 'Constant':
        return _constant(node, state)
    elif node.op_type in ('Shape', 'Size'):
        values = _measured(node, state)
    else:
        values = _computed(node, state)
    if not values or not all(_fits(value, name, state) for name, value in values.items()):
        return False
    for name, value in values.items():
        state.put(name, value)
    return True


def _constant(node: onnx.NodeProto, state: FoldingState) -> bool:
    entry = node.attribute[0]
    if entry.name == 'value':
        state.put_tensor(node.output[0], entry.t)
        return True
    if entry.name not in ('value_int', 'value_ints', 'value_float', 'value_floats'):
        return False
    kind = np.int64 if 'int' in entry.name else np.float32
    state.put(node.output[0], np.asarray(helper.get_attribute_value(entry), kind))
    return True


def _measured(node: onnx.NodeProto, state: FoldingState) -> dict[str, NDArray[Any]]:
    """Return the result of Shape or Size, which needs only the shape of a tensor."""
    shape = state.shape(node.input[0])
    if shape is None:
        return {}
    cut = shape[attribute(node, 'start', 0):attribute(node, 'end', len(shape))]
    value = math.prod(shape) if node.op_type == 'Size' else cut
    return {node.output[0]: np.array(value, np.int64)}


def _computed(node: onnx.NodeProto, state: FoldingState) -> dict[str, NDArray[Any]]:
    """Return the outputs computed by the reference; empty if it cannot or should not compute."""
    feeds = {name: value for name in node.input if name
             if (value := state.value(name)) is not None}
    names = [name for name in node.output if name]
    if any(name and name not in feeds for name in node.input) or not _is_small(node, state):
        return {}
    try:
        if node.op_type == 'Resize':
            results = _resized(node, state)
        else:
            graph = helper.make_graph([node], 'one', _untyped(feeds), _untyped(names))
            results = ReferenceEvaluator(graph, opsets={'': state.version}).run(names, feeds)
    except Exception as err:  # nodes that the reference does not support stay in the graph
        _log.debug('%s %r is not folded: %s', node.op_type, node.name, err)
        return {}
    is_list = any(isinstance(value, list) for value in results)
    return {} if is_list else {n: np.asarray(v) for n, v in zip(names, results, strict=True)}


def _resized(node: onnx.NodeProto, state: FoldingState) -> list[NDArray[Any]]:
    """Resize constants, such as position tables, in ONNX Runtime: the reference takes minutes."""
    given = [state.tensors[name] for name in node.input if name]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], 'one', [], outputs, given)
    model = helper.make_model(graph, opset_imports=state.opsets, ir_version=IR_VERSION)
    found: list[NDArray[Any]] = session_of(model).run(None, {})
    return found


def _untyped(names: Any) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names]


def _is_small(node: onnx.NodeProto, state: FoldingState) -> bool:
    read, written = (sum(math.prod(shape) for name in names
                         if name and (shape := state.shape(name)) is not None)
                     for names in (node.input, node.output))
    if node.op_type == 'Resize':
        return True
    floor = _MOST_REPEATED if node.op_type in _REPEATING else _MOST_COMPUTED
    if node.op_type in _REPEATING and any(state.shape(n) is None for n in node.output if n):
        return False
    return written <= max(floor, read)


def _fits(value: NDArray[Any], name: str, state: FoldingState) -> bool:
    known = state.type_of(name)
    try:
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    except (KeyError, ValueError):
        return False
    return known.kind in (0, kind) and known.shape in (None, value.shape)


# -------------------------------------------------------------------------------------------------
# Rules that simplify a graph without computing: nodes without effect are removed, `If` is decided.
# A rule returns the nodes that replace one node, or None if it does not apply.

FoldingRule = Callable[[onnx.NodeProto, FoldingState], 'Nodes | None']


def rewritten(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Apply the rule of a node's operator; the node's inputs must already be renamed."""
    rule = _RULES.get(node.op_type) if node.domain in ('', 'ai.onnx') else None
    return rule(node, state) if rule is not None else None


def _is(node: onnx.NodeProto | None, *operators: str) -> bool:
    return node is not None and node.op_type in operators and node.domain in ('', 'ai.onnx')


def _before(node: onnx.NodeProto, state: FoldingState, *operators: str) -> onnx.NodeProto | None:
    """Return the producer of the first input, inputs renamed, if it is one of `operators`."""
    before = state.made.get(node.input[0])
    if before is None or not _is(before, *operators):
        return None
    state.rename_inputs(before)
    return before


def _changed(state: FoldingState, *nodes: onnx.NodeProto) -> Nodes:
    state.is_changed = True
    return nodes


def _forwarded(node: onnx.NodeProto, state: FoldingState, source: str = '') -> Nodes | None:
    """Make the readers of a node read its input; a graph output keeps its name."""
    source = source or node.input[0]
    if node.output[0] not in state.outputs:
        state.rename(node.output[0], source)
        return ()
    if node.op_type == 'Identity':
        return None
    return _changed(state, helper.make_node('Identity', [source], [node.output[0]]))


def _cast(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    is_same = state.type_of(node.input[0]).kind == attribute(node, 'to')
    return _forwarded(node, state) if is_same else None


def _cast_like(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    kind = state.type_of(node.input[1]).kind
    return _changed(state, helper.make_node('Cast', node.input[:1], node.output, name=node.name,
                                            to=kind)) if kind else None


def _same_shape(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    return _chosen(node, state, node.input[0])


def _chosen(node: onnx.NodeProto, state: FoldingState, source: str) -> Nodes | None:
    """Forward an input if it has the result's shape; broadcasting could have enlarged it."""
    old, new = state.shape(source), state.shape(node.output[0])
    return _forwarded(node, state, source) if old is not None and old == new else None


def _reshape(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Merge two consecutive Reshapes, which never change the order of the values."""
    same, new = _same_shape(node, state), state.shape(node.output[0])
    before = _before(node, state, *_RESHAPING) if same is None and new is not None else None
    if before is None or new is None:
        return same
    name = state.put_fresh(f'{node.output[0]}_shape', *new)
    return [helper.make_node('Reshape', [before.input[0], name], node.output, name=node.name)]


def _softmax(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Move a softmax over the last axis before the Flatten that onnx's converter inserts."""
    before = _before(node, state, 'Flatten')
    if before is None:
        return None
    full, flat = state.shape(before.input[0]), state.shape(node.input[0])
    if full is None or flat is None or attribute(node, 'axis', -1) not in (-1, len(flat) - 1) \
            or full[-1] != flat[-1]:
        return None
    wide = state.fresh(f'{node.output[0]}_wide')
    name = state.put_fresh(f'{node.output[0]}_shape', *flat)
    return [helper.make_node(node.op_type, before.input[:1], [wide], name=node.name, axis=-1),
            helper.make_node('Reshape', [wide, name], node.output)]


def _where(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    condition = state.value(node.input[0])
    if condition is None or not condition.size or condition.min() != condition.max():
        return None
    return _chosen(node, state, node.input[1 if condition.min() else 2])


def _neutral(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Remove a sum or difference with zeros, and a product or quotient with ones."""
    neutral = 0 if node.op_type in ('Add', 'Sub') else 1
    for index in (1,) if node.op_type in ('Sub', 'Div') else (1, 0):
        value = state.value(node.input[index])
        if value is not None and value.size and (value == neutral).all():
            return _chosen(node, state, node.input[1 - index])
    return None


def _single(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    return _forwarded(node, state) if len(node.input) == 1 else None


def _concat(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Remove empty inputs of a Concat, such as the skip of a stage that an encoder lacks."""
    axis = attribute(node, 'axis')
    kept = [name for name in node.input if not _is_empty(state.shape(name), axis)]
    if not kept or len(kept) == len(node.input):
        return _single(node, state)
    return _changed(state, helper.make_node('Concat', kept, node.output, name=node.name,
                                            axis=axis))


def _is_empty(shape: Shape | None, axis: int) -> bool:
    return shape is not None and -len(shape) <= axis < len(shape) and shape[axis] == 0


def _slice(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    steps = state.value(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(1)
    return None if steps is None or steps.min() < 1 else _same_shape(node, state)


def _pad(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    pads, rank = state.value(node.input[1]), state.type_of(node.input[0]).rank
    axes = state.value(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    if pads is not None and not pads.any():
        return _forwarded(node, state)
    if pads is None or axes is None or rank < 0:
        return None
    full = np.zeros((2, rank), np.int64)
    full[:, axes % rank] = pads.reshape(2, -1)
    name = state.put_fresh(f'{node.output[0]}_pads', *full.reshape(-1))
    return _changed(state, _with(node, [node.input[0], name, *node.input[2:3]], ()))


def _resize(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Give a Resize scales or sizes for all axes, and drop antialiasing where it has no effect."""
    old, new = state.shape(node.input[0]), state.shape(node.output[0])
    if old is None or new is None:
        return None
    drop = {'antialias'} if attribute(node, 'antialias', 0) and all(
        n >= o for o, n in zip(old, new, strict=True)) else set()
    inputs, axes = list(node.input), attribute(node, 'axes')
    if axes is not None and attribute(node, 'keep_aspect_ratio_policy', 'stretch') == 'stretch' \
            and not inputs[1]:
        drop |= {'axes', 'keep_aspect_ratio_policy'}
        scales = state.value(inputs[2]) if inputs[2] else None
        if scales is not None and scales.size:
            full = np.ones(len(old), np.float32)
            full[[axis % len(old) for axis in axes]] = scales
            inputs = [inputs[0], '', state.put(state.fresh(f'{node.output[0]}_scales'), full)]
        else:
            sizes = state.put_fresh(f'{node.output[0]}_sizes', *new)
            inputs = [inputs[0], '', '', sizes]
    return _changed(state, _with(node, inputs, drop)) if drop else None


def _with(node: onnx.NodeProto, inputs: Sequence[str], dropped: Container[str]) -> onnx.NodeProto:
    twin = copy_of(node)
    refill(twin.input, inputs)
    refill(twin.attribute, [entry for entry in node.attribute if entry.name not in dropped])
    return twin


def _transpose(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    perm = list(attribute(node, 'perm', []))
    if perm and perm == sorted(perm):
        return _forwarded(node, state)
    before = _before(node, state, 'Transpose')
    first = list(attribute(before, 'perm', [])) if before is not None else []
    if before is None or not first or not perm:
        return None
    return _changed(state, helper.make_node(
        'Transpose', before.input, node.output, name=node.name,
        perm=[first[axis] for axis in perm]))


def _if(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Replace an `If` with a constant condition by its branch."""
    condition = state.value(node.input[0])
    if condition is None:
        return None
    branch = attribute(node, 'then_branch' if bool(condition.reshape(-1)[0]) else 'else_branch')
    inner = {name for n in branch.node for name in n.output} | {t.name for t in branch.initializer}
    names = {name: state.fresh(f'{node.output[0]}_{name}') for name in sorted(inner) if name}
    for tensor in branch.initializer:
        state.put_tensor(names[tensor.name], tensor)
    return _changed(
        state, *(_renamed(n, names) for n in branch.node),
        *(helper.make_node('Identity', [names.get(info.name, info.name)], [name])
          for info, name in zip(branch.output, node.output, strict=True) if name))


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    twin = copy_of(node)
    rename_tensors(twin, names)
    for graph in (entry.g for entry in twin.attribute
                  if entry.type == onnx.AttributeProto.GRAPH):
        refill(graph.node, [_renamed(inner, names) for inner in graph.node])
        for info in graph.output:
            info.name = names.get(info.name, info.name)
    return twin


def _sequence_at(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Read one part of a sequence, which torch's exporters may write for chunk and split."""
    before, index = state.made.get(node.input[0]), state.value(node.input[1])
    if before is None or index is None or before.op_type != 'SplitToSequence':
        return None
    shape = state.shape(before.input[0])
    if shape is None:
        return None
    axis = attribute(before, 'axis', 0)
    bounds = _bounds(before, state, shape[axis])
    if bounds is None:
        return None
    first, last = bounds[int(index)]
    numbers = [state.put_fresh(f'{node.output[0]}_{word}', value)
               for word, value in (('from', first), ('to', last), ('axis', axis))]
    is_squeezed = len(before.input) < 2 and not attribute(before, 'keepdims', 1)
    part = state.fresh(f'{node.output[0]}_part') if is_squeezed else node.output[0]
    nodes = [helper.make_node('Slice', [before.input[0], *numbers], [part])]
    if is_squeezed:
        nodes.append(helper.make_node('Squeeze', [part, numbers[2]], node.output))
    return nodes


def _bounds(split: onnx.NodeProto, state: FoldingState, size: int) -> list[tuple[int, int]] | None:
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


def _gather(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Keep the batch of 1 in a Gather from a flat tensor: torch.export's form of as_strided."""
    before, index = _before(node, state, 'Reshape'), state.value(node.input[1])
    full = state.shape(before.input[0]) if before is not None else None
    flat = state.shape(node.input[0])
    if before is None or index is None or full is None or flat is None or len(flat) != 1 \
            or len(full) < 2 or index.ndim < 2 or full[0] != 1 or index.shape[0] != 1:
        return None
    prefix, data, picks = node.output[0], before.input[0], index[0].reshape(-1)
    if np.array_equal(picks, np.arange(flat[0])):
        shape = state.put_fresh(f'{prefix}_shape', *index.shape)
        return _changed(state, helper.make_node('Reshape', [data, shape], node.output,
                                                name=node.name))
    rows = state.fresh(f'{prefix}_rows')
    shape = state.put_fresh(f'{prefix}_rows_shape', 1, flat[0])
    where = state.put(state.fresh(f'{prefix}_picks'), np.asarray(index[0], np.int64))
    return _changed(state, helper.make_node('Reshape', [data, shape], [rows]),
                    helper.make_node('Gather', [rows, where], node.output, name=node.name, axis=1))


def _scatter_nd(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    """Replace a block assignment, such as x[:, 2:5] = y, by slices of x joined with y."""
    index, full = state.value(node.input[1]), state.shape(node.input[0])
    if index is None or full is None or not index.size \
            or attribute(node, 'reduction', 'none') != 'none':
        return None
    bounds = _block(np.asarray(index), full)
    if bounds is None:
        return None
    bounds += [(0, size) for size in full[len(bounds):]]
    prefix = node.output[0]
    block = state.fresh(f'{prefix}_block')
    shape = state.put_fresh(f'{prefix}_block_shape', *(hi - lo for lo, hi in bounds))
    nodes = [helper.make_node('Reshape', [node.input[2], shape], [block])]
    data = node.input[0]
    open_joins: list[tuple[int, str, list[str]]] = []
    for axis, (low, high) in enumerate(bounds):
        if (low, high) == (0, full[axis]):
            continue
        parts = [_cut(state, nodes, data, axis, *bound) for bound in (
            (0, low), (low, high), (high, full[axis])) if bound[0] < bound[1]]
        data = parts[low > 0]
        open_joins.append((axis, data, parts))
    made = block
    for axis, middle, parts in reversed(open_joins):
        joined = state.fresh(f'{prefix}_joined_{axis}')
        nodes.append(helper.make_node(
            'Concat', [made if part == middle else part for part in parts], [joined], axis=axis))
        made = joined
    return _changed(state, *nodes, helper.make_node('Identity', [made], node.output,
                                                    name=node.name))


def _block(index: NDArray[np.int64], full: Shape) -> list[tuple[int, int]] | None:
    """Return the bounds of the first axes if indices (..., k) enumerate a block in order."""
    points = index.reshape(-1, index.shape[-1])
    sizes = np.array(full[:points.shape[1]])
    points = np.where(points < 0, points + sizes, points)
    low, high = points.min(0), points.max(0) + 1
    if math.prod(high - low) != len(points):
        return None
    steps = np.indices(high - low).reshape(len(low), -1).T + low
    return list(zip(low.tolist(), high.tolist(), strict=True)) \
        if np.array_equal(steps, points) else None


def _cut(
    state: FoldingState, nodes: list[onnx.NodeProto], data: str, axis: int, low: int, high: int
) -> str:
    """Write a Slice of one axis and return its output."""
    name = state.fresh(f'{data}_{axis}_{low}_{high}')
    bounds = [state.put_fresh(f'{name}_{word}', value)
              for word, value in (('from', low), ('to', high), ('axis', axis))]
    nodes.append(helper.make_node('Slice', [data, *bounds], [name]))
    return name


_RESHAPING = ('Reshape', 'Flatten', 'Squeeze', 'Unsqueeze')
_RULES: dict[str, FoldingRule] = {
    'Identity': _forwarded, 'Cast': _cast, 'CastLike': _cast_like, 'Concat': _concat,
    'Sum': _single, 'Transpose': _transpose, 'Slice': _slice, 'If': _if, 'Pad': _pad,
    'Resize': _resize,
    'Gather': _gather, 'ScatterND': _scatter_nd,
    'SequenceAt': _sequence_at,
    **dict.fromkeys(_RESHAPING, _reshape), 'Expand': _same_shape, 'Tile': _same_shape,
    **dict.fromkeys(('Add', 'Sub', 'Mul', 'Div'), _neutral), 'Where': _where,
    'Softmax': _softmax, 'LogSoftmax': _softmax,
}


# -------------------------------------------------------------------------------------------------
# Fold a batch normalisation after a convolution into the convolution's weights.
# In eval mode it is ``x * a + b`` per channel, so ``bn(conv(x, w) + c)`` is ``conv`` with the
# weights ``w * a`` and the bias ``c * a + b``. A batch normalisation before the convolution, with
# an activation between them, is kept.

_LINEAR = ('Conv', 'ConvTranspose')


def fold_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Fold every batch normalisation that directly follows a convolution with constant weights.

    Raises GraphError if one is in training mode, where it would use statistics over all passes.
    """
    result = copy_of(model)
    for node in [n for n in model.graph.node if n.op_type == 'BatchNormalization']:
        _require_eval(node)
        linear = producer(result.graph.node, node.input[0])
        if linear is not None and _is_foldable(result.graph, node, linear):
            _fold(result.graph, node, linear)
    drop_unused(result.graph)
    return result


def _require_eval(node: onnx.NodeProto) -> None:
    if attribute(node, 'training_mode', 0) or len([n for n in node.output if n]) > 1:
        raise GraphError(
            f'batch normalisation {node.name or node.output[0]!r} is in training mode',
            'eval mode', 'export in eval mode: net.eval(), with dropout alone switched on')


def _is_foldable(graph: onnx.GraphProto, norm: onnx.NodeProto, linear: onnx.NodeProto) -> bool:
    fixed = constants(graph)
    return (linear.op_type in _LINEAR and only_user(graph, norm.input[0]) is not None
            and all(name in fixed for name in (*norm.input[1:5], *linear.input[1:]) if name))


def _scale(norm: onnx.NodeProto, fixed: Values) -> NDArray[np.float64]:
    gain, variance = (np.asarray(fixed[norm.input[i]], np.float64) for i in (1, 4))
    return gain / np.sqrt(variance + attribute(norm, 'epsilon', 1e-5))


def _bias(linear: onnx.NodeProto, fixed: Values) -> NDArray[np.float64]:
    """Return the bias, or one zero."""
    if len(linear.input) < 3 or not linear.input[2]:
        return np.zeros(1)
    return np.asarray(fixed[linear.input[2]], np.float64)


def _fold(graph: onnx.GraphProto, norm: onnx.NodeProto, linear: onnx.NodeProto) -> None:
    fixed = constants(graph)
    scale = _scale(norm, fixed)
    shift, mean = (np.asarray(fixed[norm.input[i]], np.float64) for i in (2, 3))
    weights = _scaled(linear, np.asarray(fixed[linear.input[1]], np.float64), scale)
    bias = (_bias(linear, fixed) - mean) * scale + shift
    # Stored as new constants, since two convolutions may share one tensor.
    names = [add_constant(graph, f'{norm.output[0]}_{suffix}', values, np.float32)
             for suffix, values in (('weights', weights), ('bias', bias))]
    merged = copy_of(linear)
    del merged.input[1:]
    merged.input.extend(names)
    merged.output[0] = norm.output[0]
    refill(graph.node, [merged if node == linear else node for node in graph.node if node != norm])


def _scaled(
    linear: onnx.NodeProto, weights: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Multiply weights by one factor per output channel."""
    if linear.op_type == 'Conv':  # (M, C / group, ...)
        return weights * scale.reshape(-1, *[1] * (weights.ndim - 1))
    group = attribute(linear, 'group', 1)  # ConvTranspose: (C, M / group, ...)
    grouped = weights.reshape(group, -1, *weights.shape[1:])
    wide = scale.reshape(group, 1, -1, *[1] * (weights.ndim - 2))
    return (grouped * wide).reshape(weights.shape)
