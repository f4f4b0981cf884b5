# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The torch net with the masks put in by hooks equals the compiled graphs, and more traps."""

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('torchvision')

from torch_nets import masked_logits  # noqa: E402
from torchvision.ops import StochasticDepth  # noqa: E402

from uncertainty_seg.compiler.capture.export import export_marked  # noqa: E402
from uncertainty_seg.compiler.compile import compile_graph, CompiledGraphs  # noqa: E402
from uncertainty_seg.compiler.plan import CompileOptions  # noqa: E402
from uncertainty_seg.core.dropout_masks import make_masks, ones_masks  # noqa: E402
from uncertainty_seg.core.model_card import InputSpec  # noqa: E402
from uncertainty_seg.errors import GraphError, TrainingError  # noqa: E402
from uncertainty_seg.training.batches import (  # noqa: E402
    IMAGENET_MEAN,
    IMAGENET_STD,
    normalise,
)
from uncertainty_seg.training.encoders import (  # noqa: E402
    encoder_kind,
    ENCODERS,
    imagenet_weights,
    new_encoder,
)
from uncertainty_seg.training.networks import PyramidNet  # noqa: E402
from uncertainty_seg.training.recipes import DropoutPlan  # noqa: E402

pytestmark = pytest.mark.torch
SPEC = InputSpec(96, 64, 'letterbox', 'rgb', IMAGENET_MEAN, IMAGENET_STD)
PLANS = {
    'head': DropoutPlan(head=0.5),
    'everywhere': DropoutPlan(context=0.1, level16=0.2, level8=0.2, level4=0.3, head=0.4),
}


def lively_net(plan: DropoutPlan) -> PyramidNet:
    torch.manual_seed(0)
    net = PyramidNet(5, plan)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.nn.init.normal_(net.decoder.classifier.weight, 0, 0.3)
    return net.eval()


def session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])


def run_compiled(
    compiled: CompiledGraphs, image: np.ndarray, masks: dict[str, np.ndarray]
) -> np.ndarray:
    trunk, head = session(compiled.files['trunk.onnx']), session(compiled.files['head.onnx'])
    names = [o.name for o in trunk.get_outputs()]
    features = dict(zip(names, trunk.run(None, {'image': image}), strict=True))
    return head.run(None, {**features, **masks})[0]


@pytest.mark.release
@pytest.mark.parametrize('plan', PLANS)
def test_masked_torch_equals_the_compiled_graphs(plan: str) -> None:
    net = lively_net(PLANS[plan])
    compiled = compile_graph(export_marked(net, SPEC), SPEC, CompileOptions(full_weights=True))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    masks = make_masks(compiled.sites, 4, 5)
    ours = run_compiled(compiled, image, masks)
    theirs = masked_logits(net, normalise(image).numpy(), masks)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(ours[0] - ours[1]).max() > 1e-3  # else the parity above would prove nothing


@pytest.mark.release
@pytest.mark.parametrize('plan', PLANS)
def test_all_ones_masks_equal_the_network_in_eval_mode(plan: str) -> None:
    net = lively_net(PLANS[plan])
    compiled = compile_graph(export_marked(net, SPEC), SPEC, CompileOptions(full_weights=True))
    image = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
    with torch.no_grad():
        plain = net(normalise(image)).numpy()
    ours = run_compiled(compiled, image, ones_masks(compiled.sites, 2))
    np.testing.assert_allclose(ours, np.repeat(plain, 2, 0), atol=1e-5)


def test_a_net_without_dropout_is_refused_and_nothing_else_is_said(
    capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GraphError, match='has no dropout'):
        compile_graph(export_marked(lively_net(DropoutPlan(head=0.0)), SPEC), SPEC)
    # capfd sees what torch's exporter writes from C++, too.
    assert capfd.readouterr() == ('', '')


class Tokens(torch.nn.Module):
    """torch's own transformer layer between two convolutions."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.25, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.layer(x.flatten(2).permute((0, 2, 1) if self.batch_first else (2, 0, 1)))
        return tokens.permute((0, 2, 1) if self.batch_first else (1, 2, 0)).reshape(x.shape)


class Residual(torch.nn.Module):
    """A branch that may be dropped as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.path = StochasticDepth(0.25, 'row')

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.path(self.branch(x))


class Functional(torch.nn.Module):
    """Dropout that no list of modules shows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            x = torch.nn.functional.dropout2d(x, 0.25)
        return x * x.new_empty(1, 8, 1, 1).bernoulli_(0.75) / 0.75 if self.training else x


KINDS = {
    'element': lambda: torch.nn.Dropout(0.25), 'channel': lambda: torch.nn.Dropout2d(0.25),
    'alpha': lambda: torch.nn.AlphaDropout(0.25), 'path': Residual, 'functional': Functional,
    'feature_alpha': lambda: torch.nn.FeatureAlphaDropout(0.25),
    'attention': lambda: Tokens(True), 'attention, sequence first': lambda: Tokens(False),
}
SMALL = InputSpec(16, 8, 'letterbox', 'rgb', IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_dropout_compiles_to_the_masked_net(kind: str) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), KINDS[kind](),
                              torch.nn.Conv2d(8, 5, 1))
    compiled = compile_graph(export_marked(net, SMALL), SMALL, CompileOptions(full_weights=True))
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 16, 3), np.uint8)
    masks = make_masks(compiled.sites, 4, 5)
    ours = run_compiled(compiled, image, masks)
    theirs = masked_logits(net, normalise(image).numpy(), masks)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.ptp(theirs))
    assert np.abs(theirs - theirs[:1]).max() > 1e-3


@pytest.mark.parametrize('name', ENCODERS)
def test_each_encoder_gives_the_features_that_its_table_names(name: str) -> None:
    net, kind = PyramidNet(5, DropoutPlan(), name).eval(), encoder_kind(name)
    with torch.no_grad():
        taps = net.features(torch.zeros(1, 3, 64, 96))
    assert [tuple(tap.shape[1:]) for tap in taps] == [
        (channels, 64 // stride, 96 // stride)
        for channels, stride in zip(kind.channels, (4, 8, 16, 32), strict=True)]


def test_an_encoder_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(TrainingError, match='one of mobilenet_v2, lite0'):
        new_encoder('lite9')


@pytest.mark.parametrize('name', ENCODERS)
def test_foreign_or_missing_encoder_weights_are_refused(tmp_path, name: str) -> None:
    with pytest.raises(TrainingError, match='none.pth'):
        imagenet_weights(name, tmp_path / 'none.pth')
    (tmp_path / 'other.pth').write_bytes(b'not weights')
    with pytest.raises(TrainingError, match='sha256'):
        imagenet_weights(name, tmp_path / 'other.pth')
