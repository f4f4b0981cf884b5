# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Sums that no image can have are a fault of the backend, and never a confident frame."""

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

from cases import for_each
from conftest import make_tiny_bundle, tiny_card
from fake_backend import FakeBackend
import numpy as np
import pytest

from uncertainty_seg.core.frame_loop import FrameLoop
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.plausibility import CheckedBackend, implausible
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.core.uncertainty import PassSums, sums_of_logits
from uncertainty_seg.errors import BackendError
from uncertainty_seg.storage.model_bundle import load_bundle

PASSES = 6
CARD = tiny_card()
SHAPE = CARD.logits_shape
NAMES = ('p', 'entropy_nats', 'p_squared', 'votes', 'logits')
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
Change = Callable[[PassSums], PassSums]


def float32(sums: PassSums) -> PassSums:
    return dataclasses.replace(
        sums, **{name: getattr(sums, name).astype(np.float32) for name in NAMES})


def sound(seed: int = 0, alpha: float = 1.0, passes: int = PASSES) -> PassSums:
    draw = np.random.default_rng(seed).dirichlet([alpha] * SHAPE[0], (passes, *SHAPE[1:]))
    return float32(sums_of_logits(np.log(np.maximum(draw.transpose(0, 3, 1, 2), 1e-30))))


def problem(sums: PassSums, image: Any = IMAGE) -> str:
    return implausible(sums, image, SHAPE)


@for_each('alpha', [1e-3, 0.1, 1.0, 100.0])
@for_each('passes', [1, 2, 20, 300])
def test_sums_by_the_definitions_are_plausible_at_any_spread(alpha: float, passes: int) -> None:
    for seed in range(5):
        assert problem(sound(seed, alpha, passes)) == ''


def test_certain_and_wholly_divided_passes_are_plausible() -> None:
    z = np.full((3, *SHAPE), -80.0)
    z[:, 0, :, :8] = z[:, 1, :, 8:] = 80.0
    assert ' 1 ' in problem(float32(sums_of_logits(z)))
    for t in range(3):
        z[t, :, 3, 3] = np.where(np.arange(3) == t, 80.0, -80.0)
    sums = float32(sums_of_logits(z))
    assert sums.votes[:, 3, 3].tolist() == [1, 1, 1]
    assert problem(sums) == ''


@for_each('name', NAMES)
@for_each('value', [np.nan, np.inf, -np.inf])
@for_each('place', [(0, 0), (11, 15), (5, 7)])
def test_one_number_that_is_none_in_any_sum_is_found(
    name: str, value: float, place: tuple[int, int]
) -> None:
    values = getattr(sound(), name).copy()
    values[(..., *place)] = value
    assert name in problem(dataclasses.replace(sound(), **{name: values}))


@for_each('name', [name for name in NAMES if name != 'logits'])
@for_each('share', [-5.0, -0.01, 1.2, 2.0, 1e30])
@for_each('place', [(0, 0), (11, 15), (5, 7)])
def test_one_number_beyond_its_range_in_any_sum_is_found(
    name: str, share: float, place: tuple[int, int]
) -> None:
    values = getattr(sound(), name).copy()
    values[(..., *place)] = share * PASSES
    assert problem(dataclasses.replace(sound(), **{name: values}))


def everywhere(name: str, share: float) -> Change:
    return lambda sums: dataclasses.replace(
        sums, **{name: np.full_like(getattr(sums, name), share * sums.passes)})


def zeros(sums: PassSums) -> PassSums:
    return dataclasses.replace(
        sums, **{name: np.zeros_like(getattr(sums, name)) for name in NAMES})


def scaled(name: str, factor: float) -> Change:
    return lambda sums: dataclasses.replace(
        sums, **{name: getattr(sums, name) * np.float32(factor)})


def doubled(sums: PassSums) -> PassSums:
    return dataclasses.replace(sums, **{
        name: np.repeat(np.repeat(getattr(sums, name), 2, -2), 2, -1) for name in NAMES})


def in_float64(sums: PassSums) -> PassSums:
    return dataclasses.replace(sums, entropy_nats=sums.entropy_nats.astype(np.float64))


def of_other_passes(sums: PassSums) -> PassSums:
    return dataclasses.replace(sums, passes=sums.passes + 1)


def swapped(name: str) -> Change:
    """Replace one sum by that of other, more certain passes."""
    return lambda sums: dataclasses.replace(
        sums, **{name: getattr(sound(9, {'entropy_nats': 100.0}.get(name, 0.01)), name)})


# Kind of invalid sums -> the change, and words that the error must contain.
WRONG: dict[str, tuple[Change, str]] = {
    'zeros': (zeros, 'sum to 0'),
    'negative entropy': (everywhere('entropy_nats', -5), 'entropy_nats -5'),
    'one confidence': (everywhere('p', 1 / 3), 'confidence of 0.3333'),
    'probabilities of half the passes': (scaled('p', 0.5), 'sum to 0.5'),
    'squares of half the passes': (scaled('p_squared', 0.1), 'squares'),
    'size': (doubled, '(3, 24, 32)'), 'type': (in_float64, 'float64'),
    'no votes': (everywhere('votes', 0), 'votes'),
    'votes of half the passes': (scaled('votes', 0.3), 'votes'),
    'one pass too many': (of_other_passes, 'sum to 0.857'),
    'entropies of other passes': (swapped('entropy_nats'), 'entropy'),
    'means of other passes': (swapped('p'), 'entropy'),
}


