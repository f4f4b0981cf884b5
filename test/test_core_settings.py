# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Settings: one source, checked one by one and as a whole."""

import math

import pytest

from uncertainty_seg.core.parameters import iter_parameters
from uncertainty_seg.core.settings import Settings, settings_from_dict, settings_to_dict
from uncertainty_seg.errors import ConfigError

ALL = list(iter_parameters(Settings))


def test_every_setting_is_described_and_every_number_bounded() -> None:
    for p in ALL:
        assert p.description.endswith('.'), p.name
        if type(p.default) in (int, float):
            assert p.lower is not None and p.upper is not None, p.name


def test_defaults_pass_their_own_check_and_make_the_round_trip() -> None:
    assert settings_from_dict(settings_to_dict(Settings())) == Settings()


@pytest.mark.parametrize('name', [p.name for p in ALL if isinstance(p.default, float)])
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, 'much', True, None])
def test_no_float_takes_nan_infinity_or_words(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f'{name} is'):
        settings_from_dict({name: value})


def test_a_whole_number_is_accepted_for_a_float_but_not_the_other_way() -> None:
    assert settings_from_dict({'stale_timeout_s': 2}).stale_timeout_s == 2.0
    with pytest.raises(ConfigError, match='passes is 2.5, expected a whole number'):
        settings_from_dict({'passes': 2.5})


@pytest.mark.parametrize('values, words', [
    ({'passes': 0}, 'passes is 0, expected at least 1: set -1'),
    ({'passes': -2}, 'passes is -2, expected a whole number from -1 to 1000'),
    ({'gate.fall_frames': 3}, 'at most gate.fall_window, 1'),
    ({'precision': 'half'}, 'one of bundle, fp32, fp16, bf16, int8'),
    ({'backend': 'cuda'}, "backend is 'cuda', expected one of auto, tensorrt, openvino"),
    ({'map': 'doubt'}, "map is 'doubt', expected one of entropy"),
    ({'gate.scores': [3]}, 'gate.scores'),
    ({'threshold': 1}, "unknown parameter 'threshold', expected one of model"),
])
def test_a_wrong_value_is_answered_with_what_would_be_right(
    values: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        settings_from_dict(values)


def test_settings_that_fit_only_together_are_judged_together() -> None:
    gate = settings_from_dict({'gate.fall_frames': 3, 'gate.fall_window': 5}).gate
    assert (gate.fall_frames, gate.fall_window) == (3, 5)
