# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The gate's limits are the promise's, unless the gate is another than the calibrated one."""

import dataclasses
import logging

import pytest

from uncertainty_seg.core.calibration import Calibration, Promise
from uncertainty_seg.core.gate import Gate, gate_limits, promise_text
from uncertainty_seg.core.settings import GateSettings
from uncertainty_seg.errors import ConfigError

STRICT = Promise(0.05, {'a': 0.1, 'b': 0.2}, 'iou<0.5', 60, 60, 0.04, 0.7, 0.03, 0.1)
LOOSE = Promise(0.1, {'a': 0.3, 'b': 0.4}, 'iou<0.5', 60, 60, 0.09, 0.8, 0.08, 0.2)
THRESHOLDS = {'a': 0.5, 'b': 0.6, 'c': 0.7}
WITH = Calibration(8, 0, 'fixed', 'fp32', 1.0, THRESHOLDS, THRESHOLDS, ('a', 'b'), 0.98, 9, 9,
                   'm', 'd', (LOOSE, STRICT))
WITHOUT = dataclasses.replace(WITH, promises=())


@pytest.mark.parametrize(('alpha', 'promise'), [(0.0, STRICT), (0.05, STRICT), (0.1, LOOSE)])
def test_the_promise_asked_for_gives_the_limits_and_0_is_the_strictest(
    alpha: float, promise: Promise
) -> None:
    assert gate_limits(WITH, GateSettings(alpha=alpha)) == promise.limits
    assert gate_limits(WITH, GateSettings(alpha=alpha, scores=('b', 'a'))) == promise.limits


def test_an_alpha_nobody_calibrated_is_refused_with_those_there_are() -> None:
    words = r'gate.alpha is 0.2, expected 0 or one of \[0.1, 0.05\]: calibrate .* --alpha 0.2'
    with pytest.raises(ConfigError, match=words):
        gate_limits(WITH, GateSettings(alpha=0.2))
    with pytest.raises(ConfigError, match=r'0 or one of \[\]'):
        gate_limits(WITHOUT, GateSettings(alpha=0.05))


def test_other_scores_have_thresholds_and_no_promise(caplog: pytest.LogCaptureFixture) -> None:
    assert gate_limits(WITH, GateSettings(scores=('a',))) == {'a': 0.5}
    assert 'their limits promise nothing' in caplog.text
    caplog.clear()
    assert gate_limits(WITHOUT, GateSettings()) == {'a': 0.5, 'b': 0.6}
    assert gate_limits(WITHOUT, GateSettings(scores=('c',))) == {'c': 0.7}
    assert caplog.record_tuples == []


@pytest.mark.parametrize(('settings', 'words'), [
    (GateSettings(threshold_scale=1.5), 'threshold_scale is 1.5'),
    (GateSettings(fall_frames=2, fall_window=3), 'fall_frames is 2'),
    (GateSettings(threshold_scale=0.5), ''), (GateSettings(), ''),
])
def test_what_voids_the_promise_is_said(
    settings: GateSettings, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate_limits(WITH, settings)
    assert len(caplog.records) == (1 if words else 0) and words in caplog.text
    caplog.clear()
    gate_limits(WITHOUT, settings)
    assert not caplog.records


def test_a_score_without_a_threshold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gate.scores names 'd', expected one of a, b, c"):
        gate_limits(WITH, GateSettings(scores=('a', 'd')))


def test_the_scale_moves_every_limit_and_may_not_lift_one_past_all_scores(
    caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert gate_limits(WITH, GateSettings(threshold_scale=0.5)) == {'a': 0.05, 'b': 0.1}
    with pytest.raises(ConfigError, match='scale 5 makes the limit of b 1, expected below 1'):
        gate_limits(WITH, GateSettings(threshold_scale=5.0))


@pytest.mark.parametrize(('calibration', 'settings', 'says'), [
    (WITH, GateSettings(), 'accepted and bad (iou<0.5) in at most 0.05 of the frames'),
    (WITH, GateSettings(alpha=0.1, threshold_scale=0.5),
     'accepted and bad (iou<0.5) in at most 0.1 of the frames'),
    (WITH, GateSettings(scores=('b', 'a')),
     'accepted and bad (iou<0.5) in at most 0.05 of the frames'),
    (WITH, GateSettings(scores=('a',)), ''), (WITH, GateSettings(threshold_scale=1.1), ''),
    (WITH, GateSettings(fall_frames=2, fall_window=2), ''), (WITHOUT, GateSettings(), ''),
])
def test_what_is_promised_is_said_with_every_verdict(
    calibration: Calibration, settings: GateSettings, says: str
) -> None:
    assert promise_text(calibration, settings) == says
    gate = Gate(settings, gate_limits(calibration, settings), says)
    good, bad = dict.fromkeys('abc', 0.001), dict.fromkeys('abc', 0.99)
    verdicts = [gate.last, gate.update(good), gate.update(bad), gate.fault('broken')]
    assert [verdict.promise for verdict in verdicts] == [says] * 4
