# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Resize a constant, as a table of positions is resized to the size of the image.

onnx's reference resizes number by number, minutes for such a table. Every mode works axis by
axis, so the reference is asked for the matrix of each axis only, by resizing unit vectors.

"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, TensorProto
from onnx.reference import ReferenceEvaluator

from uncertainty_seg.graph.folding_state import FoldingState
from uncertainty_seg.graph.onnx_tools import attribute

_NOT_BY_AXIS = ('tf_crop_and_resize',)
# Of a matrix; the reference takes some 30 us for each element.
_MOST_ELEMENTS = 1 << 14
_COPIED = ('mode', 'coordinate_transformation_mode', 'cubic_coeff_a', 'exclude_outside',
           'nearest_mode', 'antialias')


def resized_constant(node: onnx.NodeProto, state: FoldingState) -> NDArray[Any] | None:
    """
    Compute a Resize whose inputs are constants.

    Parameters
    ----------
    node : NodeProto
        Resize.
    state : FoldingState
        Knows the constants and the shape of the result.

    Returns
    -------
    ndarray, or None
        The result; None if it is too large or of a kind that does not work axis by axis.

    """
    given = [state.value(name) if name else None for name in node.input]
    shape = state.shape(node.output[0])
    data = given[0]
    is_plain = (data is not None and shape is not None and not attribute(node, 'axes', [])
                and attribute(node, 'keep_aspect_ratio_policy', 'stretch') == 'stretch'
                and attribute(node, 'coordinate_transformation_mode') not in _NOT_BY_AXIS)
    if not is_plain or data is None or shape is None:
        return None
    scales = given[2] if len(given) > 2 else None
    # Aligned corners go by the size; the reference goes by the scale, before it is rounded.
    has_scales = (scales is not None and scales.size > 0
                  and attribute(node, 'coordinate_transformation_mode') != 'align_corners')
    result = np.asarray(data, np.float64)
    for axis, (old, new) in enumerate(zip(data.shape, shape, strict=True)):
        wanted = float(scales[axis]) if has_scales and scales is not None else new
        if old == new and wanted in (1.0, new):
            continue
        if old * new > _MOST_ELEMENTS:
            return None
        matrix = _matrix(node, old, wanted, state)
        result = np.moveaxis(np.tensordot(matrix, result, (1, axis)), 0, axis)
    return result.astype(data.dtype)


def _matrix(
    node: onnx.NodeProto, old: int, wanted: float, state: FoldingState
) -> NDArray[np.float64]:
    """Return (new, old): how each number of one axis is made of the old ones."""
    is_size = isinstance(wanted, int)
    inputs = ['x', '', '', 'n'] if is_size else ['x', '', 'n']
    single = helper.make_node('Resize', inputs, ['y'])
    single.attribute.extend(a for a in node.attribute if a.name in _COPIED)
    infos = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
             for name in ('x', 'n', 'y')]
    graph = helper.make_graph([single], 'one', infos[:2], infos[2:])
    number = np.array([wanted, old], np.int64) if is_size else np.array([wanted, 1], np.float32)
    run = ReferenceEvaluator(graph, opsets={'': state.version}).run
    return run(None, {'x': np.eye(old), 'n': number})[0]
