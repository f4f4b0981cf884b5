# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The fake backend of the tests keeps the promises that the tests of pipeline and node rest on."""

from conftest import tiny_card
from fake_backend import FakeBackend
import numpy as np
import pytest

from uncertainty_seg.core.dropout_masks import make_masks, ones_masks
from uncertainty_seg.errors import BackendError, ShapeError

CARD = tiny_card()
ONES = ones_masks(CARD.dropout_sites, 3)
GREY = np.full((48, 64, 3), 128, np.uint8)


def test_the_class_of_the_strongest_colour_wins_with_the_documented_confidence() -> None:
    maps = FakeBackend(CARD).run(np.full((48, 64, 3), (0, 255, 51), np.uint8), ONES, 1.0)
    z = np.exp([0, 8, 1.6])
    assert (maps.label == 1).all()
    assert maps.confidence == pytest.approx(z[1] / z.sum())
    assert not maps.mutual_information.any()


def test_different_masks_disagree_and_the_same_masks_repeat() -> None:
    backend = FakeBackend(CARD)
    masks = make_masks(CARD.dropout_sites, 8, 0)
    one, again = backend.run(GREY, masks, 1.0), backend.run(GREY, masks, 1.0)
    other = backend.run(GREY, make_masks(CARD.dropout_sites, 8, 1), 1.0)
    assert one.mutual_information.min() > 0.01
    assert (one.entropy == again.entropy).all()
    assert (one.entropy != other.entropy).any()


def test_faults_come_on_the_run_they_were_asked_for() -> None:
    backend = FakeBackend(CARD, fail_on_run=2, nan_on_run=3)
    assert np.isfinite(backend.run(GREY, ONES, 1.0).entropy).all()
    with pytest.raises(BackendError, match='failed on run 2'):
        backend.run(GREY, ONES, 1.0)
    broken = backend.run(GREY, ONES, 1.0)
    assert np.isnan(broken.entropy[0, 0])
    assert np.isnan(broken.variation_ratio[0, 0])
    assert np.isfinite(broken.entropy[20, 20])
    assert np.isfinite(backend.run(GREY, ONES, 1.0).entropy).all()


def test_what_does_not_fit_the_card_is_refused_as_by_a_real_backend() -> None:
    backend = FakeBackend(CARD)
    with pytest.raises(ShapeError, match='image'):
        backend.run(GREY[1:], ONES, 1.0)
    with pytest.raises(ShapeError, match='drop'):
        backend.run(GREY, {}, 1.0)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match='closed'):
        backend.run(GREY, ONES, 1.0)
