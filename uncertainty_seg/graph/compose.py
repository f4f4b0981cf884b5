# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Put trunk and head together again as one deterministic graph: image to class ids.

This is what a user without uncertainty would deploy, and so the yardstick for the cost of T.

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper, TensorProto

from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.graph.final_resize import upsample_nodes
from uncertainty_seg.graph.onnx_tools import build_model
from uncertainty_seg.graph.split import LOGITS


def deterministic_graph(bundle: ModelBundle) -> onnx.ModelProto:
    """
    Merge a bundle's graphs, dropout off, upsampling and argmax inside.

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
