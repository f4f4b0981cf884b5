# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is built behind the logits: samples, and sums over the passes.

The head with statistics takes a chunk of passes and returns sums over them, for devices where the
passes must not leave the device. On a CPU the fused reduction outside the graph is many times
faster (docs/measurements.md), so that it runs there in tests only. Everything behind the logits
stays in float32: half precision made 93 % of entropies NaN.

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.compiler.algebra.split import LOGITS, MOMENTS
from uncertainty_seg.compiler.onnx_tools import (
    build_model,
    copy_of,
    float_info,
    rename_tensors,
    resize_scale,
)
from uncertainty_seg.core.model_card import DropoutSite, InputSpec

NOISE = 'noise'
LARGEST_LOG_VARIANCE = 15.0
INV_TEMPERATURE = 'inv_temperature'
SUM_P, SUM_ENTROPY, SUM_P2, VOTES = 'sum_p', 'sum_entropy', 'sum_p2', 'votes'
SUM_LOGITS = 'sum_logits'


def add_samples(
    head: onnx.ModelProto, samples: int, passes: int | str
) -> tuple[onnx.ModelProto, DropoutSite]:
    """
    Append the samples of `direct`, Kendall and Gal's model of the logits, to a head.

    With logits f, log-variance s and standard normal numbers e, the result is ``log(mean_k
    softmax(f + exp(s / 2) e_k)) + log(sum_c exp(f))``: its softmax is the mean of the samples, so
    that everything behind it is as for any other method, and energy and largest logit are those of
    f, not of probabilities that sum to 1. Without noise it is f. The numbers are the same at every
    pixel, and the mean takes them over at the logits' resolution, before the upsampling.

    References
    ----------
    Kendall and Gal, 2017, arXiv:1703.04977, equation 12.

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
        # Of Min and Clip, which may lose NaN, only Min then gives the largest and not the least.
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
        # The logarithm of the sum of exp(f), as the largest f less its logarithm as a probability.
        node('LogSoftmax', ['noise_f'], ['noise_log_p'], axis=1),
        node('ReduceMax', ['noise_f', 'noise_axis'], ['noise_top'], keepdims=1),
        node('ReduceMax', ['noise_log_p', 'noise_axis'], ['noise_log_top'], keepdims=1),
        node('Sub', ['noise_top', 'noise_log_top'], ['noise_total']),
        node('Add', ['noise_log_mean', 'noise_total'], [LOGITS]),
    ]


def add_statistics(
    head: onnx.ModelProto, spec: InputSpec, upsampling: str = 'half_pixel'
) -> onnx.ModelProto:
    """Append upsampling, softmax and sums to a head."""
    dims = head.graph.output[0].type.tensor_type.shape.dim
    num_classes, rows, columns = (d.dim_value for d in dims[1:])
    scales = np.array([1, 1, resize_scale(rows, spec.height), resize_scale(columns, spec.width)],
                      np.float32)
    constants = {
        'scales': scales,
        'passes_axis': np.array([0], np.int64),
        'both_axes': np.array([0, 1], np.int64),
        'class_ids': np.arange(num_classes, dtype=np.int64).reshape(1, num_classes, 1, 1),
    }
    tensors = [numpy_helper.from_array(v, f'stats_{k}') for k, v in constants.items()]
    inputs = [*head.graph.input, float_info(INV_TEMPERATURE, (1,))]
    plane = (spec.height, spec.width)
    outputs = [float_info(SUM_P, (num_classes, *plane)), float_info(SUM_ENTROPY, plane),
               float_info(SUM_P2, plane), float_info(VOTES, (num_classes, *plane)),
               float_info(SUM_LOGITS, (num_classes, rows, columns))]
    nodes = [*head.graph.node, *_reduction(upsampling)]
    return build_model('head_stats', nodes, inputs, outputs,
                       [*head.graph.initializer, *tensors])


def _reduction(upsampling: str) -> list[onnx.NodeProto]:
    def node(op: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], **attributes)

    return [
        node('Resize', [LOGITS, '', 'stats_scales'], 'stats_full', mode='linear',
             coordinate_transformation_mode=upsampling),
        node('Mul', ['stats_full', INV_TEMPERATURE], 'stats_cooled'),
        node('LogSoftmax', ['stats_cooled'], 'stats_log_p', axis=1),
        node('Exp', ['stats_log_p'], 'stats_p'),
        node('ReduceSum', ['stats_p', 'stats_passes_axis'], SUM_P, keepdims=0),
        node('Mul', ['stats_p', 'stats_log_p'], 'stats_plogp'),
        node('ReduceSum', ['stats_plogp', 'stats_both_axes'], 'stats_minus_entropy', keepdims=0),
        node('Neg', ['stats_minus_entropy'], SUM_ENTROPY),
        node('Mul', ['stats_p', 'stats_p'], 'stats_p_squared'),
        node('ReduceSum', ['stats_p_squared', 'stats_both_axes'], SUM_P2, keepdims=0),
        node('ArgMax', ['stats_p'], 'stats_winner', axis=1, keepdims=1),
        node('Equal', ['stats_winner', 'stats_class_ids'], 'stats_is_vote'),
        node('Cast', ['stats_is_vote'], 'stats_vote', to=TensorProto.FLOAT),
        node('ReduceSum', ['stats_vote', 'stats_passes_axis'], VOTES, keepdims=0),
        node('ReduceSum', [LOGITS, 'stats_passes_axis'], SUM_LOGITS, keepdims=0),
    ]
