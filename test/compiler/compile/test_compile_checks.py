# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""`compile` accepts what float32 explains and nothing else, and warns of dropout that is rare."""

from dataclasses import replace
from itertools import product
import math
from typing import Any

from conftest import tiny_card
from graph_samples import net, SPEC
from hypothesis import given, settings, strategies
import numpy as np
from onnx import numpy_helper
import pytest

from uncertainty_seg.compiler.checks import pass_checks as compile_checks
from uncertainty_seg.compiler.checks.pass_checks import check_compiled
from uncertainty_seg.compiler.compile import compile_graph, CompiledGraphs
from uncertainty_seg.compiler.onnx_tools import copy_of
from uncertainty_seg.compiler.request import chance_of_equal_passes, warn_of_rare_dropout
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.model_card import DropoutSite, ModelCard
from uncertainty_seg.errors import GraphError


@pytest.fixture(scope='module')
def compiled() -> CompiledGraphs:
    return compile_graph(net('element'), SPEC)


@pytest.fixture
def card(compiled: CompiledGraphs) -> ModelCard:
    return tiny_card(
        name='small', class_names=('a', 'b', 'c', 'd'), palette=((0, 0, 0),) * 4, input=SPEC,
        dropout_sites=compiled.sites, logits_shape=compiled.logits_shape)


class Network:
    """The compiled network itself, with one logit off by a share of the spread."""

    def __init__(self, compiled: CompiledGraphs, card: ModelCard, share: float) -> None:
        self._run = compile_checks.NetworkRunner(compiled, card, None, None)._each
        self._spec, self._share = card.input, share

    def __call__(self, floats: np.ndarray, masks: dict) -> np.ndarray:
        scaled = floats.transpose(0, 2, 3, 1) * self._spec.std + self._spec.mean
        logits = self._run(np.rint(scaled * 255).astype(np.uint8), masks).copy()
        logits[0, 0, 0, 0] += self._share * np.ptp(logits)
        return logits


def test_a_network_that_is_the_same_passes(compiled: CompiledGraphs, card: ModelCard) -> None:
    report = check_compiled(compiled, card, Network(compiled, card, 0))
    assert max(report.still_error, report.masked_error) < 1e-6
    assert report.moved > 0.01 * report.spread > 0


def test_another_network_is_refused_by_how_far_it_is(
    compiled: CompiledGraphs, card: ModelCard
) -> None:
    with pytest.raises(GraphError, match='with the same masks the result differs .*at most 1e-05'):
        check_compiled(compiled, card, Network(compiled, card, 1e-2))


class UntouchedNetwork(Network):
    """The same, in eval mode; it cannot run in float64."""

    def __call__(self, floats: np.ndarray) -> np.ndarray:
        return super().__call__(floats, {'mask_dropout_0': np.ones((1, 8, 4, 8), np.float32)})

    def exact(self, floats: np.ndarray) -> None:
        return None


def test_a_reference_that_was_changed_with_the_result_hides_nothing(
    compiled: CompiledGraphs, card: ModelCard
) -> None:
    same, other = (UntouchedNetwork(compiled, card, share) for share in (0, 1e-2))
    masked = Network(compiled, card, 0)
    assert check_compiled(compiled, card, masked, untouched=same).still_error < 1e-6
    with pytest.raises(GraphError, match=r'with dropout off, compared with net.eval\(\)'):
        check_compiled(compiled, card, masked, untouched=other)


def test_where_torch_is_inexact_itself_float64_decides(
    compiled: CompiledGraphs, card: ModelCard
) -> None:
    inexact, exact = Network(compiled, card, 2e-4), Network(compiled, card, 0)
    # Ours equals float64, and torch's float32 is what is off.
    assert check_compiled(compiled, card, inexact, exact).masked_error < 1e-6
    # Ours is as far from float64 as torch is: within what float32 explains.
    assert 1e-5 < check_compiled(compiled, card, Network(compiled, card, 4e-4),
                                 inexact).masked_error < 2e-4
    # Torch equals its float64, and ours is off: no excuse.
    with pytest.raises(GraphError, match='differs from the network by 0.0001'):
        check_compiled(compiled, card, inexact, inexact)
    # No noise excuses an error that could be seen.
    with pytest.raises(GraphError, match='at most 0.001'):
        check_compiled(compiled, card, Network(compiled, card, 4e-2),
                       Network(compiled, card, 2e-2))


