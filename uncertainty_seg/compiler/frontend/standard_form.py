# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Convert a network to the standard form: one opset, batch 1, three planes, h rows, w columns.

onnx's converter raises older opsets. A newer opset is accepted if each of its operators has the
same form in `OPSET`, the newest that TensorRT 10.3 reads. The layout of the image is inferred from
the input's shape; a network that takes (1, h, w, 3), as Keras exports, gets a Transpose in front.
Finally the graph takes the bytes of an image and does cast, layout and normalisation itself.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, inliner, numpy_helper, TensorProto, version_converter

from uncertainty_seg.compiler.onnx_tools import (
    copy_of,
    first_line,
    float_info,
    fresh_name,
    hidden,
    image_inputs,
    IR_VERSION,
    is_marker,
    is_read_by_inference,
    MARKER_DOMAIN,
    OPSET,
    refill,
    weight_info,
)
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.errors import GraphError, some_of

_log = logging.getLogger(__name__)
OLDEST = 11
_STANDARD = ('', 'ai.onnx')
# Operators whose meaning changed: the scale is per group in one opset, per channel in another.
_CHANGED = ('GroupNormalization',)
_AGAIN = f'export it again with opset_version={OPSET}'


def to_shipped_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Convert a network, with or without dropout markers, to the opset of bundles.

    Functions of the model are inlined, markers are kept. Raises GraphError if the opset is older
    than 11, or an operator has no form in `OPSET`; the error names the node.
    """
    version = opset_of(model)
    plain = _tidied(_inlined(model))
    _require_known(plain)
    if version < OPSET:
        plain = _raised(plain)
    elif version > OPSET:
        _require_same_form(plain, version)
    domains = [('', OPSET), *[(MARKER_DOMAIN, 1)] * any(is_marker(n) for n in plain.graph.node)]
    refill(plain.opset_import, [helper.make_opsetid(*domain) for domain in domains])
    plain.ir_version = IR_VERSION
    return plain


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of a model's standard operators; GraphError if it is not supported."""
    versions = [e.version for e in model.opset_import if e.domain in _STANDARD]
    newest = defs.onnx_opset_version()
    if not versions:
        raise GraphError('the network names no opset', f'opset {OLDEST} to {newest}',
                         'export it again')
    if not OLDEST <= versions[0] <= newest:
        raise GraphError(f'the network has opset {versions[0]}', f'{OLDEST} to {newest}', _AGAIN)
    return versions[0]


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return copy_of(model)
    _log.info('inlining %d functions of the model', len(model.functions))
    return inliner.inline_local_functions(model, convert_version=True)


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove weights from the inputs, where IR version 3 lists them, and notes from nodes."""
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.domain = '' if node.domain == 'ai.onnx' else node.domain
        node.ClearField('doc_string')
        # torch stores call stacks with paths of the exporting machine here; bundles hold no paths.
        if 'metadata_props' in node.DESCRIPTOR.fields_by_name:
            node.ClearField('metadata_props')
    refill(model.graph.input, image_inputs(model.graph))
    return model


def _require_known(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.domain not in ('', MARKER_DOMAIN):
            raise GraphError(
                f'node {node.name!r} is {node.domain}::{node.op_type}, which is not ONNX',
                'standard operators', 'export the network without optimisation for one runtime')
        if not node.domain and schema_of(node.op_type, defs.onnx_opset_version()) is None:
            fix = ('export it in inference mode, and let dropout be injected'
                   if 'Random' in node.op_type else 'export the network again')
            raise GraphError(f'node {node.name!r} is {node.op_type}, which no opset has',
                             'standard operators', fix)


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert the graph with onnx, without its markers and large weights, then restore these."""
    light = copy_of(model)
    kept = {n.output[0]: n for n in model.graph.node if is_marker(n) or _is_early(n, model)}
    refill(light.graph.node, [hidden(n) if n.output[0] in kept else n for n in light.graph.node])
    large = [t for t in model.graph.initializer if not is_read_by_inference(t)]
    refill(light.graph.initializer, filter(is_read_by_inference, model.graph.initializer))
    light.graph.input.extend(weight_info(t) for t in large)
    light.ir_version = IR_VERSION
    try:
        raised = version_converter.convert_version(light, OPSET)
    except Exception as err:  # the converter raises whatever its C++ code throws
        raise GraphError(f'onnx cannot convert the network to opset {OPSET} ({first_line(err)})',
                         fix=f'{_AGAIN}, or replace the operator that it names') from err
    refill(raised.graph.node, [kept.get(n.output[0], n) if n.op_type == 'Identity' else n
                               for n in raised.graph.node])
    raised.graph.initializer.extend(large)
    refill(raised.graph.input, image_inputs(raised.graph))
    return raised


