# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What cannot be the maps of an image is a fault of the backend, and never a confident frame."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path
import threading
from typing import Any

from cases import for_each
from conftest import make_tiny_bundle
from fake_backend import FakeBackend
import numpy as np
import pytest

from uncertainty_seg.core.frame_loop import FrameLoop
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.plausibility import _out_of_range, CheckedBackend, implausible
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.core.uncertainty import (
    MapRequest,
    maps_from_logits,
    maps_from_probabilities,
    MORE_MAPS,
    UncertaintyMaps,
    USUAL_MAPS,
)
from uncertainty_seg.errors import BackendError
from uncertainty_seg.storage.model_bundle import load_bundle

NUM_CLASSES = 3
FLOATS = ('confidence', *USUAL_MAPS, *MORE_MAPS)
IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)


def sound(seed: int = 0, alpha: float = 1.0) -> UncertaintyMaps:
    draw = np.random.default_rng(seed).dirichlet([alpha] * NUM_CLASSES, (6, 24, 32))
    logits = np.log(np.maximum(draw.transpose(0, 3, 1, 2), 1e-30))
    return maps_from_logits(logits, 24, 32, request=MapRequest.of(MORE_MAPS))


def problem(maps: UncertaintyMaps, image: Any = IMAGE) -> str:
    return implausible(maps, image, NUM_CLASSES)


@for_each('alpha', [1e-3, 0.1, 1.0, 100.0])
def test_maps_by_the_definitions_are_plausible_at_any_spread(alpha: float) -> None:
    for seed in range(20):
        assert problem(sound(seed, alpha)) == ''


def test_the_ends_of_every_range_are_plausible_and_so_is_minus_0() -> None:
    certain = np.zeros((4, NUM_CLASSES, 24, 32))
    certain[:, 0, :, :16] = certain[:, 1, :, 16:] = 1.0
    assert 'confidence of 1' in problem(maps_from_probabilities(certain))
    certain[:, :, 3, 3] = 1 / NUM_CLASSES
    maps = maps_from_probabilities(certain)
    assert (maps.confidence.min(), maps.entropy.max()) == (pytest.approx(1 / 3), pytest.approx(1))
    assert problem(maps) == ''
    minus = dataclasses.replace(maps, entropy=np.where(maps.entropy == 0, -0.0, maps.entropy)
                                .astype(np.float32))
    assert np.signbit(minus.entropy).any() and problem(minus) == ''


@for_each('name', FLOATS)
@for_each('value', [np.nan, np.inf, -np.inf, -5.0, -0.01, 1.01, 2.0, 1e30])
@for_each('place', [(0, 0), (23, 31), (11, 7)])
def test_one_wrong_number_in_any_map_is_found(
    name: str, value: float, place: tuple[int, int]
) -> None:
    maps = sound()
    values = getattr(maps, name).copy()
    values[place] = value
    found = problem(dataclasses.replace(maps, **{name: values}))
    assert name in found and 'expected finite numbers from' in found


def everywhere(name: str, value: float) -> Callable[[UncertaintyMaps], UncertaintyMaps]:
    return lambda maps: dataclasses.replace(
        maps, **{name: np.full_like(getattr(maps, name), value)})


def zeros(maps: UncertaintyMaps) -> UncertaintyMaps:
    return UncertaintyMaps(**{name: np.zeros_like(getattr(maps, name)) for name in maps.present})


def without_more(maps: UncertaintyMaps) -> UncertaintyMaps:
    return dataclasses.replace(maps, **dict.fromkeys(MORE_MAPS))


def without_uncertainty(maps: UncertaintyMaps) -> UncertaintyMaps:
    return dataclasses.replace(zeros(maps), label=maps.label, confidence=maps.confidence)


def doubled(maps: UncertaintyMaps) -> UncertaintyMaps:
    return UncertaintyMaps(**{name: np.repeat(np.repeat(getattr(maps, name), 2, 0), 2, 1)
                              for name in maps.present})


def in_float64(maps: UncertaintyMaps) -> UncertaintyMaps:
    return dataclasses.replace(maps, entropy=maps.entropy.astype(np.float64))


