# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A network of any opset from 11 computes the same in the bundle's opset, or is refused."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, TensorProto
from onnx_front_end_helpers import make, marker, N, ops, run, values, X
import pytest

from uncertainty_seg.compiler.frontend.constant_folding import fold_constants
from uncertainty_seg.compiler.frontend.standard_form import to_shipped_opset
from uncertainty_seg.compiler.onnx_tools import IR_VERSION, OPSET
from uncertainty_seg.errors import GraphError

I64 = np.int64


def require_same(model: onnx.ModelProto, atol: float = 1e-6, image: np.ndarray = X) -> \
        onnx.ModelProto:
    before = model.SerializeToString()
    found = to_shipped_opset(model)
    assert model.SerializeToString() == before
    assert [(e.domain, e.version) for e in found.opset_import] == [('', OPSET)]
    assert found.ir_version == IR_VERSION
    onnx.checker.check_model(fold_constants(found), full_check=True)
    for ours, theirs in zip(run(fold_constants(found), image), run(model, image), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol, rtol=1e-6, err_msg=str(ops(model)))
    return found


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
def test_what_changed_up_to_opset_13_computes_the_same(name: str, opset: int) -> None:
    nodes, tensors = UP[name]
    if name == 'dropout' and opset == 12:
        nodes, tensors = [N('Dropout', ['x', 'r'], ['y'])], {'r': np.array(0.25, np.float32)}
    require_same(make(nodes, tensors, opset))


def test_an_operator_in_a_file_of_an_opset_before_it_is_kept() -> None:
    node = N('DeformConv', ['x', 'k', 'o'], ['y'])
    height, width = X.shape[2:]
    tensors = {'k': values(4, 3, 1, 1), 'o': values(1, 2, height, width)}
    early, right = (to_shipped_opset(make([node], tensors, opset)) for opset in (18, OPSET))
    assert np.array_equal(run(early), run(right))


def test_an_old_dropout_keeps_its_rate_and_its_name() -> None:
    model = to_shipped_opset(make([N('Dropout', ['x'], ['y'], ratio=0.3, name='drop')], opset=11))
    node = next(n for n in model.graph.node if n.op_type == 'Dropout')
    rate = next(n.attribute[0].t for n in model.graph.node if n.output[0] == node.input[1])
    assert node.name == 'drop'
    assert onnx.numpy_helper.to_array(rate) == np.float32(0.3)


@pytest.mark.parametrize('opset', [11, 13, 17, 18, 21, 23])
def test_markers_stay_what_and_where_they_are(opset: int) -> None:
    nodes = [N('Relu', ['x'], ['r']), marker('r', 'd', 'path', 'deep', 0.125),
             N('Softmax', ['d'], ['y'], axis=3)]
    model = to_shipped_opset(make(nodes, opset=opset, domains=['uncertainty_seg']))
    assert ops(model) == ['Relu', 'Dropout', 'Softmax']
    assert model.graph.node[1] == nodes[1]
    assert {(e.domain, e.version) for e in model.opset_import} == {
        ('', OPSET), ('uncertainty_seg', 1)}


def test_large_weights_survive_the_way_up_bit_by_bit() -> None:
    weights = values(64, 3, 5, 5)
    model = to_shipped_opset(make([N('Conv', ['x', 'w'], ['y'])], {'w': weights}, 11))
    found = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(found['w'], weights)
    assert [i.name for i in model.graph.input] == ['x']


