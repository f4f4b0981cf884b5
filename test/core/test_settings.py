# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Settings: one definition, validated individually and in combination."""

import math

from cases import for_each
from conftest import tiny_card
import pytest

from uncertainty_seg.core.model_card import PRECISIONS
from uncertainty_seg.core.settings import (
    CHECKS,
    DecodeLimits,
    iter_parameters,
    precision_of,
    require_no_history,
    require_unlocked,
    Settings,
    settings_from_dict,
    to_dict,
)
from uncertainty_seg.errors import ConfigError

ALL = list(iter_parameters(Settings))


def test_every_setting_is_described_and_every_number_bounded() -> None:
    for p in ALL:
        assert p.description.endswith('.'), p.name
        if type(p.default) in (int, float):
            assert p.lower is not None and p.upper is not None, p.name


def test_defaults_pass_their_own_check_and_make_the_round_trip() -> None:
    assert settings_from_dict(to_dict(Settings())) == Settings()


@for_each('name', [p.name for p in ALL if isinstance(p.default, float)])
@for_each('value', [math.nan, math.inf, -math.inf, 'much', True, None])
def test_no_float_takes_nan_infinity_or_words(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f'{name} is'):
        settings_from_dict({name: value})


def test_the_limits_of_an_image_are_those_of_the_settings() -> None:
    # 12 megapixels, and 8K.
    assert Settings().decode_limits.max_px >= max(4000 * 3000, 7680 * 4320)
    assert Settings().decode_limits == DecodeLimits(2**25)
    assert settings_from_dict({'max_image_px': 9}).decode_limits == DecodeLimits(9)
    for wrong in (2**26 + 1, 0):
        with pytest.raises(ConfigError, match='max_image_px is'):
            settings_from_dict({'max_image_px': wrong})


def test_a_whole_number_is_accepted_for_a_float_but_not_the_other_way() -> None:
    assert settings_from_dict({'stale_timeout_s': 2}).stale_timeout_s == 2.0
    with pytest.raises(ConfigError, match='passes is 2.5'):
        settings_from_dict({'passes': 2.5})


