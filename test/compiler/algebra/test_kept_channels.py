# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Under balanced masks a head that computes kept channels only gives what the whole one does."""

from graph_samples import drop, masked, node, ops, parts, run_split, TOLERANCE, weights
import numpy as np
import onnx
import pytest

from uncertainty_seg.compiler.algebra import kept_channels
from uncertainty_seg.compiler.algebra.kept_channels import keep_channels
from uncertainty_seg.compiler.algebra.split import split_trunk_head
from uncertainty_seg.core.dropout_masks import make_masks

CHUNK = 4
SAME = {'pads': [1, 1, 1, 1]}
CONSTANTS = {
    'w0': weights(8, 6, 3, 3), 'w1': weights(10, 8, 3, 3), 'b1': weights(10),
    'w2': weights(12, 10, 3, 3), 'b2': weights(12), 'w3': weights(3, 12, 1, 1), 'b3': weights(3),
    'cat': weights(12, 18, 3, 3), 'twice': np.array([1, 1, 2, 2], np.float32),
    'sizes': np.array([1, 10, 16, 20]), 'scale': weights(10, 1, 1), 'two': np.float32(2),
    'w8': weights(8, 10, 3, 3),
}
START = [node('Conv', 'x w0', 'c0', **SAME), node('Relu', 'c0', 'r0'), drop('r0', 'd0')]
MIDDLE = [node('Conv', 'd0 w1 b1', 'c1', **SAME), node('Relu', 'c1', 'r1')]
END = [node('Conv', 'd1 w2 b2', 'c2', **SAME), node('Relu', 'c2', 'r2'), drop('r2', 'd2', p=0.25),
       node('Conv', 'd2 w3 b3', 'output')]


