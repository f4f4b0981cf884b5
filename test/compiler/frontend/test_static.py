# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A network of fixed size: the image input is found, shape arithmetic folded, values equal."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
from onnx_front_end_helpers import make, make_static, marker, N, ops, run, values, X
import pytest

from uncertainty_seg.compiler.onnx_tools import types_of
from uncertainty_seg.errors import GraphError

I64 = np.int64
DYNAMIC = ('n', 3, 'h', 'w')


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, I64)


def require_same(model: onnx.ModelProto, atol: float = 1e-6) -> onnx.ModelProto:
    static = make_static(model, 8, 16)
    onnx.checker.check_model(static, full_check=True)
    for ours, theirs in zip(run(static), run(model), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol)
    return static


def test_an_upsampling_to_the_size_of_another_tensor_becomes_static() -> None:
    nodes = [N('MaxPool', ['x'], ['p'], kernel_shape=[2, 2], strides=[2, 2]),
             N('Shape', ['x'], ['s']), N('Slice', ['s', 'two', 'four'], ['hw']),
             N('Shape', ['p'], ['ps']), N('Slice', ['ps', 'zero', 'two'], ['nc']),
             N('Concat', ['nc', 'hw'], ['size'], axis=0),
             N('Resize', ['p', '', '', 'size'], ['y'], mode='linear')]
    tensors = {'zero': ints(0), 'two': ints(2), 'four': ints(4)}
    static = require_same(make(nodes, tensors, shape=DYNAMIC))
    assert ops(static) == ['MaxPool', 'Resize']
    assert types_of(static)['y'].shape == (1, 3, 8, 16)
    assert [t.name for t in static.graph.initializer] == ['size']


def test_a_grid_of_positions_is_a_constant() -> None:
    nodes = [N('Shape', ['x'], ['s']), N('Gather', ['s', 'i3'], ['w']),
             N('Range', ['zero', 'w', 'one'], ['r']), N('Cast', ['r'], ['f'], to=1),
             N('Add', ['x', 'f'], ['y'])]
    tensors = {'i3': np.array(3, I64), 'zero': np.array(0, I64), 'one': np.array(1, I64)}
    assert ops(require_same(make(nodes, tensors, shape=DYNAMIC))) == ['Add']


def test_weights_behind_other_operators_are_folded_into_weights() -> None:
    nodes = [N('Transpose', ['w'], ['t'], perm=[1, 0, 2, 3]), N('Cast', ['t'], ['c'], to=1),
             N('Identity', ['c'], ['i']), N('Conv', ['x', 'i'], ['y'])]
    tensors = {'w': values(3, 4, 3, 3).astype(np.float16)}
    assert ops(require_same(make(nodes, tensors))) == ['Conv']


@pytest.mark.parametrize('mode, more', [
    ('cubic', {'cubic_coeff_a': -0.5}), ('cubic', {'exclude_outside': 1}), ('linear', {}),
    ('linear', {'coordinate_transformation_mode': 'align_corners'}), ('nearest', {}),
    ('nearest', {'coordinate_transformation_mode': 'asymmetric', 'nearest_mode': 'floor'})])
def test_a_table_of_positions_is_resized_once_and_for_all(
    mode: str, more: dict[str, Any]
) -> None:
    tensors = {'w': values(1, 3, 3, 7), 'n': ints(1, 3, 8, 16),
               's': np.array([1, 1, 8.2 / 3, 16.2 / 7], np.float32)}
    for inputs in (['w', '', 's'], ['w', '', '', 'n']):
        nodes = [N('Resize', inputs, ['p'], mode=mode, **more), N('Add', ['x', 'p'], ['y'])]
        assert ops(require_same(make(nodes, tensors), 5e-6)) == ['Add'], inputs


@pytest.mark.parametrize('condition', [True, False])
def test_a_decided_branch_takes_the_place_of_its_if(condition: bool) -> None:
    def branch(word: str, op: str) -> onnx.GraphProto:
        return helper.make_graph(
            [N(op, ['r', 'k'], ['inner']), N('Mul', ['inner', 'inner'], [word])], word, [],
            [helper.make_tensor_value_info(word, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.array(2, np.float32), 'k')])
    nodes = [N('Relu', ['x'], ['r']),
             N('If', ['yes'], ['i'], then_branch=branch('t', 'Add'),
               else_branch=branch('e', 'Sub')), N('Relu', ['i'], ['y'])]
    static = require_same(make(nodes, {'yes': np.array(condition)}))
    assert ops(static) == ['Relu', 'Add' if condition else 'Sub', 'Mul', 'Relu']