def _is_early(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Return whether a node is of `OPSET`: torch writes DeformConv to files of opset 18."""
    return schema_of(node.op_type, opset_of(model)) is None \
        and schema_of(node.op_type, OPSET) is not None


def _require_same_form(model: onnx.ModelProto, version: int) -> None:
    """Raise for a node with another form in `OPSET`; drop new attributes at their defaults."""
    for node in model.graph.node:
        if is_marker(node):
            continue
        old, new = schema_of(node.op_type, OPSET), schema_of(node.op_type, version)
        added = [entry for entry in node.attribute
                 if old is not None and entry.name not in old.attributes]
        is_default = all(new is not None and entry.name in new.attributes and _value(entry)
                         == _value(new.attributes[entry.name].default_value) for entry in added)
        if old is None or node.op_type in _CHANGED or not is_default \
                or len(node.input) > old.max_input:
            raise GraphError(f'{node.op_type} {node.name!r} is of opset {version}',
                             f'an operator of opset {OPSET} in that form', _AGAIN)
        refill(node.attribute, [entry for entry in node.attribute if entry not in added])


def _value(entry: onnx.AttributeProto) -> object:
    return helper.get_attribute_value(entry) if entry.type else None


def schema_of(operator: str, opset: int) -> Any:
    """Return the schema of an operator in an opset; None if there is none."""
    try:
        return defs.get_schema(operator, opset)
    except defs.SchemaError:
        return None


# -------------------------------------------------------------------------------------------------
# One image of one size.

IMAGE = 'image'
PLANES = 3
_LAYOUTS = 'float32 (N, 3, H, W) or (N, H, W, 3)'


def fix_input(model: onnx.ModelProto, height: int, width: int) -> onnx.ModelProto:
    """Fix the input's shape; GraphError if it is not one image, or has another fixed size."""
    result = copy_of(model)
    graph = result.graph
    image = _the_image(graph)
    is_last = _are_planes_last(image)
    _require_size(image, is_last, height, width)
    del graph.value_info[:]
    for info in graph.output:
        if info.type.HasField('tensor_type'):
            info.type.tensor_type.ClearField('shape')
    kept = [info for info in graph.input if info.name != image.name]
    name = image.name
    if is_last:
        name = fresh_name(graph, f'{image.name}_planes')
        turn = helper.make_node('Transpose', [name], [image.name], perm=[0, 2, 3, 1])
        refill(graph.node, [turn, *graph.node])
    refill(graph.input, [float_info(name, (1, PLANES, height, width))])
    graph.input.extend(kept)
    return result


def _the_image(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    inputs = image_inputs(graph)
    if len(inputs) != 1:
        names = some_of(f'{i.name} {_dims(i)}' for i in inputs) or 'none'
        raise GraphError(
            f'the network has {len(inputs)} inputs without a default value ({names})', 'one image',
            'export it with the other inputs as constants')
    image, = inputs
    kind = image.type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        raise GraphError(
            f'the input {image.name!r} is {TensorProto.DataType.Name(kind)}',
            f'{_LAYOUTS} of normalised values',
            'export the network in float32, without its own reading of bytes')
    return image


def _dims(info: onnx.ValueInfoProto) -> list[int | str]:
    """Return each axis as a size, a symbolic name, or '?'."""
    return [d.dim_value if d.HasField('dim_value') and d.dim_value > 0 else d.dim_param or '?'
            for d in info.type.tensor_type.shape.dim]


def _shown(info: onnx.ValueInfoProto) -> str:
    return f'({", ".join(str(d) for d in _dims(info))})'


def _are_planes_last(image: onnx.ValueInfoProto) -> bool:
    if not image.type.tensor_type.HasField('shape'):
        return False
    dims = _dims(image)
    if len(dims) != 4:
        raise GraphError(f'the input {image.name!r} has the shape {_shown(image)}', _LAYOUTS)
    if dims[1] == PLANES or dims[3] != PLANES and not isinstance(dims[1], int):
        return False
    if dims[3] == PLANES:
        return True
    raise GraphError(f'the input {image.name!r} has the shape {_shown(image)}',
                     f'{_LAYOUTS}: an image of three colours')


def _require_size(image: onnx.ValueInfoProto, is_last: bool, height: int, width: int) -> None:
    if not image.type.tensor_type.HasField('shape'):
        return
    dims = _dims(image)
    batch, rows, columns = (dims[0], *(dims[1:3] if is_last else dims[2:]))
    if isinstance(batch, int) and batch != 1:
        raise GraphError(f'the input {image.name!r} has the fixed batch {batch}', '1',
                         'export it with batch 1 or a dynamic one')
    for found, wanted in ((rows, height), (columns, width)):
        if isinstance(found, int) and found != wanted:
            raise GraphError(
                f'the network has the fixed input size {columns}x{rows}', f'{width}x{height}',
                f'export it with that size or dynamic axes, or compile for '
                f'{columns}x{rows}')


def take_bytes(model: onnx.ModelProto, spec: InputSpec) -> onnx.ModelProto:
    """
    Give a network of normalised floats (1, 3, h, w) an input `image`, uint8 (1, h, w, 3).

    `spec` gives size, mean and standard deviation. The cast comes first, since TensorRT accepts
    bytes only as a graph's input.
    """
    std = np.asarray(spec.std, np.float64).reshape(1, 3, 1, 1)
    mean = np.asarray(spec.mean, np.float64).reshape(1, 3, 1, 1)
    constants = [
        numpy_helper.from_array((1 / (255 * std)).astype(np.float32), 'image_scale'),
        numpy_helper.from_array((-mean / std).astype(np.float32), 'image_shift'),
    ]
    front = [
        helper.make_node('Cast', [IMAGE], ['image_float'], to=TensorProto.FLOAT),
        helper.make_node('Transpose', ['image_float'], ['image_planes'], perm=[0, 3, 1, 2]),
        helper.make_node('Mul', ['image_planes', 'image_scale'], ['image_scaled']),
        helper.make_node('Add', ['image_scaled', 'image_shift'], [model.graph.input[0].name]),
    ]
    image = helper.make_tensor_value_info(
        IMAGE, TensorProto.UINT8, [1, spec.height, spec.width, 3]
    )
    result = copy_of(model)
    refill(result.graph.input, [image])
    result.graph.initializer.extend(constants)
    refill(result.graph.node, [*front, *result.graph.node])
    return result
