# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Insert dropout markers into a network that has no dropout.

The network was not trained with this dropout, so its passes are less informative than those of one
that was; the caller must warn the user.
"""

from __future__ import annotations

from collections.abc import Mapping
import difflib
import re

import onnx
from onnx import helper

from uncertainty_seg.compiler.onnx_tools import (
    consumers,
    copy_of,
    fresh_name,
    MARKER_DOMAIN,
    refill,
    TensorType,
    types_of,
    UNKNOWN,
    unused,
)
from uncertainty_seg.errors import ConfigError, GraphError

HEAD, DECODER = 'head', 'decoder'
_CONVOLUTIONS = ('Conv', 'ConvTranspose')
_UPSAMPLING = ('Resize', 'ConvTranspose', 'DepthToSpace')
# Operators that may stand between the convolution of the logits and the output.
_AFTER_LOGITS = ('Resize', 'Transpose', 'Reshape', 'Identity', 'Concat', 'Mul', 'Add', 'Squeeze',
                 'Unsqueeze', 'Cast', 'DepthToSpace', 'Expand', 'Slice', 'Split', 'Gather',
                 'Flatten', 'Pad')
# Operators that belong to a convolution's block if nothing else reads the tensors in between.
_OF_A_BLOCK = ('BatchNormalization', 'InstanceNormalization', 'Relu', 'LeakyRelu', 'PRelu', 'Clip',
               'Elu', 'Selu', 'Celu', 'HardSwish', 'Softplus', 'Sigmoid', 'Tanh', 'HardSigmoid')


def inject_dropout(
    model: onnx.ModelProto, p: float, where: str
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """
    Insert dropout markers into a graph; whole channels are dropped where a tensor has four axes.

    `where` is 'head', 'decoder', or names separated by commas. Returns the model and the names of
    the sites. Raises ConfigError if the rate is not in (0, 1), and GraphError if there is no such
    place.
    """
    if not 0 < p < 1:
        raise ConfigError(f'dropout rate {p}', 'a number in (0, 1)')
    wishes = [wish.strip() for wish in where.split(',') if wish.strip()]
    if not wishes:
        raise GraphError(f'the place of dropout {where!r}', "'head', 'decoder', or names")
    types = {**types_of(model)}
    result = copy_of(model)
    places: dict[str, str] = {}
    for wish in wishes:
        for tensor, site in _places(result.graph, wish, types).items():
            places.setdefault(tensor, site)
    return _marked(result, p, places, types)


def _places(graph: onnx.GraphProto, wish: str, types: dict[str, TensorType]) -> dict[str, str]:
    """Return site names, keyed by the tensor that is dropped."""
    if wish == HEAD:
        heads = [_of_its_own(graph, node, types) for node in _heads(graph)]
        return {name: f'{HEAD}_{i}' if heads[1:] else HEAD for i, name in enumerate(heads, 1)}
    if wish == DECODER:
        return {name: f'{DECODER}_{i}' for i, name in enumerate(_decoder(graph, types), 1)}
    return {_named(graph, wish): re.sub(r'\W+', '_', wish).strip('_')}


def _heads(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the convolutions of the logits: several if their results are added or joined."""
    made = {name: node for node in graph.node for name in node.output}
    ends: list[onnx.NodeProto | None] = [made.get(graph.output[0].name)]
    found, came = [], 'no convolution'
    while ends:
        node = ends.pop(0)
        if node is not None and node.op_type in _AFTER_LOGITS:
            before = [made[name] for name in node.input if name in made]
            ends += before if node.op_type in ('Add', 'Concat') else before[:1]
        elif node is not None and node.op_type in _CONVOLUTIONS and node.input[0] in made:
            found.append(node)
        elif node is not None:
            came = f'{node.op_type} {node.name!r}'
    if not found:
        raise GraphError(f'the logits come from {came}', 'a convolution',
                         'name the tensor to drop instead of "head"')
    return found