@pytest.mark.parametrize('values, words', [
    ({'passes': 0}, 'passes is 0'), ({'passes': -2}, 'passes is -2'),
    ({'gate.fall_frames': 3}, 'gate.fall_frames.*gate.fall_window'),
    ({'precision': 'half'}, "'half'.*bundle, fp32, fp16, bf16, tf32"),
    ({'backend': 'cuda'}, "'cuda'.*auto, tensorrt, openvino"), ({'map': 'doubt'}, "'doubt'"),
    ({'gate.scores': [3]}, 'gate.scores'), ({'cameras': ['front', 'front']}, "'front'"),
    ({'cameras': ['front/left']}, "'front/left'"), ({'cameras': ['']}, "cameras.*''"),
    ({'cameras': ['9th']}, "'9th'"), ({'max_rate_hz': []}, 'max_rate_hz'),
    ({'max_rate_hz': [math.nan]}, 'max_rate_hz.*nan'), ({'max_rate_hz': [True]}, 'max_rate_hz'),
    ({'max_rate_hz': 5.0}, 'max_rate_hz is 5.0'), ({'max_rate_hz': [2, 2]}, 'max_rate_hz'),
    ({'cameras': ['a', 'b'], 'max_rate_hz': [2, 2, 2]}, 'max_rate_hz'),
    ({'max_rate_hz': [1.0]}, 'max_rate_hz is 1.*stale_timeout_s'),
    ({'stamps': 'receipt', 'gate.rise_frames': 1}, 'gate.rise_frames is 1.*receipt'),
    ({'max_rate_hz': [5.0], 'stale_timeout_s': 0.1}, 'max_rate_hz is 5'),
    ({'stuck_timeout_s': 0.5}, 'stuck_timeout_s is 0.5'),
    ({'stuck_timeout_s': -1}, 'stuck_timeout_s is -1'), ({'threshold': 1}, "'threshold'"),
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
        with pytest.raises(ConfigError, match='3'):
            require_no_history(settings, 3)
    require_no_history(settings_from_dict({'max_age_s': 0.0, 'gate.rise_frames': 1}))
    require_no_history(Settings(), 20)
    require_no_history(Settings(), 2, is_latched=True)
    with pytest.raises(ConfigError):
        require_no_history(Settings(), 3, is_latched=True)


def test_a_rate_is_one_for_all_cameras_or_one_for_each() -> None:
    cameras = ['front', 'down']
    both = settings_from_dict({'cameras': cameras, 'max_rate_hz': [5]})
    assert [both.rate_of(i) for i in range(2)] == [5.0, 5.0]
    each = settings_from_dict({'cameras': cameras, 'max_rate_hz': [5, 2.5]})
    assert [each.rate_of(i) for i in range(2)] == [5.0, 2.5]
    assert Settings().rate_of(0) == 0


def test_what_follows_from_other_settings() -> None:
    assert Settings().stuck_s == 10.0
    assert Settings(stale_timeout_s=0.8).budget_ms == pytest.approx(400)
    assert Settings(latency_budget_ms=30.0).budget_ms == 30
    # The flag falls long before the process counts as stuck.
    assert Settings(stale_timeout_s=30.0).stuck_s == 60.0
    assert Settings(stale_timeout_s=30.0, stuck_timeout_s=0.0).stuck_s == 0.0
    mask = Settings(ignore_mask='/masks/hull_{camera}.png')
    assert mask.ignore_mask_of('front') == '/masks/hull_front.png'


# --- checks: defaults are safe, looser values are reported and lockable --------------------------

LOOSER = {
    'max_age_s': (0.0, 1.1, 3600.0), 'max_skew_s': (0.6, 60.0), 'max_repeats': (-1, 3, 1000),
    'damage_scale': (0.0, 1.01, 100.0), 'stale_timeout_s': (1.1, 3600.0),
    'stamps': ('receipt',), 'stuck_timeout_s': (0.0,)}
STRICTER = {'max_age_s': 0.5, 'max_skew_s': 0.0, 'max_repeats': 0, 'damage_scale': 0.5,
            'stale_timeout_s': 0.5, 'stamps': 'camera', 'stuck_timeout_s': 3.0}


@for_each('name', CHECKS)
def test_a_check_that_is_looser_than_is_safe_is_named_and_no_other(name: str) -> None:
    for value in LOOSER[name]:
        said = settings_from_dict({name: value}).checks_off
        assert list(said) == [name] and f'{name} is {value}'.removesuffix('.0') in said[name]
    assert settings_from_dict({name: STRICTER[name]}).checks_off == Settings().checks_off == {}
    assert set(LOOSER) == set(STRICTER) == set(CHECKS)


@for_each('name', CHECKS)
def test_a_locked_gate_holds_every_check(name: str) -> None:
    for value in LOOSER[name]:
        after = settings_from_dict({name: value, 'lock_gate': True})
        with pytest.raises(ConfigError, match=name):
            require_unlocked(Settings(lock_gate=True), after)
        require_unlocked(Settings(), after)


# --- the precision of a bundle, by its card and by the setting -----------------------------------


@for_each('card, wanted, found', [
    *((card, wanted, card) for card in PRECISIONS for wanted in ('bundle', card)),
    ('fp32', 'tf32', 'tf32')])
def test_left_alone_it_is_what_the_card_says(card: str, wanted: str, found: str) -> None:
    assert precision_of(tiny_card(precision=card), wanted) == found


@for_each('card, wanted, allowed', [
    ('fp32', 'fp16', 'fp32 or tf32 or bf16'),
    ('bf16', 'fp32', 'bf16'), ('fp16', 'fp32', 'fp16'), ('fp16', 'bf16', 'fp16'),
    ('bf16', 'tf32', 'bf16'), ('fp16', 'tf32', 'fp16'),
])
def test_what_was_rounded_away_cannot_be_asked_for(card: str, wanted: str, allowed: str) -> None:
    with pytest.raises(ConfigError, match=allowed):
        precision_of(tiny_card(precision=card), wanted)
