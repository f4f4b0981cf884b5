# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What a network puts out becomes logits of the image's classes, or is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch_nets import logits_of, logits_written  # noqa: E402

from uncertainty_seg.compiler.capture.export import averaging  # noqa: E402
from uncertainty_seg.compiler.request import compile_network  # noqa: E402
from uncertainty_seg.errors import GraphError  # noqa: E402

pytestmark = pytest.mark.torch
CLASSES = ('water', 'reef', 'diver')
End = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Ending(nn.Module):
    """Logits of a stride, with dropout before them, and what a function of x and z ends with."""

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
    # With 256 passes, the default, comparing would take most of the time.
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
    # What the network leaves to do is one bilinear upsampling, if anything.
    theirs = F.interpolate(theirs, size[::-1], mode='bilinear').numpy()
    np.testing.assert_allclose(logits_written(bundle, image), theirs, atol=2e-5)


# What follows the activation, the classes, and what is declared.
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
    """Return the probabilities of all classes, of one channel or of several."""
    return np.concatenate([1 - values, values], 1) if values.shape[1] == 1 else values


@pytest.mark.parametrize('end', PROBABILITIES)
def test_probabilities_that_something_follows_are_refused_or_declared(
    tmp_path: Path, end: str
) -> None:
    function, channels, activation = PROBABILITIES[end]
    net = Ending(function, channels, stride=4 if 'resized' in end else 1)
    image, classes = image_of(64, 48), CLASSES if activation == 'softmax' else CLASSES[:2]
    with pytest.raises(GraphError, match=f'--activation {activation}'):
        compiled(net, tmp_path, classes=classes)
    assert not (tmp_path / 'bundle').exists()
    bundle = compiled(net, tmp_path, classes=classes, activation=activation).bundle
    ours = torch.from_numpy(logits_written(bundle, image)).softmax(1).numpy()
    np.testing.assert_allclose(ours, probabilities(logits_of(net, image)), atol=2e-5)


def test_logits_may_add_up_to_zero_and_to_anything_where_they_are_declared(tmp_path: Path) -> None:
    compiled(Ending(lambda x, z: z - z.mean(1, keepdim=True)), tmp_path / 'normalised')
    net = Ending(lambda x, z: z - z.mean(1, keepdim=True) + 1)
    with pytest.raises(GraphError, match='adds up to .*--activation logits if there is none'):
        compiled(net, tmp_path)
    made = compiled(net, tmp_path, activation='logits')
    image = image_of(64, 48)
    theirs = resized(torch.from_numpy(logits_of(net, image)), (48, 64)).numpy()
    np.testing.assert_allclose(logits_written(made.bundle, image), theirs, atol=2e-5)


BAD: dict[str, tuple[End, int, dict[str, str], str]] = {
    'sigmoids of several classes': (
        lambda x, z: z.sigmoid().clamp(0.01, 0.99), 3, {},
        r'stays in \[.*random images, expected logits.*--activation logits'),
    'sigmoids of several classes, declared': (
        lambda x, z: z.sigmoid().clamp(0.01, 0.99), 3, {'activation': 'sigmoid'},
        'sigmoid of 3 channels, classes that do not exclude'),
    'percentages': (
        lambda x, z: 100 * z.softmax(1), 3, {}, 'adds up to 100 over the classes at every pixel'),
    'a softmax from -1 to 1': (
        lambda x, z: 2 * z.softmax(1) - 1, 3, {}, 'adds up to -1 over the classes'),
    'a softmax that is declared logits': (
        lambda x, z: (z.softmax(1) + z.flip(1).softmax(1)) / 2, 3, {'activation': 'logits'},
        '--activation is logits, and the output stays in .*adds up to 1'),
    'a last softmax that is declared logits': (
        lambda x, z: z.softmax(1), 3, {'activation': 'logits'},
        'comes from Softmax .*--activation is logits, expected --activation softmax'),
    'a last softmax that is declared a sigmoid': (
        lambda x, z: z.softmax(1), 3, {'activation': 'sigmoid'}, 'expected --activation softmax'),
    'logits that are declared a softmax': (
        lambda x, z: z, 3, {'activation': 'softmax'}, 'values below 0'),
    'positive numbers that are declared a softmax': (
        lambda x, z: z.sigmoid() + 0.1, 3, {'activation': 'softmax'}, 'add up to'),
    'logits that are declared a sigmoid': (
        lambda x, z: 3 * z.abs() + 0.1, 1, {'activation': 'sigmoid'}, 'add up to'),
    'logits that are declared a log_softmax': (
        lambda x, z: z, 3, {'activation': 'log_softmax'}, 'leave the option out'),
    'one channel that is declared a softmax': (
        lambda x, z: z.sigmoid().clamp(0.01, 0.99), 1, {'activation': 'softmax'},
        'one channel.*--activation sigmoid'),
    'a declared sigmoid behind a tanh': (
        lambda x, z: z.tanh(), 1, {'activation': 'sigmoid'}, 'values below 0'),
    'planes that are declared last': (
        lambda x, z: z, 3, {'layout': 'nhwc'},
        r'\(1, 3, 48, 64\) has 64 entries on axis 3, that of the classes by --layout nhwc'),
    'planes last that are declared first': (
        lambda x, z: z.permute(0, 2, 3, 1), 3, {'layout': 'nchw'},
        r'\(1, 48, 64, 3\) has 48 entries on axis 1, that of the classes by --layout nchw'),
    'places with a class token': (
        lambda x, z: F.pad(z.flatten(2), (1, 0)).transpose(1, 2), 3, {},
        r'list of 3073 places, no grid of an image of 64x48.*class token'),
}


