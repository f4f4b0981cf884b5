# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Mean and variance of each operator agree with 20 000 samples, and are exact where possible."""

from graph_samples import drop, masked, network, node, run, weights
import numpy as np
import onnx
import pytest

from uncertainty_seg.backends.cpu.openvino import core_of_process
from uncertainty_seg.compiler.algebra.free_passes import free_passes
from uncertainty_seg.compiler.algebra.moments import (
    propagate_moments,
    sampling_head,
)
from uncertainty_seg.compiler.frontend.lint import lint
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.errors import GraphError

DRAWS = 20_000
SHAPE = (1, 4, 6, 8)
STD = 0.5
RNG = np.random.default_rng(7)
# Elements with different deviations, 0.05 to 1, and means on both sides of every kink.
CONSTANTS = {
    'gain': RNG.uniform(0.1, 2, SHAPE).astype(np.float32),
    'offset': RNG.normal(0, 1.5, SHAPE).astype(np.float32),
    'w': weights(6, 4, 3, 3), 'b': weights(6), 'point': weights(6, 4, 1, 1),
    'deep': weights(4, 1, 3, 3), 'up': weights(4, 5, 2, 2), 'square': weights(8, 8),
    'gamma': weights(4) + 1, 'beta': weights(4), 'mu': weights(4), 'var': weights(4)**2 + 0.5,
    'slope': np.array([0.1, 0.3, -0.2, 0.7], np.float32).reshape(4, 1, 1),
    'zero': np.array(0, np.float32), 'six': np.array(6, np.float32),
    'three': np.array(3, np.float32), 'minus': np.array(-1, np.float32),
    'one': np.array(1, np.float32),
    'scale': weights(1, 4, 1, 1), 'by_two': np.array([1, 1, 2, 2], np.float32),
    'by_more': np.array([1, 1, 1.5, 3], np.float32), 'pads': np.array([0, 0, 1, 0, 0, 0, 0, 2]),
    'starts': np.array([1, 2]), 'ends': np.array([5, 8]), 'axes': np.array([2, 3]),
    'four': np.array([-1, 4, 48]),
    'flat': weights(192, 3), 'classes': weights(3),
}
# Tolerances of the mean, in units of the largest deviation, and of the variance, as a share of the
# largest variance. The sampling errors are about 0.02 and 0.05 for the worst of 200 elements.
EXACT = (0.03, 0.07)
# Quadrature with few points is rough for a kink within two deviations; the worst case here is tanh
# with deviations of 1.
POINTS = (0.08, 0.16)
SPLIT = node('Split', 'a', 'p q', axis=1, num_outputs=2)
CASES: dict[str, tuple[list[onnx.NodeProto], tuple[float, float]]] = {
    'conv': ([node('Conv', 'a w b', 'output', pads=[1, 1, 1, 1], strides=[2, 2])], EXACT),
    'conv_depthwise': ([node('Conv', 'a deep', 'output', group=4)], EXACT),
    'conv_transpose': ([node('ConvTranspose', 'a up', 'output', strides=[2, 2])], EXACT),
    'matmul': ([node('MatMul', 'a square', 'output')], EXACT),
    'gemm': ([node('Flatten', 'a', 'f'), node('Gemm', 'f flat classes', 'output', alpha=0.5)],
             EXACT),
    'batch_norm': ([node('BatchNormalization', 'a gamma beta mu var', 'output')], EXACT),
    'relu': ([node('Relu', 'a', 'output')], EXACT),
    'clip_low': ([node('Clip', 'a zero', 'output')], EXACT),
    'relu6': ([node('Mul', 'a three', 'm'), node('Clip', 'm zero six', 'output')], EXACT),
    'clip': ([node('Clip', 'a minus one', 'output')], EXACT),
    'leaky_relu': ([node('LeakyRelu', 'a', 'output', alpha=0.2)], EXACT),
    'prelu': ([node('PRelu', 'a slope', 'output')], EXACT),
    'sigmoid': ([node('Sigmoid', 'a', 'output')], EXACT),
    'tanh': ([node('Tanh', 'a', 'output')], (0.08, 0.28)),
    'hard_sigmoid': ([node('HardSigmoid', 'a', 'output')], (0.12, 0.15)),
    'hard_swish': ([node('HardSwish', 'a', 'output')], POINTS),
    'silu': ([node('Sigmoid', 'a', 's'), node('Mul', 'a s', 'output')], POINTS),
    'hard_swish_in_parts': ([node('Add', 'a three', 's'), node('Clip', 's zero six', 'c'),
                             node('Mul', 'a c', 'm'), node('Div', 'm six', 'output')],
                            POINTS),
    'elu': ([node('Elu', 'a', 'output')], POINTS),
    'average_pool': ([node('AveragePool', 'a', 'output', kernel_shape=[3, 3], strides=[2, 2],
                           pads=[1, 1, 1, 1])], EXACT),
    'average_pool_padded': ([node('AveragePool', 'a', 'output', kernel_shape=[2, 2],
                                  pads=[1, 1, 0, 0], count_include_pad=1)], EXACT),
    'global_pool': ([node('GlobalAveragePool', 'a', 'output')], EXACT),
    'reduce_mean': ([node('ReduceMean', 'a axes', 'output', keepdims=0)], EXACT),
    # Clark's formula for the maximum of two; applied pairwise to four or nine it is approximate.
    'max_pool_of_two': ([node('MaxPool', 'a', 'output', kernel_shape=[1, 2], strides=[1, 2])],
                        EXACT),
    'max_pool': ([node('MaxPool', 'a', 'output', kernel_shape=[2, 2], strides=[2, 2])],
                 (0.05, 0.1)),
    'max_pool_padded': ([node('MaxPool', 'a', 'output', kernel_shape=[3, 3], strides=[2, 2],
                              pads=[1, 1, 1, 1])], (0.08, 0.15)),
    'add_constant': ([node('Add', 'a scale', 'output')], EXACT),
    'neg': ([node('Neg', 'a', 'output')], EXACT),
    'mul_constant': ([node('Mul', 'scale a', 'output')], EXACT),
    'div_constant': ([node('Div', 'a gain', 'output')], EXACT),
    'split_and_add': ([SPLIT, node('Add', 'p q', 'output')], EXACT),
    'split_and_mul': ([SPLIT, node('Mul', 'p q', 'output')], EXACT),
    'concat': ([node('Concat', 'a a', 'output', axis=1)], EXACT),
    'concat_with_fixed': ([node('Concat', 'gains a', 'output', axis=0)], EXACT),
    'slice': ([node('Slice', 'a starts ends axes', 'output')], EXACT),
    'pad': ([node('Pad', 'a pads one', 'output')], EXACT),
    'transpose': ([node('Transpose', 'a', 'output', perm=[0, 2, 3, 1])], EXACT),
    'reshape': ([node('Reshape', 'a four', 'output')], EXACT),
    'nearest': ([node('Resize', 'a - by_two', 'output', mode='nearest',
                      coordinate_transformation_mode='asymmetric', nearest_mode='floor')], EXACT),
    'linear': ([node('Resize', 'a - by_two', 'output', mode='linear')], EXACT),
    'linear_corners': ([node('Resize', 'a - by_more', 'output', mode='linear',
                             coordinate_transformation_mode='align_corners')], EXACT),
}