def test_parts_of_lists_become_slices() -> None:
    nodes = [N('SplitToSequence', ['x', 'n'], ['list'], axis=3),
             N('SequenceAt', ['list', 'i1'], ['b']), N('SequenceAt', ['list', 'i0'], ['a']),
             N('Concat', ['b', 'a'], ['c'], axis=3), N('Relu', ['c'], ['y'])]
    tensors = {'n': ints(10, 6), 'i0': np.array(0, I64), 'i1': np.array(1, I64)}
    assert ops(require_same(make(nodes, tensors))) == ['Slice', 'Slice', 'Concat', 'Relu']


NOTHING: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    'identity': ([N('Identity', ['r'], ['a'])], {}),
    'cast to float': ([N('Cast', ['r'], ['a'], to=1)], {}),
    'cast like itself': ([N('CastLike', ['r', 'x'], ['a'])], {}),
    'same reshape': ([N('Reshape', ['r', 's'], ['a'])], {'s': ints(1, 3, 8, 16)}),
    'reshape there and back': ([N('Reshape', ['r', 's'], ['b']), N('Reshape', ['b', 't'], ['a'])],
                               {'s': ints(3, -1), 't': ints(1, 3, 8, 16)}),
    'axis in and out': ([N('Unsqueeze', ['r', 's'], ['b']), N('Squeeze', ['b', 's'], ['a'])],
                        {'s': ints(2)}),
    'transpose there and back': ([N('Transpose', ['r'], ['b'], perm=[0, 2, 3, 1]),
                                  N('Transpose', ['b'], ['a'], perm=[0, 3, 1, 2])], {}),
    'identical transpose': ([N('Transpose', ['r'], ['a'], perm=[0, 1, 2, 3])], {}),
    'whole slice': ([N('Slice', ['r', 's', 'e'], ['a'])],
                    {'s': ints(0, 0), 'e': ints(9999, 9999)}),
    'pad of nothing': ([N('Pad', ['r', 's'], ['a'])], {'s': ints(*[0] * 8)}),
    'expand to itself': ([N('Expand', ['r', 's'], ['a'])], {'s': ints(1, 1)}),
    'one repeat': ([N('Tile', ['r', 's'], ['a'])], {'s': ints(1, 1, 1, 1)}),
    'concat of one': ([N('Concat', ['r'], ['a'], axis=1)], {}),
    'plus zero': ([N('Add', ['z', 'r'], ['a'])], {'z': np.zeros((3, 1, 1), np.float32)}),
    'minus zero': ([N('Sub', ['r', 'z'], ['a'])], {'z': np.zeros(1, np.float32)}),
    'times one': ([N('Mul', ['r', 'z'], ['a'])], {'z': np.ones(16, np.float32)}),
    'over one': ([N('Div', ['r', 'z'], ['a'])], {'z': np.ones(1, np.float32)}),
    'where nothing': ([N('Where', ['z', 'x', 'r'], ['a'])], {'z': np.array([False])}),
}


@pytest.mark.parametrize('name', NOTHING)
def test_what_changes_nothing_goes(name: str) -> None:
    nodes, tensors = NOTHING[name]
    model = make([N('Relu', ['x'], ['r']), *nodes, N('Neg', ['a'], ['y'])], tensors)
    static = require_same(model)
    assert ops(static) == ['Relu', 'Neg']
    assert not static.graph.initializer


SOMETHING: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    'zero minus': ([N('Sub', ['z', 'x'], ['y'])], {'z': np.zeros(1, np.float32)}),
    'one over': ([N('Div', ['z', 'x'], ['y'])], {'z': np.ones(1, np.float32)}),
    'plus zeros that widen': ([N('Add', ['x', 'z'], ['y'])],
                              {'z': np.zeros((2, 3, 8, 16), np.float32)}),
    'shift by a pad': ([N('Pad', ['x', 'p'], ['y'])], {'p': ints(0, 0, 0, -1, 0, 0, 0, 1)}),
    'backwards': ([N('Slice', ['x', 's', 'e', 'a', 't'], ['y'])],
                  {'s': ints(-1), 'e': ints(-9999), 'a': ints(3), 't': ints(-1)}),
    'transpose twice': ([N('Transpose', ['x'], ['b'], perm=[0, 2, 3, 1]),
                         N('Transpose', ['b'], ['y'], perm=[0, 2, 3, 1])], {}),
    'reversed axes': ([N('Transpose', ['x'], ['y'])], {}),
    'where somewhere': ([N('Where', ['z', 'x', 'k'], ['y'])],
                        {'z': np.array([True, False] * 8), 'k': np.array(3, np.float32)}),
    'softmax behind a flatten': ([N('Flatten', ['x'], ['f'], axis=3), N('Softmax', ['f'], ['p']),
                                  N('Reshape', ['p', 's'], ['y'])], {'s': ints(1, 3, 8, 16)}),
    'softmax of all': ([N('Flatten', ['x'], ['f'], axis=1), N('Softmax', ['f'], ['p']),
                        N('Reshape', ['p', 's'], ['y'])], {'s': ints(1, 3, 8, 16)}),
}


