# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Convert a trunk or head to 16 bits (float16 or bfloat16), with float32 inputs and outputs.

Convolutions and matrix products are computed in 16 bits, and so are elementwise operations after
them. Operations that sum, divide or exponentiate stay in float32, as do squares and everything
before the first product, which is the normalisation of the image. Inputs and outputs keep their
types: masks, logits and the reduction after them are float32, and dropout sites do not change.

The converters of ONNX Runtime and onnxconverter-common support only float16, replace values that
are too large by 10 000, normalise the image in 16 bits, and order nodes in a way onnx rejects.

This module also stores only the weights in 16 bits, and converts 16-bit graphs back to float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
import math

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.compiler.algebra.split import LOGITS, MOMENTS
from uncertainty_seg.compiler.onnx_tools import (
    attribute,
    constants,
    copy_of,
    first_line,
    refill,
    tensor_names,
    types_of,
    unused,
)
from uncertainty_seg.errors import GraphError

# Always in 16 bits: they take most of the time, and hardware accumulates their sums in 32 bits.
_PRODUCTS = frozenset({'Conv', 'ConvTranspose', 'Einsum', 'Gemm', 'MatMul'})
# In 16 bits if one of their inputs is; every other operator stays in float32.
_FOLLOWERS = frozenset({
    'Abs', 'Add', 'AveragePool', 'Clip', 'Concat', 'DepthToSpace', 'Div', 'Elu', 'Erf',
    'Expand', 'Flatten', 'Gather', 'GatherElements', 'Gelu', 'HardSigmoid', 'HardSwish',
    'Identity', 'LeakyRelu', 'Max', 'MaxPool', 'Min', 'Mish', 'Mul', 'Neg', 'PRelu', 'Pad',
    'Relu', 'Reshape', 'Resize', 'Selu', 'Sigmoid', 'Slice', 'SpaceToDepth', 'Split',
    'Squeeze', 'Sub', 'Tanh', 'Tile', 'Transpose', 'Unsqueeze', 'Where',
})
# Operators that change only the place or sign of values.
_REARRANGED = frozenset({'Abs', 'Expand', 'Flatten', 'Identity', 'Neg', 'Reshape', 'Squeeze',
                         'Transpose', 'Unsqueeze'})
# Input indices that ONNX requires to be float32, whatever the type of the data.
_FLOAT32_ARGUMENTS = {'Resize': (1, 2)}
_QUANTISED = frozenset({'QuantizeLinear', 'DequantizeLinear', 'QLinearConv', 'ConvInteger'})
_OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class _Kind:
    name: str
    onnx_type: int
    largest: float


_KINDS = {
    'fp16': _Kind('fp16', TensorProto.FLOAT16, 65504.0),
    'bf16': _Kind('bf16', TensorProto.BFLOAT16, float(np.uint32(0x7F7F0000).view(np.float32))),
}


