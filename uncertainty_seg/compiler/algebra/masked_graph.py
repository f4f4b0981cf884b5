# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What is known of a graph with masks: which tensors differ from pass to pass, and how.

An input whose first axis is symbolic carries the passes; everything that depends on one differs
from pass to pass, and the rest is the same in all of them.

"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from uncertainty_seg.compiler.onnx_tools import constants, copy_of, Shapes, shapes, Values
from uncertainty_seg.core.model_card import DropoutSite


@dataclass(frozen=True)
class MaskedView:
    """
    What a pass needs to know of a graph.

    Attributes
    ----------
    shapes : mapping of str to tuple of int
        Of one pass.
    constants : mapping of str to ndarray
        Initializers and Constant nodes.
    masks : frozenset of str
        Mask inputs, and products of nothing but masks: never negative.
    touched : frozenset of str
        Every tensor that differs from pass to pass.

    """

    shapes: Shapes
    constants: Values
    masks: frozenset[str]
    touched: frozenset[str]

    def varies(self, mask: str) -> frozenset[int]:
        """Return the axes along which a mask varies, that of the passes left out."""
        return frozenset(i for i, n in enumerate(self.shapes[mask]) if i > 0 and n > 1)

    def masked(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        """Return (data, mask) if a node multiplies a tensor by a mask of its rank."""
        if node.op_type != 'Mul':
            return None
        for data, mask in (node.input, reversed(node.input)):
            if mask in self.masks and data not in self.masks and data in self.shapes:
                if len(self.shapes[data]) == len(self.shapes[mask]):
                    return data, mask
        return None


def view_of(model: onnx.ModelProto, sites: Iterable[DropoutSite] | None = None) -> MaskedView:
    """
    Look at a graph with masks, before or after the split.

    Without `sites`, every input with a symbolic first axis is a mask.

    """
    inputs = {info.name for info in model.graph.input if _is_symbolic(info)}
    if sites is not None:
        inputs = {site.name for site in sites}
    masks = set(inputs)
    for node in model.graph.node:
        if node.op_type == 'Mul' and all(name in masks for name in node.input):
            masks.update(node.output)
    return MaskedView(shapes(with_passes(model, 1)), constants(model.graph), frozenset(masks),
                      touched_by(model.graph.node, inputs))


def touched_by(nodes: Iterable[onnx.NodeProto], names: Iterable[str]) -> frozenset[str]:
    """Return some tensors and all that are computed from them."""
    touched = set(names)
    for node in nodes:
        if any(name in touched for name in node.input):
            touched.update(node.output)
    return frozenset(touched)


def with_passes(model: onnx.ModelProto, passes: int) -> onnx.ModelProto:
    """Return a graph whose symbolic axis of the passes is a number, so that shapes are static."""
    fixed = copy_of(model)
    for info in (*fixed.graph.input, *fixed.graph.output):
        if _is_symbolic(info):
            info.type.tensor_type.shape.dim[0].Clear()
            info.type.tensor_type.shape.dim[0].dim_value = passes
    del fixed.graph.value_info[:]
    return fixed


def _is_symbolic(info: onnx.ValueInfoProto) -> bool:
    dims = info.type.tensor_type.shape.dim
    return bool(dims) and not dims[0].HasField('dim_value')
