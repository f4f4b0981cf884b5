# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Merge the networks of a deep ensemble; each member then counts as one pass.

The trunk runs every member on one image; the head only selects members. Nodes and weights that
members share (preprocessing, a frozen encoder) are found by comparing them, and are stored and
computed once. It does not matter how the members were trained.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import logging

import onnx
from onnx import helper, numpy_helper

from uncertainty_seg.compiler.algebra.dropout_to_masks import is_dropout, PASSES_AXIS
from uncertainty_seg.compiler.algebra.split import LOGITS
from uncertainty_seg.compiler.onnx_tools import (
    build_model,
    copy_of,
    float_info,
    refill,
    Shape,
    shapes,
)
from uncertainty_seg.core.dropout_masks import MEMBER
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError

MEMBERS = 'members'
_log = logging.getLogger(__name__)


def ensemble_graphs(
    models: Sequence[onnx.ModelProto],
) -> tuple[onnx.ModelProto, onnx.ModelProto, tuple[DropoutSite, ...]]:
    """
    Make trunk and head of M networks.

    Raises GraphError if there are fewer than two networks, if a member has no weights that differ
    from those of earlier members, or if its logits differ in shape from the first member's.
    """
    image, shape = _common(models)
    merged = _Merged(image.name)
    logits = [merged.add(model, index) for index, model in enumerate(models)]
    count = len(models)
    nodes = [*merged.nodes, helper.make_node('Concat', logits, [MEMBERS], axis=0)]
    members = float_info(MEMBERS, (count, *shape[1:]))
    trunk = build_model('trunk', nodes, [image], [members], merged.weights)
    _log.info('%d members of %d nodes: %d nodes after sharing, %d dropouts switched off', count,
              len(models[0].graph.node), len(trunk.graph.node), merged.num_dropouts)
    return trunk, _head(members, shape), (DropoutSite(MEMBER, (count,), 1 - 1 / count),)


def _common(models: Sequence[onnx.ModelProto]) -> tuple[onnx.ValueInfoProto, Shape]:
    """Return the image input and the shape of the logits, which all members share."""
    if len(models) < 2:
        raise GraphError(f'an ensemble of {len(models)}', 'at least two networks',
                         'give weights once for each member')
    shape = _logits_shape(models[0], 0)
    for index, model in enumerate(models[1:], 1):
        came = _logits_shape(model, index)
        if came != shape:
            raise GraphError(f'member {index} has logits of the shape {came}',
                             f'{shape} as member 0 has',
                             'an ensemble is one network trained several times')
    return models[0].graph.input[0], shape


class _Merged:
    """Nodes and weights of several graphs without duplicates."""

    def __init__(self, image: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.num_dropouts = 0
        self._image = image
        self._weight_names: dict[str, str] = {}
        self._outputs: dict[tuple[object, ...], list[str]] = {}

    def add(self, model: onnx.ModelProto, index: int) -> str:
        """Add a member and return the name of its output."""
        names, before = {'': '', self._image: self._image}, len(self.weights)
        for tensor in model.graph.initializer:
            names[tensor.name] = self._add_weight(tensor, index)
        if len(self.weights) == before:
            raise GraphError(f'member {index} has the weights of an earlier one',
                             'networks trained separately', 'give each file of weights once')
        for node in model.graph.node:
            if is_dropout(node):
                names[node.output[0]] = names[node.input[0]]
                self.num_dropouts += 1
            else:
                names.update(zip(node.output, self._add_node(node, names, index), strict=True))
        return names[model.graph.output[0].name]

    def _add_weight(self, tensor: onnx.TensorProto, index: int) -> str:
        key = _digest(tensor)
        if key not in self._weight_names:
            self.weights.append(copy_of(tensor))
            self.weights[-1].name = self._weight_names[key] = f'member{index}_{tensor.name}'
        return self._weight_names[key]

    def _add_node(self, node: onnx.NodeProto, names: dict[str, str], index: int) -> list[str]:
        inputs = tuple(names[name] for name in node.input)
        attributes = sorted(_attribute_key(entry) for entry in node.attribute)
        key = (node.domain, node.op_type, len(node.output), inputs, *attributes)
        if key not in self._outputs:
            outputs = [f'member{index}_{name}' if name else '' for name in node.output]
            twin = copy_of(node)
            twin.name = node.name and f'member{index}_{node.name}'
            refill(twin.input, inputs)
            refill(twin.output, outputs)
            self.nodes.append(twin)
            self._outputs[key] = outputs
        return self._outputs[key]


def _head(members: onnx.ValueInfoProto, shape: Shape) -> onnx.ModelProto:
    count = members.type.tensor_type.shape.dim[0].dim_value
    # A member is copied, not multiplied by a one-hot row: devices that multiply in TF32 or bf16
    # would round the product, and NaN in one member would spread to all passes.
    nodes = [
        helper.make_node('ArgMax', [MEMBER], ['chosen'], axis=1, keepdims=0),
        helper.make_node('Gather', [MEMBERS, 'chosen'], [LOGITS], axis=0),
    ]
    inputs = [members, float_info(MEMBER, (PASSES_AXIS, count))]
    return build_model('head', nodes, inputs, [float_info(LOGITS, (PASSES_AXIS, *shape[1:]))], [])


def _logits_shape(model: onnx.ModelProto, index: int) -> Shape:
    shape = shapes(model).get(model.graph.output[0].name)
    if shape is None or len(shape) != 4 or shape[0] != 1:
        raise GraphError(f'member {index} gives a tensor of shape {shape}',
                         'logits (1, C, hl, wl) of a static size')
    return shape


def _digest(tensor: onnx.TensorProto) -> str:
    values = numpy_helper.to_array(tensor)
    facts = f'{tensor.data_type} {list(tensor.dims)} '.encode()
    return hashlib.sha256(facts + values.tobytes()).hexdigest()


def _attribute_key(entry: onnx.AttributeProto) -> bytes:
    twin = copy_of(entry)
    twin.t.name = ''
    return twin.SerializeToString(deterministic=True)
