# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A network of any opset from 11 to 23 computes the same after it was rewritten in opset 17."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, TensorProto
from onnx_front_end_helpers import make, marker, N, ops, run, values, X
import pytest

from uncertainty_seg.compiler.frontend.constant_folding import fold_constants
from uncertainty_seg.compiler.frontend.opset import to_opset17
from uncertainty_seg.errors import GraphError

I64 = np.int64
KNOWN = min(23, onnx.defs.onnx_opset_version())
NAMES = ('ReduceMean', 'ReduceMax', 'ReduceMin', 'ReduceL1', 'ReduceL2', 'ReduceProd',
         'ReduceLogSumExp', 'ReduceSumSquare')


def skip_newer(opset: int) -> None:
    if opset > KNOWN:
        pytest.skip(f'this onnx knows opsets up to {KNOWN}')


def require_same(model: onnx.ModelProto, atol: float = 1e-6, image: np.ndarray = X) -> \
        onnx.ModelProto:
    skip_newer(model.opset_import[0].version)
    before = model.SerializeToString()
    lowered = to_opset17(model)
    assert model.SerializeToString() == before
    assert [(e.domain, e.version) for e in lowered.opset_import] == [('', 17)]
    assert lowered.ir_version == 8
    onnx.checker.check_model(fold_constants(lowered), full_check=True)
    for ours, theirs in zip(run(lowered, image), run(model, image), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol, rtol=1e-6, err_msg=str(ops(model)))
    return lowered


@pytest.mark.parametrize('opset', range(11, 24))
def test_convolution_norm_and_upsampling_of_every_opset_compute_the_same(opset: int) -> None:
    tensors = {'w': values(4, 3, 3, 3), 's': values(4), 'b': values(4, seed=2), 'm': values(4),
               'v': np.abs(values(4)) + 1, 'scales': np.array([1, 1, 2, 2], np.float32)}
    nodes = [N('Conv', ['x', 'w'], ['c'], pads=[1] * 4),
             N('BatchNormalization', ['c', 's', 'b', 'm', 'v'], ['n']), N('Relu', ['n'], ['r']),
             N('MaxPool', ['r'], ['p'], kernel_shape=[2, 2], strides=[2, 2]),
             N('Resize', ['p', 'roi', 'scales'], ['y'], mode='linear')]
    require_same(make(nodes, {**tensors, 'roi': np.array([], np.float32)}, opset))


UP: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    'softmax over all': ([N('Softmax', ['x'], ['y'], axis=1)], {}),
    'softmax of the last': ([N('Softmax', ['x'], ['y'], axis=3)], {}),
    'softmax, no axis': ([N('Softmax', ['x'], ['y'])], {}),
    'log softmax': ([N('LogSoftmax', ['x'], ['y'], axis=2)], {}),
    'squeeze': ([N('Squeeze', ['x'], ['y'], axes=[0])], {}),
    'unsqueeze': ([N('Unsqueeze', ['x'], ['y'], axes=[1, 3])], {}),
    'split': ([N('Split', ['x'], ['a', 'b'], axis=3, split=[6, 10]),
               N('Concat', ['b', 'a'], ['y'], axis=3)], {}),
    'even split': ([N('Split', ['x'], ['a', 'b'], axis=3), N('Sub', ['a', 'b'], ['y'])], {}),
    'sum': ([N('ReduceSum', ['x'], ['y'], axes=[1], keepdims=0)], {}),
    'pad': ([N('Pad', ['x', 'p', 'v'], ['y'])],
            {'p': np.array([0, 0, 1, 2, 0, 0, 3, 0], I64), 'v': np.array(0.5, np.float32)}),
    'clip': ([N('Clip', ['x', 'lo'], ['y'])], {'lo': np.array(0, np.float32)}),
    'dropout': ([N('Dropout', ['x'], ['y'], ratio=0.25)], {}),
}


@pytest.mark.parametrize('name', UP)
@pytest.mark.parametrize('opset', [11, 12])
def test_what_changed_up_to_opset_17_computes_the_same(name: str, opset: int) -> None:
    nodes, tensors = UP[name]
    if name == 'dropout' and opset == 12:
        nodes, tensors = [N('Dropout', ['x', 'r'], ['y'])], {'r': np.array(0.25, np.float32)}
    require_same(make(nodes, tensors, opset))


