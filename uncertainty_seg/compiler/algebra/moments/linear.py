# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Moments through linear operators: squared weights, and what shared noise changes in them.

Where the elements that are mixed have noise of their own, the variance goes through the squared
weights. Where one draw is shared by all pixels of a channel, pixels are mixed by amplitude and the
result squared, which is exact for one channel after a channel mask; what is mixed over channels
is taken as independent, which is exact directly behind a channel mask and an approximation later.

"""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np
from numpy.typing import NDArray
import onnx

from uncertainty_seg.compiler.algebra.moments.writing import Moments, MomentWriter, unknown
from uncertainty_seg.compiler.onnx_tools import attribute
from uncertainty_seg.compiler.plan import MACS_AN_ELEMENT

# Reads and writes of the exact convolution of a channel mask, and what share of the network's
# multiply-adds they may cost; beyond it the taps of a kernel count as independent.
_EXACT_PASSES, _EXACT_SHARE = 3, 0.1


def conv(
    node: onnx.NodeProto, x: Moments, write: MomentWriter, is_centred: bool = False
) -> Moments:
    """
    Return the moments of Conv or ConvTranspose with constant weights.

    With `is_centred` the variance is that of each output channel less the mean of all channels,
    which is what a softmax over them sees.

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
    """Return the sum over channels of the square of what each adds to each output."""
    out, (num_out, num_in, *kernel) = node.output[0], weights.shape
    split = weights.swapaxes(0, 1).reshape(num_in * num_out, 1, *kernel)
    parts = write.twin(node, [amplitude, write.constant(f'{out}_split', split)], f'{out}_parts',
                       group=num_in)
    shape = (1, num_in, num_out, *write.shapes[out][2:])
    apart = write.node('Reshape', [write.square(parts), write.constant(
        f'{out}_apart', shape, np.int64)], f'{out}_by_channel')
    axis = write.constant(f'{out}_axis', [1], np.int64)
    return write.node('ReduceSum', [apart, axis], f'{out}_variance', keepdims=0)


def matrix(
    node: onnx.NodeProto, inputs: Sequence[Moments | str], write: MomentWriter
) -> Moments:
    """Return the moments of MatMul or Gemm; two random factors count as independent."""
    first, second = inputs[:2]
    means = [x if isinstance(x, str) else x.mean for x in inputs]
    out = node.output[0]
    mean = write.twin(node, means, out)
    if node.op_type == 'Gemm' and (isinstance(first, str) or not isinstance(second, str)):
        raise unknown(node, ' with random weights')
    if isinstance(first, str) and isinstance(second, Moments):
        factors = [write.square(first), second.variance]
    elif isinstance(first, Moments) and isinstance(second, str):
        factors = [first.variance, write.square(second)]
    elif isinstance(first, Moments) and isinstance(second, Moments):
        return Moments(mean, _random_product(node, first, second, write))
    variance = write.twin(node, factors, f'{out}_variance')
    alpha = attribute(node, 'alpha', 1.0) if node.op_type == 'Gemm' else 1.0
    if alpha != 1.0:
        variance = write.scaled(variance, alpha, f'{out}_variance_scaled')
    return Moments(mean, variance)


def _random_product(
    node: onnx.NodeProto, first: Moments, second: Moments, write: MomentWriter
) -> str:
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
    """Return the moments of a random tensor times one that is not random."""
    if x.amplitude is not None:
        return write.from_amplitude(
            mean, write.node('Mul', [x.amplitude, factor], f'{mean}_amplitude'))
    constant = next((t for t in write.tensors if t.name == factor), None)
    if constant is None:
        squared = write.square(factor)
    else:
        squared = write.constant(
            f'{factor}_squared', np.square(onnx.numpy_helper.to_array(constant), dtype=np.float64))
    return Moments(mean, write.node('Mul', [x.variance, squared], f'{mean}_variance'),
                   x.is_shared)


# -------------------------------------------------------------------------------------------------
# Averages over pixels.


def average(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """Return the moments of AveragePool, GlobalAveragePool or ReduceMean."""
    out = node.output[0]
    mean = write.twin(node, [x.mean, *node.input[1:]], out)
    axes = attribute(node, 'axes') or ()
    if x.is_shared and not {0, 1}.intersection(axes):
        return write.from_amplitude(
            mean, write.twin(node, [write.amplitude(x)], f'{out}_amplitude'))
    averaged = write.twin(node, [x.variance, *node.input[1:]], f'{out}_averaged')
    share = 1 / _averaged_elements(node, write)
    return Moments(mean, write.scaled(averaged, share, f'{out}_variance'), x.is_shared)


def _averaged_elements(node: onnx.NodeProto, write: MomentWriter) -> NDArray[np.float64]:
    """Return how many elements each output is the mean of, broadcastable to the output."""
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


def reduce_sum(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> Moments:
    """Return the moments of ReduceSum, its elements taken as independent."""
    mean = write.twin(node, [x.mean, *node.input[1:]], node.output[0])
    return Moments(mean, write.twin(node, [x.variance, *node.input[1:]], f'{mean}_variance'))


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


def linear_weights(
    size_in: int, size_out: int, kind: str, scale: float
) -> NDArray[np.float64]:
    """
    Return the weights of linear interpolation along one axis.

    Parameters
    ----------
    size_in, size_out : int
        Elements before and after.
    kind : str
        ONNX's coordinate_transformation_mode.
    scale : float
        Elements after for one before.

    Returns
    -------
    ndarray of float64, shape (size_out, size_in)
        Rows that sum to 1.

    """
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
# What only moves elements.


def layout(node: onnx.NodeProto, x: Moments, write: MomentWriter) -> tuple[Moments, ...]:
    """Return the moments of what moves, repeats or cuts elements; one for each output."""
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
