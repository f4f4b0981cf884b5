# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A convolution with generated weights runs for T passes as for each of them alone."""

from graph_algebra import drop, masked, node, ops, run, run_split, TOLERANCE, weights, X
import numpy as np
import onnx
from onnx import helper
import pytest

from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.algebra.fold_masks import dynamic_conv
from uncertainty_seg.graph.algebra.free_passes import find_passes, PassesAxis
from uncertainty_seg.graph.algebra.masked_graph import view_of
from uncertainty_seg.graph.algebra.split import split_trunk_head


def generator(*shape: int, bias: bool = False) -> tuple[
        list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Pool the image, drop, and generate weights of a shape (and a bias) from it."""
    size = int(np.prod(shape))
    nodes = [node('GlobalAveragePool', 'x', 'g'), node('Flatten', 'g', 'f'),
             drop('f', 'd', 'element'), node('MatMul', 'd make', 'flat'),
             node('Reshape', 'flat shape', 'w')]
    constants = {'make': weights(6, size), 'shape': np.array(shape)}
    if bias:
        nodes += [node('MatMul', 'd make_b', 'flat_b'), node('Reshape', 'flat_b shape_b', 'b')]
        constants |= {'make_b': weights(6, shape[0], seed=2), 'shape_b': np.array(shape[:1])}
    return nodes, constants


def every_pass(model: onnx.ModelProto, sites: tuple[DropoutSite, ...],
               masks: dict[str, np.ndarray]) -> np.ndarray:
    """Run the graph as exported, once a pass."""
    passes = len(next(iter(masks.values())))
    return np.concatenate([
        run(model, {'x': X, **{k: v[t:t + 1] for k, v in masks.items()}})[0]
        for t in range(passes)])


def with_free_passes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Free the first axis of the reshape that makes the weights, as `free_passes` does."""
    for tensor in model.graph.initializer:
        if tensor.name in ('shape', 'shape_b'):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0] = -1
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


CASES = {
    '1x1': ((4, 6, 1, 1), {}),
    '3x3': ((4, 6, 3, 3), {'pads': [1, 1, 1, 1]}),
    '3x3_strides': ((4, 6, 3, 3), {'strides': [2, 3]}),
    '1x1_strides': ((4, 6, 1, 1), {'strides': [2, 2]}),
    'dilated': ((2, 6, 3, 2), {'dilations': [2, 1], 'pads': [0, 1, 2, 0]}),
    'same_upper': ((2, 6, 2, 3), {'auto_pad': 'SAME_UPPER', 'strides': [2, 2]}),
    'same_lower': ((2, 6, 2, 3), {'auto_pad': 'SAME_LOWER'}),
    'groups': ((4, 3, 3, 3), {'group': 2}),
    'depthwise': ((6, 1, 3, 3), {'group': 6, 'pads': [1, 1, 1, 1]}),
    'depthwise_1x1': ((6, 1, 1, 1), {'group': 6}),
    'multiplier': ((12, 1, 3, 3), {'group': 6}),
}


@pytest.mark.parametrize('bias', ['none', 'fixed', 'generated'])
@pytest.mark.parametrize('is_data_random', [True, False])
@pytest.mark.parametrize('case', CASES)
def test_generated_weights_work_for_every_number_of_passes(
    case: str, is_data_random: bool, bias: str
) -> None:
    shape, attributes = CASES[case]
    nodes, constants = generator(*shape, bias=bias == 'generated')
    if is_data_random:
        nodes += [drop('x', 'data')]
    data = 'data' if is_data_random else 'x'
    if bias == 'fixed':
        constants['b'] = weights(shape[0])
    conv = node('Conv', f'{data} w' + (' b' if bias != 'none' else ''), 'c', **attributes)
    plain, sites = masked([*nodes, conv, node('Tanh', 'c', 'output')], constants)
    masks = make_masks(sites, 5, 3)
    expected = every_pass(plain, sites, masks)
    result, (decision,) = dynamic_conv(plain, sites)
    assert decision.is_applied and 'Conv' not in ops(result)
    np.testing.assert_allclose(every_pass(result, sites, masks), expected, atol=TOLERANCE)
    trunk, head = split_trunk_head(with_free_passes(result), sites)
    np.testing.assert_allclose(run_split(trunk, head, masks), expected, atol=TOLERANCE)


def test_the_axis_of_the_passes_is_found_behind_the_product() -> None:
    """What `passes_axis` needs to know: nothing of the rewritten graph loses the passes."""
    nodes, constants = generator(4, 6, 3, 3, bias=True)
    plain, sites = masked([*nodes, node('Conv', 'x w b', 'output')], constants)
    result, _ = dynamic_conv(plain, sites)
    view = view_of(result, sites)
    found = find_passes(result.graph.node, view.shapes, view.constants,
                        {site.name: PassesAxis(0) for site in sites})
    assert not found.lost and found.axes['output'] == PassesAxis(0)


def test_weights_that_are_the_same_in_all_passes_stay_a_convolution() -> None:
    nodes, constants = generator(4, 6, 3, 3)
    nodes[2] = helper.make_node('Identity', ['f'], ['d'])
    plain, sites = masked([*nodes, node('Conv', 'x w', 'c'), drop('c', 'output')], constants)
    result, decisions = dynamic_conv(plain, sites)
    assert decisions == () and ops(result) == ops(plain)


def test_a_transposed_convolution_with_generated_weights_is_refused_by_name() -> None:
    nodes, constants = generator(6, 4, 2, 2)
    plain, sites = masked([*nodes, node('ConvTranspose', 'x w', 'output')], constants)
    with pytest.raises(GraphError, match="ConvTranspose 'output' has weights that differ"):
        dynamic_conv(plain, sites)
