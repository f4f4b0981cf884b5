# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A graph for one image computes T masks at once as one by one, or is refused with the node's name.

Every graph here is run T times with one mask each, and once with all T masks.
"""

from collections.abc import Sequence

import graph_samples
from graph_samples import floats, graph, ints, run
import numpy as np
import onnx
from onnx import helper, TensorProto
import pytest

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.compiler.algebra.free_passes import (
    free_passes,
    one_pass,
    PassesAxis,
    reshaped_axis,
)
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError

PASSES = 3


def drop(data: str, output: str, kind: str = 'element', p: float = 0.4) -> onnx.NodeProto:
    return graph_samples.drop(data, output, kind, p)


def all_and_each(model: onnx.ModelProto, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return T passes at once by the converted graph, and one by one by the original graph."""
    masked, sites = dropout_to_masks(model)
    masks = make_masks(sites, PASSES, 1)
    x = floats(*shape)
    each = [run(one_pass(masked, sites), {'x': x, **{k: v[t:t + 1] for k, v in masks.items()}})[0]
            for t in range(PASSES)]
    return run(free_passes(masked, sites), {'x': x, **masks})[0], np.stack(each)


def attention(heads: int = 2, length: int = 5, size: int = 4) -> onnx.ModelProto:
    """Make self-attention as exported from nn.MultiheadAttention: batch and heads merged."""
    node = helper.make_node
    width = heads * size
    nodes = [
        node('Transpose', ['x'], ['t'], perm=[1, 0, 2]),  # (L, 1, E)
        drop('t', 'in'),
        node('MatMul', ['in', 'w'], ['q']),
        node('Reshape', ['q', 'to_heads'], ['h']),  # (L, 1 * heads, d)
        node('Transpose', ['h'], ['a'], perm=[1, 0, 2]),  # (heads, L, d)
        node('Transpose', ['h'], ['b'], perm=[1, 2, 0]),
        node('MatMul', ['a', 'b'], ['s']),
        node('Add', ['s', 'bias'], ['biased']),  # one bias per head
        node('Softmax', ['biased'], ['p'], axis=-1),
        drop('p', 'weights'),  # (heads, L, L)
        node('MatMul', ['weights', 'a'], ['o']),
        node('Transpose', ['o'], ['m'], perm=[1, 0, 2]),
        node('Reshape', ['m', 'to_rows'], ['rows']),  # (L * 1, E)
        node('Gemm', ['rows', 'w', 'c'], ['g']),
        node('Reshape', ['g', 'back'], ['l']),
        node('Transpose', ['l'], ['y'], perm=[1, 0, 2]),
    ]
    return graph(nodes, (1, length, width), (1, length, width), w=floats(width, width),
                 c=floats(width), bias=floats(heads, length, length),
                 to_heads=ints(length, heads, size), to_rows=ints(length, width),
                 back=ints(length, 1, width))


def test_attention_as_multihead_attention_writes_it() -> None:
    """Passes are merged with the heads, then interleaved with the tokens, (L * T, E)."""
    ours, each = all_and_each(attention(), (1, 5, 8))
    np.testing.assert_allclose(ours, each[:, 0], atol=1e-5)
    assert abs(ours[0] - ours[1]).max() > 1e-3


def test_dropout_where_passes_sit_between_tokens() -> None:
    model = attention()
    at = next(i for i, n in enumerate(model.graph.node) if n.output[0] == 'g')
    model.graph.node[at].input[0] = 'dropped'
    model.graph.node.insert(at, drop('rows', 'dropped'))
    ours, each = all_and_each(model, (1, 5, 8))
    np.testing.assert_allclose(ours, each[:, 0], atol=1e-5)


