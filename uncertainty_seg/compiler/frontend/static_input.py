# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Give a network one size: batch 1, three planes, h rows, w columns.

Which tensor is the image is read off the shapes; a network that takes (1, h, w, 3), as Keras
exports, gets a transposition in front, which later passes cancel where they can. In the end the
graph takes the bytes of an image, a quarter of the floats' size: cast, order and normalisation are
inside.

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.compiler.onnx_tools import (
    copy_of,
    float_info,
    fresh_name,
    image_inputs,
    refill,
)
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.errors import GraphError, some_of

IMAGE = 'image'
PLANES = 3
_LAYOUTS = 'float32 (N, 3, H, W) or (N, H, W, 3)'


def fix_input(model: onnx.ModelProto, height: int, width: int) -> onnx.ModelProto:
    """
    Fix the input's shape. A second call changes nothing.

    Parameters
    ----------
    model : ModelProto
        Of any opset, since to change the opset is easier where shapes are known; left as it is.
    height, width : int
        h, w.

    Returns
    -------
    ModelProto
        With one input, float32 (1, 3, h, w).

    Raises
    ------
    GraphError
        If there is not exactly one image, or it has a fixed other size.

    """
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
    """Return the axes: a number, a name, or '?'."""
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


def _require_size(
    image: onnx.ValueInfoProto, is_last: bool, height: int, width: int
) -> None:
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
                f'export it with that size or dynamic axes, or compile with --input '
                f'{columns}x{rows}')


def take_bytes(model: onnx.ModelProto, spec: InputSpec) -> onnx.ModelProto:
    """
    Put an input `image`, uint8 (1, h, w, 3), in front of a network of float (1, 3, h, w).

    The network takes normalised values; `spec` gives size, mean and standard deviation. The cast
    comes first, since TensorRT takes bytes at the border of a graph only.

    Raises
    ------
    GraphError
        If the network has another number of inputs or another input shape.

    """
    inputs = image_inputs(model.graph)
    if len(inputs) != 1:
        raise GraphError(f'the network has the inputs {[i.name for i in inputs]}', 'one image')
    dims = tuple(d.dim_value for d in inputs[0].type.tensor_type.shape.dim)
    if dims != (1, 3, spec.height, spec.width):
        raise GraphError(f'the input has the shape {dims}', f'(1, 3, {spec.height}, {spec.width})')
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
        helper.make_node('Add', ['image_scaled', 'image_shift'], [inputs[0].name]),
    ]
    image = helper.make_tensor_value_info(
        IMAGE, TensorProto.UINT8, [1, spec.height, spec.width, 3]
    )
    result = copy_of(model)
    refill(result.graph.input, [image])
    result.graph.initializer.extend(constants)
    refill(result.graph.node, [*front, *result.graph.node])
    return result
