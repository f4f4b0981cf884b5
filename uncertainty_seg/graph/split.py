# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Cut a masked graph in two: what is the same in every pass, and what is not.

The trunk is everything that no mask reaches; it runs once at batch 1. The head is the rest.

"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.dropout_to_masks import PASSES_AXIS
from uncertainty_seg.graph.onnx_tools import build_model, copy_of, float_info, shapes

LOGITS = 'logits'


def split_trunk_head(
    model: onnx.ModelProto, sites: Iterable[DropoutSite]
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """
    Split at the first dropout of every path.

    Parameters
    ----------
    model : ModelProto
        From `dropout_to_masks`, with one output of logits (1 or T, C, hl, wl).
    sites : iterable of DropoutSite
        Its mask inputs.

    Returns
    -------
    trunk : ModelProto
        Image to the tensors where the cut runs.
    head : ModelProto
        Those tensors and the masks to `logits`, float32 (T, C, hl, wl).

    Raises
    ------
    GraphError
        If the output does not depend on any mask, or a tensor at the cut has no static shape.

    """
    sites = tuple(sites)
    masks = {site.name for site in sites}
    graph = _named_output(model).graph
    touched = set(masks)
    head_nodes: list[onnx.NodeProto] = []
    trunk_nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        is_head = any(name in touched for name in node.input)
        (head_nodes if is_head else trunk_nodes).append(node)
        if is_head:
            touched.update(node.output)
    if LOGITS not in touched:
        raise GraphError('no dropout reaches the output', 'passes that differ',
                         'name the output that the dropout belongs to')
    made = {name for node in trunk_nodes if node.op_type != 'Constant' for name in node.output}
    cut = [name for name in dict.fromkeys(n for h in head_nodes for n in h.input) if name in made]
    copied = [n for n in trunk_nodes if n.op_type == 'Constant']
    images = [info for info in graph.input if info.name not in masks]
    known = shapes(_one_pass(model, sites))
    missing = [name for name in cut if name not in known]
    if missing:
        raise GraphError(f'tensor {missing[0]!r} has no static shape', 'a fixed input size')
    frontier = [float_info(name, known[name]) for name in cut]
    needed = _ancestors(trunk_nodes, set(cut))
    trunk = build_model('trunk', needed, images, frontier, graph.initializer)
    mask_infos = [float_info(s.name, (PASSES_AXIS, *s.shape)) for s in sites]
    used = {n for h in head_nodes for n in h.input}
    direct = [info for info in images if info.name in used]
    logits = float_info(LOGITS, (PASSES_AXIS, *known[model.graph.output[0].name][1:]))
    head = build_model(
        'head', [*(c for c in copied if set(c.output) & used), *head_nodes],
        [*direct, *frontier, *mask_infos], [logits], graph.initializer,
    )
    return trunk, head


def _named_output(model: onnx.ModelProto) -> onnx.ModelProto:
    if len(model.graph.output) != 1:
        names = [o.name for o in model.graph.output]
        raise GraphError(f'the network has the outputs {names}', 'one', 'name the one of logits')
    old = model.graph.output[0].name
    result = copy_of(model)
    for node in result.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = LOGITS
    return result


def _one_pass(model: onnx.ModelProto, sites: Iterable[DropoutSite]) -> onnx.ModelProto:
    """Return the graph with T = 1, whose shapes are all static."""
    fixed = copy_of(model)
    names = {site.name for site in sites}
    for info in fixed.graph.input:
        if info.name in names:
            info.type.tensor_type.shape.dim[0].Clear()
            info.type.tensor_type.shape.dim[0].dim_value = 1
    del fixed.graph.value_info[:]
    return fixed


def _ancestors(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]
