# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The guard reports frames that are late, early, out of order, repeated or frozen, no others."""

import dataclasses
from pathlib import Path

from cases import for_each
from conftest import make_tiny_bundle
from fake_backend import FakeBackend
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.core.frame_guard import FrameGuard, MEMORY_FRAMES, ROW_STEP, STEADY_FRAMES
from uncertainty_seg.core.frame_loop import FrameLoop
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings, settings_from_dict
from uncertainty_seg.errors import ImageError
from uncertainty_seg.storage.model_bundle import load_bundle

SECOND = 10**9
NOW = 1_700_000_000 * SECOND
LIMITS = Settings(max_age_s=1.0, max_skew_s=0.5, max_repeats=2)


def guard(**changes: float) -> FrameGuard:
    return FrameGuard(dataclasses.replace(LIMITS, **changes))


def stamped(age_s: float) -> int:
    return NOW - round(age_s * SECOND)


@for_each('age_s, words', [
    (0.0, ''), (1.0, ''), (-0.5, ''), (1.001, 'max_age_s'), (3600.0, '3600.0 s'),
    (-0.501, 'max_skew_s'), (-86400.0, '86400.0 s'),
])
def test_the_age_of_a_stamp_by_the_clock_has_two_ends(age_s: float, words: str) -> None:
    found = guard().stamp_fault(stamped(age_s), NOW)
    assert words in found
    assert bool(found) == bool(words)
    # With the age check off, nothing is compared with a clock.
    assert guard(max_age_s=0.0).stamp_fault(stamped(age_s), NOW) == ''


@for_each('stamp_ns', [0, -1, -NOW])
@for_each('max_age_s', [1.0, 0.0])
def test_a_stamp_that_is_no_time_is_refused_with_the_parameter_to_set(
    stamp_ns: int, max_age_s: float
) -> None:
    found = guard(max_age_s=max_age_s).stamp_fault(stamp_ns, NOW)
    assert f'{stamp_ns / 1e9:g}' in found and 'receipt' in found


def faults(steps: list[float], **changes: float) -> list[str]:
    """Return the fault of each stamp, given in seconds; the clock equals the stamp."""
    one = guard(**changes)
    return [one.stamp_fault(NOW + round(s * SECOND), NOW + round(s * SECOND)) for s in steps]


def test_a_stamp_that_goes_back_is_a_fault_once_and_the_frames_after_it_are_new() -> None:
    found = faults([10.0, 10.1, 3.0, 3.1, 3.2])
    assert [bool(text) for text in found] == [False, False, True, False, False]
    assert '7.100 s' in found[2]


def test_repeated_stamps_are_found_whatever_lies_between_them() -> None:
    assert [bool(text) for text in faults([1, 1])] == [False, True]
    assert [bool(text) for text in faults([1, 2, 1, 2, 1])] == [False, False, True, True, True]
    ring = [float(n) for n in range(1, MEMORY_FRAMES + 1)]
    found = faults(ring + ring)
    assert not any(found[:MEMORY_FRAMES]) and all(found[MEMORY_FRAMES:])


