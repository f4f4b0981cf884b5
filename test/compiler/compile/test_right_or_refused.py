# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Networks from other projects compile correctly, or are refused with a reason.

Correctly means that the passes have the distribution of those that the network draws itself: in
torch in training mode, or in ONNX Runtime with the original file.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from torch import nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from uncertainty_seg.compiler.checks.file_passes import FileNetwork  # noqa: E402
from uncertainty_seg.compiler.frontend.outputs import OutputForm  # noqa: E402
from uncertainty_seg.compiler.request import compile_network, CompileOutcome  # noqa: E402
from uncertainty_seg.errors import GraphError  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings('ignore')]
WIDTH, HEIGHT, CLASSES = 24, 16, ['a', 'b', 'c']


class Segmenter(nn.Module):
    """A layer, the function or module under test, dropout unless `rate` is 0, a classifier."""

    def __init__(self, body: Callable | nn.Module, rate: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 3, 1)
        self.body, self.drop = body, nn.Dropout2d(rate)
        with torch.no_grad():
            self.last.weight *= 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = self.body(x) if isinstance(self.body, nn.Module) else self.body(x, self.training)
        return self.last(self.drop(x))


def compiled(net: object, folder: Path, **options: object) -> CompileOutcome:
    return compile_network(net, folder / 'bundle', (WIDTH, HEIGHT), CLASSES,
                           **{'compare_passes': 64, **options})


def on_a_view(x: torch.Tensor, training: bool) -> torch.Tensor:
    y = x * 1
    F.dropout(y[:, :4], 0.4, training, inplace=True)
    return y


def through_frequencies(x: torch.Tensor, training: bool) -> torch.Tensor:
    return torch.fft.irfft2(F.dropout2d(torch.fft.rfft2(x).real, 0.2, training), s=x.shape[-2:])


def by_complex_numbers(x: torch.Tensor, training: bool) -> torch.Tensor:
    z = torch.complex(x, 2 * x)
    return (z * z.conj()).real


@torch.jit.script
def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


RIGHT = {
    'AlphaDropout of windows': (lambda: nn.Sequential(
        nn.SELU(), nn.Flatten(0, 1), nn.AlphaDropout(0.2), nn.Unflatten(0, (1, 8))), 0.0),
    'in place, of a view': (lambda: on_a_view, 0.0),
    'compared by hand': (lambda: lambda x, t: x * (torch.rand_like(x) > 0.4) / 0.6 if t else x,
                         0.3),
    'one number for all': (lambda: lambda x, t: torch.where(torch.rand(()) < 0.7, x / 0.7, 0 * x)
                           if t else x, 0.0),
    'spectral norm': (lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, 1, 1)),
                      0.3),
    'spectral norm, by a hook': (lambda: nn.utils.spectral_norm(nn.Conv2d(8, 8, 3, 1, 1)), 0.3),
    'rfft2': (lambda: through_frequencies, 0.3), 'complex': (lambda: by_complex_numbers, 0.3),
    'scripted function': (lambda: lambda x, t: swish(x), 0.3),
}
QUICK = ('AlphaDropout of windows', 'spectral norm', 'compared by hand', 'one number for all')


@pytest.mark.parametrize('name', [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.release) for name in RIGHT])
def test_passes_are_those_of_the_network_in_training_mode(name: str, tmp_path: Path) -> None:
    build, rate = RIGHT[name]
    made = compiled(Segmenter(build(), rate), tmp_path)
    assert made.distribution.passes >= 16 and not made.bundle.card.silenced
    assert made.distribution.information == pytest.approx(
        made.distribution.own_information, rel=0.3)


class OwnNoise(nn.Module):

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 0.5 * torch.randn_like(x)) if self.training else x


@torch.jit.script
def dropped(x: torch.Tensor, training: bool) -> torch.Tensor:
    return torch.nn.functional.dropout(x, 0.4, training)


