# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A module that draws zeros and ones becomes a mask, whatever its name; other draws are refused.

The nets imitate modules of libraries. The reference is passes of the unmodified net, drawn by
torch; they are compared with the net run with masks.
"""

from collections.abc import Callable
import random

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from torch import nn  # noqa: E402
from torch_nets import Net  # noqa: E402

from uncertainty_seg.compiler.capture.marking import find_dropout  # noqa: E402
from uncertainty_seg.errors import GraphError  # noqa: E402

pytestmark = pytest.mark.torch
HEIGHT, WIDTH = 6, 8
PLANES = (1, 4, HEIGHT, WIDTH)


class Drops(nn.Module):
    """The identity; in training mode, the input times floor(keep + rand) / keep by some axes."""

    def __init__(self, rate: float, draws: Callable, keeps: Callable = lambda rate: 1 - rate,
                 scale: float | None = None) -> None:
        super().__init__()
        self.p, self.keep, self.draws = rate, keeps(rate), draws
        self.scale = 1 / self.keep if scale is None else scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        return x * (self.keep + self.draws(x)).floor() * self.scale


def of_rows(x: torch.Tensor) -> torch.Tensor:
    return torch.rand(len(x), *[1] * (x.dim() - 1))


def of_channels(x: torch.Tensor) -> torch.Tensor:
    return torch.rand(*x.shape[:2], *[1] * (x.dim() - 2))


def of_batch(x: torch.Tensor) -> torch.Tensor:
    return torch.rand([])


def found(*modules: nn.Module) -> list[tuple]:
    drops = find_dropout(Net(nn.Sequential(*modules)), HEIGHT, WIDTH).drops
    return [(d.module, d.p, d.kind, d.shape) for d in drops]


class Compares(nn.Module):
    """A hand-written path: a comparison, whose booleans `use` applies."""

    def __init__(self, use: Callable) -> None:
        super().__init__()
        self.use = use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.use(x) if self.training else x


ROW = (1, 1, 1, 1)
PROVEN = {
    'a row of its own': (Drops(0.3, of_rows), 0.3, ROW),
    'a batch of one fate': (Drops(0.3, of_batch), 0.3, (1, 1)),
    'p is kept': (Drops(0.8, of_rows, lambda p: p), 0.2, ROW),
    'rarely dropped': (Drops(0.002, of_rows), 0.002, ROW),
    'a channel of its own': (Drops(0.3, of_channels), 0.3, (1, 4, 1, 1)),
    'an element of its own': (Drops(0.3, torch.rand_like), 0.3, PLANES),
    'compared': (Compares(lambda x: x * (torch.rand_like(x) > 0.4) / 0.6), 0.4, PLANES),
    'a type': (Compares(lambda x: x * (of_rows(x) < 0.7).to(x.dtype).div(0.7)), 0.3, ROW),
    'filled': (Compares(lambda x: x.masked_fill(~(of_rows(x) < 0.7), 0) / 0.7), 0.3, ROW),
    'chosen': (Compares(lambda x: torch.where(of_rows(x) >= 0.3, x / 0.7, 0 * x)), 0.3, ROW),
    'in place': (Compares(lambda x: x * x.new_empty(1, 1, 1, 1).bernoulli_(0.7).div_(0.7)),
                 0.3, ROW),
    'in place, uniform': (Compares(lambda x: x / 0.7 * x.new_empty(1, 1, 1, 1).uniform_().add_(
        0.7).floor_()), 0.3, ROW),
    'filled in place': (Compares(lambda x: x.clone().masked_fill_(
        (torch.rand(1, 4)[..., None, None] > 0.25).expand_as(x), 0) / 0.25), 0.25, (1, 4, 1, 1)),
    'halves': (Compares(lambda x: halves(x)), 0.5, ROW),
}


def halves(x: torch.Tensor) -> torch.Tensor:
    """Keep exactly one of two halves of the channels."""
    kept = (torch.rand(len(x), 1, 1, 1) < 0.5).float()
    even = torch.arange(x.shape[1]).reshape(-1, 1, 1) % 2
    return x * (kept * even + (1 - kept) * (1 - even)) * 2


@pytest.mark.parametrize('name', PROVEN)
def test_what_a_module_drops_is_seen_by_running_it(name: str) -> None:
    module, p, shape = PROVEN[name]
    assert found(nn.ReLU(), module) == [('body.1', pytest.approx(p, abs=1e-12), 'element', shape)]


class Wrapped(nn.Module):
    """Like torchlayers 0.1.1: contains its branch, and never runs it in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.p = nn.Conv2d(4, 4, 1), 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and torch.empty(1).uniform_() < self.p:
            return x
        return self.p * self.module(x)


class Branch(nn.Module):
    """Contains its branch; training mode only adds the random mask."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = torch.empty(len(x), 1, 1, 1).bernoulli_(0.75) / 0.75 if self.training else 1
        return x + kept * self.module(x)


class Decides(Branch):
    """Runs its branch or not, depending on the draw."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not torch.bernoulli(torch.tensor(0.75)):
            return x
        return x + self.module(x)


REFUSED = {
    'wraps and draws': Wrapped, 'decides': Decides,
    'unscaled': lambda: Drops(0.25, of_rows, scale=1.0),
    'scaled by another': lambda: Drops(0.25, of_rows, scale=2.0),
    'more than two values': lambda: Drops(0.25, lambda x: 2 + 9 * torch.rand_like(x)),
    'selects': lambda: Compares(lambda x: x * x[torch.rand_like(x) > 0.5].mean()),
    'joins': lambda: Compares(lambda x: x * ((of_rows(x) < 0.5) | (of_rows(x) < 0.5)) / 0.75),
    'sorts': lambda: Compares(lambda x: x + torch.rand_like(x).argsort()),
    'gaussian': lambda: Compares(lambda x: x * (1 + torch.randn_like(x))),
    'concrete': lambda: Compares(lambda x: x * torch.sigmoid(torch.rand_like(x).logit() * 9)),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_no_independent_mask_is_refused_by_module(name: str) -> None:
    with pytest.raises(GraphError, match="'body.0'") as refused:
        found(REFUSED[name](), nn.Dropout2d(0.5))
    assert 'bug' not in str(refused.value) and '\n' not in str(refused.value)


def test_the_callers_random_numbers_go_on_as_if_nothing_had_run() -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), float(torch.rand([]))
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    net = Net(Drops(0.3, of_rows))  # the constructor seeds torch
    torch.manual_seed(3)
    find_dropout(net, HEIGHT, WIDTH)
    assert (random.random(), np.random.rand(), float(torch.rand([]))) == expected
