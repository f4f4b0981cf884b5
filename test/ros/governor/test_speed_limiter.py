# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What becomes of velocity commands, with a clock that the test turns."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from uncertainty_seg.ros.governor.policy import CommandLimiter

TIMEOUT_S = 0.5
COMMAND = (2.0, -1.0, 0.5, 0.0, 0.0, -0.25)
ZERO = (0.0,) * 6


def test_every_velocity_is_scaled() -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    assert limiter.take(10.0, COMMAND, 0.5) == (1.0, -0.5, 0.25, 0.0, 0.0, -0.125)
    assert limiter.take(10.1, COMMAND, 0.0) == ZERO


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=6, max_size=6),
       st.floats(0, 1))
def test_a_command_is_never_made_faster_or_turned_round(
    command: list[float], factor: float
) -> None:
    limited = CommandLimiter(TIMEOUT_S).take(0.0, command, factor)
    assert all(abs(b) <= abs(a) and a * b >= 0 for a, b in zip(command, limited, strict=True))


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('axis', range(6))
def test_what_is_not_finite_is_zero_in_every_axis_and_counted(bad: float, axis: int) -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    limiter.take(10.0, COMMAND, 1.0)
    command = (*COMMAND[:axis], bad, *COMMAND[axis + 1:])
    assert limiter.take(10.1, command, 1.0) == ZERO
    assert limiter.num_refused == 1
    # Nor does the sound one before it come back.
    assert limiter.tick(10.2, 0.5) == ZERO
    assert limiter.take(10.3, COMMAND, 1.0) == COMMAND
    assert limiter.num_refused == 1


def test_zero_once_when_commands_stop_and_then_nothing_until_the_next() -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    assert limiter.tick(9.0, 1.0) is None
    limiter.take(10.0, COMMAND, 1.0)
    assert limiter.tick(10.25, 1.0) is None
    assert limiter.tick(10.5, 1.0) == ZERO
    assert [limiter.tick(10.5 + n, 0.1) for n in range(5)] == [None] * 5
    assert limiter.take(20.0, COMMAND, 1.0) == COMMAND
    assert limiter.tick(21.0, 1.0) == ZERO


def test_a_command_in_force_is_slowed_down_when_the_factor_falls_but_never_sped_up() -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    limiter.take(10.0, COMMAND, 0.5)
    assert limiter.tick(10.1, 1.0) is None
    assert limiter.tick(10.2, 0.5) is None
    assert limiter.tick(10.3, 0.25) == tuple(v / 4 for v in COMMAND)
    assert limiter.tick(10.4, 0.25) is None
    assert limiter.tick(10.45, 0.5) is None


def test_a_clock_that_goes_back_ends_the_command() -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    limiter.take(10.0, COMMAND, 1.0)
    assert limiter.tick(9.9, 1.0) == ZERO


def test_stopping_gives_zero_only_where_a_command_was_in_force() -> None:
    limiter = CommandLimiter(TIMEOUT_S)
    assert limiter.stop() is None
    limiter.take(10.0, COMMAND, 1.0)
    assert limiter.stop() == ZERO
    assert limiter.stop() is None