@pytest.mark.parametrize('name', SOMETHING)
def test_what_only_looks_like_nothing_stays(name: str) -> None:
    nodes, tensors = SOMETHING[name]
    assert ops(require_same(make(nodes, tensors)))


def test_dropout_and_markers_and_what_depends_on_them_are_not_folded() -> None:
    keep = np.full((1, 3, 8, 16), 0.5, np.float32)
    nodes = [marker('keep', 'b', 'element', 'b'), N('Mul', ['x', 'b'], ['m']),
             N('Dropout', ['keep', 'rate', 'yes'], ['d']), N('Exp', ['d'], ['e']),
             N('Mul', ['m', 'e'], ['y'])]
    model = make(nodes, {'keep': keep, 'rate': np.array(.5, np.float32), 'yes': np.array(True)},
                 domains=['uncertainty_seg'])
    assert ops(make_static(model, 8, 16)) == ['Dropout', 'Mul', 'Dropout', 'Exp', 'Mul']


def test_random_numbers_are_not_drawn_while_folding() -> None:
    nodes = [N('RandomNormal', [], ['r'], shape=[1, 3, 8, 16]), N('Add', ['x', 'r'], ['y'])]
    assert ops(make_static(make(nodes), 8, 16)) == ['RandomNormal', 'Add']


def test_a_constant_is_not_repeated_into_a_large_file() -> None:
    nodes = [N('Expand', ['k', 's'], ['e']), N('Add', ['x', 'e'], ['y'])]
    tensors = {'k': values(1), 's': ints(1, 512, 8, 16)}
    model = make_static(make(nodes, {**tensors}, shape=(1, 3, 8, 16)), 8, 16)
    assert 'Expand' in ops(model)


def test_unused_nodes_weights_and_inputs_with_defaults_go() -> None:
    model = make([N('Relu', ['x'], ['y']), N('Mul', ['x', 'w'], ['dead'])], {'w': values(1)})
    model.graph.input.append(helper.make_tensor_value_info('w', TensorProto.FLOAT, [1]))
    static = make_static(model, 8, 16)
    assert ops(static) == ['Relu']
    assert ([i.name for i in static.graph.input], len(static.graph.initializer)) == (['x'], 0)


def test_an_image_of_planes_last_gets_a_transposition_that_cancels() -> None:
    nodes = [N('Transpose', ['img'], ['t'], perm=[0, 3, 1, 2]), N('Relu', ['t'], ['y'])]
    model = make(nodes, shape=('n', 'h', 'w', 3), source='img')
    static = make_static(model, 8, 16)
    assert ops(static) == ['Relu']
    dims = [d.dim_value for d in static.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, 3, 8, 16]
    np.testing.assert_array_equal(run(static)[0], run(model, X.transpose(0, 2, 3, 1))[0])


@pytest.mark.parametrize('shape', [(1, 3, 8, 16), ('n', 3, 'h', 'w'), (None, 3, 8, None),
                                   ('n', 'c', 'h', 'w'), (-1, 3, -1, -1), (0, 3, 0, 0), None])
def test_every_way_to_leave_a_size_open_is_understood(shape: Any) -> None:
    static = make_static(make([N('Relu', ['x'], ['y'])], shape=shape), 8, 16)
    assert types_of(static)['y'].shape == (1, 3, 8, 16)


