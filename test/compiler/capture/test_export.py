# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The torch net with the masks put in by hooks equals the compiled graphs, and more traps."""

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('torchvision')

from torch_nets import masked_logits  # noqa: E402

from uncertainty_seg.compiler.capture.export import export_marked  # noqa: E402
from uncertainty_seg.compiler.compile import compile_graph, CompiledGraphs  # noqa: E402
from uncertainty_seg.compiler.plan import CompileOptions  # noqa: E402
from uncertainty_seg.core.dropout_masks import make_masks  # noqa: E402
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
    'everywhere': DropoutPlan(head=0.4, decoder=0.2),
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
    trunk, head = session(compiled.files['trunk.onnx']), session(compiled.files['passes.onnx'])
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


def test_a_net_without_dropout_is_refused_and_nothing_else_is_said(
    capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GraphError, match='no dropout reaches'):
        compile_graph(export_marked(lively_net(DropoutPlan(head=0.0)), SPEC), SPEC)
    # capfd sees what torch's exporter writes from C++, too.
    assert capfd.readouterr() == ('', '')


SMALL = InputSpec(16, 8, 'letterbox', 'rgb', IMAGENET_MEAN, IMAGENET_STD)


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
