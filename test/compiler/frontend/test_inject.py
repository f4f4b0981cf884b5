# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Dropout is injected at the requested places; operators that cannot compile are named."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, TensorProto
from onnx_front_end_helpers import make, make_static, N, run, values
import pytest

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.compiler.frontend.inject import inject_dropout
from uncertainty_seg.compiler.frontend.lint import free_names, require_compilable
from uncertainty_seg.compiler.onnx_tools import attribute
from uncertainty_seg.core.dropout_masks import make_masks, ones_masks
from uncertainty_seg.errors import GraphError

I64 = np.int64


def unet(upsampling: str = 'Resize') -> onnx.ModelProto:
    """Make a net with one level down and up, two blocks after the upsampling, resized logits."""
    up = (N('Resize', ['d2', '', 'twice'], ['u'], name='up', mode='linear')
          if upsampling == 'Resize' else
          N('ConvTranspose', ['d2', 'wt'], ['u'], name='up', strides=[2, 2]))
    pads = {'pads': [1] * 4}
    nodes = [
        N('Conv', ['x', 'w1'], ['c1'], name='enc', **pads), N('Relu', ['c1'], ['r1']),
        N('MaxPool', ['r1'], ['d1'], kernel_shape=[2, 2], strides=[2, 2]),
        N('Conv', ['d1', 'w2'], ['c2'], name='mid', **pads), N('Relu', ['c2'], ['d2']), up,
        N('Concat', ['u', 'r1'], ['cat'], axis=1),
        N('Conv', ['cat', 'w3'], ['c3'], name='dec1', **pads),
        N('BatchNormalization', ['c3', 'one', 'zero', 'zero', 'one'], ['n3']),
        N('Relu', ['n3'], ['r3']), N('Conv', ['r3', 'w2'], ['c4'], name='dec2', **pads),
        N('Sigmoid', ['c4'], ['s4']), N('Mul', ['c4', 's4'], ['m4']),
        N('Conv', ['m4', 'w5', 'b5'], ['z'], name='classifier'),
        N('Resize', ['z', '', 'twice'], ['y'], mode='linear'),
    ]
    tensors = {'w1': values(8, 3, 3, 3), 'w2': values(8, 8, 3, 3), 'wt': values(8, 8, 2, 2),
               'w3': values(8, 16, 3, 3), 'w5': values(4, 8, 1, 1), 'b5': values(4),
               'one': np.ones(8, np.float32), 'zero': np.zeros(8, np.float32),
               'twice': np.array([1, 1, 2, 2], np.float32)}
    return make_static(make(nodes, tensors), 8, 16)


def dropped(model: onnx.ModelProto) -> list[tuple[str, str, str]]:
    """Return tensor, kind and site of each marker."""
    return [(n.input[0], attribute(n, 'kind'), attribute(n, 'site')) for n in model.graph.node
            if n.domain == 'uncertainty_seg']


@pytest.mark.parametrize('where, expected', [
    ('head', [('m4', 'channel', 'head')]),
    ('decoder', [('r3', 'channel', 'decoder_1'), ('m4', 'channel', 'decoder_2')]),
    ('r1', [('r1', 'channel', 'r1')]),
    ('mid', [('c2', 'channel', 'mid')]),
    ('u, head', [('u', 'channel', 'u'), ('m4', 'channel', 'head')]),
    ('decoder,head', [('r3', 'channel', 'decoder_1'), ('m4', 'channel', 'decoder_2')]),
])
def test_dropout_stands_where_it_was_asked_for(
    where: str, expected: list[tuple[str, str, str]]
) -> None:
    model, sites = inject_dropout(unet(), 0.25, where)
    assert dropped(model) == expected
    assert sites == tuple(site for *_, site in expected)
    assert {attribute(n, 'p') for n in model.graph.node if n.domain} == {0.25}


def test_with_masks_of_ones_the_network_is_as_before_and_with_others_not() -> None:
    before = unet()
    model, sites = inject_dropout(before, 0.5, 'decoder')
    masked, found = dropout_to_masks(model)
    assert [site.name for site in found] == [f'mask_{site}' for site in sites]
    assert [site.shape for site in found] == [(8, 1, 1), (8, 1, 1)]

    def masked_run(masks: dict[str, np.ndarray]) -> np.ndarray:
        fixed = onnx.ModelProto()
        fixed.CopyFrom(masked)
        del fixed.graph.input[1:]
        fixed.graph.initializer.extend(
            onnx.numpy_helper.from_array(value, name) for name, value in masks.items())
        return run(fixed)[0]
    np.testing.assert_array_equal(masked_run(ones_masks(found, 1)), run(before)[0])
    assert np.abs(masked_run(make_masks(found, 1, 0)) - run(before)[0]).max() > 0.1


