# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A mask moves behind what commutes with it, no further, and only where that saves work."""

from graph_samples import CHANNELS, drop, masked, node, ops, parts, run_split, TOLERANCE, weights
import numpy as np
import onnx
import pytest

from uncertainty_seg.compiler.algebra.move_masks import push_masks

PASSED = {
    'relu': node('Relu', 'd', 'y'),
    'leaky': node('LeakyRelu', 'd', 'y', alpha=0.2),
    'prelu': node('PRelu', 'd slope', 'y'),
    'max_pool': node('MaxPool', 'd', 'y', kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
    'average_pool': node('AveragePool', 'd', 'y', kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    'global_pool': node('GlobalAveragePool', 'd', 'y'),
    'mean': node('ReduceMean', 'd sides', 'y'),
    'linear': node('Resize', 'd - twice', 'y', mode='linear'),
    'pad': node('Pad', 'd pads', 'y'),
    'pad_reflect': node('Pad', 'd pads', 'y', mode='reflect'),
    'depthwise': node('Conv', 'd deep', 'y', group=CHANNELS, pads=[1, 1, 1, 1]),
    'depthwise_bias': node('Conv', 'd deep bias', 'y', group=CHANNELS, pads=[1, 1, 1, 1]),
    'scale': node('Mul', 'scale d', 'y'),
    'quotient': node('Div', 'd scale', 'y'),
    'gate': node('Mul', 'd gate', 'y'),
    'negative': node('Neg', 'd', 'y'),
}
CONSTANTS = {
    'slope': weights(CHANNELS, 1, 1), 'twice': np.array([1, 1, 2, 2], np.float32),
    'pads': np.array([0, 0, 1, 2, 0, 0, 2, 1]), 'deep': weights(CHANNELS, 1, 3, 3),
    'bias': weights(CHANNELS), 'scale': weights(1, CHANNELS, 1, 1), 'last': weights(4, 6, 1, 1),
    'full': weights(6, 6, 3, 3), 'b6': weights(6), 'up': weights(6, 6, 4, 4),
    'sides': np.array([2, 3]), 'second': np.array([1]),
}
HEAD = node('Sigmoid', 'y', 'output')  # a factor cannot be taken out of it
GATE = [node('GlobalAveragePool', 'x', 'g'), node('Sigmoid', 'g', 'gate')]


def pushed(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray] = CONSTANTS,
           passes: int = 20) -> tuple[list[str], list[str], tuple]:
    """Push, check that nothing changed, and return the operators of trunk and head."""
    plain, sites = masked(nodes, constants)
    _, _, _, expected = parts(plain, sites)
    result, decisions = push_masks(plain, sites, passes)
    trunk, head, masks, whole = parts(result, sites)
    np.testing.assert_allclose(whole, expected, atol=TOLERANCE)
    np.testing.assert_allclose(run_split(trunk, head, masks), expected, atol=TOLERANCE)
    return ops(trunk), ops(head), decisions


@pytest.mark.parametrize('kind', PASSED)
def test_a_channel_mask_moves_behind(kind: str) -> None:
    trunk, head, (decision,) = pushed([*GATE, drop('x', 'd'), PASSED[kind], HEAD])
    assert decision.is_applied and decision.saved > 0
    assert decision.where == 'mask_d' and PASSED[kind].op_type in decision.reason
    assert trunk[-1] == PASSED[kind].op_type
    assert head == ['Mul', 'Add', 'Sigmoid'] if 'bias' in kind else head == ['Mul', 'Sigmoid']


@pytest.mark.parametrize('kind', ['relu', 'leaky', 'prelu', 'scale', 'negative'])
def test_an_element_mask_moves_behind_what_works_on_elements(kind: str) -> None:
    _, head, (decision,) = pushed([drop('x', 'd', 'element'), PASSED[kind], HEAD])
    assert decision.is_applied and head == ['Mul', 'Sigmoid']


@pytest.mark.parametrize('kind', ['max_pool', 'linear', 'depthwise', 'mean'])
def test_an_element_mask_stays_before_what_mixes_elements(kind: str) -> None:
    trunk, head, (decision,) = pushed(
        [node('Relu', 'x', 'r'), drop('r', 'd', 'element'), PASSED[kind], HEAD])
    assert not decision.is_applied and 'needs it before' in decision.reason
    assert trunk == ['Relu']


@pytest.mark.parametrize('other', [
    node('Conv', 'd full', 'y'), node('Sigmoid', 'd', 'y'), node('Add', 'd scale', 'y'),
    node('Clip', 'd', 'y'), node('ReduceMean', 'd second', 'y'),
    node('Pad', 'd pads bias0', 'y'), node('Div', 'scale d', 'y'),
    node('DepthToSpace', 'd', 'y', blocksize=1),
])
def test_a_channel_mask_stays_before_what_does_not_commute(other: onnx.NodeProto) -> None:
    constants = {**CONSTANTS, 'bias0': np.array(1, np.float32),
                 'scale': np.ones((1, 6, 1, 1), np.float32)}
    plain, sites = masked([node('Exp', 'x', 'e'), drop('e', 'd'), other, node(
        'Identity', 'y', 'output')], constants)
    result, (decision,) = push_masks(plain, sites)
    assert not decision.is_applied and ops(result) == ops(plain)


@pytest.mark.parametrize('nodes', [
    [node('Conv', 'd full b6', 'y', pads=[1, 1, 1, 1])],
    [node('ConvTranspose', 'd up b6', 'y', strides=[2, 2])],
    [node('Conv', 'd full', 'h'), node('Relu', 'h', 'i'), node('Conv', 'i full', 'y')],
    [node('DepthToSpace', 'd', 'y', blocksize=1)],
    [node('MatMul', 'd right', 'y')],
    [node('Transpose', 'd', 'y', perm=[0, 2, 3, 1])],
])
def test_the_mask_of_a_branch_moves_behind_every_linear_operation(
    nodes: list[onnx.NodeProto]
) -> None:
    constants = {**CONSTANTS, 'right': weights(10, 3), 'ones': np.ones((1, 1, 1, 1), np.float32)}
    path = [drop('ones', 'm', 'element'), node('Mul', 'x m', 'd')]
    trunk, _, (decision,) = pushed([*path, *nodes, HEAD], constants)
    assert decision.is_applied and trunk == [n.op_type for n in nodes]


def test_a_mask_goes_through_a_chain_to_where_it_is_cheapest() -> None:
    """Up and down again: the middle is dearer to mask than the end."""
    nodes = [drop('x', 'd'), node('Resize', 'd - twice', 'u', mode='linear'),
             node('Relu', 'u', 'r'),
             node('MaxPool', 'r', 'y', kernel_shape=[4, 4], strides=[4, 4]), HEAD]
    trunk, head, (decision,) = pushed(nodes)
    assert trunk == ['Resize', 'Relu', 'MaxPool'] and head == ['Mul', 'Sigmoid']
    assert 'Resize, Relu, MaxPool' in decision.reason


def test_a_mask_stays_where_moving_it_costs_more() -> None:
    """For two passes the four times larger product is dearer than one resize saved."""
    nodes = [drop('x', 'd'), node('Resize', 'd - twice', 'y', mode='nearest'), HEAD]
    _, head, (decision,) = pushed(nodes, passes=2)
    assert not decision.is_applied and 'costs more than it saves' in decision.reason
    assert head == ['Mul', 'Resize', 'Sigmoid']


def test_a_mask_with_two_users_is_doubled_where_both_save() -> None:
    nodes = [drop('x', 'd'),
             node('MaxPool', 'd', 'a', kernel_shape=[2, 2], strides=[2, 2]),
             node('AveragePool', 'd', 'b', kernel_shape=[2, 2], strides=[2, 2]),
             node('Sub', 'a b', 'y'), HEAD]
    trunk, head, (decision,) = pushed(nodes)
    assert decision.is_applied and sorted(trunk) == ['AveragePool', 'MaxPool']
    assert head == ['Mul', 'Mul', 'Sub', 'Sigmoid']


def test_a_mask_that_folds_into_the_weights_does_not_leave_them() -> None:
    """Behind the upsampling the mask is free, since the 1x1 convolution takes it."""
    nodes = [drop('x', 'd'), node('Resize', 'd - twice', 'u', mode='linear'),
             node('Conv', 'u last', 'y', kernel_shape=[1, 1]), HEAD]
    trunk, head, _ = pushed(nodes, passes=2)
    assert trunk == ['Resize'] and head == ['Mul', 'Conv', 'Sigmoid']