def floats(*shape: int) -> np.ndarray:
    """Draw float32 numbers that are equal in every test."""
    return np.random.default_rng(11).normal(size=shape).astype(np.float32)


START = [node('Mul', 'x gain', 'm0'), node('Add', 'm0 offset', 'a')]


def moments_of(
    nodes: list[onnx.NodeProto], x: np.ndarray, std: float = STD
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of the output for independent noise on each element of x."""
    graph = propagate_moments(network(nodes, CONSTANTS, SHAPE), (), std)
    assert lint(graph) == []
    mean, variance = run(graph, {'x': x})
    return mean, variance


@pytest.mark.release
@pytest.mark.parametrize('case', CASES)
def test_moments_are_those_of_samples(case: str) -> None:
    nodes, (mean_share, variance_share) = CASES[case]
    if case == 'concat_with_fixed':
        nodes = [node('Identity', 'gain', 'gains'), *nodes]
    x = floats(*SHAPE)
    mean, variance = moments_of([*START, *nodes], x)
    noisy = x + STD * np.random.default_rng(3).normal(size=(DRAWS, *SHAPE[1:]))
    sampler = network([*START, *nodes], CONSTANTS, (DRAWS, *SHAPE[1:]))
    drawn = run(sampler, {'x': noisy.astype(np.float32)})[0]
    if case == 'concat_with_fixed':  # along the batch axis, which has the samples
        assert (variance[0] == 0).all()
        mean, variance, drawn = mean[1:], variance[1:], drawn[1:]
    drawn = drawn.reshape(DRAWS, *mean.shape[1:])
    assert (variance >= 0).all()
    deviation = drawn.std(0).max()
    assert abs(mean[0] - drawn.mean(0)).max() < mean_share * deviation
    assert abs(variance[0] - drawn.var(0)).max() < variance_share * deviation**2


# -------------------------------------------------------------------------------------------------
# Exact if a channel mask is followed by a linear layer.


def of_masks(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], x: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean and variance, and the logits (T, ...) of 20 000 drawn masks."""
    model, sites = masked(nodes, constants, x.shape)
    mean, variance = run(propagate_moments(model, sites), {'x': x})
    return mean, variance, run(
        free_passes(model, sites), {'x': x, **make_masks(sites, DRAWS, 1)})[0]


def test_a_channel_mask_before_a_1x1_convolution_is_the_closed_form() -> None:
    x, w, b, p = floats(*SHAPE), weights(3, 4, 1, 1), weights(3), 0.3
    nodes = [drop('x', 'd', p=p), node('Conv', 'd w b', 'output')]
    model, sites = masked(nodes, {'w': w, 'b': b}, SHAPE)
    mean, variance = run(propagate_moments(model, sites), {'x': x})
    # Var[z_c] = p/(1-p) sum_k w_ck^2 h_k^2.
    expected = p / (1 - p) * np.einsum('ck,nkhw->nchw', w[..., 0, 0]**2, x**2)
    np.testing.assert_allclose(variance, expected, rtol=1e-5)
    np.testing.assert_allclose(
        mean, np.einsum('ck,nkhw->nchw', w[..., 0, 0], x) + b.reshape(1, 3, 1, 1), atol=1e-5)


def test_a_centred_variance_leaves_out_what_all_classes_share() -> None:
    x = floats(*SHAPE)
    nodes = [drop('x', 'd'), node('Conv', 'd point b', 'output')]
    model, sites = masked(nodes, CONSTANTS, SHAPE)
    plain, centred = (run(propagate_moments(model, sites, is_centred=flag), {'x': x})
                      for flag in (False, True))
    drawn = run(model, {'x': x, **make_masks(sites, DRAWS, 1)})[0]
    wanted = (drawn - drawn.mean(1, keepdims=True)).var(0)
    np.testing.assert_allclose(centred[1][0], wanted, atol=0.03 * wanted.max())
    np.testing.assert_allclose(centred[0], plain[0])
    assert centred[1].sum() < plain[1].sum()


def test_a_kernel_over_a_channel_mask_is_exact_where_the_network_is_large_enough() -> None:
    rng = np.random.default_rng(2)
    constants = {**CONSTANTS, 'in': weights(64, 4, 3, 3), 'mid': weights(64, 64, 3, 3),
                 'out': weights(4, 64, 3, 3), 'last': rng.uniform(0, 1, (2, 4, 3, 3)).astype('f4')}
    nodes = [node('Conv', 'x in', 'c', pads=[1] * 4), node('Relu', 'c', 'r'),
             node('Conv', 'r mid', 'e', pads=[1] * 4), node('Relu', 'e', 's'),
             node('Conv', 's out', 'f', pads=[1] * 4), node('Sigmoid', 'f', 'h'),
             drop('h', 'd'), node('Conv', 'd last b2', 'output', pads=[1] * 4)]
    constants['b2'] = weights(2)
    x = floats(*SHAPE)
    _, variance, drawn = of_masks(nodes, constants, x)
    np.testing.assert_allclose(variance[0], drawn.var(0), atol=0.03 * drawn.var(0).max())
    # In a small network the taps are treated as independent, a large error for these weights.
    small = [node('Sigmoid', 'x', 'h'), *nodes[-2:]]
    _, variance, drawn = of_masks(small, constants, x)
    assert variance.sum() < 0.5 * drawn.var(0).sum()


# -------------------------------------------------------------------------------------------------
# Deterministic parts are unchanged; unsupported operators are named.


@pytest.mark.parametrize('nodes', [
    [node('Relu', 'x', 'r'), drop('r', 'd'), node('InstanceNormalization', 'd g g', 'output')],
    [drop('x', 'd'), node('Sigmoid', 'd', 's'), node('Sin', 's', 'output')],
    [drop('x', 'd'), node('ReduceMean', 'd axes', 'm'), node('Div', 'x m', 'output')],
])
def test_what_it_does_not_know_is_named_with_the_alternative(
    nodes: list[onnx.NodeProto],
) -> None:
    model, sites = masked(nodes, {'g': weights(4), 'axes': np.array([2, 3])}, SHAPE)
    with pytest.raises(GraphError, match='does not know .*mc_dropout') as caught:
        propagate_moments(model, sites)
    names = ('Instance', "'output'", 'Sin', 'Div')
    assert any(name in str(caught.value) for name in names)


def test_noise_that_does_not_reach_the_logits_is_an_error() -> None:
    model = network([node('Relu', 'x', 'output')], {}, SHAPE)
    with pytest.raises(GraphError, match='no dropout reaches'):
        propagate_moments(model, ())


# -------------------------------------------------------------------------------------------------
# Single functions.


@pytest.mark.parametrize('runtime', ['onnxruntime', 'openvino'])
def test_a_variance_that_is_no_number_is_not_taken_for_none(runtime: str) -> None:
    model, sites = masked([drop('x', 'output')], {}, SHAPE)
    head, (noise,) = sampling_head(propagate_moments(model, sites))
    mean, variance = floats(*SHAPE), np.ones(SHAPE, np.float32)
    variance[0, :, 2] = np.nan
    values = {'logit_mean': mean, 'logit_variance': variance, 'noise': floats(5, *noise.shape)}
    if runtime == 'onnxruntime':
        logits = run(head, values)[0]
    else:
        pytest.importorskip('openvino')
        core = core_of_process()
        call = core.compile_model(core.read_model(head.SerializeToString()), 'CPU')
        logits = call(values)['logits']
    np.testing.assert_array_equal(np.isnan(logits), np.broadcast_to(
        np.isnan(variance), logits.shape))
