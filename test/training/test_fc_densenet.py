# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""FC-DenseNet is the network of its paper, and its dropout is found behind every layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from test_export import run_compiled  # noqa: E402
import test_train_user  # noqa: E402
from torch import Tensor  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812

from uncertainty_seg.cli.main import main  # noqa: E402
from uncertainty_seg.compiler.capture.export import export_marked  # noqa: E402
from uncertainty_seg.compiler.compile import compile_graph  # noqa: E402
from uncertainty_seg.compiler.plan import CompileOptions  # noqa: E402
from uncertainty_seg.core.dropout_masks import make_masks  # noqa: E402
from uncertainty_seg.core.model_card import InputSpec  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402
from uncertainty_seg.training.fc_densenet import fc_densenet56, FCDenseNet  # noqa: E402
from uncertainty_seg.training.fit.augmentation import (  # noqa: E402
    IMAGENET_MEAN,
    IMAGENET_STD,
    normalise,
)

pytestmark = pytest.mark.torch
place = test_train_user.place


def parameters_by_the_table(classes: int, growth: int) -> int:
    """Count by the paper's table: norm and convolution of each layer, at each resolution."""

    def layer(into: int, out: int, kernel: int) -> int:
        return 2 * into + (kernel * kernel * into + 1) * out

    block = 4 * growth
    total, skips, channels = (9 * 3 + 1) * 48, [], 48
    for _ in range(5):
        total += sum(layer(channels + k * growth, growth, 3) for k in range(4))
        channels += block
        skips.append(channels)
        total += layer(channels, channels, 1)
    total += sum(layer(channels + k * growth, growth, 3) for k in range(4))
    for skip in reversed(skips):
        total += (9 * block + 1) * block
        total += sum(layer(skip + block + k * growth, growth, 3) for k in range(4))
    return total + (skips[0] + 2 * block + 1) * classes


def by_hand(net: FCDenseNet, image: Tensor, masks: dict[str, Tensor]) -> Tensor:
    """Compute the network from its weights alone, in eval mode, with masks after its layers."""
    w = net.state_dict()

    def layer(name: str, x: Tensor, kernel: int) -> Tensor:
        mean, var = (w[f'{name}.0.running_{what}'].view(1, -1, 1, 1) for what in ('mean', 'var'))
        scale, shift = (w[f'{name}.0.{what}'].view(1, -1, 1, 1) for what in ('weight', 'bias'))
        x = ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)
        x = F.conv2d(x, w[f'{name}.2.weight'], w[f'{name}.2.bias'], padding=kernel // 2)
        return x * masks.get('mask_' + name.replace('.', '_') + '_3', torch.ones(()))

    def block(name: str, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        stack, new = x, x[:, :0]
        for k in range(count):
            out = layer(f'{name}.layers.{k}', stack, 3)
            stack, new = torch.cat([stack, out], 1), torch.cat([new, out], 1)
        return stack, new

    x = F.conv2d(image, w['first.weight'], w['first.bias'], padding=1)
    skips, levels = [], len(net.down_blocks)
    counts = [len(part.layers) for part in net.down_blocks]
    for k in range(levels):
        skips.append(block(f'down_blocks.{k}', x, counts[k])[0])
        x = F.max_pool2d(layer(f'down_steps.{k}', skips[-1], 1), 2)
    new = block('bottleneck', x, len(net.bottleneck.layers))[1]
    for k in range(levels):
        skip = skips[levels - 1 - k]
        up = F.conv_transpose2d(new, w[f'up_steps.{k}.weight'], w[f'up_steps.{k}.bias'], stride=2)
        up = up[:, :, :skip.shape[2], :skip.shape[3]]
        stack, new = block(f'up_blocks.{k}', torch.cat([up, skip], 1), counts[levels - 1 - k])
    return F.conv2d(stack, w['classifier.weight'], w['classifier.bias'])


def lively(net: FCDenseNet) -> FCDenseNet:
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, 0, 0.1)
    return net.eval()


@pytest.mark.parametrize(('classes', 'growth'), [(11, 12), (2, 12), (5, 4)])
def test_the_network_has_the_56_convolutions_and_the_parameters_of_the_papers_table(
    classes: int, growth: int
) -> None:
    net = fc_densenet56(classes, growth=growth)
    layers = [part for part in net.modules()
              if isinstance(part, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))]
    assert len(layers) == 56
    assert sum(p.numel() for p in net.parameters()) == parameters_by_the_table(classes, growth)
    drops = [part for part in net.modules() if isinstance(part, torch.nn.Dropout2d)]
    assert [part.p for part in drops] == [0.2] * (56 - 1 - 5 - 1)  # not first, ups and last


