# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""All scores of a frame: names, values, masks, lazy computation; NaN closes the gate."""

from collections.abc import Collection
import fnmatch

from conftest import tiny_card
import hypothesis
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import pytest
from some_maps import with_maps

from uncertainty_seg.core.gate import Gate
from uncertainty_seg.core.scores.density import DENSITY_SCORE, KNN_SCORE, ScoreDensity
from uncertainty_seg.core.scores.image import image_scores
from uncertainty_seg.core.scores.vector import (
    boundary_mask,
    frame_scores,
    score_names,
    SCORED_MAPS,
    SCORES,
    ScoreVector,
)
from uncertainty_seg.core.settings import GateSettings
from uncertainty_seg.core.uncertainty import grid_maps, sums_of_logits, UncertaintyMaps
from uncertainty_seg.errors import ConfigError, ShapeError

ROWS, COLUMNS = 40, 56


def some_density(*names: str) -> ScoreDensity:
    """Return a standard normal distribution over scores."""
    size = len(names)
    return ScoreDensity(names, np.zeros(size), np.ones(size), np.ones(1), np.zeros((1, size)),
                        np.eye(size)[None])


DENSITY = some_density('entropy.mean', 'image.blur')
FULL = ScoreVector(tiny_card(), DENSITY)


def frame(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) \
        -> tuple[UncertaintyMaps, NDArray[np.uint8]]:
    """Return maps of random passes over blobs of three classes, and an image."""
    rng = np.random.default_rng(seed)
    blobs = np.kron(rng.normal(size=(3, rows // 8, columns // 8)), np.ones((1, 8, 8)))
    logits = 3 * blobs + rng.normal(size=(5, 3, rows, columns))
    return grid_maps(sums_of_logits(logits)), rng.integers(0, 256, (rows, columns, 3), np.uint8)


def test_the_names_are_unique_complete_and_in_a_fixed_order() -> None:
    assert len(set(FULL.names)) == len(FULL.names)
    assert set(score_names()) <= set(FULL.names)
    assert {f'entropy.class.{name}' for name in ('blue', 'green', 'red')} <= set(FULL.names)
    assert FULL.names[-1] == DENSITY_SCORE
    maps, image = frame()
    assert tuple(FULL.compute(maps, image)) == FULL.names
    missing = set(FULL.names) - set(ScoreVector(tiny_card()).names)
    assert missing == {DENSITY_SCORE}
    some = ScoreVector(tiny_card(), DENSITY, FULL.names[::-3])
    assert some.names == tuple(name for name in FULL.names if name in FULL.names[::-3])


@pytest.mark.parametrize('seed', range(3))
def test_the_six_usual_scores_are_the_same_alone(seed: int) -> None:
    maps, image = frame(seed)
    scores, alone = FULL.compute(maps, image), frame_scores(maps)
    assert tuple(alone) == score_names()
    assert {name: scores[name] for name in alone} == pytest.approx(alone, rel=1e-12)


def test_scores_equal_plain_numpy() -> None:
    maps, image = frame()
    scores = FULL.compute(maps, image)
    for name in SCORED_MAPS:
        values = getattr(maps, name).astype(np.float64)
        ordered, front = np.sort(values.ravel())[::-1], maps.label > 0
        expected = {
            'mean': values.mean(), 'top': ordered[:round(0.05 * values.size)].mean(),
            'foreground_top': ordered[:int(front.sum())].mean(),
            'class.green': values[maps.label == 1].mean(),
            'class_mean': np.mean([values[maps.label == c].mean() for c in range(3)]),
            'interior': values[~boundary_mask(maps.label, 1)].mean(),  # 2 image pixels
        }
        for kind, value in expected.items():
            if f'{name}.{kind}' in FULL.names:
                assert scores[f'{name}.{kind}'] == pytest.approx(value, abs=1e-6), (name, kind)
    of_image = image_scores(image, 'bgr')
    assert {k: scores[f'image.{k}'] for k in of_image} == of_image
    assert scores[DENSITY_SCORE] == DENSITY.score(scores)


@hypothesis.given(st.sets(st.sampled_from(FULL.names), min_size=1), st.integers(0, 5),
                  st.booleans())
@hypothesis.settings(max_examples=60, deadline=None)
def test_asked_for_alone_a_score_is_the_same(
        names: set[str], seed: int, with_mask: bool) -> None:
    maps, image = frame(seed)
    ignore = np.random.default_rng(seed).random((ROWS, COLUMNS)) < 0.1 if with_mask else None
    if ignore is not None:
        ignore[:, :20] = False  # so that whole blocks remain
    some = ScoreVector(tiny_card(), DENSITY, names).compute(maps, image, ignore)
    everything = FULL.compute(maps, image, ignore)
    assert some == {name: everything[name] for name in FULL.names if name in names}


@hypothesis.given(st.integers(0, 2**31))
@hypothesis.settings(max_examples=25, deadline=None)
def test_what_lies_under_the_mask_changes_no_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps, image = frame()
    ignore = np.zeros((ROWS, COLUMNS), np.bool_)
    top, left = rng.integers(0, 30, 2)
    ignore[top:top + rng.integers(1, 25), left:left + rng.integers(1, 25)] = True
    other, other_image = frame(seed % 1000 + 1)
    mixed = with_maps(maps, **{name: np.where(ignore, getattr(other, name), getattr(maps, name))
                               for name in ('label', 'confidence', *SCORED_MAPS)})
    mixed.entropy[ignore] = np.nan
    mixed_image = np.where(ignore[..., None], other_image, image)
    assert FULL.compute(mixed, mixed_image, ignore) == pytest.approx(
        FULL.compute(maps, image, ignore), rel=1e-9, nan_ok=True)


@pytest.mark.parametrize('broken', ['entropy', 'mutual_information'])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_a_frame_with_one_pixel_that_is_no_number_is_never_confident(
        broken: str, value: float) -> None:
    maps, image = frame()
    values = getattr(maps, broken).copy()
    values[3, 50] = value
    maps = with_maps(maps, **{broken: values})
    scores = FULL.compute(maps, image)
    assert tuple(scores) == FULL.names
    assert np.isnan(list(scores.values())).all()
    for name in ('image.darkness', 'entropy.worst_window', DENSITY_SCORE):
        alone = ScoreVector(tiny_card(), DENSITY, [name]).compute(maps, image)
        verdict = Gate(GateSettings(rise_frames=1), {name: 0.999}).update(alone)
        assert (verdict.is_confident, verdict.kind) == (False, 'fault')
    ignore = np.zeros((ROWS, COLUMNS), np.bool_)
    ignore[3, 50] = True
    assert np.isfinite(list(FULL.compute(maps, image, ignore).values())).all()
    ignore[:] = True  # ignores every pixel
    assert np.isnan(list(FULL.compute(*frame(), ignore).values())).all()


def test_scores_at_a_grid_leave_out_the_cells_whose_centres_the_mask_covers() -> None:
    maps, _ = frame()
    image = np.random.default_rng(1).integers(0, 256, (4 * ROWS, 4 * COLUMNS, 3), np.uint8)
    ignore = np.zeros(image.shape[:2], np.bool_)
    ignore[:41, :] = True  # ten rows of cells; the centre of the next lies below
    scores = FULL.compute(maps, image, ignore)
    assert scores['entropy.mean'] == pytest.approx(maps.entropy[10:].mean(), abs=1e-6)
    assert scores['image.darkness'] == image_scores(image, 'bgr', ignore)['darkness']
    parted = FULL.compute(maps.cut(slice(10, ROWS), slice(0, COLUMNS)), image[40:])
    assert scores['mutual_information.top'] == pytest.approx(parted['mutual_information.top'])


def test_classes_of_one_name_are_told_apart_by_their_ids() -> None:
    card = tiny_card(class_names=('rock', 'weed', 'rock'))
    vector = ScoreVector(card, names=[f'entropy.class.{n}' for n in ('rock 0', 'weed', 'rock 2')])
    maps, image = frame()
    expected = [maps.entropy[maps.label == index].mean() for index in range(3)]
    assert list(vector.compute(maps, image).values()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('names', [
    ['entropy.men'], ['entropy.mean', 'entropy.class.purple'], [DENSITY_SCORE],
    ['label.mean'],
])
def test_an_unknown_name_is_refused_with_those_there_are_also_in_a_density(
    names: Collection[str]
) -> None:
    with pytest.raises(ConfigError, match=r'entropy\.mean, .*image\.blue_cast'):
        ScoreVector(tiny_card(), names=names)
    with pytest.raises(ConfigError):
        ScoreVector(tiny_card(), some_density(names[-1]))


def test_shapes_that_do_not_fit_are_refused() -> None:
    maps, image = frame()
    with pytest.raises(ShapeError):
        FULL.compute(maps, image[..., 0])
    with pytest.raises(ShapeError):
        FULL.compute(maps, image, np.zeros((ROWS, COLUMNS + 1), np.bool_))
    with pytest.raises(ShapeError):
        FULL.compute(maps.cut(slice(0, 0), slice(0, 8)), image[:0, :8])


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