NODE = helper.make_node
WAYS = {
    'reshape with the batch baked in': (
        [drop('x', 'd'), NODE('Reshape', ['d', 's'], ['y'])], (1, 4, 6), {'s': ints(1, 2, 12)}),
    'flatten and back': (
        [drop('x', 'd'), NODE('Flatten', ['d'], ['f'], axis=1), NODE('Gemm', ['f', 'w'], ['y'])],
        (1, 4, 6), {'w': floats(24, 7)}),
    'squeeze of the batch': (
        [drop('x', 'd'), NODE('Squeeze', ['d', 'a'], ['q']), NODE('Relu', ['q'], ['r']),
         NODE('Unsqueeze', ['r', 'a'], ['y'])], (1, 4, 6), {'a': ints(0)}),
    'squeeze of the batch around dropout': (
        [NODE('Squeeze', ['x', 'a'], ['q']), drop('q', 'd'), NODE('Unsqueeze', ['d', 'a'], ['u']),
         NODE('Conv', ['u', 'k'], ['y'])], (1, 4, 6), {'a': ints(0), 'k': floats(4, 4, 1)}),
    'channels of windows, merged with the batch': (
        [NODE('Reshape', ['x', 's'], ['w']), drop('w', 'd', 'channel'),
         NODE('Reshape', ['d', 'back'], ['y'])], (1, 4, 6),
        {'s': ints(2, 2, 6), 'back': ints(1, 4, 6)}),
    'join of drawn and same': (
        [drop('x', 'd'), NODE('Concat', ['x', 'd', 'x'], ['y'], axis=1)], (1, 4, 6), {}),
    'samples at a fixed grid': (
        [drop('x', 'd'), NODE('GridSample', ['d', 'k'], ['y'])], (1, 4, 6, 5),
        {'k': np.tanh(floats(1, 3, 7, 2))}),
    'samples of what is the same at a drawn grid': (
        [drop('x', 'd'), NODE('Tanh', ['d'], ['t']), NODE('GridSample', ['k', 't'], ['y'])],
        (1, 3, 7, 2), {'k': floats(1, 4, 6, 5)}),
    'samples of heads, merged with the batch, at a fixed grid and at a drawn one': (
        [drop('x', 'd'), NODE('Reshape', ['d', 's'], ['h']), NODE('GridSample', ['h', 'k'], ['g']),
         NODE('Tanh', ['g'], ['t']), NODE('Reshape', ['t', 'at'], ['p']),
         NODE('GridSample', ['h', 'p'], ['q']), NODE('Reshape', ['q', 'back'], ['y'])],
        (1, 4, 6, 5), {'s': ints(2, 2, 6, 5), 'k': np.tanh(floats(2, 3, 4, 2)),
                       'at': ints(2, 3, 4, 2), 'back': ints(1, 4, 3, 4)}),
    'convolution deformed by drawn offsets': (
        [drop('x', 'd'), NODE('Gather', ['d', 'i'], ['o'], axis=1),
         NODE('DeformConv', ['d', 'k', 'o'], ['y'])], (1, 4, 6, 5),
        {'i': ints(0, 3), 'k': floats(3, 4, 1, 1)}),
    'join with the drawn one second axis': (
        [drop('x', 'd'), NODE('Concat', ['d', 'k'], ['y'], axis=2)], (1, 4, 6),
        {'k': floats(1, 4, 2)}),
    'blocks that overlap, joined': (
        [drop('x', 'd'), NODE('Col2Im', ['d', 'size', 'block'], ['y'], strides=[1, 2])],
        (1, 4, 6), {'size': ints(3, 6), 'block': ints(2, 2)}),
    'resize by size': (
        [drop('x', 'd', 'channel'), NODE('Resize', ['d', '', '', 's'], ['y'], mode='linear')],
        (1, 3, 4, 6), {'s': ints(1, 3, 7, 11)}),
    'resize to the nearest, by a factor that float32 rounds': (
        [drop('x', 'd'), NODE('Resize', ['d', '', '', 's'], ['y'], mode='nearest',
                              nearest_mode='floor', coordinate_transformation_mode='asymmetric')],
        (1, 3, 4, 6), {'s': ints(1, 3, 8, 34)}),
    'expand': (
        [NODE('ReduceMean', ['x', 'two'], ['m']), drop('m', 'd'),
         NODE('Expand', ['d', 's'], ['y'])], (1, 4, 6),
        {'s': ints(1, 4, 6), 'two': ints(2)}),
    'einsum': (
        [drop('x', 'd'), NODE('Einsum', ['d', 'x'], ['y'], equation='bij,bkj->bik')],
        (1, 4, 6), {}),
    'einsum over what comes before the last axes': (
        [drop('x', 'd'),
         NODE('Einsum', ['d', 'x'], ['y'], equation='... i d, ... j d -> ... i j')],
        (1, 2, 4, 6), {}),
    'einsum with a factor a channel': (
        [drop('x', 'd'), NODE('Einsum', ['d', 'k'], ['y'], equation='b c ..., c -> b c ...')],
        (1, 4, 6, 5), {'k': floats(4)}),
    'einsum of a batch that the other has not': (
        [drop('x', 'd'), NODE('Einsum', ['x', 'k', 'd'], ['y'], equation='bij,kj,bkm->bmi')],
        (1, 4, 6), {'k': floats(4, 6)}),
    'einsum over heads, merged with the batch': (
        [drop('x', 'd'), NODE('Reshape', ['d', 's'], ['h']),
         NODE('Einsum', ['h', 'k'], ['e'], equation='hij,hkj->hik'),
         NODE('Reshape', ['e', 'back'], ['y'])], (1, 4, 6),
        {'s': ints(2, 2, 6), 'k': floats(2, 3, 6), 'back': ints(1, 4, 3)}),
    'gather behind the batch': (
        [drop('x', 'd'), NODE('Gather', ['d', 'i'], ['y'], axis=1)], (1, 4, 6), {'i': ints(2, 0)}),
    'rows of a table, by drawn numbers': (
        [drop('x', 'd'), NODE('ArgMax', ['d'], ['i'], axis=2, keepdims=0),
         NODE('Gather', ['k', 'i'], ['y'])], (1, 4, 6), {'k': floats(6, 5)}),
    'points in front of the batch': (
        [NODE('Transpose', ['x'], ['t'], perm=[1, 2, 0]), drop('t', 'd'),
         NODE('GatherND', ['d', 'i'], ['g']), NODE('Transpose', ['g'], ['y'], perm=[1, 0])],
        (1, 4, 6), {'i': np.array([[0, 3], [2, 5], [1, 1]], np.int64)}),
    'scatter within rows, the places the same in every pass': (
        [drop('x', 'd'), NODE('ScatterElements', ['k', 'i', 'd'], ['y'], axis=2)], (1, 4, 6),
        {'k': floats(1, 4, 9), 'i': np.argsort(floats(1, 4, 9), 2)[:, :, :6]}),
    'whole slice': (
        [drop('x', 'd'), NODE('Slice', ['d', 'a', 'b', 'ax'], ['y'])], (1, 4, 6),
        {'a': ints(0, 1), 'b': ints(2**63 - 1, 3), 'ax': ints(0, 1)}),
    'branch': (
        [NODE('Relu', ['x'], ['r']), drop('k', 'd'), NODE('Mul', ['r', 'd'], ['m']),
         NODE('Add', ['x', 'm'], ['y'])], (1, 4, 6), {'k': np.ones((1, 1, 1), np.float32)}),
}


