# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The same passes measured by us and by the libraries people know: docs/peers.md says what differs.

Peers are given float32 probabilities made the way their users make them, by torch. Ours come from
the backend that ships. No peer takes part in anything but this file.

"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conftest import tiny_card
import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('torch_uncertainty',
                    reason='not installed: scripts/requirements/peers.txt')
pytest.importorskip('baal',
                    reason='not installed: scripts/requirements/peers.txt')

from baal.active import heuristics  # noqa: E402, I100
from baal.bayesian.dropout import MCDropoutModule  # noqa: E402
from baal.ensemble import EnsembleModelWrapper  # noqa: E402
from baal.modelwrapper import ModelWrapper, TrainingArgs  # noqa: E402
from torch import nn  # noqa: E402
from torch_uncertainty.methods import deep_ensembles, mc_dropout  # noqa: E402
from torch_uncertainty.metrics import classification as metrics  # noqa: E402

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend  # noqa: E402
from uncertainty_seg.compiler.capture.export import export_marked  # noqa: E402
from uncertainty_seg.compiler.compile import compile_ensemble, compile_graph  # noqa: E402
from uncertainty_seg.compiler.plan import CompileOptions  # noqa: E402
from uncertainty_seg.core.bundle import ModelBundle  # noqa: E402
from uncertainty_seg.core.dropout_masks import pass_inputs  # noqa: E402
from uncertainty_seg.core.model_card import InputSpec  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.core.uncertainty import grid_maps, UncertaintyMaps  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.release,
              pytest.mark.filterwarnings('ignore::UserWarning')]