@pytest.fixture(autouse=True)
def everything_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep all: the tests are small; what pays is tested by itself."""
    monkeypatch.setattr(kept_channels, '_saving', lambda *_: 1)


def kept(nodes: list[onnx.NodeProto], chunk: int = CHUNK) -> tuple[onnx.ModelProto, list[bool]]:
    plain, sites = masked(nodes, CONSTANTS)
    trunk, head, masks, expected = parts(plain, sites, chunk, balanced=True)
    result, decisions = keep_channels(head, sites, chunk)
    np.testing.assert_allclose(run_split(trunk, result, masks), expected, atol=TOLERANCE)
    return result, [d.is_applied for d in decisions]


def gathered_shapes(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """Return the weights that are gathered, each once for all passes."""
    known = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim)
              for i in known.graph.value_info}
    fixed = {t.name for t in model.graph.initializer}
    return list(dict.fromkeys(shapes[n.input[1]] for n in model.graph.node
                              if n.op_type == 'Conv' and n.input[1] not in fixed))


def test_convolutions_between_sites_shrink_on_both_sides() -> None:
    result, applied = kept([*START, *MIDDLE, drop('r1', 'd1'), *END])
    assert applied == [True] * 3
    # Of 8, 10 and 12 channels 4, 5 and 9 are kept.
    assert gathered_shapes(result) == [(5, 4, 3, 3), (9, 5, 3, 3), (3, 9, 1, 1)]


@pytest.mark.parametrize('between', [
    [node('Resize', 'd1 - twice', 'y', mode='linear')],
    [node('MaxPool', 'd1', 'p', kernel_shape=[2, 2]), node('LeakyRelu', 'p', 'y')],
])
def test_what_works_on_each_channel_behind_the_mask_has_fewer(
    between: list[onnx.NodeProto]
) -> None:
    end = [node('Conv', 'y w2 b2', 'c2', **SAME), node('Relu', 'c2', 'output')]
    result, applied = kept([*START, *MIDDLE, drop('r1', 'd1'), *between, *end])
    assert all(applied) and (12, 5, 3, 3) in gathered_shapes(result)


def test_a_size_that_is_given_gets_the_number_of_channels() -> None:
    """The size of a result also holds the number of passes: one, as exported."""
    nodes = [*START, *MIDDLE, drop('r1', 'd1'),
             node('Resize', 'd1 - - sizes', 'y', mode='nearest', nearest_mode='floor'),
             node('Conv', 'y w2 b2', 'output', **SAME)]
    plain, sites = masked(nodes, CONSTANTS)
    trunk, head, masks, expected = parts(plain, sites, 1, balanced=True)
    result, _ = keep_channels(head, sites, 1)
    np.testing.assert_allclose(run_split(trunk, result, masks), expected, atol=TOLERANCE)


@pytest.mark.parametrize('before', [
    [node('Resize', 'c1 - twice', 'y', mode='nearest', nearest_mode='floor')],
    [node('Sigmoid', 'c1', 's'), node('Mul', 's scale', 'y')],
    [node('Clip', 'c1 - two', 'y')],
    [node('Conv', 'r0 w1', 'skip', **SAME), node('Add', 'skip c1', 'a'),
     node('Relu', 'a', 'y')],
    [node('Conv', 'd0 w1', 'more', **SAME), node('Add', 'more c1', 'y')],
])
def test_what_works_on_each_channel_before_the_mask_has_fewer(
    before: list[onnx.NodeProto]
) -> None:
    result, applied = kept([*START, MIDDLE[0], *before, drop('y', 'd1'), *END])
    assert all(applied)
    assert {shape[0] for shape in gathered_shapes(result)[:-2]} == {5}


def test_a_tensor_with_other_users_is_picked_from() -> None:
    """It is needed with all channels elsewhere, so its convolution keeps them."""
    end = [node('Conv', 'd1 w8', 'c2', **SAME), node('Conv', 'r1 w8', 'c3', **SAME),
           node('Add', 'c2 c3', 'output')]
    result, applied = kept([*START, *MIDDLE, drop('r1', 'd1'), *end])
    assert applied == [True, True]
    assert (10, 4, 3, 3) in gathered_shapes(result) and 'Gather' in ops(result)


def test_a_concatenation_keeps_the_columns_of_both() -> None:
    end = [node('Concat', 'd1 d0', 'j', axis=1), node('Conv', 'j cat', 'output', **SAME)]
    result, applied = kept([*START, *MIDDLE, drop('r1', 'd1'), *end])
    assert applied == [True, True]
    assert (12, 9, 3, 3) in gathered_shapes(result)


def test_a_concatenation_with_a_whole_tensor_keeps_all_of_it() -> None:
    end = [node('Sigmoid', 'd0', 's'), node('Concat', 's d1', 'j', axis=1),
           node('Conv', 'j cat', 'output', **SAME)]
    result, applied = kept([*START, *MIDDLE, drop('r1', 'd1'), *end])
    assert applied == [False, True]
    assert (12, 13, 3, 3) in gathered_shapes(result)


@pytest.mark.parametrize('end, words', [
    ([node('Sigmoid', 'd1', 'output')], 'needs all channels'),
    ([node('Conv', 'd1 deep', 'output', group=10)], 'needs all channels'),
    ([node('Identity', 'd1', 'output')], 'applied to the output'),
])
def test_a_site_whose_channels_are_all_needed_stays(
    end: list[onnx.NodeProto], words: str
) -> None:
    plain, sites = masked([*START, *MIDDLE, drop('r1', 'd1'), *end],
                          {**CONSTANTS, 'deep': weights(10, 1, 3, 3)})
    _, head, _, _ = parts(plain, sites, CHUNK)
    _, (_, decision) = keep_channels(head, sites, CHUNK)
    assert not decision.is_applied and words in decision.reason


def test_sites_of_elements_are_left_alone() -> None:
    nodes = [*START[:2], drop('r0', 'd0', 'element'), *MIDDLE[:1], drop('c1', 'd1'), *END]
    _, applied = kept(nodes)
    assert applied == [True, True]  # d1 and d2; no decision is taken about d0


@pytest.mark.parametrize('chunk', [1, 3])
def test_the_head_takes_exactly_its_chunk(chunk: int) -> None:
    result, _ = kept([*START, *MIDDLE, drop('r1', 'd1'), *END], chunk)
    for info in (*result.graph.output, *(i for i in result.graph.input if 'mask' in i.name)):
        assert info.type.tensor_type.shape.dim[0].dim_value == chunk


def test_only_what_pays_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pixels, or few dropped channels, do not pay for the gathering."""
    monkeypatch.undo()
    plain, sites = masked([*START, *MIDDLE, drop('r1', 'd1'), *END], CONSTANTS)
    _, head = split_trunk_head(plain, sites)
    result, decisions = keep_channels(head, sites, CHUNK)
    assert result == head and not any(d.is_applied for d in decisions)
    assert all('costs more than it saves' in d.reason for d in decisions)
    wide = [node('Resize', 'x - scale', 'big', mode='nearest'), *START, *MIDDLE,
            drop('r1', 'd1'), *END]
    wide[1] = node('Conv', 'big w0', 'c0', **SAME)
    plain, sites = masked(wide, {**CONSTANTS, 'scale': np.array([1, 1, 8, 8], np.float32)})
    trunk, head = split_trunk_head(plain, sites)
    result, decisions = keep_channels(head, sites, CHUNK)
    assert [d.is_applied for d in decisions] == [True, True, False]  # the last keeps 3 of 4
    assert all((d.saved > 0) == d.is_applied for d in decisions)
    masks = make_masks(sites, CHUNK, 1, balanced=True)
    np.testing.assert_allclose(run_split(trunk, result, masks), run_split(trunk, head, masks),
                               atol=TOLERANCE)
