# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Sums in strips of rows equal those of the whole graph, for any operators before them."""

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import onnx
from onnx import helper, numpy_helper
import onnxruntime
import pytest

from uncertainty_seg.backends.cpu import strips
from uncertainty_seg.backends.cpu.strips import in_strips
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.backends.runner import (
    bytes_a_pass,
    INV_TEMPERATURE,
    MAX_CHUNK,
    SUMS,
    tensor_shapes,
)
from uncertainty_seg.compiler.algebra.move_masks import fold_masks
from uncertainty_seg.compiler.algebra.split import LOGITS
from uncertainty_seg.compiler.head_graphs import add_sums
from uncertainty_seg.compiler.onnx_tools import build_model, float_info
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import sums_of_logits
from uncertainty_seg.storage.model_bundle import load_bundle

T, C, F, H, W = 5, 3, 4, 7, 6
node = helper.make_node
rng = np.random.default_rng(3)
WEIGHTS = {
    'w': rng.normal(size=(C, F)), 'w1': rng.normal(size=(C, F, 1, 1)),
    'w3': rng.normal(size=(C, F, 3, 3)), 'of_rows': rng.normal(size=(1, 1, H, 1)),
    'of_other_rows': rng.normal(size=(1, 1, H, 1, 1)), 'between': rng.normal(size=(H * W, H * W)),
    'of_pixels': rng.normal(size=(C, H, W)), 'of_classes': rng.normal(size=(1, C, 1, 1)),
}
SHAPES = {'mask_row': [-1, 1, F], 'rows': [-1, F], 'flat': [F, H * W], 'planes': [-1, C, H, W],
          'lines': [-1, C, H * W], 'around': [0, 1, 0, 1, 0, 1, 0, 1], 'first': [1, 1],
          'stop': [1 + C, 1 + W], 'axes': [1, 3],
          'other_axis': [3], 'row_axis': [2], 'class_axis': [1]}
MASKED = [node('Mul', ['x', 'mask'], ['m'])]
PRODUCT = [
    node('Reshape', ['mask', 'mask_row'], ['row']), node('Mul', ['row', 'w'], ['wm']),
    node('Reshape', ['wm', 'rows'], ['stack']), node('Reshape', ['x', 'flat'], ['pixels']),
    node('MatMul', ['stack', 'pixels'], ['product']),
    node('Reshape', ['product', 'planes'], ['plain']),
    node('Add', ['plain', 'of_classes'], [LOGITS])]
HEADS: dict[str, Sequence[onnx.NodeProto]] = {
    'product': PRODUCT,
    '1x1': [*MASKED, node('Conv', ['m', 'w1'], [LOGITS])],
    '3x3': [*MASKED, node('Conv', ['m', 'w3'], [LOGITS], pads=[1, 1, 1, 1])],
    'a bias of each pixel': [*MASKED, node('Conv', ['m', 'w1'], ['z']),
                             node('Add', ['z', 'of_pixels'], [LOGITS])],
    'a bias of each row': [*MASKED, node('Conv', ['m', 'w1'], ['z']),
                           node('Add', ['z', 'of_rows'], [LOGITS])],
    'the mean of all pixels': [*MASKED, node('Conv', ['m', 'w1'], ['z']),
                               node('GlobalAveragePool', ['z'], ['mean']),
                               node('Sub', ['z', 'mean'], [LOGITS])],
    'the largest of the rows': [*MASKED, node('Conv', ['m', 'w1'], ['z']),
                                node('ReduceMax', ['z', 'row_axis'], ['top'], keepdims=1),
                                node('Sub', ['z', 'top'], [LOGITS])],
    # Another axis as long as the rows.
    'the largest of other rows': [*MASKED, node('Conv', ['m', 'w1'], ['z']),
                                  node('Unsqueeze', ['z', 'row_axis'], ['z5']),
                                  node('Add', ['z5', 'of_other_rows'], ['sums']),
                                  node('ReduceMax', ['sums', 'other_axis'], [LOGITS], keepdims=0)],
    'all pixels for each': [*MASKED, node('Conv', ['m', 'w1'], ['z']),
                            node('Reshape', ['z', 'lines'], ['line']),
                            node('MatMul', ['line', 'between'], ['mixed']),
                            node('Reshape', ['mixed', 'planes'], [LOGITS])],
    # Rows unchanged, with other channels and columns.
    'a part of the columns': [*MASKED, node('Conv', ['m', 'w1'], ['z']),
                              node('Pad', ['z', 'around'], ['more']),
                              node('Slice', ['more', 'first', 'stop', 'axes'], [LOGITS])],
    'the largest of the classes': [*MASKED, node('Conv', ['m', 'w1'], ['z']),
                                   node('ReduceMax', ['z', 'class_axis'], ['top'], keepdims=1),
                                   node('Sub', ['z', 'top'], [LOGITS])],
}


