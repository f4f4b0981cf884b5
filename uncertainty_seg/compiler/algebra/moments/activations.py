# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Moments through activations, of an element taken as normally distributed.

The family of ReLU has closed forms, of which plain ReLU, the most frequent by far, takes a bounded
approximation at two thirds of the cost. Every other one goes through its
values at a few points around the mean, which gives no negative variance and needs no formula of
its own: three points of Gauss and Hermite, or, for HardSwish and SiLU, which stand behind every
convolution of a network that has them, two at half the cost. Two are exact for the mean of a
cubic; they miss what a bend alone adds to the variance.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np
import onnx

from uncertainty_seg.compiler.algebra.moments.writing import Moments, MomentWriter, unknown
from uncertainty_seg.compiler.onnx_tools import attribute

# Elements of one output for one input, that no closed form is written for.
SMOOTH = ('Sigmoid', 'Tanh', 'HardSigmoid', 'HardSwish', 'Elu', 'Selu', 'Celu', 'Softplus', 'Erf',
          'Softsign', 'Exp')
# What is added to a variance before its root, so that no quotient overflows.
_FLOOR = 1e-12
# Of a rectified normal element, as functions of a = mean / deviation: the share of the variance
# that is left is sigmoid(slope a + shift) to 0.009, and the mean lies above max(mean, 0) by
# (top - fall |a|)^4 deviations, 0 beyond its foot, to 0.0019 of them.
_SLOPE, _SHIFT = 1.84546, -0.695227
_TOP, _FALL = 0.794069, 0.254003


@dataclass(frozen=True)
class _Rectified:
    """Names of the moments of max(x, 0), and of the chance that x is above 0."""

    mean: str
    variance: str
    chance: str