@pytest.mark.parametrize('kwargs, words', [
    ({'shape': (1, 3, 480, 640)}, 'fixed input size 640x480, expected 16x8.*640x480'),
    ({'shape': (4, 3, 8, 16)}, "'x' has the fixed batch 4, expected 1"),
    ({'shape': (1, 1, 8, 16)}, r'shape \(1, 1, 8, 16\).*three colours'),
    ({'shape': (1, 8, 16, 4)}, 'three colours'),
    ({'shape': (3, 8, 16)}, r'shape \(3, 8, 16\), expected float32 \(N, 3, H, W\)'),
    ({'kind': TensorProto.UINT8}, "'x' is UINT8, expected float32"),
    ({'kind': TensorProto.DOUBLE}, "'x' is DOUBLE"),
    ({'kind': TensorProto.FLOAT16}, "'x' is FLOAT16"),
])
def test_an_input_that_is_no_image_of_this_size_is_refused(
    kwargs: dict[str, Any], words: str
) -> None:
    with pytest.raises(GraphError, match=words):
        make_static(make([N('Relu', ['x'], ['y'])], **kwargs), 8, 16)


def test_a_second_input_is_refused_by_name() -> None:
    model = make([N('Relu', ['x'], ['y'])])
    model.graph.input.append(helper.make_tensor_value_info('depth', TensorProto.FLOAT, [1]))
    with pytest.raises(GraphError, match='2 inputs .*depth'):
        make_static(model, 8, 16)


def test_a_network_that_contradicts_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(*args: Any, **kwargs: Any) -> onnx.ModelProto:
        raise onnx.shape_inference.InferenceError('ranks differ')  # depends on the version

    monkeypatch.setattr(onnx.shape_inference, 'infer_shapes', infer)
    with pytest.raises(GraphError, match=r'onnx finds the network wrong \(ranks differ\)'):
        make_static(make([N('Relu', ['x'], ['y'])]), 8, 16)


@pytest.mark.parametrize('parts, left', [
    (('x', 'none'), ['Relu']), (('none', 'x'), ['Relu']), (('none', 'x', 'x'), ['Concat', 'Relu']),
])
def test_a_join_leaves_out_what_has_no_channels(parts: tuple[str, ...], left: list[str]) -> None:
    # From segmentation_models_pytorch: the empty skip of a stage that timm's encoder lacks.
    nodes = [N('Concat', list(parts), ['j'], axis=1), N('Relu', ['j'], ['y'])]
    static = require_same(make(nodes, {'none': np.zeros((1, 0, 8, 16), np.float32)}))
    assert ops(static) == left


FLAT = N('Reshape', ['x', 'all'], ['flat'])


@pytest.mark.parametrize('picks, left', [
    (np.arange(384).reshape(1, 3, 128), ['Reshape', 'Relu']),
    (np.random.default_rng(0).integers(0, 384, (1, 4, 5, 2)), ['Reshape', 'Gather', 'Relu']),
])
def test_what_is_picked_of_a_flat_image_keeps_its_batch(
    picks: np.ndarray, left: list[str]
) -> None:
    # torch.export's form of as_strided for a batch of 1, in the pooling of UPerNet.
    nodes = [FLAT, N('Gather', ['flat', 'picks'], ['g']), N('Relu', ['g'], ['y'])]
    static = require_same(make(nodes, {'all': ints(-1), 'picks': picks}))
    assert ops(static) == left
    gather = [node for node in static.graph.node if node.op_type == 'Gather']
    assert all(node.attribute[0].i == 1 for node in gather)  # not along the batch axis


def block(*bounds: tuple[int, int, int]) -> np.ndarray:
    """Return the indices (..., k) of a block; the bounds are arguments of range."""
    return np.stack(np.meshgrid(*(np.arange(*b) for b in bounds), indexing='ij'), -1)


@pytest.mark.parametrize('index, is_joined', [
    (block((0, 1, 1), (1, 2, 1)), True),
    (block((0, 1, 1), (0, 3, 1), (2, 8, 1)), True),
    (block((0, 1, 1), (1, 3, 1), (3, 5, 1), (0, 9, 1)), True),
    (block((0, 1, 1), (-1, 0, 1)), True),
    (block((0, 1, 1), (0, 3, 1)), True),
    (block((0, 1, 1), (0, 3, 1), (0, 8, 2)), False),
    (block((0, 1, 1), (0, 3, 1))[:, ::-1], False),
])
def test_a_block_that_is_written_into_an_image_is_joined(
    index: np.ndarray, is_joined: bool
) -> None:
    shape = (*index.shape[:-1], *(1, 3, 8, 16)[index.shape[-1]:])
    nodes = [N('Exp', ['x'], ['e']), N('ScatterND', ['e', 'i', 'u'], ['s']),
             N('Relu', ['s'], ['y'])]
    static = require_same(make(nodes, {'i': index, 'u': 1 + abs(values(*shape))}))
    assert ('ScatterND' not in ops(static)) == is_joined
