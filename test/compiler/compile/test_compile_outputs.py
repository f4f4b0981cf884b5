# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Outputs of a network become logits of the image's classes, or are refused with a sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch_nets import logits_of, logits_written  # noqa: E402

from uncertainty_seg.compiler.request import compile_network  # noqa: E402
from uncertainty_seg.errors import GraphError  # noqa: E402

pytestmark = pytest.mark.torch
CLASSES = ('water', 'reef', 'diver')
End = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Ending(nn.Module):
    """Dropout and logits z at a stride, then the output `end(x, z)`."""

    def __init__(self, end: End, classes: int = 3, stride: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, stride=stride, padding=1)
        self.drop, self.last = nn.Dropout2d(0.4), nn.Conv2d(8, classes, 1)
        self.end = end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(x, 3 * self.last(self.drop(self.first(x).relu())))


def image_of(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (1, height, width, 3), np.uint8)


def compiled(net: nn.Module, folder: Path, size: tuple[int, int] = (64, 48),
             classes: tuple[str, ...] = CLASSES, **options: object) -> object:
    # The default comparison of 256 passes would take most of the time.
    return compile_network(net, folder / 'bundle', size, classes, mean=(0.5,) * 3,
                           std=(0.25,) * 3, passes=3, full_weights=True, compare_passes=16,
                           **options)


def resized(z: torch.Tensor, size: tuple[int, int], **how: object) -> torch.Tensor:
    return F.interpolate(z, size, mode='bilinear', **how)