@pytest.mark.parametrize('where, words', [
    ('decodre', "no node or tensor 'decodre'.*'head', 'decoder', or a name"),
    ('dec3', "no node or tensor 'dec3'.*did you mean .*dec1"),
    ('y', "'y' is the output, expected a tensor before"),
    (' , ', "'head', 'decoder', or names"),
])
def test_a_place_that_is_not_there_is_refused(where: str, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        inject_dropout(unet(), 0.5, where)


def test_a_network_without_a_decoder_says_so() -> None:
    nodes = [N('Conv', ['x', 'w'], ['c']), N('Relu', ['c'], ['r']), N('Conv', ['r', 'v'], ['y'])]
    model = make_static(make(nodes, {'w': values(4, 3, 1, 1), 'v': values(4, 4, 1, 1)}), 8, 16)
    with pytest.raises(GraphError, match="no convolution behind an upsampling.*use 'head'"):
        inject_dropout(model, 0.5, 'decoder')


def test_logits_of_two_convolutions_are_dropped_before_both_and_nowhere_else() -> None:
    """Use LR-ASPP's form, whose first classifier shares its input with the encoder."""
    nodes = [N('Conv', ['x', 'w'], ['c']), N('Relu', ['c'], ['low']),
             N('Conv', ['low', 'v'], ['d']), N('Relu', ['d'], ['high']),
             N('Conv', ['low', 'v'], ['p']), N('Conv', ['high', 'v'], ['q']),
             N('Add', ['p', 'q'], ['y'])]
    net = make_static(make(nodes, {'w': values(4, 3, 1, 1), 'v': values(4, 4, 1, 1)}), 8, 16)
    model, sites = inject_dropout(net, 0.5, 'head')
    assert sorted(sites) == ['head_1', 'head_2']
    assert [kind for _, kind, _ in dropped(model)] == ['channel', 'channel']
    read = {n.output[0]: n.input[0] for n in model.graph.node}
    assert (read['d'], read[read[read['p']]], read[read['q']]) == ('low', 'low', 'high')


def loop() -> onnx.NodeProto:
    body = helper.make_graph(
        [N('Identity', ['go'], ['on']), N('Add', ['v', 'v'], ['w'])], 'body',
        [helper.make_tensor_value_info('i', TensorProto.INT64, []),
         helper.make_tensor_value_info('go', TensorProto.BOOL, []),
         helper.make_tensor_value_info('v', TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info('on', TensorProto.BOOL, []),
         helper.make_tensor_value_info('w', TensorProto.FLOAT, None)])
    return N('Loop', ['n', '', 'x'], ['y'], name='bad', body=body)


def branch() -> onnx.NodeProto:
    graphs = [helper.make_graph([N(op, ['x'], [word])], word, [], [
        helper.make_tensor_value_info(word, TensorProto.FLOAT, None)])
        for op, word in (('Relu', 't'), ('Neg', 'e'))]
    return N('If', ['is_bright'], ['y'], name='bad', then_branch=graphs[0], else_branch=graphs[1])


def dropping_branch() -> onnx.NodeProto:
    node = branch()
    node.attribute[0].g.node[0].op_type = 'Dropout'
    return node


BAD: dict[str, tuple[list[onnx.NodeProto], str]] = {
    'bernoulli': ([N('Bernoulli', ['x'], ['y'], name='bad')], "'bad' is Bernoulli, random"),
    'normal': ([N('RandomNormalLike', ['x'], ['y'], name='bad')], "'bad' is RandomNormalLike"),
    'uniform': ([N('RandomUniform', [], ['r'], name='bad', shape=[16]),
                 N('Add', ['x', 'r'], ['y'])],
                "'bad' is RandomUniform"),
    'loop': ([loop()], "'bad' is Loop, control flow that depends"),
    'if': ([N('ReduceMax', ['x'], ['m'], keepdims=0), N('Greater', ['m', 'half'], ['is_bright']),
            branch()], "'bad' is If, control flow that depends"),
    'dropout in a branch': (
        [N('ReduceMax', ['x'], ['m'], keepdims=0), N('Greater', ['m', 'half'], ['is_bright']),
         dropping_branch()], "'bad' is If, control flow .* and which holds Dropout"),
    'list': ([N('SequenceConstruct', ['x', 'x'], ['l'], name='bad'),
              N('SequenceErase', ['l'], ['e']), N('ConcatFromSequence', ['e'], ['y'], axis=1)],
             "'bad' is SequenceConstruct, a list"),
    'mask': ([N('Dropout', ['x', 'half'], ['d', 'm'], name='bad'), N('Cast', ['m'], ['f'], to=1),
              N('Add', ['d', 'f'], ['y'])], "mask of dropout 'bad' is read"),
}


@pytest.mark.parametrize('name', BAD)
def test_what_can_never_be_compiled_is_refused_by_name(name: str) -> None:
    nodes, words = BAD[name]
    tensors: dict[str, Any] = {'n': np.array(3, I64), 'half': np.array(.5, np.float32)}
    model = make_static(make(nodes, tensors), 8, 16)
    with pytest.raises(GraphError, match=words):
        require_compilable(model)


def test_a_computed_rate_is_refused_by_name() -> None:
    nodes = [N('ReduceMax', ['x'], ['m'], keepdims=0),
             N('Dropout', ['x', 'm', 'yes'], ['y'], name='bad')]
    with pytest.raises(GraphError, match="'bad' has a computed rate"):
        dropout_to_masks(make_static(make(nodes, {'yes': np.array(True)}), 8, 16))


def test_our_names_are_kept_free_and_nothing_else_changes() -> None:
    nodes = [N('Relu', ['image'], ['mask_head']),
             N('Mul', ['mask_head', 'image_scale'], ['net_image']),
             N('Add', ['net_image', 'mask_head'], ['logits'])]
    model = make(nodes, {'image_scale': values(1)}, source='image', outputs=('logits',))
    free = free_names(model)
    assert [i.name for i in (*free.graph.input, *free.graph.output)] == [
        'net_image_2', 'net_logits']
    assert free.graph.initializer[0].name == 'net_image_scale'
    np.testing.assert_array_equal(run(free)[0], run(model)[0])
    plain = unet()
    assert free_names(plain) == plain
