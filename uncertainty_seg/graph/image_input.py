# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Let a graph take the bytes of an image: cast, reorder and normalise inside.

The camera image then crosses to the runtime as it is, a quarter of the floats' size.

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.onnx_tools import copy_of, replace_nodes

IMAGE = 'image'


def take_bytes(model: onnx.ModelProto, spec: InputSpec) -> onnx.ModelProto:
    """
    Put an input of uint8 (1, h, w, 3) in front of a network of float (1, 3, h, w).

    Parameters
    ----------
    model : ModelProto
        With one input of normalised values; left as it is.
    spec : InputSpec
        Size, mean and standard deviation.

    Returns
    -------
    ModelProto
        With the input `image`. The cast comes first, since TensorRT takes bytes at the border
        of a graph only.

    Raises
    ------
    GraphError
        If the network has another number of inputs or another input shape.

    """
    graph = copy_of(model).graph
    weights = {t.name for t in graph.initializer}
    inputs = [info for info in graph.input if info.name not in weights]
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
    del result.graph.input[:]
    result.graph.input.append(image)
    result.graph.initializer.extend(constants)
    replace_nodes(result.graph, [*front, *result.graph.node])
    return result
