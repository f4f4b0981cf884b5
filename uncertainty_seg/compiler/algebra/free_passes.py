# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Make a graph that was exported for a batch of 1 run T passes as a batch.

An exporter writes the batch size 1 into reshapes, sizes and concatenations. Where a mask reaches
such a node, it is rewritten to take T from its input; a node for which that is impossible is named
in the error. The axis that carries the passes is followed node by node through a graph of one
pass: most tensors keep the batch on axis 0, attention moves it or merges it with the heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
import math
import string

import numpy as np
import onnx
from onnx import helper

from uncertainty_seg.compiler.onnx_tools import (
    attribute,
    constants,
    copy_of,
    NodeWriter,
    refill,
    resize_scale,
    Shape,
    shapes,
    Values,
)
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError

# Operators whose inputs must have equal batch sizes: no runtime broadcasts them.
_EQUAL = ('Concat', 'GridSample', 'ScatterElements')
KEEP_BATCH = 'keep the batch of 1 as an axis of its own (no squeeze(0), no x[0])'
_RESHAPES = ('Reshape', 'Flatten', 'Squeeze', 'Unsqueeze')
ELEMENTWISE = ('Add', 'Sub', 'Mul', 'Div', 'Pow', 'Min', 'Max', 'Mean', 'Sum', 'Where', 'Equal',
               'Less', 'Greater', 'LessOrEqual', 'GreaterOrEqual', 'And', 'Or', 'Xor', 'Mod',
               'PRelu')


@dataclass(frozen=True)
class PassesAxis:
    """The axis that carries a tensor's passes, of size outer * T * inner in this order."""

    axis: int
    inner: int = 1
    outer: int = 1

    @property
    def is_alone(self) -> bool:
        """Return whether the axis holds the passes and nothing else."""
        return self.inner == self.outer == 1

    @property
    def size(self) -> int:
        """Size of the axis for one pass."""
        return self.outer * self.inner

    def at(self, axis: int) -> PassesAxis:
        """Return the same on another axis."""
        return PassesAxis(axis, self.inner, self.outer)


def free_passes(model: onnx.ModelProto, sites: Iterable[DropoutSite]) -> onnx.ModelProto:
    """
    Rewrite the nodes that depend on the number of passes; shape arithmetic must be folded before.

    For T masks, the result computes what the graph of one pass computes for each mask. Raises
    GraphError, naming the node, if the output depends on a node that would mix passes.
    """
    result = copy_of(model)
    sites = tuple(sites)
    known = shapes(one_pass(model, sites))
    # Masks have the layout (T, ...), so their axis 0 holds only the passes.
    seeds = {site.name: PassesAxis(0) for site in sites}
    found = find_passes(model.graph.node, known, constants(model.graph), seeds)
    for info in model.graph.output:
        if info.name in found.lost:
            raise GraphError(f'passes would mix at {found.lost[info.name]}',
                             'an operation that treats each image of a batch separately',
                             f'{KEEP_BATCH}, or move the dropout behind that step')
        if info.name in found.shared:
            raise GraphError('the passes are not on axis 0 of the output'
                             f'{found.shared[info.name]}',
                             'a network that keeps its batch on axis 0', KEEP_BATCH)
    editor = _Editor(result, known, found, sites)
    nodes = [new for node in result.graph.node for new in editor.freed(node)]
    refill(result.graph.node, [*editor.front, *nodes])
    del result.graph.value_info[:]
    for info in result.graph.output:
        info.type.tensor_type.ClearField('shape')  # it had a fixed batch of 1
    return result


def one_pass(model: onnx.ModelProto, sites: Iterable[DropoutSite]) -> onnx.ModelProto:
    """Return the graph with T = 1, which makes all shapes static."""
    fixed = copy_of(model)
    names = {site.name for site in sites}
    for info in fixed.graph.input:
        if info.name in names:
            info.type.tensor_type.shape.dim[0].Clear()
            info.type.tensor_type.shape.dim[0].dim_value = 1
    del fixed.graph.value_info[:]
    return fixed


def _is_floored(node: onnx.NodeProto) -> bool:
    """Return whether a Resize gives each place the entry below it, as torch's 'nearest' does."""
    return [attribute(node, name) for name in (
        'mode', 'coordinate_transformation_mode', 'nearest_mode')] == [
            'nearest', 'asymmetric', 'floor']


