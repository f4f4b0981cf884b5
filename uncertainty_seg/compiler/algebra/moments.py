# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Error propagation: rewrite a graph to compute mean and variance of the logits in one pass.

Nodes that no noise reaches are copied; every other node is replaced by nodes that compute its mean
and variance. A mask is a random factor of mean 1 and variance p/(1-p) and is never drawn. Sensor
noise is the variance of the image. Elements are assumed normal and, with the exceptions that
`Moments` names, independent of each other, including the two sides of a skip connection's sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper

from uncertainty_seg.compiler.algebra.dropout_to_masks import PASSES_AXIS
from uncertainty_seg.compiler.algebra.free_passes import one_pass
from uncertainty_seg.compiler.algebra.split import LOGITS
from uncertainty_seg.compiler.onnx_tools import (
    attribute,
    build_model,
    constants,
    copy_of,
    float_info,
    image_inputs,
    needed_nodes,
    rename_tensors,
    Shapes,
    shapes,
    tensor_names,
    unused,
    Values,
)
from uncertainty_seg.compiler.plan import graph_cost, MACS_AN_ELEMENT
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError


@dataclass(frozen=True)
class Moments:
    """Names of the tensors that describe a random tensor; all have its shape."""

    mean: str
    variance: str
    # Whether all pixels (axes 2 and on) of a channel (axis 1) share one noise draw.
    is_shared: bool = False
    # Signed factor of that draw, which has variance 1; its square is the variance. None if only
    # the variance is known, as after channels were mixed.
    amplitude: str | None = None


class MomentWriter:
    """Writes nodes and constants under unused names."""

    def __init__(
        self, model: onnx.ModelProto, known: Shapes, fixed: Values, macs: int = 0
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.shapes, self.fixed, self.macs = known, fixed, macs
        self._taken = tensor_names(model.graph)
        self._roots: dict[str, str] = {}

    def name(self, wish: str) -> str:
        """Return an unused name, `wish` if possible."""
        found = unused(wish, self._taken)
        self._taken.add(found)
        return found

    def node(self, op: str, inputs: Sequence[str], wish: str, **attributes: Any) -> str:
        """Write a node of one output and return the output's name."""
        output = self.name(wish)
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(self, wish: str, values: Any, dtype: Any = np.float32) -> str:
        """Store a constant and return its name."""
        name = self.name(wish)
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype), name))
        return name

    def twin(self, node: onnx.NodeProto, inputs: Sequence[str], wish: str, **changed: Any) -> str:
        """Write a copy of a node with other inputs and changed attributes; return its output."""
        output = self.name(wish)
        twin = helper.make_node(node.op_type, list(inputs), [output], **changed)
        twin.attribute.extend(copy_of(a) for a in node.attribute if a.name not in changed)
        self.nodes.append(twin)
        return output

    def square(self, name: str) -> str:
        """Return the square of a tensor; a constant is squared now."""
        if name in self.fixed:
            return self.constant(f'{name}_squared', np.square(self.values(name)))
        return self.node('Mul', [name, name], f'{name}_squared')

    def scaled(self, name: str, factor: Any, wish: str) -> str:
        """Return a tensor multiplied by a number or an array."""
        return self.node('Mul', [name, self.constant(f'{wish}_by', factor)], wish)

    def values(self, name: str) -> NDArray[np.float64]:
        """Return a constant in float64."""
        return np.asarray(self.fixed[name], np.float64)

    def root(self, moments: Moments) -> str:
        """Return the standard deviation."""
        if moments.variance not in self._roots:
            self._roots[moments.variance] = self.node(
                'Sqrt', [moments.variance], f'{moments.variance}_root')
        return self._roots[moments.variance]

    def amplitude(self, moments: Moments) -> str:
        """Return the signed amplitude, or the standard deviation if the sign is unknown."""
        return moments.amplitude or self.root(moments)

    def from_amplitude(self, mean: str, amplitude: str) -> Moments:
        """Return moments whose noise is one draw for all pixels of a channel."""
        return Moments(mean, self.square(amplitude), True, amplitude)

    def filled(self, value: float, like: str) -> str:
        """Return a tensor filled with `value`, in the shape of `like`."""
        shape = self.constant(f'{like}_shape', self.shapes[like], np.int64)
        number = self.constant(f'{like}_value', value)
        return self.node('Expand', [number, shape], f'{like}_filled')

    def spread(self, name: str, source: str, target: str) -> str:
        """Expand a tensor from the shape of `source` to that of `target` if they differ."""
        if self.shapes[source] == self.shapes[target]:
            return name
        shape = self.constant(f'{target}_shape', self.shapes[target], np.int64)
        return self.node('Expand', [name, shape], f'{name}_spread')


def unknown(node: onnx.NodeProto, why: str = '') -> GraphError:
    """Return the error for a node without a rule, which names the alternative."""
    return GraphError(
        f'error propagation does not know {node.op_type} (node {node.name or node.output[0]!r})'
        f'{why}', 'operators whose mean and variance are known',
        'compile with method=mc_dropout, which takes any operator')


# -------------------------------------------------------------------------------------------------
# Moments through linear operators: squared weights, and the corrections for shared noise.

# Reads and writes per element of the exact convolution of a channel mask, and the share of the
# network's multiply-adds they may cost. Above it, kernel taps are treated as independent.
_EXACT_PASSES, _EXACT_SHARE = 3, 0.1


