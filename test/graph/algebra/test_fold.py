# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A channel mask folds into the weights behind it where that is cheaper, and is exact."""

from graph_algebra import drop, masked, node, ops, parts, run_split, TOLERANCE, weights
import numpy as np
import onnx
import pytest

from uncertainty_seg.graph.algebra.fold_masks import fold_masks

W1, W3 = weights(4, 6, 1, 1), weights(4, 6, 3, 3)
RELU = node('Relu', 'x', 'r')
D = drop('r', 'd')
OUT = node('Tanh', 'c', 'output')


def folded(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> tuple[
        list[str], tuple]:
    plain, sites = masked(nodes, constants)
    trunk, head, masks, expected = parts(plain, sites)
    result, decisions = fold_masks(head)
    np.testing.assert_allclose(run_split(trunk, result, masks), expected, atol=TOLERANCE)
    return ops(result), decisions


@pytest.mark.parametrize('bias', [True, False])
def test_a_1x1_convolution_becomes_one_matrix_product(bias: bool) -> None:
    conv = node('Conv', 'd w b' if bias else 'd w', 'c', kernel_shape=[1, 1])
    found, (decision,) = folded([RELU, D, conv, OUT], {'w': W1, 'b': weights(4)})
    assert 'MatMul' in found and 'Conv' not in found and ('Add' in found) == bias
    assert decision.is_applied and decision.where == 'mask_d' and decision.saved > 0


@pytest.mark.parametrize('attributes', [
    {'pads': [1, 1, 1, 1]}, {'strides': [2, 2]}, {'dilations': [2, 2], 'pads': [2, 1, 0, 1]},
    {'auto_pad': 'SAME_UPPER'}])
def test_a_larger_kernel_becomes_one_convolution_at_batch_1(attributes: dict) -> None:
    conv = node('Conv', 'd w b', 'c', kernel_shape=[3, 3], **attributes)
    found, (decision,) = folded([RELU, D, conv, OUT], {'w': W3, 'b': weights(4)})
    assert found.count('Conv') == 1 and found.count('Mul') == 1
    assert decision.is_applied and "Conv 'c'" in decision.reason


def test_a_1x1_convolution_with_strides_is_a_convolution_still() -> None:
    conv = node('Conv', 'd w', 'c', kernel_shape=[1, 1], strides=[2, 2])
    found, (decision,) = folded([RELU, D, conv, OUT], {'w': W1})
    assert 'Conv' in found and decision.is_applied


def test_a_mask_before_several_convolutions_folds_into_each() -> None:
    nodes = [RELU, D, node('Conv', 'd w', 'a', kernel_shape=[1, 1]),
             node('Conv', 'd v', 'b', kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
             node('Add', 'a b', 'c'), OUT]
    found, (decision,) = folded(nodes, {'w': W1, 'v': W3})
    assert decision.is_applied and found.count('MatMul') == found.count('Conv') == 1


@pytest.mark.parametrize('rank', [3, 4])
def test_a_mask_over_columns_folds_into_a_product(rank: int) -> None:
    """No dropout makes such a mask by itself; a product of rows and columns does."""
    rows = [1, 1, 16, 30] if rank == 4 else [1, 16, 30]
    plain, sites = masked([node('Reshape', 'x rows', 'r'), drop('r', 'd'),
                           node('MatMul', 'd w', 'output')],
                          {'rows': np.array(rows), 'w': weights(30, 8)})
    trunk, head, _, _ = parts(plain, sites)
    del head.graph.input[-1]
    head.graph.input.append(onnx.helper.make_tensor_value_info(
        'mask_d', onnx.TensorProto.FLOAT, ['T', *[1] * (rank - 2), 30]))
    rng = np.random.default_rng(2)
    masks = {'mask_d': rng.uniform(size=(5, *[1] * (rank - 2), 30)).astype(np.float32)}
    result, (decision,) = fold_masks(head)
    assert decision.is_applied
    np.testing.assert_allclose(run_split(trunk, result, masks), run_split(trunk, head, masks),
                               atol=TOLERANCE)


@pytest.mark.parametrize('nodes, constants, words', [
    ([drop('r', 'd', 'element'), node('Conv', 'd w', 'c')], {'w': W1}, 'no mask over whole'),
    ([D, node('Sigmoid', 'd', 'c')], {}, "Sigmoid 'c' follows"),
    ([D, node('Conv', 'd w', 'c', group=2)], {'w': weights(4, 3, 1, 1)}, 'works in groups'),
    ([D, node('Conv', 'd w', 'c', kernel_shape=[3, 3])], {'w': weights(24, 6, 3, 3)},
     '216 weights an input channel for 80 pixels'),
    ([D, node('Conv', 'd w', 'c', kernel_shape=[1, 1])], {'w': weights(81, 6, 1, 1)},
     '81 weights an input channel for 80 pixels'),
    ([D, node('Exp', 'w', 'e'), node('Conv', 'd e', 'c')], {'w': W1}, 'computed weights'),
    ([D, node('Conv', 'd w', 'a'), node('Abs', 'd', 'b'), node('Conv', 'b w', 'e'),
      node('Add', 'a e', 'c')], {'w': W1}, "Abs 'b' follows"),
])
def test_what_is_not_folded_stays_and_says_why(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], words: str
) -> None:
    plain, sites = masked([RELU, *nodes, OUT], constants)
    _, head, _, _ = parts(plain, sites)
    result, (decision,) = fold_masks(head)
    assert not decision.is_applied and words in decision.reason
    assert ops(result) == ops(head)


def test_many_weights_of_a_large_kernel_stay_in_the_batch() -> None:
    """On a large image 32 outputs of 3x3 are within the pixels, and still slower."""
    nodes = [node('Resize', 'x - scale', 'r', mode='nearest'), D,
             node('Conv', 'd w', 'c', kernel_shape=[3, 3]), OUT]
    plain, sites = masked(nodes, {'w': weights(32, 6, 3, 3),
                                  'scale': np.array([1, 1, 4, 4], np.float32)})
    _, head, _, _ = parts(plain, sites)
    _, (decision,) = fold_masks(head)
    assert not decision.is_applied and '288 weights an input channel: above 200' in decision.reason


def test_a_mask_on_what_differs_between_the_passes_is_not_considered() -> None:
    nodes = [D, node('Sigmoid', 'd', 's'), drop('s', 'e'), node('Conv', 'e w', 'c'), OUT]
    found, decisions = folded([RELU, *nodes], {'w': W1})
    assert [d.where for d in decisions] == ['mask_d'] and 'Conv' in found


@pytest.mark.parametrize('kernel, is_folded', [(3, False), (1, True)])
def test_no_convolution_of_a_symbolic_number_of_outputs_is_made_where_none_is_wanted(
    kernel: int, is_folded: bool
) -> None:
    """Such a one is refused by TensorRT; products with computed weights it takes."""
    conv = node('Conv', 'd w', 'c', kernel_shape=[kernel] * 2)
    plain, sites = masked([RELU, D, conv, OUT], {'w': weights(4, 6, kernel, kernel)})
    trunk, head, masks, expected = parts(plain, sites)
    result, (decision,) = fold_masks(head, into_kernels=False)
    assert decision.is_applied == is_folded and ('Conv' in ops(result)) != is_folded
    assert 'MatMul' in ops(result) or ops(result) == ops(head)
    np.testing.assert_allclose(run_split(trunk, result, masks), expected, atol=TOLERANCE)
