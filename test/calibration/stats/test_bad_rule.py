# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Rules of bad frames: counts by hand, and rules that are refused."""

import numpy as np
import pytest

from uncertainty_seg.calibration.stats.bad_rule import BadRule
from uncertainty_seg.core.arrays import ConfusionMatrix, LabelMap
from uncertainty_seg.errors import ConfigError

NAMES = ('water', 'diver', 'rock or reef')
# 6 of 8 known pixels are right. IoU: water 4/6, diver 2/4, no reef; mean 7/12.
TRUTH = np.array([[0, 0, 0, 0, 0, 1, 1, 1, 255]], np.uint8)
PREDICTED = np.array([[0, 0, 0, 0, 1, 0, 1, 1, 2]], np.uint8)


def counted(truth: LabelMap, predicted: LabelMap) -> ConfusionMatrix:
    counts = ConfusionMatrix(len(NAMES))
    counts.add(truth, predicted, 255)
    return counts


@pytest.mark.parametrize(('text', 'values', 'is_bad'), [
    ('iou<0.58', [7 / 12], False),
    ('iou<0.59', [7 / 12], True),
    ('iou[diver]<0.5', [0.5], False),
    ('iou[diver]<0.51', [0.5], True),
    (' iou [ water ] < .6 ', [4 / 6], False),
    ('accuracy<0.75', [0.75], False),
    ('accuracy < 7.6e-1', [0.75], True),
    ('iou<0.1 or accuracy<0.8', [7 / 12, 0.75], True),
    ('iou<0.1 or accuracy<0.7', [7 / 12, 0.75], False),
    ('iou[rock or reef]<1 or iou[diver]<0.2', [np.nan, 0.5], False),
    ('iou[rock or reef]<1 or iou[diver]<0.6', [np.nan, 0.5], True),
])
def test_rules_by_hand(text: str, values: list[float], is_bad: bool) -> None:
    rule = BadRule.parse(text, NAMES)
    counts = counted(TRUTH, PREDICTED)
    assert [term.value(counts) for term in rule.terms] == pytest.approx(values, nan_ok=True)
    assert rule.is_bad(counts) is is_bad
    assert rule.text == text.strip()


def test_a_class_only_predicted_counts_as_occurring() -> None:
    truth = np.zeros((2, 2), np.uint8)
    predicted = np.array([[0, 0], [0, 1]], np.uint8)
    counts = counted(truth, predicted)
    assert BadRule.parse('iou[diver]<0.1', NAMES).is_bad(counts)
    assert BadRule.parse('iou<0.376', NAMES).is_bad(counts)
    assert not BadRule.parse('iou<0.375', NAMES).is_bad(counts)


def test_a_frame_of_which_nothing_is_known_is_not_called_bad() -> None:
    rule = BadRule.parse('iou<1 or accuracy<1 or iou[diver]<1', NAMES)
    nothing = counted(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    assert np.isnan([term.value(nothing) for term in rule.terms]).all()
    assert not rule.is_bad(nothing)


@pytest.mark.parametrize('text', [
    '', 'or', 'iou', 'iou<', 'iou>0.5', 'iou<=0.5', 'iou<half', 'dice<0.5', 'iou<0.5 or',
    'iou<0.5 and accuracy<0.5', 'iou<0.5, accuracy<0.5', 'accuracy[diver]<0.5', 'iou[diver<0.5',
    'iou<0.5 oraccuracy<0.5', 'iou<1e', 'iou<--1',
])
def test_what_cannot_be_read_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError):
        BadRule.parse(text, NAMES)


@pytest.mark.parametrize('limit', ['0', '-0.5', '1.01', '50', '1e9'])
def test_a_limit_that_no_share_reaches_is_refused(limit: str) -> None:
    with pytest.raises(ConfigError):
        BadRule.parse(f'iou<{limit}', NAMES)


def test_an_unknown_class_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match='Diver'):
        BadRule.parse('iou<0.5 or iou[Diver]<0.5', NAMES)
