# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Bundles of the methods `single` and `direct`, from a torch net to the pipeline's maps."""

from pathlib import Path

from direct_nets import DirectNet, sampled
import numpy as np
import pytest
from some_maps import maps_from_logits

torch = pytest.importorskip('torch')

from uncertainty_seg.backends.registry import open_backend  # noqa: E402
from uncertainty_seg.compiler.request import compile_network  # noqa: E402
from uncertainty_seg.core.bundle import ModelBundle  # noqa: E402
from uncertainty_seg.core.dropout_masks import pass_inputs  # noqa: E402
from uncertainty_seg.core.pipeline import Pipeline  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.core.uncertainty import grid_maps, UncertaintyMaps  # noqa: E402
from uncertainty_seg.errors import ConfigError, GraphError  # noqa: E402

pytestmark = pytest.mark.torch
SIZE, CLASSES = (64, 48), ('water', 'reef', 'diver')
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
PLANES = ((IMAGE / 255 - 0.5) / 0.25).transpose(2, 0, 1)[None].astype(np.float32)


def compiled(net: torch.nn.Module, folder: Path, method: str, **options: object) -> ModelBundle:
    made = compile_network(net, folder / 'bundle', SIZE, CLASSES, method=method, mean=MEAN,
                           std=STD, full_weights=True, **options)
    return made.bundle


def maps_of(bundle: ModelBundle, name: str = 'onnxruntime', **changes: object) -> UncertaintyMaps:
    """Return the pipeline's maps of the image, after its own checks."""
    settings = Settings(threads=1, **changes)
    backend = open_backend(name, bundle, settings)
    with Pipeline(bundle, backend, settings, temperature=1.0) as pipeline:
        pipeline.check_masks()
        return pipeline.measure(IMAGE[..., ::-1].copy()).maps