def relu(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """
    Return the moments of a rectified normal element, near enough.

    With s^2 the variance of x, the mean is right to 0.0019 s and the variance to 0.009 s^2. It is
    never negative, and no two nearly equal numbers are subtracted.

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


def _rectified(mean: str, variance: str, out: str, write: MomentWriter) -> _Rectified:
    """
    Write the closed form of max(x, 0) for x of mean m and variance v = s^2.

    With a = m/s, P the normal distribution function and p its density: M = m P(a) + s p(a), and
    V = v P(a) - M (M - m), which is (m^2 + v) P(a) + m s p(a) - M^2 with its terms put together.

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
    # Two nearly equal numbers were subtracted.
    return _Rectified(M, write.node('Relu', [V], f'{out}_variance'), chance)


def leaky_relu(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """Return the exact moments of LeakyRelu or PRelu: k x + (1 - k) max(x, 0)."""
    out = node.output[0]
    if node.op_type == 'PRelu':
        if node.input[1] not in write.fixed:
            raise unknown(node, ' with computed slopes')
        slope = write.values(node.input[1])
    else:
        slope = np.asarray(attribute(node, 'alpha', 0.01))
    found = _rectified(x.mean, x.variance, f'{out}_rectified', write)
    mean = write.node('Add', [write.scaled(x.mean, slope, f'{out}_line'),
                              write.scaled(found.mean, 1 - slope, f'{out}_bend')], out)
    # The covariance of x and max(x, 0) is v P(a).
    both = write.node('Mul', [x.variance, found.chance], f'{out}_both')
    parts = [write.scaled(x.variance, slope**2, f'{out}_line_variance'),
             write.scaled(found.variance, (1 - slope)**2, f'{out}_bend_variance'),
             write.scaled(both, 2 * slope * (1 - slope), f'{out}_both_variance')]
    total = write.node('Add', [write.node('Add', parts[:2], f'{out}_two'), parts[2]],
                       f'{out}_three')
    return Moments(mean, write.node('Relu', [total], f'{out}_variance'), x.is_shared)


def clip(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """
    Return the exact moments of Clip with constant bounds, ReLU6 for example.

    It is low + max(x - low, 0) - max(x - high, 0), or a part of that where a bound is missing.
    With E its mean and M1, V1, M2, V2 the moments of the two, the variance is
    V1 - V2 - 2 M2 (high - E).

    """
    low, high = (_bound(node, index, write) for index in (1, 2))
    out = node.output[0]
    if high is None and low == 0.0:
        return relu(node, x, write)
    if low is None or high is None:
        raise unknown(node, ' with one bound other than 0')
    moved = [write.node('Sub', [x.mean, write.constant(f'{out}_{side}', bound)], f'{out}_x_{side}')
             for side, bound in (('low', low), ('high', high))]
    first, second = (_rectified(name, x.variance, f'{out}_{side}', write)
                     for name, side in zip(moved, ('above_low', 'above_high'), strict=True))
    risen = write.node('Sub', [first.mean, second.mean], f'{out}_risen')
    mean = write.node('Add', [risen, write.constant(f'{out}_base', low)], out)
    room = write.node('Sub', [write.constant(f'{out}_top', high), mean], f'{out}_room')
    lost = write.scaled(write.node('Mul', [second.mean, room], f'{out}_cut'), 2.0, f'{out}_lost')
    left = write.node('Sub', [first.variance, second.variance], f'{out}_left')
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
    Return the moments of a function of one element, by its values at two or three points.

    Parameters
    ----------
    nodes : sequence of NodeProto
        The function, in order; its last output is the result. Other inputs are not random.
    source : str
        The tensor of `nodes` that `x` describes.
    x : Moments
        Of the argument.
    write : MomentWriter
        Takes the nodes.

    Returns
    -------
    Moments
        Of HardSwish and what multiplies x by a function of x, from the values f and g at m + s
        and m - s: mean (f + g)/2, variance (f - g)^2/4. Of all others: see `_by_three`.

    """
    kinds = {node.op_type for node in nodes}
    if 'HardSwish' not in kinds and not (len(nodes) > 1 and kinds & {*SMOOTH, 'Clip'}):
        return _by_three(nodes, source, x, write)
    out = nodes[-1].output[0]
    high, low = (_replayed(nodes, source, write.node(op, [x.mean, write.root(x)], f'{out}_{op}'),
                           write) for op in ('Add', 'Sub'))
    mean = write.scaled(write.node('Add', [high, low], f'{out}_sum'), 0.5, f'{out}_mean')
    slope = write.scaled(write.node('Sub', [high, low], f'{out}_rise'), 0.5, f'{out}_slope')
    return Moments(mean, write.square(slope), x.is_shared)


def _by_three(
    nodes: Sequence[onnx.NodeProto], source: str, x: Moments, write: MomentWriter
) -> Moments:
    """
    Return moments by three points of Gauss and Hermite: at m, and at m +- s sqrt(3).

    With e the mean of the outer values less the middle one and d their difference: mean f + e/3,
    variance d^2/12 + 2 e^2/9.

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


def softmax(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """
    Return the moments of Softmax inside a network, by its derivatives at the mean.

    The variance is p_i^2 ((1 - 2 p_i) v_i + sum_j p_j^2 v_j), for independent elements.

    """
    out = node.output[0]
    p = write.twin(node, [x.mean], out)
    axis = write.constant(f'{out}_axis', [attribute(node, 'axis', -1)], np.int64)
    squared = write.square(p)
    total = write.node('ReduceSum', [
        write.node('Mul', [squared, x.variance], f'{out}_weighed'), axis], f'{out}_total',
        keepdims=1)
    own = write.node('Sub', [write.constant(f'{out}_one', 1.0), write.scaled(
        p, 2.0, f'{out}_twice')], f'{out}_own')
    inner = write.node('Add', [write.node('Mul', [own, x.variance], f'{out}_self'), total],
                       f'{out}_inner')
    # Never negative: (1 - 2p) + p^2 is a square.
    return Moments(p, write.node('Mul', [squared, inner], f'{out}_variance'), x.is_shared)