# What came -> what the sentence names; all were taken for a confident frame once.
WRONG: dict[str, tuple[Callable[[UncertaintyMaps], UncertaintyMaps], str]] = {
    'zeros': (zeros, 'confidence from 0 to 0'),
    'negative entropy': (everywhere('entropy', -5), 'entropy -5'),
    'confidence below 1/C': (everywhere('confidence', 0.2), 'confidence from 0.2'),
    'one confidence': (everywhere('confidence', 0.9), 'confidence of 0.9'),
    'label': (everywhere('label', 200), 'label 200'),
    'the first label too many': (everywhere('label', 3), 'label 3'),
    'size': (doubled, '(48, 64)'), 'type': (in_float64, 'float64'),
    'no entropy': (everywhere('entropy', 0), 'entropy of 0'),
    'no mutual information': (everywhere('mutual_information', 0), 'mutual information of 0'),
    'no aleatoric part': (everywhere('aleatoric', 0), 'aleatoric part of 0'),
    'no variance': (everywhere('total_variance', 0), 'no variance'),
    'nothing but confidence': (without_uncertainty, 'entropy of 0'),
    'no margin': (everywhere('margin', 0), 'margin of 0'),
    'nothing unknown': (everywhere('unknown', 0), 'unknown of 0'),
}


@for_each('name', list(WRONG))
def test_what_once_was_taken_for_a_confident_frame_is_named(name: str) -> None:
    change, words = WRONG[name]
    assert problem(sound()) == problem(without_more(sound())) == ''
    assert words in problem(change(sound()))


def test_a_uniform_image_may_have_uniform_maps() -> None:
    uniform = np.full((24, 32, 3), 128, np.uint8)
    maps = everywhere('confidence', 0.9)(without_more(sound()))
    assert problem(maps, uniform) == ''
    uniform[23, 31, 2] = 129
    assert '0.9' in problem(maps, uniform)


class Played:
    """Returns given maps, one after the other."""

    name = 'played'
    timings_ms: dict[str, float] = {}

    def __init__(self, *maps: UncertaintyMaps) -> None:
        self._maps = iter(maps)
        self.is_closed = False

    def run(self, *_: Any) -> UncertaintyMaps:
        return next(self._maps)

    def close(self) -> None:
        self.is_closed = True


def test_the_maps_of_the_image_before_are_refused_even_from_the_same_buffer() -> None:
    maps = sound()
    backend = CheckedBackend(Played(maps, maps, maps, sound(1)), NUM_CLASSES)
    assert backend.run(IMAGE, {}, 1.0) is maps
    assert backend.run(IMAGE, {}, 1.0) is maps  # the same image has the same maps
    with pytest.raises(BackendError, match='before'):
        backend.run(IMAGE[::-1], {}, 1.0)
    backend.run(IMAGE, {}, 1.0)


def test_neither_a_broken_result_nor_others_between_make_the_maps_before_forgotten() -> None:
    broken = dataclasses.replace(sound(), entropy=np.full_like(sound().entropy, np.nan))
    played = Played(sound(), sound(1), broken, sound(), *map(sound, range(2, 11)), sound())
    backend = CheckedBackend(played, NUM_CLASSES)
    backend.run(IMAGE, {}, 1.0)
    backend.run(IMAGE[::-1], {}, 1.0)
    for _ in range(2):  # the broken one, and that of the first image
        with pytest.raises(BackendError, match='entropy nan|before'):
            backend.run(IMAGE[:, ::-1], {}, 1.0)
    for shift in range(1, 10):
        backend.run(np.roll(IMAGE, shift, 1), {}, 1.0)
    backend.run(IMAGE[:, ::-1], {}, 1.0)  # longer ago than is remembered


def test_a_buffer_that_is_written_anew_is_a_new_result() -> None:
    buffer = sound()
    backend = CheckedBackend(Played(buffer, buffer), NUM_CLASSES)
    backend.run(IMAGE, {}, 1.0)
    buffer.confidence[0, 0] = 0.5 if buffer.confidence[0, 0] != 0.5 else 0.6
    assert backend.run(IMAGE[::-1], {}, 1.0) is buffer


def test_work_is_done_beside_the_check_and_impossible_maps_come_first() -> None:
    good, bad = sound(), everywhere('entropy', np.nan)(sound(1))
    backend = CheckedBackend(Played(good, bad, bad, good), NUM_CLASSES)
    assert backend.run_and(lambda maps: maps is good, IMAGE, {}, 1.0) == (good, True)
    with pytest.raises(BackendError, match='entropy nan'):
        backend.run_and(lambda maps: 7, IMAGE, {}, 1.0)
    # What the work makes of such maps is no news.
    with pytest.raises(BackendError, match='entropy nan'):
        backend.run_and(lambda maps: 1 / 0, IMAGE, {}, 1.0)
    with pytest.raises(ZeroDivisionError):
        backend.run_and(lambda maps: 1 / 0, IMAGE, {}, 1.0)


