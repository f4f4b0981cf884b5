# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Every pass is counted once, however T passes are split among calls."""

import itertools

import numpy as np
import pytest

from uncertainty_seg.backends.gpu.device_passes import Part, split_passes


def counts(parts: tuple[Part, ...], passes: int) -> np.ndarray:
    """How often each pass is in the sums."""
    total = np.zeros(passes)
    for part in parts:
        rows = [min(part.first + i, part.stop - 1) for i in range(part.size)]
        for row in rows:
            total[row] += part.share
    return total


@pytest.mark.parametrize('fixed', [0, 1, 3, 20])
def test_every_pass_is_counted_once(fixed: int) -> None:
    for passes, limit in itertools.product((1, 2, 7, 20, 37, 50), (1, 2, 7, 20)):
        parts = split_passes(passes, limit, fixed)
        np.testing.assert_allclose(counts(parts, passes), 1, err_msg=f'{passes} by {limit}')
        assert sum(part.counted for part in parts) == passes
        assert all(part.size == fixed if fixed else part.size <= limit for part in parts)


def test_calls_are_of_one_size_where_that_costs_few() -> None:
    assert [part.size for part in split_passes(50, 17)] == [10] * 5
    assert [part.size for part in split_passes(20, 20)] == [20]
    assert [part.size for part in split_passes(37, 20)] == [19, 18]
