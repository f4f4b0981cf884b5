# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A merged ensemble gives the outputs of its members, shown by running all of them."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime
import pytest

from uncertainty_seg.compiler.algebra.ensemble import ensemble_graphs
from uncertainty_seg.compiler.frontend.standard_form import take_bytes
from uncertainty_seg.compiler.onnx_tools import float_info, OPSET
from uncertainty_seg.core.dropout_masks import MEMBER
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.errors import GraphError

SPEC = InputSpec(64, 48, 'stretch', 'rgb', (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), np.uint8)


def member(seed: int, classes: int = 3, dropout: str = '', encoder: int | None = None,
           stride: int = 2) -> onnx.ModelProto:
    """Make two convolutions of random weights; the first, the encoder, has a separate seed."""
    drop = {
        '': helper.make_node('Relu', ['c'], ['d']),
        'onnx': helper.make_node('Dropout', ['c', 'rate', 'yes'], ['d'], name='drop'),
        'marker': helper.make_node('Dropout', ['c'], ['d'], domain='uncertainty_seg', p=0.5,
                                   kind='channel', site='s'),
        'mask': helper.make_node('Dropout', ['c', 'rate', 'yes'], ['d', 'mask'], name='drop'),
    }[dropout]
    nodes = [
        helper.make_node('Conv', ['input', 'w1', 'b1'], ['c'], kernel_shape=[3, 3],
                         strides=[stride, stride], pads=[1, 1, 1, 1], name='conv'),
        drop,
        helper.make_node('Conv', ['d', 'w2'], ['output'], kernel_shape=[1, 1], name='last'),
    ]
    if dropout == 'mask':
        nodes += [helper.make_node('Cast', ['mask'], ['m'], to=TensorProto.FLOAT),
                  helper.make_node('Mul', ['d', 'm'], ['dm'])]
    first = np.random.default_rng(seed if encoder is None else encoder)
    rng = np.random.default_rng(100 + seed)
    values = {'w1': first.normal(size=(8, 3, 3, 3)), 'b1': first.normal(size=8),
              'w2': rng.normal(size=(classes, 8, 1, 1)), 'rate': np.array(0.5)}
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()]
    tensors.append(numpy_helper.from_array(np.array(True), 'yes'))
    rows, columns = 48 // stride, 64 // stride
    graph = helper.make_graph(nodes, 'net', [float_info('input', (1, 3, 48, 64))],
                              [float_info('output', (1, classes, rows, columns))], tensors)
    opsets = [helper.make_opsetid('', OPSET), helper.make_opsetid('uncertainty_seg', 1)]
    return take_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8), SPEC)


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    return session.run(None, dict(feeds))


def run_ensemble(models: list[onnx.ModelProto], rows: np.ndarray) -> np.ndarray:
    trunk, head, _ = ensemble_graphs(models)
    members = run(trunk, {'image': IMAGE})[0]
    return run(head, {'members': members, MEMBER: rows.astype(np.float32)})[0]


def test_each_pass_is_a_member_run_alone_to_the_bit() -> None:
    models = [member(seed) for seed in range(4)]
    logits = run_ensemble(models, np.eye(4))
    assert logits.shape == (4, 3, 24, 32)
    for index, model in enumerate(models):
        np.testing.assert_array_equal(logits[index], run(model, {'image': IMAGE})[0][0])


def test_a_row_chooses_its_member_in_any_order_and_number() -> None:
    models = [member(seed) for seed in range(3)]
    each = run_ensemble(models, np.eye(3))
    np.testing.assert_array_equal(run_ensemble(models, np.eye(3)[[2, 0, 2, 1]]),
                                  each[[2, 0, 2, 1]])
    np.testing.assert_array_equal(run_ensemble(models, np.eye(3)[1:2]), each[1:2])


def test_a_member_that_gives_no_number_spoils_its_own_pass_only() -> None:
    _, head, _ = ensemble_graphs([member(0), member(1)])
    members = np.ones((2, 3, 24, 32), np.float32)
    members[1, 0, 5, 6] = np.nan
    logits = run(head, {'members': members, MEMBER: np.eye(2, dtype=np.float32)})[0]
    assert (logits[0] == 1).all()
    assert np.isnan(logits[1, 0, 5, 6]) and np.isnan(logits).sum() == 1


def test_a_shared_encoder_is_stored_and_computed_once() -> None:
    models = [member(seed, encoder=7) for seed in range(3)]
    trunk, _, _ = ensemble_graphs(models)
    assert [node.op_type for node in trunk.graph.node].count('Conv') == 1 + 3
    assert sum(list(t.dims) == [8, 3, 3, 3] for t in trunk.graph.initializer) == 1
    for index, row in enumerate(run_ensemble(models, np.eye(3))):
        np.testing.assert_array_equal(row, run(models[index], {'image': IMAGE})[0][0])


@pytest.mark.parametrize('dropout', ['onnx', 'marker'])
def test_dropout_in_a_member_is_switched_off(dropout: str) -> None:
    trunk, _, _ = ensemble_graphs([member(seed, dropout=dropout) for seed in range(2)])
    assert 'Dropout' not in {node.op_type for node in trunk.graph.node}
    without = member(1, dropout='marker')
    for node in without.graph.node:
        if node.op_type == 'Dropout':
            node.CopyFrom(helper.make_node('Identity', ['c'], ['d']))
    logits = run_ensemble([member(0), member(1, dropout=dropout)], np.eye(2))
    del without.opset_import[1]
    np.testing.assert_array_equal(logits[1], run(without, {'image': IMAGE})[0][0])


def bad_ensembles() -> dict[str, tuple[list[onnx.ModelProto], str]]:
    return {
        'one': ([member(0)], 'an ensemble of 1, expected at least two'),
        'twins': ([member(0), member(1), member(0)], 'member 2 has the weights of an earlier one'),
        'classes': ([member(0), member(1), member(2, classes=4)],
                    r'member 2 has logits of the shape \(1, 4, 24, 32\)'),
        'size': ([member(0), member(1, stride=4)], r'member 1 has logits.*\(1, 3, 12, 16\)'),
    }


@pytest.mark.parametrize('case', bad_ensembles())
def test_members_that_do_not_go_together_are_refused(case: str) -> None:
    models, words = bad_ensembles()[case]
    with pytest.raises(GraphError, match=words):
        ensemble_graphs(models)
