# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Pass policy auto: fewer passes where they settle the verdict, and no flag without them."""

from collections.abc import Callable
import dataclasses
from pathlib import Path

from conftest import TINY_PASSES
from fake_backend import FakeBackend
import numpy as np
import pytest

from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import (
    calibration_from_json,
    calibration_to_json,
    Promise,
)
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.scores.pass_steps import OFFSET_SHARE, PassSteps
from uncertainty_seg.core.settings import Settings, settings_from_dict
from uncertainty_seg.core.uncertainty import USUAL_MAPS
from uncertainty_seg.errors import BackendError, CalibrationError, ConfigError
from uncertainty_seg.storage.model_bundle import load_bundle

BLUE = np.zeros((96, 128, 3), np.uint8)
BLUE[..., 0] = 255
GREY = np.full((96, 128, 3), 120, np.uint8)
AUTO = {'gate.rise_ratio': 1.0, 'pass_policy': 'auto'}
STEPS = (2, TINY_PASSES // 2)


def with_steps(folder: Path, spread: float, centre: float = 0.0) -> ModelBundle:
    """Return the tiny bundle with ranges of exp(+-spread) around its score, after each step."""
    bundle = load_bundle(str(folder))
    assert bundle.calibration is not None
    names = bundle.calibration.gate_scores
    limits = {name: bundle.calibration.thresholds[name] for name in names}
    steps = PassSteps(STEPS, TINY_PASSES, limits, 1.0,
                      dict.fromkeys(names, (centre,) * len(STEPS)),
                      dict.fromkeys(names, (spread,) * len(STEPS)), 1.0, 0.01, 100)
    return dataclasses.replace(bundle, calibration=dataclasses.replace(
        bundle.calibration, pass_steps=steps))


def opened(bundle: ModelBundle, clock: object = None, **settings: object) -> Pipeline:
    more = {} if clock is None else {'clock': clock}
    return Pipeline(bundle, FakeBackend(bundle.card), settings_from_dict({**AUTO, **settings}),
                    **more)


class Clock:
    """A clock that moves on by as much at every look."""

    def __init__(self, step_s: float) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def test_a_clear_frame_takes_the_first_step_and_has_the_maps_of_its_passes(
    tiny_bundle: Path
) -> None:
    pipeline = opened(with_steps(tiny_bundle, 1e-6))
    result = pipeline.process(GREY, 1)
    assert result.passes == STEPS[0] and not result.unsettled
    few = {name: rows[:STEPS[0]] for name, rows in pipeline.begin().masks.items()}
    alone = FakeBackend(pipeline.card).run(
        np.full((pipeline.card.input.height, pipeline.card.input.width, 3), 120, np.uint8), few,
        load_bundle(str(tiny_bundle)).calibration.temperature)
    inside = result.geometry
    np.testing.assert_array_equal(
        result.maps.cut(inside.rows, inside.columns).entropy,
        alone.cut(inside.rows, inside.columns).entropy)


def test_a_frame_that_may_go_either_way_takes_all_passes_and_is_what_it_was(
    tiny_bundle: Path
) -> None:
    bundle = with_steps(tiny_bundle, 50.0)
    auto, plain = opened(bundle), opened(bundle, pass_policy='all')
    for stamp, image in enumerate((BLUE, GREY, BLUE)):
        one, other = auto.process(image, stamp), plain.process(image, stamp)
        assert one.passes == other.passes == TINY_PASSES
        assert (one.scores, one.verdict) == (other.scores, other.verdict)


def test_settled_frames_have_the_flag_of_all_passes(tiny_bundle: Path) -> None:
    bundle = with_steps(tiny_bundle, 1e-6)
    auto, plain = opened(bundle), opened(bundle, pass_policy='all')
    images = [BLUE] * 4 + [GREY] * 2 + [BLUE] * 4
    for stamp, image in enumerate(images):
        one, other = auto.process(image, stamp), plain.process(image, stamp)
        assert one.passes == STEPS[0]
        assert one.verdict.is_confident is other.verdict.is_confident
    assert one.verdict.is_confident


def test_a_deadline_before_the_verdict_is_settled_is_not_confident_and_no_fault(
    tiny_bundle: Path
) -> None:
    bundle = with_steps(tiny_bundle, 50.0)
    pipeline = opened(bundle, Clock(0.010), deadline_ms=25.0)
    for stamp in range(5):
        result = pipeline.process(BLUE, stamp)
        assert result.passes == STEPS[0]
        assert result.unsettled.startswith(f'not settled after {STEPS[0]} of {TINY_PASSES}')
        assert (result.verdict.is_confident, result.verdict.kind) == (False, 'recovering')
        assert not result.verdict.is_worth_a_label
    assert not pipeline.verdict.is_confident


def test_a_frame_that_is_settled_at_the_deadline_counts(tiny_bundle: Path) -> None:
    pipeline = opened(with_steps(tiny_bundle, 1e-6), Clock(0.010), deadline_ms=25.0)
    assert [pipeline.process(BLUE, stamp).verdict.is_confident for stamp in range(3)][-1]


def test_an_unsettled_frame_makes_a_true_flag_fall(tiny_bundle: Path) -> None:
    clock = Clock(1e-6)
    pipeline = opened(with_steps(tiny_bundle, 50.0), clock, deadline_ms=1000.0)
    assert [pipeline.process(BLUE, stamp).verdict.is_confident for stamp in range(3)][-1]
    clock.step_s = 1.0
    assert not pipeline.process(BLUE, 3).verdict.is_confident
    clock.step_s = 1e-6
    assert not pipeline.process(BLUE, 4).verdict.is_confident  # the way back takes three


class SlowPasses(FakeBackend):
    """Every pass takes a tenth of a second of the clock."""

    clock: Clock

    def run(self, image: np.ndarray, masks: dict[str, np.ndarray], *rest: object) -> object:
        passes = len(next(iter(masks.values())))
        self.clock.now_s = self.began_s + 0.1 * passes
        return super().run(image, masks, *rest)

    def run_until(self, *given: object) -> object:
        self.began_s = self.clock.now_s
        return super().run_until(*given)


@pytest.mark.parametrize(('deadline_ms', 'passes'), [
    (600.0, [4, 4]),  # after 4 of 8 it is known that 4 more take until 0.8 s
    (350.0, [4, 2]),  # what a pass takes is known from the first frame: 2 more end at 0.4 s
    (900.0, [8, 8]),
])
def test_what_a_pass_took_counts_towards_the_deadline(
    tiny_bundle: Path, deadline_ms: float, passes: list[int]
) -> None:
    bundle = with_steps(tiny_bundle, 50.0)
    backend = SlowPasses(bundle.card)
    backend.clock = Clock(1e-6)
    pipeline = Pipeline(bundle, backend, settings_from_dict({**AUTO, 'deadline_ms': deadline_ms}),
                        clock=backend.clock)
    assert [pipeline.process(BLUE, stamp).passes for stamp in range(2)] == passes


def test_the_scores_of_few_passes_have_their_bias_taken_out_and_the_gate_judges_those(
    tiny_bundle: Path
) -> None:
    plain = opened(with_steps(tiny_bundle, 1e-6)).process(BLUE, 1)
    shifted = opened(with_steps(tiny_bundle, 1e-6, centre=0.1)).process(BLUE, 1)
    assert plain.passes == shifted.passes == STEPS[0]
    limit = 0.7
    name = 'entropy.mean'
    assert shifted.scores[name] == pytest.approx(
        (plain.scores[name] + OFFSET_SHARE * limit) * np.exp(0.1) - OFFSET_SHARE * limit)
    assert shifted.scores['entropy.top'] == plain.scores['entropy.top']  # not a gated score
    assert shifted.verdict.score_ratio == pytest.approx(shifted.scores[name] / limit)


def test_a_deadline_shorter_than_the_first_passes_stops_the_start(tiny_bundle: Path) -> None:
    bundle = with_steps(tiny_bundle, 1e-6)
    pipeline = Pipeline(bundle, FakeBackend(bundle.card, delay_s=0.05),
                        settings_from_dict({**AUTO, 'deadline_ms': 20.0}))
    with pytest.raises(ConfigError, match=r'deadline_ms is 20, expected more than the \d+'):
        pipeline.check_masks()
    opened(bundle, deadline_ms=60_000.0).check_masks()


def test_a_deadline_without_the_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match='deadline_ms is 30 with pass_policy all'):
        Settings(deadline_ms=30.0)


