# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Take the last upsampling off a network, and put one on.

The reduction upsamples each pass's logits itself, row by row; leaving that to the graph would
write T x C x h x w numbers to memory first.

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.graph.onnx_tools import attribute, copy_of, replace_nodes

_SAME_AS_OURS = ('half_pixel', 'pytorch_half_pixel')


def strip_final_resize(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Remove a bilinear half-pixel Resize that makes the only output.

    Parameters
    ----------
    model : ModelProto
        Left as it is.

    Returns
    -------
    ModelProto
        With the Resize's input as output; unchanged when the last node is another.

    """
    result = copy_of(model)
    graph = result.graph
    last = next((n for n in graph.node if graph.output[0].name in n.output), None)
    if (
        len(graph.output) != 1 or last is None or last.op_type != 'Resize'
        or attribute(last, 'mode', 'nearest') != 'linear'
        or attribute(last, 'coordinate_transformation_mode', 'half_pixel') not in _SAME_AS_OURS
    ):
        return result
    replace_nodes(graph, [n for n in graph.node if n is not last])
    info = helper.make_tensor_value_info(last.input[0], TensorProto.FLOAT, None)
    del graph.output[:]
    graph.output.append(info)
    return result


def upsample_nodes(
    source: str, target: str, height: int, width: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """
    Make the Resize that the reduction stands for.

    Parameters
    ----------
    source, target : str
        Tensor (N, C, hl, wl) and the name of the result (N, C, h, w).
    height, width : int
        h, w.

    Returns
    -------
    nodes, initializers : list
        To add to a graph that has `source`.

    """
    front, shape, cut = f'{target}_shape', f'{target}_nc', f'{target}_range'
    size = numpy_helper.from_array(np.array([height, width], np.int64), f'{target}_hw')
    bounds = [numpy_helper.from_array(np.array([v], np.int64), f'{cut}_{v}') for v in (0, 2)]
    nodes = [
        helper.make_node('Shape', [source], [front]),
        helper.make_node('Slice', [front, bounds[0].name, bounds[1].name], [shape]),
        helper.make_node('Concat', [shape, size.name], [f'{target}_size'], axis=0),
        helper.make_node('Resize', [source, '', '', f'{target}_size'], [target], mode='linear',
                         coordinate_transformation_mode='half_pixel'),
    ]
    return nodes, [size, *bounds]
