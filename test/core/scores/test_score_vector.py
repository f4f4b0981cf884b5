# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""All scores of a frame: names, values, masks, lazy computation; NaN closes the gate."""

from collections.abc import Collection
import fnmatch

from conftest import tiny_card
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from some_maps import with_maps

from uncertainty_seg.core.gate import Gate
from uncertainty_seg.core.scores.density import KNN_SCORE
from uncertainty_seg.core.scores.vector import (
    score_names,
    SCORED_MAPS,
    SCORES,
    ScoreVector,
)
from uncertainty_seg.core.settings import GateSettings
from uncertainty_seg.core.uncertainty import grid_maps, sums_of_logits, UncertaintyMaps
from uncertainty_seg.errors import ConfigError, ShapeError

ROWS, COLUMNS = 40, 56


FULL = ScoreVector(tiny_card())


def frame(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> UncertaintyMaps:
    """Return maps of random passes over blobs of three classes."""
    rng = np.random.default_rng(seed)
    blobs = np.kron(rng.normal(size=(3, rows // 8, columns // 8)), np.ones((1, 8, 8)))
    logits = 3 * blobs + rng.normal(size=(5, 3, rows, columns))
    return grid_maps(sums_of_logits(logits))


def test_the_names_are_unique_complete_and_in_a_fixed_order() -> None:
    assert len(set(FULL.names)) == len(FULL.names)
    assert set(score_names()) <= set(FULL.names)
    assert {f'entropy.class.{name}' for name in ('blue', 'green', 'red')} <= set(FULL.names)
    assert tuple(FULL.compute(frame())) == FULL.names
    some = ScoreVector(tiny_card(), FULL.names[::-3])
    assert some.names == tuple(name for name in FULL.names if name in FULL.names[::-3])


@pytest.mark.parametrize('seed', range(3))
def test_the_usual_scores_are_the_same_alone(seed: int) -> None:
    maps = frame(seed)
    scores, alone = FULL.compute(maps), ScoreVector(tiny_card(), score_names()).compute(maps)
    assert set(alone) == set(score_names())
    assert {name: scores[name] for name in alone} == pytest.approx(alone, rel=1e-12)


def test_scores_equal_plain_numpy() -> None:
    maps = frame()
    scores = FULL.compute(maps)
    for name in SCORED_MAPS:
        values = getattr(maps, name).astype(np.float64)
        ordered = np.sort(values.ravel())[::-1]
        expected = {
            'mean': values.mean(), 'top': ordered[:round(0.05 * values.size)].mean(),
            'class.green': values[maps.label == 1].mean(),
            'class_mean': np.mean([values[maps.label == c].mean() for c in range(3)]),
        }
        for kind, value in expected.items():
            if f'{name}.{kind}' in FULL.names:
                assert scores[f'{name}.{kind}'] == pytest.approx(value, abs=1e-6), (name, kind)


@hypothesis.given(st.sets(st.sampled_from(FULL.names), min_size=1), st.integers(0, 5),
                  st.booleans())
@hypothesis.settings(max_examples=60, deadline=None)
def test_asked_for_alone_a_score_is_the_same(
        names: set[str], seed: int, with_mask: bool) -> None:
    maps = frame(seed)
    ignore = np.random.default_rng(seed).random((ROWS, COLUMNS)) < 0.1 if with_mask else None
    if ignore is not None:
        ignore[:, :20] = False  # so that whole blocks remain
    some = ScoreVector(tiny_card(), names).compute(maps, ignore)
    everything = FULL.compute(maps, ignore)
    assert some == {name: everything[name] for name in FULL.names if name in names}


@hypothesis.given(st.integers(0, 2**31))
@hypothesis.settings(max_examples=25, deadline=None)
def test_what_lies_under_the_mask_changes_no_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = frame()
    ignore = np.zeros((ROWS, COLUMNS), np.bool_)
    top, left = rng.integers(0, 30, 2)
    ignore[top:top + rng.integers(1, 25), left:left + rng.integers(1, 25)] = True
    other = frame(seed % 1000 + 1)
    mixed = with_maps(maps, **{name: np.where(ignore, getattr(other, name), getattr(maps, name))
                               for name in ('label', 'confidence', *SCORED_MAPS)})
    mixed.entropy[ignore] = np.nan
    assert FULL.compute(mixed, ignore) == pytest.approx(
        FULL.compute(maps, ignore), rel=1e-9, nan_ok=True)


@pytest.mark.parametrize('broken', ['entropy', 'mutual_information'])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_a_frame_with_one_pixel_that_is_no_number_is_never_confident(
        broken: str, value: float) -> None:
    maps = frame()
    values = getattr(maps, broken).copy()
    values[3, 50] = value
    maps = with_maps(maps, **{broken: values})
    scores = FULL.compute(maps)
    assert tuple(scores) == FULL.names
    assert np.isnan(list(scores.values())).all()
    for name in ('entropy.top', 'margin.class_mean'):
        alone = ScoreVector(tiny_card(), [name]).compute(maps)
        verdict = Gate(GateSettings(rise_frames=1), {name: 0.999}).update(alone)
        assert (verdict.is_confident, verdict.kind) == (False, 'fault')
    ignore = np.zeros((ROWS, COLUMNS), np.bool_)
    ignore[3, 50] = True
    assert np.isfinite(list(FULL.compute(maps, ignore).values())).all()
    ignore[:] = True  # ignores every pixel
    assert np.isnan(list(FULL.compute(frame(), ignore).values())).all()


def test_scores_at_a_grid_leave_out_the_cells_whose_centres_the_mask_covers() -> None:
    maps = frame()
    ignore = np.zeros((4 * ROWS, 4 * COLUMNS), np.bool_)
    ignore[:41, :] = True  # ten rows of cells; the centre of the next lies below
    scores = FULL.compute(maps, ignore)
    assert scores['entropy.mean'] == pytest.approx(maps.entropy[10:].mean(), abs=1e-6)
    parted = FULL.compute(maps.cut(slice(10, ROWS), slice(0, COLUMNS)))
    assert scores['mutual_information.top'] == pytest.approx(parted['mutual_information.top'])


def test_classes_of_one_name_are_told_apart_by_their_ids() -> None:
    card = tiny_card(class_names=('rock', 'weed', 'rock'))
    vector = ScoreVector(card, names=[f'entropy.class.{n}' for n in ('rock 0', 'weed', 'rock 2')])
    maps = frame()
    expected = [maps.entropy[maps.label == index].mean() for index in range(3)]
    assert list(vector.compute(maps).values()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('names', [
    ['entropy.men'], ['entropy.mean', 'entropy.class.purple'], [KNN_SCORE], ['density.scores'],
    ['label.mean'],
])
def test_an_unknown_name_is_refused_with_those_there_are(names: Collection[str]) -> None:
    with pytest.raises(ConfigError, match=r'entropy\.mean, .*margin\.class_mean'):
        ScoreVector(tiny_card(), names)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError):
        FULL.compute(frame().cut(slice(0, 0), slice(0, 8)))


def test_every_score_has_one_row_and_every_row_a_reason() -> None:
    rows = [kind.name.replace('<map>', of).replace('<class>', '*')
            for kind in SCORES for of in kind.maps or ('',)]
    names = (*FULL.names, KNN_SCORE)
    for name in names:
        assert sum(fnmatch.fnmatchcase(name, row) for row in rows) == 1, name
    for row in rows:
        assert fnmatch.filter(names, row), row
    assert all(kind.meaning and kind.sees and kind.misses and kind.reason for kind in SCORES)
    assert len(rows) <= 40  # a longer list would not be read