def test_ages_that_move_are_no_offset_between_clocks() -> None:
    one = guard()
    for n in range(STEADY_FRAMES):  # a queue that drains: each frame is 0.1 s younger
        found = one.stamp_fault(NOW + n * SECOND // 5, NOW + 9 * SECOND + n * SECOND // 10)
    assert found and 'receipt' not in found


def test_a_clock_without_a_time_is_named() -> None:
    assert all('use_sim_time' in guard().stamp_fault(stamp, 0) for stamp in (NOW, SECOND // 10))


def test_by_the_time_of_receipt_the_clock_is_named_and_not_the_driver() -> None:
    by_receipt = dataclasses.replace(LIMITS, stamps='receipt')
    assert 'use_sim_time' in FrameGuard(by_receipt).stamp_fault(0, 0)
    one = FrameGuard(by_receipt)
    assert one.stamp_fault(NOW, NOW) == ''
    assert '/clock' in one.stamp_fault(NOW, NOW)
    assert one.stamp_fault(NOW + 1, NOW + 1) == ''


def noisy(seed: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Return a grey scene with sensor noise."""
    noise = np.random.default_rng(seed).integers(-2, 3, (height, width, 3))
    return np.clip(128 + noise, 0, 255).astype(np.uint8)


def test_the_same_pixels_more_often_than_allowed_are_a_frozen_camera() -> None:
    one = guard()
    assert one.pixel_fault(noisy(5)) == ''
    found = [one.pixel_fault(noisy(0).copy()) for _ in range(5)]
    assert found[:3] == ['', '', '']
    assert 'max_repeats' in found[3] and found[3] == found[4]  # logged once
    assert one.pixel_fault(noisy(1)) == ''  # the image changes again
    strict, off = guard(max_repeats=0), guard(max_repeats=-1)
    assert [bool(strict.pixel_fault(noisy(0))) for _ in range(3)] == [False, True, True]
    assert [off.pixel_fault(noisy(0)) for _ in range(9)] == [''] * 9


def test_no_repeat_is_allowed_of_a_camera_that_never_showed_two_images() -> None:
    one = guard(max_repeats=1000)
    assert [bool(one.pixel_fault(noisy(0))) for _ in range(4)] == [False, True, True, True]
    assert [one.pixel_fault(noisy(1)) for _ in range(9)] == [''] * 9  # after a second image


@for_each('num, is_new', [(0, False), (1, False), (51, False), (52, True), (256, True)])
def test_a_picture_of_which_a_fifth_is_new_is_new_and_one_bit_tells_for_a_part(
    num: int, is_new: bool
) -> None:
    one, scene = guard(max_repeats=0), noisy(0, 256, 256)
    other = scene.copy()
    for part in range(num):
        other[part // 16 * 16 + ROW_STEP, part % 16 * 16 + 9, part % 3] ^= 1
    assert one.pixel_fault(scene) == ''
    assert (one.pixel_fault(other) == '') == is_new


@for_each('size', [(480, 640), (37, 53), (3, 3), (241, 241), (1080, 1920)])
@for_each('shift, axis', [(1, 0), (4, 0), (1, 1), (8, 1)])
def test_a_scene_that_moves_by_a_pixel_is_new_at_any_size(
    size: tuple[int, int], shift: int, axis: int
) -> None:
    one, scene = guard(max_repeats=0), noisy(0, *size)
    other = np.roll(scene, shift, axis)
    assert one.pixel_fault(scene) == ''
    assert (one.pixel_fault(other) == '') == (not np.array_equal(other, scene))


@for_each('axis', [1, 3])
def test_a_picture_whose_parts_were_turned_over_is_new(axis: int) -> None:
    one, scene = guard(max_repeats=0), noisy(0, 256, 256)
    # (part, compared row, its rows, part, word of 8 bytes): no value leaves its part.
    other = np.flip(scene.reshape(16, 4, 4 * 16, 6, 8), axis).reshape(scene.shape)
    assert one.pixel_fault(scene) == '' == one.pixel_fault(other)


def test_an_image_that_is_no_block_of_memory_is_compared_as_its_pixels() -> None:
    one, wide = guard(max_repeats=0), noisy(3, 48, 128)
    assert one.pixel_fault(wide[:, ::2]) == ''
    assert one.pixel_fault(np.ascontiguousarray(wide[:, ::2])) != ''


def drawn(still: NDArray[np.uint8], number: int, kind: str) -> NDArray[np.uint8]:
    """Draw an overlay that changes with `number` on a copy of a still image."""
    image = still.copy()
    if kind == 'counter':
        image[0, 0] = number % 256, number // 256, 0
    elif kind == 'clock':
        image[4:24, -120:] = np.random.default_rng(number).integers(0, 256, (20, 120, 3))
    elif kind == 'curtain':  # descends slowly until it covers the still image
        image[:4 * number] = noisy(7, 480, 640)[:4 * number]
    else:  # telemetry: two lines of numbers, and a compass across the whole image
        image[8:40, 20:200] = number % 251
        image[-20:] = np.random.default_rng(number).integers(0, 256, (20, still.shape[1], 3))
    return image


@for_each('kind', ['counter', 'clock', 'curtain', 'telemetry'])
def test_a_still_image_under_a_counter_or_a_clock_is_frozen(kind: str) -> None:
    one, still = guard(), noisy(0, 480, 640)
    assert one.pixel_fault(noisy(1, 480, 640)) == ''
    found = [bool(one.pixel_fault(drawn(still, number, kind))) for number in range(120)]
    assert found == [False] * 3 + [True] * 117


@for_each('rows, columns', [(0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (0.9, 0.8), (0.0, 0.0)])
def test_what_moves_under_a_fixed_hull_or_letterbox_is_not_frozen(
    rows: float, columns: float
) -> None:
    one, hull = guard(max_repeats=0), noisy(0, 480, 640)
    fixed = np.s_[:round(480 * rows), :round(640 * columns)]
    for seed in range(1, 40):
        image = noisy(seed, 480, 640)
        image[fixed] = hull[fixed]
        assert one.pixel_fault(image) == ''


@for_each('columns, is_frozen', [(0.5, True), (0.85, True), (0.0, False)])
def test_what_moves_where_nothing_counts_does_not_hide_a_still_image(
    columns: float, is_frozen: bool
) -> None:
    ignore = np.zeros((48, 64), np.bool_)
    ignore[:, :round(64 * columns)] = True
    ways = [guard(), guard()]
    for seed in range(20):
        image, other = noisy(0, 480, 640), noisy(seed, 480, 640)
        image[:, :320] = other[:, :320]  # left half moves; mirrored below
        found = ways[0].pixel_fault(image, ignore), ways[1].pixel_fault(image[:, ::-1], ignore)
    assert [bool(text) for text in found] == [is_frozen, False]


def test_a_ring_of_buffers_is_refused_wherever_it_repeats_and_not_forgotten() -> None:
    one, old = guard(), [noisy(n) for n in range(2)]
    for cycle in range(100):  # two of three buffers are stale: A, B, new, A, B, new
        found = [bool(one.pixel_fault(image)) for image in (*old, noisy(100 + cycle))]
        assert found == ([True, True, False] if cycle else [False] * 3)
    one, rare = guard(), noisy(0)
    one.pixel_fault(noisy(999))
    for cycle in range(6):  # remembered only if a repeated image counts as the newest
        assert bool(one.pixel_fault(rare)) == bool(cycle)
        assert bool(one.pixel_fault(rare)) == bool(cycle)  # on its own an allowed repeat
        assert not any(one.pixel_fault(noisy(1000 + 40 * cycle + n)) for n in range(40))


@for_each('times, is_frozen', [(1, False), (2, False), (3, True)])
def test_a_camera_of_half_the_rate_is_not_frozen_and_one_of_a_third_is(
    times: int, is_frozen: bool
) -> None:
    one = guard()
    found = [bool(one.pixel_fault(noisy(n))) for n in range(40) for _ in range(times)]
    assert any(found[times:]) == any(found[30:]) == is_frozen


# --- in the loop ---------------------------------------------------------------------------------

SETTINGS = settings_from_dict({'gate.rise_frames': 2})
BLUE = (255, 0, 0)


def blue(seed: int) -> NDArray[np.uint8]:
    """Return a frame with noise that the gate accepts."""
    image = np.random.default_rng(seed).integers(0, 3, (96, 128, 3)).astype(np.uint8)
    image[..., 0] = 255 - image[..., 0]
    return image


class Loop:
    """Sends frames through the loop at 10 Hz, each 0.05 s old on arrival."""

    def __init__(self, folder: Path, **settings: object) -> None:
        bundle = load_bundle(str(make_tiny_bundle(folder / 'tiny')))
        self.settings = settings_from_dict({
            'gate.rise_frames': 2, **settings})
        self.pipeline = Pipeline(bundle, FakeBackend(bundle.card), self.settings)
        self.loop = FrameLoop(self.pipeline, guard=FrameGuard(self.settings))
        self.num = 0

    def send(self, stamp_ns: int | None = None, image: NDArray[np.uint8] | None = None,
             delay_ns: int = 0) -> bool:
        self.num += 1
        now_ns = NOW + self.num * SECOND // 10
        times = iter([now_ns])
        self.outcome = self.loop.take(
            lambda: blue(self.num) if image is None else image,
            now_ns - SECOND // 20 if stamp_ns is None else stamp_ns,
            clock_ns=lambda: next(times, now_ns + delay_ns))
        assert self.outcome is not None
        return self.outcome.verdict.is_confident


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(tmp_path)


def test_good_frames_pass_and_their_age_is_in_the_result(loop: Loop) -> None:
    assert [loop.send() for _ in range(4)] == [False, True, True, True]
    assert loop.outcome.result.age_s == pytest.approx(0.05)
    assert (loop.outcome.doubt, loop.outcome.problem) == ('', '')


@for_each('stamp_ns', [0, -5, NOW - 3600 * SECOND, NOW + 86400 * SECOND])
def test_a_frame_of_a_bad_stamp_is_measured_and_not_confident(
    tmp_path: Path, stamp_ns: int
) -> None:
    loop = Loop(tmp_path)
    assert [loop.send() for _ in range(3)][-1]
    assert not loop.send(stamp_ns)
    assert loop.outcome.result is not None  # its pictures are still published
    assert loop.outcome.verdict.kind == 'fault'
    assert loop.outcome.doubt in loop.outcome.verdict.reasons and loop.outcome.problem


def test_an_hour_of_delay_never_raises_the_flag(loop: Loop) -> None:
    assert not any(loop.send(NOW + (n - 36000) * SECOND // 10) for n in range(51))
    assert 'receipt' in loop.outcome.doubt


def test_a_frozen_camera_with_new_stamps_never_raises_the_flag_again(loop: Loop) -> None:
    still = blue(0)
    assert not any(loop.send(image=still) for _ in range(55))  # frozen from the start
    assert [loop.send() for _ in range(3)] == [False, True, True]
    flags = [loop.send(image=still) for _ in range(55)]
    assert not any(flags)  # it occurred before
    assert [loop.send() for _ in range(9)] == [False] + [True] * 8
    still = blue(999)
    flags = [loop.send(image=still) for _ in range(55)]
    assert flags == [True, True, True] + [False] * 52
    assert 'frozen' in loop.outcome.doubt


def test_a_frame_that_grows_too_old_while_it_is_in_work_is_not_confident(loop: Loop) -> None:
    assert [loop.send() for _ in range(3)][-1]
    assert not loop.send(delay_ns=SECOND)
    assert 'max_age_s' in loop.outcome.doubt


def test_a_frame_that_takes_too_long_here_is_not_blamed_on_the_clock(loop: Loop) -> None:
    assert not any(loop.send(delay_ns=SECOND) for _ in range(STEADY_FRAMES + 2))
    assert '0.1 s' in loop.outcome.doubt and 'max_age_s' in loop.outcome.doubt


def test_without_a_clock_the_guard_looks_at_nothing(loop: Loop) -> None:
    outcomes = [loop.loop.take(lambda: blue(0), 0) for _ in range(9)]
    assert all(outcome.verdict.is_confident for outcome in outcomes[2:])


def test_a_repeated_stamp_counts_although_the_image_could_not_be_read(loop: Loop) -> None:
    def broken() -> NDArray[np.uint8]:
        raise ImageError('no pixels')

    loop.loop.take(broken, NOW, clock_ns=lambda: NOW)
    outcome = loop.loop.take(lambda: blue(1), NOW, clock_ns=lambda: NOW)
    assert 'occurred before' in outcome.problem


@for_each('offset_s, words', [
    (40.0, 'differ, or every image is delayed by as much; synchronise'),
    (-40.0, 'differ; synchronise'),
])
def test_ten_ages_that_differ_by_a_tenth_of_a_second_are_an_offset(
    offset_s: float, words: str
) -> None:
    one = guard()
    found = [one.stamp_fault(NOW + n * SECOND, NOW + n * SECOND + round(
        (offset_s + 0.1 * (n % 2)) * SECOND)) for n in range(11)]
    assert [words in text for text in found] == [False] * 9 + [True] * 2


def test_a_loop_that_is_longer_than_the_memory_is_new_each_time() -> None:
    one = guard(max_repeats=0)
    assert not any(one.pixel_fault(noisy(n % 65)) for n in range(195))
    found = [one.stamp_fault(s * SECOND, s * SECOND) for n in range(130) for s in [1 + n % 65]]
    assert not any('occurred before' in text for text in found)