class _Editor:
    """Rewrites nodes one by one; the nodes in `front` go before all others."""

    def __init__(
        self, model: onnx.ModelProto, known: dict[str, Shape], found: FoundPasses,
        sites: tuple[DropoutSite, ...],
    ) -> None:
        self.front: list[onnx.NodeProto] = []
        self._graph = model.graph
        self._known, self._found, self._sites = known, found, sites

    def freed(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that replace a node."""
        axis = self._found.axes.get(node.output[0])
        if axis is None:
            return [node]
        if node.op_type in _RESHAPES:
            return [self._with_shape(node, axis, -1)]
        if node.op_type == 'Expand':
            return [self._with_shape(node, axis, 1)]  # 1 keeps the input's size on that axis
        if node.op_type == 'Resize' and len(node.input) > 3 and node.input[3]:
            return self._resize(node)
        if node.op_type == 'Einsum':
            return self._summed(node, axis)
        if node.op_type in ('MatMul', *_EQUAL, *ELEMENTWISE):
            return self._stretched(node, axis)
        return [node]

    def _with_shape(self, node: onnx.NodeProto, axis: PassesAxis, size: int) -> onnx.NodeProto:
        """Give Reshape or Expand its known output shape, with `size` on the passes axis."""
        shape = list(self._known[node.output[0]])
        shape[axis.axis] = size
        name = NodeWriter(self._graph, node.output[0]).shape('free', *shape)
        op = 'Expand' if node.op_type == 'Expand' else 'Reshape'
        return helper.make_node(op, [node.input[0], name], list(node.output), name=node.name)

    def _resize(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """
        Replace the output size by scales, which do not contain the batch size.

        To the nearest, rows and columns are gathered: a scale that is rounded up skips some.
        """
        sizes = list(zip(self._known[node.input[0]], self._known[node.output[0]], strict=True))
        write = NodeWriter(self._graph, node.output[0])
        if _is_floored(node) and any(new % old for old, new in sizes):
            name = node.input[0]
            for axis, (old, new) in enumerate(sizes):
                if new != old:
                    picked = write.shape(f'axis{axis}', *(np.arange(new) * old // new))
                    name = write.node('Gather', [name, picked], f'picked{axis}', axis=axis)
            write.nodes[-1].output[0] = node.output[0]
            return write.nodes
        twin = copy_of(node)
        del twin.input[2:]
        scales = [resize_scale(old, new) for old, new in sizes]
        twin.input.append(write.constant('free', scales))
        return [twin]

    def _stretched(self, node: onnx.NodeProto, axis: PassesAxis) -> list[onnx.NodeProto]:
        """Repeat the inputs that would not broadcast once for every pass."""
        before: list[onnx.NodeProto] = []
        rank = len(self._known[node.output[0]])
        if node.op_type == 'MatMul' and axis.axis >= rank - 2:
            return [node]
        twin = copy_of(node)
        for index, name in enumerate(node.input):
            shape = self._known.get(name)
            if not name or name in self._found.axes or shape is None:
                continue
            at = axis.axis - (rank - len(shape))
            if at < 0 or (shape[at] == 1 and node.op_type not in _EQUAL):
                continue
            write = NodeWriter(self._graph, f'{node.output[0]}_in{index}')
            twin.input[index] = self._repeated(name, shape, axis.at(at), write)
            before += write.nodes
        return [*before, twin]

    def _summed(self, node: onnx.NodeProto, axis: PassesAxis) -> list[onnx.NodeProto]:
        """Remove the batch axis from the Einsum inputs that are the same in every pass."""
        equation = _einsum_terms(node, [len(self._known[name]) for name in node.input])
        twin, write = copy_of(node), NodeWriter(self._graph, node.output[0])
        label = equation.result[axis.axis]
        for index, (name, term) in enumerate(zip(node.input, equation.terms, strict=True)):
            if name in self._found.axes or label not in term:
                continue
            shape = self._known[name]
            if not axis.is_alone:
                at = axis.at(term.index(label))
                other = NodeWriter(self._graph, f'{node.output[0]}_in{index}')
                twin.input[index] = self._repeated(name, shape, at, other)
                write.nodes += other.nodes
                continue
            left = [n for n, letter in zip(shape, term, strict=True) if letter != label]
            size = write.shape(f'without{index}_shape', *left)
            twin.input[index] = write.node('Reshape', [name, size], f'without{index}')
            equation = equation.with_term(index, term.replace(label, ''))
        refill(twin.attribute, [helper.make_attribute('equation', equation.equation)])
        return [*write.nodes, twin]

    def _repeated(self, name: str, shape: Shape, axis: PassesAxis, write: NodeWriter) -> str:
        """Repeat a tensor T times along the passes axis."""
        before, behind = shape[:axis.axis], shape[axis.axis + 1:]
        if shape[axis.axis] != axis.size:
            raise GraphError(f'{name!r} of shape {shape} meets passes on an axis of {axis.size}',
                             'a network whose batch axis is not stretched')
        left, right = (*before, axis.outer), (axis.inner, *behind)
        own = write.node('Reshape', [name, write.shape('one', *left, 1, *right)], 'own')
        size = write.node('Concat', [write.shape('left', *left), self._passes(),
                                     write.shape('right', *right)], 'size', axis=0)
        every = write.node('Expand', [own, size], 'all')
        flat = write.shape('flat', *before, -1, *behind)
        return write.node('Reshape', [every, flat], 'repeated')

    def _passes(self) -> str:
        """Return a tensor that holds T, int64 (1,)."""
        if not self.front:
            write = NodeWriter(self._graph, 'passes')
            shape = write.node('Shape', [self._sites[0].name], 'shape')
            write.node('Slice', [shape, write.shape('from', 0), write.shape('to', 1)], 'count')
            self.front = write.nodes
        return self.front[-1].output[0]


# -------------------------------------------------------------------------------------------------
# Follow the passes axis through a graph, without changing the graph.


@dataclass
class FoundPasses:
    """Result of `find_passes`; a tensor in neither field is the same in all passes."""

    axes: dict[str, PassesAxis]  # Tensors that carry the passes, and on which axis.
    lost: dict[str, str]  # Tensors whose axis is unknown: the node responsible and the reason.
    # Tensors whose passes share their axis with other entries: a clause that names the node.
    shared: dict[str, str] = field(default_factory=dict)


def find_passes(
    nodes: Iterable[onnx.NodeProto],
    shapes: Mapping[str, Shape],
    constants: Values,
    seeds: Mapping[str, PassesAxis],
) -> FoundPasses:
    """Return the passes axis of every tensor that depends on `seeds`."""
    found = FoundPasses(dict(seeds), {})
    for node in nodes:
        lost = next((found.lost[name] for name in node.input if name in found.lost), None)
        if lost is None and not any(name in found.axes for name in node.input):
            continue
        if lost is None:
            where = f'{node.op_type} {node.name or node.output[0]!r}'
            shared = next((found.shared[name] for name in node.input if name in found.shared), '')
            try:
                axis = rule_of(node)(View(node, shapes, found.axes, constants))
                found.axes.update({name: axis for name in node.output if name})
                if not axis.is_alone:
                    shared = shared or f' ({where} puts them on one axis with other entries)'
                    found.shared.update(dict.fromkeys(node.output, shared))
                continue
            except Lost as err:
                lost = f'{where}: {err}{shared}'
        found.lost.update(dict.fromkeys(node.output, lost))
    return found


# -------------------------------------------------------------------------------------------------
# The effect of each operator on the axis that carries the passes.
# A rule takes a node of a graph of one pass and returns the passes axis of its outputs, or
# raises `Lost`.

_TO_THE_END = 2**31 - 1


class Lost(Exception):
    """Raised when a rule cannot determine the passes axis; the message is the reason."""


@dataclass(frozen=True)
class View:
    """The arguments of a rule: a node, shapes of one pass, known passes axes and constants."""

    node: onnx.NodeProto
    shapes: Mapping[str, Shape]
    axes: Mapping[str, PassesAxis]
    constants: Values

    def shape(self, name: str) -> Shape:
        """Return a static shape."""
        if name not in self.shapes:
            raise Lost(f'{name!r} has no static shape')
        return self.shapes[name]

    @property
    def out(self) -> Shape:
        """Shape of the first output."""
        return self.shape(self.node.output[0])

    @property
    def first(self) -> PassesAxis:
        """Return the passes axis of the data input; `Lost` if only another carries passes."""
        name = self.node.input[0]
        if name not in self.axes:
            raise Lost('an argument depends on the passes, and the data does not')
        return self.axes[name]

    def constant(self, index: int) -> list[int]:
        """Return a constant integer input as a list; empty if it is not given."""
        if index >= len(self.node.input) or not self.node.input[index]:
            return []
        value = self.constants.get(self.node.input[index])
        if value is None:
            raise Lost(f'{self.node.input[index]!r} is computed')
        return [int(v) for v in np.asarray(value).reshape(-1)]


PassesRule = Callable[[View], PassesAxis]


def rule_of(node: onnx.NodeProto) -> PassesRule:
    """Return the rule of a node's operator."""
    if node.op_type in _RULES:
        return _RULES[node.op_type]
    if node.op_type.startswith(('Reduce', 'Arg')):
        return _reduced
    return _unknown


def aligned(axis: PassesAxis, rank: int, out_rank: int) -> PassesAxis:
    """Return the axis after broadcasting to `out_rank` axes; new axes are added on the left."""
    return axis.at(axis.axis + out_rank - rank)


def _unknown(view: View) -> PassesAxis:
    raise Lost('it is not known what this operator does with several passes')


def _same(view: View) -> PassesAxis:
    """Keep the axis: the operator is elementwise or keeps every axis in its place."""
    return view.first


def _sample_by_sample(view: View) -> PassesAxis:
    axis = view.first
    if axis.axis != 0:
        raise Lost('it takes the batch on axis 0, and the passes are elsewhere')
    return axis


def _sampled(view: View) -> PassesAxis:
    """Accept data and grid of one batch; an input that is the same in every pass is repeated."""
    found = {view.axes[name] for name in view.node.input if name in view.axes}
    if len(found) > 1 or next(iter(found)).axis != 0:
        raise Lost('it takes the batch on axis 0, and the passes are elsewhere')
    return found.pop()


def _convolved(view: View) -> PassesAxis:
    if view.node.input[1] in view.axes:
        raise Lost('its weights depend on dropout')
    return _sample_by_sample(view)


def _deformed(view: View) -> PassesAxis:
    data, weights, *others = view.node.input
    sampled = {view.axes.get(name) for name in (data, others[0], *others[2:])}
    if sampled != {view.first} or weights in view.axes:
        raise Lost('only some of its inputs depend on dropout')
    return _sample_by_sample(view)


def _broadcast(view: View) -> PassesAxis:
    rank = len(view.out)
    found = {aligned(view.axes[name], len(view.shape(name)), rank)
             for name in view.node.input if name in view.axes}
    if len(found) > 1:
        raise Lost('its inputs carry the passes on different axes')
    axis = found.pop()
    if view.out[axis.axis] != axis.size:
        raise Lost('it stretches the axis of the passes')
    return axis


def _moved(view: View) -> PassesAxis:
    axis = view.first
    rank = len(view.out)
    perm = attribute(view.node, 'perm', list(range(rank))[::-1])
    return axis.at(list(perm).index(axis.axis))


def _reshaped(view: View) -> PassesAxis:
    return reshaped_axis(view.first, view.shape(view.node.input[0]), view.out)


def reshaped_axis(axis: PassesAxis, old: Sequence[int], new: Sequence[int]) -> PassesAxis:
    """
    Return the passes axis after a reshape, from that of the old shape (both shapes of one pass).

    The passes get a separate axis if the new shape has a suitable axis of size 1. Raises Lost if
    an axis of the new shape would mix passes.
    """
    before = math.prod(old[:axis.axis]) * axis.outer
    starts = [i for i in range(len(new)) if math.prod(new[:i]) == before]
    own = next((i for i in starts if new[i] == 1), None)
    if own is not None:
        return PassesAxis(own)
    # (L, T, E) to (L, E): merge T into the rows L, not into the features E.
    if starts and (starts[-1] < len(new) - 1 or len(new) == 1):
        return PassesAxis(starts[-1], new[starts[-1]])
    inside = max(i for i in range(len(new)) if math.prod(new[:i]) < before)
    outer, rest = divmod(before, math.prod(new[:inside]))
    if rest or new[inside] % outer:
        raise Lost(f'it cuts across the passes ({list(old)} to {list(new)})')
    return PassesAxis(inside, new[inside] // outer, outer)


def _inserted(view: View) -> PassesAxis:
    axis = view.first
    rank = len(view.out)
    new = {a % rank for a in view.constant(1)}
    kept = [i for i in range(rank) if i not in new]
    return axis.at(kept[axis.axis]) if axis.is_alone else _reshaped(view)


def _squeezed(view: View) -> PassesAxis:
    axis = view.first
    shape = view.shape(view.node.input[0])
    axes = view.constant(1) or [i for i, n in enumerate(shape) if n == 1]
    gone = {a % len(shape) for a in axes}
    if axis.axis in gone:
        return reshaped_axis(axis, shape, view.out)
    return axis.at(axis.axis - sum(a < axis.axis for a in gone))


def _multiplied(view: View) -> PassesAxis:
    left, right = view.node.input[:2]
    ranks = len(view.shape(left)), len(view.shape(right))
    if min(ranks) < 2:
        raise Lost('it is a product with a vector')
    found = set()
    for name, rank, summed in ((left, ranks[0], ranks[0] - 1), (right, ranks[1], ranks[1] - 2)):
        if name in view.axes:
            if view.axes[name].axis == summed:
                raise Lost('it sums over the passes')
            found.add(aligned(view.axes[name], rank, len(view.out)))
    if len(found) > 1:
        raise Lost('its inputs carry the passes on different axes')
    return found.pop()


def _gemm(view: View) -> PassesAxis:
    axis = view.first
    if axis.axis != 0 or attribute(view.node, 'transA', 0) or view.node.input[1] in view.axes:
        raise Lost('it sums over the passes')
    return axis


def _einsum(view: View) -> PassesAxis:
    equation = _einsum_terms(view.node, [len(view.shape(name)) for name in view.node.input])
    labels = {(term[view.axes[name].axis], view.axes[name].at(0))
              for term, name in zip(equation.terms, view.node.input, strict=True)
              if name in view.axes}
    if len(labels) != 1:
        raise Lost('its inputs carry the passes on different axes')
    (label, axis), = labels
    if label not in equation.result:
        raise Lost('it sums over the passes')
    return axis.at(equation.result.index(label))


def _joined(view: View) -> PassesAxis:
    """Accept inputs of one batch; an input that is the same in every pass is repeated."""
    axes = {view.axes[name] for name in view.node.input if name in view.axes}
    if len(axes) > 1:
        raise Lost('its inputs carry the passes on different axes')
    axis = axes.pop()
    if attribute(view.node, 'axis', 0) % len(view.out) == axis.axis:
        raise Lost('it joins or writes tensors along the axis of the passes')
    return axis


def _along_another(view: View) -> PassesAxis:
    """Keep the axis: Softmax, Split, TopK and similar must work along a different one."""
    axis = view.first
    default = 0 if view.node.op_type in ('Split', 'GatherElements') else -1
    along = attribute(view.node, 'axis', default) % len(view.shape(view.node.input[0]))
    if along == axis.axis:
        raise Lost('it works along the axis of the passes')
    return axis


def _normalised(view: View) -> PassesAxis:
    axis = view.first
    if axis.axis >= attribute(view.node, 'axis', -1) % len(view.shape(view.node.input[0])):
        raise Lost('it normalises over the passes')
    return axis


def _sliced(view: View) -> PassesAxis:
    axis = view.first
    rank = len(view.shape(view.node.input[0]))
    axes = [a % rank for a in view.constant(3)] or list(range(rank))
    if axis.axis in axes:
        # For one pass, [:1] and [:] give the same result; only [:] is right for T passes.
        at = axes.index(axis.axis)
        step = view.constant(4)[at] if view.constant(4) else 1
        if (view.constant(1)[at], step) != (0, 1) or view.constant(2)[at] < _TO_THE_END:
            raise Lost('it cuts the axis of the passes')
    return axis


def _gathered(view: View) -> PassesAxis:
    data, indices = view.node.input
    shape = view.shape(data)
    along = attribute(view.node, 'axis', 0) % len(shape)
    if data not in view.axes:  # a table that is the same in all passes
        return view.axes[indices].at(along + view.axes[indices].axis)
    axis = view.first
    if along == axis.axis:
        raise Lost('it picks one entry of the batch')
    grown = len(view.shape(view.node.input[1])) - 1
    return axis.at(axis.axis + (grown if along < axis.axis else 0))


def _gathered_points(view: View) -> PassesAxis:
    axis = view.first
    first = attribute(view.node, 'batch_dims', 0)
    points = view.shape(view.node.input[1])
    behind = first + points[-1]
    if axis.axis < behind:
        raise Lost('it picks entries of the batch')
    return axis.at(len(points) - 1 + axis.axis - behind)


def _reduced(view: View) -> PassesAxis:
    axis = view.first
    rank = len(view.shape(view.node.input[0]))
    if view.node.op_type.startswith('Arg'):
        axes = [attribute(view.node, 'axis', 0)]
    else:
        axes = view.constant(1) or list(range(rank))
    gone = {a % rank for a in axes}
    if axis.axis in gone:
        raise Lost('it reduces over the passes')
    if attribute(view.node, 'keepdims', 1):
        return axis
    return axis.at(axis.axis - sum(a < axis.axis for a in gone))


def _padded(view: View) -> PassesAxis:
    axis = view.first
    pads = view.constant(1)
    half = len(pads) // 2
    if pads[axis.axis] or pads[half + axis.axis]:
        raise Lost('it pads the axis of the passes')
    return axis


def _transformed(view: View) -> PassesAxis:
    axis = view.first
    along, = view.constant(2) or [-2]
    if along % len(view.out) == axis.axis:
        raise Lost('it transforms along the passes')
    return axis


def _repeated(view: View) -> PassesAxis:
    axis = view.first
    if view.constant(1)[axis.axis] != 1:
        raise Lost('it repeats the passes')
    return axis


SAME = (
    'Relu', 'Clip', 'Sigmoid', 'Tanh', 'Erf', 'Exp', 'Log', 'Sqrt', 'Neg', 'Abs', 'Cast',
    'Identity', 'LeakyRelu', 'HardSwish', 'HardSigmoid', 'Elu', 'Selu', 'Celu', 'Softplus',
    'Softsign', 'Floor', 'Ceil', 'Round', 'Reciprocal', 'Sin', 'Cos', 'Sign', 'Not', 'IsNaN',
    'IsInf', 'Gelu', 'Mish', 'ThresholdedRelu', 'Dropout', 'QuantizeLinear', 'DequantizeLinear',
    'Trilu', 'CumSum',
)
_RULES: dict[str, PassesRule] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(('BatchNormalization', 'InstanceNormalization', 'GroupNormalization', 'LRN',
                     'MaxPool', 'Resize', 'Col2Im',
                     'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool', 'DepthToSpace',
                     'SpaceToDepth', 'LpPool', 'GlobalLpPool'), _sample_by_sample),
    **dict.fromkeys(('Conv', 'ConvTranspose'), _convolved),
    **dict.fromkeys((*ELEMENTWISE, 'Expand'), _broadcast),
    **dict.fromkeys(('Softmax', 'LogSoftmax', 'Hardmax', 'Split', 'TopK', 'LpNormalization',
                     'GatherElements'), _along_another),
    'DeformConv': _deformed, 'GridSample': _sampled, 'ScatterElements': _joined,
    'Transpose': _moved, 'Reshape': _reshaped, 'Flatten': _reshaped,
    'Unsqueeze': _inserted, 'Squeeze': _squeezed, 'MatMul': _multiplied, 'Gemm': _gemm,
    'Einsum': _einsum, 'Concat': _joined, 'LayerNormalization': _normalised, 'Slice': _sliced,
    'Gather': _gathered, 'GatherND': _gathered_points, 'Pad': _padded, 'Tile': _repeated,
    'DFT': _transformed,
}


# -------------------------------------------------------------------------------------------------
# The equation of an Einsum.

_ELLIPSIS = '...'


@dataclass(frozen=True)
class _EinsumTerms:
    """The axes of each input and of the output as letters; an ellipsis is written out."""

    terms: tuple[str, ...]
    result: str

    @property
    def equation(self) -> str:
        """Return the terms as an Einsum equation."""
        return f'{",".join(self.terms)}->{self.result}'

    def with_term(self, index: int, term: str) -> _EinsumTerms:
        """Return the terms with the axes of one input replaced."""
        return replace(self, terms=(*self.terms[:index], term, *self.terms[index + 1:]))


def _einsum_terms(node: onnx.NodeProto, ranks: Sequence[int]) -> _EinsumTerms:
    """Parse the equation of a node whose inputs have the given ranks."""
    equation = attribute(node, 'equation').replace(' ', '')
    left, arrow, result = equation.partition('->')
    if not arrow:
        raise Lost('its equation names no output')
    terms = left.split(',')
    wide = max(rank - len(term.replace(_ELLIPSIS, ''))
               for term, rank in zip(terms, ranks, strict=True))
    letters = [letter for letter in string.ascii_letters if letter not in equation]
    wildcard = ''.join(letters[:wide])
    full = tuple(term.replace(_ELLIPSIS, wildcard) for term in terms)
    return _EinsumTerms(full, result.replace(_ELLIPSIS, wildcard))
