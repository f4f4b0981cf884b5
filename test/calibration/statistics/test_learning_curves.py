# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Numbers of learning curves, by hand."""

import math

import pytest

from uncertainty_seg.calibration.statistics.learning_curves import (
    band_of,
    share_reaching,
    value_at,
)

SHARES, VALUES = [0.1, 0.3, 0.5], [0.4, 0.6, 0.5]


@pytest.mark.parametrize(('target', 'share'), [
    (0.5, 0.2),   # half of the way from 0.4 to 0.6
    (0.6, 0.3),   # a point itself
    (0.3, 0.1),   # there already
    (0.55, 0.25),  # the first time, though it falls below again
])
def test_the_share_that_reaches_a_target_is_on_the_line(target: float, share: float) -> None:
    assert share_reaching(SHARES, VALUES, target) == pytest.approx(share)


def test_a_target_that_is_never_reached_has_no_share() -> None:
    assert math.isnan(share_reaching(SHARES, VALUES, 0.61))
    assert math.isnan(share_reaching(SHARES, VALUES, math.nan))


def test_a_value_between_points_is_on_the_line_and_outside_there_is_none() -> None:
    assert value_at(SHARES, VALUES, 0.4) == pytest.approx(0.55)
    assert value_at(SHARES, VALUES, 0.1) == 0.4
    assert math.isnan(value_at(SHARES, VALUES, 0.6))
    assert math.isnan(value_at([], [], 0.1))


def test_the_interval_over_three_seeds_is_that_of_the_t_table() -> None:
    band = band_of([1.0, 3.0, 2.0])
    # 4.3027 of two degrees of freedom, times 1 / sqrt 3.
    assert (band.mean, band.least, band.most, band.count) == (2.0, 1.0, 3.0, 3)
    assert band.high - band.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert band.mean - band.low == pytest.approx(band.high - band.mean)


def test_a_seed_without_the_figure_is_left_out_and_one_seed_has_no_interval() -> None:
    assert band_of([0.5, math.nan]).count == 1
    assert math.isnan(band_of([0.5]).high)
    assert math.isnan(band_of([]).mean)
