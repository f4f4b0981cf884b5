# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Graphs of a bundle's network without uncertainty, the baseline for the cost of T passes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper, TensorProto

from uncertainty_seg.compiler.algebra.split import LOGITS
from uncertainty_seg.compiler.head_graphs import logits_of
from uncertainty_seg.compiler.onnx_tools import build_model, copy_of, drop_unused, refill
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.model_card import FEATURE_MAP


def deterministic_graph(bundle: ModelBundle) -> onnx.ModelProto:
    """
    Merge a bundle's graphs into one with dropout off, upsampling and argmax.

    Maps uint8 `image` (1, h, w, 3) to int64 `label` (1, h, w). The masks are constants of ones,
    which runtimes fold into the weights; noise is zero. For an ensemble it is one member.
    """
    trunk, head = onnx.load(str(bundle.trunk_path)), onnx.load(str(bundle.passes_path))
    member = next((node for node in trunk.graph.node
                   if list(node.output) == ['members'] and node.op_type == 'Concat'), None)
    if member is not None:
        return labelled(only(trunk, member.input[0]), member.input[0], bundle)
    trunk = only(trunk, *(o.name for o in trunk.graph.output if o.name != FEATURE_MAP))
    head, sites = logits_of(head), bundle.card.dropout_sites
    head.graph.initializer.extend(
        numpy_helper.from_array(np.full((1, *site.shape), site.kind == 'mask', np.float32),
                                site.name) for site in sites)
    fed = [info for info in head.graph.input if info.name not in {site.name for site in sites}]
    refill(head.graph.input, fed)
    tail = compose.add_prefix(labelled(head, LOGITS, bundle), 'head_', rename_inputs=False,
                              rename_outputs=False)
    return compose.merge_models(trunk, tail, io_map=[(info.name, info.name) for info in fed])


def only(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Return the part of a model that computes the tensors of these names."""
    result = copy_of(model)
    known = {info.name: info for info in model.graph.output}
    refill(result.graph.output, [
        known.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names])
    drop_unused(result.graph)
    return result


def labelled(model: onnx.ModelProto, logits: str, bundle: ModelBundle) -> onnx.ModelProto:
    """Return the model with `label` as output instead of logits (1, C, hl, wl)."""
    spec = bundle.card.input
    nodes, tensors = upsample_nodes(logits, 'full_logits', spec.height, spec.width,
                                    bundle.card.upsampling)
    nodes.append(helper.make_node('ArgMax', ['full_logits'], ['label'], axis=1, keepdims=0))
    label = helper.make_tensor_value_info('label', TensorProto.INT64,
                                          [1, spec.height, spec.width])
    return build_model('deterministic', [*model.graph.node, *nodes], model.graph.input, [label],
                       [*model.graph.initializer, *tensors])


def probability_graph(bundle: ModelBundle) -> onnx.ModelProto:
    """Return a graph from features and masks to probabilities (T, C, h, w), as in a notebook."""
    head, spec = logits_of(onnx.load(str(bundle.passes_path))), bundle.card.input
    nodes, tensors = upsample_nodes(LOGITS, 'full_logits', spec.height, spec.width,
                                    bundle.card.upsampling)
    nodes.append(helper.make_node('Softmax', ['full_logits'], ['p'], axis=1))
    p = helper.make_tensor_value_info('p', TensorProto.FLOAT, [
        'T', bundle.card.num_classes, spec.height, spec.width])
    return build_model('head', [*head.graph.node, *nodes], head.graph.input, [p],
                       [*head.graph.initializer, *tensors])


def upsample_nodes(
    source: str, target: str, height: int, width: int, upsampling: str = 'half_pixel'
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes and initializers that resize (N, C, hl, wl) to (N, C, h, w)."""
    size = numpy_helper.from_array(np.array([height, width], np.int64), f'{target}_size')
    return [helper.make_node(
        'Resize', [source, '', '', size.name], [target], mode='linear', axes=[2, 3],
        coordinate_transformation_mode=upsampling)], [size]
