# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The graph of a bundle's plain network, class ids and all: the yardstick for the cost of T."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper, TensorProto

from uncertainty_seg.compiler.algebra.split import LOGITS
from uncertainty_seg.compiler.head_graphs import INV_TEMPERATURE
from uncertainty_seg.compiler.onnx_tools import build_model, drop_unused, refill
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.model_card import FEATURE_MAP


def deterministic_graph(bundle: ModelBundle) -> onnx.ModelProto:
    """
    Merge a checked bundle's graphs, dropout off, upsampling and argmax inside.

    uint8 `image` (1, h, w, 3) to int64 `label` (1, h, w). A mask of ones is a constant,
    which runtimes fold into the weights; noise is zero.
    """
    trunk, head = onnx.load(str(bundle.trunk_path)), onnx.load(str(bundle.passes_path))
    refill(trunk.graph.output, [o for o in trunk.graph.output if o.name != FEATURE_MAP])
    sites = bundle.card.dropout_sites
    still = [numpy_helper.from_array(np.full((1, *site.shape), site.kind == 'mask', np.float32),
                                     site.name) for site in sites]
    still.append(numpy_helper.from_array(np.ones(1, np.float32), INV_TEMPERATURE))
    named = {tensor.name for tensor in still}
    inputs = [info for info in head.graph.input if info.name not in named]
    spec = bundle.card.input
    nodes, tensors = upsample_nodes(LOGITS, 'full_logits', spec.height, spec.width,
                                    bundle.card.upsampling)
    nodes.append(helper.make_node('ArgMax', ['full_logits'], ['label'], axis=1, keepdims=0))
    label = helper.make_tensor_value_info('label', TensorProto.INT64,
                                          [1, spec.height, spec.width])
    tail = build_model('head', [*head.graph.node, *nodes], inputs, [label],
                       [*head.graph.initializer, *still, *tensors])
    links = [(info.name, info.name) for info in inputs]
    prefixed = compose.add_prefix(tail, 'head_', rename_inputs=False, rename_outputs=False)
    merged = compose.merge_models(trunk, prefixed, io_map=links)
    drop_unused(merged.graph)
    merged.graph.name = 'deterministic'
    return merged


def upsample_nodes(
    source: str, target: str, height: int, width: int, upsampling: str = 'half_pixel'
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Make the nodes and initializers that bring (N, C, hl, wl) to (N, C, h, w)."""
    front, shape, cut = f'{target}_shape', f'{target}_nc', f'{target}_range'
    size = numpy_helper.from_array(np.array([height, width], np.int64), f'{target}_hw')
    bounds = [numpy_helper.from_array(np.array([v], np.int64), f'{cut}_{v}') for v in (0, 2)]
    nodes = [
        helper.make_node('Shape', [source], [front]),
        helper.make_node('Slice', [front, bounds[0].name, bounds[1].name], [shape]),
        helper.make_node('Concat', [shape, size.name], [f'{target}_size'], axis=0),
        helper.make_node('Resize', [source, '', '', f'{target}_size'], [target], mode='linear',
                         coordinate_transformation_mode=upsampling),
    ]
    return nodes, [size, *bounds]