def test_a_bundle_without_steps_a_score_without_and_a_backend_that_cannot_are_refused(
    tiny_bundle: Path
) -> None:
    plain = load_bundle(str(tiny_bundle))
    with pytest.raises(CalibrationError, match='run uncertainty_seg calibrate-passes on it'):
        opened(plain)
    for other in ({'gate.scores': ('entropy.top',)}, {'gate.threshold_scale': 0.9},
                  {'gate.rise_ratio': 0.9}):
        with pytest.raises(ConfigError, match='the limits .*measured for.*calibrate-passes'):
            opened(with_steps(tiny_bundle, 1.0), **other)

    class AllAtOnce(FakeBackend):
        can_stop_early = False

    bundle = with_steps(tiny_bundle, 1.0)
    with pytest.raises(ConfigError, match='fake computes all passes'):
        Pipeline(bundle, AllAtOnce(bundle.card), settings_from_dict(AUTO))


class OwnWay(FakeBackend):
    """Asks after some numbers of passes, and ends with one, whatever the answers are."""

    asks: tuple[int, ...] = ()
    ends = TINY_PASSES

    def run_until(self, image: object, masks: dict, temperature: float, request: object,
                  steps: object, is_enough: Callable[[object, int], bool]) -> object:
        def few(passes: int) -> object:
            return self.run(image, {name: rows[:passes] for name, rows in masks.items()},
                            temperature, request)

        for passes in self.asks:
            is_enough(few(passes), passes)
        return few(self.ends), self.ends


