# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Settings: one source, checked one by one and as a whole."""

import math

from cases import for_each
from conftest import tiny_card
import pytest

from uncertainty_seg.core.model_card import PRECISIONS
from uncertainty_seg.core.settings import (
    DecodeLimits,
    iter_parameters,
    precision_of,
    require_no_history,
    Settings,
    settings_from_dict,
    settings_to_dict,
)
from uncertainty_seg.errors import ConfigError, ModelBundleError

ALL = list(iter_parameters(Settings))


def test_every_setting_is_described_and_every_number_bounded() -> None:
    for p in ALL:
        assert p.description.endswith('.'), p.name
        if type(p.default) in (int, float):
            assert p.lower is not None and p.upper is not None, p.name


def test_defaults_pass_their_own_check_and_make_the_round_trip() -> None:
    assert settings_from_dict(settings_to_dict(Settings())) == Settings()


@for_each('name', [p.name for p in ALL if isinstance(p.default, float)])
@for_each('value', [math.nan, math.inf, -math.inf, 'much', True, None])
def test_no_float_takes_nan_infinity_or_words(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f'{name} is'):
        settings_from_dict({name: value})


def test_the_limits_of_an_image_are_those_of_the_settings() -> None:
    # 12 megapixels, and 8K.
    assert Settings().decode_limits.max_px >= max(4000 * 3000, 7680 * 4320)
    assert Settings().decode_limits == DecodeLimits(2**25, is_reducing=False)
    changed = settings_from_dict({'max_image_px': 9, 'oversized_images': 'reduce'})
    assert changed.decode_limits == DecodeLimits(9, is_reducing=True)
    for wrong in ({'max_image_px': 2**26 + 1}, {'max_image_px': 0}, {'oversized_images': 'crop'}):
        with pytest.raises(ConfigError, match=f'{next(iter(wrong))} is'):
            settings_from_dict(wrong)


def test_a_whole_number_is_accepted_for_a_float_but_not_the_other_way() -> None:
    assert settings_from_dict({'stale_timeout_s': 2}).stale_timeout_s == 2.0
    with pytest.raises(ConfigError, match='passes is 2.5, expected a whole number'):
        settings_from_dict({'passes': 2.5})


