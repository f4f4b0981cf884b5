# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One more output of the trunk: features of the image, for distances from the training set.

They are a tensor that the trunk computes anyway, so that they cost no more than to be copied out.
More channels than the card allows are mixed by fixed random weights, which keeps distances
(Johnson and Lindenstrauss).

"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.compiler.onnx_tools import (
    build_model,
    consumers,
    float_info,
    needed_nodes,
    Shape,
    Shapes,
    types_of,
)
from uncertainty_seg.compiler.plan import Decision
from uncertainty_seg.core.model_card import FEATURE_MAP, MOST_FEATURES
from uncertainty_seg.errors import GraphError

STEP = 'features'
AUTO, NONE = 'auto', 'none'
_STRIDE = 16
# How the tensors of the first of several networks begin; those that all share are among them.
_FIRST_MEMBER = 'member0_'
_SHOWN = 8


def add_feature_map(
    trunk: onnx.ModelProto, wish: str
) -> tuple[onnx.ModelProto, tuple[int, int, int] | None, tuple[Decision, ...]]:
    """
    Give a trunk the output `feature_map`, float32 (1, D, hf, wf) with D at most `MOST_FEATURES`.

    Parameters
    ----------
    trunk : ModelProto
        Image (1, h, w, 3) to features; left as it is.
    wish : str
        'none', a tensor's name, or 'auto' for the end of the encoder's stage of stride 16: the
        last tensor of that stride, before anything of stride 32, that two nodes read.

    Returns
    -------
    trunk : ModelProto
        With the output; as it was for 'none', and for 'auto' where no tensor has stride 16.
    shape : tuple of int, or None
        (D, hf, wf).
    decisions : tuple of Decision
        Which tensor, and why.

    Raises
    ------
    GraphError
        If there is no such tensor, or it is no plane of features.

    """
    if wish == NONE:
        return trunk, None, ()
    made = {name for node in trunk.graph.node for name in node.output}
    known = {name: kind.shape for name, kind in types_of(trunk).items() if name in made
             and kind.kind == TensorProto.FLOAT and kind.shape is not None and kind.rank == 4}
    name = _deepest(trunk, known) if wish == AUTO else _named(known, wish)
    if not name:
        reason = f'no tensor before the first dropout has stride {_STRIDE}: no features'
        return trunk, None, (Decision(STEP, AUTO, False, reason),)
    channels, rows, columns = known[name][1:]
    weights, reason = [], f'{channels} channels of {columns}x{rows} places'
    node = helper.make_node('Identity', [name], [FEATURE_MAP])
    if channels > MOST_FEATURES:
        weights = [numpy_helper.from_array(mixing(channels), f'{FEATURE_MAP}_mix')]
        node = helper.make_node('Conv', [name, weights[0].name], [FEATURE_MAP])
        reason += f', mixed to {MOST_FEATURES}'
    shape = min(channels, MOST_FEATURES), rows, columns
    graph = trunk.graph
    described = build_model(
        graph.name, [*graph.node, node], graph.input,
        [*graph.output, float_info(FEATURE_MAP, (1, *shape))], [*graph.initializer, *weights])
    return described, shape, (Decision(STEP, name, True, reason),)


def mixing(channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the weights, float32 (MOST_FEATURES, channels, 1, 1), that mix channels to fewer."""
    drawn = np.random.default_rng(0).standard_normal((MOST_FEATURES, channels, 1, 1))
    return np.asarray(drawn / np.sqrt(MOST_FEATURES), np.float32)


def _named(known: Shapes, wish: str) -> str:
    if wish not in known or known[wish][0] != 1:
        some = ', '.join(list(known)[-_SHOWN:])
        raise GraphError(f'--features {wish!r} is no tensor (1, D, hf, wf) before the first '
                         f'dropout', f'auto, none, or one such as {some}')
    return wish


def _deepest(trunk: onnx.ModelProto, known: Shapes) -> str:
    """Return the name of the tensor that 'auto' takes; empty if there is none."""
    size = tuple(d.dim_value for d in trunk.graph.input[0].type.tensor_type.shape.dim)[1:3]
    nodes = [n for n in trunk.graph.node if n.op_type != 'Constant']
    coarser = [name for name, shape in known.items() if _has_stride(shape, size, 2 * _STRIDE)]
    before = needed_nodes(nodes, coarser) if coarser else nodes
    found = [name for node in before for name in node.output
             if name in known and _has_stride(known[name], size, _STRIDE)]
    first = [name for name in found if name.startswith(_FIRST_MEMBER)]
    found = first or found
    read_twice = [name for name in found if len(consumers(nodes, name)) > 1]
    return (read_twice or found or [''])[-1]


def _has_stride(shape: Shape, size: tuple[int, ...], stride: int) -> bool:
    return shape[0] == 1 and all(
        1 < count and abs(count * stride - pixels) < stride
        for count, pixels in zip(shape[2:], size, strict=True))
