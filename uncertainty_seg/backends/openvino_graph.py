# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What OpenVINO is given in place of a graph as it ships: the same function in a form it is fast at.

A 3x3 convolution behind a nearest upsampling by two adds up weights that meet the same pixel, so
one transposed convolution of the small image, 4x4 weights and stride 2, gives the same with 4/9 of
the products. And features cross from trunk to head with their channels last, as its convolutions
want them; else the head of each pass puts them in that order anew. It is done here and not by the
compiler because ONNX Runtime loses by either.

"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# With fewer channels the vectors of the processor are mostly empty either way.
_FEWEST_CHANNELS = 8
# Ways to say that the output pixels 2i and 2i+1 are the input pixel i.
_REPEATS = {
    ('asymmetric', 'floor'), ('half_pixel', 'round_prefer_floor'),
    ('half_pixel', 'round_prefer_ceil'), ('pytorch_half_pixel', 'round_prefer_floor'),
    ('pytorch_half_pixel', 'round_prefer_ceil'),
}


def transpose_upsampled(openvino: Any, model: Any) -> int:
    """
    Rewrite every 3x3 convolution behind a nearest upsampling by two.

    Parameters
    ----------
    openvino : module
        The package.
    model : openvino.Model
        Changed in place; computes the same to rounding.

    Returns
    -------
    int
        Convolutions rewritten.

    """
    _fold_constants(openvino, model)
    count = 0
    for conv in model.get_ordered_ops():
        if conv.get_type_name() != 'Convolution' or not _is_same_3x3(conv):
            continue
        upsampling, weights = (conv.input_value(i).get_node() for i in (0, 1))
        if not _is_doubling(upsampling) or weights.get_type_name() != 'Constant':
            continue
        # Asked for by name: numpy has no bf16, and bytes of it would come as float16.
        kernel = _kernel(weights.get_data(dtype=np.float32))
        transposed = openvino.opset13.convolution_backprop_data(
            upsampling.input_value(0),
            openvino.opset13.constant(kernel, dtype=weights.get_element_type()), [2, 2],
            pads_begin=[1, 1], pads_end=[1, 1])
        transposed.set_friendly_name(conv.get_friendly_name())
        openvino.utils.replace_node(conv, transposed)
        count += 1
    return count


def planes_between(trunk: Any, head: Any) -> frozenset[str]:
    """
    List the tensors from trunk to head that are planes of a convolution.

    Parameters
    ----------
    trunk, head : openvino.Model
        Of one bundle.

    Returns
    -------
    frozenset of str
        Their names; empty where the head has no convolution.

    """
    if not any('Convolution' in node.get_type_name() for node in head.get_ops()):
        return frozenset()
    return frozenset(
        name for output in trunk.outputs for name in output.get_names()
        if output.get_partial_shape().rank.get_length() == 4
        and any(name in given.get_names() for given in head.inputs))


def channels_last(openvino: Any, model: Any, names: Iterable[str]) -> Any:
    """
    Let a model take or give some planes as (1, h, w, C).

    Parameters
    ----------
    openvino : module
        The package.
    model : openvino.Model
        Left as it is.
    names : iterable of str
        Inputs or outputs of it, of shape (1, C, h, w).

    Returns
    -------
    openvino.Model
        With the same names.

    """
    steps = openvino.preprocess.PrePostProcessor(model)
    inputs = {name for port in model.inputs for name in port.get_names()}
    for name in names:
        port = steps.input(name) if name in inputs else steps.output(name)
        port.model().set_layout(openvino.Layout('NCHW'))
        port.tensor().set_layout(openvino.Layout('NHWC'))
    return steps.build()


def _fold_constants(openvino: Any, model: Any) -> None:
    """Compute weights that are gathered or cast from constants."""
    manager = openvino.passes.Manager()
    manager.register_pass(openvino.passes.ConstantFolding())
    manager.run_passes(model)


def _is_same_3x3(conv: Any) -> bool:
    about, weights = conv.get_attributes(), conv.input_value(1).get_partial_shape()
    if not weights.is_static:
        return False
    outputs, inputs, *kernel = weights.to_shape()
    return (
        list(kernel) == [3, 3] and min(outputs, inputs) >= _FEWEST_CHANNELS
        and list(about['strides']) == [1, 1] and list(about['dilations']) == [1, 1]
        and list(about['pads_begin']) == list(about['pads_end']) == [1, 1]
        and about.get('auto_pad', 'explicit') == 'explicit'
    )


def _is_doubling(node: Any) -> bool:
    if node.get_type_name() != 'Interpolate':
        return False
    about = node.get_attributes()
    if about.get('mode') != 'nearest':
        return False
    ways = about.get('coordinate_transformation_mode'), about.get('nearest_mode')
    small, large = (s.get_partial_shape() for s in (node.input_value(0), node.output(0)))
    if ways not in _REPEATS or not small[2:].is_static or not large[2:].is_static:
        return False
    padding = [*about.get('pads_begin', []), *about.get('pads_end', [])]
    return not any(padding) and len(small) == 4 and all(
        2 * small[axis].get_length() == large[axis].get_length() for axis in (2, 3))


def _kernel(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add up the weights (O, I, 3, 3) that meet the same pixel: (I, O, 4, 4)."""
    outputs, inputs = weights.shape[:2]
    flipped = weights[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    result = np.zeros((inputs, outputs, 4, 4), np.float32)
    for row in (0, 1):
        for column in (0, 1):
            result[:, :, row:row + 3, column:column + 3] += flipped
    return result