# Nodes that the bundle's opset writes differently, or defines for some axes only.
SAME: dict[str, tuple[int, list[onnx.NodeProto], dict[str, Any]]] = {
    'reduction': (17, [N('ReduceMean', ['x'], ['y'], axes=[2, 3])], {}),
    'reduction of a list': (18, [N('ReduceMax', ['x', 'a'], ['y'])], {'a': np.array([-1], I64)}),
    'split unevenly': (18, [N('Split', ['x'], ['a', 'b', 'c'], axis=3, num_outputs=3),
                            N('Concat', ['c', 'a', 'b'], ['y'], axis=3)], {}),
    'pad axes': (18, [N('Pad', ['x', 'p', '', 'axes'], ['y'], mode='reflect')],
                 {'p': np.array([1, 2, 3, 0], I64), 'axes': np.array([-1, 2], I64)}),
    'resize scales': (18, [N('Resize', ['x', '', 's'], ['y'], mode='linear', axes=[2, 3])],
                      {'s': np.array([2, 1.5], np.float32)}),
    'resize sizes': (19, [N('Resize', ['x', '', '', 's'], ['y'], mode='linear', axes=[3, 2])],
                     {'s': np.array([20, 9], I64)}),
    'resize larger, antialias': (18, [N('Resize', ['x', '', '', 's'], ['y'], mode='linear',
                                        antialias=1)], {'s': np.array([1, 3, 9, 20], I64)}),
    'sample': (16, [N('GridSample', ['x', 'g'], ['y'], mode='bilinear')],
               {'g': values(1, 5, 6, 2) / 2}),
    'gelu': (20, [N('Gelu', ['x'], ['y'])], {}),
    'mish': (22, [N('Mish', ['x'], ['y'])], {}),
    'quantise': (21, [N('QuantizeLinear', ['x', 's', 'z'], ['q'], axis=1, saturate=1),
                      N('DequantizeLinear', ['q', 's', 'z'], ['y'])],
                 {'s': np.array(.1, np.float32), 'z': np.array(7, np.uint8)}),
    'elementwise of 22': (22, [N('HardSwish', ['x'], ['a']), N('Elu', ['a'], ['b']),
                               N('Softplus', ['b'], ['y'])], {}),
    'pools of 22': (22, [N('MaxPool', ['x'], ['p'], kernel_shape=[2, 2], strides=[2, 2]),
                         N('GlobalAveragePool', ['p'], ['y'])], {}),
}


@pytest.mark.parametrize('name', SAME)
def test_what_another_opset_writes_in_its_own_way_computes_the_same(name: str) -> None:
    opset, nodes, tensors = SAME[name]
    require_same(make(nodes, tensors, opset), 2e-6)


@pytest.mark.parametrize(('opset', 'node', 'tensors'), [
    (21, N('GroupNormalization', ['x', 's', 's'], ['y'], num_groups=1), {'s': values(3)}),
    (21, N('QuantizeLinear', ['x', 's'], ['y'], output_dtype=TensorProto.INT8),
     {'s': np.array(.1, np.float32)}),
    (23, N('RMSNormalization', ['x', 's'], ['y'], axis=-1), {'s': values(16)}),
    (23, N('Attention', ['x', 'x', 'x'], ['y']), {}),
])
def test_what_only_a_newer_opset_can_say_is_refused_by_name(
    opset: int, node: onnx.NodeProto, tensors: dict[str, Any]
) -> None:
    node.name = 'it'
    with pytest.raises(GraphError, match=f"{node.op_type} 'it'.*opset_version={OPSET}"):
        to_shipped_opset(make([node], tensors, opset))


@pytest.mark.parametrize('opset', [9, 10, 99])
def test_an_opset_out_of_range_is_refused_with_what_to_do(opset: int) -> None:
    model = make([N('Relu', ['x'], ['y'])], opset=17)
    model.opset_import[0].version = opset
    with pytest.raises(GraphError, match=f'opset {opset}.*opset_version={OPSET}'):
        to_shipped_opset(model)


def test_an_operator_of_one_runtime_is_refused_by_name() -> None:
    node = N('FusedConv', ['x', 'w'], ['y'], name='fused', domain='com.microsoft')
    model = make([node], {'w': values(4, 3, 1, 1)}, domains=['com.microsoft'])
    with pytest.raises(GraphError, match="'fused' is com.microsoft::FusedConv"):
        to_shipped_opset(model)


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
    assert [i.name for i in to_shipped_opset(model).graph.input] == ['x']


def test_notes_of_the_exporting_machine_do_not_stay() -> None:
    model = make([N('Relu', ['x'], ['y'], doc_string='File "/somewhere/else/net.py"')], opset=18)
    if 'metadata_props' in onnx.NodeProto.DESCRIPTOR.fields_by_name:
        entry = model.graph.node[0].metadata_props.add()
        entry.key, entry.value = 'stack', '/somewhere/else/net.py'
    assert b'somebody' not in to_shipped_opset(model).SerializeToString()


@pytest.mark.parametrize('opset', [13, 18])
def test_an_operator_nobody_knows_is_refused_by_name(opset: int) -> None:
    with pytest.raises(GraphError, match="'odd' is Oddity"):
        to_shipped_opset(make([N('Oddity', ['x'], ['y'], name='odd')], opset=opset))


def test_the_place_in_the_source_of_the_converter_is_left_out(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError('/build/onnx/version_converter/BaseConverter.h:67: adapter_lookup: '
                           'Assertion `false` failed: No Adapter From Version $18 for Relu')
    monkeypatch.setattr(onnx.version_converter, 'convert_version', fail)
    with pytest.raises(GraphError, match=r'opset 20 \(No Adapter .* Relu\)'):
        to_shipped_opset(make([N('Relu', ['x'], ['y'])], {}, 18))
