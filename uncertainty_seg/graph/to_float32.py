# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Take a graph that computes in 16 bits back to float32, with the weights it has.

What was rounded stays rounded. It is the reference that a backend of 16 bits is held against, and
lets ONNX Runtime, whose CPU has no bfloat16, run a graph of it. Quantised parts stay as they are.

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.graph.onnx_tools import copy_of

_LOW = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


def to_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Compute in float32 whatever a graph computes in float16 or bfloat16.

    Parameters
    ----------
    model : ModelProto
        Left as it is. Its inputs and outputs are not of 16 bits.

    Returns
    -------
    ModelProto
        Each weight widened, each Cast to 16 bits one to float32.

    """
    result = copy_of(model)
    del result.graph.value_info[:]
    for tensor in result.graph.initializer:
        if tensor.data_type in _LOW:
            tensor.CopyFrom(_wide(tensor))
    for node in result.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type in _LOW:
                attribute.t.CopyFrom(_wide(attribute.t))
            elif node.op_type == 'Cast' and attribute.name == 'to' and attribute.i in _LOW:
                attribute.i = TensorProto.FLOAT
    return result


def _wide(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = np.asarray(numpy_helper.to_array(tensor))
    return helper.make_tensor(tensor.name, TensorProto.FLOAT, values.shape,
                              values.astype(np.float32).tobytes(), raw=True)
