# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Each graph pass keeps the graph's output, shown by running both graphs."""


from graph_samples import net, run, run_split, SPEC, tensor
import numpy as np
import onnx
import pytest

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks
from uncertainty_seg.compiler.algebra.split import split_trunk_head
from uncertainty_seg.compiler.frontend.standard_form import take_bytes
from uncertainty_seg.compiler.precision import halve_weights, unhalvable
from uncertainty_seg.core.dropout_masks import make_masks, ones_masks
from uncertainty_seg.errors import GraphError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1, 3, 8, 16)).astype(np.float32)


@pytest.mark.parametrize('kind, shape', [('element', (8, 4, 8)), ('channel', (8, 1, 1))])
def test_dropout_becomes_a_mask_input_of_the_right_shape(
    kind: str, shape: tuple[int, ...]
) -> None:
    masked, (site,) = dropout_to_masks(net(kind))
    assert (site.shape, site.p) == (shape, 0.5)
    assert not [n for n in masked.graph.node if n.op_type == 'Dropout']
    ones = ones_masks([site], 1)
    np.testing.assert_array_equal(
        run(masked, {'input': X, **ones})[0], run(net('none'), {'input': X})[0])


@pytest.mark.parametrize('kind', ['element', 'channel'])
def test_the_split_graphs_compute_what_the_masked_graph_does(kind: str) -> None:
    masked, sites = dropout_to_masks(net(kind))
    trunk, head = split_trunk_head(masked, sites)
    masks = make_masks(sites, 5, 3)
    np.testing.assert_array_equal(
        run_split(trunk, head, masks, X), run(masked, {'input': X, **masks})[0])


def test_bytes_are_normalised_inside_the_graph() -> None:
    image = RNG.integers(0, 256, (1, 8, 16, 3), np.uint8)
    mean, std = np.array(SPEC.mean), np.array(SPEC.std)
    normalised = ((image / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    ours = run(take_bytes(net('none'), SPEC), {'image': image})[0]
    np.testing.assert_allclose(ours, run(net('none'), {'input': normalised})[0], atol=5e-5)


@pytest.mark.parametrize('value, is_halved', [
    (1e6, False), (65504, True), (1.0, True), (1e-4, True), (3e-8, False), (0, True)])
def test_what_sixteen_bits_cannot_tell_stays_in_float32(value: float, is_halved: bool) -> None:
    model = net('none')
    noise = np.random.default_rng(4).uniform(0.5, 1, (64, 3, 3, 3))
    model.graph.initializer[0].CopyFrom(tensor('w1', (value * noise).astype(np.float32)))
    half = halve_weights(model)
    assert ('w1_half' in {t.name for t in half.graph.initializer}) == is_halved
    assert ('w1' in unhalvable(model)) != is_halved


@pytest.mark.parametrize('model, words', [
    (net('none'), 'no dropout'),
    (net('element', rate=0.0), 'rate 0'),
    (net('channel', rate=1.0), '1.0'),
])
def test_a_network_whose_passes_would_not_differ_is_refused(
    model: onnx.ModelProto, words: str
) -> None:
    with pytest.raises(GraphError, match=words):
        dropout_to_masks(model)