@pytest.mark.parametrize('case', BAD)
def test_what_contradicts_the_network_is_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    end, channels, options, words = BAD[case]
    classes = CLASSES[:2] if channels == 1 else CLASSES
    with pytest.raises(GraphError, match=words) as error:
        compiled(Ending(end, channels, stride=1), tmp_path, classes=classes, **options)
    assert 'bug' not in str(error.value) and str(error.value).count('\n') == 0
    assert not (tmp_path / 'bundle').exists()


# What ends a network that no logit passes: function, classes, what the sentence says.
BOUNDED: dict[str, tuple[End, int, str]] = {
    'tanh': (lambda x, z: z.tanh(), 3, r'comes from Tanh, which keeps it in \[-1, 1\]'),
    'tanh of one channel': (lambda x, z: z.tanh(), 1, r'from Tanh, which keeps it in \[-1, 1\]'),
    'resized tanh': (lambda x, z: resized(z.tanh(), x.shape[2:]), 3, 'from Tanh'),
    'tanh, planes last': (lambda x, z: z.tanh().permute(0, 2, 3, 1), 3, 'from Tanh'),
    'mean of tanhs': (lambda x, z: (z.tanh() + z.flip(1).tanh()) / 2, 3, 'from Tanh'),
    'sigmoid from -1 to 1': (lambda x, z: 2 * z.sigmoid() - 1, 3, 'from Sigmoid'),
    'two classes of a softmax': (lambda x, z: 2 * z.softmax(1) - 1, 2, 'from Softmax'),
    'softsign': (lambda x, z: F.softsign(z), 3, r'from Softsign, which keeps it in \[-1, 1\]'),
    'clamp': (lambda x, z: z.clamp(-1, 1), 3, r'from Clip, which keeps it in \[-1, 1\]'),
    'hardtanh': (lambda x, z: F.hardtanh(z), 3, 'from Clip'),
    'sine': (lambda x, z: torch.sin(z), 3, 'from Sin'),
    'one by one': (lambda x, z: torch.cat([z[:, :1].tanh(), z[:, 1:].erf()], 1), 3,
                   'from Erf and Tanh'),
    'sigmoid in percent': (lambda x, z: 100 * z.sigmoid(), 3, r'from Sigmoid.*\[0, 100\]'),
    'features of length 1': (lambda x, z: F.normalize(z, dim=1), 3,
                             'has the length 1 over the classes at every pixel'),
    'resized features of length 1': (
        lambda x, z: resized(F.normalize(z, dim=1), x.shape[2:]), 3, 'has the length 1 over'),
    'features of length 1, planes last': (
        lambda x, z: F.normalize(z, dim=1).permute(0, 2, 3, 1), 3, 'has the length 1 over'),
    'features of length 16': (lambda x, z: 16 * F.normalize(z, dim=1), 3, 'the length 16 over'),
    'a sign': (lambda x, z: F.normalize(z, dim=1), 1, 'has the length 1 over'),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('end', BOUNDED)
def test_what_is_bounded_as_no_logits_are_is_refused_or_declared_logits(
    tmp_path: Path, end: str
) -> None:
    function, channels, words = BOUNDED[end]
    net = Ending(function, channels, stride=4 if 'resized' in end else 1)
    classes, image = CLASSES[:max(channels, 2)], image_of(64, 48)
    with pytest.raises(GraphError, match=f'{words}.*, expected logits.*--activation logits'):
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


@pytest.mark.parametrize('layout', ['nchw', 'nhwc'])
def test_six_classes_beside_a_side_of_six_are_a_question(tmp_path: Path, layout: str) -> None:
    end = (lambda x, z: z) if layout == 'nchw' else (lambda x, z: z.permute(0, 2, 3, 1))
    net, size = Ending(end, 6), (24, 32) if layout == 'nchw' else (32, 24)
    image = image_of(*size)
    assert logits_of(net, image).shape == (1, 6, 8, 6)
    with pytest.raises(GraphError, match='6 classes first or last.*--layout nchw or --layout nhw'):
        compiled(net, tmp_path, size, SIX)
    other = 'nhwc' if layout == 'nchw' else 'nchw'
    with pytest.raises(GraphError, match=f'by --layout {other}, expected the proportions of the'):
        compiled(net, tmp_path, size, SIX, layout=other)
    bundle = compiled(net, tmp_path, size, SIX, layout=layout).bundle
    theirs = logits_of(Ending(lambda x, z: resized(z, x.shape[2:]), 6), image)
    np.testing.assert_allclose(logits_written(bundle, image), theirs, atol=1e-5)


PLACES: dict[str, End] = {
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
    assert 'tensors of 16 bits, and is computed in float32' in caplog.text
    assert made.compiled.plan.decisions[0].step == 'widen_network'
    image = image_of(64, 48)
    np.testing.assert_allclose(logits_written(made.bundle, image), logits_of(net.float(), image),
                               atol=1e-5)


class Mixed(nn.Module):
    """Modules that exporters write for a batch of 1: pooling, slices, folds and grids."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.first, self.drop = nn.Conv2d(3, 16, 4, stride=4), nn.Dropout2d(0.4)
        self.last, self.pool = nn.Conv2d(16, 3, 1), nn.AdaptiveAvgPool2d((5, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f = self.drop(self.first(x).relu())
        return self.last(getattr(self, self.way)(f))

    def pooled(self, f: torch.Tensor) -> torch.Tensor:
        return f + resized(self.pool(f), f.shape[2:])

    def sliced(self, f: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(f)
        y[:, :8] = f[:, 8:]
        y[:, 8:, 1:] = f[:, :8, :-1]
        return y

    def folded(self, f: torch.Tensor) -> torch.Tensor:
        return F.fold(F.unfold(f, 2, stride=2).softmax(-1), f.shape[2:], 2, stride=2)

    def sampled(self, f: torch.Tensor) -> torch.Tensor:
        rows, columns = (torch.linspace(-0.9, 0.8, n) for n in f.shape[2:])
        grid = torch.stack(torch.meshgrid(columns, rows, indexing='xy'), -1)[None]
        return F.grid_sample(f, grid.repeat(f.shape[0], 1, 1, 1), align_corners=True)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('way', ['pooled', 'sliced', 'folded', 'sampled'])
def test_what_exporters_write_for_a_batch_of_one_takes_passes(tmp_path: Path, way: str) -> None:
    net, image = Mixed(way), image_of(64, 48)
    made = compiled(net, tmp_path)
    assert made.report.masked_error < 1e-5 and made.report.moved > 1e-2
    theirs = F.interpolate(torch.from_numpy(logits_of(net, image)), (48, 64), mode='bilinear')
    np.testing.assert_allclose(logits_written(made.bundle, image), theirs.numpy(), atol=2e-5)


@pytest.mark.parametrize(('old', 'new'), [(12, 5), (16, 5), (7, 6), (3, 6), (10, 1), (6, 3)])
def test_the_matrix_of_adaptive_pooling_takes_the_means_that_torch_takes(
    old: int, new: int
) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 2, old)).astype(np.float32))
    np.testing.assert_allclose((x @ averaging(old, new).T).numpy(),
                               F.adaptive_avg_pool1d(x, new).numpy(), atol=1e-6)


CHOICES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    'a comparison of features': lambda x, f, d: torch.where(f.mean(1, True) > 0.3, d, -d),
    'two comparisons': lambda x, f, d: torch.where((f > 0.1) & (f < 0.5), d, -d),
    'a comparison with the image': lambda x, f, d: torch.where(x[:, :1, ::4, ::4] > 0, d, d / 9),
}


def test_a_step_that_makes_one_of_all_passes_is_named_as_such(tmp_path: Path) -> None:
    class Sorted(Ending):

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            f = self.first(x).relu()
            return self.last(self.drop(f).gather(1, f.argsort(1)))

    with pytest.raises(GraphError, match='3 passes give 1 results, expected one each.*a gather'):
        compiled(Sorted(lambda x, z: z), tmp_path)
