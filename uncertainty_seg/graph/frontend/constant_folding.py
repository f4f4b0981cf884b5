# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compute what needs no image, and take out what computes nothing.

Exporters write shape arithmetic into the graph; at one size and batch 1 all of it is constant.
Dropout and what depends on its values is never folded, nor is what grows the file much.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper, TensorProto
from onnx.reference import ReferenceEvaluator

from uncertainty_seg.graph.onnx_tools import (
    attribute,
    copy_of,
    replace_nodes,
    tensor_types,
    TensorType,
    types_of,
    UNKNOWN,
)

# -------------------------------------------------------------------------------------------------
# What a round of constant folding knows and has done: constants, types, renamed tensors.


@dataclass
class FoldingState:
    """
    Constants, types and renamings of a graph under work.

    Attributes
    ----------
    opsets : tuple of OperatorSetIdProto
        What the nodes are written in.
    inputs, outputs : sequences
        Inputs, and names of the outputs, whose tensors keep their names.
    tensors : dict of str to TensorProto
        All constants.
    types : dict of str to TensorType
        From the start of the round.
    made : dict of str to NodeProto
        Producer of each tensor, from the start of the round.
    is_changed : bool
        Whether this round did anything.

    """

    opsets: tuple[onnx.OperatorSetIdProto, ...]
    inputs: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[str, ...]
    output_infos: tuple[onnx.ValueInfoProto, ...]
    tensors: dict[str, TensorProto]
    types: dict[str, TensorType] = field(default_factory=dict)
    made: dict[str, onnx.NodeProto] = field(default_factory=dict)
    is_changed: bool = False
    _arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    _renamed: dict[str, str] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> FoldingState:
        """Take the constants of a model."""
        graph = model.graph
        return cls(
            tuple(model.opset_import), tuple(graph.input), tuple(o.name for o in graph.output),
            tuple(graph.output), {t.name: t for t in graph.initializer},
        )

    @property
    def version(self) -> int:
        """Opset of the standard operators."""
        return next(o.version for o in self.opsets if o.domain in ('', 'ai.onnx'))

    def start(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Begin a round: infer all types anew."""
        self.is_changed = False
        self._renamed = {}
        self.made = {name: node for node in nodes for name in node.output}
        self._taken = {*self.made, *self.tensors, *(i.name for i in self.inputs)}
        self.types = tensor_types(nodes, self.inputs, self.output_infos, self.tensors,
                                  self.opsets)

    def type_of(self, name: str) -> TensorType:
        """Return what is known of a tensor."""
        return self.types.get(name, UNKNOWN)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the static shape of a tensor, if it has one."""
        return self.type_of(name).shape

    def value(self, name: str) -> NDArray[Any] | None:
        """Return the value of a constant."""
        if name not in self._arrays and name in self.tensors:
            self._arrays[name] = numpy_helper.to_array(self.tensors[name])
        return self._arrays.get(name)

    def put(self, name: str, value: NDArray[Any]) -> str:
        """Make a tensor a constant."""
        array = np.ascontiguousarray(value) if value.ndim else value
        self.put_tensor(name, numpy_helper.from_array(array, name))
        self._arrays[name] = array
        return name

    def put_tensor(self, name: str, tensor: TensorProto) -> None:
        """Make a tensor a constant, given as onnx stores it."""
        if tensor.name != name:
            named = TensorProto()
            named.CopyFrom(tensor)
            named.name = name
            tensor = named
        self.tensors[name] = tensor
        self._arrays.pop(name, None)
        self.types[name] = TensorType(tensor.data_type, tuple(tensor.dims))
        self.is_changed = True

    def fresh(self, wish: str) -> str:
        """Return a name no tensor has."""
        name, number = wish, 2
        while name in self._taken or name in self.tensors:
            name, number = f'{wish}_{number}', number + 1
        self._taken.add(name)
        return name

    def rename(self, old: str, new: str) -> None:
        """Let every later node read another tensor."""
        self._renamed[old] = new
        self.is_changed = True

    def rename_inputs(self, node: onnx.NodeProto) -> None:
        """Apply the renamings to a node and its subgraphs."""
        for index, name in enumerate(node.input):
            if name in self._renamed:
                node.input[index] = self._renamed[name]
        for entry in node.attribute:
            graphs = [entry.g] if entry.type == onnx.AttributeProto.GRAPH else entry.graphs
            for graph in graphs:
                for inner in graph.node:
                    self.rename_inputs(inner)
                for info in graph.output:
                    info.name = self._renamed.get(info.name, info.name)


# -------------------------------------------------------------------------------------------------
# Resize a constant, as a table of positions is resized to the size of the image.
# onnx's reference resizes number by number, minutes for such a table. Every mode works axis by
# axis, so the reference is asked for the matrix of each axis only, by resizing unit vectors.

_NOT_BY_AXIS = ('tf_crop_and_resize',)
# Of a matrix; the reference takes some 30 us for each element.
_MOST_ELEMENTS = 1 << 14
_COPIED = ('mode', 'coordinate_transformation_mode', 'cubic_coeff_a', 'exclude_outside',
           'nearest_mode', 'antialias')


def resized_constant(node: onnx.NodeProto, state: FoldingState) -> NDArray[Any] | None:
    """
    Compute a Resize whose inputs are constants.

    Parameters
    ----------
    node : NodeProto
        Resize.
    state : FoldingState
        Knows the constants and the shape of the result.

    Returns
    -------
    ndarray, or None
        The result; None if it is too large or of a kind that does not work axis by axis.

    """
    given = [state.value(name) if name else None for name in node.input]
    shape = state.shape(node.output[0])
    data = given[0]
    is_plain = (data is not None and shape is not None and not attribute(node, 'axes', [])
                and attribute(node, 'keep_aspect_ratio_policy', 'stretch') == 'stretch'
                and attribute(node, 'coordinate_transformation_mode') not in _NOT_BY_AXIS)
    if not is_plain or data is None or shape is None:
        return None
    scales = given[2] if len(given) > 2 else None
    # Aligned corners go by the size; the reference goes by the scale, before it is rounded.
    has_scales = (scales is not None and scales.size > 0
                  and attribute(node, 'coordinate_transformation_mode') != 'align_corners')
    result = np.asarray(data, np.float64)
    for axis, (old, new) in enumerate(zip(data.shape, shape, strict=True)):
        wanted = float(scales[axis]) if has_scales and scales is not None else new
        if old == new and wanted in (1.0, new):
            continue
        if old * new > _MOST_ELEMENTS:
            return None
        matrix = _matrix(node, old, wanted, state)
        result = np.moveaxis(np.tensordot(matrix, result, (1, axis)), 0, axis)
    return result.astype(data.dtype)


def _matrix(
    node: onnx.NodeProto, old: int, wanted: float, state: FoldingState
) -> NDArray[np.float64]:
    """Return (new, old): how each number of one axis is made of the old ones."""
    is_size = isinstance(wanted, int)
    inputs = ['x', '', '', 'n'] if is_size else ['x', '', 'n']
    single = helper.make_node('Resize', inputs, ['y'])
    single.attribute.extend(a for a in node.attribute if a.name in _COPIED)
    infos = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
             for name in ('x', 'n', 'y')]
    graph = helper.make_graph([single], 'one', infos[:2], infos[2:])
    number = np.array([wanted, old], np.int64) if is_size else np.array([wanted, 1], np.float32)
    run = ReferenceEvaluator(graph, opsets={'': state.version}).run
    return run(None, {'x': np.eye(old), 'n': number})[0]


