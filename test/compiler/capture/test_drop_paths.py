# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A module that draws its own randomness is a mask where running it proves so, whatever its name.

The nets imitate what libraries contain. Passes of the untouched net, drawn by torch, are the
reference; what they are compared with runs the net with masks.

"""

from collections.abc import Callable
import random

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from torch import nn  # noqa: E402
from torch_nets import Net  # noqa: E402

from uncertainty_seg.compiler.capture.marking import find_dropout, MarkedNet  # noqa: E402
from uncertainty_seg.compiler.capture.masked_reference import _apply_mask as apply_mask  # noqa: E402
from uncertainty_seg.errors import GraphError  # noqa: E402

pytestmark = pytest.mark.torch
HEIGHT, WIDTH = 6, 8
PLANES = (1, 4, HEIGHT, WIDTH)


class Drops(nn.Module):
    """In eval mode its input; in training mode times floor(keep + rand) / keep over some axes."""

    def __init__(self, rate: float, draws: Callable, keeps: Callable = lambda rate: 1 - rate,
                 scale: float | None = None) -> None:
        super().__init__()
        self.p, self.keep, self.draws = rate, keeps(rate), draws
        self.scale = 1 / self.keep if scale is None else scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        return x * (self.keep + self.draws(x)).floor() * self.scale


def named(name: str, module: nn.Module) -> nn.Module:
    """Let a module's class be called so."""
    module.__class__ = type(name, (type(module),), {})
    return module


def of_rows(x: torch.Tensor) -> torch.Tensor:
    return torch.rand(len(x), *[1] * (x.dim() - 1))


def of_channels(x: torch.Tensor) -> torch.Tensor:
    return torch.rand(*x.shape[:2], *[1] * (x.dim() - 2))


def of_batch(x: torch.Tensor) -> torch.Tensor:
    return torch.rand([])