def test_with_eleven_classes_it_has_the_papers_one_and_a_half_million_parameters() -> None:
    assert sum(p.numel() for p in fc_densenet56(11).parameters()) == pytest.approx(1.4e6, rel=0.05)


@pytest.mark.parametrize('size', [(64, 96), (33, 47), (63, 32)])
@torch.no_grad()
def test_its_logits_are_those_of_the_formulas_at_any_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net, image = lively(fc_densenet56(3)), torch.randn(2, 3, *size)
    logits = net(image)
    assert logits.shape == (2, 3, *size)
    torch.testing.assert_close(logits, by_hand(net, image, {}), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_fresh_weights_have_the_variance_of_he_for_each_layer() -> None:
    torch.manual_seed(0)
    net = fc_densenet56(11)
    for part in net.modules():
        if isinstance(part, torch.nn.Conv2d):
            fan_in = part.weight[0].numel()
            assert float(part.weight.abs().max()) <= (6 / fan_in) ** 0.5 + 1e-6
            assert float(part.weight.var()) == pytest.approx(2 / fan_in, rel=0.2)
            assert not part.bias.any()


def test_every_dropout_becomes_a_site_and_masked_passes_are_those_of_the_formulas() -> None:
    torch.manual_seed(0)
    net = lively(FCDenseNet(3, (2, 1), 2, growth=4, dropout=0.3))
    spec = InputSpec(48, 32, 'letterbox', 'rgb', IMAGENET_MEAN, IMAGENET_STD)
    compiled = compile_graph(export_marked(net, spec), spec, CompileOptions(is_half=False))
    dropped = {'mask_' + name.replace('.', '_') for name, part in net.named_modules()
               if isinstance(part, torch.nn.Dropout2d)}
    assert {site.name for site in compiled.sites} == dropped and len(dropped) == 10
    assert {site.p for site in compiled.sites} == {0.3}
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    masks = make_masks(compiled.sites, 3, 5)
    ours = run_compiled(compiled, image, masks)
    with torch.no_grad():
        theirs = [by_hand(net, normalise(image),
                          {name: torch.from_numpy(mask[t]) for name, mask in masks.items()})[0]
                  for t in range(3)]
    np.testing.assert_allclose(ours, np.stack(theirs), atol=1e-4)
    assert np.abs(ours[0] - ours[1]).max() > 1e-2  # else the parity would prove nothing


@pytest.mark.release
def test_train_knows_it_by_name_with_the_classes_of_the_images_and_a_rate(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = test_train_user.words(place, '--epochs', 1, '--passes', 3, '--rate', 0.1)
    words[words.index('own_net:build')] = 'fc-densenet56'
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])['passes'] == 3
    card = load_bundle(str(place / 'made')).card
    assert '1 epochs of FC-DenseNet56 (dropout 0.1), started from random weights.' in card.training
    assert len(card.dropout_sites) == 49 and {site.p for site in card.dropout_sites} == {0.1}
    kept = torch.load(place / 'made.pt', weights_only=True)
    assert kept['classifier.weight'].shape[0] == len(card.class_names) == 3


@pytest.mark.parametrize(('more', 'match'), [
    (('--dropout', 'head'), '--dropout with --net, a network of its own'),
    (('--encoder', 'lite0'), '--encoder with --net'),
    (('--init', 'suim'), '--init suim for a network of --net'),
])
def test_options_of_the_shipped_architecture_are_refused_with_it(
    place: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], match: str
) -> None:
    words = test_train_user.words(place, '--epochs', 1, *more)
    words[words.index('own_net:build')] = 'fc-densenet56'
    assert main(words) == 2
    assert match in capsys.readouterr().err