# -------------------------------------------------------------------------------------------------
# Compute one node of constant inputs with onnx's own reference.
# What it cannot compute, or gives another type than the inference promised, stays in the graph.

# Beside their weights these would store results larger than the arithmetic is worth.
_REPEATING = ('Expand', 'Tile', 'ConstantOfShape')
_MOST_REPEATED = 1 << 14
_MOST_COMPUTED = 1 << 20
# Random, or slow in the reference.
_NEVER = {
    'Dropout', 'Bernoulli', 'Multinomial', 'RandomNormal', 'RandomNormalLike', 'RandomUniform',
    'RandomUniformLike', 'If', 'Loop', 'Scan', 'SequenceMap', 'Conv', 'ConvTranspose', 'MaxPool',
    'AveragePool', 'LpPool', 'Upsample', 'GridSample', 'LSTM', 'GRU', 'RNN',
    'DeformConv', 'ConvInteger', 'QLinearConv', 'RoiAlign', 'NonMaxSuppression', 'Col2Im',
    'Attention',
}
# The reference has no older form of it, whose meaning is the same.
_FIRST_KNOWN = {'DequantizeLinear': 19}


def evaluated(node: onnx.NodeProto, state: FoldingState) -> bool:
    """
    Turn a node into constants, if that is possible.

    Parameters
    ----------
    node : NodeProto
        With renamed inputs.
    state : FoldingState
        Takes the constants.

    Returns
    -------
    bool
        Whether the node is no longer needed.

    """
    if node.domain not in ('', 'ai.onnx') or node.op_type in _NEVER:
        return False
    if node.op_type == 'Resize':
        return _resized(node, state)
    if node.op_type == 'Constant':
        return _constant(node, state)
    if node.op_type in ('Shape', 'Size'):
        return _measured(node, state)
    feeds = {name: state.value(name) for name in node.input if name}
    if any(value is None for value in feeds.values()) or not _is_small(node, state):
        return False
    values = _run(node, {k: v for k, v in feeds.items() if v is not None}, state)
    if values is None:
        return False
    for name, value in values.items():
        state.put(name, value)
    return True