def test_the_thread_of_the_check_ends_with_the_backend() -> None:
    others = set(threading.enumerate())  # any of them may end meanwhile
    inner = Played(sound())
    backend = CheckedBackend(inner, NUM_CLASSES)
    assert (backend.name, backend.timings_ms) == ('played', {})
    backend.run_and(lambda maps: None, IMAGE, {}, 1.0)
    assert len(set(threading.enumerate()) - others) == 1
    backend.close()
    backend.close()
    assert inner.is_closed and not set(threading.enumerate()) - others


# --- in the loop ---------------------------------------------------------------------------------


class Broken(FakeBackend):
    """Breaks its result from the third frame on."""

    change: Callable[[UncertaintyMaps], UncertaintyMaps]

    def run(self, *args: Any) -> UncertaintyMaps:
        maps = super().run(*args)
        return maps if self._num_runs < 3 else self.change(maps)


def blue(seed: int) -> Any:
    image = np.random.default_rng(seed).integers(0, 3, (96, 128, 3)).astype(np.uint8)
    image[..., 0] = 255 - image[..., 0]
    return image


@for_each('name', [name for name in WRONG if name not in ('no margin', 'nothing unknown')])
def test_no_such_result_is_ever_confident_in_the_loop(tmp_path: Path, name: str) -> None:
    bundle = load_bundle(str(make_tiny_bundle(tmp_path / 'tiny')))
    backend = Broken(bundle.card)
    backend.change = WRONG[name][0]
    pipeline = Pipeline(bundle, backend, settings_from_dict(
        {'gate.rise_frames': 1}))
    loop = FrameLoop(pipeline)
    outcomes = [loop.take(lambda seed=seed: blue(seed), seed) for seed in range(8)]
    assert [one.verdict.is_confident for one in outcomes] == [True] * 2 + [False] * 6


@for_each('value, is_plausible', [
    (1.0009, True), (1.0011, False), (-0.0009, True), (-0.0011, False), (0.9999, True)])
@for_each('name', [name for name in FLOATS if name != 'confidence'])
def test_half_precision_may_leave_the_range_by_a_thousandth(
    name: str, value: float, is_plausible: bool
) -> None:
    values = np.full((24, 32), 0.5, np.float32)
    values[2, 3] = value
    assert (_out_of_range(name, values) == '') == is_plausible
    if not is_plausible:  # the number that is wrong is named, whichever end it is at
        assert _out_of_range(name, values).startswith(f'{name} {value:.4g}, expected')


@for_each('value, is_plausible', [(0.3325, True), (0.332, False), (1.0009, True), (1.0011, False)])
def test_the_confidence_may_do_so_at_both_its_ends(value: float, is_plausible: bool) -> None:
    maps = without_more(sound())
    confidence, entropy = maps.confidence.copy(), maps.entropy.copy()
    aleatoric = maps.aleatoric.copy()
    confidence[4, 4] = value
    # The other maps of this pixel as the definitions want them.
    entropy[4, 4] = 1.0 if value < 0.5 else entropy[4, 4]
    aleatoric[4, 4] = entropy[4, 4] - maps.mutual_information[4, 4]
    found = problem(dataclasses.replace(
        maps, confidence=confidence, entropy=entropy, aleatoric=aleatoric))
    assert (found == '') == is_plausible


def test_the_results_of_a_ring_of_eight_buffers_are_recognised_and_no_more() -> None:
    results = [sound(seed) for seed in range(9)]
    images = [np.roll(IMAGE, seed, 0) for seed in range(20)]
    ring = CheckedBackend(Played(*results[:8], results[0]), NUM_CLASSES)
    for number in range(8):
        ring.run(images[number], {}, 1.0)
    with pytest.raises(BackendError, match='before'):
        ring.run(images[8], {}, 1.0)
    longer = CheckedBackend(Played(*results, results[0]), NUM_CLASSES)
    for number in range(10):
        longer.run(images[number], {}, 1.0)
