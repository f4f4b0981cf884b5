# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
All nodes and tensors of an ONNX model, in subgraphs too, and which operators are random.

A node may contain subgraphs (the branches of If, the bodies of Loop and Scan), and a model may
define functions. A walk over ``model.graph.node`` finds neither. Models are accessed by the names
of their fields, so that onnx need not be imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

# Runtimes remove or reseed these silently, so dropout must be a mask input. They are compared
# without the domain: the Bias- and Bitmask- forms are specific to ONNX Runtime.
RANDOM_OPS = frozenset({
    'Dropout', 'Bernoulli', 'Multinomial', 'RandomNormal', 'RandomNormalLike', 'RandomUniform',
    'RandomUniformLike', 'BiasDropout', 'BitmaskDropout', 'BitmaskBiasDropout',
})
# A loop may run for ever on one image; the compiler writes none.
LOOP_OPS = frozenset({'Loop', 'Scan'})


def subgraphs(node: Any) -> list[Any]:
    """Return the branches and bodies of a node, without those nested in them."""
    return _graphs_of(node.attribute)


def _graphs_of(attributes: Iterable[Any]) -> list[Any]:
    # By the field and not by the type that the attribute claims: a runtime may read either.
    return [graph for entry in attributes
            for graph in (*([entry.g] if entry.HasField('g') else ()), *entry.graphs)]


def every_graph(model: Any) -> Iterator[Any]:
    """Yield the graph of a model, and every graph inside its nodes, functions and training."""
    waiting = [model.graph]
    for info in model.training_info:
        waiting += [info.initialization, info.algorithm]
    for function in model.functions:
        waiting += [graph for node in function.node for graph in subgraphs(node)]
        waiting += _graphs_of(function.attribute_proto)
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [inner for node in graph.node for inner in subgraphs(node)]


def every_node(model: Any) -> Iterator[Any]:
    """Yield the nodes of a model, of every graph inside them, and of its functions."""
    for graph in every_graph(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def every_tensor(model: Any) -> Iterator[Any]:
    """Yield the weights of every graph, and the tensors that are attributes of a node."""
    sparse: list[Any] = []
    for graph in every_graph(model):
        yield from graph.initializer
        sparse += graph.sparse_initializer
    entries = [entry for node in every_node(model) for entry in node.attribute]
    entries += [entry for function in model.functions for entry in function.attribute_proto]
    for entry in entries:
        if entry.HasField('t'):
            yield entry.t
        yield from entry.tensors
        sparse += [*([entry.sparse_tensor] if entry.HasField('sparse_tensor') else ()),
                   *entry.sparse_tensors]
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)