class ChaosOnNoise(Network):
    """Off by a share on images of noise, by another on the smooth one."""

    def __init__(
        self, compiled: CompiledGraphs, card: ModelCard, share: float, on_smooth: float
    ) -> None:
        super().__init__(compiled, card, share)
        self._shares = on_smooth, share

    def __call__(self, floats: np.ndarray, masks: dict) -> np.ndarray:
        self._share = self._shares[int(abs(np.diff(floats)).mean() > 0.5)]
        return super().__call__(floats, masks)


def test_where_float32_is_chaos_on_noise_the_smooth_image_decides(
    compiled: CompiledGraphs, card: ModelCard
) -> None:
    """On noise torch's float32 is 4 % off its float64, and ours 2 %: an error would not show."""
    off, exact = ChaosOnNoise(compiled, card, 6e-2, 0), ChaosOnNoise(compiled, card, 2e-2, 0)
    assert check_compiled(compiled, card, off, exact).masked_error < 3e-2
    # An error of ours that noise would hide shows there, where torch is exact.
    wrong = [ChaosOnNoise(compiled, card, share, 1e-3) for share in (6e-2, 2e-2)]
    with pytest.raises(GraphError, match=r'with the same masks .* by 0\.000\d+ .*at most 1e-05'):
        check_compiled(compiled, card, *wrong)
    # And on noise it may be a few times what torch's own float32 is off, not more.
    with pytest.raises(GraphError, match='with the same masks the result differs'):
        check_compiled(compiled, card, ChaosOnNoise(compiled, card, 2.1e-2, 0), exact)