def to_precision(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """
    Move the products of a graph, and the operations that follow them, to 16 bits.

    The weights do not show whether a value inside the network leaves the range of float16. Such a
    value becomes infinite, the maps NaN, and no frame is confident. A square overflows at a value
    of 256 and becomes 0 below 0.0002. A vector's length would then be infinite or 0, and the
    vector divided by it zeros: finite but wrong. So squares stay in float32. ONNX Runtime on a CPU
    would not reveal this, since it rounds in fewer places than the graph says.

    Raises GraphError if a weight is too large for the type, or the graph is not in float32.
    """
    if kind not in _KINDS:
        raise GraphError(f'precision {kind!r}', f'one of {", ".join(_KINDS)}')
    plain = restore_weights(model)
    weights = {n: v for n, v in constants(plain.graph).items() if v.dtype == np.float32}
    writer = _CastWriter(_KINDS[kind], _floats(plain), weights, tensor_names(plain.graph))
    for info in plain.graph.input:
        writer.take(info)
    outputs = {LOGITS, MOMENTS, *(info.name for info in plain.graph.output)}
    for node in plain.graph.node:
        writer.put(node, outputs)
    result = copy_of(plain)
    del result.graph.value_info[:]
    kept = [t for t in plain.graph.initializer if t.name not in writer.floats]
    refill(result.graph.initializer, [*kept, *writer.tensors])
    refill(result.graph.node, writer.nodes)
    _check(result, kind)
    return result


@dataclass
class _CastWriter:
    """Writes nodes one by one, with a Cast wherever the type changes."""

    kind: _Kind
    floats: frozenset[str]
    constants: dict[str, NDArray[np.generic]]
    taken: set[str]
    low: set[str] = field(default_factory=set)
    reduced: set[str] = field(default_factory=lambda: {LOGITS, MOMENTS})
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    # (name in the given graph, is low) -> name of the tensor of that type.
    there: dict[tuple[str, bool], str] = field(default_factory=dict)
    # Name in the given graph -> an id that it shares with all tensors of the same values up to
    # place and sign; and the expression -> its id.
    values: dict[str, int] = field(default_factory=dict)
    numbers: dict[tuple[object, ...], int] = field(default_factory=dict)
    inverses: set[str] = field(default_factory=set)

    def take(self, info: onnx.ValueInfoProto) -> None:
        """Register an input: the trunk's tensors are rounded at once, a mask where it is used."""
        if info.name not in self.floats:
            return
        self.there[info.name, False] = info.name
        first = info.type.tensor_type.shape.dim[:1]
        if first and first[0].dim_value == 1:
            self.low.add(info.name)

    def put(self, node: onnx.NodeProto, outputs: set[str]) -> None:
        """Write a node in 16 or 32 bits, as its operator and inputs require."""
        if node.op_type == 'Constant' and node.output[0] in self.constants:
            return
        is_reduction = not self.reduced.isdisjoint(node.input)
        self.reduced.update(node.output if is_reduction else ())
        self._note(node)
        is_low = not is_reduction and self._is_low(node)
        twin = copy_of(node)
        for index, name in enumerate(node.input):
            stays = index in _FLOAT32_ARGUMENTS.get(node.op_type, ())
            is_bound = node.op_type == 'Clip' and index > 0
            twin.input[index] = self._as(name, is_low and not stays, is_bound)
        self.nodes.append(twin)
        for index, name in enumerate(node.output):
            if name not in self.floats:
                continue
            if not is_low:
                self.there[name, False] = name
                continue
            self.low.add(name)
            twin.output[index] = self._fresh(name, True) if name in outputs else name
            self.there[name, True] = twin.output[index]
            if name in outputs:
                self._cast(twin.output[index], name, TensorProto.FLOAT)
                self.there[name, False] = name

    def _note(self, node: onnx.NodeProto) -> None:
        """Record which tensors have the values of others, and which are reciprocals."""
        given = [self._number(name) for name in node.input]
        is_rearranged = node.op_type in _REARRANGED
        told = tuple(sorted(entry.SerializeToString() for entry in node.attribute))
        for index, name in enumerate(node.output):
            key = (node.op_type, told, index, *given)
            self.values[name] = given[0] if is_rearranged else \
                self.numbers.setdefault(key, len(self.numbers))
        is_inverse = node.op_type == 'Reciprocal' or self._is_negative_power(node)
        if is_inverse or (is_rearranged and node.input[0] in self.inverses):
            self.inverses.update(node.output)

    def _is_negative_power(self, node: onnx.NodeProto) -> bool:
        if node.op_type != 'Pow' or node.input[1] not in self.constants:
            return False
        return bool((np.asarray(self.constants[node.input[1]], np.float64) < 0).any())

    def _number(self, name: str) -> int:
        if name not in self.values:  # an input or a constant
            self.values[name] = self.numbers.setdefault((name,), len(self.numbers))
        return self.values[name]

    def _is_square(self, node: onnx.NodeProto) -> bool:
        factors = [name for name in node.input[:2] if name and name not in self.constants]
        return len(factors) == 2 and self._number(factors[0]) == self._number(factors[1])

    def _is_low(self, node: onnx.NodeProto) -> bool:
        if node.op_type in ('Mul', *_PRODUCTS) and self._is_square(node):
            return False  # squaring doubles the range of exponents
        if node.op_type == 'Mul' and not self.inverses.isdisjoint(node.input):
            return False  # this is a division, see below
        if node.op_type in _PRODUCTS:
            return node.output[0] in self.floats
        if node.op_type == 'Div' and node.input[1] not in self.constants:
            return False  # a small divisor would underflow
        return node.op_type in _FOLLOWERS and any(name in self.low for name in node.input)

    def _as(self, name: str, is_low: bool, is_bound: bool) -> str:
        """Return the name of a tensor in the wanted type; write the conversion if needed."""
        if name not in self.floats:
            return name
        if (name, is_low) in self.there:
            return self.there[name, is_low]
        if name in self.constants:
            values = self.constants[name]
            made = self._fresh(name, True) if is_low else name
            self.tensors.append(_low_tensor(made, values, self.kind, is_bound) if is_low
                                else numpy_helper.from_array(values, made))
        else:
            made = self._fresh(name, is_low)
            self._cast(self.there[name, not is_low], made,
                       self.kind.onnx_type if is_low else TensorProto.FLOAT)
        self.there[name, is_low] = made
        return made

    def _fresh(self, name: str, is_low: bool) -> str:
        made = unused(f'{name}_{self.kind.name if is_low else "fp32"}', self.taken)
        self.taken.add(made)
        return made

    def _cast(self, name: str, made: str, onnx_type: int) -> None:
        self.nodes.append(helper.make_node('Cast', [name], [made], f'cast_{made}', to=onnx_type))


def _low_tensor(
    name: str, values: NDArray[np.generic], kind: _Kind, is_bound: bool
) -> onnx.TensorProto:
    """Round a constant; a bound of Clip outside the type's range becomes the largest value."""
    values = np.asarray(values, np.float32)
    if is_bound:
        values = np.clip(values, -kind.largest, kind.largest)
    with np.errstate(over='ignore'):  # overflow is checked below
        rounded = values.astype(helper.tensor_dtype_to_np_dtype(kind.onnx_type))
    if (np.isinf(rounded) & np.isfinite(values)).any():
        raise GraphError(
            f'weight {name!r} reaches {np.abs(values[np.isfinite(values)]).max():.3g}',
            f'at most {kind.largest:.5g} in {kind.name}',
            'compile with the precision bf16 or fp32',
        )
    return numpy_helper.from_array(rounded, name)


def _floats(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of all float32 tensors; GraphError if the graph has other float types."""
    for node in model.graph.node:
        if node.op_type in _QUANTISED:
            raise GraphError(f'the graph holds {node.op_type} {node.name!r}', 'float32 throughout',
                             'choose fp32, which keeps the 8-bit weights')
    types = types_of(model)
    for name, known in types.items():
        if known.kind in _OTHER_FLOATS:
            raise GraphError(
                f'tensor {name!r} is {TensorProto.DataType.Name(known.kind)}', 'FLOAT throughout',
                'start from the float32 network')
    return frozenset(n for n, known in types.items() if known.kind == TensorProto.FLOAT)


def _check(model: onnx.ModelProto, kind: str) -> None:
    """Check form and shapes with onnx, and types for fp16, which all its operators support."""
    try:
        onnx.checker.check_model(model, full_check=kind == 'fp16')
        onnx.shape_inference.infer_shapes(model, check_type=kind == 'fp16', strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise GraphError(f'{model.graph.name} in {kind} is no valid graph ({first_line(err)})',
                         fix='compile with precision=fp32') from err


# -------------------------------------------------------------------------------------------------
# Store weights in 16 bits and compute in 32: half the file size, the same arithmetic.
# Each large initializer becomes float16 followed by a Cast, which runtimes fold when they load.

_SMALLEST = 256
# Largest relative error of rounding to the nearest normal float16.
_MOST_ROUNDED = 2.0 ** -11


def halve_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Round every large float32 initializer to float16: about half the size.

    Weights change by up to 0.05 %, so validate the rounded network. Initializers that would change
    more, because they overflow float16 or are subnormal in it, stay float32.
    """
    result = copy_of(model)
    halved = _halvable(model)
    casts, tensors = [], []
    for tensor in result.graph.initializer:
        if tensor.name not in halved:
            tensors.append(tensor)
            continue
        stored = f'{tensor.name}_half'
        tensors.append(numpy_helper.from_array(halved[tensor.name], stored))
        casts.append(helper.make_node('Cast', [stored], [tensor.name], to=TensorProto.FLOAT))
    refill(result.graph.initializer, tensors)
    refill(result.graph.node, [*casts, *result.graph.node])
    return result


def _halvable(model: onnx.ModelProto) -> dict[str, NDArray[np.float16]]:
    """Return, by name and in 16 bits, the initializers that `halve_weights` rounds."""
    found = {}
    for name, values in _large(model):
        with np.errstate(over='ignore'):  # overflow gives an infinite error, checked below
            half = values.astype(np.float16)
        if _rounding_error(values, half) <= _MOST_ROUNDED:
            found[name] = half
    return found


def unhalvable(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the large initializers that stay float32 because 16 bits would change them more."""
    halved = _halvable(model)
    return tuple(name for name, _ in _large(model) if name not in halved)


def _large(model: onnx.ModelProto) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) >= _SMALLEST:
            yield tensor.name, numpy_helper.to_array(tensor)


def _rounding_error(values: NDArray[np.float32], half: NDArray[np.float16]) -> float:
    """Return the norm of the rounding error as a share of the norm of the values."""
    exact = values.astype(np.float64)
    length = float(np.linalg.norm(exact))
    moved = float(np.linalg.norm(half.astype(np.float64) - exact))
    return moved / length if length else 0.0


def restore_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Undo `halve_weights`: float32 initializers with the rounded values, without a Cast."""
    result = copy_of(model)
    halves = {t.name: t for t in result.graph.initializer if t.data_type == TensorProto.FLOAT16}
    nodes, restored = [], []
    for node in result.graph.node:
        is_cast = node.op_type == 'Cast' and attribute(node, 'to') == TensorProto.FLOAT
        if not is_cast or node.input[0] not in halves:
            nodes.append(node)
            continue
        values = numpy_helper.to_array(halves[node.input[0]]).astype(np.float32)
        restored.append(numpy_helper.from_array(values, node.output[0]))
    used = {name for node in nodes for name in node.input}
    kept = [t for t in result.graph.initializer if t.name in used or t.name not in halves]
    refill(result.graph.initializer, [*kept, *restored])
    refill(result.graph.node, nodes)
    return result


# -------------------------------------------------------------------------------------------------
# Convert a graph that computes in 16 bits to float32, with its rounded weights. The result is the
# reference for 16-bit backends, and lets ONNX Runtime, which has no bfloat16 on CPUs, run a bf16
# graph. Quantised parts do not change.

_LOW = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


def to_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Convert a graph from float16 or bfloat16 to float32.

    Each weight is widened, and each Cast to 16 bits becomes a Cast to float32. The graph's inputs
    and outputs must not be of 16 bits.
    """
    result = copy_of(model)
    del result.graph.value_info[:]
    for tensor in result.graph.initializer:
        if tensor.data_type in _LOW:
            tensor.CopyFrom(_wide(tensor))
    for node in result.graph.node:
        for entry in node.attribute:
            if entry.type == onnx.AttributeProto.TENSOR and entry.t.data_type in _LOW:
                entry.t.CopyFrom(_wide(entry.t))
            elif node.op_type == 'Cast' and entry.name == 'to' and entry.i in _LOW:
                entry.i = TensorProto.FLOAT
    return result


def widen_network(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Convert a given network with 16-bit tensors to float32; None if it has no such tensors."""
    graph = model.graph
    borders = [info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)]
    kinds = {*borders, *(t.data_type for t in graph.initializer),
             *(attribute(n, 'to') for n in graph.node if n.op_type == 'Cast')}
    if not kinds & _LOW:
        return None
    result = to_float32(model)
    for info in (*result.graph.input, *result.graph.output):
        if info.type.tensor_type.elem_type in _LOW:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    return result


def _wide(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = np.asarray(numpy_helper.to_array(tensor))
    return helper.make_tensor(tensor.name, TensorProto.FLOAT, values.shape,
                              values.astype(np.float32).tobytes(), raw=True)
