# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Error propagation from a network to maps: moments rank pixels as sampling does."""

import dataclasses
from pathlib import Path

from graph_samples import run
import numpy as np
import onnx
from onnx import helper
import pytest
import torch
from torch import nn

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.compiler.capture.export import export_marked
from uncertainty_seg.compiler.checks.sample_checks import check_moments
from uncertainty_seg.compiler.compile import compile_moments
from uncertainty_seg.compiler.onnx_tools import copy_of, rename_tensors
from uncertainty_seg.compiler.plan import CompileOptions
from uncertainty_seg.compiler.request import compile_network
from uncertainty_seg.core.calibration import Calibration
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.model_card import (
    DropoutSite,
    InputSpec,
    ModelCard,
    SCHEMA_VERSION,
)
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import grid_maps, sums_of_logits
from uncertainty_seg.errors import ConfigError, GraphError
from uncertainty_seg.storage.model_bundle import load_bundle, model_digest, write_calibration

pytestmark = pytest.mark.torch
SIZE = 64, 48
SPEC = InputSpec(*SIZE, 'stretch', 'rgb', (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def conv(channels_in: int, channels_out: int, act: type[nn.Module], kernel: int = 3,
         stride: int = 1) -> list[nn.Module]:
    """Make convolution, batch norm and activation."""
    return [nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(channels_out), act()]


class Residual(nn.Module):
    """A block with a skip connection and stochastic depth's counterpart, channel dropout."""

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv(channels, channels, act), nn.Dropout2d(0.2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def network(act: type[nn.Module], place: str) -> nn.Module:
    """Make a small encoder and decoder with dropout at its head, in its middle, or both."""
    torch.manual_seed(0)
    middle = nn.Dropout2d(0.3) if place != 'head' else nn.Identity()
    last = nn.Dropout2d(0.5) if place != 'middle' else nn.Identity()
    net = nn.Sequential(
        *conv(3, 16, act, stride=2), nn.MaxPool2d(2), *conv(16, 24, act), middle,
        Residual(24, act) if place == 'everywhere' else nn.Identity(),
        nn.Upsample(scale_factor=2, mode='bilinear'), *conv(24, 24, act), last,
        nn.Conv2d(24, 4, 1))
    for _ in range(3):  # batch norm statistics that fit the inputs
        net(torch.rand(4, 3, 48, 64) * 4 - 2)
    return net.eval()


def card_like(passes: int = 20) -> ModelCard:
    """Return a card for the networks of this file."""
    return ModelCard(
        schema=SCHEMA_VERSION, name='net', method='error_propagation', class_names=tuple('abcd'),
        palette=((0, 0, 0),) * 4, ignore_index=255, input=SPEC,
        dropout_sites=(DropoutSite('noise', (4, 1, 1), 0.0, 'noise'),), passes=passes, opset=17,
        logits_shape=(4, 24, 32), training='', license='', not_good_for='', metrics={}, sha256={})


NETS = [(nn.ReLU, 'head'), (nn.ReLU, 'middle'), (nn.ReLU, 'everywhere'), (nn.ReLU6, 'middle'),
        (nn.Hardswish, 'everywhere'), (nn.SiLU, 'middle'), (nn.LeakyReLU, 'everywhere')]


@pytest.mark.parametrize('act, place', NETS, ids=lambda v: getattr(v, '__name__', v))
def test_pixels_are_ranked_as_by_200_samples(act: type[nn.Module], place: str) -> None:
    compiled = compile_moments(export_marked(network(act, place), SPEC), SPEC, CompileOptions())
    report = check_moments(compiled, card_like(), samples=200)
    assert report.rank > 0.8
    assert report.mean_error < 0.4
    if place == 'head':  # here the moments are exact
        assert report.rank > 0.97 and abs(report.total - 1) < 0.1


def test_the_noise_of_the_camera_alone_needs_no_dropout() -> None:
    net = nn.Sequential(*conv(3, 8, nn.ReLU), nn.Conv2d(8, 4, 1)).eval()
    model = export_marked(net, SPEC)
    with pytest.raises(GraphError, match='no dropout'):
        compile_moments(model, SPEC, CompileOptions())
    compiled = compile_moments(model, SPEC, CompileOptions('error_propagation', sensor_std=10))
    report = check_moments(compiled, card_like(), 10, samples=200)
    assert report.rank > 0.8 and 0.7 < report.total < 1.3
    # The check detects moments computed for other noise than the samples'.
    assert check_moments(compiled, card_like(), 20, samples=60).total < 0.4


def test_the_check_refuses_moments_that_have_nothing_to_do_with_the_network() -> None:
    right, other = (compile_moments(export_marked(network(nn.ReLU, place), SPEC), SPEC,
                                    CompileOptions()) for place in ('middle', 'head'))
    for wrong, word in ((ended(right.trunk, 'logit_mean', 'Exp'), 'mean'),
                        (ended(right.trunk, 'logit_variance', 'Reciprocal'), 'rank'),
                        (ended(right.trunk, 'logit_variance', 'Floor'), 'no variance'),
                        (ended(right.trunk, 'logit_mean', 'Log'), 'NaN')):
        with pytest.raises(GraphError, match=word):
            check_moments(dataclasses.replace(right, trunk=wrong), card_like())
    assert check_moments(other, card_like()).rank > 0.8


def ended(trunk: onnx.ModelProto, output: str, op: str) -> onnx.ModelProto:
    """Return a trunk with one more operation on an output."""
    result = copy_of(trunk)
    for node in result.graph.node:
        rename_tensors(node, {output: 'before'})
    result.graph.node.append(helper.make_node(op, ['before'], [output]))
    return result


def test_a_bundle_runs_from_image_to_maps(tmp_path: Path) -> None:
    made = compile_network(
        network(nn.ReLU, 'everywhere'), tmp_path / 'bundle', SIZE, list('abcd'),
        method='error_propagation', sensor_std=2.0, mean=SPEC.mean, std=SPEC.std, fit='stretch')
    card = made.bundle.card
    assert (card.method, card.passes, card.mask_sites) == ('error_propagation', 20, ())
    assert [site.name for site in card.noise_sites] == ['noise']
    limits = {'mutual_information.mean': 1e-3}
    write_calibration(made.bundle, Calibration(
        20, 0, 'fixed', 'fp32', 1.0, limits, tuple(limits), 0.95, 10, 10,
        model_digest(card), 'none'))
    bundle = load_bundle(tmp_path / 'bundle')
    backend = open_backend('onnxruntime', bundle, Settings(threads=1))
    pipeline = Pipeline(bundle, backend, Settings(threads=1))
    pipeline.check_masks()
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    maps = grid_maps(backend.run(image, pass_inputs(card, 20, 0), 1.0))
    mean, variance = run(made.compiled.trunk, {'image': image[None]})
    logits = mean + np.sqrt(variance) * pass_inputs(card, 20, 0)['noise']
    expected = grid_maps(sums_of_logits(logits))
    np.testing.assert_allclose(
        maps.mutual_information, expected.mutual_information, rtol=0.02, atol=2e-5)
    assert maps.mutual_information.max() > 1e-3
    result = pipeline.process(np.ascontiguousarray(image[..., ::-1]))  # the pipeline expects BGR
    assert result.scores['mutual_information.mean'] == pytest.approx(
        float(expected.mutual_information.mean()), rel=0.02)
    pipeline.close()


@pytest.mark.parametrize('words, expected', [
    ({'method': 'error_propagation', 'precision': 'fp16'}, 'fp32'),
    ({'method': 'error_propagation', 'sensor_std': -1.0}, 'sensor_std -1'),
    ({'method': 'error_propagation', 'sensor_std': float('nan')}, 'sensor_std nan'),
    ({'sensor_std': 2.0}, 'error_propagation'),
])
def test_options_that_do_not_go_together_are_refused(
    words: dict[str, object], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=expected):
        compile_network(network(nn.ReLU, 'head'), tmp_path / 'b', SIZE, list('abcd'), **words)
    assert not (tmp_path / 'b').exists()
