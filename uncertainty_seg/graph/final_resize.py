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

_OURS = {'half_pixel': 'half_pixel', 'pytorch_half_pixel': 'half_pixel',
         'align_corners': 'align_corners'}


def strip_final_resize(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """
    Remove a bilinear Resize that makes the only output.

    Parameters
    ----------
    model : ModelProto
        Left as it is.

    Returns
    -------
    model : ModelProto
        With the Resize's input as output; unchanged when the last node is another.
    upsampling : str
        One of `core.model_card.UPSAMPLINGS`: what was removed, 'half_pixel' if nothing was.

    """
    result = copy_of(model)
    graph = result.graph
    last = next((n for n in graph.node if graph.output[0].name in n.output), None)
    upsampling = None
    if len(graph.output) == 1 and last is not None and last.op_type == 'Resize':
        upsampling = _upsampling_of(last)
    if upsampling is None or last is None:
        return result, 'half_pixel'
    replace_nodes(graph, [n for n in graph.node if n is not last])
    info = helper.make_tensor_value_info(last.input[0], TensorProto.FLOAT, None)
    del graph.output[:]
    graph.output.append(info)
    return result, upsampling


def _upsampling_of(resize: onnx.NodeProto) -> str | None:
    if attribute(resize, 'mode', 'nearest') != 'linear':
        return None
    return _OURS.get(attribute(resize, 'coordinate_transformation_mode', 'half_pixel'))


def upsample_nodes(
    source: str, target: str, height: int, width: int, upsampling: str = 'half_pixel'
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """
    Make the Resize that the reduction stands for.

    Parameters
    ----------
    source, target : str
        Tensor (N, C, hl, wl) and the name of the result (N, C, h, w).
    height, width : int
        h, w.
    upsampling : str
        One of `core.model_card.UPSAMPLINGS`.

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
                         coordinate_transformation_mode=upsampling),
    ]
    return nodes, [size, *bounds]
