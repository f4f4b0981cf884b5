# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What a bundle may be computed in, by its card and by the setting."""

from conftest import tiny_card
import pytest

from uncertainty_seg.core.model_card import PRECISIONS
from uncertainty_seg.core.settings import precision_of
from uncertainty_seg.errors import ConfigError


@pytest.mark.parametrize('card', PRECISIONS)
def test_left_alone_it_is_what_the_card_says_and_its_name_is_accepted_too(card: str) -> None:
    assert precision_of(tiny_card(precision=card), 'bundle') == card
    assert precision_of(tiny_card(precision=card), card) == card


@pytest.mark.parametrize(('card', 'wanted', 'allowed'), [
    ('fp32', 'fp16', 'fp32 or bf16'), ('fp32', 'int8', 'fp32 or bf16'),
    ('bf16', 'fp32', 'bf16'), ('fp16', 'fp32', 'fp16'), ('fp16', 'bf16', 'fp16'),
    ('int8', 'fp32', 'int8 or bf16'),
])
def test_what_was_rounded_away_cannot_be_asked_for(card: str, wanted: str, allowed: str) -> None:
    words = (f"precision is {wanted}, but the graphs of 'tiny' are {card}, expected {allowed}: "
             f'set precision to bundle, or compile a bundle with --precision {wanted}')
    with pytest.raises(ConfigError, match=words):
        precision_of(tiny_card(precision=card), wanted)


@pytest.mark.parametrize('card', ['fp32', 'int8'])
def test_bf16_may_be_asked_for_where_there_is_float32_to_compute(card: str) -> None:
    assert precision_of(tiny_card(precision=card), 'bf16') == 'bf16'
