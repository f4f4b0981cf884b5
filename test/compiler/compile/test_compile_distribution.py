# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The comparison of passes with masks and passes that the network draws detects wrong masks.

A network is compiled, and compared with another one of equal weights and different randomness,
which has the effect of a compiler that gets the randomness wrong.
"""

from conftest import tiny_card
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: scripts/test installs it')

from torch import nn  # noqa: E402

from uncertainty_seg.compiler.capture.export import export_net  # noqa: E402
from uncertainty_seg.compiler.capture.marking import find_dropout  # noqa: E402
from uncertainty_seg.compiler.capture.masked_reference import OwnPasses, UntouchedNet  # noqa: E402
from uncertainty_seg.compiler.checks import sample_checks  # noqa: E402
from uncertainty_seg.compiler.checks.pass_checks import check_compiled  # noqa: E402
from uncertainty_seg.compiler.checks.sample_checks import (  # noqa: E402
    check_distribution,
    DistributionReport,
    shuffled_measures,
)
from uncertainty_seg.compiler.compile import compile_graph, CompiledGraphs  # noqa: E402
from uncertainty_seg.compiler.frontend.outputs import OutputForm  # noqa: E402
from uncertainty_seg.compiler.plan import CompileOptions, DEFAULT_PASSES  # noqa: E402
from uncertainty_seg.core.model_card import InputSpec, ModelCard  # noqa: E402
from uncertainty_seg.errors import GraphError  # noqa: E402

pytestmark = pytest.mark.torch
SPEC = InputSpec(24, 16, 'stretch', 'rgb', (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(autouse=True)
def _time_for_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the time limit, which lowers the number of passes on a busy computer."""
    monkeypatch.setattr(sample_checks, 'SECONDS', 1e6)


class Path(nn.Module):
    """Drops with one draw for each element of the first `axes` axes, and divides by `keeps`."""

    def __init__(self, rate: float, axes: int = 1, keeps: float | None = None) -> None:
        super().__init__()
        self.rate, self.axes, self.keeps = rate, axes, keeps or 1 - rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        draws = torch.rand(*x.shape[:self.axes], *[1] * (4 - self.axes))
        return x * (draws < self.keeps) / self.keeps


class Segmenter(nn.Module):
    """A residual branch with a dropped path; three classes at half the size."""

    def __init__(self, path: nn.Module, shape: str = 'logits') -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.branch = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.norm, self.last = nn.BatchNorm2d(8), nn.Conv2d(8, 3 if shape != 'one' else 1, 1)
        self.path, self.shape = path, shape
        with torch.no_grad():
            self.last.weight *= 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(torch.relu(self.first(x)))
        x = self.last(x + self.path(self.branch(x)))
        x = nn.functional.interpolate(x, scale_factor=2, mode='bilinear')
        return {'logits': x, 'softmax': x.softmax(1), 'one': x.sigmoid()}[self.shape]


def card_of(compiled: CompiledGraphs) -> ModelCard:
    names = ('a', 'b', 'c')[:compiled.logits_shape[0]]
    return tiny_card(
        name='small', class_names=names, palette=((0, 0, 0),) * len(names), input=SPEC,
        dropout_sites=compiled.sites, logits_shape=compiled.logits_shape,
        passes=DEFAULT_PASSES)  # fewer may all keep a rarely dropped path


def compared(
    compiled_net: nn.Module, own_net: nn.Module, passes: int = 256
) -> DistributionReport:
    classes = 2 if compiled_net.shape == 'one' else 3
    marked = find_dropout(compiled_net, SPEC.height, SPEC.width)
    compiled = compile_graph(export_net(marked, SPEC.height, SPEC.width), SPEC,
                             CompileOptions(num_classes=classes))
    form = OutputForm(classes)
    card, untouched = card_of(compiled), UntouchedNet(own_net, form)
    report = check_compiled(compiled, card, untouched=untouched)
    own = OwnPasses(own_net, find_dropout(own_net, SPEC.height, SPEC.width), form)
    return check_distribution(compiled, card, own, untouched, report, passes)


@pytest.mark.parametrize('shape', ['logits', *(
    pytest.param(shape, marks=pytest.mark.release) for shape in ('softmax', 'one'))])
def test_a_network_and_its_masks_are_one_distribution(shape: str) -> None:
    net = Segmenter(nn.Dropout2d(0.4), shape)
    report = compared(net, net)
    assert report.passes == 256 and not report.left_out
    assert max(report.mean_probability, report.entropy, report.mutual_information) < 0.03


OTHER = {
    'p is what is kept': (Path(0.8), Path(0.2)),
    'a mask for all channels': (Path(0.3), Path(0.3, 2)),
    'a mask for all pixels': (nn.Dropout2d(0.3), nn.Dropout(0.3)),
    'another rate': (Path(0.3), Path(0.5)), 'never dropped': (Path(0.5), Path(1e-6)),
    'always dropped': (Path(0.3), Path(0.999)),
}


@pytest.mark.release
@pytest.mark.parametrize('name', OTHER)
def test_masks_that_are_not_what_the_network_draws_are_refused(name: str) -> None:
    ours, theirs = (Segmenter(path) for path in OTHER[name])
    with pytest.raises(GraphError, match=(
            '256 passes of the network itself and 256 with masks differ in .* by .* shuffles of '
            'the passes reach .*compare_passes=0')):
        compared(ours, theirs)


def test_equal_samples_are_larger_than_all_shuffles_as_rarely_as_said() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(150):
        z = rng.normal(size=(48, 3, 4, 2)) * rng.integers(0, 2, (48, 1, 1, 1))
        p = (np.exp(z) / np.exp(z).sum(1, keepdims=True)).astype(np.float32)
        found, shuffled = shuffled_measures(p[:24], p[24:])
        alarms += sum(f > s.max() for f, s in zip(found, shuffled, strict=True))
    assert alarms <= 5  # 600 measures at a rate of 1/1000: 0.6 are expected