def _resized(node: onnx.NodeProto, state: FoldingState) -> bool:
    value = resized_constant(node, state)
    if value is None or not _fits(value, node.output[0], state):
        return False
    state.put(node.output[0], value)
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


def _measured(node: onnx.NodeProto, state: FoldingState) -> bool:
    shape = state.shape(node.input[0])
    if shape is None:
        return False
    if node.op_type == 'Size':
        state.put(node.output[0], np.array(int(np.prod(shape, dtype=np.int64)), np.int64))
        return True
    wanted = {a.name: a.i for a in node.attribute}
    cut = shape[wanted.get('start', 0):wanted.get('end', len(shape))]
    state.put(node.output[0], np.array(cut, np.int64))
    return True


def _is_small(node: onnx.NodeProto, state: FoldingState) -> bool:
    read = sum(_count(state.shape(name)) for name in node.input if name)
    written = sum(_count(state.shape(name)) for name in node.output if name)
    floor = _MOST_REPEATED if node.op_type in _REPEATING else _MOST_COMPUTED
    if node.op_type in _REPEATING and any(state.shape(n) is None for n in node.output if n):
        return False
    return written <= max(floor, read)


def _count(shape: tuple[int, ...] | None) -> int:
    return int(np.prod(shape, dtype=np.int64)) if shape is not None else 0


def _run(
    node: onnx.NodeProto, feeds: dict[str, NDArray[Any]], state: FoldingState
) -> dict[str, NDArray[Any]] | None:
    names = [name for name in node.output if name]
    graph = helper.make_graph(
        [node], 'one', [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
                        for name in feeds],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names])
    version = max(state.version, _FIRST_KNOWN.get(node.op_type, 0))
    try:
        results = ReferenceEvaluator(graph, opsets={'': version}).run(names, feeds)
    except Exception as err:  # whatever the reference cannot do stays in the graph
        _log.debug('%s %r is not folded: %s', node.op_type, node.name, err)
        return None
    values = {name: np.asarray(value) for name, value in zip(names, results, strict=True)
              if not isinstance(value, list)}
    is_right = len(values) == len(names) and all(
        _fits(value, name, state) for name, value in values.items())
    return values if is_right else None