def _of_its_own(
    graph: onnx.GraphProto, node: onnx.NodeProto, types: dict[str, TensorType]
) -> str:
    """Return a convolution's input tensor, copied first if other nodes read it too."""
    name = node.input[0]
    if len(consumers(graph.node, name)) > 1:
        node.input[0] = fresh_name(graph, f'{name}_of_head')
        copied = helper.make_node('Identity', [name], [node.input[0]])
        graph.node.insert([*graph.node].index(node), copied)
        types[node.input[0]] = types.get(name, UNKNOWN)
    return node.input[0]


def _decoder(graph: onnx.GraphProto, types: Mapping[str, TensorType]) -> list[str]:
    """Return the ends of all convolution blocks after an upsampling, except the logits'."""
    behind: set[str] = set()
    convolutions = []
    for node in graph.node:
        if any(name in behind for name in node.input):
            behind.update(node.output)
        if _is_upsampling(node, types):
            behind.update(node.output)
        if node.op_type in _CONVOLUTIONS and behind & set(node.output):
            convolutions.append(node)
    read_by_convolutions = _read_by_convolutions(graph)
    ends = [_end_of_block(graph, node.output[0]) for node in convolutions]
    found = [name for name in dict.fromkeys(ends) if name in read_by_convolutions]
    if not found:
        raise GraphError('the network has no convolution behind an upsampling, but the one of the '
                         'logits', 'a decoder', "use 'head' or the name of a tensor")
    return found


def _is_upsampling(node: onnx.NodeProto, types: Mapping[str, TensorType]) -> bool:
    if node.op_type not in _UPSAMPLING:
        return False
    old, new = (types.get(name, UNKNOWN).shape for name in (node.input[0], node.output[0]))
    return old is None or new is None or new[2:] > old[2:]


def _end_of_block(graph: onnx.GraphProto, name: str) -> str:
    users = consumers(graph.node, name)
    while len(users) == 1 and users[0].op_type in _OF_A_BLOCK:
        name = users[0].output[0]
        users = consumers(graph.node, name)
    # x * sigmoid(x) and x * hardsigmoid(x) are activations, too.
    gates = [n for n in users if n.op_type in ('Sigmoid', 'HardSigmoid')]
    products = [n for n in users if n.op_type == 'Mul']
    if len(users) == 2 and gates and products and gates[0].output[0] in products[0].input:
        return products[0].output[0]
    return name


def _read_by_convolutions(graph: onnx.GraphProto) -> set[str]:
    """Return all tensors on which a later convolution depends."""
    needed: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in _CONVOLUTIONS or needed & set(node.output):
            needed.update(node.input)
    return needed


def _named(graph: onnx.GraphProto, wish: str) -> str:
    tensors = [name for node in graph.node for name in node.output if name]
    nodes = {node.name: node.output[0] for node in graph.node if node.name}
    name = wish if wish in tensors else nodes.get(wish)
    if name is None:
        near = difflib.get_close_matches(wish, [*nodes, *tensors], 3, 0.4)
        raise GraphError(f'the network has no node or tensor {wish!r}',
                         "'head', 'decoder', or a name",
                         f'did you mean {", ".join(near)}?' if near else 'see the graph for names')
    if name == graph.output[0].name:
        raise GraphError(f'{wish!r} is the output', 'a tensor before the logits')
    return name


def _marked(
    model: onnx.ModelProto, p: float, places: Mapping[str, str],
    types: Mapping[str, TensorType],
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    sites: list[str] = []
    renamed: dict[str, str] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        nodes.append(node)
        for name in (n for n in node.output if n in places):
            site = unused(places[name], sites)
            renamed[name] = fresh_name(graph, f'{name}_dropped')
            kind = 'channel' if types.get(name, UNKNOWN).rank == 4 else 'element'
            nodes.append(helper.make_node(
                'Dropout', [name], [renamed[name]], name=f'dropout_{site}', domain=MARKER_DOMAIN,
                p=p, kind=kind, site=site))
            sites.append(site)
    refill(graph.node, nodes)
    if all(entry.domain != MARKER_DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MARKER_DOMAIN, 1))
    return model, tuple(sites)