@for_each('name', list(WRONG))
def test_what_cannot_be_is_named(name: str) -> None:
    change, words = WRONG[name]
    assert problem(sound()) == ''
    assert words in problem(change(sound()))


def test_a_uniform_image_may_have_uniform_sums() -> None:
    uniform = np.full((48, 64, 3), 128, np.uint8)
    sums = float32(sums_of_logits(np.tile(np.log([0.7, 0.2, 0.1])[None, :, None, None],
                                          (4, 1, *SHAPE[1:]))))
    assert problem(sums, uniform) == ''
    uniform[47, 63, 2] = 129
    assert '0.7' in problem(sums, uniform)


class Played:
    """A backend that returns given sums in order."""

    name = 'played'
    timings_ms: dict[str, float] = {}

    def __init__(self, *sums: PassSums) -> None:
        self._sums = iter(sums)
        self.is_closed = False

    def run(self, *_: Any) -> PassSums:
        return next(self._sums)

    def close(self) -> None:
        self.is_closed = True


def test_the_result_of_the_image_before_is_refused_even_from_the_same_buffer() -> None:
    sums = sound()
    inner = Played(sums, sums, sums, sound(1))
    backend = CheckedBackend(inner, CARD)
    assert (backend.name, backend.timings_ms) == ('played', {})
    assert backend.run(IMAGE, {}, 1.0).p is sums.p
    assert backend.run(IMAGE, {}, 1.0).p is sums.p  # equal images may have equal sums
    with pytest.raises(BackendError, match='earlier'):
        backend.run(IMAGE[::-1], {}, 1.0)
    backend.run(IMAGE, {}, 1.0)
    backend.close()
    assert inner.is_closed


def test_neither_a_broken_result_nor_others_between_make_the_one_before_forgotten() -> None:
    broken = everywhere('entropy_nats', np.nan)(sound())
    played = Played(sound(), sound(1), broken, sound(), *map(sound, range(2, 11)), sound())
    backend = CheckedBackend(played, CARD)
    backend.run(IMAGE, {}, 1.0)
    backend.run(IMAGE[::-1], {}, 1.0)
    for _ in range(2):  # the broken result, then that of the first image
        with pytest.raises(BackendError, match='nan|earlier'):
            backend.run(IMAGE[:, ::-1], {}, 1.0)
    for shift in range(1, 10):
        backend.run(np.roll(IMAGE, shift, 1), {}, 1.0)
    backend.run(IMAGE[:, ::-1], {}, 1.0)  # older than the memory


def test_a_buffer_that_is_written_anew_is_a_new_result() -> None:
    buffer = sound()
    backend = CheckedBackend(Played(buffer, buffer), CARD)
    backend.run(IMAGE, {}, 1.0)
    buffer.p[:] = sound(1).p
    buffer.entropy_nats[:], buffer.p_squared[:] = sound(1).entropy_nats, sound(1).p_squared
    assert backend.run(IMAGE[::-1], {}, 1.0).p is buffer.p


def test_the_results_of_a_ring_of_eight_buffers_are_recognised_and_no_more() -> None:
    results = [sound(seed) for seed in range(9)]
    images = [np.roll(IMAGE, seed, 0) for seed in range(20)]
    ring = CheckedBackend(Played(*results[:8], results[0]), CARD)
    for number in range(8):
        ring.run(images[number], {}, 1.0)
    with pytest.raises(BackendError, match='earlier'):
        ring.run(images[8], {}, 1.0)
    longer = CheckedBackend(Played(*results, results[0]), CARD)
    for number in range(10):
        longer.run(images[number], {}, 1.0)


@for_each('name, share, is_plausible', [
    ('p_squared', 1.0009, True), ('p_squared', 1.0011, False),
    ('votes', -0.0009, True), ('votes', -0.0011, False)])
def test_half_precision_may_leave_a_range_by_a_thousandth(
    name: str, share: float, is_plausible: bool
) -> None:
    sums = sound(alpha=0.01)
    values = getattr(sums, name).copy()
    values[(..., 2, 3)] = share * PASSES if name == 'p_squared' else values[(..., 2, 3)]
    if name == 'votes':
        values[values[:, 2, 3].argmin(), 2, 3] = share * PASSES
    assert (problem(dataclasses.replace(sums, **{name: values})) == '') == is_plausible


# --- in the loop ---------------------------------------------------------------------------------


class Broken(FakeBackend):
    """A backend that changes its sums from the third run on."""

    change: Change

    def run(self, *args: Any) -> PassSums:
        sums = super().run(*args)
        return sums if self._num_runs < 3 else self.change(sums)


def blue(seed: int) -> Any:
    image = np.random.default_rng(seed).integers(0, 3, (96, 128, 3)).astype(np.uint8)
    image[..., 0] = 255 - image[..., 0]
    return image


@for_each('name', [name for name in WRONG if 'other passes' not in name])
def test_no_such_result_is_ever_confident_in_the_loop(tmp_path: Path, name: str) -> None:
    bundle = load_bundle(str(make_tiny_bundle(tmp_path / 'tiny')))
    backend = Broken(bundle.card)
    backend.change = WRONG[name][0]
    pipeline = Pipeline(bundle, backend, settings_from_dict({'gate.rise_frames': 1}))
    loop = FrameLoop(pipeline)
    outcomes = [loop.take(lambda seed=seed: blue(seed), seed) for seed in range(8)]
    assert [one.verdict.is_confident for one in outcomes] == [True] * 2 + [False] * 6