def conv(
    node: onnx.NodeProto, x: Moments, write: MomentWriter, is_centred: bool = False
) -> Moments:
    """
    Return the moments of Conv or ConvTranspose with constant weights.

    With `is_centred` the variance is that of each output channel minus the mean of all channels,
    since a softmax depends only on these differences.
    """
    if node.input[1] not in write.fixed:
        raise unknown(node, ' with computed weights')
    out, weights = node.output[0], write.values(node.input[1])
    mean = write.twin(node, [x.mean, *node.input[1:]], out)
    name = node.input[1]
    if is_centred and node.op_type == 'Conv' and attribute(node, 'group', 1) == 1:
        weights = weights - weights.mean(0)
        name = write.constant(f'{out}_centred', weights)
    taps = math.prod(weights.shape[2:])
    if x.is_shared and taps > 1:
        if weights.shape[1] == 1 and attribute(node, 'group', 1) == _channels(node, write):
            moved = write.twin(node, [write.amplitude(x), name], f'{out}_amplitude')
            return write.from_amplitude(mean, moved)
        if x.amplitude is not None and _is_affordable(node, write):
            return Moments(mean, _by_channel(node, x.amplitude, weights, write), True)
    squared = write.twin(node, [x.variance, write.constant(
        f'{name}_squared', np.square(weights))], f'{out}_variance')
    return Moments(mean, squared, x.is_shared)


def _channels(node: onnx.NodeProto, write: MomentWriter) -> int:
    return write.shapes[node.input[0]][1]


def _is_affordable(node: onnx.NodeProto, write: MomentWriter) -> bool:
    if node.op_type != 'Conv' or attribute(node, 'group', 1) != 1:
        return False
    elements = _channels(node, write) * math.prod(write.shapes[node.output[0]])
    return elements * _EXACT_PASSES * MACS_AN_ELEMENT <= _EXACT_SHARE * write.macs


def _by_channel(
    node: onnx.NodeProto, amplitude: str, weights: NDArray[np.float64], write: MomentWriter
) -> str:
    """Return the sum over input channels of the squared contribution to each output."""
    out, (num_out, num_in, *kernel) = node.output[0], weights.shape
    split = weights.swapaxes(0, 1).reshape(num_in * num_out, 1, *kernel)
    parts = write.twin(node, [amplitude, write.constant(f'{out}_split', split)], f'{out}_parts',
                       group=num_in)
    shape = (1, num_in, num_out, *write.shapes[out][2:])
    apart = write.node('Reshape', [write.square(parts), write.constant(
        f'{out}_apart', shape, np.int64)], f'{out}_by_channel')
    axis = write.constant(f'{out}_axis', [1], np.int64)
    return write.node('ReduceSum', [apart, axis], f'{out}_variance', keepdims=0)


def matrix(node: onnx.NodeProto, inputs: Sequence[Moments | str], write: MomentWriter) -> Moments:
    """Return the moments of MatMul or Gemm, of which one factor is random."""
    first, second = inputs[:2]
    means = [x if isinstance(x, str) else x.mean for x in inputs]
    out = node.output[0]
    mean = write.twin(node, means, out)
    is_random = isinstance(first, Moments), isinstance(second, Moments)
    if all(is_random) or node.op_type == 'Gemm' and is_random != (True, False):
        raise unknown(node, ' with random weights')
    factors = [write.square(x) if isinstance(x, str) else x.variance for x in (first, second)]
    variance = write.twin(node, factors, f'{out}_variance')
    alpha = attribute(node, 'alpha', 1.0) if node.op_type == 'Gemm' else 1.0
    if alpha != 1.0:
        variance = write.scaled(variance, alpha, f'{out}_variance_scaled')
    return Moments(mean, variance)


def _random_product(
    node: onnx.NodeProto, first: Moments, second: Moments, write: MomentWriter
) -> str:
    """Return the variance of an elementwise product of two random tensors."""
    out = node.output[0]
    power = write.node('Add', [second.variance, write.square(second.mean)], f'{out}_power')
    parts = [write.twin(node, [first.variance, power], f'{out}_first'),
             write.twin(node, [write.square(first.mean), second.variance], f'{out}_second')]
    return write.node('Add', parts, f'{out}_variance')