def test_an_old_dropout_keeps_its_rate_and_its_name() -> None:
    model = to_opset17(make([N('Dropout', ['x'], ['y'], ratio=0.3, name='drop')], opset=11))
    node = next(n for n in model.graph.node if n.op_type == 'Dropout')
    rate = next(n.attribute[0].t for n in model.graph.node if n.output[0] == node.input[1])
    assert node.name == 'drop'
    assert onnx.numpy_helper.to_array(rate) == np.float32(0.3)


@pytest.mark.parametrize('opset', [11, 13, 17, 18, 21, 23])
def test_markers_stay_what_and_where_they_are(opset: int) -> None:
    skip_newer(opset)
    nodes = [N('Relu', ['x'], ['r']), marker('r', 'd', 'path', 'deep', 0.125),
             N('Softmax', ['d'], ['y'], axis=3)]
    model = to_opset17(make(nodes, opset=opset, domains=['uncertainty_seg']))
    assert ops(model) == ['Relu', 'Dropout', 'Softmax']
    assert model.graph.node[1] == nodes[1]
    assert {(e.domain, e.version) for e in model.opset_import} == {
        ('', 17), ('uncertainty_seg', 1)}


def test_large_weights_survive_the_way_up_bit_by_bit() -> None:
    weights = values(64, 3, 5, 5)
    model = to_opset17(make([N('Conv', ['x', 'w'], ['y'])], {'w': weights}, 11))
    found = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(found['w'], weights)
    assert [i.name for i in model.graph.input] == ['x']


@pytest.mark.parametrize('axes, keep', [([2, 3], 1), ([-1], 0), (None, 1)])
def test_reduced_axes_become_an_attribute(axes: list[int] | None, keep: int) -> None:
    inputs = ['x', 'axes'] if axes else ['x']
    tensors = {'axes': np.array(axes, I64)} if axes else {}
    for op in NAMES:
        lowered = require_same(make([N(op, inputs, ['y'], keepdims=keep)], tensors, 18), 1e-4)
        assert len(lowered.graph.node[0].input) == 1, op


def test_a_reduction_over_no_axis_changes_nothing() -> None:
    nodes = [N('Relu', ['x'], ['r']),
             N('ReduceMean', ['r', 'axes'], ['y'], noop_with_empty_axes=1)]
    require_same(make(nodes, {'axes': np.array([], I64)}, 18))


def test_axes_that_are_computed_from_the_image_are_refused_by_name() -> None:
    nodes = [N('ArgMax', ['x'], ['a'], axis=3), N('ReduceMax', ['a'], ['b'], keepdims=0),
             N('Unsqueeze', ['b', 'zero'], ['axes']),
             N('ReduceMean', ['x', 'axes'], ['y'], name='mean')]
    with pytest.raises(GraphError, match="ReduceMean 'mean' takes the computed value 'axes'"):
        to_opset17(make(nodes, {'zero': np.array([0], I64)}, 18))


