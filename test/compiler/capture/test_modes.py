# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The dropout that is active in a pass is the dropout active after the net's own train().

The reference is the unmodified net after train(), with its normalisation in eval mode.
"""

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from torch import nn  # noqa: E402

from uncertainty_seg.compiler.capture.marking import find_dropout  # noqa: E402
from uncertainty_seg.compiler.capture.masked_reference import (  # noqa: E402
    OwnPasses,
    run_masked,
    UntouchedNet,
)
from uncertainty_seg.compiler.frontend.outputs import OutputForm  # noqa: E402
from uncertainty_seg.errors import GraphError  # noqa: E402

pytestmark = pytest.mark.torch
HEIGHT, WIDTH = 16, 24
IMAGE = np.random.default_rng(0).standard_normal((1, 3, HEIGHT, WIDTH), np.float32)


class Early(nn.Module):
    """A small encoder with dropout, batch norm, and dropout before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.early = nn.Conv2d(3, 8, 3, padding=1), nn.Dropout2d(0.3)
        self.norm, self.late = nn.BatchNorm2d(8), nn.Dropout2d(0.2)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.late(self.norm(self.early(self.first(x).relu()))))


class Frozen(Early):
    """A typical frozen encoder; its train() returns None, which also occurs."""

    def train(self, mode: bool = True) -> None:
        super().train(mode)
        self.early.eval()


class FrozenFunction(Early):
    """Functional dropout that depends on a module that train() leaves in eval mode."""

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.first.training = False
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.dropout2d(self.first(x).relu(), 0.3, self.first.training)
        return self.last(self.late(self.norm(x)))


class FrozenPath(Frozen):
    """A dropped path with its own random draws, which train() leaves off."""

    def __init__(self) -> None:
        super().__init__()
        self.early = OwnPath()


class OwnPath(nn.Module):

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (torch.rand(len(x), 1, 1, 1) < 0.7) / 0.7 if self.training else x


class Always(Early):
    """Dropout that is on in both modes."""

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.Dropout2d):
                module.training = True
        return self


class Counting(Early):
    """Functional dropout in a module that writes to a buffer in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('steps', torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        return super().forward(nn.functional.dropout2d(x, 0.3, self.training))


class HiddenCounting(Counting):

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        return super(Counting, self).forward(nn.functional.dropout2d(x, 0.3) if self.training
                                             else x)


class Scheduled(Counting):
    """A rate that grows with each run in training mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        rate = 0.1 + 0.05 * float(self.steps)
        return super(Counting, self).forward(nn.functional.dropout2d(x, rate, self.training))


class DroppingNorm(nn.BatchNorm2d):

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout2d(super().forward(x), 0.3, self.training)


class InNorm(Early):
    """Functional dropout in a module with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = DroppingNorm(8)


class Merged(Early):
    """Like loralib: eval() merges a product into a weight; only the unmerged path has dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 8, 1, bias=False)
        self.merged = False

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        if self.merged == mode:
            product = torch.einsum('oi,ijab->ojab', self.up.weight[..., 0, 0], self.down.weight)
            padded = nn.functional.pad(product, (1, 1, 1, 1))
            self.first.weight.data += padded * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        if not self.merged:
            y = y + self.up(self.down(self.early(x)))
        return self.last(self.norm(y.relu()))


def own_passes(net: nn.Module, count: int) -> np.ndarray:
    """Return passes of a net after train(), drawn by torch, with batch norm in eval mode."""
    net.eval()
    net.train()
    net.norm.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        return np.concatenate([net(torch.from_numpy(IMAGE)).numpy() for _ in range(count)])


def masked_passes(net: nn.Module, count: int) -> np.ndarray:
    marked, rng = find_dropout(net, HEIGHT, WIDTH), np.random.default_rng(2)
    masks = {}
    for drop in marked.drops:
        shape = (*drop.shape[:2], 1, 1)
        kept = rng.random((count, *shape)) >= drop.p
        masks[f'mask_{drop.site}'] = (kept / (1 - drop.p)).astype(np.float32)
    return run_masked(marked, IMAGE, masks, OutputForm(2))


