# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The checks of `compile` pass what float32 explains and nothing else."""

from dataclasses import replace

from conftest import tiny_card
from graph_samples import net, SPEC
import numpy as np
from onnx import numpy_helper
import pytest

from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.compile import compile_graph, CompiledGraphs
from uncertainty_seg.graph.onnx_tools import copy_of
from uncertainty_seg.tools.compile import checks as compile_checks
from uncertainty_seg.tools.compile.checks import check_compiled


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
        self._run = compile_checks._NetworkRunner(compiled, card, None, None)._each
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
    with pytest.raises(GraphError, match='with the same masks the result differs .*report this'):
        check_compiled(compiled, card, Network(compiled, card, 1e-2))


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
