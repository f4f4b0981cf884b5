# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Dropout on what does not depend on the image gets a batch axis, so that passes can differ there.

Learned queries, relative positions and weights have no axis for a batch. From the dropout on they
get one in front, and so does all that is computed from them alone (their twins), until they meet
what is computed from the image: there the axis moves to where the image carries its batch.

"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
import math

import numpy as np
import onnx
from onnx import helper

from uncertainty_seg.compiler.algebra.einsum_terms import einsum_terms, EinsumTerms
from uncertainty_seg.compiler.algebra.free_passes import (
    ELEMENTWISE,
    Lost,
    PassesAxis,
    rule_of,
    SAME,
    View,
)
from uncertainty_seg.compiler.onnx_tools import (
    attribute,
    constants,
    copy_of,
    image_inputs,
    NodeWriter,
    refill,
    Shape,
    Shapes,
)

_FRONT = PassesAxis(0)
_RESHAPES = ('Reshape', 'Flatten', 'Squeeze', 'Unsqueeze')
# Work along an axis: the axis that they take by default.
_ALONG = {'Softmax': -1, 'LogSoftmax': -1, 'LayerNormalization': -1, 'Gather': 0}


def lift_constants(
    model: onnx.ModelProto, known: Shapes, live: Container[str]
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """
    Give constants that are dropped from an axis of the passes.

    Parameters
    ----------
    model : ModelProto
        Of one pass, with dropout; left as it is.
    known : mapping of str to tuple of int
        Its shapes.
    live : container of str
        Outputs of the dropouts with a rate above 0.

    Returns
    -------
    model : ModelProto
        Computes the same.
    seeds : tuple of str
        Outputs of dropouts that depend on no image; they carry the passes on axis 0.

    """
    lifter = _Lifter(model, known, live)
    nodes = [new for node in model.graph.node for new in lifter.rewritten(node)]
    if not lifter.seeds:
        return model, ()
    nodes += lifter.lowered(info.name for info in model.graph.output)
    refill(lifter.model.graph.node, nodes)
    del lifter.model.graph.value_info[:]
    return lifter.model, tuple(lifter.seeds)


class _Lifter:
    """
    Rewrites one node after the other.

    Attributes
    ----------
    model : ModelProto
        Takes the constants.
    seeds : list of str
        Of `lift_constants`.

    """

    def __init__(
        self, model: onnx.ModelProto, known: Shapes, live: Container[str]
    ) -> None:
        self.model = copy_of(model)
        self.seeds: list[str] = []
        self._known, self._live = known, live
        self._fixed = constants(model.graph)
        self._axes = {info.name: _FRONT for info in image_inputs(model.graph)}
        self._loose: set[str] = set()  # in _axes, but computed from constants alone
        self._twins: dict[str, str] = {}
        self._spare: dict[str, str] = {}  # twins of what has an axis of its own
        self._lost: set[str] = set()

    def rewritten(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return what to put in place of a node."""
        if self._twins.keys() & set(node.input):
            return self._with_twins(node)
        if node.output[0] in self._live and self._is_constant(node.input[0]):
            return self._started(node)
        try:
            self._follow(node)
        except Lost:
            if self._loose & set(node.input):
                return self._with_twins(node)
            self._lost.update(node.output)
        return [node]

    def lowered(self, names: Iterable[str]) -> list[onnx.NodeProto]:
        """Write tensors that have a twin without an axis of its own: it joins their first."""
        nodes = []
        for name in dict.fromkeys(names):
            if name in self._twins and name not in self._axes:
                shape = self._known[name]
                size = NodeWriter(self.model.graph, name).shape('lowered', *shape)
                nodes.append(helper.make_node('Reshape', [self._twins[name], size], [name]))
                self._axes[name] = _FRONT if shape[0] == 1 else PassesAxis(0, shape[0])
                self._loose.add(name)
        return nodes

    def _is_constant(self, name: str) -> bool:
        return name in self._known and name not in self._axes and name not in self._lost

    def _follow(self, node: onnx.NodeProto) -> None:
        """Find where a node's outputs carry the batch; raise Lost if that is not known."""
        if self._lost & set(node.input):
            raise Lost('it was lost before')
        inside = self._axes.keys() & set(node.input)
        if inside:
            axis = rule_of(node)(View(node, self._known, self._axes, self._fixed))
            self._axes.update({name: axis for name in node.output if name})
            if inside <= self._loose:
                self._loose.update(node.output)

    def _started(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Begin at a dropout of what does not depend on the image."""
        data, output = node.input[0], node.output[0]
        shape = self._known[data]
        if not shape or shape[0] != 1 and attribute(node, 'kind') == 'feature_alpha':
            return [node]
        if shape[0] == 1:
            self.seeds.append(output)
            self._axes[output] = _FRONT
            self._loose.add(output)
            return [node]
        write = NodeWriter(self.model.graph, output)
        if data in self._fixed:
            lifted = write.constant('lifted', self._fixed[data][None])
        else:
            lifted = write.node('Reshape', [data, write.shape('lift_shape', 1, *shape)], 'lifted')
        return [*write.nodes, *self._dropped(node, lifted)]

    def _dropped(self, node: onnx.NodeProto, data: str) -> list[onnx.NodeProto]:
        """Drop from a twin; of rows or channels, each entry of its first axis has its own."""
        output, shape = node.output[0], self._known[node.input[0]]
        kind, drop = attribute(node, 'kind', 'element'), copy_of(node)
        twin = self._twins[output] = f'{output}_twin'
        del drop.output[1:]
        if kind not in ('path', 'channel'):
            drop.input[0], drop.output[0] = data, twin
            self.seeds.append(twin)
            return [drop]
        own = 1 if kind == 'path' else 2
        ones = np.ones((1, *shape[:own], *[1] * len(shape[own:])))
        drop.input[0] = NodeWriter(self.model.graph, twin).constant('ones', ones)
        drop.output[0] = f'{twin}_kept'
        refill(drop.attribute, [entry for entry in drop.attribute if entry.name != 'kind'])
        self.seeds.append(drop.output[0])
        return [drop, helper.make_node('Mul', [data, drop.output[0]], [twin])]

    def _with_twins(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Rewrite a node that reads twins: for twins, at a meeting, or without their axis."""
        before = [new for name in dict.fromkeys(node.input) for new in self._twinned(name)]
        try:
            return [*before, *self._lifted_or_met(node)]
        except Lost:
            before += self.lowered(node.input)
        try:
            self._follow(node)
        except Lost:
            self._lost.update(node.output)
        return [*before, node]

    def _lifted_or_met(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if any(name not in self._known for name in (*filter(None, node.input), *node.output)):
            raise Lost('a shape is not known')
        if self._lost & set(node.input):
            raise Lost('it was lost before')
        if (self._axes.keys() - self._twins.keys()) & set(node.input):
            return self._met(node)
        if node.output[0] in self._live:
            if attribute(node, 'kind') == 'feature_alpha':
                raise Lost('its channels have no batch')
            return self._dropped(node, self._twins[node.input[0]])
        write = NodeWriter(self.model.graph, f'{node.output[0]}_twin')
        twin = _Twin(node, self._known, self._twins, write).node()
        refill(twin.output, [f'{node.output[0]}_twin'])
        self._twins[node.output[0]] = twin.output[0]
        return [*write.nodes, twin, *self._settled(node.output[0])]

    def _settled(self, name: str) -> list[onnx.NodeProto]:
        """Go on without a twin where a tensor has an axis for the batch itself."""
        if self._known[name][0] != 1:
            return []
        nodes = self.lowered([name])
        self._spare[name] = self._twins.pop(name)
        return nodes

    def _twinned(self, name: str) -> list[onnx.NodeProto]:
        """Write the twin of a tensor that carries the passes itself, but no image."""
        if name in self._spare:
            self._twins[name] = self._spare.pop(name)
        if name not in self._loose or name in self._twins:
            return []
        axis, shape = self._axes[name], self._known[name]
        write = NodeWriter(self.model.graph, f'{name}_twin')
        before, behind = math.prod(shape[:axis.axis]) * axis.outer, shape[axis.axis + 1:]
        left = (before,) * (before > 1)  # a second axis of 1 could be taken for that of the passes
        apart = (*left, 1, axis.inner, *behind)
        split = write.node('Reshape', [name, write.shape('apart_shape', *apart)], 'apart')
        perm = [len(left), *(i for i in range(len(apart)) if i != len(left))]
        moved = write.node('Transpose', [split], 'moved', perm=perm)
        self._twins[name] = write.node('Reshape', [moved, write.shape('shape', 1, *shape)])
        return write.nodes

    def _met(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Bring twins to where the image carries its batch, at a node that joins both."""
        axis, rank = self._meeting(node), len(self._known[node.output[0]])
        if node.op_type == 'Einsum':
            return self._summed(node, axis)
        result, nodes = copy_of(node), []
        for index, name in enumerate(node.input):
            if name not in self._twins:
                continue
            write = NodeWriter(self.model.graph, f'{node.output[0]}_met{index}')
            result.input[index] = _at(self._twins[name], self._known[name], axis, rank, write)
            nodes += write.nodes
        self._axes.update({name: axis for name in node.output if name})
        return [*nodes, result]

    def _summed(self, node: onnx.NodeProto, axis: PassesAxis) -> list[onnx.NodeProto]:
        """Give twins in an Einsum the letter of the image's batch."""
        equation = _equation(node, self._known)
        label, result = equation.result[axis.axis], copy_of(node)
        write = NodeWriter(self.model.graph, f'{node.output[0]}_met')
        for index, (name, term) in enumerate(zip(node.input, equation.terms, strict=True)):
            if name not in self._twins:
                continue
            shape, result.input[index] = self._known[name], self._twins[name]
            if label in term:
                at = axis.at(term.index(label))
                inner = NodeWriter(self.model.graph, f'{node.output[0]}_met{index}')
                result.input[index] = _at(self._twins[name], shape, at, len(shape), inner)
                write.nodes += inner.nodes
            elif axis.is_alone:
                equation = equation.with_term(index, label + term)
            else:
                raise Lost('the batch is merged with another axis')
        refill(result.attribute, [helper.make_attribute('equation', equation.equation)])
        self._axes.update({name: axis for name in node.output if name})
        return [*write.nodes, result]

    def _meeting(self, node: onnx.NodeProto) -> PassesAxis:
        """Say where a node's output carries the batch of the image."""
        if node.op_type not in (*ELEMENTWISE, 'MatMul', 'Concat', 'Einsum'):
            raise Lost('it is not known where the passes go there')
        axes = {name: axis for name, axis in self._axes.items() if name not in self._twins}
        axis = rule_of(node)(View(node, self._known, axes, self._fixed))
        rank = len(self._known[node.output[0]])
        if node.op_type == 'MatMul' and (
                axis.axis >= rank - 2 or min(len(self._known[n]) for n in node.input) < 2):
            raise Lost('the passes are on its rows')
        return axis


def _equation(node: onnx.NodeProto, known: Shapes) -> EinsumTerms:
    found = einsum_terms(node, [len(known[name]) for name in node.input])
    if found is None:
        raise Lost('its equation names no output')
    return found


def _at(twin: str, shape: Shape, axis: PassesAxis, rank: int, write: NodeWriter) -> str:
    """Bring a twin (T, *shape) to a tensor of `rank` axes that carries the passes at `axis`."""
    sizes = [*[1] * (rank - len(shape)), *shape]
    if axis.is_alone:
        if sizes.pop(axis.axis) != 1:
            raise Lost('it stretches the axis of the passes')
    elif sizes[axis.axis] not in (1, axis.size):
        raise Lost('it stretches the axis of the passes')
    name = write.node('Reshape', [twin, write.shape('wide', 1, *sizes)], 'wide_twin')
    if not axis.is_alone and sizes[axis.axis] == 1:
        sizes[axis.axis] = axis.size
        name = write.node('Expand', [name, write.shape('full', 1, *sizes)], 'full_twin')
    return lay_out(name, sizes, axis, write)


def lay_out(name: str, sizes: list[int], axis: PassesAxis, write: NodeWriter) -> str:
    """
    Bring a tensor (T, *sizes) to where another carries its passes; return its name there.

    `sizes` leaves out an axis of the passes alone, and has one that they share. Where the batch is
    on another axis than the first, or merged with the heads of an attention, the tensor is
    transposed and reshaped to match.

    """
    to = axis.axis
    if axis == _FRONT:
        return name

    def reshaped(suffix: str, *shape: int) -> str:
        return write.node('Reshape', [name, write.shape(f'{suffix}_shape', *shape)], suffix)

    if axis.outer > 1:
        name = reshaped('apart', -1, *sizes[:to], axis.outer, axis.inner, *sizes[to + 1:])
        to += 1
    if to > 0:
        rank = len(sizes) + 1 + (axis.outer > 1)
        perm = [*range(1, to + 1), 0, *range(to + 1, rank)]
        name = write.node('Transpose', [name], 'moved', perm=perm)
    if not axis.is_alone:
        name = reshaped('merged', *sizes[:axis.axis], -1, *sizes[axis.axis + 1:])
    return name


class _Twin:
    """Writes the node that computes the twin of an output from the twins of inputs."""

    def __init__(
        self, node: onnx.NodeProto, known: Shapes, twins: Mapping[str, str], write: NodeWriter
    ) -> None:
        self._node, self._known, self._twins, self._write = node, known, twins, write

    def node(self) -> onnx.NodeProto:
        """Return the node, without a name for its output; raise Lost for an unknown operator."""
        op, out = self._node.op_type, self._known[self._node.output[0]]
        if op in _RESHAPES:
            return self._made('Reshape', self._data(), self._write.shape('shape', 1, *out))
        if op == 'Expand':
            grown = self._grown(0, len(out))
            return self._made(op, grown, self._write.shape('shape', 1, *out))
        if op == 'Gemm':
            return self._product()
        if op in (*ELEMENTWISE, 'MatMul'):
            if op == 'MatMul' and min(len(self._known[n]) for n in self._node.input) < 2:
                raise Lost('it is a product with a vector')
            twin = copy_of(self._node)
            refill(twin.input, [self._grown(i, len(out)) for i in range(len(twin.input))])
            return twin
        if op == 'Concat':
            return self._joined()
        return self._summed() if op == 'Einsum' else self._along()

    def _made(self, op: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(op, list(inputs), [''], name=self._node.name, **attributes)

    def _data(self) -> str:
        """Return the twin of the data, which must be all that carries passes."""
        if any(name in self._twins for name in self._node.input[1:]):
            raise Lost('an argument depends on the passes')
        return self._twins[self._node.input[0]]

    def _grown(self, index: int, rank: int) -> str:
        """Return an input, a twin with as many axes as that of the output."""
        name = self._node.input[index]
        shape = self._known.get(name, ())
        if name not in self._twins or len(shape) == rank:
            return self._twins.get(name, name)
        size = self._write.shape(f'in{index}_shape', 1, *[1] * (rank - len(shape)), *shape)
        return self._write.node('Reshape', [self._twins[name], size], f'in{index}')

    def _product(self) -> onnx.NodeProto:
        node = self._node
        if attribute(node, 'transA', 0) or attribute(node, 'beta', 1.0) != 1 \
                or attribute(node, 'alpha', 1.0) != 1:
            raise Lost('it is no plain product')
        data, weights = self._data(), node.input[1]
        if attribute(node, 'transB', 0):
            weights = self._write.node('Transpose', [weights], 'weights', perm=[1, 0])
        if len(node.input) < 3 or not node.input[2]:
            return self._made('MatMul', data, weights)
        return self._made('Add', self._write.node('MatMul', [data, weights], 'product'),
                          node.input[2])

    def _joined(self) -> onnx.NodeProto:
        rank = len(self._known[self._node.output[0]])
        parts = []
        for index, name in enumerate(self._node.input):
            size = self._write.shape(f'in{index}_shape', 1, *self._known[name])
            parts.append(self._twins.get(name) or self._write.node(
                'Reshape', [name, size], f'in{index}'))
        return self._made('Concat', *parts, axis=attribute(self._node, 'axis') % rank + 1)

    def _summed(self) -> onnx.NodeProto:
        equation = _equation(self._node, self._known)
        label, twin = equation.unused, copy_of(self._node)
        equation = replace(equation, result=label + equation.result)
        for index, name in enumerate(self._node.input):
            if name in self._twins:
                twin.input[index] = self._twins[name]
                equation = equation.with_term(index, label + equation.terms[index])
        refill(twin.attribute, [helper.make_attribute('equation', equation.equation)])
        return twin

    def _along(self) -> onnx.NodeProto:
        """Shift the axes of what works along some, or on each element."""
        op, rank = self._node.op_type, len(self._known[self._node.input[0]])
        twin = copy_of(self._node)
        twin.input[0] = self._data()
        if op == 'Transpose':
            perm = attribute(twin, 'perm', list(range(rank))[::-1])
            return self._made(op, twin.input[0], perm=[0, *(i + 1 for i in perm)])
        if op in _ALONG:
            axis = attribute(twin, 'axis', _ALONG[op]) % rank + 1
            refill(twin.attribute, [a for a in twin.attribute if a.name != 'axis'])
            twin.attribute.append(helper.make_attribute('axis', axis))
        elif op not in SAME or op in ('CumSum', 'Dropout', 'QuantizeLinear', 'DequantizeLinear'):
            raise Lost('it is not known what it does with one axis more')
        return twin
