# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A final upsampling that aligns corners is removed from the graph too, and applied by readers."""

import dataclasses

from conftest import tiny_card
import numpy as np
import onnx
from onnx import helper, numpy_helper
import onnxruntime
import pytest

from uncertainty_seg.compiler.frontend.outputs import strip_final_resize
from uncertainty_seg.compiler.onnx_tools import build_model, float_info
from uncertainty_seg.core.grid import upsample_bilinear
from uncertainty_seg.core.model_card import card_from_json, card_to_json, UPSAMPLINGS
from uncertainty_seg.errors import ModelBundleError
from uncertainty_seg.storage.model_bundle import model_digest

LOGITS = np.random.default_rng(0).normal(size=(5, 3, 6, 8)).astype(np.float32) * 4


def net(transform: str, mode: str = 'linear') -> onnx.ModelProto:
    """Make a ReLU followed by a Resize to four times the size."""
    nodes = [
        helper.make_node('Relu', ['input'], ['low']),
        helper.make_node('Resize', ['low', '', 'scales'], ['output'], mode=mode,
                         coordinate_transformation_mode=transform),
    ]
    scales = numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), 'scales')
    output = float_info('output', (5, 3, 24, 32))
    return build_model('net', nodes, [float_info('input', (5, 3, 6, 8))], [output], [scales])


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {'input': LOGITS})[0]


@pytest.mark.parametrize('upsampling', UPSAMPLINGS)
def test_what_is_stripped_is_what_the_oracle_puts_on_again(upsampling: str) -> None:
    stripped, found = strip_final_resize(net(upsampling))
    assert found == upsampling
    assert [n.op_type for n in stripped.graph.node] == ['Relu']
    again = upsample_bilinear(run(stripped), 24, 32, found)
    np.testing.assert_allclose(again, run(net(upsampling)), atol=1e-5)


@pytest.mark.parametrize(('transform', 'mode'), [
    ('asymmetric', 'linear'), ('align_corners', 'nearest'), ('half_pixel', 'cubic')])
def test_another_resize_stays_in_the_graph(transform: str, mode: str) -> None:
    assert strip_final_resize(net(transform, mode)) == (net(transform, mode), 'half_pixel')


def test_a_resize_to_another_size_than_the_images_stays() -> None:
    assert strip_final_resize(net('half_pixel'), (48, 64)) == (net('half_pixel'), 'half_pixel')
    assert len(strip_final_resize(net('half_pixel'), (24, 32))[0].graph.node) == 1


@pytest.mark.parametrize(('transform', 'stays'), [('half_pixel', True), ('align_corners', False)])
def test_a_resize_by_another_factor_than_the_sizes_stays(transform: str, stays: bool) -> None:
    # 6 x 4.1 is 24.6; torch resizes by 4.1 to 24 rows.
    model = net(transform)
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.array([1, 1, 4.1, 4], np.float32), 'scales'))
    stripped, _ = strip_final_resize(model, (24, 32))
    assert (len(stripped.graph.node) == 2) == stays


def test_the_card_keeps_the_upsampling_and_it_changes_the_digest() -> None:
    plain, aligned = tiny_card(), tiny_card(upsampling='align_corners')
    assert card_from_json(card_to_json(aligned)) == aligned
    assert model_digest(plain) != model_digest(aligned)
    with pytest.raises(ModelBundleError, match="upsampling 'cubic'"):
        dataclasses.replace(plain, upsampling='cubic')
