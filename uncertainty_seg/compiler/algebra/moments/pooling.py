# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Moments through MaxPool, whose windows are taken apart into shifted copies.

Where the noise of a channel is shared by its pixels, the largest of the means stays the largest
whatever is drawn, and its variance is taken; behind a channel mask that is exact. Where pixels
have noise of their own, the copies are joined two by two with Clark's moments of the larger of two
independent normal numbers, exact for the first two.

"""

from __future__ import annotations

import math

import numpy as np
import onnx

from uncertainty_seg.compiler.algebra.moments.writing import Moments, MomentWriter, unknown
from uncertainty_seg.compiler.onnx_tools import attribute

_LOWEST = -1e9  # what padding holds; its quotients do not overflow
_FLOOR = 1e-12


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
    """Return the larger mean and the variance that goes with it."""
    first = write.node('GreaterOrEqual', [one[0], two[0]], f'{wish}_first')
    return (write.node('Max', [one[0], two[0]], f'{wish}_largest'),
            write.node('Where', [first, one[1], two[1]], f'{wish}_chosen'))


def _larger(
    one: tuple[str, str], two: tuple[str, str], wish: str, write: MomentWriter
) -> tuple[str, str]:
    """
    Return Clark's moments of the larger of two independent normal numbers.

    With t^2 = v1 + v2, a = (m1 - m2)/t, P and p the normal distribution and density: the mean is
    m1 P + m2 (1 - P) + t p, and the variance v1 P + v2 (1 - P) + (m1 - E)(E - m2) with that
    mean E, which is Clark's second moment less E^2 with its terms put together.

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
    # Each mean times its own chance: the padding, of chance 0, then leaves no rounding behind.
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