SIZES: dict[str, End] = {
    'none': lambda x, z: z,
    'full': lambda x, z: resized(z, x.shape[2:]),
    'full, corners aligned': lambda x, z: resized(z, x.shape[2:], align_corners=True),
    'half': lambda x, z: resized(z, (x.shape[2] // 2, x.shape[3] // 2)),
    'half, corners aligned': lambda x, z: resized(
        z, (x.shape[2] // 2, x.shape[3] // 2), align_corners=True),
    'a factor of 3.7': lambda x, z: F.interpolate(z, scale_factor=3.7, mode='bilinear'),
}


@pytest.mark.parametrize('end', SIZES)
@pytest.mark.parametrize('size', [(64, 48), (100, 67)])
def test_logits_of_any_size_are_upsampled_as_the_network_and_then_torch_do(
    tmp_path: Path, end: str, size: tuple[int, int]
) -> None:
    net, image = Ending(SIZES[end]), image_of(*size)
    bundle = compiled(net, tmp_path, size).bundle
    theirs = torch.from_numpy(logits_of(net, image))
    # The network may lack one bilinear upsampling.
    theirs = F.interpolate(theirs, size[::-1], mode='bilinear').numpy()
    np.testing.assert_allclose(logits_written(bundle, image), theirs, atol=2e-5)


# Name -> output function, number of channels, and the declared activation.
PROBABILITIES: dict[str, tuple[End, int, str]] = {
    'clamped sigmoid': (lambda x, z: z.sigmoid().clamp(1e-4, 1 - 1e-4), 1, 'sigmoid'),
    'second channel of a softmax': (lambda x, z: z.softmax(1)[:, 1:2], 2, 'sigmoid'),
    'mean of sigmoids': (lambda x, z: z.sigmoid().mean(1, keepdim=True), 3, 'sigmoid'),
    'hardsigmoid': (lambda x, z: F.hardsigmoid(z), 1, 'sigmoid'),
    'tanh': (lambda x, z: (z.tanh() + 1) / 2, 1, 'sigmoid'),
    'resized sigmoid': (lambda x, z: resized(z.sigmoid(), x.shape[2:]), 1, 'sigmoid'),
    'resized softmax': (lambda x, z: resized(z.softmax(1), x.shape[2:]), 3, 'softmax'),
    'mean of softmaxes': (lambda x, z: (z.softmax(1) + z.flip(1).softmax(1)) / 2, 3, 'softmax'),
}


def probabilities(values: np.ndarray) -> np.ndarray:
    """Return the probabilities of all classes, from one channel or from several."""
    return np.concatenate([1 - values, values], 1) if values.shape[1] == 1 else values


@pytest.mark.parametrize('end', PROBABILITIES)
def test_probabilities_that_something_follows_are_refused_or_declared(
    tmp_path: Path, end: str
) -> None:
    function, channels, activation = PROBABILITIES[end]
    net = Ending(function, channels, stride=4 if 'resized' in end else 1)
    image, classes = image_of(64, 48), CLASSES if activation == 'softmax' else CLASSES[:2]
    with pytest.raises(GraphError, match='activation'):
        compiled(net, tmp_path, classes=classes)
    assert not (tmp_path / 'bundle').exists()
    bundle = compiled(net, tmp_path, classes=classes, activation=activation).bundle
    ours = torch.from_numpy(logits_written(bundle, image)).softmax(1).numpy()
    np.testing.assert_allclose(ours, probabilities(logits_of(net, image)), atol=2e-5)


BAD: dict[str, tuple[End, int, dict[str, str], str]] = {
    'sigmoids of several classes': (
        lambda x, z: z.sigmoid().clamp(0.01, 0.99), 3, {}, 'activation'),
    'sigmoids of several classes, declared': (
        lambda x, z: z.sigmoid().clamp(0.01, 0.99), 3, {'activation': 'sigmoid'}, '3 channels'),
    'percentages': (lambda x, z: 100 * z.softmax(1), 3, {}, '100'),
    'a softmax from -1 to 1': (lambda x, z: 2 * z.softmax(1) - 1, 3, {}, '-1'),
    'a softmax that is declared logits': (
        lambda x, z: (z.softmax(1) + z.flip(1).softmax(1)) / 2, 3, {'activation': 'logits'}, '1'),
    'a last softmax that is declared a sigmoid': (
        lambda x, z: z.softmax(1), 3, {'activation': 'sigmoid'}, 'Softmax'),
    'logits that are declared a softmax': (
        lambda x, z: z, 3, {'activation': 'softmax'}, 'softmax'),
    'logits that are declared a sigmoid': (
        lambda x, z: 3 * z.abs() + 0.1, 1, {'activation': 'sigmoid'}, 'sigmoid'),
    'logits that are declared a log_softmax': (
        lambda x, z: z, 3, {'activation': 'log_softmax'}, 'log_softmax'),
    'one channel that is declared a softmax': (
        lambda x, z: z.sigmoid().clamp(0.01, 0.99), 1, {'activation': 'softmax'}, 'sigmoid'),
    'places with a class token': (
        lambda x, z: F.pad(z.flatten(2), (1, 0)).transpose(1, 2), 3, {}, '3073'),
}


@pytest.mark.parametrize('case', BAD)
def test_what_contradicts_the_network_is_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    end, channels, options, words = BAD[case]
    classes = CLASSES[:2] if channels == 1 else CLASSES
    with pytest.raises(GraphError, match=words) as error:
        compiled(Ending(end, channels, stride=1), tmp_path, classes=classes, **options)
    assert 'bug' not in str(error.value) and str(error.value).count('\n') == 0
    assert not (tmp_path / 'bundle').exists()


# Bounded outputs, which are not logits: function, classes, words of the error.
BOUNDED: dict[str, tuple[End, int, str]] = {
    'tanh': (lambda x, z: z.tanh(), 3, 'Tanh'),
    'tanh of one channel': (lambda x, z: z.tanh(), 1, 'Tanh'),
    'resized tanh': (lambda x, z: resized(z.tanh(), x.shape[2:]), 3, 'Tanh'),
    'tanh, planes last': (lambda x, z: z.tanh().permute(0, 2, 3, 1), 3, 'Tanh'),
    'sigmoid from -1 to 1': (lambda x, z: 2 * z.sigmoid() - 1, 3, 'Sigmoid'),
    'hardtanh': (lambda x, z: F.hardtanh(z), 3, 'Clip'),
    'sigmoid in percent': (lambda x, z: 100 * z.sigmoid(), 3, 'Sigmoid'),
    'features of length 1': (lambda x, z: F.normalize(z, dim=1), 3, 'length 1'),
    'resized features of length 1': (
        lambda x, z: resized(F.normalize(z, dim=1), x.shape[2:]), 3, 'length 1'),
    'features of length 16': (lambda x, z: 16 * F.normalize(z, dim=1), 3, 'length 16'),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('end', BOUNDED)
def test_what_is_bounded_as_no_logits_are_is_refused_or_declared_logits(
    tmp_path: Path, end: str
) -> None:
    function, channels, words = BOUNDED[end]
    net = Ending(function, channels, stride=4 if 'resized' in end else 1)
    classes, image = CLASSES[:max(channels, 2)], image_of(64, 48)
    with pytest.raises(GraphError, match=words):
        compiled(net, tmp_path, classes=classes)
    assert not (tmp_path / 'bundle').exists()
    bundle = compiled(net, tmp_path, classes=classes, activation='logits').bundle
    theirs = logits_of(net, image)
    theirs = theirs if theirs.shape[1] == channels else np.moveaxis(theirs, 3, 1)
    theirs = np.concatenate([-theirs / 2, theirs / 2], 1) if channels == 1 else theirs
    np.testing.assert_allclose(logits_written(bundle, image), theirs, atol=1e-4)


LOGITS: dict[str, End] = {
    'capped far out': lambda x, z: 30 * (z / 30).tanh(),
    'clamped far out': lambda x, z: z.clamp(-50, 50),
    'a gate': lambda x, z: z * z.flip(1).sigmoid(),
    'gelu': lambda x, z: F.gelu(z),
    'beside an image that is written to': lambda x, z: z + x.mul_(2),
    'small as they are': lambda x, z: z / 100,
    'cosines to the classes': lambda x, z: F.conv2d(
        F.normalize(z, dim=1), 2 * torch.linspace(-1, 2, 9).sin().view(3, 3, 1, 1)),
    'a LayerNorm over the classes': lambda x, z: F.layer_norm(
        z.permute(0, 2, 3, 1), (3,)).permute(0, 3, 1, 2),
    'nearly one length': lambda x, z: F.normalize(z, dim=1) * (1 + z[:, :1].sigmoid() / 1000),
    'an activation before a convolution': lambda x, z: F.conv2d(
        z.tanh(), 0.2 * torch.eye(3)[..., None, None]),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('end', LOGITS)
def test_logits_that_are_near_to_bounded_are_taken(tmp_path: Path, end: str) -> None:
    net, image = Ending(LOGITS[end], stride=1), image_of(64, 48)
    bundle = compiled(net, tmp_path, (64, 48)).bundle
    np.testing.assert_allclose(logits_written(bundle, image), logits_of(net, image), atol=2e-5)


SIX = ('water', 'reef', 'diver', 'sand', 'weed', 'fish')


def test_six_classes_beside_a_side_of_six_are_a_question(tmp_path: Path) -> None:
    net = Ending(lambda x, z: z, 6)
    assert logits_of(net, image_of(24, 32)).shape == (1, 6, 8, 6)
    with pytest.raises(GraphError, match='6 classes first or last'):
        compiled(net, tmp_path, (24, 32), SIX)


PLACES: dict[str, End] = {
    '(C, h, w)': lambda x, z: z.squeeze(0),
    '(1, HW, C)': lambda x, z: z.flatten(2).transpose(1, 2),
    '(1, C, HW)': lambda x, z: z.flatten(2),
    '(1, HW, C), softmax': lambda x, z: z.flatten(2).transpose(1, 2).softmax(-1),
}


@pytest.mark.parametrize('end', PLACES)
@pytest.mark.parametrize('size', [(64, 48), (100, 67)])
def test_a_list_of_places_becomes_planes(tmp_path: Path, end: str, size: tuple[int, int]) -> None:
    net, image = Ending(PLACES[end]), image_of(*size)
    bundle = compiled(net, tmp_path, size).bundle
    rows, columns = -(-size[1] // 4), -(-size[0] // 4)
    assert bundle.card.logits_shape == (3, rows, columns)
    planes = Ending(lambda x, z: resized(z, x.shape[2:]))
    theirs = torch.from_numpy(logits_of(planes, image)).softmax(1)
    ours = torch.from_numpy(logits_written(bundle, image)).softmax(1)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-5)


@pytest.mark.filterwarnings('ignore')
def test_an_onnx_network_of_16_bits_is_computed_in_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Dropout(0.3),
                        nn.Conv2d(16, 3, 1)).half()
    path = tmp_path / 'half.onnx'
    torch.onnx.export(net, (torch.zeros(1, 3, 48, 64).half(),), str(path), dynamo=False,
                      training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False)
    made = compile_network(path, tmp_path / 'bundle', (64, 48), CLASSES, mean=(0.5,) * 3,
                           std=(0.25,) * 3, passes=3, full_weights=True, compare_passes=16)
    assert '16 bits' in caplog.text and 'float32' in caplog.text
    assert made.compiled.plan.decisions[0].step == 'widen_network'
    image = image_of(64, 48)
    np.testing.assert_allclose(logits_written(made.bundle, image), logits_of(net.float(), image),
                               atol=1e-5)


@pytest.mark.filterwarnings('ignore')
def test_a_file_of_opset_12_that_ends_with_an_upsampling_is_its_network(tmp_path: Path) -> None:
    net, path = Ending(SIZES['full']), tmp_path / 'old.onnx'
    net.drop = nn.Dropout(0.4)  # the older exporter supports no other dropout
    torch.onnx.export(net.train(), (torch.zeros(1, 3, 48, 64),), str(path), dynamo=False,
                      opset_version=12, training=torch.onnx.TrainingMode.PRESERVE)
    bundle, image = compiled(path, tmp_path).bundle, image_of(64, 48)
    np.testing.assert_allclose(logits_written(bundle, image), logits_of(net.eval(), image),
                               atol=2e-5)


def test_a_step_that_makes_one_of_all_passes_is_named_as_such(tmp_path: Path) -> None:
    class Sorted(Ending):

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            f = self.first(x).relu()
            return self.last(self.drop(f).gather(1, f.argsort(1)))

    with pytest.raises(GraphError, match='3 passes'):
        compiled(Sorted(lambda x, z: z), tmp_path)
