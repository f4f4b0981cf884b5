# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The graph that sums the passes agrees with the definitions, for every method and grid."""

from pathlib import Path

import masked_bundles
from masked_bundles import SPEC
import numpy as np
from onnx import helper, numpy_helper
import pytest

from uncertainty_seg.compiler.head_graphs import add_sums
from uncertainty_seg.compiler.onnx_tools import build_model, float_info
from uncertainty_seg.compiler.plan import CompileOptions
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.uncertainty import PassSums, sums_of_logits
from uncertainty_seg.storage.model_bundle import load_bundle, write_bundle
from written import session, Written

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
OF_GRAPH = {'p': 'sum_p', 'entropy_nats': 'sum_entropy', 'p_squared': 'sum_p2', 'votes': 'votes',
            'logits': 'sum_logits'}
OFFSETS = [(0.0, 0.0), (0.2, 0.0), (0.21, 0.13)]
CLASSES, ROWS, COLUMNS = 5, 6, 8


def assert_sums(found: dict[str, np.ndarray], right: PassSums) -> None:
    """Compare sums to 1e-5 of the largest value, and votes exactly."""
    for name, of_graph in OF_GRAPH.items():
        wanted = getattr(right, name)
        near = 0 if name == 'votes' else 1e-5 * np.abs(wanted).max()
        np.testing.assert_allclose(found[of_graph], wanted, rtol=0, atol=near, err_msg=name)


def summed(
    logits: np.ndarray, temperature: float = 1.0, offset: tuple[float, float] = (0.0, 0.0),
    may_tie: bool = True,
) -> dict[str, np.ndarray]:
    """Return the graph's sums of logits (T, C, h, w); a head that ends in a sum has no ties."""
    shape = ('T', *logits.shape[1:])
    last = helper.make_node(*(('Neg', ['x']) if may_tie else ('Sub', ['zero', 'x'])), ['logits'])
    head = build_model('head', [last], [float_info('x', shape)], [float_info('logits', shape)],
                       [numpy_helper.from_array(np.zeros((), np.float32), 'zero')])
    graph = session(add_sums(head, offset))
    names = [info.name for info in graph.get_outputs()]
    scale = np.array([1 / temperature], np.float32)
    return dict(zip(names, graph.run(names, {
        'x': -logits.astype(np.float32), 'inv_temperature': scale}), strict=True))


