# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""bf16 for a network that failed the self-check there, or was not checked, gives a warning."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from uncertainty_seg.backends import registry
from uncertainty_seg.backends.check_record import (
    checking,
    DIFFERENCES,
    SelfCheckKey,
    SelfCheckRecord,
    write_record,
)
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendUnavailableError
from uncertainty_seg.storage.model_bundle import load_bundle

BF16 = Settings(threads=1, precision='bf16')


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Install a fake OpenVINO that supports bf16; return its recorded calls."""
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path / 'engines'))
    asked: list[str] = []
    monkeypatch.setitem(registry.OPENERS, 'openvino', lambda bundle, settings: SimpleNamespace(
        name='openvino', version='9.1', close=lambda: asked.append('close')))
    return asked


def checked(bundle: ModelBundle, *failed: str) -> None:
    key = SelfCheckKey.of(bundle.card, 'openvino', '9.1', 'bf16')
    write_record(SelfCheckRecord(key, not failed, failed, {
        'checks': {'label_share': {'measured': 0.035}}}))


def test_the_node_and_the_verbs_say_what_the_check_of_bf16_found(
    tiny_bundle: Path, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle(tiny_bundle)

    def said(settings: Settings = BF16) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            open_backend('openvino', bundle, settings)
        return caplog.text

    assert not said(Settings(threads=1))
    assert 'never checked in bf16' in said()
    checked(bundle, 'label_share')
    assert 'label_share' in said() and '3.5%' in said()
    with checking():
        assert not said()
    checked(bundle)
    assert not said() and not opened


def test_what_is_wrong_and_not_only_different_is_refused(
    tiny_bundle: Path, opened: list[str]
) -> None:
    bundle = load_bundle(tiny_bundle)
    checked(bundle, 'label_share', 'finite')
    with pytest.raises(BackendUnavailableError, match='9.1 in bf16.*label_share, finite'):
        open_backend('openvino', bundle, BF16)
    assert opened == ['close']
    assert 'label_share' in DIFFERENCES and 'finite' not in DIFFERENCES
