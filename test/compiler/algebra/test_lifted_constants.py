# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Dropout on what does not depend on the image differs from pass to pass, and is right in each.

Every graph is run with all masks at once, and compared with the graph as it came in which each
dropout is a product with the mask of one pass.

"""

from collections.abc import Mapping, Sequence

import graph_samples
from graph_samples import floats, graph, ints, run
import numpy as np
import onnx
from onnx import helper, numpy_helper
import pytest

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.compiler.algebra.fold_masks import dynamic_conv
from uncertainty_seg.compiler.algebra.free_passes import free_passes
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.errors import GraphError

PASSES = 3
NODE = helper.make_node
SHAPE = (1, 4, 6)


def drop(data: str, output: str, kind: str = 'element') -> onnx.NodeProto:
    return graph_samples.drop(data, output, kind, 0.4)


def at_once(model: onnx.ModelProto, x: np.ndarray, masks: Mapping[str, np.ndarray]) -> np.ndarray:
    masked, sites = dropout_to_masks(model)
    products, _ = dynamic_conv(masked, sites)
    return run(free_passes(products, sites), {'x': x, **masks})[0]


def by_hand(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], x: np.ndarray,
    masks: Mapping[str, np.ndarray], t: int,
) -> np.ndarray:
    """Run the graph as it came, its dropouts products with the masks of pass t."""
    twin, nodes = onnx.ModelProto(), []
    twin.CopyFrom(model)
    for node in twin.graph.node:
        if node.op_type == 'Dropout':
            name = f'mask_{node.output[0]}'
            mask = np.broadcast_to(masks[name][t].reshape(shapes[name]), shapes[name])
            twin.graph.initializer.append(numpy_helper.from_array(mask.copy(), name))
            node = NODE('Mul', [node.input[0], name], list(node.output))
        nodes.append(node)
    del twin.graph.node[:]
    twin.graph.node.extend(nodes)
    return run(twin, {'x': x})[0]


# Nodes, shape of the image's tensor, constants, and what each mask has to be shaped like in
# the graph as it came.
WAYS = {
    'positions (L, C)': (
        [drop('k', 'd'), NODE('Add', ['x', 'd'], ['y'])], SHAPE, {'k': floats(4, 6)},
        {'d': (4, 6)}),
    'a scale (C,)': (
        [drop('k', 'd'), NODE('Mul', ['x', 'd'], ['y'])], SHAPE, {'k': floats(6)}, {'d': (6,)}),
    'queries, projected and compared': (
        [drop('k', 'd'), NODE('Gemm', ['d', 'w', 'b'], ['g'], transB=1),
         NODE('Relu', ['g'], ['r']), NODE('Transpose', ['r'], ['t'], perm=[1, 0]),
         NODE('MatMul', ['x', 't'], ['y'])], SHAPE,
        {'k': floats(5, 3), 'w': floats(6, 3), 'b': floats(6)}, {'d': (5, 3)}),
    'queries behind the pixels, (L, 1, C)': (
        [drop('k', 'd'), NODE('Transpose', ['x'], ['t'], perm=[1, 0, 2]),
         NODE('Unsqueeze', ['d', 'one'], ['u']), NODE('Expand', ['u', 's'], ['e']),
         NODE('Add', ['t', 'e'], ['a']), NODE('Transpose', ['a'], ['y'], perm=[1, 0, 2])], SHAPE,
        {'k': floats(4, 6), 'one': ints(1), 's': ints(4, 1, 6)}, {'d': (4, 6)}),
    'heads of queries, and the queries again, (L, 1, C)': (
        [drop('k', 'd'), NODE('Unsqueeze', ['d', 'one'], ['u']),
         NODE('Reshape', ['u', 'heads'], ['h']), NODE('Transpose', ['h'], ['m'], perm=[1, 0, 2]),
         NODE('Reshape', ['m', 'apart'], ['p']), drop('p', 'w'),
         NODE('Transpose', ['w'], ['b'], perm=[2, 0, 1, 3]), NODE('Reshape', ['b', 's'], ['r']),
         NODE('Add', ['r', 'u'], ['a']), NODE('Transpose', ['x'], ['t'], perm=[1, 0, 2]),
         NODE('Add', ['a', 't'], ['e']), NODE('Transpose', ['e'], ['y'], perm=[1, 0, 2])], SHAPE,
        {'k': floats(4, 6), 'one': ints(1), 'heads': ints(4, 2, 3), 'apart': ints(1, 2, 4, 3),
         's': ints(4, 1, 6)}, {'d': (4, 6), 'w': (1, 2, 4, 3)}),
    'dropout again, among the queries': (
        [drop('k', 'd'), NODE('Transpose', ['d'], ['t'], perm=[1, 0]),
         NODE('MatMul', ['d', 't'], ['s']), NODE('Softmax', ['s'], ['p'], axis=1),
         drop('p', 'w'), NODE('MatMul', ['w', 'd'], ['o']),
         NODE('LayerNormalization', ['o', 'g'], ['n'], axis=-1),
         NODE('Concat', ['n', 'k'], ['c'], axis=0), NODE('Add', ['x', 'c'], ['y'])],
        (1, 8, 6), {'k': floats(4, 6), 'g': floats(6)}, {'d': (4, 6), 'w': (4, 4)}),
    'an equation with the queries, and one among themselves': (
        [drop('k', 'd'), NODE('Einsum', ['d', 'w'], ['p'], equation='qc,ce->qe'),
         NODE('Einsum', ['x', 'p'], ['y'], equation='blc,qc->blq')], SHAPE,
        {'k': floats(5, 3), 'w': floats(3, 6)}, {'d': (5, 3)}),
    'an equation of a batch of one': (
        [drop('k', 'd'), NODE('Unsqueeze', ['d', 'one'], ['u']),
         NODE('Einsum', ['x', 'u'], ['y'], equation='blc,qbc->bql')], SHAPE,
        {'k': floats(5, 6), 'one': ints(1)}, {'d': (5, 6)}),
    'rows of a table': (
        [drop('k', 'd'), NODE('Gather', ['d', 'i'], ['g'], axis=0),
         NODE('Reshape', ['g', 's'], ['r']), NODE('Add', ['x', 'r'], ['y'])], (1, 2, 3, 5),
        {'k': floats(7, 5), 'i': ints(2, 0, 6, 6, 1, 0), 's': ints(2, 3, 5)}, {'d': (7, 5)}),
    'a bias of heads, which are merged with the batch': (
        [drop('x', 'in'), NODE('Reshape', ['in', 'apart'], ['h']), drop('k', 'd'),
         NODE('Add', ['h', 'd'], ['a']), NODE('Relu', ['a'], ['r']),
         NODE('Reshape', ['r', 'back'], ['y'])], SHAPE,
        {'k': floats(2, 2, 6), 'apart': ints(2, 2, 6), 'back': ints(*SHAPE)},
        {'in': SHAPE, 'd': (2, 2, 6)}),
    'a bias (1, heads, L) for windows merged with the batch': (
        [drop('x', 'in'), NODE('Reshape', ['in', 'apart'], ['h']), drop('k', 'd'),
         NODE('Add', ['h', 'd'], ['a']), NODE('Reshape', ['a', 'back'], ['y'])], SHAPE,
        {'k': floats(1, 2, 6), 'apart': ints(2, 2, 6), 'back': ints(*SHAPE)},
        {'in': SHAPE, 'd': (1, 2, 6)}),
    'a reduction, which knows no twins': (
        [drop('k', 'd'), NODE('ReduceMean', ['d'], ['m'], axes=[1], keepdims=1),
         NODE('Unsqueeze', ['m', 'zero'], ['u']), NODE('Add', ['x', 'u'], ['y'])], SHAPE,
        {'k': floats(4, 6), 'zero': ints(0)}, {'d': (4, 6)}),
    'rows of a constant': (
        [drop('k', 'd', 'path'), NODE('Add', ['x', 'd'], ['y'])], SHAPE, {'k': floats(4, 6)},
        {'d': (4, 1)}),
    'channels of a constant without a batch': (
        [drop('k', 'd', 'channel'), NODE('Add', ['x', 'd'], ['y'])], (1, 4, 6, 5),
        {'k': floats(4, 6, 5)}, {'d': (4, 6, 1)}),
    'weights of a convolution': (
        [drop('k', 'd'), NODE('Conv', ['x', 'd'], ['y'], kernel_shape=[3, 3])], (1, 4, 6, 5),
        {'k': floats(3, 4, 3, 3)}, {'d': (3, 4, 3, 3)}),
    'weights of a linear layer': (
        [drop('k', 'd'), NODE('Transpose', ['d'], ['t'], perm=[1, 0]),
         NODE('MatMul', ['x', 't'], ['y'])], SHAPE, {'k': floats(3, 6)}, {'d': (3, 6)}),
    'where the image has its dropout too': (
        [drop('x', 'in'), drop('k', 'd'), NODE('Add', ['in', 'd'], ['y'])], SHAPE,
        {'k': floats(4, 6)}, {'in': SHAPE, 'd': (4, 6)}),
}


@pytest.mark.parametrize('way', WAYS)
def test_passes_of_a_constant_are_those_of_the_graph_as_it_came(way: str) -> None:
    nodes, shape, values, shapes = WAYS[way]
    model = graph(nodes, shape, **values)
    named = {f'mask_{name}': size for name, size in shapes.items()}
    _, sites = dropout_to_masks(model)
    assert {site.name for site in sites} == named.keys()
    x, masks = floats(*shape), make_masks(sites, PASSES, 1)
    ours = at_once(model, x, masks)
    each = np.stack([by_hand(model, named, x, masks, t) for t in range(PASSES)])
    np.testing.assert_allclose(ours, each[:, 0], atol=1e-5)
    assert min(abs(ours[0] - ours[1]).max(), abs(ours[1] - ours[2]).max()) > 1e-3


def test_what_has_an_axis_for_the_batch_keeps_the_mask_it_had() -> None:
    model = graph([drop('k', 'd'), NODE('Add', ['x', 'd'], ['y'])], SHAPE, k=floats(1, 4, 6))
    masked, sites = dropout_to_masks(model)
    assert [site.shape for site in sites] == [(4, 6)]
    assert [node.op_type for node in masked.graph.node] == ['Mul', 'Add']


def test_a_graph_without_dropped_constants_is_left_alone() -> None:
    masked, _ = dropout_to_masks(graph_samples.net())
    assert [node.op_type for node in masked.graph.node] == ['Conv', 'Relu', 'Mul', 'Conv']


def test_alpha_dropout_of_channels_without_a_batch_is_refused_by_name() -> None:
    model = graph([drop('k', 'd', 'feature_alpha'), NODE('Add', ['x', 'd'], ['y'])], SHAPE,
                  k=floats(4, 6))
    with pytest.raises(GraphError, match=r"'d'.* channels of a constant of shape \(4, 6\)"):
        dropout_to_masks(model)