def drawn(passes: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(
        0, 4, (passes, CLASSES, ROWS, COLUMNS)).astype(np.float32)


@pytest.mark.parametrize('offset', OFFSETS)
@pytest.mark.parametrize('temperature', [1.0, 0.7, 3.0])
@pytest.mark.parametrize('passes', [1, 20])
def test_sums_are_those_of_the_definition(
    passes: int, temperature: float, offset: tuple[float, float]
) -> None:
    logits = drawn(passes)
    right = sums_of_logits(logits, temperature, offset)
    for may_tie in (True, False):
        assert_sums(summed(logits, temperature, offset, may_tie), right)


@pytest.mark.parametrize('offset', OFFSETS)
def test_chunks_add_up(offset: tuple[float, float]) -> None:
    logits = drawn(9)
    parts = [summed(logits[part], 1.3, offset) for part in (slice(4), slice(4, 5), slice(5, 9))]
    added = {name: sum(part[name].astype(np.float64) for part in parts) for name in parts[0]}
    assert_sums(added, sums_of_logits(logits, 1.3, offset))


def test_logits_that_would_overflow_are_summed_right() -> None:
    logits = drawn() * 3000
    found = summed(logits)
    assert_sums(found, sums_of_logits(logits))
    assert found['sum_p'].sum(0) == pytest.approx(7)


def test_the_first_of_equal_classes_gets_the_vote() -> None:
    logits = np.zeros((3, CLASSES, ROWS, COLUMNS), np.float32)
    logits[0, 1:3] = 2  # two tied classes in a pass
    logits[1, 4] = -1  # four tied classes in a pass
    logits[2, 0] = 1
    found = summed(logits)
    assert_sums(found, sums_of_logits(logits))
    np.testing.assert_array_equal(found['votes'][:, 0, 0], [2, 1, 0, 0, 0])


CONV, PRODUCT = (helper.make_node(op, ['x', op], [op.lower()]) for op in ('Conv', 'MatMul'))
WITHOUT_BIAS = {
    'conv': [CONV], 'matmul': [PRODUCT], 'sum': [CONV, PRODUCT, helper.make_node(
        'Add', ['conv', 'matmul'], ['sum'])]}


@pytest.mark.parametrize('name', WITHOUT_BIAS)
def test_layers_without_a_bias_tie_where_all_their_inputs_are_dropped(name: str) -> None:
    x = np.zeros((3, CLASSES, ROWS, COLUMNS), np.float32)
    end = helper.make_node('Identity', [name], ['logits'])
    ends = [float_info(end, ('T', *x.shape[1:])) for end in ('x', 'logits')]
    head = build_model('head', [*WITHOUT_BIAS[name], end], ends[:1], ends[1:], [
        numpy_helper.from_array(np.ones((CLASSES, CLASSES, 1, 1), np.float32), 'Conv'),
        numpy_helper.from_array(np.ones((COLUMNS, COLUMNS), np.float32), 'MatMul')])
    votes, = session(add_sums(head)).run(['votes'], {'x': x, 'inv_temperature': np.ones(1, 'f')})
    assert (votes[0] == 3).all() and not votes[1:].any()


@pytest.mark.parametrize('offset', OFFSETS)
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_what_is_no_number_in_one_pass_is_none_in_its_cells_alone(
    value: float, offset: tuple[float, float]
) -> None:
    logits = drawn()
    right = sums_of_logits(logits, 1.0, offset)
    logits[2, 1, 3, 4] = value
    # Cells that depend on the value; their neighbours may have it with weight 0.
    touched, reached = np.zeros((2, ROWS, COLUMNS), bool)
    touched[2 if offset[0] else 3:4, 3 if offset[1] else 4:5] = True
    reached[2 if any(offset) else 3:4, 3 if any(offset) else 4:5] = True
    found = summed(logits, 1.0, offset)
    for name, of_graph in OF_GRAPH.items():
        if name == 'votes':
            continue  # the pass has one vote or none; its NaN entropy marks it
        sums = np.broadcast_to(found[of_graph], (CLASSES, ROWS, COLUMNS))
        wanted = np.broadcast_to(getattr(right, name), sums.shape)
        is_none = ~np.isfinite(sums)
        # Logits are summed at their own centres.
        assert is_none[1][touched if name != 'logits' else (3, 4)].all(), name
        assert not is_none[:, ~reached].any(), name
        np.testing.assert_allclose(sums[:, ~reached], wanted[:, ~reached], rtol=1e-4, atol=1e-4)
    assert np.isnan(found['sum_entropy'][touched]).all()
    assert (found['votes'].sum(0) <= len(logits)).all()


# --- the files of every method -------------------------------------------------------------------


def bundle_of(method: str, folder: Path) -> Path:
    if method == 'error_propagation':
        return moments_bundle(folder)
    return {
        'channels': lambda: masked_bundles.channels_bundle(folder),
        'elements': lambda: masked_bundles.elements_bundle(folder),
        'ensemble': lambda: masked_bundles.ensemble_bundle(folder),
        'single': lambda: masked_bundles.method_bundle(folder, 'single'),
        'direct': lambda: masked_bundles.method_bundle(folder, 'direct'),
        'direct with dropout': lambda: masked_bundles.method_bundle(folder, 'direct', 0.4),
    }[method]()


def moments_bundle(folder: Path) -> Path:
    from uncertainty_seg.compiler.compile import compile_moments

    made = compile_moments(masked_bundles.plain_member(0, rate=0.4), SPEC, CompileOptions(
        'error_propagation', full_weights=True))
    write_bundle(folder, masked_bundles.card_of(made, 'error_propagation'), made.files)
    return folder


METHODS = ('channels', 'elements', 'ensemble', 'single', 'direct', 'direct with dropout',
           'error_propagation')


@pytest.mark.parametrize('method', METHODS)
def test_the_files_of_a_method_sum_their_own_logits(method: str, tmp_path: Path) -> None:
    bundle = load_bundle(str(bundle_of(method, tmp_path / 'bundle')))
    inputs = pass_inputs(bundle.card, bundle.card.passes, 3)
    written = Written.of(bundle)
    logits = written.logits(IMAGE, inputs)
    passes = bundle.card.passes
    assert logits.shape[0] in (passes, 1) and (logits.shape[0] == 1) == (passes == 1)
    found = written.sums(IMAGE, inputs, 0.8)
    assert_sums(found, sums_of_logits(logits, 0.8))
    assert found['sum_p'].sum(0) == pytest.approx(passes, rel=1e-5)
    if passes > 1:
        assert logits.std(0).max() > 1e-2  # otherwise equality would prove little
        halves = [written.sums(IMAGE, {name: rows[part] for name, rows in inputs.items()}, 0.8)
                  for part in (slice(1), slice(1, None))]
        added = {name: halves[0][name] + halves[1][name] for name in found}
        assert_sums(added, sums_of_logits(logits, 0.8))
