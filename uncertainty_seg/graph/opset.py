# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Any ONNX network of opset 11 to 23 in the one opset that the passes and all runtimes read.

Upwards onnx's own converter does it; downwards it has few rules, so ours are in
`opset_rules`, and an operator that is newer than the target becomes the body onnx gives it.

"""

from __future__ import annotations

import logging

import onnx
from onnx import defs, inliner, version_converter

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.constant_folding import fold_constants
from uncertainty_seg.graph.folding_state import FoldingState
from uncertainty_seg.graph.onnx_tools import (
    copy_of,
    IR_VERSION,
    MARKER_DOMAIN,
    OPSET,
    replace_nodes,
)
from uncertainty_seg.graph.opset_functions import expand_functions
from uncertainty_seg.graph.opset_rules import lowered, schema_of
from uncertainty_seg.graph.tensor_types import (
    hidden,
    is_marker,
    is_read_by_inference,
    weight_info,
)

_log = logging.getLogger(__name__)
OLDEST, NEWEST = 11, 23
_STANDARD = ('', 'ai.onnx')


def to_opset17(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Rewrite a network in opset 17, IR version 8.

    Parameters
    ----------
    model : ModelProto
        Of opset 11 to 23, with or without markers of dropout; left as it is. The sizes of its
        input should be fixed (`fix_input`), since some rules need the shapes.

    Returns
    -------
    ModelProto
        Computes the same. Functions of the model are inlined, markers are as they were.

    Raises
    ------
    GraphError
        If the opset is another, or an operator has no form in opset 17; the node is named.

    """
    version = opset_of(model)
    plain = _tidied(_inlined(model))
    _require_known(plain)
    if version < OPSET:
        plain = _raised(plain)
    elif version > OPSET:
        plain = _lowered(fold_constants(expand_functions(plain)))
    del plain.opset_import[:]
    plain.opset_import.append(onnx.helper.make_opsetid('', OPSET))
    if any(is_marker(node) for node in plain.graph.node):
        plain.opset_import.append(onnx.helper.make_opsetid(MARKER_DOMAIN, 1))
    plain.ir_version = IR_VERSION
    return plain


def opset_of(model: onnx.ModelProto) -> int:
    """
    Return the opset of a model's standard operators.

    Raises
    ------
    GraphError
        If it has none, or one that is not supported here.

    """
    versions = [e.version for e in model.opset_import if e.domain in _STANDARD]
    newest = min(NEWEST, defs.onnx_opset_version())
    if not versions:
        raise GraphError('the network names no opset', f'opset {OLDEST} to {newest}',
                         'export it again')
    if newest < versions[0] <= NEWEST:
        raise GraphError(f'the network has opset {versions[0]}', f'{OLDEST} to {newest}, which is '
                         'what the installed onnx knows', f'export it again with opset_version='
                         f'{OPSET}, or install a newer onnx')
    if not OLDEST <= versions[0] <= newest:
        raise GraphError(f'the network has opset {versions[0]}', f'{OLDEST} to {newest}',
                         f'export it again with opset_version={OPSET}')
    return versions[0]


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return copy_of(model)
    _log.info('inlining %d functions of the model', len(model.functions))
    return inliner.inline_local_functions(model, convert_version=True)


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take weights out of the inputs, where IR version 3 lists them, and notes out of nodes."""
    graph = model.graph
    del graph.value_info[:]
    for node in graph.node:
        node.domain = '' if node.domain == 'ai.onnx' else node.domain
        node.ClearField('doc_string')
        # torch writes the exporting machine's stack of calls here; shipped files hold no paths.
        if 'metadata_props' in node.DESCRIPTOR.fields_by_name:
            node.ClearField('metadata_props')
    weights = {tensor.name for tensor in graph.initializer}
    kept = [info for info in graph.input if info.name not in weights]
    del graph.input[:]
    graph.input.extend(kept)
    return model


def _require_known(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.domain not in ('', MARKER_DOMAIN):
            raise GraphError(
                f'node {node.name!r} is {node.domain}::{node.op_type}, which is not ONNX',
                'standard operators', 'export the network without optimisation for one runtime')
        if not node.domain and schema_of(node.op_type, defs.onnx_opset_version()) is None:
            fix = ('export it in inference mode, and put dropout in with --inject-dropout'
                   if 'Random' in node.op_type else 'export the network again')
            raise GraphError(f'node {node.name!r} is {node.op_type}, which no opset has',
                             'standard operators', fix)


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let onnx convert the graph without its markers and large weights, and put them back."""
    light = copy_of(model)
    graph = light.graph
    markers = {node.output[0]: node for node in model.graph.node if is_marker(node)}
    replace_nodes(graph, [hidden(n) if is_marker(n) else n for n in graph.node])
    large = [t for t in model.graph.initializer if not is_read_by_inference(t)]
    small = [t for t in model.graph.initializer if is_read_by_inference(t)]
    del graph.initializer[:]
    graph.initializer.extend(small)
    graph.input.extend(weight_info(t) for t in large)
    light.ir_version = IR_VERSION
    try:
        raised = version_converter.convert_version(light, OPSET)
    except Exception as err:  # the converter raises whatever its C++ code throws
        raise GraphError(f'onnx cannot convert the network to opset {OPSET} ({err})',
                         fix=f'export it again with opset_version={OPSET}') from err
    nodes = [markers.get(n.output[0], n) if n.op_type == 'Identity' else n
             for n in raised.graph.node]
    replace_nodes(raised.graph, nodes)
    names = {t.name for t in large}
    inputs = [info for info in raised.graph.input if info.name not in names]
    del raised.graph.input[:]
    raised.graph.input.extend(inputs)
    raised.graph.initializer.extend(large)
    return raised


def _lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    state = FoldingState.of(model)
    state.start(list(model.graph.node))
    nodes = [new for node in model.graph.node for new in lowered(node, state)]
    replace_nodes(model.graph, nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(state.tensors.values())
    return model
