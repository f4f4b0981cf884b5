# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is built behind the logits: sums over the passes, or the class ids of the plain network.

The head with statistics takes a chunk of passes and returns sums over them, for devices where the
passes must not leave the device. On a CPU the fused reduction outside the graph is many times
faster (docs/measurements.md), so that it runs there in tests only. Everything behind the logits
stays in float32: half precision made 93 % of entropies NaN.

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper, TensorProto

from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.graph.algebra.split import LOGITS
from uncertainty_seg.graph.frontend.outputs import upsample_nodes
from uncertainty_seg.graph.onnx_tools import build_model, float_info

INV_TEMPERATURE = 'inv_temperature'
SUM_P, SUM_ENTROPY, SUM_P2, VOTES = 'sum_p', 'sum_entropy', 'sum_p2', 'votes'
SUM_LOGITS = 'sum_logits'


def add_statistics(
    head: onnx.ModelProto, spec: InputSpec, upsampling: str = 'half_pixel'
) -> onnx.ModelProto:
    """
    Append upsampling, softmax and sums to a head.

    Parameters
    ----------
    head : ModelProto
        Features and masks to `logits` (T, C, hl, wl); left as it is.
    spec : InputSpec
        Gives h and w.
    upsampling : str
        One of `core.model_card.UPSAMPLINGS`.

    Returns
    -------
    ModelProto
        One more input, float32 `inv_temperature` (1,); outputs float32 `sum_p` and `votes`
        (C, h, w), `sum_entropy` in nats and `sum_p2` (h, w), and of the logits as they are
        `sum_logits` (C, hl, wl), each summed over the T passes.

    """
    dims = head.graph.output[0].type.tensor_type.shape.dim
    num_classes, rows, columns = (d.dim_value for d in dims[1:])
    scales = np.array([1, 1, spec.height / rows, spec.width / columns], np.float32)
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


def deterministic_graph(bundle: ModelBundle) -> onnx.ModelProto:
    """
    Merge a bundle's graphs, dropout off, upsampling and argmax inside.

    This is what a user without uncertainty would deploy, and so the yardstick for the cost of T.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle.

    Returns
    -------
    ModelProto
        uint8 `image` (1, h, w, 3) to int64 `label` (1, h, w). A mask of one pass of ones is a
        constant, which runtimes fold into the weights.

    """
    trunk, head = onnx.load(str(bundle.trunk_path)), onnx.load(str(bundle.head_path))
    sites = {site.name: site.shape for site in bundle.card.dropout_sites}
    ones = [numpy_helper.from_array(np.ones((1, *shape), np.float32), name)
            for name, shape in sites.items()]
    inputs = [info for info in head.graph.input if info.name not in sites]
    spec = bundle.card.input
    nodes, tensors = upsample_nodes(LOGITS, 'full_logits', spec.height, spec.width,
                                    bundle.card.upsampling)
    nodes.append(helper.make_node('ArgMax', ['full_logits'], ['label'], axis=1, keepdims=0))
    label = helper.make_tensor_value_info('label', TensorProto.INT64,
                                          [1, spec.height, spec.width])
    tail = build_model('head', [*head.graph.node, *nodes], inputs, [label],
                       [*head.graph.initializer, *ones, *tensors])
    links = [(info.name, info.name) for info in inputs]
    prefixed = compose.add_prefix(tail, 'head_', rename_inputs=False, rename_outputs=False)
    merged = compose.merge_models(trunk, prefixed, io_map=links)
    merged.graph.name = 'deterministic'
    return merged