@pytest.mark.parametrize('way', WAYS)
def test_all_passes_at_once_equal_each_alone(way: str) -> None:
    nodes, shape, constants = WAYS[way]
    model = graph(nodes, shape, **constants)
    ours, each = all_and_each(model, shape)
    np.testing.assert_allclose(ours, each.reshape(ours.shape), atol=1e-6)
    assert max(abs(each[0] - each[1]).max(), abs(each[0] - each[2]).max()) > 1e-3


REFUSED = {
    'picks one entry of the batch': (NODE('Gather', ['d', 'i'], ['y'], name='pick', axis=0),
                                     {'i': np.array(0)}),
    'reduces over the passes': (NODE('ReduceMean', ['d', 'i'], ['y'], name='mean'),
                                {'i': ints(0)}),
    'cuts the axis of the passes': (NODE('Slice', ['d', 'a', 'b', 'ax'], ['y'], name='cut'),
                                    {'a': ints(0), 'b': ints(1), 'ax': ints(0)}),
    'along the axis of the passes': (NODE('Softmax', ['d'], ['y'], name='soft', axis=0), {}),
    'joins or writes tensors along': (NODE('Concat', ['d', 'x'], ['y'], name='join', axis=0), {}),
    'it is not known what this operator does': (NODE('Det', ['d'], ['y'], name='det'), {}),
    'writes tensors along the axis': (
        NODE('ScatterElements', ['d', 'i', 'd'], ['y'], name='put'),
        {'i': np.zeros((1, 4, 4), np.int64)}),
    'pads the axis': (NODE('Pad', ['d', 'p'], ['y'], name='pad'), {'p': ints(1, 0, 0, 0, 0, 0)}),
    'repeats the passes': (NODE('Tile', ['d', 'p'], ['y'], name='tile'), {'p': ints(2, 1, 1)}),
    'inputs carry the passes on different': (NODE('Einsum', ['d', 'd'], ['y'], name='outer',
                                                  equation='bij,cij->bc'), {}),
    'only some of its inputs': (NODE('DeformConv', ['d', 'k', 'o'], ['y'], name='deform'),
                                {'k': floats(3, 4, 1, 1), 'o': floats(1, 2, 4, 4)}),
    'sums over the passes': (NODE('Einsum', ['d', 'd'], ['y'], name='sum',
                                  equation='bij,bij->ij'), {}),
}


