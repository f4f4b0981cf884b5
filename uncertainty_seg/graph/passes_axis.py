# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which axis of each tensor carries the passes.

A network is exported for one image. Most tensors keep the batch on axis 0; attention moves it
or merges it with the heads. This follows it node by node through a graph of one pass and says
where it is, or which node lost it. It changes nothing.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
import onnx

from uncertainty_seg.graph.passes_rules import Lost, PassesAxis, rule_of, Shape, View


@dataclass
class FoundPasses:
    """
    Result of `find_passes`.

    Attributes
    ----------
    axes : dict of str to PassesAxis
        Tensors that carry the passes. What is in neither is the same in all of them.
    lost : dict of str to str
        Tensors whose axis is not known: the node and the reason.

    """

    axes: dict[str, PassesAxis]
    lost: dict[str, str]


def find_passes(
    nodes: Iterable[onnx.NodeProto],
    shapes: Mapping[str, Shape],
    constants: Mapping[str, NDArray[np.generic]],
    seeds: Mapping[str, PassesAxis],
) -> FoundPasses:
    """
    Follow the passes through a graph.

    Parameters
    ----------
    nodes : iterable of NodeProto
        In order, constants of shape arithmetic folded.
    shapes : mapping of str to tuple of int
        Static shapes of one pass.
    constants : mapping of str to ndarray
        Initializers and constants.
    seeds : mapping of str to PassesAxis
        Inputs that carry the passes.

    Returns
    -------
    Found
        Axes, and tensors for which a rule gave up.

    """
    found = FoundPasses(dict(seeds), {})
    for node in nodes:
        lost = next((found.lost[name] for name in node.input if name in found.lost), None)
        if lost is None and not any(name in found.axes for name in node.input):
            continue
        if lost is None:
            try:
                axis = rule_of(node)(View(node, shapes, found.axes, constants))
                axes = _of_outputs(node, axis)
            except Lost as err:
                lost = f'{node.op_type} {node.name or node.output[0]!r}: {err}'
        if lost is not None:
            found.lost.update(dict.fromkeys(node.output, lost))
        else:
            found.axes.update(axes)
    return found


def _of_outputs(node: onnx.NodeProto, axis: PassesAxis) -> dict[str, PassesAxis]:
    return {name: axis for name in node.output if name}
