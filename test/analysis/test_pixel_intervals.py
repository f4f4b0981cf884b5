# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Intervals of figures of pixels: images are drawn, and each figure is of all drawn pixels."""


from calibration_helpers import picture
import numpy as np
import pytest

from uncertainty_seg.analysis.bootstrap import pixel_intervals
from uncertainty_seg.analysis.evaluation import evaluate, Evaluation
from uncertainty_seg.backends.fake import FakeBackend
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ShapeError
from uncertainty_seg.storage.model_bundle import load_bundle

NAMES = np.array([f'f{i}' for i in range(12)])


@pytest.fixture(scope='module')
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    from conftest import make_tiny_bundle

    bundle = load_bundle(str(make_tiny_bundle(tmp_path_factory.mktemp('b') / 'tiny')))
    return Pipeline(bundle, FakeBackend(bundle.card), Settings())


@pytest.fixture(scope='module')
def found(pipeline: Pipeline) -> Evaluation:
    rng = np.random.default_rng(0)
    return evaluate(pipeline, [picture(rng, grey) for grey in np.linspace(0, 0.9, 12)], 255)


def test_what_the_images_add_is_the_whole(found: Evaluation) -> None:
    assert found.totals.shape == (12, 9 + 45)
    np.testing.assert_allclose(found.totals.sum(0), found.pixels.totals())
    intervals = pixel_intervals(found.totals, NAMES, 3)
    assert intervals['mean_iou'].value == pytest.approx(found.mean_iou)
    assert intervals['accuracy'].value == pytest.approx(found.accuracy)
    assert intervals['ece'].value == pytest.approx(found.ece)
    assert all(0 <= i.lower < i.value < i.upper <= 1 and i.num_blocks == 12
               for i in intervals.values())


def test_a_draw_is_as_if_these_images_had_been_measured(pipeline: Pipeline) -> None:
    """Of two images, a draw has twice the one, twice the other, or both."""
    rng = np.random.default_rng(1)
    pairs = [picture(rng, 0.0), picture(rng, 0.9)]
    both = evaluate(pipeline, pairs, 255)
    alone = [evaluate(pipeline, [pair], 255) for pair in pairs]
    intervals = pixel_intervals(both.totals, ['a', 'b'], 3)
    for name in ('mean_iou', 'accuracy', 'ece'):
        ends = sorted(getattr(one, name) for one in alone)
        assert [intervals[name].lower, intervals[name].upper] == pytest.approx(ends)


def test_images_of_one_block_are_drawn_together(found: Evaluation) -> None:
    intervals = pixel_intervals(found.totals, ['dive'] * 12, 3)
    assert all(i.lower == i.upper == i.value and i.num_blocks == 1 for i in intervals.values())
    with pytest.raises(ShapeError):
        pixel_intervals(found.totals, NAMES[:3], 3)