@pytest.mark.parametrize('why', REFUSED)
def test_what_mixes_passes_is_refused_by_name(why: str) -> None:
    node, constants = REFUSED[why]
    shape = (1, 4, 4, 4) if node.op_type == 'DeformConv' else (1, 4, 4)
    model = graph([drop('x', 'd'), node], shape, **constants)
    masked, sites = dropout_to_masks(model)
    with pytest.raises(GraphError, match=f"{node.op_type} '{node.name}': .*{why}"):
        free_passes(masked, sites)


@pytest.mark.parametrize('end', [
    [NODE('MatMul', ['t', 'k'], ['y'])],
    [NODE('Reshape', ['t', 's'], ['y'])],
])
def test_what_took_the_batch_away_is_named_where_passes_mix(end: list[onnx.NodeProto]) -> None:
    nodes = [drop('x', 'd'), NODE('Squeeze', ['d', 'a'], ['q'], name='gone'),
             NODE('Transpose', ['q'], ['t'], perm=[1, 0]), *end]
    masked, sites = dropout_to_masks(graph(nodes, (1, 4, 6), a=ints(0), k=floats(4, 5),
                                           s=ints(1, 6, 4)))
    with pytest.raises(GraphError, match="'gone'"):
        free_passes(masked, sites)


def test_what_the_output_does_not_need_is_not_refused() -> None:
    mean = NODE('Softmax', ['d'], ['unused'], axis=0)
    model = graph([drop('x', 'd'), mean, NODE('Relu', ['d'], ['y'])], (1, 4, 4), (1, 4, 4))
    masked, sites = dropout_to_masks(model)
    assert free_passes(masked, sites).graph.output[0].name == 'y'


@pytest.mark.parametrize('axis, old, new, result', [
    (PassesAxis(0), (1, 8, 3), (1, 2, 4, 3), PassesAxis(0)),
    (PassesAxis(0), (1, 8, 3), (8, 3), PassesAxis(0, 8)),
    (PassesAxis(0, 8), (8, 3), (1, 8, 3), PassesAxis(0)),
    (PassesAxis(1), (5, 1, 8), (5, 2, 4), PassesAxis(1, 2)),
    (PassesAxis(1), (5, 1, 8), (5, 1, 2, 4), PassesAxis(1)),
    (PassesAxis(1), (5, 1, 8), (40,), PassesAxis(0, 8, 5)),
    (PassesAxis(1, 2), (5, 2, 4), (5, 8), PassesAxis(0, 1, 5)),
    (PassesAxis(0, 8, 5), (40,), (5, 1, 8), PassesAxis(1)),
])
def test_where_the_passes_go_in_a_reshape(
    axis: PassesAxis, old: tuple[int, ...], new: tuple[int, ...], result: PassesAxis
) -> None:
    assert reshaped_axis(axis, old, new) == result


@pytest.mark.parametrize('kind, shape', [
    ('element', (4, 6, 5)), ('channel', (4, 1, 1))])
def test_each_kind_has_its_mask(kind: str, shape: tuple[int, ...]) -> None:
    masked, sites = dropout_to_masks(graph([drop('x', 'y', kind)], (1, 4, 6, 5), (1, 4, 6, 5)))
    assert sites == (DropoutSite('mask_y', shape, 0.4),)
    info = masked.graph.input[1]
    assert info.type.tensor_type.elem_type == TensorProto.FLOAT


def test_dropped_channels_need_the_batch_in_front() -> None:
    nodes = [NODE('Transpose', ['x'], ['t'], perm=[1, 0, 2]), drop('t', 'y', 'channel')]
    with pytest.raises(GraphError, match='the batch on axis 0'):
        dropout_to_masks(graph(nodes, (1, 4, 6), (4, 1, 6)))