def head_of(nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """Return a head with these nodes."""
    used = {name for one in nodes for name in one.input}
    weights = {name: v.astype(np.float32) for name, v in WEIGHTS.items() if name in used}
    weights |= {name: np.array(v) for name, v in SHAPES.items() if name in used}
    return build_model('head', nodes, [float_info('x', [1, F, H, W]),
                                       float_info('mask', ['T', F, 1, 1])],
                       [float_info(LOGITS, ['T', C, H, W])],
                       [numpy_helper.from_array(v, name) for name, v in weights.items()])


def passes_graph(nodes: Sequence[onnx.NodeProto]) -> bytes:
    """Return a head with these nodes and its sums, serialised."""
    return bytes(add_sums(head_of(nodes)).SerializeToString())


def run(content: bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, ['CPUExecutionProvider'])
    return list(session.run(list(SUMS), feed))


def count(content: bytes, kind: str) -> int:
    return sum(one.op_type == kind for one in onnx.load_model_from_string(content).graph.node)


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize('num_strips', [2, 3, 7])
def test_strips_give_the_sums_of_the_whole(
    name: str, num_strips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, 'STRIP_BYTES', -(-4 * T * C * H * W // num_strips))
    whole = passes_graph(HEADS[name])
    cut = in_strips(whole, T)
    assert count(cut, 'Exp') == num_strips
    for passes in (1, T, 2 * T):
        feed = {'x': rng.normal(size=(1, F, H, W)), 'mask': rng.integers(0, 2, (passes, F, 1, 1)),
                INV_TEMPERATURE: np.array([0.7])}
        feed = {key: value.astype(np.float32) for key, value in feed.items()}
        for found, wanted in zip(run(cut, feed), run(whole, feed), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-6)
        if name == 'product':
            features = np.einsum('tf,cf,fhw->tchw', feed['mask'][..., 0, 0], WEIGHTS['w'],
                                 feed['x'][0]) + WEIGHTS['of_classes']
            np.testing.assert_allclose(run(cut, feed)[0], sums_of_logits(features, 1 / 0.7).p,
                                       atol=1e-5)


def test_the_product_of_masks_and_features_is_cut_before_it_grows(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, 'STRIP_BYTES', -(-4 * T * C * H * W // 3))
    cut = in_strips(passes_graph(HEADS['product']), T)
    # Parts without rows occur once; the product occurs once per strip, without a cut after it.
    assert (count(cut, 'MatMul'), count(cut, 'Split')) == (3, 2)
    other = in_strips(passes_graph(HEADS['3x3']), T)
    assert (count(other, 'Conv'), count(other, 'Split')) == (1, 2)


@pytest.mark.parametrize('dilation', [1, 2])
@pytest.mark.parametrize('num_strips', [2, 7])
def test_a_convolution_with_masks_in_its_weights_is_cut_into_rows_it_sees(
    dilation: int, num_strips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = node('Conv', ['m', 'w3'], [LOGITS], pads=[dilation] * 4, dilations=[dilation] * 2)
    head = head_of([*MASKED, conv])
    folded, _ = fold_masks(head, (DropoutSite('mask', (F, 1, 1), 0.5, 'mask'),), 9)
    monkeypatch.setattr(strips, 'STRIP_BYTES', -(-4 * 9 * F * H * W // num_strips))
    cut = in_strips(bytes(add_sums(folded).SerializeToString()), 1)
    assert (count(cut, 'Slice'), count(cut, 'Conv')) == (9 * num_strips, 0)
    feed = {'x': rng.normal(size=(1, F, H, W)), 'mask': rng.integers(0, 2, (T, F, 1, 1)),
            INV_TEMPERATURE: np.array([0.7])}
    feed = {key: value.astype(np.float32) for key, value in feed.items()}
    wanted = run(bytes(add_sums(head).SerializeToString()), feed)
    for one, other in zip(run(cut, feed), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-5)


def test_of_the_included_model_every_strip_fits_and_only_rounding_differs() -> None:
    bundle = load_bundle('pipeline')
    whole = bundle.passes_path.read_bytes()
    cut = in_strips(whole, bundle.card.passes)
    shapes = tensor_shapes(onnx.load_model_from_string(cut), bundle.card.passes)
    sizes = [4 * np.prod(shapes[one.output[0]])
             for one in onnx.load_model_from_string(cut).graph.node if one.op_type == 'Exp']
    row = min(sizes) // 4  # strips of four and five rows
    assert len(sizes) > 8 and max(sizes) < strips.STRIP_BYTES + row
    graph = onnx.load_model_from_string(whole).graph
    feed = {info.name: rng.random([dim.dim_value or 20 for dim in
                                   info.type.tensor_type.shape.dim]).astype(np.float32) * 4
            for info in graph.input}
    for found, wanted in zip(run(cut, feed), run(whole, feed), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(('num_classes', 'passes_of_log'), [(34, 1), (35, MAX_CHUNK)])
def test_the_product_of_the_totals_of_a_chunk_is_finite(
    num_classes: int, passes_of_log: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = build_model('head', [node('Mul', ['x', 'mask'], [LOGITS])],
                       [float_info('x', [1, num_classes, 2, 3]),
                        float_info('mask', ['T', num_classes, 1, 1])],
                       [float_info(LOGITS, ['T', num_classes, 2, 3])], [])
    monkeypatch.setattr(strips, 'STRIP_BYTES', 4 * MAX_CHUNK * num_classes * 3)
    cut = in_strips(bytes(add_sums(head).SerializeToString()), MAX_CHUNK)
    shapes = tensor_shapes(onnx.load_model_from_string(cut), MAX_CHUNK)
    assert [np.prod(shapes[one.output[0]]) for one in onnx.load_model_from_string(cut).graph.node
            if one.op_type == 'Log'] == [3 * passes_of_log] * 2
    # Equal logits have the largest totals.
    feed = {'x': np.zeros((1, num_classes, 2, 3)), INV_TEMPERATURE: np.ones(1),
            'mask': np.ones((MAX_CHUNK, num_classes, 1, 1))}
    sums = run(cut, {key: value.astype(np.float32) for key, value in feed.items()})
    np.testing.assert_allclose(sums[1], MAX_CHUNK * np.log(num_classes), rtol=1e-6)


def test_of_what_is_cut_more_passes_fit_at_once() -> None:
    bundle, budget = load_bundle('pipeline'), Settings(memory_budget_mb=8)
    assert bytes_a_pass(bundle.passes_path.read_bytes()) > 2**20
    with closing(open_backend('onnxruntime', bundle, budget)) as backend:
        image = np.zeros((bundle.card.input.height, bundle.card.input.width, 3), np.uint8)
        backend.run(image, pass_inputs(bundle.card, 20, 0), 1.0)
        assert vars(backend)['_chunks'] == {20: 20}


def test_what_fits_or_is_too_large_to_be_cut_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, behind = passes_graph(PRODUCT), passes_graph(HEADS['3x3'])
    assert in_strips(whole, T) == whole
    monkeypatch.setattr(strips, 'STRIP_BYTES', 2)
    monkeypatch.setattr(strips, 'MOST_STRIPS', 3)
    assert count(in_strips(whole, T), 'Exp') == 3
    for bytes_, strips_of in ((4 * T * C * H * W, 3), (4 * T * C * H * W - 1, 1)):
        monkeypatch.setattr(strips, 'MOST_CUT_BYTES', bytes_)
        assert count(in_strips(behind, T), 'Exp') == strips_of
        # The input of the logits is cut instead of the logits.
        assert count(in_strips(whole, T), 'Exp') == 3