DOWN: dict[str, tuple[int, list[onnx.NodeProto], dict[str, Any]]] = {
    'split in two': (18, [N('Split', ['x'], ['a', 'b'], axis=3, num_outputs=2),
                          N('Sub', ['a', 'b'], ['y'])], {}),
    'split unevenly': (18, [N('Split', ['x'], ['a', 'b', 'c'], axis=3, num_outputs=3),
                            N('Concat', ['c', 'a', 'b'], ['y'], axis=3)], {}),
    'pad axes': (18, [N('Pad', ['x', 'p', '', 'axes'], ['y'], mode='reflect')],
                 {'p': np.array([1, 2, 3, 0], I64), 'axes': np.array([-1, 2], I64)}),
    'pad axes, 21': (21, [N('Pad', ['x', 'p', 'v', 'axes'], ['y'])],
                     {'p': np.array([2, 1], I64), 'axes': np.array([1], I64),
                      'v': np.array(3, np.float32)}),
    'resize scales': (18, [N('Resize', ['x', '', 's'], ['y'], mode='linear', axes=[2, 3])],
                      {'s': np.array([2, 1.5], np.float32)}),
    'resize sizes': (19, [N('Resize', ['x', '', '', 's'], ['y'], mode='linear', axes=[3, 2])],
                     {'s': np.array([20, 9], I64)}),
    'resize larger, antialias': (18, [N('Resize', ['x', '', '', 's'], ['y'], mode='linear',
                                        antialias=1)], {'s': np.array([1, 3, 9, 20], I64)}),
    'resize, stretch': (18, [N('Resize', ['x', '', '', 's'], ['y'],
                               keep_aspect_ratio_policy='stretch')],
                        {'s': np.array([1, 3, 4, 4], I64)}),
    'average pool': (19, [N('AveragePool', ['x'], ['y'], kernel_shape=[3, 2], dilations=[1, 1],
                            pads=[1, 0, 1, 0], count_include_pad=1)], {}),
    'lp pool': (18, [N('LpPool', ['x'], ['y'], kernel_shape=[2, 2], dilations=[1, 1])], {}),
    'sample linear': (20, [N('GridSample', ['x', 'g'], ['y'], mode='linear')],
                      {'g': values(1, 5, 6, 2) / 2}),
    'sample cubic': (20, [N('GridSample', ['x', 'g'], ['y'], mode='cubic')],
                     {'g': values(1, 5, 6, 2) / 2}),
    'sample nearest': (22, [N('GridSample', ['x', 'g'], ['y'], mode='nearest')],
                       {'g': values(1, 5, 6, 2) / 2}),
    'cast': (19, [N('Cast', ['x'], ['i'], to=TensorProto.INT32, saturate=1),
                  N('Cast', ['i'], ['y'], to=TensorProto.FLOAT)], {}),
    'quantise': (21, [N('QuantizeLinear', ['x', 's'], ['q'], output_dtype=TensorProto.INT8),
                      N('DequantizeLinear', ['q', 's'], ['y'])], {'s': np.array(.1, np.float32)}),
    'quantise, zero point': (23, [N('QuantizeLinear', ['x', 's', 'z'], ['q']),
                                  N('DequantizeLinear', ['q', 's', 'z'], ['y'])],
                             {'s': np.array(.1, np.float32), 'z': np.array(7, np.uint8)}),
    'gelu': (20, [N('Gelu', ['x'], ['y'])], {}),
    'gelu tanh': (20, [N('Gelu', ['x'], ['y'], approximate='tanh')], {}),
    'mish': (22, [N('Mish', ['x'], ['y'])], {}),
    'mish in an opset without it': (18, [N('Mish', ['x'], ['y'])], {}),
    'group norm': (21, [N('GroupNormalization', ['x', 's', 'b'], ['y'], num_groups=3,
                          epsilon=1e-3)], {'s': values(3), 'b': values(3, seed=5)}),
    'rms norm': (23, [N('RMSNormalization', ['x', 's'], ['y'], axis=-1)], {'s': values(16)}),
    'rms norm of two': (23, [N('RMSNormalization', ['x', 's'], ['y'], axis=2, epsilon=1e-3)],
                        {'s': values(8, 16)}),
    'attention': (23, [N('Attention', ['x', 'x', 'x'], ['y'])], {}),
    'attention of a mask': (23, [N('Attention', ['x', 'x', 'x', 'm'], ['y'], scale=0.3)],
                            {'m': values(8, 8)}),
    'causal attention': (23, [N('Attention', ['x', 'x', 'x'], ['y'], is_causal=1)], {}),
    'crop': (18, [N('CenterCropPad', ['x', 's'], ['y'], axes=[2, 3])],
             {'s': np.array([6, 18], I64)}),
    'affine grid': (20, [N('AffineGrid', ['t', 'n'], ['g']), N('GridSample', ['x', 'g'], ['y'])],
                    {'t': np.array([[[.9, .1, 0], [0, .8, .1]]], np.float32),
                     'n': np.array([1, 3, 8, 16], I64)}),
    'scatter': (18, [N('ScatterElements', ['x', 'i', 'u'], ['y'], axis=3, reduction='add')],
                {'i': np.zeros((1, 3, 8, 1), I64), 'u': values(1, 3, 8, 1)}),
    'equal': (19, [N('Equal', ['x', 'x'], ['e']), N('Cast', ['e'], ['y'], to=1)], {}),
    'elementwise of 22': (22, [N('HardSwish', ['x'], ['a']), N('Elu', ['a'], ['b']),
                               N('Softplus', ['b'], ['y'])], {}),
    'pools of 22': (22, [N('MaxPool', ['x'], ['p'], kernel_shape=[2, 2], strides=[2, 2]),
                         N('GlobalAveragePool', ['p'], ['y'])], {}),
}


