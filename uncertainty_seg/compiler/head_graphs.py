# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Graph parts after the logits: noise samples, and the sums over the passes.

`passes.onnx` takes a chunk of passes and returns sums over them on the logits' grid, so that every
runtime computes them in the same way and never outputs a tensor of all passes. Everything after
the logits stays in float32: half precision made 93 % of entropies NaN.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.compiler.algebra.split import LOGITS, MOMENTS
from uncertainty_seg.compiler.onnx_tools import (
    build_model,
    copy_of,
    drop_unused,
    float_info,
    refill,
    rename_tensors,
)
from uncertainty_seg.core.model_card import DropoutSite

NOISE = 'noise'
LARGEST_LOG_VARIANCE = 15.0
INV_TEMPERATURE = 'inv_temperature'
SUM_P, SUM_ENTROPY, SUM_P2, VOTES = 'sum_p', 'sum_entropy', 'sum_p2', 'votes'
SUM_LOGITS = 'sum_logits'
# The logits interpolated to the grid, if its points are not the centres of the logits.
_BESIDE = 'sums_logits_beside'
# Operators that have a bias with so many inputs, and those that pass values on. Equal largest
# logits are common behind others, as behind dropout of the logits, which makes them 0, and behind
# products without a bias, where nothing but zeros comes in.
_BIASED = {'Conv': 3, 'ConvTranspose': 3, 'Gemm': 3, 'BatchNormalization': 5}
_PASSING = frozenset({'Cast', 'Gather', 'Identity', 'Reshape', 'Resize', 'Squeeze', 'Transpose',
                      'Unsqueeze'})


def add_samples(
    head: onnx.ModelProto, samples: int, passes: int | str
) -> tuple[onnx.ModelProto, DropoutSite]:
    """
    Append the samples of `direct` to a head: Kendall and Gal, 2017, arXiv:1703.04977, equation 12.

    With logits f, log-variance s and standard normal numbers e, the result is ``log(mean_k
    softmax(f + exp(s / 2) e_k)) + log(sum_c exp(f))``. Its softmax is the mean of the samples, so
    later steps are the same as for other methods; the second term keeps energy and largest logit
    on the scale of f. Without noise the result is f. The same e_k are used at every pixel, and the
    mean is taken at the resolution of the logits, before the upsampling.
    """
    _, channels, rows, columns = (
        d.dim_value for d in head.graph.output[0].type.tensor_type.shape.dim)
    num_classes = channels // 2
    site = DropoutSite(NOISE, (samples, num_classes, 1, 1), 0.0, 'noise')
    nodes = [copy_of(node) for node in head.graph.node]
    for node in nodes:
        rename_tensors(node, {LOGITS: MOMENTS})
    constants = {'halves': np.array([num_classes] * 2, np.int64), 'axis': np.array([1], np.int64),
                 'largest': np.float32(LARGEST_LOG_VARIANCE), 'half': np.float32(0.5),
                 'least': np.float32(1e-30)}
    tensors = [numpy_helper.from_array(np.asarray(v), f'noise_{k}') for k, v in constants.items()]
    inputs = [*head.graph.input, float_info(NOISE, (passes, *site.shape))]
    logits = float_info(LOGITS, (passes, num_classes, rows, columns))
    made = build_model('head', [*nodes, *_sampling()], inputs, [logits],
                       [*head.graph.initializer, *tensors])
    return made, site


def _sampling() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node('Split', [MOMENTS, 'noise_halves'], ['noise_f', 'noise_s'], axis=1),
        # Min and Clip may both lose NaN; Min then returns the upper bound, Clip the lower one.
        node('Min', ['noise_s', 'noise_largest'], ['noise_limited']),
        node('Mul', ['noise_limited', 'noise_half'], ['noise_log_sigma']),
        node('Exp', ['noise_log_sigma'], ['noise_sigma']),
        node('Unsqueeze', ['noise_f', 'noise_axis'], ['noise_f_once']),
        node('Unsqueeze', ['noise_sigma', 'noise_axis'], ['noise_sigma_once']),
        node('Mul', ['noise_sigma_once', NOISE], ['noise_added']),
        node('Add', ['noise_f_once', 'noise_added'], ['noise_z']),
        node('Softmax', ['noise_z'], ['noise_p'], axis=2),
        node('ReduceMean', ['noise_p', 'noise_axis'], ['noise_mean'], keepdims=0),
        node('Add', ['noise_mean', 'noise_least'], ['noise_above']),
        node('Log', ['noise_above'], ['noise_log_mean']),
        # log(sum_c exp(f)) is the largest f minus the log-probability of that class.
        node('LogSoftmax', ['noise_f'], ['noise_log_p'], axis=1),
        node('ReduceMax', ['noise_f', 'noise_axis'], ['noise_top'], keepdims=1),
        node('ReduceMax', ['noise_log_p', 'noise_axis'], ['noise_log_top'], keepdims=1),
        node('Sub', ['noise_top', 'noise_log_top'], ['noise_total']),
        node('Add', ['noise_log_mean', 'noise_total'], [LOGITS]),
    ]


