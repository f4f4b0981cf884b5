# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Networks that people use go through the command line and come out as the same function.

Each is compiled once, at 128x96. Errors are shares of the spread of the logits, the largest less
the smallest, on an image of blobs and noise. Where torch itself is further than 1e-5 from its own
float64 (U-Net on some processors: 1.6e-5), ours must be as near to float64 as torch is.

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
from dataclasses import dataclass
from functools import cache
import io
import json
from pathlib import Path
import tempfile

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')
for package in ('torchvision', 'segmentation_models_pytorch', 'timm'):
    pytest.importorskip(package)

from torch_nets import masked_logits  # noqa: E402
from written import Written  # noqa: E402
import zoo  # noqa: E402

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.core.bundle import ModelBundle  # noqa: E402, I100
from uncertainty_seg.core.dropout_masks import make_masks, ones_masks  # noqa: E402
from uncertainty_seg.core.grid import upsample_bilinear  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402

pytestmark = pytest.mark.torch
WIDTH, HEIGHT, PASSES = 128, 96, 3
TOLERANCE = 1e-5
Site = tuple[tuple[int, ...], float]
# Of each kind of dropout the smallest is quick: of channels, of elements, of tokens and attention,
# before computed kernels, and injected.
QUICK = ('vit', 'lraspp')
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.release)
         for name in zoo.NETS]

DENSE = ((12, 1, 1), 0.2)
# Shape and rate of every site in the order they run, worked out by hand from papers and sources.
SITES: dict[str, list[Site]] = {
    'unet': [((c, 1, 1), 0.3) for c in (256, 128, 64, 32, 16) for _ in range(2)],
    'unet_dropout': [((c, 1, 1), 0.5) for c in (256, 128, 64, 32, 16)],
    'fpn': [((128, 1, 1), 0.2)],
    'deeplabv3plus': [((256, 6, 8), 0.5)],
    'pspnet': [((512, 1, 1), 0.2)],
    # mit_b0 has 8 blocks whose rate grows from 0 to 0.1, each with a path for attention and MLP.
    'segformer': [((1, 1), 0.1 * block / 7) for block in range(1, 8) for _ in range(2)],
    'deeplabv3': [((256, 6, 8), 0.5)],
    'lraspp': [((128, 1, 1), 0.3)],
    # Five times four layers and a transition of all channels so far; then six blocks of four.
    'fc_densenet56': [*(site for d in range(5) for site in
                        (*[DENSE] * 4, ((48 + 48 * (d + 1), 1, 1), 0.2))), *[DENSE] * 24],
    # 8 x 6 tokens, three heads: attention weights, then both dropouts of the MLP.
    'vit': [((3, 48, 48), 0.1), ((48, 192), 0.1), ((48, 96), 0.1)] * 2,
}


@dataclass(frozen=True)
class Compiled:
    """What the command line made of a network."""

    bundle: ModelBundle
    said: Mapping[str, object]
    written: Written


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine torch's threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def compiled(name: str) -> Compiled:
    recipe = zoo.NETS[name]
    with tempfile.TemporaryDirectory() as folder:
        classes = Path(folder) / 'classes.json'
        classes.write_text(json.dumps({'classes': [
            {'id': i, 'name': str(i), 'rgb': [i, i, i]} for i in range(zoo.NUM_CLASSES)]}))
        words = ['compile', f'zoo:{name}', '--input', f'{WIDTH}x{HEIGHT}', '--full-weights',
                 '--classes', str(classes), '-o', f'{folder}/{name}', '--compare-passes', '16']
        if recipe.inject:
            words += ['--inject-dropout', str(recipe.inject), '--at', recipe.at]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main([*words, *recipe.words]) == 0
        bundle = load_bundle(f'{folder}/{name}')
        return Compiled(bundle, json.loads(said.getvalue().splitlines()[-1]), Written.of(bundle))


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    blobs = np.kron(rng.integers(0, 256, (1, 6, 8, 3)), np.ones((1, 16, 16, 1)))
    return np.clip(blobs + rng.normal(0, 20, blobs.shape), 0, 255).astype(np.uint8)


def floats(image: np.ndarray, bundle: ModelBundle) -> np.ndarray:
    spec = bundle.card.input
    scaled = (image / 255 - np.array(spec.mean)) / np.array(spec.std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


def error(ours: np.ndarray, theirs: np.ndarray, upsampling: str) -> float:
    full = upsample_bilinear(ours, *theirs.shape[2:], upsampling)
    return float(np.abs(full - theirs).max() / np.ptp(theirs))


def require_equal(ours: np.ndarray, theirs: np.ndarray, exact: np.ndarray, sampling: str) -> None:
    if error(ours, theirs, sampling) >= TOLERANCE:
        noise = float(np.abs(theirs - exact).max() / np.ptp(exact))
        assert error(ours, exact, sampling) < max(TOLERANCE, 1.5 * noise) < 1e-4


@pytest.mark.release
@pytest.mark.parametrize('name', NAMES)
def test_the_sites_are_those_that_the_network_has(name: str) -> None:
    found = [(s.shape, s.p) for s in compiled(name).bundle.card.dropout_sites]
    wanted = SITES[name]
    assert [shape for shape, _ in found] == [shape for shape, _ in wanted]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in wanted], atol=1e-6)


@pytest.mark.release
@pytest.mark.parametrize('name', NAMES)
def test_passes_equal_torch_with_the_same_masks(name: str) -> None:
    result, image = compiled(name), picture()
    card = result.bundle.card
    masks = make_masks(card.dropout_sites, PASSES, 1)
    ours = result.written.logits(image[0], masks)
    given = zoo.build_with_dropout(name), floats(image, result.bundle), masks
    assert ours.shape == (PASSES, *card.logits_shape)
    require_equal(ours, masked_logits(*given),
                  masked_logits(*given, is_exact=True), card.upsampling)
    # Else parity would prove nothing.
    assert np.abs(ours[0] - ours[1]).max() > 1e-3 * np.ptp(ours)


@pytest.mark.release
@pytest.mark.parametrize('name', NAMES)
def test_masks_of_ones_equal_the_plain_network(name: str) -> None:
    result, image = compiled(name), picture()
    card = result.bundle.card
    masks = ones_masks(card.dropout_sites, 2)
    with torch.no_grad():
        plain = zoo.logits_of(zoo.NETS[name].build()(
            torch.from_numpy(floats(image, result.bundle)))).numpy()
    exact = masked_logits(zoo.build_with_dropout(name), floats(image, result.bundle), masks,
                          is_exact=True)
    ours = result.written.logits(image[0], masks)
    require_equal(ours, np.repeat(plain, 2, 0), exact, card.upsampling)
