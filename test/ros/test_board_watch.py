# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A board that does not answer holds nobody up."""

import threading

import pytest

from uncertainty_seg.ros.board_state import BoardState, BoardWatch, TOO_OLD_S

WARM = BoardState(temperature_c=61.0, hottest='cpu')


def test_what_was_read_is_told_at_the_next_look() -> None:
    watch = BoardWatch(lambda: WARM)
    watch.look()
    watch.wait(10)
    assert watch.look() == WARM


def test_a_driver_that_hangs_is_asked_once_and_told_after_a_while() -> None:
    now_s, asked, answer = [100.0], [], threading.Event()

    def read() -> BoardState:
        asked.append(now_s[0])
        if len(asked) > 1:
            answer.wait(10)
        return WARM

    watch = BoardWatch(read, lambda: now_s[0])
    watch.look()
    watch.wait(10)
    for _ in range(4):  # each returns at once, though the second reading never ends
        assert watch.look() == WARM
        now_s[0] += 1.0
    now_s[0] += TOO_OLD_S
    assert watch.look().values == {'board.temperature_c': 'the system does not answer'}
    assert len(asked) == 2
    answer.set()
    watch.wait(10)
    watch.look()
    watch.wait(10)
    assert watch.look() == WARM


def test_what_a_reading_raises_is_passed_on_once_and_the_next_one_is_begun() -> None:
    answers = iter([WARM, ZeroDivisionError('a bug'), WARM])

    def read() -> BoardState:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = BoardWatch(read)
    for _ in range(2):
        watch.look()
        watch.wait(10)
    with pytest.raises(ZeroDivisionError, match='a bug'):
        watch.look()
    watch.wait(10)
    assert watch.look() == WARM


def test_this_machine_can_be_looked_at() -> None:
    watch = BoardWatch()
    watch.look()
    watch.wait(30)
    assert 'board.throttling' in watch.look().values
