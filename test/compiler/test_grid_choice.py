# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The grid of the sums is chosen so that the maps agree with the network's, run by torch."""

import json
from pathlib import Path

from conftest import tiny_card
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from torch import nn  # noqa: E402

from uncertainty_seg.backends.opening import open_pipeline  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.compiler.request import compile_network, CompileOutcome  # noqa: E402
from uncertainty_seg.core.bundle import ModelBundle  # noqa: E402
from uncertainty_seg.core.grid import offset_like_pixels  # noqa: E402
from uncertainty_seg.core.model_card import card_from_json, card_to_json  # noqa: E402
from uncertainty_seg.errors import ModelBundleError  # noqa: E402
from uncertainty_seg.storage.model_bundle import (  # noqa: E402
    load_bundle,
    model_digest,
)
from zoo_check import maps_of_passes, pictures  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures('one_thread')]
SIZE, CLASSES, PASSES = (192, 128), 5, 256
MEANS = ('mutual_information', 'total_variance', 'variation_ratio')
OFFSETS = tuple(offset_like_pixels(n // 8, n, 'half_pixel') for n in SIZE[::-1])


def late(drop: nn.Module, kernel: int = 1, stride: int = 8, gain: float = 8) -> nn.Module:
    """Make a net with dropout on averaged cells and a final bilinear upsampling to the image."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.AvgPool2d(stride // 2), drop,
        nn.Conv2d(16, CLASSES, kernel, padding=kernel // 2),
        nn.Upsample(scale_factor=stride, mode='bilinear'))
    with torch.no_grad():
        net[4].weight *= gain
    return net.eval()


def compiled(net: nn.Module, folder: Path) -> CompileOutcome:
    return compile_network(net, folder / 'bundle', SIZE, [f'c{i}' for i in range(CLASSES)],
                           mean=(0.5,) * 3, std=(0.25,) * 3, full_weights=True, compare_passes=0)


def means_of(maps: dict[str, np.ndarray]) -> np.ndarray:
    return np.array([maps[name].mean(dtype=np.float64) for name in MEANS])


def means_of_pipeline(bundle: ModelBundle) -> np.ndarray:
    """Return the means over the image of a bundle's maps in a pipeline."""
    bgr = np.ascontiguousarray(pictures(SIZE)[0][..., ::-1])
    with open_pipeline(bundle, temperature=1.0, backend='onnxruntime', passes=PASSES) as pipeline:
        maps = pipeline.measure(bgr).maps
    assert maps.entropy.shape == SIZE[::-1]
    return means_of({name: maps.of(name) for name in MEANS})


def means_of_torch(net: nn.Module) -> np.ndarray:
    """Return the same means for the unmodified network in training mode, drawn by torch."""
    torch.manual_seed(1)
    planes = ((pictures(SIZE)[0] / 255 - 0.5) / 0.25).transpose(2, 0, 1)[None]
    image = torch.from_numpy(planes.astype(np.float32))
    net.train()
    with torch.no_grad():
        logits = np.concatenate([net(image).numpy() for _ in range(PASSES)])
    net.eval()
    return means_of(maps_of_passes(logits)[0])


# Masks of single pixels, also before a convolution that mixes them; and masks of whole planes,
# with so few values per pass that the means vary with the draw (by 2 % for 16 channels).
# Passes of small logits hardly differ: their mutual information is 7e-4.
@pytest.mark.parametrize('drop, kernel, stride, gain, is_beside, tolerance', [
    (nn.Dropout(0.3), 1, 8, 8, True, 0.03), (nn.Dropout(0.3), 3, 4, 8, True, 0.03),
    (nn.Dropout(0.3), 3, 4, 0.5, True, 0.03), (nn.Dropout2d(0.3), 1, 4, 8, False, 0.06),
], ids=['elements', 'elements, 3x3', 'small logits', 'channels'])
def test_the_means_of_the_maps_are_those_of_torch_left_alone(
    drop: nn.Module, kernel: int, stride: int, gain: float, is_beside: bool, tolerance: float,
    tmp_path: Path,
) -> None:
    net = late(drop, kernel, stride, gain)
    made = compiled(net, tmp_path)
    card = made.bundle.card
    rows, columns = SIZE[1] // stride, SIZE[0] // stride
    assert card.logits_shape == (CLASSES, rows, columns)
    assert card.grid_offset == ((offset_like_pixels(rows, SIZE[1], card.upsampling),
                                 offset_like_pixels(columns, SIZE[0], card.upsampling))
                                if is_beside else (0.0, 0.0))
    assert card.grid_error < 0.03
    decision, = (d for d in made.compiled.plan.decisions if d.step == 'grid')
    assert decision.is_applied == is_beside
    np.testing.assert_allclose(means_of_pipeline(made.bundle), means_of_torch(net),
                               rtol=tolerance)


def test_logits_of_the_images_size_need_no_choice(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Dropout(0.3), nn.Conv2d(8, CLASSES, 1))
    made = compiled(net, tmp_path)
    assert made.bundle.card.grid.is_image
    assert (made.bundle.card.grid_offset, made.bundle.card.grid_error) == ((0.0, 0.0), 0.0)
    assert not [d for d in made.compiled.plan.decisions if d.step == 'grid']


# --- reports about the grid ----------------------------------------------------------------------


def test_card_and_explain_tell_of_the_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'late_net_of_a_user.py').write_text(
        'from test_grid_choice import late\nfrom torch import nn\n'
        'def build():\n    return late(nn.Dropout(0.3))\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'classes.yaml').write_text('classes: [a, b, c, d, e]\n')
    assert main(['compile', 'late_net_of_a_user:build', '--input', '192x128', '--classes',
                 'classes.yaml', '-o', 'bundle', '--compare-passes', '0', '--explain']) == 0
    out = capsys.readouterr().out
    line, = (line for line in out.splitlines() if ' grid ' in line)
    assert line.split()[0] == 'yes' and 'mutual_information' in line
    card = load_bundle('bundle').card
    stored = json.loads((tmp_path / 'bundle' / 'card.json').read_text())
    assert stored['grid_offset'] == list(card.grid_offset) == pytest.approx(OFFSETS)
    assert 0 < stored['grid_error'] == card.grid_error < 0.05


def test_the_card_keeps_the_grid_and_another_offset_is_another_network() -> None:
    cards = [tiny_card(), tiny_card(grid_offset=(0.2, 0.0)), tiny_card(grid_offset=(0.0, 0.2))]
    measured = tiny_card(grid_error=0.01)
    for card in (*cards, measured):
        assert card_from_json(card_to_json(card)) == card
    assert len({model_digest(card) for card in cards}) == len(cards)
    assert model_digest(measured) == model_digest(cards[0])  # measured, not part of the model


@pytest.mark.parametrize('offset', [(0.5, 0.0), (-0.1, 0.0), (float('nan'), 0.0), (0.2,)])
def test_an_offset_beyond_a_half_cell_is_refused(offset: tuple[float, ...]) -> None:
    with pytest.raises(ModelBundleError, match='grid_offset'):
        tiny_card(grid_offset=offset)