REFUSED = {
    'dropout in a scripted function': (lambda: dropped, 0.0, 'scripted function'),
    'gaussian dropout': (OwnNoise, 0.3, "'body' draws random numbers.*allow_silenced"),
    'weights': (lambda: lambda x, t: F.conv2d(x, F.dropout(torch.eye(8)[..., None, None], 0.3, t)),
                0.3, r'constant of shape \(8, 8, 1, 1\).*weights'),
    'undone': (lambda: lambda x, t: x + 0 * F.dropout(x, 0.5, t), 0.0, 'passes are the same'),
    'too rare': (nn.Identity, 1e-6, 'passes are the same.*1e-06'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_no_mask_can_be_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    build, rate, words = REFUSED[name]
    with pytest.raises(GraphError, match=words):
        compiled(Segmenter(build(), rate), tmp_path, compare_passes=0)


def test_dropout_that_all_classes_share_changes_no_probability(tmp_path: Path) -> None:
    class Shared(Segmenter):

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            return self.last(x) + self.drop(x).mean(1, keepdim=True)
    with pytest.raises(GraphError, match='passes are the same'):
        compiled(Shared(nn.Identity()), tmp_path, compare_passes=0)


@pytest.mark.parametrize('method', ['single', 'deep_ensemble'])
def test_a_network_without_passes_of_its_own_may_draw_what_it_likes(
    method: str, tmp_path: Path
) -> None:
    members = [Segmenter(OwnNoise())] if method == 'deep_ensemble' else []
    for member in members:
        member.last.weight.data *= 2
    card = compiled(Segmenter(OwnNoise()), tmp_path, method=method, members=members).bundle.card
    assert not card.silenced


# --- ONNX files ----------------------------------------------------------------------------------


def file_of(folder: Path, flags: tuple[bool | None, ...], rate: float = 0.5) -> Path:
    """Write a network with a dropout for each flag, its training_mode; None omits the input."""
    rng = np.random.default_rng(0)
    weights = {'w': rng.normal(size=(8, 3, 3, 3)), 'v': 2 * rng.normal(size=(3, 8, 1, 1))}
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    tensors += [numpy_helper.from_array(np.float32(rate), 'rate')]
    nodes, name = [helper.make_node('Conv', ['x', 'w'], ['h'], pads=[1, 1, 1, 1])], 'h'
    for index, flag in enumerate(flags):
        inputs = [name, 'rate', *[f'flag{index}'] * (flag is not None)]
        tensors += [numpy_helper.from_array(np.array(bool(flag)), f'flag{index}')]
        name = f'd{index}'
        nodes.append(helper.make_node('Dropout', inputs, [name], name=name))
    nodes.append(helper.make_node('Conv', [name, 'v'], ['z']))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, HEIGHT, WIDTH])
            for n, c in (('x', 3), ('z', 3))]
    graph = helper.make_graph(nodes, 'net', ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.save(model, folder / f'net_{rate}.onnx')
    return folder / f'net_{rate}.onnx'


def test_dropout_of_a_file_is_on_where_its_training_mode_is_true(tmp_path: Path) -> None:
    made = compiled(file_of(tmp_path, (False, True, None)), tmp_path)
    assert [site.name for site in made.bundle.card.dropout_sites] == ['mask_dropout_0']
    assert made.distribution.passes >= 16


@pytest.mark.parametrize('flag', [False, None])
def test_a_file_whose_dropout_is_all_off_is_told_what_to_do(
    flag: bool | None, tmp_path: Path
) -> None:
    path = file_of(tmp_path, (flag, flag))
    with pytest.raises(GraphError, match='2 with training_mode.*PRESERVE'):
        compiled(path, tmp_path)
    assert compiled(path, tmp_path, method='single').bundle.card.passes == 1


def test_passes_of_a_file_are_those_that_onnx_runtime_draws(tmp_path: Path) -> None:
    image = np.random.default_rng(1).normal(size=(1, 3, HEIGHT, WIDTH)).astype(np.float32)
    network = FileNetwork(onnx.load(file_of(tmp_path, (True,))), OutputForm(3))
    drawn = network.passes(image, 0)
    passes = np.concatenate([next(drawn) for _ in range(200)])
    still = network(image)
    assert np.array_equal(still, network(image)) and passes.std(0).min() > 0
    assert abs(passes.mean(0) - still[0]).mean() < 0.15 * passes.std(0).mean()
    # Every element has independent draws, the first one included.
    assert 0.2 < np.mean(passes[:, 0, 0, 0] > still[0, 0, 0, 0]) < 0.8


def test_the_dropouts_of_a_file_draw_independently() -> None:
    shape = [1, 3, HEIGHT, WIDTH]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in 'xy']
    nodes = [helper.make_node('Dropout', [x, '', 'on'], [y]) for x, y in ('xa', 'ay')]
    graph = helper.make_graph(nodes, 'net', ends[:1], ends[1:],
                              [numpy_helper.from_array(np.array(True), 'on')])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 22)], ir_version=10)
    drawn = FileNetwork(model, OutputForm(3)).passes(np.ones(shape, np.float32), 0)
    kept = np.concatenate([next(drawn) for _ in range(1000)]) > 0
    assert abs(kept.mean(0) - 0.25).max() < 5 * (0.25 * 0.75 / 1000) ** 0.5


def test_a_file_that_draws_at_another_rate_is_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = onnx.load(file_of(tmp_path, (True,), 0.2))
    path = file_of(tmp_path, (True,))
    monkeypatch.setattr(FileNetwork, '__init__', _as(FileNetwork.__init__, other))
    with pytest.raises(GraphError, match='passes of the network itself'):
        compiled(path, tmp_path)


def _as(init: Callable, other: onnx.ModelProto) -> Callable:
    return lambda self, _model, form: init(self, other, form)


@pytest.mark.release
def test_the_noise_of_float32_is_that_of_the_passes_compared(tmp_path: Path) -> None:
    """Compile a U-Net with injected dropout, refused when the noise was that without dropout."""
    pytest.importorskip('segmentation_models_pytorch')
    import zoo

    compile_network(zoo.NETS['unet'].build(), tmp_path / 'unet', (512, 384), list('abcde'),
                    inject_dropout=0.3, at='decoder')
