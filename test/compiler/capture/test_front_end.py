# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Every form of dropout in a torch net is found, and the rest of the net is unchanged."""

from collections.abc import Callable
import logging
import threading

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from torch import nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.nn.functional import dropout as early_bound  # noqa: E402
from torch_nets import Attention, Body, DropPath, Net  # noqa: E402

from uncertainty_seg.compiler.capture.marking import find_dropout, MarkedNet  # noqa: E402
from uncertainty_seg.errors import GraphError  # noqa: E402

pytestmark = pytest.mark.torch
HEIGHT, WIDTH = 6, 8


class DropBlock2d(nn.Module):
    """A module that is recognized by its name."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def find(body: Callable | nn.Module) -> MarkedNet:
    return find_dropout(Net(body), HEIGHT, WIDTH)


def sites(body: Callable | nn.Module) -> list[tuple]:
    return [(d.site, d.p, d.kind, d.shape) for d in find(body).drops]


PLANES, TOKENS, ROW = (1, 4, 6, 8), (1, 48, 4), (1, 4, 48)
MODULES = {
    'Dropout': (nn.Dropout(0.25), 'element', PLANES),
    'Dropout2d': (nn.Dropout2d(0.25), 'channel', PLANES),
    'in place': (nn.Dropout2d(0.25, inplace=True), 'channel', PLANES),
    'DropPath': (DropPath(0.25), 'element', (1, 1, 1, 1)),
    'AlphaDropout': (nn.AlphaDropout(0.25), 'element', PLANES),
    'FeatureAlphaDropout': (nn.FeatureAlphaDropout(0.25), 'channel', (1, 4, 1, 1)),
}


@pytest.mark.parametrize('name', MODULES)
def test_a_module_is_a_site_with_its_path_as_name(name: str) -> None:
    module, kind, shape = MODULES[name]
    assert sites(nn.Sequential(nn.ReLU(), module)) == [('body_1', 0.25, kind, shape)]


class Uncopied(nn.Module):

    def __deepcopy__(self, memo: dict) -> None:
        raise RuntimeError('page after page')

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_net_that_cannot_be_copied_is_refused_in_words() -> None:
    with pytest.raises(GraphError, match='cannot be copied by copy.deepcopy, expected') as refused:
        find(nn.Sequential(Uncopied(), nn.Dropout(0.5)))
    assert 'page' not in str(refused.value)


def test_locks_and_computed_weights_are_no_reason_not_to_copy_a_net() -> None:
    body = torch.nn.utils.weight_norm(nn.Conv2d(4, 4, 1))
    body.lock = threading.Lock()
    body(torch.ones(PLANES))
    net = Net(nn.Sequential(body, nn.Dropout(0.5)))
    image = torch.randn(1, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        marked = find_dropout(net, HEIGHT, WIDTH)
        assert [d.site for d in marked.drops] == ['body_1']
        assert torch.equal(marked.run(image)['output'], net.eval()(image))
        body.weight_g *= 2
        assert not torch.equal(marked.run(image)['output'], net(image))


FUNCTIONS = {
    'dropout': (F.dropout, 'element'), 'dropout2d': (F.dropout2d, 'channel'),
    'bound early': (early_bound, 'element'), 'of torch': (torch.dropout, 'element'),
    'of torch, channels': (torch.feature_dropout, 'channel'),
    'of torch, in place': (torch.dropout_, 'element'),
    'of aten': (torch.ops.aten.dropout, 'element'),
    'of torch.export': (torch.ops.aten.dropout.default, 'element'),
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_function_is_a_site_named_after_its_module(name: str) -> None:
    function, kind = FUNCTIONS[name]
    assert sites(lambda x, training: function(x, 0.25, training)) == [
        ('body', 0.25, kind, PLANES)]


def test_a_rate_of_zero_and_an_absent_one_are_no_sites() -> None:
    body = nn.Sequential(nn.Dropout(0.0), DropPath(None), nn.AlphaDropout(0.0), nn.Dropout2d(0.0))
    assert sites(body) == []


@pytest.mark.parametrize('batch_first', [False, True])
@pytest.mark.parametrize(('need_weights', 'shape'), [(True, (2, 48, 48)), (False, (1, 2, 48, 48))])
def test_the_layer_of_attention_drops_its_weights(
    need_weights: bool, shape: tuple, batch_first: bool
) -> None:
    assert sites(Attention(need_weights, batch_first)) == [
        ('body_layer', 0.25, 'element', shape)]


@pytest.mark.parametrize('draw', [
    lambda x: torch.bernoulli(torch.full_like(x, 0.75)),
    lambda x: torch.bernoulli(x, 0.75),
    lambda x: x.bernoulli(p=0.75),
    lambda x: torch.distributions.Bernoulli(0.75).sample(x.shape),
])
def test_every_way_to_draw_from_one_chance_is_a_site(draw: Callable) -> None:
    (site,) = sites(lambda x, training: x * draw(x) / 0.75 if training else x)
    assert site == ('body', 0.25, 'element', PLANES)


REFUSED = {
    'rate of 1': (nn.Dropout(1.0), r"'body' has a dropout rate of 1"),
    'DropBlock': (DropBlock2d(0.1), r"'body' is DropBlock.*Dropout2d"),
    'unscaled path': (DropPath(0.1, False), "'body' drops in training mode only.*something else"),
    'rand': (lambda x, t: x * torch.rand(1).exp() * t, "'body' draws random.* rand"),
    'noise': (lambda x, t: x + torch.randn_like(x) * t, "'body' draws random.*randn_like"),
    'normal_': (lambda x, t: x + x.new_empty(2, 1, 1, 1)[:1].normal_() * t, 'normal_'),
    'rrelu': (lambda x, t: F.rrelu(x, training=t), 'rrelu'),
    'varied rates': (lambda x, t: torch.bernoulli(x.detach().sigmoid()) if t else x,
                     'a varying probability'),
    'native': (lambda x, t: torch.native_dropout(x, 0.5, True)[0], "'body' draws random"),
    'a choice': (lambda x, t: x if x.mean() > 0 else -x, "'body' branches on the values"),
    'a number': (lambda x, t: x * float(x.max()), "'body' branches on the values"),
    'a selection': (lambda x, t: x * x[x > 0].mean(), "'body' branches on the values"),
    'numpy': (lambda x, t: x / 2 if x.numpy().max() > 9 else x, 'branches on the values .*numpy'),
    'an array': (lambda x, t: x / 2 if np.asarray(x.detach()).max() > 9 else x,
                 "'body' branches on the values"),
    'a list': (lambda x, t: x / 2 if max(x.flatten().tolist()) > 9 else x, 'tolist'),
    'float64': (lambda x, t: F.dropout(x.double(), 0.2, t).float(), "'body' drops from .*float64"),
    'batch statistics': (nn.BatchNorm2d(4, track_running_stats=False), 'running statistics'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_no_mask_can_replace_is_refused_by_module(name: str) -> None:
    body, message = REFUSED[name]
    with pytest.raises(GraphError, match=message):
        find(body)


def test_dropout_that_is_off_in_training_mode_is_refused_where_the_net_stays_in_eval() -> None:
    def body(x: torch.Tensor, training: bool) -> torch.Tensor:
        y = F.dropout(F.dropout(x, 0.5, training and False), 0.25, training)
        return y * 2 if training else y

    with pytest.raises(GraphError, match="'body' has a dropout of rate 0.5 that is off"):
        find(body)


@pytest.mark.parametrize('training', [False, True])
def test_a_net_whose_forward_holds_the_net_itself_is_refused(training: bool) -> None:
    net = Net(nn.Dropout2d(0.25)).train(training)
    own = net.body.forward
    net.body.forward = lambda x: own(x)
    with pytest.raises(GraphError, match="'body'.*self"):
        find_dropout(net, HEIGHT, WIDTH)
    assert net.body.training is training
    net.body.forward = own  # a bound method is copied with its module
    assert [drop.site for drop in find_dropout(net, HEIGHT, WIDTH).drops] == ['body']


def test_scripted_nets_and_things_that_are_none_are_refused() -> None:
    traced = torch.jit.trace(nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 6, 8))
    with pytest.raises(GraphError, match='scripted or traced'):
        find_dropout(traced, HEIGHT, WIDTH)
    with pytest.raises(GraphError, match=r'the net is dict, expected a torch.nn.Module'):
        find_dropout({}, HEIGHT, WIDTH)


def test_a_net_that_cannot_run_is_refused_with_its_own_words() -> None:
    with pytest.raises(GraphError, match=r'\(1, 3, 6, 8\): RuntimeError: .*channels'):
        find_dropout(nn.Conv2d(5, 2, 1), HEIGHT, WIDTH)
    with pytest.raises(GraphError, match='returns NoneType without a tensor'):
        find_dropout(_Silent(), HEIGHT, WIDTH)


class _Silent(nn.Module):

    def forward(self, x: torch.Tensor) -> None:
        return None


# --- training and eval mode of the net ---


@pytest.mark.parametrize('training', [False, True])
def test_the_callers_net_is_left_as_it_is(training: bool) -> None:
    net = Net(nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5), DropPath(0.25))).train(training)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    find_dropout(net, HEIGHT, WIDTH)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert [m.training for m in net.modules()] == [training] * len(list(net.modules()))
    assert 'forward' not in vars(net.body[2])
    assert not net._forward_hooks and not net.body[1]._forward_pre_hooks


class DeepSupervision(nn.Module):
    """A net with other outputs in training mode, as most nets with deep supervision."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.conv, self.drop, self.inner = nn.Conv2d(3, 2, 1), nn.Dropout(0.5), Body(
            lambda x, training: F.dropout2d(x, 0.25) if training else x)
        self.asks = asks

    def forward(self, x: torch.Tensor) -> object:
        x = F.dropout(self.inner(self.drop(self.conv(x))), 0.125, training=self.training)
        if self.asks and self.training:
            x = F.dropout(x, 0.1, True)
        return [x, x] if self.training else x


def test_a_net_of_two_minds_stays_in_eval_mode_and_keeps_its_dropout(
    caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, 'uncertainty_seg'):
        marked = find_dropout(DeepSupervision(asks=False), HEIGHT, WIDTH)
    assert [(d.site, d.p) for d in marked.drops] == [
        ('drop', 0.5), ('inner', 0.25), ('dropout', 0.125)]
    assert marked.training == {'inner'}
    assert marked.outputs == ('output',)
    assert "it returns 'output_0', 'output_1' in place of 'output'" in caplog.text
    caplog.clear()
    find(lambda x, training: F.dropout(x, 0.5, training) * (0.5 if training else 1))
    assert [(r.levelname, 'differs by' in r.getMessage()) for r in caplog.records] == [
        ('WARNING', True)]


# --- randomness from other sources than torch ---


def test_a_net_that_changes_by_itself_is_refused() -> None:
    counted = iter(range(1000))
    with pytest.raises(GraphError, match='two runs of the net on one image differ'):
        find(lambda x, training: F.dropout(x + next(counted), 0.5, training))
