# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compute what needs no image, and take out what computes nothing.

Exporters write shape arithmetic into the graph; at one size and batch 1 all of it is constant.
Dropout and what depends on its values is never folded, nor is what grows the file much.

"""

from __future__ import annotations

from collections.abc import Sequence
import logging

import onnx
from onnx import helper, TensorProto

from uncertainty_seg.graph.constant_evaluation import evaluated
from uncertainty_seg.graph.folding_rules import rewritten
from uncertainty_seg.graph.folding_state import FoldingState
from uncertainty_seg.graph.onnx_tools import copy_of, replace_nodes
from uncertainty_seg.graph.tensor_types import types_of, UNKNOWN

_log = logging.getLogger(__name__)
# A round that changes nothing ends it; this only bounds a mistake in a rule.
_ROUNDS = 200


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Fold shape arithmetic and weights, remove what has no effect.

    Parameters
    ----------
    model : ModelProto
        Opset 17 or later, static input; left as it is.

    Returns
    -------
    ModelProto
        Computes the same. Constants are initializers; unused nodes and weights are gone.

    """
    result = copy_of(model)
    graph = result.graph
    del graph.value_info[:]
    state = FoldingState.of(result)
    nodes = list(graph.node)
    for _ in range(_ROUNDS):
        before = len(nodes)
        state.start(nodes)
        nodes = _round(nodes, state)
        if not state.is_changed:
            break
        _log.debug('folded %d nodes to %d', before, len(nodes))
    nodes = _rename_outputs(_alive(nodes, state), state)
    replace_nodes(graph, nodes)
    _keep_used(graph, state)
    _state_outputs(result)
    return result


def _round(nodes: Sequence[onnx.NodeProto], state: FoldingState) -> list[onnx.NodeProto]:
    kept: list[onnx.NodeProto] = []
    for node in nodes:
        state.rename_inputs(node)
        if evaluated(node, state):
            continue
        replaced = rewritten(node, state)
        kept.extend([node] if replaced is None else replaced)
    return _alive(kept, state)


def _alive(nodes: Sequence[onnx.NodeProto], state: FoldingState) -> list[onnx.NodeProto]:
    """Leave out what no output needs."""
    needed = set(state.outputs)
    kept = []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= used_by(node)
            kept.append(node)
    return kept[::-1]


def used_by(node: onnx.NodeProto) -> set[str]:
    """Return all tensors a node reads, those of its subgraphs too."""
    names = {name for name in node.input if name}
    for entry in node.attribute:
        for graph in ([entry.g] if entry.type == onnx.AttributeProto.GRAPH else entry.graphs):
            for inner in graph.node:
                names |= used_by(inner)
            names |= {o.name for o in graph.output}
    return names


def _rename_outputs(
    nodes: Sequence[onnx.NodeProto], state: FoldingState
) -> list[onnx.NodeProto]:
    """Let the producer write the output itself where only an Identity stood between."""
    made = {name: node for node in nodes for name in node.output}
    kept = []
    names: dict[str, str] = {}
    for node in nodes:
        source = node.input[0] if node.input else ''
        is_copy = (node.op_type == 'Identity' and node.domain in ('', 'ai.onnx')
                   and node.output[0] in state.outputs and source in made
                   and source not in state.outputs and source not in names)
        if is_copy:
            names[source] = node.output[0]
        else:
            kept.append(node)
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = names.get(name, name)
    return kept


def _state_outputs(model: onnx.ModelProto) -> None:
    """Write the inferred shape of each output that is static."""
    types = types_of(model)
    for info in model.graph.output:
        known = types.get(info.name, UNKNOWN)
        if known.shape is not None:
            info.CopyFrom(helper.make_tensor_value_info(info.name, known.kind, known.shape))


def _keep_used(graph: onnx.GraphProto, state: FoldingState) -> None:
    used = {name for node in graph.node for name in used_by(node)} | set(state.outputs)
    kept: list[TensorProto] = [t for name, t in state.tensors.items() if name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    inputs = [info for info in graph.input if info.name not in state.tensors]
    del graph.input[:]
    graph.input.extend(inputs)