def test_an_image_that_is_another_in_its_last_bit_shows_what_float32_may_do(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A difference of two large numbers, of which an ONNX file has no float64."""
    rough = net('element')
    weights = next(t for t in rough.graph.initializer if t.name == 'w1')
    values = 3e3 * numpy_helper.to_array(weights)
    weights.CopyFrom(numpy_helper.from_array(np.concatenate([values[:4], values[:4] * (
        1 + 1e-3)]), 'w1'))
    last = next(t for t in rough.graph.initializer if t.name == 'w2')
    half = numpy_helper.to_array(last)[:, :4]
    last.CopyFrom(numpy_helper.from_array(np.concatenate([half, -half], 1), 'w2'))
    compiled = compile_graph(rough, SPEC)
    session = compile_checks._session  # as if optimisation reordered no sum
    monkeypatch.setattr(compile_checks, '_session', lambda model, _level=True: session(model))
    assert 1e-5 < check_compiled(compiled, card).still_error < 1e-3
    monkeypatch.setattr(compile_checks, '_NEIGHBOURS', 0)
    with pytest.raises(GraphError, match='with dropout off the result differs'):
        check_compiled(compiled, card)


def test_the_head_of_the_statistics_is_compared_too(
    compiled: CompiledGraphs, card: ModelCard
) -> None:
    other = copy_of(compiled.head)
    for tensor in other.graph.initializer:
        if tensor.name == 'b2':
            values = numpy_helper.to_array(tensor) + np.arange(4, dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, 'b2'))
    assert other != compiled.head
    with pytest.raises(GraphError, match='with the same masks the result differs'):
        check_compiled(replace(compiled, stats_head=other), card)


# --- dropout that may drop nothing ---------------------------------------------------------------

PATH = DropoutSite('mask_path', (1, 1, 1), 0.02)
CHANNELS = DropoutSite('mask_head', (4, 1, 1), 0.5)
ENSEMBLE = tiny_card(method='deep_ensemble', members=3, passes=3, dropout_sites=(
    DropoutSite('member', (3,), 0.02),))


def card_of(*sites: DropoutSite, passes: int = 20, is_balanced: bool = False) -> ModelCard:
    return tiny_card(dropout_sites=sites, passes=passes, is_balanced=is_balanced)


def by_counting(values: int, p: float, passes: int) -> float:
    """Add up the chances of every outcome whose passes are the same."""
    total = 0.0
    for outcome in product((0, 1), repeat=values * passes):
        rows = np.array(outcome).reshape(passes, values)
        if (rows == rows[:1]).all():
            total += math.prod(p if dropped else 1 - p for dropped in outcome)
    return total


@pytest.mark.parametrize(('values', 'passes'), [(1, 2), (1, 5), (2, 3), (3, 4), (4, 1)])
@pytest.mark.parametrize('p', [0.02, 0.3, 0.5, 0.9])
def test_the_chance_is_that_of_counting_every_outcome(
    values: int, passes: int, p: float
) -> None:
    site = DropoutSite('mask', (values, 1, 1), p)
    found = chance_of_equal_passes([site], passes, False)
    assert found == pytest.approx(by_counting(values, p, passes), rel=1e-9)


@pytest.mark.parametrize(('sites', 'passes', 'kind'), [
    ((PATH,), 20, ()), ((PATH, DropoutSite('other', (2,), 0.01)), 20, ()),
    ((CHANNELS,), 2, ()), ((CHANNELS,), 2, (True,)), ((CHANNELS, PATH), 2, (True,)),
    ((PATH,), 20, (False, 'stratified')), ((PATH,), 51, (False, 'stratified')),
    ((DropoutSite('rarely kept', (2, 1, 1), 0.9),), 3, (False, 'stratified')),
    ((PATH, DropoutSite('elements', (2, 1, 2), 0.1)), 4, (False, 'stratified')),
    ((CHANNELS,), 1, (False, 'stratified')),
])
def test_masks_are_as_often_equal_as_it_says(
    sites: tuple[DropoutSite, ...], passes: int, kind: tuple[Any, ...]
) -> None:
    draws = 3000
    equal = sum(all((rows == rows[:1]).all() for rows in masks.values())
                for masks in (make_masks(sites, passes, seed, *kind)
                              for seed in range(draws)))
    chance = chance_of_equal_passes(sites, passes, *(kind or (False,)))
    assert abs(equal / draws - chance) <= 4 * math.sqrt(chance * (1 - chance) / draws) + 1e-12


@settings(max_examples=60, deadline=None)
@given(p=strategies.floats(1e-6, 1 - 1e-6), channels=strategies.integers(1, 2000),
       passes=strategies.integers(1, 1000), is_balanced=strategies.booleans())
def test_more_passes_never_make_it_likelier(
    p: float, channels: int, passes: int, is_balanced: bool
) -> None:
    site = DropoutSite('mask', (channels, 1, 1), p)
    now, more = (chance_of_equal_passes([site], t, is_balanced) for t in (passes, passes + 1))
    assert 0 <= more <= now * (1 + 1e-9) <= 1 + 1e-6
    assert chance_of_equal_passes([site], 1, is_balanced) == pytest.approx(1)


@pytest.mark.parametrize('quiet', [
    card_of(PATH, passes=1), card_of(PATH, passes=228), card_of(CHANNELS), card_of(PATH, CHANNELS),
    card_of(CHANNELS, is_balanced=True), ENSEMBLE,
])
def test_nothing_is_said_where_the_passes_differ_or_are_not_drawn(
    quiet: ModelCard, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_rare_dropout(quiet)
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(('loud', 'words'), [
    (card_of(PATH, passes=227), 'all 227 passes come out the same with a chance of 1%, so'),
    (card_of(PATH, passes=227), '--passes 228 makes'),
    (card_of(PATH), 'chance of 67%, so rarely is anything dropped (mask values: 1, highest rate: '
     '0.02), and such passes show no uncertainty: --passes 228 makes it less than 1%.'),
    (card_of(DropoutSite('mask_path', (1, 1, 1), 1e-4)),
     'uncertainty: train it with a higher rate, or --inject-dropout.'),
    (card_of(CHANNELS, passes=2, is_balanced=True), 'chance of 17%'),
])
def test_the_warning_gives_the_chance_and_what_helps(
    loud: ModelCard, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_rare_dropout(loud)
    out, err = capsys.readouterr()
    assert not out and err.startswith('WARNING: all ') and err.count('\n') == 1
    assert words in err


def test_the_passes_that_are_asked_for_are_the_least_that_do() -> None:
    assert chance_of_equal_passes([PATH], 228, False) <= 0.01
    assert chance_of_equal_passes([PATH], 227, False) > 0.01
    # Too small for a float.
    assert chance_of_equal_passes([CHANNELS], 5000, False) == 0


def test_a_class_that_a_constant_switches_off_hides_no_difference_of_the_others() -> None:
    theirs = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    ours = theirs.copy()
    ours[0, 1, 2, 3] += 0.1
    plainly = compile_checks.distance(ours, theirs)
    for logits in (ours, theirs):
        logits[:, 0] = -1e4
    assert plainly > 0.01
    assert compile_checks.distance(ours, theirs) > 50 * compile_checks.TOLERANCE
    ours[:, 0] = -2e4
    ours[0, 1, 2, 3] -= 0.1
    assert compile_checks.distance(ours, theirs) < 1e-6
