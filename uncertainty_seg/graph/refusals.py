# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What can never be compiled, found early and named; and names kept free for the compiler's own.

Whether the passes can be told apart by their axis is another question, answered later.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
import re

import onnx

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.dropout_to_masks import is_dropout
from uncertainty_seg.graph.onnx_tools import constants, copy_of, MARKER_DOMAIN
from uncertainty_seg.graph.static_input import image_inputs

RANDOM = ('Bernoulli', 'Multinomial', 'RandomNormal', 'RandomNormalLike', 'RandomUniform',
          'RandomUniformLike')
CONTROL_FLOW = ('If', 'Loop', 'Scan', 'SequenceMap')
_LISTS = ('SequenceConstruct', 'SequenceEmpty', 'SequenceInsert', 'SequenceErase', 'SequenceAt',
          'SequenceLength', 'SplitToSequence', 'ConcatFromSequence', 'Optional',
          'OptionalGetElement', 'OptionalHasElement')
# Tensors that later passes make.
_OURS = re.compile(r'image|image_(float|planes|scaled|scale|shift)|logits|mask_.*|stats_.*'
                   r'|inv_temperature|sum_p|sum_p2|sum_entropy|votes')


def require_own_names(model: onnx.ModelProto) -> None:
    """
    Refuse a graph in which two things have one name, before a pass takes one for the other.

    Raises
    ------
    GraphError
        Naming the tensor or the node.

    """
    graph = model.graph
    weights = {t.name for t in graph.initializer}  # older files list them as inputs, too
    made = [i.name for i in graph.input if i.name not in weights] + sorted(weights)
    made += [name for node in graph.node for name in node.output if name]
    for what, names in (('tensors', made), ('nodes', [n.name for n in graph.node if n.name])):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise GraphError(f'two {what} of the network are called {twice[0]!r}', 'a name of its '
                             'own for each', 'export it again: no runtime takes such a file')


def require_compilable(model: onnx.ModelProto) -> None:
    """
    Refuse what no later pass can do anything with.

    Parameters
    ----------
    model : ModelProto
        From `make_static`, so that what is constant there is folded already.

    Raises
    ------
    GraphError
        Naming the node, with what to do.

    """
    images = image_inputs(model.graph)
    if len(images) != 1:
        names = [info.name for info in images]
        raise GraphError(f'the network has the inputs {names}', 'one image')
    for node in model.graph.node:
        for error in _faults(node, model.graph):
            raise error


def free_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Rename the network's own tensors that have names the compiler gives.

    Parameters
    ----------
    model : ModelProto
        Without control flow; left as it is.

    Returns
    -------
    ModelProto
        Computes the same. `image`, `logits`, `mask_head` and the like became `net_image` ...

    """
    result = copy_of(model)
    graph = result.graph
    every = {n for node in graph.node for n in (*node.input, *node.output)}
    every |= {t.name for t in (*graph.initializer, *graph.input, *graph.output)}
    names: dict[str, str] = {}
    for name in sorted(n for n in every if _OURS.fullmatch(n)):
        new = f'net_{name}'
        while new in every:
            new = f'net_{new}'
        every.add(new)
        names[name] = new
    for node in graph.node:
        for tensors in (node.input, node.output):
            for index, name in enumerate(tensors):
                tensors[index] = names.get(name, name)
    for entry in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        entry.name = names.get(entry.name, entry.name)
    return result


def _faults(node: onnx.NodeProto, graph: onnx.GraphProto) -> Iterator[GraphError]:
    where = f'node {node.name!r} is {node.op_type}'
    if node.domain not in ('', 'ai.onnx', MARKER_DOMAIN):
        yield GraphError(f'{where} of the domain {node.domain}', 'standard operators of ONNX')
    if node.op_type in RANDOM:
        yield GraphError(f'{where}, random numbers that every runtime draws its own way',
                         'dropout', 'express it as dropout, or export the network without it')
    if node.op_type in CONTROL_FLOW:
        yield GraphError(f'{where}, whose course depends on the image', 'a fixed sequence of '
                         'operators', 'export the network for one input size, without '
                         'data-dependent branches')
    if node.op_type in _LISTS:
        yield GraphError(f'{where}, a list of tensors of unknown length', 'tensors',
                         'export the network for one input size, or with another exporter')
    if is_dropout(node) and node.domain != MARKER_DOMAIN:
        yield from _dropout_faults(node, graph)


def _dropout_faults(node: onnx.NodeProto, graph: onnx.GraphProto) -> Iterator[GraphError]:
    known = constants(graph)
    if len(node.input) > 1 and node.input[1] and node.input[1] not in known:
        yield GraphError(f'dropout {node.name!r} has a computed rate', 'a constant one')
    mask = node.output[1] if len(node.output) > 1 else ''
    if mask and any(mask in other.input for other in graph.node):
        yield GraphError(f'the mask of dropout {node.name!r} is read by other nodes',
                         'dropout whose mask nobody else needs')