NETS: dict[str, tuple[Callable[[], nn.Module], list[str], tuple[str, ...]]] = {
    'ordinary': (Early, ['early', 'late'], ()),
    'a frozen encoder': (Frozen, ['late'], ('early',)),
    'a function in a frozen part': (FrozenFunction, ['late'], ()),
    'a frozen path': (FrozenPath, ['late'], ('early',)),
    'always on': (Always, ['early', 'late'], ()),
    'merged in eval mode': (Merged, ['early'], ()),
    'a function beside a counter': (Counting, ['dropout', 'early', 'late'], ()),
}


@pytest.mark.release
@pytest.mark.parametrize('name', NETS)
def test_passes_are_those_that_the_nets_own_train_draws(name: str) -> None:
    build, sites, _ = NETS[name]
    marked = find_dropout(build(), HEIGHT, WIDTH)
    assert [drop.site for drop in marked.drops] == sites
    theirs, ours = own_passes(build(), 600), masked_passes(build(), 600)
    assert ours.var(0).mean() == pytest.approx(theirs.var(0).mean(), rel=0.15)
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.1 * theirs.std())
    drawn = OwnPasses(build(), marked, OutputForm(2)).passes(IMAGE, 0)
    own = np.concatenate([next(drawn) for _ in range(600)])
    assert own.var(0).mean() == pytest.approx(theirs.var(0).mean(), rel=0.15)


def test_the_still_reference_of_a_net_that_keeps_dropout_on_is_still() -> None:
    net, plain = Always(), Early().eval()
    untouched = UntouchedNet(net, OutputForm(2))
    assert np.array_equal(untouched(IMAGE), untouched(IMAGE))
    with torch.no_grad():
        expected = plain(torch.from_numpy(IMAGE)).numpy()
    assert np.allclose(untouched(IMAGE), expected, atol=1e-6)


class HeadOnly(Early):

    def eval(self) -> nn.Module:  # noqa: A003
        super().eval()
        self.late.train()
        return self


class FrozenHeadOnly(Early):
    """The early dropout is on after train(), the late one after eval()."""

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.late.training = not mode
        return self


class NoEval(Early):

    def eval(self) -> nn.Module:  # noqa: A003
        return self


class NoisyEval(Early):
    """A net with noise in both modes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Noise()

    def eval(self) -> nn.Module:  # noqa: A003
        super().eval()
        self.first.training = True
        return self


class Noise(nn.Conv2d):

    def __init__(self) -> None:
        super().__init__(3, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y + torch.randn_like(y) if self.training else y


class Broken(Early):

    def train(self, mode: bool = True) -> nn.Module:
        raise KeyError('mode')


BAD = {
    'eval keeps one of two on': (HeadOnly, "module 'early' drops after only one of train.. and "),
    'eval keeps another on': (FrozenHeadOnly, "module 'early' drops after only one of train.. "),
    'eval does nothing': (NoEval, "eval.. of the net leaves module 'norm' in training mode"),
    'noise in eval mode': (NoisyEval, "module 'first' draws random numbers .*randn_like"),
    'dropout only where it counts': (HiddenCounting, 'the net itself drops in training mode only'),
    'a rate that grows': (Scheduled, 'the net itself has a dropout of rate 0.1 '),
    'train fails': (Broken, r'eval.. of the net fails .KeyError: .mode'),
}


@pytest.mark.parametrize('name', BAD)
def test_modes_that_contradict_each_other_are_refused(name: str) -> None:
    build, sentence = BAD[name]
    with pytest.raises(GraphError, match=sentence):
        find_dropout(build(), HEIGHT, WIDTH)


@pytest.mark.parametrize('build, sites', [
    (Counting, ['dropout', 'early', 'late']), (InNorm, ['early', 'norm', 'late'])])
def test_dropout_beside_statistics_is_a_site(build: type, sites: list[str]) -> None:
    assert [drop.site for drop in find_dropout(build(), HEIGHT, WIDTH).drops] == sites