def _fits(value: NDArray[Any], name: str, state: FoldingState) -> bool:
    known = state.type_of(name)
    try:
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    except (KeyError, ValueError):
        return False
    return known.kind in (0, kind) and known.shape in (None, value.shape)


# -------------------------------------------------------------------------------------------------
# Rules that make a graph simpler without computing: what changes nothing goes, `If` is decided.
# A rule gives the nodes that stand in for one node, or None where it does not apply.

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


# -------------------------------------------------------------------------------------------------

_log = logging.getLogger(__name__)
# A round that changes nothing ends it; this only bounds a mistake in a rule.
_ROUNDS = 200


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Fold shape arithmetic and weights, remove what has no effect.

    Parameters
    ----------
    model : ModelProto
        Opset 17 or later, static input; left as it is.

    Returns
    -------
    ModelProto
        Computes the same. Constants are initializers; unused nodes and weights are gone.

    """
    result = copy_of(model)
    graph = result.graph
    del graph.value_info[:]
    state = FoldingState.of(result)
    nodes = list(graph.node)
    for _ in range(_ROUNDS):
        before = len(nodes)
        state.start(nodes)
        nodes = _round(nodes, state)
        if not state.is_changed:
            break
        _log.debug('folded %d nodes to %d', before, len(nodes))
    nodes = _rename_outputs(_alive(nodes, state), state)
    replace_nodes(graph, nodes)
    _keep_used(graph, state)
    _state_outputs(result)
    return result


def _round(nodes: Sequence[onnx.NodeProto], state: FoldingState) -> list[onnx.NodeProto]:
    kept: list[onnx.NodeProto] = []
    for node in nodes:
        state.rename_inputs(node)
        if evaluated(node, state):
            continue
        replaced = rewritten(node, state)
        kept.extend([node] if replaced is None else replaced)
    return _alive(kept, state)


def _alive(nodes: Sequence[onnx.NodeProto], state: FoldingState) -> list[onnx.NodeProto]:
    """Leave out what no output needs."""
    needed = set(state.outputs)
    kept = []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= used_by(node)
            kept.append(node)
    return kept[::-1]


def used_by(node: onnx.NodeProto) -> set[str]:
    """Return all tensors a node reads, those of its subgraphs too."""
    names = {name for name in node.input if name}
    for entry in node.attribute:
        for graph in ([entry.g] if entry.type == onnx.AttributeProto.GRAPH else entry.graphs):
            for inner in graph.node:
                names |= used_by(inner)
            names |= {o.name for o in graph.output}
    return names


def _rename_outputs(
    nodes: Sequence[onnx.NodeProto], state: FoldingState
) -> list[onnx.NodeProto]:
    """Let the producer write the output itself where only an Identity stood between."""
    made = {name: node for node in nodes for name in node.output}
    kept = []
    names: dict[str, str] = {}
    for node in nodes:
        source = node.input[0] if node.input else ''
        is_copy = (node.op_type == 'Identity' and node.domain in ('', 'ai.onnx')
                   and node.output[0] in state.outputs and source in made
                   and source not in state.outputs and source not in names)
        if is_copy:
            names[source] = node.output[0]
        else:
            kept.append(node)
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)
    return kept


def _state_outputs(model: onnx.ModelProto) -> None:
    """Write the inferred shape of each output that is static."""
    types = types_of(model)
    for info in model.graph.output:
        known = types.get(info.name, UNKNOWN)
        if known.shape is not None:
            info.CopyFrom(helper.make_tensor_value_info(info.name, known.kind, known.shape))


def _keep_used(graph: onnx.GraphProto, state: FoldingState) -> None:
    used = {name for node in graph.node for name in used_by(node)} | set(state.outputs)
    kept: list[TensorProto] = [t for name, t in state.tensors.items() if name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    inputs = [info for info in graph.input if info.name not in state.tensors]
    del graph.input[:]
    graph.input.extend(inputs)