@pytest.mark.parametrize('name', DOWN)
def test_what_changed_after_opset_17_computes_the_same(name: str) -> None:
    opset, nodes, tensors = DOWN[name]
    # Rounding of a sampling position counts by the image's slope there.
    require_same(make(nodes, tensors, opset), 2e-5 if name == 'affine grid' else 2e-6)


def test_a_function_of_a_tensor_of_unknown_axes_is_written_out_all_the_same() -> None:
    skip_newer(20)
    nodes = [N('NonZero', ['x'], ['n']), N('Reshape', ['n', 'flat'], ['s']),
             N('Reshape', ['x', 's'], ['r']), N('Gelu', ['r'], ['y'])]
    assert ops(to_opset17(make(nodes, {'flat': np.array([-1], I64)}, 20)))[-1] == 'Mul'


def test_a_group_of_large_values_is_normalised_without_cancelling() -> None:
    skip_newer(21)
    nodes = [N('GroupNormalization', ['x', 's', 'b'], ['y'], num_groups=1)]
    model = make(nodes, {'s': np.ones(3, np.float32), 'b': np.zeros(3, np.float32)}, 21)
    image = (X + 1000).astype(np.float32)
    exact = image.astype(np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
    np.testing.assert_allclose(run(to_opset17(model), image)[0], exact, atol=1e-3)


REFUSED: dict[str, tuple[int, onnx.NodeProto, dict[str, Any], str]] = {
    'antialias': (18, N('Resize', ['x', '', 's'], ['y'], name='n', mode='linear', antialias=1),
                  {'s': np.array([1, 1, .5, .5], np.float32)}, 'smaller with antialiasing'),
    'policy': (18, N('Resize', ['x', '', '', 's'], ['y'], name='n',
                     keep_aspect_ratio_policy='not_larger'),
               {'s': np.array([1, 3, 9, 9], I64)}, 'policy not_larger'),
    'symmetric': (19, N('Resize', ['x', '', 's'], ['y'], name='n', mode='linear',
                        coordinate_transformation_mode='half_pixel_symmetric'),
                  {'s': np.array([1, 1, 2, 2], np.float32)}, 'half_pixel_symmetric'),
    'wrap': (19, N('Pad', ['x', 'p'], ['y'], name='n', mode='wrap'),
             {'p': np.array([0, 0, 1, 1] * 2, I64)}, 'wraps around'),
    'pool': (19, N('AveragePool', ['x'], ['y'], name='n', kernel_shape=[2, 2], dilations=[2, 2]),
             {}, 'dilations'),
    'lp pool': (18, N('LpPool', ['x'], ['y'], name='n', kernel_shape=[3, 3], ceil_mode=1), {},
                'rounds its size up'),
    'scatter': (18, N('ScatterElements', ['x', 'i', 'u'], ['y'], name='n', reduction='max'),
                {'i': np.zeros((1, 1, 1, 1), I64), 'u': values(1, 1, 1, 1)}, 'keeps the max'),
    'blocks': (21, N('DequantizeLinear', ['q', 's'], ['y'], name='n', block_size=2, axis=0),
               {'q': np.ones((4, 3), np.int8), 's': values(2, 3)}, 'by blocks'),
    'no reduction': (18, N('ReduceSumSquare', ['x', 'a'], ['y'], name='n',
                           noop_with_empty_axes=1), {'a': np.array([], I64)}, 'reduces no axis'),
    'new operator': (18, N('Col2Im', ['x', 'a', 'a'], ['y'], name='n'),
                     {'a': np.array([2, 2], I64)}, 'Col2Im'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_opset_17_cannot_say_is_refused_by_name(name: str) -> None:
    opset, node, tensors, words = REFUSED[name]
    skip_newer(opset)
    if name == 'blocks':  # of a weight it would be folded, which is exact
        node.input[0] = 'x'
    with pytest.raises(GraphError, match=f"'n'.*{words}|{words}.*'n'"):
        to_opset17(make([node], tensors, opset))


@pytest.mark.parametrize('opset', [9, 10, 24])
def test_an_opset_out_of_range_is_refused_with_what_to_do(opset: int) -> None:
    model = make([N('Relu', ['x'], ['y'])], opset=17)
    model.opset_import[0].version = opset
    words = f'opset {opset}, expected 11 to {KNOWN}.*opset_version=17'
    with pytest.raises(GraphError, match=words):
        to_opset17(model)


def test_an_opset_that_the_installed_onnx_does_not_know_says_so(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx.defs, 'onnx_opset_version', lambda: 18)
    model = make([N('Relu', ['x'], ['y'])], opset=19)
    with pytest.raises(GraphError, match='opset 19, expected 11 to 18.*a newer onnx'):
        to_opset17(model)


def test_an_operator_of_one_runtime_is_refused_by_name() -> None:
    node = N('FusedConv', ['x', 'w'], ['y'], name='fused', domain='com.microsoft')
    model = make([node], {'w': values(4, 3, 1, 1)}, domains=['com.microsoft'])
    with pytest.raises(GraphError, match="'fused' is com.microsoft::FusedConv"):
        to_opset17(model)


def test_a_computed_affine_grid_is_refused_since_its_body_is_wrong_for_one_image() -> None:
    nodes = [N('Slice', ['x', 'from', 'to'], ['t4']), N('Squeeze', ['t4', 'axis'], ['t']),
             N('AffineGrid', ['t', 'n'], ['g'], name='grid'), N('GridSample', ['x', 'g'], ['y'])]
    tensors = {'from': np.array([0, 0, 0, 0], I64), 'to': np.array([1, 1, 2, 3], I64),
               'axis': np.array([1], I64), 'n': np.array([1, 3, 8, 16], I64)}
    with pytest.raises(GraphError, match="'grid' is AffineGrid"):
        to_opset17(make(nodes, tensors, 20))


@pytest.mark.parametrize('opset', [13, 17, 18])
@pytest.mark.parametrize('op, fix', [
    ('Oddity', 'export the network again'), ('StatelessRandomUniformV2', 'inference mode')])
def test_an_operator_nobody_knows_is_refused_by_name(opset: int, op: str, fix: str) -> None:
    with pytest.raises(GraphError, match=f"'odd' is {op}, which no opset has.*{fix}"):
        to_opset17(make([N(op, ['x'], ['y'], name='odd')], opset=opset))


@pytest.mark.parametrize('opset', [13, 17, 20])
def test_functions_of_the_model_are_inlined(opset: int) -> None:
    body = helper.make_function(
        'own', 'Twice', ['a'], ['b'], [N('Add', ['a', 'a'], ['s']), N('Relu', ['s'], ['b'])],
        [helper.make_opsetid('', opset)])
    nodes = [N('Twice', ['x'], ['t'], domain='own'), N('Twice', ['t'], ['y'], domain='own')]
    model = make(nodes, opset=opset, domains=['own'])
    model.functions.append(body)
    assert ops(require_same(model)) == ['Add', 'Relu', 'Add', 'Relu']


def test_weights_among_the_inputs_are_weights() -> None:
    model = make([N('Mul', ['x', 'w'], ['y'])], {'w': values(1)}, 13)
    model.graph.input.append(helper.make_tensor_value_info('w', TensorProto.FLOAT, [1]))
    assert [i.name for i in to_opset17(model).graph.input] == ['x']


def test_notes_of_the_exporting_machine_do_not_stay() -> None:
    model = make([N('Relu', ['x'], ['y'], doc_string='File "/somewhere/else/net.py"')], opset=18)
    if 'metadata_props' in onnx.NodeProto.DESCRIPTOR.fields_by_name:
        entry = model.graph.node[0].metadata_props.add()
        entry.key, entry.value = 'stack', '/somewhere/else/net.py'
    assert b'somebody' not in to_opset17(model).SerializeToString()
