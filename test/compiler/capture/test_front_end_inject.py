# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Dropout goes where it was asked for, into a copy, and the net without it is as before."""

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from torch import nn  # noqa: E402

from uncertainty_seg.compiler.capture.inject import inject_dropout  # noqa: E402
from uncertainty_seg.compiler.capture.marking import find_dropout, named_outputs  # noqa: E402
from uncertainty_seg.errors import ConfigError, GraphError  # noqa: E402

pytestmark = pytest.mark.torch
SIZE = (64, 64)


def block(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU())


class Decoder(nn.Module):
    """A list of blocks, a layer in parts, and one that returns no planes."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Identity()
        self.blocks = nn.ModuleList([block(8, 8), block(8, 6)])
        self.conv, self.norm, self.act = nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        self.tokens = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        for one in self.blocks:
            x = one(x)
        x = self.act(self.norm(self.conv(x)))
        return x + self.tokens(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class Net(nn.Module):
    """An encoder, a decoder, a head, and an auxiliary head that runs last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = block(3, 8), Decoder()
        self.segmentation_head = nn.Sequential(nn.Conv2d(4, 2, 1), nn.Upsample(scale_factor=2))
        self.side = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> dict:
        features = self.encoder(x)
        return {'out': self.segmentation_head(self.decoder(features)), 'aux': self.side(features)}


def kinds(net: nn.Module) -> list[tuple]:
    return [(d.site, d.p, d.kind, d.shape[1]) for d in find_dropout(net, *SIZE).drops]


def test_decoder_means_behind_each_of_its_blocks_of_planes() -> None:
    net, names = inject_dropout(Net(), 0.25, 'decoder')
    assert names == ['decoder.blocks.0.injected_dropout', 'decoder.blocks.1.injected_dropout',
                     'decoder.act.injected_dropout']
    assert kinds(net) == [('decoder_blocks_0_injected_dropout', 0.25, 'channel', 8),
                          ('decoder_blocks_1_injected_dropout', 0.25, 'channel', 6),
                          ('decoder_act_injected_dropout', 0.25, 'channel', 4)]


def test_head_means_before_the_layer_that_makes_the_main_logits() -> None:
    net, names = inject_dropout(Net(), 0.25, 'head')
    assert names == ['segmentation_head.0.injected_dropout']
    assert kinds(net) == [('segmentation_head_0_injected_dropout', 0.25, 'channel', 4)]


def test_names_mean_behind_these_modules_and_lists_mean_their_members() -> None:
    net, names = inject_dropout(Net(), 0.25, 'encoder, decoder.blocks')
    assert names == ['encoder.injected_dropout', 'decoder.blocks.0.injected_dropout',
                     'decoder.blocks.1.injected_dropout']
    assert len(kinds(net)) == 3


def test_tokens_are_dropped_by_element() -> None:
    net, _ = inject_dropout(Net(), 0.25, 'decoder.tokens')
    assert kinds(net) == [('decoder_tokens_injected_dropout', 0.25, 'element', SIZE[0] ** 2)]


@pytest.mark.parametrize('where', ['decoder', 'head', 'encoder', 'decoder.conv'])
def test_without_its_dropout_the_net_computes_what_it_did_and_the_original_is_left_alone(
    where: str
) -> None:
    net = Net().train()
    image = torch.randn(1, 3, *SIZE)
    twin, _ = inject_dropout(net, 0.25, where)
    assert net.training and list(net.state_dict()) == list(Net().state_dict())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with torch.no_grad():
        plain, injected = named_outputs(net.eval()(image)), named_outputs(twin(image))
    assert all(torch.equal(plain[k], injected[k]) for k in plain)


@pytest.mark.parametrize('where', ['decoder', 'head', 'encoder'])
def test_in_training_mode_the_dropout_is_live_and_runs_once(where: str) -> None:
    twin, names = inject_dropout(Net(), 0.5, where)
    for name in names:
        twin.get_submodule(name).training = True
    with torch.no_grad():
        image = torch.randn(1, 3, *SIZE)
        results = [twin(image)['out'] for _ in range(9)]
    assert not all(torch.equal(results[0], result) for result in results)
    assert len(find_dropout(twin, *SIZE).drops) == len(names)


@pytest.mark.parametrize('p', [0.0, 1.0, -0.1, 1.5, float('nan')])
def test_a_rate_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match='a dropout rate of .*between 0 and 1'):
        inject_dropout(Net(), p, 'head')


def test_an_unknown_name_is_refused_with_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"no module 'decoder.blocs'.*decoder.blocks"):
        inject_dropout(Net(), 0.5, 'decoder.blocs')
    with pytest.raises(ConfigError, match='names no place'):
        inject_dropout(Net(), 0.5, ' , ')


def test_a_module_that_never_runs_or_gives_no_tensor_is_refused() -> None:
    net = Net()
    net.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ConfigError, match="'spare' does not return a tensor"):
        inject_dropout(net, 0.5, 'spare')


def test_nets_without_a_decoder_without_logits_or_of_another_input_are_refused() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    with pytest.raises(GraphError, match='has no decoder, but 0, 1'):
        inject_dropout(plain, 0.5, 'decoder')
    with pytest.raises(GraphError, match='no convolution of the net makes its 3 logits'):
        inject_dropout(nn.Sequential(nn.ReLU()), 0.5, 'head')
    with pytest.raises(GraphError, match='cannot be run .*channels'):
        inject_dropout(nn.Sequential(nn.Conv2d(4, 2, 1)), 0.5, 'head')
    assert inject_dropout(plain, 0.5, 'head')[1] == ['1.injected_dropout']


@pytest.mark.parametrize(('name', 'where', 'count'), [
    ('Unet', 'decoder', 5), ('Unet', 'head', 1), ('FPN', 'decoder', 8), ('PSPNet', 'decoder', 2),
    ('DeepLabV3Plus', 'decoder', 3),
])
def test_decoders_of_segmentation_models_have_these_many_blocks(
    name: str, where: str, count: int
) -> None:
    library = pytest.importorskip('segmentation_models_pytorch')
    net = getattr(library, name)('mobilenet_v2', encoder_weights=None, classes=5)
    assert len(inject_dropout(net, 0.5, where)[1]) == count


@pytest.mark.parametrize(('name', 'where', 'names'), [
    ('deeplabv3_mobilenet_v3_large', 'decoder', ['classifier.0', 'classifier.3']),
    ('deeplabv3_mobilenet_v3_large', 'head', ['classifier.4']),
    ('lraspp_mobilenet_v3_large', 'head', ['classifier.high_classifier']),
    ('lraspp_mobilenet_v3_large', 'decoder', ['classifier.cbr', 'classifier.scale']),
])
def test_torchvisions_nets_have_their_classifier_as_decoder(
    name: str, where: str, names: list
) -> None:
    models = pytest.importorskip('torchvision.models.segmentation')
    options = {'aux_loss': True} if name.startswith('deeplab') else {}
    net = getattr(models, name)(weights=None, weights_backbone=None, num_classes=5, **options)
    assert inject_dropout(net, 0.5, where)[1] == [f'{n}.injected_dropout' for n in names]