def assert_maps(ours: UncertaintyMaps, oracle: UncertaintyMaps) -> None:
    for name in ('confidence', 'entropy', 'mutual_information', 'aleatoric', 'total_variance'):
        np.testing.assert_allclose(getattr(ours, name), getattr(oracle, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize('runtime', ['onnxruntime', 'openvino'])
@pytest.mark.parametrize('way, p, options', [
    ('dict', 0.0, {}), ('dict', 0.4, {'passes': 5}), ('channels', 0.4, {'passes': 3}),
    ('last', 0.0, {'samples': 7}),
    ('pair', 0.0, {'output': 'output_0', 'variance': 'output_1', 'samples': 1}),
    ('pair', 0.4, {'variance': 'output_1', 'passes': 3}),
    ('swapped', 0.4, {'variance': 'output_0', 'passes': 3}),
    ('mean', 0.4, {'passes': 3}), ('beside', 0.4, {'passes': 3}),
])
def test_direct_gives_the_maps_of_the_net_sampled_in_numpy(
    tmp_path: Path, way: str, p: float, options: dict[str, object], runtime: str
) -> None:
    pytest.importorskip(runtime)
    net = DirectNet(way, p)
    bundle = compiled(net, tmp_path, 'direct', **options)
    card = bundle.card
    assert card.passes == options.get('passes', 1)
    assert card.logits_shape == (3, 24, 32)
    inputs = pass_inputs(card, card.passes, 0)
    assert inputs['noise'].shape[1] == options.get('samples', 10)
    oracle = maps_from_logits(np.log(sampled(net, PLANES, inputs)), card.grid)
    ours = maps_of(bundle, runtime)
    assert_maps(ours, oracle)
    assert (ours.mutual_information.max() > 1e-3) == (p > 0)


def test_noise_is_no_disagreement_between_passes(tmp_path: Path) -> None:
    bundle = compiled(DirectNet('dict', 0.4), tmp_path, 'direct', passes=6)
    inputs = pass_inputs(bundle.card, 6, 0)
    ones = {name: np.ones_like(rows) if name != 'noise' else rows
            for name, rows in inputs.items()}
    with open_backend('onnxruntime', bundle, Settings(threads=1)) as backend:
        drawn, still = (grid_maps(backend.run(IMAGE, given, 1.0)) for given in (inputs, ones))
    assert still.mutual_information.max() < 1e-6 < 1e-3 < drawn.mutual_information.max()


@pytest.mark.parametrize('p', [0.0, 0.4])
def test_single_is_the_softmax_of_the_plain_net(tmp_path: Path, p: float) -> None:
    net = DirectNet('channels', p)
    plain = torch.nn.Sequential(net, torch.nn.Conv2d(6, 3, 1))
    bundle = compiled(plain, tmp_path, 'single')
    assert (bundle.card.passes, bundle.card.dropout_sites) == (1, ())
    with torch.no_grad():
        logits = plain.eval()(torch.from_numpy(PLANES)).double().numpy()
    assert_maps(maps_of(bundle), maps_from_logits(logits, bundle.card.grid))


@pytest.mark.parametrize('log_variance, confidence', [(200.0, 0.75), (1e30, 0.75), (np.inf, 0.75),
                                                      (np.nan, 0.75), (-np.inf, 1.0)])
def test_a_log_variance_that_overflows_is_finite_or_not_confident(
    tmp_path: Path, log_variance: float, confidence: float
) -> None:
    net = DirectNet('channels')
    bundle = compiled(net, tmp_path, 'direct', samples=100)
    import onnx
    from onnx import helper

    # A value that the net cannot be trained to, but that a broken device may return.
    trunk = onnx.load(str(bundle.passes_path))
    split = next(n for n in trunk.graph.node if 'noise_s' in n.output)
    split.output[1] = 'noise_before'
    value = helper.make_tensor('noise_broken', 1, [1, 1, 1, 1], [log_variance])
    trunk.graph.initializer.append(value)
    at = list(trunk.graph.node).index(split) + 1
    trunk.graph.node.insert(at, helper.make_node('Expand', ['noise_broken', 'noise_size'],
                                                 ['noise_s']))
    trunk.graph.node.insert(at, helper.make_node('Shape', ['noise_before'], ['noise_size']))
    onnx.save(trunk, str(bundle.passes_path))
    with open_backend('onnxruntime', bundle, Settings(threads=1)) as backend:
        maps = grid_maps(backend.run(IMAGE, pass_inputs(bundle.card, 1, 0), 1.0))
    is_nan = np.isnan(maps.confidence).all()
    assert is_nan or np.isfinite(maps.confidence).all()
    assert is_nan or maps.confidence.max() < confidence
    if not is_nan and log_variance > 0:
        assert maps.aleatoric.min() > 0.8  # the class of a sample is almost random


@pytest.mark.parametrize('way, method, options, words', [
    ('channels', 'mc_dropout', {'samples': 3}, 'direct'),
    ('channels', 'direct', {'passes': 5}, '5 passes'),
    ('dict', 'direct', {'variance': 'spread'}, "'spread'"),
    ('pair', 'direct', {}, 'log_variance'), ('pair', 'direct', {'output': 'output_0'}, 'output_1'),
    ('pair', 'direct', {'output': 'output_1', 'variance': 'output_1'}, 'output_1'),
    ('dict', 'single', {'passes': 2, 'output': 'logits'}, '2 passes'),
    ('dict', 'single', {'inject_dropout': 0.5, 'output': 'logits'}, 'dropout'),
])
def test_what_does_not_fit_the_method_is_one_sentence(
    tmp_path: Path, way: str, method: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises((ConfigError, GraphError), match=words):
        compiled(DirectNet(way), tmp_path, method, **options)
    assert not (tmp_path / 'bundle').exists()


def test_a_variance_of_nothing_is_refused(tmp_path: Path) -> None:
    net = DirectNet('channels')
    with torch.no_grad():
        net.variance.weight.zero_()
        net.variance.bias.fill_(-60)
    with pytest.raises(GraphError, match='the noise does not change the logits'):
        compiled(net, tmp_path, 'direct')


@pytest.mark.parametrize('log_variance, is_refused', [(300.0, True), (16.0, True), (9.0, False)])
def test_a_variance_head_that_overflows_is_refused(
    tmp_path: Path, log_variance: float, is_refused: bool
) -> None:
    net = DirectNet('channels')
    with torch.no_grad():
        net.variance.weight.zero_()
        net.variance.bias.fill_(log_variance)
    if is_refused:
        with pytest.raises(GraphError, match=rf'overflows: half of it is above {log_variance:g} on'
                           '.*expected below 15.*train the variance head again'):
            compiled(net, tmp_path, 'direct')
        assert not (tmp_path / 'bundle').exists()
    else:
        compiled(net, tmp_path, 'direct')
