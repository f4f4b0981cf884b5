# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The upper bound of a share: published values, the binomial itself, and blocks as units."""

import math

import numpy as np
import pytest

from uncertainty_seg.calibration.stats.conformal import bad_share, upper_bound

pytest.importorskip('scipy', reason='scipy is not installed')


@pytest.mark.parametrize(('num_bad', 'num', 'tries'), [(0, 1, 1), (3, 40, 1), (7, 9, 10)])
def test_at_the_bound_so_few_bad_ones_have_the_chance_left_over(
    num_bad: int, num: int, tries: int
) -> None:
    p = upper_bound(num_bad, num, tries)
    chance = sum(math.comb(num, k) * p**k * (1 - p)**(num - k) for k in range(num_bad + 1))
    assert chance == pytest.approx(0.05 / tries)


def test_nothing_accepted_or_all_bad_bounds_nothing() -> None:
    assert upper_bound(0, 0) == 1
    assert upper_bound(5, 5) == 1


def test_frames_and_blocks_as_units() -> None:
    accepted = np.array([1, 1, 1, 1, 0, 0, 1, 1], bool)
    bad = np.array([0, 1, 1, 0, 1, 0, 0, 0], bool)
    blocks = np.array(['a', 'a', 'a', 'b', 'b', 'c', 'd', 'd'])
    frames = bad_share(accepted, bad)
    assert (frames.num_accepted, frames.num_bad, frames.unit) == (6, 2, 'frame')
    assert frames.share == pytest.approx(1 / 3)
    assert frames.upper == upper_bound(2, 6)
    # Block b's bad frame is not accepted; c has no accepted frame at all.
    of_blocks = bad_share(accepted, bad, blocks)
    assert (of_blocks.num_accepted, of_blocks.num_bad, of_blocks.unit) == (3, 1, 'block')
    assert of_blocks.upper == upper_bound(1, 3)
    assert bad_share(accepted, bad, blocks, 2).upper == upper_bound(1, 3, num_tries=2)


def test_nothing_accepted_has_no_share() -> None:
    nothing = bad_share([False, False], [True, False])
    assert math.isnan(nothing.share)
    assert (nothing.num_accepted, nothing.upper) == (0, 1.0)
