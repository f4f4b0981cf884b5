# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Whoever asks for bf16 of a network that failed its check there, or had none, is told so."""

from __future__ import annotations

import logging
from pathlib import Path
import re
from types import SimpleNamespace
from typing import Any

import pytest

from uncertainty_seg.backends import registry
from uncertainty_seg.backends.gpu.self_check_record import (
    check_remark,
    checking,
    DIFFERENCES,
    SelfCheckKey,
    SelfCheckRecord,
    write_record,
)
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.cli.main import main
from uncertainty_seg.compiler.self_check.reference import closeness_checks, Difference, TOLERANCES
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendUnavailableError
from uncertainty_seg.storage.model_bundle import load_bundle

BF16 = Settings(threads=1, precision='bf16')
NEVER = r"'tiny' was never checked in bf16 on this machine.*run uncertainty_seg self-check"
FAILED = (r"'tiny' failed its self-check in bf16 on this machine \(label_share, with other labels "
          r'at 3.5% of the pixels\): only limits that were calibrated in bf16 on labelled images')


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Play an OpenVINO that computes in bf16; return what is asked of it."""
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path / 'engines'))
    asked: list[str] = []
    monkeypatch.setitem(registry.OPENERS, 'openvino', lambda bundle, settings: SimpleNamespace(
        name='openvino', version='9.1', close=lambda: asked.append('close')))
    return asked


def checked(bundle: ModelBundle, *failed: str, share: float = 0.035) -> None:
    key = SelfCheckKey.of(bundle.card, 'openvino', '9.1', 'bf16')
    write_record(SelfCheckRecord(key, not failed, failed, {
        'checks': {'label_share': {'measured': share}}}))


def said(caplog: pytest.LogCaptureFixture, bundle: ModelBundle, settings: Settings) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        open_backend('openvino', bundle, settings)
    return caplog.text


def test_the_node_and_the_tools_say_what_the_check_of_bf16_found(
    tiny_bundle: Path, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle(tiny_bundle)
    assert not said(caplog, bundle, Settings(threads=1))
    for before, words in (((), NEVER), (('label_share',), FAILED)):
        if before:
            checked(bundle, *before)
        assert re.search(words, said(caplog, bundle, BF16))
    with checking():
        assert not said(caplog, bundle, BF16)
    checked(bundle)
    assert not said(caplog, bundle, BF16) and not opened


def test_what_is_wrong_and_not_only_different_is_refused(
    tiny_bundle: Path, opened: list[str]
) -> None:
    bundle = load_bundle(tiny_bundle)
    checked(bundle, 'label_share', 'finite')
    words = r'openvino 9.1 in bf16 failed its self-check on this model \(label_share, finite\)'
    with pytest.raises(BackendUnavailableError, match=words):
        open_backend('openvino', bundle, BF16)
    assert opened == ['close']


def test_the_differences_are_those_that_the_check_looks_at() -> None:
    found = closeness_checks(Difference(*[0.0] * len(DIFFERENCES)), TOLERANCES['bf16'])
    assert {check.name for check in found} == {*DIFFERENCES}


def test_a_variant_in_bf16_is_never_made_without_a_word(
    tiny_bundle: Path, tmp_path: Path, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    words: list[Any] = ['convert', str(tiny_bundle), '-o', str(tmp_path / 'half'), '--precision']
    assert main([*words, 'fp16']) == 0 and not caplog.text
    assert main([*words, 'bf16']) == 0
    assert "'half' was never checked in bf16 on this machine" in caplog.text
    # What the same network did here in bf16 says more.
    bundle = load_bundle(tiny_bundle)
    checked(bundle, 'label_share')
    assert main([*words, 'bf16']) == 0
    assert "'tiny' failed its self-check in bf16" in caplog.text and '3.5%' in caplog.text
    assert check_remark(bundle.card, 'bf16') and check_remark(bundle.card, 'fp32')
    checked(bundle)
    assert not check_remark(bundle.card, 'bf16')