def by_python(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(random.random())


def found(*modules: nn.Module) -> list[tuple]:
    drops = find_dropout(Net(nn.Sequential(*modules)), HEIGHT, WIDTH).drops
    return [(d.module, d.p, d.kind, d.shape) for d in drops]


PROVEN = {
    'a row of its own': (Drops(0.3, of_rows), 0.3, 'path', PLANES),
    'a batch of one fate': (Drops(0.3, of_batch), 0.3, 'path', PLANES),
    'drawn by Python': (Drops(0.3, by_python), 0.3, 'path', PLANES),
    'p is kept': (Drops(0.8, of_rows, lambda p: p), 0.2, 'path', PLANES),
    'nearly always dropped': (Drops(0.9, of_rows), 0.9, 'path', PLANES),
    'rarely dropped': (Drops(0.002, of_rows), 0.002, 'path', PLANES),
    'a channel of its own': (Drops(0.3, of_channels), 0.3, 'element', (1, 4, 1, 1)),
    'an element of its own': (Drops(0.3, torch.rand_like), 0.3, 'element', PLANES),
}


# Nothing but its name tells a module from one without randomness where torch draws nothing.
@pytest.mark.parametrize(('name', 'class_name'), [
    (name, class_name) for name in PROVEN for class_name in ('DropPath', 'Anything')
    if (name, class_name) != ('drawn by Python', 'Anything')])
def test_what_a_module_drops_is_seen_by_running_it(name: str, class_name: str) -> None:
    module, *expected = PROVEN[name]
    ((path, *rest),) = found(nn.ReLU(), named(class_name, module))
    assert path == 'body.1'
    assert rest == [pytest.approx(expected[0], abs=1e-12), *expected[1:]]


class Wrapped(nn.Module):
    """As torchlayers 0.1.1: contains its branch, and never runs it in training mode."""

    def __init__(self, always: bool = True) -> None:
        super().__init__()
        self.module, self.p, self.always = nn.Conv2d(4, 4, 1), 0.5, always

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and torch.empty(1).uniform_() < (1 if self.always else self.p):
            return x
        return self.p * self.module(x)


class Branch(nn.Module):
    """Contains its branch, and is the same in eval mode but for the draw."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = torch.empty(len(x), 1, 1, 1).bernoulli_(0.75) / 0.75 if self.training else 1
        return x + kept * self.module(x)


class Decides(Branch):
    """Runs its branch or not, as the draw says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not torch.bernoulli(torch.tensor(0.75)):
            return x
        return x + self.module(x)


class Block(nn.Module):
    """Keeps exactly one of two halves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        kept = (torch.rand(len(x), 1, 1, 1) < 0.5).float()
        halves = torch.arange(x.shape[1]).reshape(-1, 1, 1) % 2
        return x * (kept * halves + (1 - kept) * (1 - halves)) * 2


class Silent(nn.Module):
    """Has a rate and drops nothing."""

    p = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


REFUSED = {
    'wraps': (lambda: named('StochasticDepth', Wrapped()), 'does not return its input in eval'),
    'wraps and draws': (lambda: named('StochasticDepth', Wrapped(False)),
                        'StochasticDepth, which does not return its input in eval mode'),
    'unscaled': (lambda: named('DropPath', Drops(0.25, of_rows, scale=1.0)),
                 'multiplies what it keeps by 1 in training mode.*mean is not its value'),
    'scaled by another': (lambda: named('DropPath', Drops(0.25, of_rows, scale=2.0)),
                          'drops 0.2.* of its samples and divides the others by 0.5'),
    'noise': (lambda: named('DropPath', Drops(0.25, lambda x: 2 + 9 * torch.rand_like(x))),
              'multiplies by more than zero and one other number'),
    'always': (lambda: named('DropPath', Drops(0.25, lambda x: of_rows(x) * 0)),
               'drops everything in training mode'),
    'never': (lambda: named('StochasticDepth', Silent()), 'drops nothing in training mode'),
    'halves': (lambda: named('DropPath', Block()), 'drops elements that depend on each other'),
    'decides': (Decides, "'body.0' decides by a random number"),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_called_a_path_and_is_none_is_refused(name: str) -> None:
    build, words = REFUSED[name]
    with pytest.raises(GraphError, match=words) as refused:
        found(build(), nn.Dropout2d(0.5))
    assert 'bug' not in str(refused.value) and '\n' not in str(refused.value)


IMAGE = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))


def masked(marked: MarkedNet, value: float) -> torch.Tensor:
    with torch.no_grad():
        return marked.run(IMAGE, lambda x, drop: apply_mask(
            x, drop, np.full(x.shape, value, np.float32)))['output']


@pytest.mark.release
@pytest.mark.parametrize('name', PROVEN)
def test_masks_of_one_are_the_untouched_net_and_drawn_ones_have_its_distribution(
    name: str
) -> None:
    module, p, *_ = PROVEN[name]
    net = Net(nn.Sequential(nn.ReLU(), named('StochasticDepth', module)))
    marked = find_dropout(net, HEIGHT, WIDTH)
    with torch.no_grad():
        assert torch.equal(masked(marked, 1), net.eval()(IMAGE))
        net.body.train()
        torch.manual_seed(0)
        theirs = torch.stack([net(IMAGE) for _ in range(2000)])

        def draw(x: torch.Tensor, drop: object) -> torch.Tensor:
            kept = [1 if drop.kind == 'path' else side for side in x.shape]
            return x * (torch.rand(kept) >= drop.p) / (1 - drop.p)
        ours = torch.stack([marked.run(IMAGE, draw)['output'] for _ in range(2000)])
    for moment in (torch.mean, torch.std):
        noise = 6 * theirs.std(0) / 2000 ** 0.5 * (1 if moment is torch.mean else p ** -0.5)
        assert ((moment(ours, 0) - moment(theirs, 0)).abs() <= noise + 1e-5).all()


def test_the_callers_random_numbers_go_on_as_if_nothing_had_run() -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), float(torch.rand([]))
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    net = Net(named('DropPath', Drops(0.3, by_python)))  # whose making seeds torch
    torch.manual_seed(3)
    find_dropout(net, HEIGHT, WIDTH)
    assert (random.random(), np.random.rand(), float(torch.rand([]))) == expected


# --- modules that draw in training mode only -------------------------------------------------
