# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""`compile` accepts only differences that float32 rounding explains."""


from conftest import tiny_card
from graph_samples import net, SPEC
import numpy as np
from onnx import numpy_helper
import pytest

from uncertainty_seg.compiler.checks import pass_checks as compile_checks
from uncertainty_seg.compiler.checks.pass_checks import check_compiled
from uncertainty_seg.compiler.compile import compile_graph, CompiledGraphs
from uncertainty_seg.core.model_card import ModelCard
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
    """The compiled network itself, with one logit changed by a share of the range."""

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
    assert report.spread > 0


def test_another_network_is_refused_by_how_far_it_is(
    compiled: CompiledGraphs, card: ModelCard
) -> None:
    with pytest.raises(GraphError, match='with the same masks the result differs .*at most 1e-05'):
        check_compiled(compiled, card, Network(compiled, card, 1e-2))


class UntouchedNetwork(Network):
    """The same in eval mode; it cannot run in float64."""

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
    # Ours equals float64; torch's float32 has the error.
    assert check_compiled(compiled, card, inexact, exact).masked_error < 1e-6
    # Ours differs from float64 as much as torch does, which float32 explains.
    assert 1e-5 < check_compiled(compiled, card, Network(compiled, card, 4e-4),
                                 inexact).masked_error < 2e-4
    # Torch equals its float64, so that rounding does not explain our error.
    with pytest.raises(GraphError, match='differs from the network by 0.0001'):
        check_compiled(compiled, card, inexact, inexact)
    # A visible error is refused, whatever the rounding.
    with pytest.raises(GraphError, match='at most 0.001'):
        check_compiled(compiled, card, Network(compiled, card, 4e-2),
                       Network(compiled, card, 2e-2))


def test_an_image_that_is_another_in_its_last_bit_shows_what_float32_may_do(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use a difference of two large numbers; an ONNX file cannot be run in float64."""
    rough = net('element')
    weights = next(t for t in rough.graph.initializer if t.name == 'w1')
    values = 3e3 * numpy_helper.to_array(weights)
    weights.CopyFrom(numpy_helper.from_array(np.concatenate([values[:4], values[:4] * (
        1 + 1e-3)]), 'w1'))
    last = next(t for t in rough.graph.initializer if t.name == 'w2')
    half = numpy_helper.to_array(last)[:, :4]
    last.CopyFrom(numpy_helper.from_array(np.concatenate([half, -half], 1), 'w2'))
    compiled = compile_graph(rough, SPEC)
    session = compile_checks.session_of  # disables optimisations, which reorder sums
    monkeypatch.setattr(compile_checks, 'session_of', lambda model, _level=True: session(model))
    assert 1e-5 < check_compiled(compiled, card).still_error < 1e-3
    monkeypatch.setattr(compile_checks, '_NEIGHBOURS', 0)
    with pytest.raises(GraphError, match='with dropout off the result differs'):
        check_compiled(compiled, card)