@pytest.mark.parametrize(('spread', 'asks', 'ends', 'problem'), [
    (50.0, STEPS[:1], STEPS[0], 'stopped after 2 of 8 passes, expected all 8'),
    (50.0, STEPS, STEPS[0], 'stopped after 2 of 8 passes, expected all 8'),
    (50.0, (), STEPS[1], 'stopped after 4 of 8 passes, expected all 8'),
    (1e-6, STEPS[:1], STEPS[1], 'stopped after 4 of 8 passes, expected 2, which were enough, or'),
    (1e-6, (), STEPS[0], 'stopped after 2 of 8 passes, expected all 8'),
    (50.0, STEPS, 9, 'stopped after 9 of 8 passes'),
    (50.0, (3,), 8, r'asks after 3 passes, expected each of the steps \[2, 4\] in turn'),
    (50.0, (2, 2), 8, 'asks after 2 passes, expected each of the steps'),
    (50.0, (4, 2), 8, 'asks after 2 passes, expected each of the steps'),
])
def test_a_backend_that_stops_where_it_was_not_told_to_is_a_fault_of_the_frame(
    tiny_bundle: Path, spread: float, asks: tuple[int, ...], ends: int, problem: str
) -> None:
    bundle = with_steps(tiny_bundle, spread)
    backend = OwnWay(bundle.card)
    pipeline = Pipeline(bundle, backend, settings_from_dict(AUTO))
    for stamp in range(3):
        pipeline.process(BLUE, stamp)
    assert pipeline.verdict.is_confident
    backend.asks, backend.ends = asks, ends
    with pytest.raises(BackendError, match=problem):
        pipeline.process(BLUE, 3)


def test_the_maps_that_were_judged_are_those_that_must_be_plausible(tiny_bundle: Path) -> None:
    bundle = with_steps(tiny_bundle, 1e-6)

    class Swapping(FakeBackend):
        def run_until(self, image: object, masks: dict, temperature: float, request: object,
                      steps: object, is_enough: Callable[[object, int], bool]) -> object:
            maps = self.run(image, masks, temperature, request)
            nothing = dataclasses.replace(
                maps, **{name: np.zeros_like(maps.entropy) for name in USUAL_MAPS},
                confidence=np.full_like(maps.confidence, 2))
            is_enough(nothing, STEPS[0])
            return maps, STEPS[0]

    with pytest.raises(BackendError, match='the network returned a confidence from 2 to 2'):
        Pipeline(bundle, Swapping(bundle.card), settings_from_dict(AUTO)).process(BLUE, 0)


