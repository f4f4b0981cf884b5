# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The torch net with the masks put in by hooks equals the compiled graphs, and more traps."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
pytest.importorskip('torchvision')

from uncertainty_seg.core.dropout_masks import make_masks, ones_masks  # noqa: E402
from uncertainty_seg.core.model_card import InputSpec  # noqa: E402
from uncertainty_seg.errors import GraphError, TrainingError  # noqa: E402
from uncertainty_seg.graph.compile import compile_graph, CompiledGraphs  # noqa: E402
from uncertainty_seg.graph.options import CompileOptions  # noqa: E402
from uncertainty_seg.training.export import export_marked  # noqa: E402
from uncertainty_seg.training.fit import IMAGENET_MEAN, IMAGENET_STD, normalise  # noqa: E402
from uncertainty_seg.training.networks import (  # noqa: E402
    DropoutPlan,
    load_encoder_weights,
    PyramidNet,
)

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
    torch.nn.init.normal_(net.classifier.weight, 0, 0.3)
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


def multiply_by(values: np.ndarray) -> Callable[..., torch.Tensor]:
    mask = torch.from_numpy(values)
    return lambda _module, inputs, _output: inputs[0] * mask


def run_torch(net: PyramidNet, image: np.ndarray, masks: dict[str, np.ndarray]) -> np.ndarray:
    modules = {f'mask_{n.replace(".", "_")}': m for n, m in net.named_modules()}
    passes = []
    for t in range(len(next(iter(masks.values())))):
        hooks = [modules[name].register_forward_hook(multiply_by(values[t: t + 1]))
                 for name, values in masks.items()]
        with torch.no_grad():
            passes.append(net(normalise(image)).numpy()[0])
        for hook in hooks:
            hook.remove()
    return np.stack(passes)


@pytest.mark.parametrize('plan', PLANS)
def test_masked_torch_equals_the_compiled_graphs(plan: str) -> None:
    net = lively_net(PLANS[plan])
    compiled = compile_graph(export_marked(net, SPEC), SPEC, CompileOptions(is_half=False))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    masks = make_masks(compiled.sites, 4, 5)
    ours = run_compiled(compiled, image, masks)
    np.testing.assert_allclose(ours, run_torch(net, image, masks), atol=1e-5)
    assert np.abs(ours[0] - ours[1]).max() > 1e-3  # else the parity above would prove nothing


@pytest.mark.parametrize('plan', PLANS)
def test_all_ones_masks_equal_the_network_in_eval_mode(plan: str) -> None:
    net = lively_net(PLANS[plan])
    compiled = compile_graph(export_marked(net, SPEC), SPEC, CompileOptions(is_half=False))
    image = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
    with torch.no_grad():
        plain = net(normalise(image)).numpy()
    ours = run_compiled(compiled, image, ones_masks(compiled.sites, 2))
    np.testing.assert_allclose(ours, np.repeat(plain, 2, 0), atol=1e-5)


def test_exporting_moves_no_batch_norm_and_leaves_the_dropout_in_place() -> None:
    net = lively_net(PLANS['everywhere'])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    export_marked(net, SPEC)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert isinstance(net.drop_head, torch.nn.Dropout2d)


def test_a_net_left_in_training_mode_is_exported_with_its_batch_norm_frozen() -> None:
    net = lively_net(PLANS['head'])
    image = np.random.default_rng(2).integers(0, 256, (1, 64, 96, 3), np.uint8)
    graphs = [compile_graph(export_marked(net.train(is_training), SPEC), SPEC)
              for is_training in (False, True)]
    one, other = (run_compiled(g, image, ones_masks(g.sites, 1)) for g in graphs)
    np.testing.assert_array_equal(one, other)
    assert net.training


def test_sites_carry_rate_shape_and_the_name_of_their_module() -> None:
    compiled = compile_graph(export_marked(lively_net(PLANS['everywhere']), SPEC), SPEC)
    found = {s.name: (s.shape, s.p) for s in compiled.sites}
    assert found['mask_drop_head'] == ((96, 1, 1), 0.4)
    assert found['mask_drop_levels_0'] == ((96, 1, 1), 0.3)
    assert len(found) == 5


def test_head_dropout_alone_leaves_one_matrix_product_in_the_head() -> None:
    compiled = compile_graph(export_marked(lively_net(PLANS['head']), SPEC), SPEC)
    ops = [n.op_type for n in onnx.load_from_string(compiled.files['head.onnx']).graph.node]
    assert ops.count('MatMul') == 1
    assert 'Conv' not in ops


def test_a_net_without_dropout_and_one_with_alpha_dropout_are_refused() -> None:
    with pytest.raises(GraphError, match='every dropout has the rate 0'):
        compile_graph(export_marked(lively_net(DropoutPlan(head=0.0)), SPEC), SPEC)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.AlphaDropout(0.5))
    with pytest.raises(GraphError, match='AlphaDropout, which also shifts'):
        export_marked(net, SPEC)


def test_foreign_or_missing_encoder_weights_are_refused(tmp_path) -> None:
    net = PyramidNet(5, DropoutPlan())
    with pytest.raises(TrainingError, match='no ImageNet weights'):
        load_encoder_weights(net, tmp_path / 'none.pth')
    (tmp_path / 'other.pth').write_bytes(b'not weights')
    with pytest.raises(TrainingError, match='sha256'):
        load_encoder_weights(net, tmp_path / 'other.pth')