def add_sums(head: onnx.ModelProto, offset: tuple[float, float] = (0.0, 0.0)) -> onnx.ModelProto:
    """
    Append the sums over the passes to a head, as `core.uncertainty.sums_of_logits` defines them.

    They are taken at `offset` (down, right), in cells from the centres of the logits; the sum of
    the logits themselves is taken at the centres.
    """
    dims = head.graph.output[0].type.tensor_type.shape.dim
    num_classes, rows, columns = (d.dim_value for d in dims[1:])
    shape, plane = (num_classes, rows, columns), (rows, columns)
    made: dict[str, NDArray[np.generic]] = {
        'first_axis': np.array([0], np.int64), 'classes_axis': np.array([1], np.int64),
        'both_axes': np.array([0, 1], np.int64), 'zero': np.zeros((), np.float32)}
    may_tie = _may_tie(LOGITS, {name: node for node in head.graph.node for name in node.output})
    if may_tie:
        made['order'] = np.arange(num_classes, 0, -1, dtype=np.float32).reshape(-1, 1, 1)
    nodes = [*head.graph.node]
    if any(offset):
        beside, more = _beside(num_classes, offset)
        nodes += beside
        made |= more
    nodes += _sums(_BESIDE if any(offset) else LOGITS)
    nodes += _first_of_equals() if may_tie else []
    nodes.append(helper.make_node(
        'ReduceSum', ['sums_first_vote' if may_tie else 'sums_vote', 'sums_first_axis'], [VOTES],
        keepdims=0))
    tensors = [numpy_helper.from_array(value, f'sums_{key}') for key, value in made.items()]
    return build_model(
        'passes', nodes, [*head.graph.input, float_info(INV_TEMPERATURE, (1,))],
        [float_info(SUM_P, shape), float_info(SUM_ENTROPY, plane), float_info(SUM_P2, plane),
         float_info(VOTES, shape), float_info(SUM_LOGITS, shape)],
        [*head.graph.initializer, *tensors])


def logits_of(passes: onnx.ModelProto) -> onnx.ModelProto:
    """Return the part of passes.onnx that computes the logits (T, C, hl, wl) before the sums."""
    result = copy_of(passes)
    del result.graph.output[:]
    result.graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, None))
    drop_unused(result.graph)
    inputs = [info for info in result.graph.input if info.name != INV_TEMPERATURE]
    refill(result.graph.input, inputs)
    return result


def _beside(
    num_classes: int, offset: tuple[float, float]
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.generic]]]:
    """Interpolate the logits between neighbouring cells: a convolution with 2x2 weights."""
    # The fastest way tried in ONNX Runtime for (20, 6, 96, 128): 3.2 ms. Two matrix products took
    # 6.2 ms, shifted sums 8.2 ms and Resize to twice the size 13 ms.
    down, across = (np.array([1 - share, share]) for share in offset)
    weights = np.tile(np.outer(down, across).astype(np.float32), (num_classes, 1, 1, 1))
    return [
        helper.make_node('Pad', [LOGITS, 'sums_edges'], ['sums_padded'], mode='edge'),
        helper.make_node('Conv', ['sums_padded', 'sums_weights'], [_BESIDE], group=num_classes),
    ], {'edges': np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64), 'weights': weights}


def _sums(logits: str) -> list[onnx.NodeProto]:
    def node(op: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], **attributes)

    # ONNX Runtime's Softmax and LogSoftmax over a middle axis take three times as long.
    return [
        node('Mul', [logits, INV_TEMPERATURE], 'sums_z'),
        node('ReduceMax', ['sums_z', 'sums_classes_axis'], 'sums_largest', keepdims=1),
        node('Sub', ['sums_z', 'sums_largest'], 'sums_below'),
        node('Exp', ['sums_below'], 'sums_weight'),
        node('ReduceSum', ['sums_weight', 'sums_classes_axis'], 'sums_total', keepdims=1),
        node('Div', ['sums_weight', 'sums_total'], 'sums_p'),
        node('ReduceSum', ['sums_p', 'sums_first_axis'], SUM_P, keepdims=0),
        # The entropy of a pass is log(total) minus the mean of `sums_below` under p.
        node('Log', ['sums_total'], 'sums_log_total'),
        node('ReduceSum', ['sums_log_total', 'sums_both_axes'], 'sums_log_totals', keepdims=0),
        node('Mul', ['sums_p', 'sums_below'], 'sums_p_below'),
        node('ReduceSum', ['sums_p_below', 'sums_both_axes'], 'sums_means_below', keepdims=0),
        node('Sub', ['sums_log_totals', 'sums_means_below'], SUM_ENTROPY),
        node('Mul', ['sums_p', 'sums_p'], 'sums_p_squared'),
        node('ReduceSum', ['sums_p_squared', 'sums_both_axes'], SUM_P2, keepdims=0),
        node('Equal', ['sums_below', 'sums_zero'], 'sums_is_vote'),
        node('Cast', ['sums_is_vote'], 'sums_vote', to=TensorProto.FLOAT),
        node('ReduceSum', [LOGITS, 'sums_first_axis'], SUM_LOGITS, keepdims=0),
    ]


def _may_tie(name: str, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Tell whether the classes of a tensor may often be equal: it is no sum with a bias."""
    node = producers.get(name)
    if node is None:
        return False
    if node.op_type in _PASSING:
        return _may_tie(node.input[0], producers)
    if node.op_type in ('Add', 'Sub'):
        return all(_may_tie(part, producers) for part in node.input)
    return len(node.input) != _BIASED.get(node.op_type, -1)


def _first_of_equals() -> list[onnx.NodeProto]:
    """Give the vote of a pass to the first of equal classes alone, as an argmax does."""
    node = helper.make_node
    return [
        node('Mul', ['sums_vote', 'sums_order'], ['sums_ranked']),
        node('ReduceMax', ['sums_ranked', 'sums_classes_axis'], ['sums_rank'], keepdims=1),
        node('Equal', ['sums_ranked', 'sums_rank'], ['sums_is_first']),
        node('Cast', ['sums_is_first'], ['sums_first'], to=TensorProto.FLOAT),
        # If no class has a vote, as with an infinite logit, all ranks are 0 and equal.
        node('Mul', ['sums_first', 'sums_vote'], ['sums_first_vote']),
    ]