def test_a_backend_that_goes_on_to_all_passes_is_judged_by_those(tiny_bundle: Path) -> None:
    for spread, limit_ms in ((1e-6, 0.0), (50.0, 25.0)):  # settled, and late, after the first
        bundle = with_steps(tiny_bundle, spread)
        backend = OwnWay(bundle.card)
        backend.asks = STEPS[:1]
        pipeline = Pipeline(bundle, backend, settings_from_dict(AUTO | {'deadline_ms': limit_ms}),
                            clock=Clock(0.010))
        result = pipeline.process(BLUE, 0)
        plain = opened(bundle, pass_policy='all').process(BLUE, 0)
        assert (result.passes, result.scores, result.unsettled) == (
            TINY_PASSES, plain.scores, '')


def test_another_number_of_passes_at_run_time_runs_all_of_them_and_is_not_confident(
    tiny_bundle: Path
) -> None:
    pipeline = opened(with_steps(tiny_bundle, 1e-6))
    pipeline.reconfigure(dataclasses.replace(pipeline.settings, passes=TINY_PASSES - 1))
    results = [pipeline.process(BLUE, stamp) for stamp in range(4)]
    assert {r.passes for r in results} == {TINY_PASSES - 1}
    assert not any(r.verdict.is_confident for r in results)


def test_other_limits_at_run_time_are_refused_and_nothing_is_changed(tiny_bundle: Path) -> None:
    pipeline = opened(with_steps(tiny_bundle, 1e-6))
    other = dataclasses.replace(pipeline.settings.gate, threshold_scale=0.5)
    with pytest.raises(ConfigError, match='pass_policy is auto'):
        pipeline.reconfigure(dataclasses.replace(pipeline.settings, gate=other))
    assert pipeline.settings.gate.threshold_scale == 1
    assert pipeline.process(GREY, 1).passes == STEPS[0]


def test_the_promise_says_that_the_error_of_stopping_early_comes_on_top(
    tiny_bundle: Path
) -> None:
    bundle = with_steps(tiny_bundle, 1e-6)
    assert bundle.calibration is not None and bundle.calibration.pass_steps is not None
    limits = dict(bundle.calibration.pass_steps.limits)
    promise = Promise(0.05, limits, 'iou<0.5', 100, 100, 0.05, 0.5, 0.04, 0.1)
    bundle = dataclasses.replace(bundle, calibration=dataclasses.replace(
        bundle.calibration, promises=(promise,)))
    auto, plain = opened(bundle), opened(bundle, pass_policy='all')
    assert plain.promise.endswith('in at most 0.05 of the frames')
    assert auto.promise == plain.promise + ', and 0.01 more by pass_policy auto'
    assert auto.process(BLUE, 1).verdict.promise == auto.promise


def test_steps_survive_the_file_and_other_passes_are_refused(tiny_bundle: Path) -> None:
    calibration = with_steps(tiny_bundle, 0.5).calibration
    assert calibration is not None and calibration.pass_steps is not None
    assert calibration_from_json(calibration_to_json(calibration)) == calibration
    with pytest.raises(CalibrationError, match='steps towards'):
        dataclasses.replace(calibration, pass_steps=dataclasses.replace(
            calibration.pass_steps, passes=TINY_PASSES + 1))


@pytest.mark.parametrize('passes', [STEPS[0], TINY_PASSES - 1, TINY_PASSES + 1])
def test_another_t_than_that_of_the_calibration_does_not_start(
    tiny_bundle: Path, passes: int
) -> None:
    with pytest.raises(CalibrationError, match=(
            f"passes is {passes}, but 'tiny' was calibrated with {TINY_PASSES}: set passes to")):
        opened(with_steps(tiny_bundle, 1e-6), passes=passes)
    with pytest.raises(CalibrationError, match=f'calibrated with {TINY_PASSES}'):
        opened(with_steps(tiny_bundle, 1e-6), passes=passes, pass_policy='all')
