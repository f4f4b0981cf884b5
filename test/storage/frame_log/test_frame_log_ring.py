# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Which frames are chosen, in drawn dives: '#' is flagged, '.' is not; 10 frames per second."""

import dataclasses

from frame_log_helpers import ABOUT, image_of, log_frame, settings
import hypothesis
from hypothesis import strategies as st
import pytest

from uncertainty_seg.core.settings import MEGABYTE
from uncertainty_seg.storage.frame_log.log import Candidate, FrameRing

LETTERS = {'flagged': 'F', 'window': 'w', 'control': 'c', 'trigger': 't'}
FRAME_BYTES = image_of(0).nbytes


def chosen(dive: str, ring: FrameRing, rate_hz: float = 10.0) -> str:
    """Run a dive through a ring; return it with the chosen frames as letters of their reason."""
    letters = list(dive)
    taken: list[Candidate] = []
    for number, letter in enumerate(dive):
        frame = log_frame(number, 2.0 if letter == '#' else 0.5, rate_hz=rate_hz,
                          scores={'number': number})
        taken += ring.take(frame, ABOUT, 0.0)
    for item in taken:
        letters[int(item.frame.scores['number'])] = LETTERS[item.reason]
    assert len({id(item) for item in taken}) == len(taken)
    return ''.join(letters)


@pytest.mark.parametrize(('changes', 'dive', 'expected'), [
    ({}, '...##..#', '...FF..F'),
    ({'before_s': 0.3}, '.....##...', '..wwwFF...'),
    ({'after_s': 0.2}, '..##.....', '..FFww...'),
    ({'before_s': 0.3, 'after_s': 0.2}, '..#........#', 'wwFww...wwwF'),
    ({'min_interval_s': 0.3}, '.########.', '.F##F##F#.'),
    # A window shorter than the interval has one frame: its first, far enough from the last kept.
    ({'min_interval_s': 0.5, 'before_s': 0.3, 'after_s': 0.3}, '.....##########.......',
     '..w..F####F####w......'),
    ({'min_interval_s': 0.2, 'before_s': 0.4, 'after_s': 0.4}, '......#........',
     '..w.w.F.w.w....'),
    # The flag flickers: a frame kept for one event is not kept again for the next.
    ({'before_s': 0.4}, '....#..#', 'wwwwFwwF'),
    ({'min_interval_s': 0.4, 'before_s': 0.4}, '#...#', 'F...F'),
    ({'min_interval_s': 0.5}, '#.....#', 'F.....F'),
    # Flagged from the start: no frames before.
    ({'before_s': 1.0}, '##', 'FF'),
])
def test_drawn_dives(changes: dict[str, object], dive: str, expected: str) -> None:
    assert chosen(dive, FrameRing(settings(**changes))) == expected


@hypothesis.given(st.text('#.', min_size=1, max_size=60), st.sampled_from([0.0, 0.2, 0.5]),
                  st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.4]))
def test_every_dive_keeps_its_promises(
        dive: str, interval_s: float, before_s: float, after_s: float) -> None:
    ring = FrameRing(settings(min_interval_s=interval_s, before_s=before_s, after_s=after_s))
    kept = chosen(dive, ring)
    flagged = [k for k, letter in enumerate(kept) if letter == 'F']
    assert all(dive[k] == '#' for k in flagged)
    assert all((b - a) * 0.1 >= interval_s - 1e-6
               for a, b in zip(flagged, flagged[1:], strict=False))
    for k, letter in enumerate(dive):
        if letter == '#':  # each flagged frame, or one shortly before it, is kept
            assert any(k - interval_s * 10 - 1e-6 <= f <= k for f in flagged)
    for k, letter in enumerate(kept):
        if letter == 'w':  # window frames are near a flagged frame
            near = dive[max(0, k - round(after_s * 10)):k + round(before_s * 10) + 1]
            assert dive[k] == '.' and '#' in near


