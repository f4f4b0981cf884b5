# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A batch normalisation moves into the weights before it, and nowhere else."""

from graph_algebra import drop, network, node, ops, parts, run, run_split, TOLERANCE, weights, X
import numpy as np
import onnx
import pytest

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.graph.algebra.fold_masks import fold_batch_norm

STATISTICS = 'gain shift mean variance'


def norm(data: str, output: str, channels: int, **attributes: object) -> tuple[
        onnx.NodeProto, dict[str, np.ndarray]]:
    rng = np.random.default_rng(channels)
    names = [f'{output}_{name}' for name in STATISTICS.split()]
    values = [rng.normal(size=channels), rng.normal(size=channels), rng.normal(size=channels),
              rng.uniform(0.5, 2, channels)]
    made = node('BatchNormalization', ' '.join([data, *names]), output, **attributes)
    return made, {k: v.astype(np.float32) for k, v in zip(names, values, strict=True)}


LINEAR = {
    'conv': (node('Conv', 'x w b', 'c', pads=[1, 1, 1, 1]),
             {'w': weights(4, 6, 3, 3), 'b': weights(4)}, 4),
    'conv_without_bias': (node('Conv', 'x w', 'c', strides=[2, 2]), {'w': weights(4, 6, 3, 3)}, 4),
    'depthwise': (node('Conv', 'x w', 'c', group=6), {'w': weights(6, 1, 3, 3)}, 6),
    'transposed': (node('ConvTranspose', 'x w b', 'c', strides=[2, 2]),
                   {'w': weights(6, 4, 2, 2), 'b': weights(4)}, 4),
    'transposed_groups': (node('ConvTranspose', 'x w', 'c', group=2), {'w': weights(6, 4, 2, 2)},
                          8),
}


@pytest.mark.parametrize('kind', LINEAR)
def test_a_norm_behind_a_convolution_is_folded(kind: str) -> None:
    linear, constants, channels = LINEAR[kind]
    bn, statistics = norm('c', 'n', channels, epsilon=1e-3)
    model = network([linear, bn, node('Relu', 'n', 'output')], {**constants, **statistics})
    folded, (decision,) = fold_batch_norm(model)
    assert ops(folded) == [linear.op_type, 'Relu']
    assert decision.is_applied and decision.saved > 0
    np.testing.assert_allclose(run(folded, {'x': X})[0], run(model, {'x': X})[0], atol=TOLERANCE)


@pytest.mark.parametrize('beta, bias', [(1.0, 5), (0.5, 5), (0.0, 5), (2.0, 1)])
@pytest.mark.parametrize('is_transposed', [0, 1])
def test_a_norm_behind_gemm_is_folded(is_transposed: int, beta: float, bias: int) -> None:
    bn, statistics = norm('c', 'output', 5)
    w = weights(6, 5)
    constants = {'w': w.T.copy() if is_transposed else w, 'b': weights(bias), **statistics}
    model = network([
        node('GlobalAveragePool', 'x', 'g'), node('Flatten', 'g', 'f'),
        node('Gemm', 'f w b', 'c', transB=is_transposed, alpha=0.7, beta=beta), bn], constants)
    folded, _ = fold_batch_norm(model)
    assert ops(folded)[-1] == 'Gemm'
    np.testing.assert_allclose(run(folded, {'x': X})[0], run(model, {'x': X})[0], atol=TOLERANCE)


def test_two_convolutions_that_share_weights_keep_their_own() -> None:
    first, one = norm('a', 'na', 4)
    second, two = norm('b', 'nb', 4)
    two = {k: v + 1 for k, v in two.items()}
    model = network([node('Conv', 'x w', 'a'), node('Conv', 'x w', 'b'), first, second,
                     node('Sub', 'na nb', 'output')], {'w': weights(4, 6, 3, 3), **one, **two})
    folded, decisions = fold_batch_norm(model)
    assert [d.is_applied for d in decisions] == [True, True]
    np.testing.assert_allclose(run(folded, {'x': X})[0], run(model, {'x': X})[0], atol=TOLERANCE)


@pytest.mark.parametrize('why, words', [
    ('before', 'stands behind an input'), ('shared', "Conv 'c' has other users"),
    ('activation', 'stands behind Relu'), ('computed', 'computed weights')])
def test_a_norm_that_cannot_move_stays_and_says_why(why: str, words: str) -> None:
    bn, statistics = norm({'before': 'x', 'activation': 'r'}.get(why, 'c'), 'n',
                          6 if why == 'before' else 4)
    constants = {'w': weights(4, 6, 3, 3), 'w2': weights(5, 6, 3, 3), **statistics}
    last = node('Add', 'n c', 'output') if why == 'shared' else node('Relu', 'n', 'output')
    nodes = {'before': [bn], 'shared': [node('Conv', 'x w', 'c'), bn],
             'activation': [node('Conv', 'x w', 'c'), node('Relu', 'c', 'r'), bn],
             'computed': [node('Exp', 'w', 'e'), node('Conv', 'x e', 'c'), bn]}[why]
    model = network([*nodes, last], constants)
    folded, (decision,) = fold_batch_norm(model)
    assert not decision.is_applied and words in decision.reason
    assert ops(folded) == ops(model)


@pytest.mark.parametrize('way', ['attribute', 'outputs'])
def test_a_norm_in_training_mode_is_refused_by_name(way: str) -> None:
    bn, statistics = norm('x', 'output', 6, training_mode=1)
    if way == 'outputs':
        bn.attribute[0].i = 0
        bn.output.append('running_mean')
    with pytest.raises(GraphError, match="'output' is in training mode, expected eval mode"):
        fold_batch_norm(network([bn], statistics))


def test_folding_before_the_masks_leaves_the_passes_as_they_were() -> None:
    bn, statistics = norm('c', 'n', 4)
    last, more = norm('h', 'output', 3)
    model = network(
        [node('Conv', 'x w', 'c'), bn, drop('n', 'd'), node('Conv', 'd v', 'h'), last],
        {'w': weights(4, 6, 3, 3), 'v': weights(3, 4, 3, 3), **statistics, **more})
    folded, decisions = fold_batch_norm(model)
    assert [d.is_applied for d in decisions] == [True, True]
    plain, sites = dropout_to_masks(model)
    trunk, head, masks, expected = parts(plain, sites)
    trunk, head, masks, _ = parts(*dropout_to_masks(folded))
    np.testing.assert_allclose(run_split(trunk, head, masks), expected, atol=TOLERANCE)