def batch_norm(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """Return the moments of BatchNormalization in eval mode."""
    mean = write.twin(node, [x.mean, *node.input[1:]], node.output[0])
    gamma, scale = write.values(node.input[1]), write.values(node.input[4])
    factor = gamma / np.sqrt(scale + attribute(node, 'epsilon', 1e-5))
    return scaled(x, mean, write.constant(f'{mean}_factor', factor.reshape(
        1, -1, *(1,) * (len(write.shapes[node.output[0]]) - 2))), write)


def scaled(x: Moments, mean: str, factor: str, write: MomentWriter) -> Moments:
    """Return the moments of a random tensor multiplied by a deterministic one."""
    if x.amplitude is not None:
        return write.from_amplitude(
            mean, write.node('Mul', [x.amplitude, factor], f'{mean}_amplitude'))
    constant = next((t for t in write.tensors if t.name == factor), None)
    if constant is None:
        squared = write.square(factor)
    else:
        squared = write.constant(
            f'{factor}_squared', np.square(onnx.numpy_helper.to_array(constant), dtype=np.float64))
    return Moments(mean, write.node('Mul', [x.variance, squared], f'{mean}_variance'), x.is_shared)


# -------------------------------------------------------------------------------------------------
# Averages over pixels.


def average(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """Return the moments of AveragePool, GlobalAveragePool or ReduceMean."""
    out = node.output[0]
    mean = write.twin(node, [x.mean, *node.input[1:]], out)
    rank = len(write.shapes[node.input[0]])
    axes = write.fixed[node.input[1]].reshape(-1) % rank if len(node.input) > 1 else ()
    if x.is_shared and not {0, 1}.intersection(axes):
        return write.from_amplitude(
            mean, write.twin(node, [write.amplitude(x), *node.input[1:]], f'{out}_amplitude'))
    averaged = write.twin(node, [x.variance, *node.input[1:]], f'{out}_averaged')
    share = 1 / _averaged_elements(node, write)
    return Moments(mean, write.scaled(averaged, share, f'{out}_variance'), x.is_shared)


def _averaged_elements(node: onnx.NodeProto, write: MomentWriter) -> NDArray[np.float64]:
    """Return the number of elements averaged in each output, broadcastable to the output."""
    before, after = write.shapes[node.input[0]], write.shapes[node.output[0]]
    if node.op_type != 'AveragePool':
        return np.array(math.prod(before) / math.prod(after))
    kernel = attribute(node, 'kernel_shape')
    if attribute(node, 'count_include_pad', 0):
        return np.array(float(math.prod(kernel)))
    if attribute(node, 'auto_pad', 'NOTSET') not in ('NOTSET', 'VALID') or \
            attribute(node, 'ceil_mode', 0):
        raise unknown(node, ' with automatic padding')
    pads = attribute(node, 'pads') or [0] * (2 * len(kernel))
    strides = attribute(node, 'strides') or [1] * len(kernel)
    counts = np.ones((1, 1, *(1,) * len(kernel)))
    for axis, size in enumerate(kernel):
        starts = np.arange(after[2 + axis]) * strides[axis] - pads[axis]
        inside = np.minimum(starts + size, before[2 + axis]) - np.maximum(starts, 0)
        shape = [1] * counts.ndim
        shape[2 + axis] = -1
        counts = counts * inside.reshape(shape)
    return counts


# -------------------------------------------------------------------------------------------------
# Resizing.


def resize(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """Return the moments of Resize, nearest or linear over the two image axes."""
    out, mode = node.output[0], attribute(node, 'mode', 'nearest')
    rest = list(node.input[1:])
    mean = write.twin(node, [x.mean, *rest], out)
    if mode == 'nearest':
        amplitude = x.amplitude and write.twin(node, [x.amplitude, *rest], f'{out}_amplitude')
        variance = write.twin(node, [x.variance, *rest], f'{out}_variance')
        return Moments(mean, variance, x.is_shared, amplitude)
    if mode != 'linear' or attribute(node, 'antialias', 0):
        raise unknown(node, f' of the mode {mode}')
    if x.is_shared:
        return write.from_amplitude(
            mean, write.twin(node, [write.amplitude(x), *rest], f'{out}_amplitude'))
    before, after = write.shapes[node.input[0]], write.shapes[out]
    if len(before) != 4 or before[:2] != after[:2]:
        raise unknown(node, f' from {before} to {after}')
    kind = attribute(node, 'coordinate_transformation_mode', 'half_pixel')
    scales = write.values(rest[1]) if len(rest) > 1 and rest[1] in write.fixed else np.zeros(0)
    rows, columns = (
        np.square(linear_weights(before[axis], after[axis], kind, float(
            scales[axis] if scales.size else after[axis] / before[axis])))
        for axis in (2, 3))
    variance = write.node('MatMul', [write.constant(f'{out}_rows', rows), x.variance],
                          f'{out}_tall')
    variance = write.node('MatMul', [variance, write.constant(f'{out}_columns', columns.T)],
                          f'{out}_variance')
    return Moments(mean, variance)


def linear_weights(size_in: int, size_out: int, kind: str, scale: float) -> NDArray[np.float64]:
    """Return the weights of linear interpolation (size_out, size_in); each row sums to 1."""
    at = np.arange(size_out, dtype=np.float64)
    if kind == 'align_corners':
        places = at * (size_in - 1) / max(size_out - 1, 1)
    elif kind == 'asymmetric':
        places = at / scale
    elif kind == 'pytorch_half_pixel' and size_out == 1:
        places = 0 * at
    else:
        places = (at + 0.5) / scale - 0.5
    places = np.clip(places, 0, size_in - 1)
    low = np.minimum(places.astype(np.int64), max(size_in - 2, 0))
    weights = np.zeros((size_out, size_in))
    rows = np.arange(size_out)
    weights[rows, low] += 1 - (places - low)
    weights[rows, np.minimum(low + 1, size_in - 1)] += places - low
    return weights


# -------------------------------------------------------------------------------------------------
# Operators that only move elements.


def layout(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> tuple[Moments, ...]:
    """Return the moments of a node that moves, repeats or cuts elements, one per output."""
    rest = list(node.input[1:])
    zeros = [*rest[:1], '', *rest[2:]] if node.op_type == 'Pad' and len(rest) > 1 else rest
    means = _moved(node, [x.mean, *rest], write, '')
    variances = _moved(node, [x.variance, *zeros], write, '_variance')
    is_shared = x.is_shared and node.op_type in ('Identity', 'Pad', 'Slice', 'Split', 'Cast')
    amplitudes: list[str | None] = [None] * len(means)
    if is_shared and x.amplitude is not None:
        amplitudes = [*_moved(node, [x.amplitude, *zeros], write, '_amplitude')]
    return tuple(Moments(mean, variance, is_shared, amplitude) for mean, variance, amplitude
                 in zip(means, variances, amplitudes, strict=True))


def _moved(
    node: onnx.NodeProto, inputs: Sequence[str], write: MomentWriter, suffix: str
) -> list[str]:
    first = write.twin(node, inputs, f'{node.output[0]}{suffix}')
    others = [write.name(f'{name}{suffix}') for name in node.output[1:]]
    write.nodes[-1].output.extend(others)
    return [first, *others]


# -------------------------------------------------------------------------------------------------
# Moments through activations of an element that is assumed normal.

# Elementwise functions of one input for which no closed form is implemented.
SMOOTH = ('Gelu', 'Mish', 'Sigmoid', 'Tanh', 'HardSigmoid', 'HardSwish', 'Elu', 'Selu', 'Celu',
          'Softplus', 'Erf', 'Softsign', 'Exp')
# Added to a variance before its square root, so that no quotient overflows.
_FLOOR = 1e-12
# ReLU of a normal element, with a = mean / deviation: the share of the variance that remains is
# sigmoid(slope a + shift) with an error up to 0.009. The mean exceeds max(mean, 0) by
# max(top - fall |a|, 0)^4 deviations, with an error up to 0.0019 deviations.
_SLOPE, _SHIFT = 1.84546, -0.695227
_TOP, _FALL = 0.794069, 0.254003


def relu(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """
    Return the approximate moments of ReLU of a normal element.

    With s^2 the variance of x, the mean's error is at most 0.0019 s and the variance's 0.009 s^2.
    The variance is never negative, and no two nearly equal numbers are subtracted.
    """
    out = node.output[0]
    deviation = _deviation(x.variance, out, write)
    a = write.node('Div', [x.mean, deviation], f'{out}_a')
    line = write.node('Add', [write.scaled(a, _SLOPE, f'{out}_steep'),
                              write.constant(f'{out}_shift', _SHIFT)], f'{out}_line')
    share = write.node('Sigmoid', [line], f'{out}_share')
    foot = write.node('HardSigmoid', [write.node('Abs', [a], f'{out}_far')], f'{out}_foot',
                      alpha=-_FALL, beta=_TOP)
    lift = write.node('Mul', [write.square(write.square(foot)), deviation], f'{out}_lift')
    mean = write.node('Add', [
        write.twin(node, [x.mean, *node.input[1:]], f'{out}_still'), lift], out)
    return Moments(mean, write.node('Mul', [x.variance, share], f'{out}_variance'), x.is_shared)


def _deviation(variance: str, out: str, write: MomentWriter) -> str:
    floored = write.node('Add', [variance, write.constant(f'{out}_floor', _FLOOR)],
                         f'{out}_floored')
    return write.node('Sqrt', [floored], f'{out}_deviation')


def _rectified(mean: str, variance: str, out: str, write: MomentWriter) -> tuple[str, str, str]:
    """
    Write the closed form of max(x, 0) for x of mean m and variance v = s^2.

    With a = m/s, P the normal distribution function and p its density: M = m P(a) + s p(a), and
    V = v P(a) - M (M - m), which is (m^2 + v) P(a) + m s p(a) - M^2 simplified.
    """
    deviation = _deviation(variance, out, write)
    a = write.node('Div', [mean, deviation], f'{out}_a')
    scaled = write.scaled(a, math.sqrt(0.5), f'{out}_a_half')
    # (1 + erf) / 2 in one operation.
    chance = write.node('HardSigmoid', [write.node('Erf', [scaled], f'{out}_erf')],
                        f'{out}_chance', alpha=0.5, beta=0.5)
    exponent = write.node('Sub', [
        write.constant(f'{out}_log', -0.5 * math.log(2 * math.pi)),
        write.node('Mul', [scaled, scaled], f'{out}_half_square')], f'{out}_exponent')
    density = write.node('Exp', [exponent], f'{out}_density')
    M = write.node('Add', [write.node('Mul', [mean, chance], f'{out}_kept'),
                           write.node('Mul', [deviation, density], f'{out}_tail')], out)
    lift = write.node('Mul', [M, write.node('Sub', [mean, M], f'{out}_lift')], f'{out}_less')
    V = write.node('Add', [write.node('Mul', [variance, chance], f'{out}_most'), lift],
                   f'{out}_rest')
    # Nearly equal numbers were subtracted, so that rounding may have made V negative.
    return M, write.node('Relu', [V], f'{out}_variance'), chance


def leaky_relu(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """Return the exact moments of LeakyRelu or PRelu: k x + (1 - k) max(x, 0)."""
    out = node.output[0]
    if node.op_type == 'PRelu':
        if node.input[1] not in write.fixed:
            raise unknown(node, ' with computed slopes')
        slope = write.values(node.input[1])
    else:
        slope = np.asarray(attribute(node, 'alpha', 0.01))
    bent, spread, chance = _rectified(x.mean, x.variance, f'{out}_rectified', write)
    mean = write.node('Add', [write.scaled(x.mean, slope, f'{out}_line'),
                              write.scaled(bent, 1 - slope, f'{out}_bend')], out)
    # The covariance of x and max(x, 0) is v P(a).
    both = write.node('Mul', [x.variance, chance], f'{out}_both')
    parts = [write.scaled(x.variance, slope**2, f'{out}_line_variance'),
             write.scaled(spread, (1 - slope)**2, f'{out}_bend_variance'),
             write.scaled(both, 2 * slope * (1 - slope), f'{out}_both_variance')]
    total = write.node('Add', [write.node('Add', parts[:2], f'{out}_two'), parts[2]],
                       f'{out}_three')
    return Moments(mean, write.node('Relu', [total], f'{out}_variance'), x.is_shared)


def clip(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """
    Return the exact moments of Clip with constant bounds, ReLU6 for example.

    Clip is low + max(x - low, 0) - max(x - high, 0). With E its mean and M1, V1, M2, V2 the
    moments of the two maxima, the variance is V1 - V2 - 2 M2 (high - E).
    """
    low, high = (_bound(node, index, write) for index in (1, 2))
    out = node.output[0]
    if high is None and low == 0.0:
        return relu(node, x, write)
    if low is None or high is None:
        raise unknown(node, ' with one bound other than 0')
    moved = [write.node('Sub', [x.mean, write.constant(f'{out}_{side}', bound)], f'{out}_x_{side}')
             for side, bound in (('low', low), ('high', high))]
    (m1, v1, _), (m2, v2, _) = (
        _rectified(name, x.variance, f'{out}_{side}', write)
        for name, side in zip(moved, ('above_low', 'above_high'), strict=True))
    risen = write.node('Sub', [m1, m2], f'{out}_risen')
    mean = write.node('Add', [risen, write.constant(f'{out}_base', low)], out)
    room = write.node('Sub', [write.constant(f'{out}_top', high), mean], f'{out}_room')
    lost = write.scaled(write.node('Mul', [m2, room], f'{out}_cut'), 2.0, f'{out}_lost')
    left = write.node('Sub', [v1, v2], f'{out}_left')
    total = write.node('Sub', [left, lost], f'{out}_signed')
    return Moments(mean, write.node('Relu', [total], f'{out}_variance'), x.is_shared)


def _bound(node: onnx.NodeProto, index: int, write: MomentWriter) -> float | None:
    name = node.input[index] if len(node.input) > index else ''
    if not name:
        return None
    if name not in write.fixed:
        raise unknown(node, ' with computed bounds')
    bound = float(write.values(name).reshape(-1)[0])
    return bound if abs(bound) < 1e30 else None


def by_points(
    nodes: Sequence[onnx.NodeProto], source: str, x: Moments, write: MomentWriter
) -> Moments:
    """
    Return moments by three-point Gauss-Hermite quadrature: at m and at m +- s sqrt(3).

    With f the middle value, d the difference of the outer values and e their mean minus f, the
    mean is f + e/3 and the variance d^2/12 + 2 e^2/9.
    """
    out = nodes[-1].output[0]
    wide = write.scaled(write.root(x), math.sqrt(3), f'{out}_wide')
    points = [x.mean, write.node('Add', [x.mean, wide], f'{out}_above'),
              write.node('Sub', [x.mean, wide], f'{out}_below')]
    middle, high, low = (_replayed(nodes, source, point, write) for point in points)
    outer = write.scaled(write.node('Add', [high, low], f'{out}_sum'), 0.5, f'{out}_outer')
    bend = write.node('Sub', [outer, middle], f'{out}_bend')
    slope = write.node('Sub', [high, low], f'{out}_slope')
    mean = write.node('Add', [middle, write.scaled(bend, 1 / 3, f'{out}_lift')], f'{out}_mean')
    variance = write.node('Add', [
        write.scaled(write.square(slope), 1 / 12, f'{out}_straight'),
        write.scaled(write.square(bend), 2 / 9, f'{out}_curved')], f'{out}_variance')
    return Moments(mean, variance, x.is_shared)


def _replayed(
    nodes: Sequence[onnx.NodeProto], source: str, point: str, write: MomentWriter
) -> str:
    names = {source: point}
    for node in nodes:
        inputs = [names.get(name, name) for name in node.input]
        names[node.output[0]] = write.twin(node, inputs, f'{node.output[0]}_at')
    return names[nodes[-1].output[0]]


# -------------------------------------------------------------------------------------------------
# Moments through MaxPool, computed from one shifted copy for each place in the window.

_LOWEST = -1e9  # padding value, small enough in size that its quotients do not overflow


def max_pool(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """Return the moments of MaxPool over the two image axes."""
    if len(write.shapes[node.input[0]]) != 4 or len(node.output) > 1 or \
            attribute(node, 'auto_pad', 'NOTSET') != 'NOTSET' or attribute(node, 'ceil_mode', 0):
        raise unknown(node, ' with automatic padding, indices or axes other than two')
    means = _windows(node, x.mean, _LOWEST, write)
    variances = _windows(node, x.variance, 0.0, write)
    join = _choose if x.is_shared else _larger
    found = (means[0], variances[0])
    for index, other in enumerate(zip(means[1:], variances[1:], strict=True)):
        found = join(found, other, f'{node.output[0]}_{index}', write)
    return Moments(*found, x.is_shared)


def _windows(node: onnx.NodeProto, name: str, filling: float, write: MomentWriter) -> list[str]:
    out = node.output[0]
    kernel, pads = attribute(node, 'kernel_shape'), attribute(node, 'pads') or [0] * 4
    strides = attribute(node, 'strides') or [1, 1]
    dilations = attribute(node, 'dilations') or [1, 1]
    if any(pads):
        sizes = [0, 0, *pads[:2], 0, 0, *pads[2:]]
        name = write.node('Pad', [name, write.constant(f'{out}_pads', sizes, np.int64),
                                  write.constant(f'{out}_filling', filling)], f'{out}_padded')
    axes = write.constant(f'{out}_axes', [2, 3], np.int64)
    steps = write.constant(f'{out}_steps', strides, np.int64)
    found = []
    for row, column in np.ndindex(*kernel):
        starts = [row * dilations[0], column * dilations[1]]
        ends = [start + (size - 1) * step + 1 for start, size, step in zip(
            starts, write.shapes[out][2:], strides, strict=True)]
        found.append(write.node('Slice', [
            name, *(write.constant(f'{out}_{what}', values, np.int64) for what, values in (
                ('starts', starts), ('ends', ends))), axes, steps], f'{out}_window'))
    return found


def _choose(
    one: tuple[str, str], two: tuple[str, str], wish: str, write: MomentWriter
) -> tuple[str, str]:
    """Return the larger mean and its variance."""
    first = write.node('GreaterOrEqual', [one[0], two[0]], f'{wish}_first')
    return (write.node('Max', [one[0], two[0]], f'{wish}_largest'),
            write.node('Where', [first, one[1], two[1]], f'{wish}_chosen'))


def _larger(
    one: tuple[str, str], two: tuple[str, str], wish: str, write: MomentWriter
) -> tuple[str, str]:
    """
    Return Clark's moments of the larger of two independent normal numbers.

    With t^2 = v1 + v2, a = (m1 - m2)/t, P and p the normal distribution and density: the mean is
    E = m1 P + m2 (1 - P) + t p, and the variance v1 P + v2 (1 - P) + (m1 - E)(E - m2), which is
    Clark's second moment minus E^2 simplified.
    """
    (m1, v1), (m2, v2) = one, two
    total = write.node('Max', [write.node('Add', [v1, v2], f'{wish}_total'),
                               write.constant(f'{wish}_floor', _FLOOR)], f'{wish}_floored')
    t = write.node('Sqrt', [total], f'{wish}_t')
    apart = write.node('Sub', [m1, m2], f'{wish}_apart')
    a = write.scaled(write.node('Div', [apart, t], f'{wish}_a'), math.sqrt(0.5), f'{wish}_a_half')
    erf = write.node('Erf', [a], f'{wish}_erf')
    chance, other = (write.node('HardSigmoid', [erf], f'{wish}_chance', alpha=alpha, beta=0.5)
                     for alpha in (0.5, -0.5))
    exponent = write.node('Sub', [write.constant(f'{wish}_log', -0.5 * math.log(2 * math.pi)),
                                  write.square(a)], f'{wish}_exponent')
    tail = write.node('Mul', [t, write.node('Exp', [exponent], f'{wish}_density')], f'{wish}_tail')
    # Each mean is weighted by its own probability: padding, of weight 0, adds no rounding error.
    mean = write.node('Add', [write.node('Add', [
        write.node('Mul', [m1, chance], f'{wish}_one'),
        write.node('Mul', [m2, other], f'{wish}_two')], f'{wish}_both'), tail], f'{wish}_mean')
    mixed = write.node('Add', [write.node('Mul', [v1, chance], f'{wish}_v1'),
                               write.node('Mul', [v2, other], f'{wish}_v2')], f'{wish}_mixed')
    between = write.node('Mul', [write.node('Sub', [m1, mean], f'{wish}_under'),
                                 write.node('Sub', [mean, m2], f'{wish}_over')],
                         f'{wish}_between')
    return mean, write.node('Relu', [write.node('Add', [mixed, between], f'{wish}_signed')],
                            f'{wish}_variance')


# -------------------------------------------------------------------------------------------------
# From a network with masks to one that computes mean and variance of its logits.

MEAN, VARIANCE, NOISE = 'logit_mean', 'logit_variance', 'noise'

_Rule = Callable[[onnx.NodeProto, Moments, MomentWriter], Moments]
# The effect of a node on the moments of its first input; its other inputs are constants.
_RULES: dict[str, _Rule] = {
    'Conv': conv, 'ConvTranspose': conv, 'BatchNormalization': batch_norm,
    'AveragePool': average, 'GlobalAveragePool': average,
    'ReduceMean': average, 'Resize': resize,
    'MaxPool': max_pool, 'Relu': relu, 'LeakyRelu': leaky_relu,
    'PRelu': leaky_relu, 'Clip': clip,
}
_LAYOUT = ('Identity', 'Cast', 'Transpose', 'Reshape', 'Flatten', 'Squeeze', 'Unsqueeze', 'Slice',
           'Split', 'Pad', 'Expand', 'Tile', 'Gather', 'DepthToSpace', 'SpaceToDepth')
_TWO_SIDED = ('Add', 'Sub', 'Mul', 'Div')
# Operators that may stand between a mask and the tensor that it multiplies.
_MASK_LAYOUT = ('Identity', 'Transpose', 'Reshape', 'Squeeze', 'Unsqueeze')


def propagate_moments(
    model: onnx.ModelProto, sites: Sequence[DropoutSite], sensor_std: float = 0.0,
    is_centred: bool = False,
) -> onnx.ModelProto:
    """
    Return the graph that computes mean and variance of a network's logits.

    Raises GraphError if noise reaches an operator without a rule, or does not reach the logits.
    """
    single = one_pass(model, sites)
    known = shapes(single)
    macs = graph_cost(single.graph.node, known).macs
    write = MomentWriter(single, known, constants(single.graph), macs)
    logits = single.graph.output[0].name
    ratios = {site.name: site.p / (1 - site.p) for site in sites}
    walk = _Propagation(write, ratios, logits if is_centred else '')
    masks = {site.name for site in sites}
    images = [info for info in image_inputs(single.graph) if info.name not in masks]
    if sensor_std:
        name = images[0].name
        walk.moments[name] = Moments(name, write.filled(sensor_std**2, name))
    for node in single.graph.node:
        walk.take(node)
    found = walk.moments.get(logits)
    if found is None:
        raise GraphError('no dropout reaches the output', 'noise that propagates to the logits',
                         'name the output that the dropout belongs to, or give sensor_std')
    return _finished(single, found, known[logits], images, write)


def _finished(
    model: onnx.ModelProto, found: Moments, shape: tuple[int, ...],
    images: Sequence[onnx.ValueInfoProto], write: MomentWriter,
) -> onnx.ModelProto:
    if found.mean in {info.name for info in images}:
        found = replace(found, mean=write.node('Identity', [found.mean], found.mean))
    nodes = needed_nodes(write.nodes, [found.mean, found.variance])
    for node in nodes:
        rename_tensors(node, {found.mean: MEAN, found.variance: VARIANCE})
    outputs = [float_info(name, shape) for name in (MEAN, VARIANCE)]
    return build_model('trunk', nodes, images, outputs, [*model.graph.initializer, *write.tensors])


def sampling_head(trunk: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[DropoutSite, ...]]:
    """Return the head that draws logits from the moments that a trunk outputs, and its site."""
    mean, variance = trunk.graph.output
    shape = tuple(d.dim_value for d in mean.type.tensor_type.shape.dim)
    if len(shape) != 4:
        raise GraphError(f'the output has {len(shape)} axes', '(1, C, hl, wl) logits')
    site = DropoutSite(NOISE, (shape[1], 1, 1), 0.0, 'noise')
    nodes = [
        # (v + |v|) / 2, not Relu: OpenVINO's Relu turns NaN into 0, a variance of no noise.
        helper.make_node('Abs', [VARIANCE], ['logit_size']),
        helper.make_node('Add', [VARIANCE, 'logit_size'], ['logit_twice']),
        helper.make_node('Mul', ['logit_twice', 'logit_half'], ['logit_spread_squared']),
        helper.make_node('Sqrt', ['logit_spread_squared'], ['logit_spread']),
        helper.make_node('Mul', ['logit_spread', NOISE], ['logit_shift']),
        helper.make_node('Add', [MEAN, 'logit_shift'], [LOGITS]),
    ]
    inputs = [mean, variance, float_info(NOISE, (PASSES_AXIS, *site.shape))]
    head = build_model('head', nodes, inputs, [float_info(LOGITS, (PASSES_AXIS, *shape[1:]))],
                       [numpy_helper.from_array(np.float32(0.5), 'logit_half')])
    return head, (site,)


class _Propagation:
    """Goes through the nodes in order and keeps the moments of every random tensor."""

    def __init__(self, write: MomentWriter, masks: dict[str, float], centred: str) -> None:
        self.moments: dict[str, Moments] = {}
        self._centred = centred
        self._write, self._masks = write, masks
        # For each random tensor that is an elementwise function of one other: that and the nodes.
        self._made: dict[str, tuple[str, list[onnx.NodeProto]]] = {}

    def take(self, node: onnx.NodeProto) -> None:
        """Write a node, or the nodes of its moments."""
        if any(name in self._masks for name in node.input):
            self._take_mask(node)
        elif any(name in self.moments for name in node.input):
            self._take_random(node)
        else:
            self._write.nodes.append(copy_of(node))

    def _take_mask(self, node: onnx.NodeProto) -> None:
        masks = [name for name in node.input if name in self._masks]
        out, write = node.output[0], self._write
        ratio = math.prod(1 + self._masks[name] for name in masks) - 1
        others = [name for name in node.input if name not in self._masks]
        if node.op_type in _MASK_LAYOUT or (node.op_type == 'Mul' and not others):
            self._masks[out] = ratio
        elif node.op_type == 'Mul' and others[0] not in write.fixed:
            self.moments[out] = self._dropped(others[0], masks[0], ratio, out)
        else:
            raise GraphError(
                f'error propagation does not know what node {node.name or out!r} ({node.op_type}) '
                'does to a mask', 'masks that are multiplied in',
                'compile with method=mc_dropout')

    def _dropped(self, data: str, mask: str, ratio: float, out: str) -> Moments:
        write, x = self._write, self.moments.get(data)
        is_shared = all(size == 1 for size in write.shapes[mask][2:])
        if x is None:
            amplitude = write.scaled(data, math.sqrt(ratio), f'{out}_amplitude')
            variance = write.square(amplitude)
            return Moments(data, variance, is_shared, amplitude if is_shared else None)
        own = write.scaled(x.variance, 1 + ratio, f'{out}_own')
        drawn = write.scaled(write.square(x.mean), ratio, f'{out}_drawn')
        variance = write.node('Add', [own, drawn], f'{out}_variance')
        return Moments(x.mean, variance, is_shared and x.is_shared)

    def _take_random(self, node: onnx.NodeProto) -> None:
        write, first = self._write, self.moments.get(node.input[0])
        out = node.output[0]
        if node.op_type in _TWO_SIDED:
            self._take_two_sided(node)
        elif node.op_type in ('MatMul', 'Gemm'):
            inputs = [self.moments.get(name, name) for name in node.input]
            self.moments[out] = matrix(node, inputs, write)
        elif node.op_type == 'Concat':
            self.moments[out] = self._joined(node)
        elif first is None or any(name in self.moments for name in node.input[1:]):
            raise unknown(node, ' with random arguments')
        elif node.op_type in _LAYOUT:
            self.moments.update(zip(node.output, layout(node, first, write), strict=True))
        elif node.op_type == 'Neg':
            self.moments[out] = Moments(write.twin(node, [first.mean], out), first.variance,
                                        first.is_shared)
        elif node.op_type == 'Conv' and out == self._centred:
            self.moments[out] = conv(node, first, write, is_centred=True)
        elif node.op_type in _RULES:
            self.moments[out] = _RULES[node.op_type](node, first, write)
            self._note(node, node.input[0])
        elif node.op_type in SMOOTH:
            self._note(node, node.input[0])
            self.moments[out] = by_points([node], node.input[0], first, write)
        else:
            raise unknown(node)

    def _note(self, node: onnx.NodeProto, source: str) -> None:
        """Record an elementwise function, whose result may later be combined with its input."""
        if node.op_type in (*SMOOTH, *_TWO_SIDED, 'Relu', 'Clip', 'LeakyRelu'):
            root, nodes = self._made.get(source, (source, []))
            self._made[node.output[0]] = root, [*nodes, node]

    # -- Sums and products ------------------------------------------------------------------------

    def _take_two_sided(self, node: onnx.NodeProto) -> None:
        names, out = list(node.input), node.output[0]
        drawn = [name for name in names if name in self.moments]
        if len(drawn) == 1:
            self.moments[out] = self._with_fixed(node, drawn[0])
            self._note(node, drawn[0])
            return
        sources = [self._made.get(name, (name, [])) for name in names]
        if sources[0][0] == sources[1][0]:  # x sigmoid(x) is a function of one random tensor
            nodes = [*sources[0][1], *(n for n in sources[1][1] if n not in sources[0][1]), node]
            root = sources[0][0]
            self.moments[out] = by_points(nodes, root, self.moments[root], self._write)
            self._made[out] = root, nodes
        elif node.op_type == 'Div':
            raise unknown(node, ' by a random tensor')
        else:
            self.moments[out] = self._of_two(node)

    def _with_fixed(self, node: onnx.NodeProto, drawn: str) -> Moments:
        write, x, out = self._write, self.moments[drawn], node.output[0]
        means = [x.mean if name == drawn else name for name in node.input]
        mean = write.twin(node, means, out)
        other = next(name for name in node.input if name != drawn)
        if node.op_type in ('Add', 'Sub'):
            is_turned = node.op_type == 'Sub' and node.input[1] == drawn
            is_same = write.shapes[drawn] == write.shapes[out]
            amplitude = x.amplitude if is_same and not is_turned else None
            variance = write.spread(x.variance, drawn, out)
            return Moments(mean, variance, x.is_shared, amplitude)
        if node.op_type == 'Div':
            if node.input[0] != drawn:
                raise unknown(node, ' by a random tensor')
            one = write.constant(f'{out}_one', 1.0)
            other = write.constant(f'{out}_factor', 1 / write.values(other)) \
                if other in write.fixed else write.node('Div', [one, other], f'{out}_factor')
        return scaled(x, mean, other, write)

    def _of_two(self, node: onnx.NodeProto) -> Moments:
        """Return the moments of a sum or product of two tensors, treated as independent."""
        write, out = self._write, node.output[0]
        x, y = (self.moments[name] for name in node.input)
        mean = write.twin(node, [x.mean, y.mean], out)
        if node.op_type == 'Mul':
            variance = _random_product(node, x, y, write)
        else:
            variance = write.node('Add', [x.variance, y.variance], f'{out}_variance')
        return Moments(mean, variance, x.is_shared and y.is_shared)

    def _joined(self, node: onnx.NodeProto) -> Moments:
        write, out = self._write, node.output[0]
        parts = [self.moments.get(name) for name in node.input]
        mean = write.twin(node, [name if x is None else x.mean for name, x in zip(
            node.input, parts, strict=True)], out)
        drawn = [x for x in parts if x is not None]
        is_shared = all(x.is_shared for x in drawn) and attribute(node, 'axis') == 1

        def join(names: Sequence[str | None], wish: str) -> str:
            return write.twin(node, [name or write.filled(0.0, source) for name, source in zip(
                names, node.input, strict=True)], wish)

        variance = join([None if x is None else x.variance for x in parts], f'{out}_variance')
        amplitude = None
        if is_shared and all(x.amplitude for x in drawn):
            names = [None if x is None else x.amplitude for x in parts]
            amplitude = join(names, f'{out}_amplitude')
        return Moments(mean, variance, is_shared, amplitude)
