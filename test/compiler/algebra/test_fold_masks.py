# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Folding masks and batch norms into weights, or weights into masks, keeps the output."""

from graph_samples import (
    drop,
    masked,
    network,
    node,
    ops,
    parts,
    run,
    run_split,
    TOLERANCE,
    weights,
    X,
)
import numpy as np
import onnx
import pytest

from uncertainty_seg.compiler.algebra import move_masks
from uncertainty_seg.compiler.algebra.move_masks import fold_masks
from uncertainty_seg.compiler.frontend.constant_folding import fold_batch_norm
from uncertainty_seg.errors import GraphError

W1, W3 = weights(4, 6, 1, 1), weights(4, 6, 3, 3)
RELU = node('Relu', 'x', 'r')
D = drop('r', 'd')
OUT = node('Tanh', 'c', 'output')


def folded(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> tuple[
        list[str], tuple]:
    plain, sites = masked(nodes, constants)
    trunk, head, masks, expected = parts(plain, sites)
    result, decisions = fold_masks(head, sites, 9)
    np.testing.assert_allclose(run_split(trunk, result, masks), expected, atol=TOLERANCE)
    return ops(result), decisions


@pytest.mark.parametrize('bias', [True, False])
def test_a_1x1_convolution_becomes_one_matrix_product(bias: bool) -> None:
    conv = node('Conv', 'd w b' if bias else 'd w', 'c', kernel_shape=[1, 1])
    found, (decision,) = folded([RELU, D, conv, OUT], {'w': W1, 'b': weights(4)})
    assert 'MatMul' in found and 'Conv' not in found and ('Add' in found) == bias
    assert decision.is_applied and decision.where == 'mask_d'


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('size, attributes', [
    ((3, 3), {'pads': [1, 1, 1, 1]}), ((3, 3), {}), ((2, 3), {'pads': [1, 0, 0, 2]}),
    ((3, 3), {'dilations': [2, 3], 'pads': [2, 1, 0, 1]}), ((1, 1), {'pads': [1, 0, 2, 1]})])
def test_a_convolution_becomes_a_product_of_what_each_pixel_sees(
    size: tuple[int, int], attributes: dict[str, list[int]], bias: bool
) -> None:
    conv = node('Conv', 'd w b' if bias else 'd w', 'c', **attributes)
    found, (decision,) = folded([RELU, D, conv, OUT], {'w': weights(4, 6, *size), 'b': weights(4)})
    assert 'Conv' not in found and found.count('Slice') == size[0] * size[1]
    assert decision.is_applied


@pytest.mark.parametrize('spare, is_applied', [(0, True), (1, False)])
def test_what_all_pixels_see_is_not_laid_out_where_it_is_large(
    spare: int, is_applied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move_masks, 'MOST_SEEN_BYTES', 4 * 9 * 6 * 80 - spare)
    conv = node('Conv', 'd w', 'c', pads=[1, 1, 1, 1])
    _, (decision,) = folded([RELU, D, conv, OUT], {'w': W3})
    assert decision.is_applied == is_applied


@pytest.mark.parametrize('nodes, constants, words', [
    ([drop('r', 'd', 'element'), node('Conv', 'd w', 'c')], {'w': W1}, 'no mask over whole'),
    ([D, node('Sigmoid', 'd', 'c')], {}, "Sigmoid 'c' follows"),
    ([D, node('Conv', 'd w', 'c', group=2)], {'w': weights(4, 3, 1, 1)}, 'works in groups'),
    ([D, node('Conv', 'd w', 'c', kernel_shape=[3, 3])], {'w': weights(24, 6, 3, 3)},
     '216 weights an input channel for 80 pixels'),
    ([D, node('Conv', 'd w', 'c', kernel_shape=[1, 1])], {'w': weights(81, 6, 1, 1)},
     '81 weights an input channel for 80 pixels'),
    ([D, node('Exp', 'w', 'e'), node('Conv', 'd e', 'c')], {'w': W1}, 'computed weights'),
    ([D, node('Conv', 'd w', 'c')], {'w': W3}, '9 taps for 8 passes'),
    ([D, node('Conv', 'd w', 'c')], {'w': weights(17, 6, 1, 1)}, '17 outputs, more than 16'),
    ([D, node('Conv', 'd w', 'c', strides=[2, 2])], {'w': W1}, 'skips pixels'),
    ([D, node('Conv', 'd w', 'c', auto_pad='SAME_LOWER')], {'w': W1}, 'pads by itself'),
    ([D, node('Conv', 'd w', 'a', kernel_shape=[1, 1]), node('Abs', 'd', 'b'),
      node('Conv', 'b w', 'e'), node('Add', 'a e', 'c')], {'w': W1}, "Abs 'b' follows"),
])
def test_what_is_not_folded_stays_and_says_why(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], words: str
) -> None:
    plain, sites = masked([RELU, *nodes, OUT], constants)
    _, head, _, _ = parts(plain, sites)
    result, (decision,) = fold_masks(head, sites, 8)
    assert not decision.is_applied and words in decision.reason
    assert ops(result) == ops(head)


# -------------------------------------------------------------------------------------------------
# A batch normalisation is folded into the weights before it, and nowhere else.

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
    folded = fold_batch_norm(model)
    assert ops(folded) == [linear.op_type, 'Relu']
    np.testing.assert_allclose(run(folded, {'x': X})[0], run(model, {'x': X})[0], atol=TOLERANCE)


@pytest.mark.parametrize('why', ['before', 'shared', 'activation', 'computed'])
def test_a_norm_that_cannot_move_stays(why: str) -> None:
    bn, statistics = norm({'before': 'x', 'activation': 'r'}.get(why, 'c'), 'n',
                          6 if why == 'before' else 4)
    constants = {'w': weights(4, 6, 3, 3), 'w2': weights(5, 6, 3, 3), **statistics}
    last = node('Add', 'n c', 'output') if why == 'shared' else node('Relu', 'n', 'output')
    nodes = {'before': [bn], 'shared': [node('Conv', 'x w', 'c'), bn],
             'activation': [node('Conv', 'x w', 'c'), node('Relu', 'c', 'r'), bn],
             'computed': [node('Exp', 'w', 'e'), node('Conv', 'x e', 'c'), bn]}[why]
    model = network([*nodes, last], constants)
    assert ops(fold_batch_norm(model)) == ops(model)


@pytest.mark.parametrize('way', ['attribute', 'outputs'])
def test_a_norm_in_training_mode_is_refused_by_name(way: str) -> None:
    bn, statistics = norm('x', 'output', 6, training_mode=1)
    if way == 'outputs':
        bn.attribute[0].i = 0
        bn.output.append('running_mean')
    with pytest.raises(GraphError, match="'output' is in training mode, expected eval mode"):
        fold_batch_norm(network([bn], statistics))