@pytest.mark.parametrize('values, words', [
    ({'passes': 0}, 'passes is 0, expected at least 1: set -1'),
    ({'passes': -2}, 'passes is -2, expected a whole number from -1 to 1000'),
    ({'gate.fall_frames': 3}, 'at most gate.fall_window, 1'),
    ({'precision': 'half'}, 'one of bundle, fp32, fp16, bf16, int8, tf32'),
    ({'backend': 'cuda'}, "backend is 'cuda', expected one of auto, tensorrt, openvino"),
    ({'map': 'doubt'}, "map is 'doubt', expected one of entropy"),
    ({'gate.scores': [3]}, 'gate.scores'),
    ({'cameras': ['front', 'front']}, "cameras names 'front' twice, expected each camera once"),
    ({'cameras': ['front/left']}, "cameras names 'front/left', expected letters"),
    ({'cameras': ['']}, "cameras names ''"),
    ({'cameras': ['9th']}, "cameras names '9th'"),
    ({'max_rate_hz': []}, r'max_rate_hz is \[\], expected a list of finite numbers from 0'),
    ({'max_rate_hz': [math.nan]}, r'max_rate_hz is \[nan\]'),
    ({'max_rate_hz': [True]}, r'max_rate_hz is \[True\]'),
    ({'max_rate_hz': 5.0}, 'max_rate_hz is 5.0, expected a list'),
    ({'max_rate_hz': [2, 2]}, 'max_rate_hz has 2 numbers, expected one, or one for each of the 1'),
    ({'cameras': ['a', 'b'], 'max_rate_hz': [2, 2, 2]}, 'has 3 numbers, expected .* the 2 cam'),
    ({'max_rate_hz': [1.0]}, 'max_rate_hz is 1, expected more than 1 / stale_timeout_s = 1'),
    ({'stamps': 'receipt', 'gate.rise_frames': 1}, 'gate.rise_frames is 1 with stamps receipt'),
    ({'max_rate_hz': [5.0], 'stale_timeout_s': 0.1}, 'max_rate_hz is 5, expected more than'),
    ({'stuck_timeout_s': 0.5}, 'stuck_timeout_s is 0.5, expected at least 1, or 0 for never: a'),
    ({'stuck_timeout_s': -1}, 'stuck_timeout_s is -1'),
    ({'threshold': 1}, "unknown parameter 'threshold', expected one of model"),
])
def test_a_wrong_value_is_answered_with_what_would_be_right(
    values: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        settings_from_dict(values)


def test_without_an_age_fewer_images_may_wait_than_raise_the_flag() -> None:
    receipt, ageless = (settings_from_dict({name: value, 'gate.rise_frames': 3})
                        for name, value in (('stamps', 'receipt'), ('max_age_s', 0.0)))
    for settings in (receipt, ageless):
        require_no_history(settings, 2)
        with pytest.raises(ConfigError, match='3 images may wait'):
            require_no_history(settings, 3)
    require_no_history(settings_from_dict({'max_age_s': 0.0, 'gate.rise_frames': 1}))
    require_no_history(Settings(), 20)
    require_no_history(Settings(), 2, is_latched=True)
    with pytest.raises(ConfigError, match='from before the start'):
        require_no_history(Settings(), 3, is_latched=True)


def test_a_rate_is_one_for_all_cameras_or_one_for_each() -> None:
    cameras = ['front', 'down']
    both = settings_from_dict({'cameras': cameras, 'max_rate_hz': [5]})
    assert [both.rate_of(i) for i in range(2)] == [5.0, 5.0]
    each = settings_from_dict({'cameras': cameras, 'max_rate_hz': [5, 2.5]})
    assert [each.rate_of(i) for i in range(2)] == [5.0, 2.5]
    assert Settings().rate_of(0) == 0


def test_the_place_of_the_camera_in_a_path_is_filled_in() -> None:
    settings = settings_from_dict({'ignore_mask': '/masks/hull_{camera}.png'})
    assert settings.ignore_mask_of('front') == '/masks/hull_front.png'
    assert Settings().ignore_mask_of('front') == ''


def test_without_a_budget_of_its_own_it_is_half_of_the_timeout() -> None:
    assert settings_from_dict({'stale_timeout_s': 0.8}).budget_ms == pytest.approx(400)
    assert settings_from_dict({'latency_budget_ms': 30}).budget_ms == 30


def test_the_flag_has_fallen_long_before_a_process_counts_as_stuck() -> None:
    assert Settings().stuck_s == 10.0
    assert settings_from_dict({'stale_timeout_s': 30}).stuck_s == 60.0
    assert settings_from_dict({'stuck_timeout_s': 0, 'stale_timeout_s': 30}).stuck_s == 0.0


# --- what a bundle may be computed in, by its card and by the setting ----------------------------


@pytest.mark.parametrize('card', PRECISIONS)
def test_left_alone_it_is_what_the_card_says_and_its_name_is_accepted_too(card: str) -> None:
    assert precision_of(tiny_card(precision=card), 'bundle') == card
    assert precision_of(tiny_card(precision=card), card) == card


@pytest.mark.parametrize(('card', 'wanted', 'allowed'), [
    ('fp32', 'fp16', 'fp32 or tf32 or bf16'), ('fp32', 'int8', 'fp32 or tf32 or bf16'),
    ('bf16', 'fp32', 'bf16'), ('fp16', 'fp32', 'fp16'), ('fp16', 'bf16', 'fp16'),
    ('int8', 'fp32', 'int8 or bf16'), ('bf16', 'tf32', 'bf16'), ('fp16', 'tf32', 'fp16'),
    ('int8', 'tf32', 'int8 or bf16'),
])
def test_what_was_rounded_away_cannot_be_asked_for(card: str, wanted: str, allowed: str) -> None:
    with pytest.raises(ConfigError, match=f'expected {allowed}:'):
        precision_of(tiny_card(precision=card), wanted)


def test_tf32_is_a_precision_of_float32_graphs_and_of_no_card() -> None:
    assert precision_of(tiny_card(precision='fp32'), 'tf32') == 'tf32'
    with pytest.raises(ModelBundleError, match="precision 'tf32'"):
        tiny_card(precision='tf32')


def test_each_check_that_is_switched_off_is_named() -> None:
    assert Settings().checks_off == ()
    off = Settings(max_age_s=0.0, max_repeats=-1, damage_scale=0.0, stuck_timeout_s=0.0)
    assert off.checks_off == ('max_age_s', 'max_repeats', 'damage_scale', 'stuck_timeout_s')
