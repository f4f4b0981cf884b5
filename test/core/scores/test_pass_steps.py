# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Verdicts settled after some of the passes: known answers, and the stated error on new frames."""

from collections.abc import Mapping
import dataclasses
import json

import numpy as np
import pytest

from uncertainty_seg.core.gate import Gate
from uncertainty_seg.core.scores.pass_steps import (
    default_steps,
    frames_needed,
    PassSteps,
    steps_from_facts,
    steps_to_facts,
)
from uncertainty_seg.core.settings import GateSettings
from uncertainty_seg.errors import CalibrationError

STEPS, PASSES = (5, 10), 20
LIMITS = {'entropy.mean': 0.2, 'mutual_information.mean': 0.05}
RISE = 0.95
FLOORS = {'entropy.mean': 0.19, 'mutual_information.mean': 0.04}


def frames(count: int, seed: int) -> dict[str, np.ndarray]:
    """Draw scores of frames after 5, 10 and 20 passes: MI is biased by 1 - 1/t, both are noisy."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, limit in LIMITS.items():
        true = limit * rng.lognormal(-0.5, 1.0, count)
        bias = [1 - 1 / t if 'mutual' in name else 1 for t in (*STEPS, PASSES)]
        noise = rng.normal(0, 0.3, (count, 3)).cumsum(1)[:, ::-1] / np.sqrt((*STEPS, PASSES))
        found[name] = true[:, None] * np.array(bias) * np.exp(noise)
    return found


def fitted(
    error: float = 0.02, count: int = 1000, floors: dict[str, float] | None = None
) -> PassSteps:
    return PassSteps.fit(frames(count, 0), STEPS, PASSES, LIMITS, RISE, error, floors)


def classified(scores: dict[str, float], floors: Mapping[str, float]) -> str:
    """Judge as the gate does: over a limit, good enough to count, or between."""
    gate = Gate(GateSettings(rise_frames=1, rise_ratio=RISE), LIMITS, floors=floors)
    return gate.update(scores).kind


def outcome(steps: PassSteps, count: int, seed: int) -> tuple[float, float]:
    """Return the share of other verdicts and the mean passes, one frame and step at a time."""
    new, wrong, taken = frames(count, seed), 0, 0
    for frame in range(count):
        last = {name: float(values[frame, -1]) for name, values in new.items()}
        used, scores = PASSES, last
        for step, few in enumerate(STEPS):
            expected = steps.expected({n: float(v[frame, step]) for n, v in new.items()}, step)
            if steps.is_settled(expected, step):
                used, scores = few, expected
                break
        wrong += classified(scores, steps.floors) != classified(last, steps.floors)
        taken += used
    return wrong / count, taken / count


def test_new_frames_get_another_verdict_at_most_as_often_as_stated() -> None:
    errors, passes = zip(*(outcome(fitted(error), 4000, 1) for error in (0.01, 0.03)), strict=True)
    assert errors[0] <= 0.01 * 1.5 and errors[1] <= 0.03 * 1.5  # of 500 frames: 1 and 3 % +- 0.4
    assert passes[1] <= passes[0] < 0.75 * PASSES


def test_without_a_radius_the_error_would_be_larger_than_stated() -> None:
    wrong, taken = outcome(dataclasses.replace(fitted(0.01), radius=0.0), 4000, 1)
    assert wrong > 0.02 and taken < 1.2 * STEPS[0]


@pytest.mark.parametrize('floors', [{}, FLOORS])
def test_the_vectors_say_what_one_frame_after_the_other_does(floors: dict[str, float]) -> None:
    steps = fitted(floors=floors)
    same, taken = steps.simulated(frames(1000, 3))
    assert (1 - same.mean(), taken.mean()) == pytest.approx(outcome(steps, 1000, 3))


def test_the_bias_of_mutual_information_is_taken_out() -> None:
    steps = fitted()
    values = frames(4000, 2)['mutual_information.mean']
    last = np.log(values[:, -1])
    for step, few in enumerate(STEPS):
        corrected = [steps.expected({'mutual_information.mean': v}, step)
                     ['mutual_information.mean'] for v in values[:, step]]
        raw = np.median(np.log(values[:, step]) - last)
        assert raw == pytest.approx(np.log((1 - 1 / few) / (1 - 1 / PASSES)), abs=0.03)
        assert abs(np.median(np.log(corrected) - last)) < abs(raw) / 2


def known() -> PassSteps:
    """Return steps whose ranges are known: value + 0.005 by a factor of 2 up and down."""
    two = float(np.log(2))
    return PassSteps((5,), 20, {'a': 0.1, 'b': 0.1}, RISE, {'a': (0.0,), 'b': (0.0,)},
                     {'a': (two,), 'b': (two,)}, 1.0, 0.01, 100)


@pytest.mark.parametrize(('scores', 'settled'), [
    ({'a': 0.04, 'b': 0.04}, True),    # at most 0.085 of 0.1
    ({'a': 0.04, 'b': 0.046}, False),  # 0.097 is below the limit, above 0.95 of it
    ({'a': 0.04, 'b': 0.21}, True),    # at least 0.1025: stays bad whatever a does
    ({'a': 0.04, 'b': 0.20}, False),
    ({'a': 0.06, 'b': 0.21}, True),
    ({'a': 0.04}, False),
    ({'a': 0.04, 'b': float('nan')}, False),
    ({'a': 0.04, 'b': float('inf')}, False),
])
def test_what_is_settled(scores: dict[str, float], settled: bool) -> None:
    assert known().is_settled(scores, 0) is settled


def test_it_is_for_the_limits_that_it_was_measured_for() -> None:
    limits = {'a': 0.1, 'b': 0.1}
    assert known().is_for(limits, RISE, {})
    assert not known().is_for(limits, 0.9, {})
    assert not known().is_for({**limits, 'b': 0.11}, RISE, {})
    assert not known().is_for({'a': 0.1}, RISE, {})
    assert not known().is_for({**limits, 'c': 0.1}, RISE, {})


def test_a_score_that_is_no_number_stays_none_and_one_of_zero_stays_above_nothing() -> None:
    steps = fitted()
    assert np.isnan(steps.expected({'entropy.mean': float('nan')}, 0)['entropy.mean'])
    assert steps.expected({'entropy.mean': 0.0, 'other': 0.3}, 0) \
        == {'entropy.mean': pytest.approx(0, abs=0.01), 'other': 0.3}
    assert steps.expected({'entropy.mean': 0.0}, 0)['entropy.mean'] >= 0


@pytest.mark.parametrize(('error', 'radius'), [(0.05, 1e6), (0.099, 1e6), (0.1, 0.0)])
def test_one_wrong_verdict_of_nineteen_counts_as_two_of_twenty(error: float, radius: float
                                                               ) -> None:
    values = np.full((38, 2), 0.05)
    values[1, 1] = 0.2  # good after the step, over its limit in the end; in the half that chooses
    assert PassSteps.fit({'a': values}, (5,), 20, {'a': 0.1}, RISE, error).radius == radius


@pytest.mark.parametrize(('error', 'count'), [(0.01, 198), (0.05, 38), (0.5, 2)])
def test_an_error_needs_frames(error: float, count: int) -> None:
    assert frames_needed(error) == count
    fitted(error, count)
    with pytest.raises(CalibrationError, match=f'at least {count}'):
        fitted(error, count - 2)


def test_scores_that_are_not_finite_are_refused() -> None:
    table = frames(400, 0)
    table['entropy.mean'][3, 1] = np.nan
    with pytest.raises(CalibrationError, match='not finite'):
        PassSteps.fit(table, STEPS, PASSES, LIMITS, RISE, 0.05)


@pytest.mark.parametrize('change', [
    {'steps': ()}, {'steps': (10, 5)}, {'steps': (5, 20)}, {'steps': (0, 5)}, {'radius': -0.1},
    {'radius': float('nan')}, {'error': 0.0}, {'centres': {}}, {'steps': (5,)}, {'limits': {}},
    {'limits': {'entropy.mean': 0.0}}, {'rise_ratio': 0.0}, {'floors': {'a': float('nan')}},
])
def test_numbers_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(CalibrationError, match='calibrate-passes'):
        dataclasses.replace(fitted(), **change)


@pytest.mark.parametrize('floors', [{}, FLOORS])
def test_json_keeps_every_bit(floors: dict[str, float]) -> None:
    steps = fitted(floors=floors)
    facts = steps_to_facts(steps)
    assert ('floors' in facts) == bool(floors)  # else it is as before there were any
    assert steps_from_facts(json.loads(json.dumps(facts))) == steps


def test_floors_settle_frames_that_no_share_of_the_limit_would() -> None:
    near = {name: 0.97 * limit for name, limit in LIMITS.items()}
    for floors, settles in (({}, False), (FLOORS, True)):
        assert dataclasses.replace(fitted(floors=floors), radius=0.0).is_settled(
            near, 0) == settles


def test_steps_are_for_the_limits_the_ratio_and_the_floors_they_were_measured_for() -> None:
    steps = fitted(floors=FLOORS | {'energy.mean': 0.4})
    assert steps.floors == FLOORS
    assert steps.is_for(LIMITS, RISE, FLOORS | {'energy.mean': 0.3})
    assert not steps.is_for(LIMITS, RISE, {})
    assert not steps.is_for(LIMITS, 0.9, FLOORS)
    assert not fitted().is_for(LIMITS, RISE, FLOORS)


@pytest.mark.parametrize(('passes', 'steps'), [(20, (5, 10)), (4, (1, 2)), (2, (1,)), (1, ()),
                                               (104, (26, 52))])
def test_steps_by_default(passes: int, steps: tuple[int, ...]) -> None:
    assert default_steps(passes) == steps
