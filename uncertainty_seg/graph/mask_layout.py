# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The shape of a site's mask, and how it is brought to the layout of the tensor it masks.

A mask comes as (T, *site.shape). Where the tensor has its batch on another axis than the first,
or merged with the heads of an attention, the mask is transposed and reshaped to match.

"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper

from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.passes_rules import PassesAxis

# What AlphaDropout writes where it drops: the limit of SELU at minus infinity (torch's constant).
_SELU_LIMIT = -1.7580993408473766


def mask_shape(
    kind: str, shape: tuple[int, ...], axis: PassesAxis, name: str
) -> tuple[int, ...]:
    """
    Return the shape of the mask of one pass.

    Parameters
    ----------
    kind : str
        As the marker says.
    shape : tuple of int
        Of the tensor, for one pass.
    axis : PassesAxis
        Where it carries the passes.
    name : str
        Of the node, for the error.

    Returns
    -------
    tuple of int
        All axes but that of the passes; with it where it also holds something else.

    Raises
    ------
    GraphError
        If channels are to be dropped from a tensor without its batch in front.

    """
    full = shape if not axis.is_alone else (*shape[:axis.axis], *shape[axis.axis + 1:])
    if kind in ('element', 'alpha'):
        return full
    if kind == 'path':
        return (1,) * len(full)
    if axis != PassesAxis(0):
        raise GraphError(f'dropout {name!r} drops channels of a tensor of shape {shape}',
                         'the batch on axis 0')
    return (shape[1], *(1,) * (len(shape) - 2))


def lay_out(
    site: DropoutSite, shape: tuple[int, ...], axis: PassesAxis
) -> tuple[str, list[onnx.NodeProto], list[onnx.TensorProto]]:
    """
    Bring a mask (T, *site.shape) to where a tensor carries its passes.

    Parameters
    ----------
    site : DropoutSite
        The mask.
    shape : tuple of int
        Of the tensor, for one pass.
    axis : PassesAxis
        Where it carries the passes.

    Returns
    -------
    name : str
        The mask in the tensor's layout.
    nodes, tensors : list
        What makes it; empty where it comes that way.

    """
    if axis == PassesAxis(0):
        return site.name, [], []
    nodes, tensors, name = [], [], site.name
    mask = list(site.shape)
    if not axis.is_alone and mask[axis.axis] != axis.size:
        raise GraphError(f'{site.name} drops branches of a tensor of shape {shape}',
                         'a batch axis of its own')

    def reshape(suffix: str, sizes: list[int]) -> None:
        nonlocal name
        table = np.array(sizes, np.int64)
        tensors.append(numpy_helper.from_array(table, f'{site.name}_{suffix}_shape'))
        nodes.append(helper.make_node('Reshape', [name, f'{site.name}_{suffix}_shape'],
                                      [f'{site.name}_{suffix}']))
        name = f'{site.name}_{suffix}'

    to = axis.axis
    if axis.outer > 1:
        reshape('apart', [-1, *mask[:to], axis.outer, axis.inner, *mask[to + 1:]])
        to += 1
    if to > 0:
        rank = len(mask) + 1 + (axis.outer > 1)
        perm = [*range(1, to + 1), 0, *range(to + 1, rank)]
        nodes.append(helper.make_node('Transpose', [name], [f'{site.name}_moved'], perm=perm))
        name = f'{site.name}_moved'
    if not axis.is_alone:
        reshape('merged', [*mask[:axis.axis], -1, *mask[axis.axis + 1:]])
    return name, nodes, tensors


def alpha_nodes(
    site: DropoutSite, data: str, mask: str, output: str
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.float32]]]:
    """
    Write AlphaDropout as a function of a mask that is 0, 1/(1-p), or 1 to switch it off.

    Kept elements are ``a x + b``, dropped ones ``a s + b`` with SELU's limit s, and with a mask
    of ones nothing happens. Two parabolas in the mask go through these three points:
    ``y = m (c0 + c1 m) x + (m - 1) (d0 + d1 m)``.

    Parameters
    ----------
    site : DropoutSite
        Gives p and the names.
    data, mask, output : str
        Names of the tensors.

    Returns
    -------
    nodes : list of NodeProto
        In order.
    tensors : dict of str to ndarray
        Their constants.

    """
    p, limit = site.p, _SELU_LIMIT
    kept = 1 / (1 - p)
    a = ((limit**2 * p + 1) * (1 - p)) ** -0.5
    b = -a * limit * p
    c1 = (a / kept - 1) / (kept - 1)
    d0 = -(a * limit + b)
    d1 = (b / (kept - 1) - d0) / kept
    own = site.name
    values = {f'{own}_c0': 1 - c1, f'{own}_c1': c1, f'{own}_d0': d0, f'{own}_d1': d1,
              f'{own}_one': 1.0}

    def node(op: str, left: str, right: str, result: str) -> onnx.NodeProto:
        return helper.make_node(op, [left, right], [result])

    nodes = [
        node('Mul', mask, f'{own}_c1', f'{own}_slope'),
        node('Add', f'{own}_slope', f'{own}_c0', f'{own}_factor'),
        node('Mul', mask, f'{own}_factor', f'{own}_scale'),
        node('Mul', mask, f'{own}_d1', f'{own}_rise'),
        node('Add', f'{own}_rise', f'{own}_d0', f'{own}_level'),
        node('Sub', mask, f'{own}_one', f'{own}_switch'),
        node('Mul', f'{own}_level', f'{own}_switch', f'{own}_shift'),
        node('Mul', data, f'{own}_scale', f'{own}_scaled'),
        node('Add', f'{own}_scaled', f'{own}_shift', output),
    ]
    return nodes, {k: np.array(v, np.float32) for k, v in values.items()}