def test_memory_shortens_the_window() -> None:
    ring = FrameRing(settings(before_s=1.0, memory_mb=1.0))
    ring.settings = dataclasses.replace(ring.settings, memory_mb=2 * 3.5 * FRAME_BYTES / MEGABYTE)
    assert chosen('.......#', ring) == '....wwwF'
    assert ring.num_pushed_out == 4
    # With an interval longer than the shortened window, one frame is still kept.
    ring = FrameRing(dataclasses.replace(ring.settings, min_interval_s=0.8))
    assert chosen('.......#', ring) == '....w..F'
    assert ring.num_bytes <= 3.5 * FRAME_BYTES


def test_cameras_do_not_mix() -> None:
    ring = FrameRing(settings(before_s=0.5, min_interval_s=1.0))
    for number in range(6):
        ring.take(log_frame(number, 0.5, camera='left'), ABOUT, 0.0)
    items = ring.take(log_frame(6, 2.0, camera='right'), ABOUT, 0.0)
    assert [(i.frame.camera, i.reason) for i in items] == [('right', 'flagged')]
    items = ring.take(log_frame(6, 2.0, camera='left'), ABOUT, 0.0)
    assert {i.frame.camera for i in items} == {'left'} and items[-1].reason == 'flagged'


def test_the_control_is_a_random_share_whatever_the_flag() -> None:
    ring = FrameRing(settings(control_share=0.2, min_interval_s=1000.0))
    dive = '.#' * 1500
    kept = chosen(dive, ring)
    # Expected: 600 of 3000, with a deviation of 22; half of them flagged.
    assert 520 < kept.count('c') < 680
    assert 250 < sum(a + b == '#c' for a, b in zip(dive, kept, strict=True)) < 350
    # Repeating the dive gives the same choice.
    again = FrameRing(settings(control_share=0.2, min_interval_s=1000.0))
    assert chosen(dive, again) == kept


def test_the_control_does_not_stand_in_for_an_event() -> None:
    share = settings(control_share=0.5, min_interval_s=1000.0, after_s=0.1)
    kept = chosen('..####..', FrameRing(share))
    assert 'c' in kept and kept.count('F') == 1
    items = [item for number in range(4, 8)
             for item in FrameRing(share).take(log_frame(number), ABOUT, 0.0)]
    assert all(item.is_onset for item in items if item.reason == 'flagged')


def test_the_first_flagged_frame_of_an_event_is_its_onset() -> None:
    ring = FrameRing(settings(after_s=0.2))
    onsets = [number for number, letter in enumerate('##..##.......#')
              for item in ring.take(log_frame(number, 2.0 if letter == '#' else 0.5), ABOUT, 0.0)
              if item.is_onset]
    # A flagged frame after a window's length without one starts another event.
    assert onsets == [0, 4, 13]


def test_a_stamp_that_goes_back_starts_again() -> None:
    ring = FrameRing(settings(min_interval_s=10.0, before_s=5.0))
    assert chosen('...#', ring) == 'w..F'
    ring.take(log_frame(90, 0.5), ABOUT, 0.0)
    items = ring.take(log_frame(1, 2.0), ABOUT, 0.0)
    assert [item.reason for item in items] == ['flagged']
    assert len(ring) == 0 and ring.num_bytes == 0


def test_frames_without_a_stamp_are_timed_as_they_come() -> None:
    ring = FrameRing(settings(min_interval_s=1.0))
    lengths = [len(ring.take(log_frame(0, stamp_ns=0), ABOUT, now_s))
               for now_s in (5.0, 5.5, 6.0, 6.5, 7.1)]
    assert lengths == [1, 0, 1, 0, 1]


def test_the_newest_frame_of_each_camera_is_taken_out() -> None:
    ring = FrameRing(settings(before_s=1.0))
    assert ring.newest() == []
    for number in range(5):
        ring.take(log_frame(number, 0.5, camera='a'), ABOUT, 0.0)
        ring.take(log_frame(number, 0.5, camera='b'), ABOUT, 0.0)
    found = ring.newest()
    assert [(i.frame.camera, i.frame.stamp_ns % 10**9 // 10**8) for i in found] == [
        ('a', 4), ('b', 4)]
    assert len(ring) == 8