ROOT = Path(__file__).resolve().parents[2]
SPEC = InputSpec(48, 32, 'stretch', 'rgb', (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CLASSES = ('a', 'b', 'c', 'd', 'e')
PASSES = 256
CLOSE = 2e-6  # float32 on both sides; measured: 7e-7


class Net(nn.Module):
    """Two convolutions with batch norm, both kinds of dropout, logits at half resolution."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.one, self.norm = nn.Conv2d(3, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24)
        self.channels, self.two = nn.Dropout2d(0.4), nn.Conv2d(24, 24, 3, padding=1)
        self.elements, self.last = nn.Dropout(0.2), nn.Conv2d(24, len(CLASSES), 1)
        self.norm.running_mean.normal_(0, 0.3)
        self.norm.running_var.uniform_(0.2, 0.6)
        nn.init.normal_(self.last.weight, 0, 0.8)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.channels(torch.relu(self.norm(self.one(x))))
        return self.last(self.elements(torch.relu(self.two(x))))


@dataclass(frozen=True)
class Passes:
    """One frame: our maps at the grid, and probabilities (T, C, hg, wg) and logits for peers."""

    maps: UncertaintyMaps
    probs: torch.Tensor
    logits: torch.Tensor

    @property
    def for_metrics(self) -> torch.Tensor:
        """As torch-uncertainty wants them: (pixels, T, C)."""
        return self.probs.permute(2, 3, 0, 1).flatten(0, 1)

    @property
    def for_heuristics(self) -> np.ndarray:
        """As baal wants them: (1, C, h, w, T)."""
        return self.probs.permute(1, 2, 3, 0)[None].numpy()

    def ours(self, name: str) -> np.ndarray:
        return getattr(self.maps, name)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((image / 255 - 0.5).astype(np.float32) / 0.25).permute(2, 0, 1)[None]


def small_bundle(folder: Path) -> ModelBundle:
    compiled = compile_graph(export_marked(Net(), SPEC), SPEC, CompileOptions(full_weights=True))
    card = tiny_card(class_names=CLASSES, palette=((0, 0, 0),) * 5, input=SPEC,
                     dropout_sites=compiled.sites, logits_shape=compiled.logits_shape)
    write_bundle(folder / card.name, card, compiled.files)
    return load_bundle(str(folder / card.name))


def ensemble_bundle(folder: Path, nets: list[Net]) -> ModelBundle:
    compiled = compile_ensemble([export_marked(net, SPEC) for net in nets], SPEC,
                                CompileOptions(full_weights=True))
    card = tiny_card(class_names=CLASSES, palette=((0, 0, 0),) * 5, input=SPEC,
                     method='deep_ensemble', members=len(nets), passes=len(nets),
                     dropout_sites=compiled.sites, logits_shape=compiled.logits_shape)
    write_bundle(folder / card.name, card, compiled.files)
    return load_bundle(str(folder / card.name))


def photograph() -> np.ndarray:
    sheet = cv2.imread(str(ROOT / 'docs' / 'pictures' / 'demo_contact_sheet.jpg'))
    return np.ascontiguousarray(cv2.resize(sheet, (512, 384))[..., ::-1])


def our_maps(bundle: ModelBundle, image: np.ndarray, passes: int, seed: int) -> UncertaintyMaps:
    with OnnxRuntimeBackend(bundle, Settings(threads=1)) as backend:
        return grid_maps(backend.run(image, pass_inputs(bundle.card, passes, seed), 1.0))


def head_logits(bundle: ModelBundle, image: np.ndarray, passes: int, seed: int) -> torch.Tensor:
    passes_graph = onnx.load(str(bundle.passes_path))
    del passes_graph.graph.output[:]
    passes_graph.graph.output.append(onnx.ValueInfoProto(name='logits'))
    trunk, head = (onnxruntime.InferenceSession(graph, providers=['CPUExecutionProvider'])
                   for graph in (str(bundle.trunk_path), passes_graph.SerializeToString()))
    features = dict(zip([o.name for o in trunk.get_outputs()],
                        trunk.run(None, {'image': image[None]}), strict=True))
    masks = pass_inputs(bundle.card, passes, seed)
    given = {**features, **masks, 'inv_temperature': np.ones(1, np.float32)}
    return torch.from_numpy(head.run(None, {i.name: given[i.name] for i in head.get_inputs()})[0])


@pytest.fixture(scope='module')
def small(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return small_bundle(tmp_path_factory.mktemp('small'))


@pytest.fixture(scope='module', params=['small', 'pipeline'])
def frame(request: pytest.FixtureRequest) -> Passes:
    if request.param == 'small':
        bundle, image, passes = request.getfixturevalue('small'), noise(), PASSES
    else:
        bundle = load_bundle(str(ROOT / 'config' / 'models' / 'pipeline'))
        image, passes = photograph(), 20
    logits = head_logits(bundle, image, passes, 0)
    return Passes(our_maps(bundle, image, passes, 0), logits.softmax(1), logits)


def measured(metric: object, probs: torch.Tensor, like: np.ndarray) -> np.ndarray:
    metric.update(probs)
    return metric.compute().reshape(like.shape).numpy()


def ln_c(frame: Passes) -> float:
    return float(np.log(frame.probs.shape[1]))


def test_entropy_is_theirs_over_ln_c(frame: Passes) -> None:
    ours = frame.ours('entropy')
    theirs = measured(metrics.Entropy(reduction=None), frame.for_metrics.mean(1), ours)
    np.testing.assert_allclose(ours, theirs / ln_c(frame), atol=CLOSE)
    theirs = heuristics.Entropy().get_uncertainties(frame.for_heuristics)[0]
    np.testing.assert_allclose(ours, theirs / ln_c(frame), atol=CLOSE)


def test_mutual_information_is_theirs_over_ln_c(frame: Passes) -> None:
    ours = frame.ours('mutual_information')
    theirs = measured(metrics.MutualInformation(reduction=None), frame.for_metrics, ours)
    np.testing.assert_allclose(ours, theirs / ln_c(frame), atol=CLOSE)
    theirs = heuristics.BALD().get_uncertainties(frame.for_heuristics)[0]
    np.testing.assert_allclose(ours, theirs / ln_c(frame), atol=CLOSE)
    assert ours.max() > 0.05


def test_the_entropy_torch_uncertainty_takes_of_passes_is_our_aleatoric(frame: Passes) -> None:
    ours = frame.ours('aleatoric')
    theirs = measured(metrics.Entropy(reduction=None), frame.for_metrics, ours)
    np.testing.assert_allclose(ours, theirs / ln_c(frame), atol=CLOSE)


def test_total_variance_is_the_sum_over_classes_of_which_baal_takes_the_mean(
    frame: Passes
) -> None:
    ours = frame.ours('total_variance')
    per_pixel = heuristics.Variance(reduction=lambda values: values.mean(1))
    theirs = per_pixel.get_uncertainties(frame.for_heuristics)[0]
    np.testing.assert_allclose(ours, theirs * frame.probs.shape[1], atol=CLOSE)


def test_confidence_is_baals_certainty_and_one_minus_a_variation_ratio(frame: Passes) -> None:
    ours = frame.ours('confidence')
    theirs = heuristics.Certainty().get_uncertainties(frame.for_heuristics)[0]
    np.testing.assert_allclose(ours, theirs, atol=CLOSE)
    ratio = metrics.VariationRatio(probabilistic=True, reduction=None)
    theirs = measured(ratio, frame.for_metrics.transpose(0, 1), ours)
    np.testing.assert_allclose(ours, 1 - theirs, atol=CLOSE)


def test_baal_takes_the_entropy_of_the_mean_logits(frame: Passes) -> None:
    logits = frame.logits.permute(1, 2, 3, 0)[None].numpy()
    theirs = heuristics.Entropy().get_uncertainties(logits)[0]
    mean = frame.logits.mean(0).softmax(0)
    np.testing.assert_allclose(theirs, torch.special.entr(mean).sum(0), atol=CLOSE)
    assert abs(theirs / ln_c(frame) - frame.ours('entropy')).max() > 0.05


def by_torch_uncertainty(on_batch: bool) -> Callable[[Net, torch.Tensor], torch.Tensor]:
    def run(net: Net, image: torch.Tensor) -> torch.Tensor:
        return mc_dropout(net, PASSES, on_batch=on_batch, task='segmentation').eval()(image)
    return run


def by_baal(replicated: bool) -> Callable[[Net, torch.Tensor], torch.Tensor]:
    def run(net: Net, image: torch.Tensor) -> torch.Tensor:
        arguments = TrainingArgs(use_cuda=False, replicate_in_memory=replicated)
        wrapper = ModelWrapper(MCDropoutModule(net).eval(), arguments)
        return wrapper.predict_on_batch(image, PASSES)[0].permute(3, 0, 1, 2)
    return run


@pytest.fixture(scope='module')
def our_draws(small: ModelBundle) -> np.ndarray:
    """Mean entropy and mean MI of 8 seeds, (8, 2)."""
    maps = [our_maps(small, noise(), PASSES, seed) for seed in range(8)]
    return np.array([[m.entropy.mean(), m.mutual_information.mean()] for m in maps])


@pytest.mark.parametrize('sample', [
    by_torch_uncertainty(True), by_torch_uncertainty(False), by_baal(True), by_baal(False),
], ids=['torch-uncertainty batch', 'torch-uncertainty loop', 'baal batch', 'baal loop'])
def test_their_own_random_masks_give_our_means_within_the_noise_of_the_draw(
    sample: Callable[[Net, torch.Tensor], torch.Tensor], our_draws: np.ndarray
) -> None:
    torch.manual_seed(0)
    net = Net()
    before = net.norm.running_mean.clone()
    with torch.no_grad():
        logits = sample(net, as_tensor(noise()))
    assert logits.shape == (PASSES, len(CLASSES), 16, 24)
    probs = logits.softmax(1)
    entropy = torch.special.entr(probs.mean(0)).sum(0)
    mutual = entropy - torch.special.entr(probs).sum(1).mean(0)
    theirs = np.array([entropy.mean(), mutual.mean()]) / np.log(len(CLASSES))
    spread = our_draws.std(0, ddof=1)
    assert (spread < 0.02 * our_draws.mean(0)).all()
    # 8 draws give the mean, and 7 degrees of freedom the spread: Student's t for 0.1 % is 5.4.
    assert (abs(theirs - our_draws.mean(0)) < 5.4 * spread * np.sqrt(1 + 1 / 8)).all()
    np.testing.assert_array_equal(net.norm.running_mean, before)


@torch.no_grad()
def test_an_ensemble_gives_the_maps_of_their_ensembles(tmp_path: Path) -> None:
    nets = [Net(seed) for seed in range(4)]
    ours = our_maps(ensemble_bundle(tmp_path, nets), noise(), 4, 0)
    wrapper = EnsembleModelWrapper(Net(), TrainingArgs(use_cuda=False))
    for net in nets:
        wrapper.model.load_state_dict(net.state_dict())
        wrapper.add_checkpoint()
    by_baal = wrapper.predict_on_batch(as_tensor(noise()))[0].permute(3, 0, 1, 2)
    by_torch_uncertainty = deep_ensembles(nets, task='segmentation')(as_tensor(noise()))
    for logits in (by_baal, by_torch_uncertainty):
        probs = logits.softmax(1)
        entropy = torch.special.entr(probs.mean(0)).sum(0) / np.log(len(CLASSES))
        aleatoric = torch.special.entr(probs).sum(1).mean(0) / np.log(len(CLASSES))
        np.testing.assert_allclose(ours.entropy, entropy, atol=1e-5)
        np.testing.assert_allclose(ours.mutual_information, entropy - aleatoric, atol=1e-5)
    assert ours.mutual_information.mean() > 0.1
