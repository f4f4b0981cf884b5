# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What failed its self-check here is refused, and a result holds for what was checked only."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import logging
from pathlib import Path
import re
from types import SimpleNamespace
from typing import Any

from conftest import tiny_card
import pytest

from uncertainty_seg.backends.gpu.self_check_record import (
    checking,
    key_of,
    read_record,
    RECORD_FILE,
    require_not_failed,
    SelfCheckKey,
    SelfCheckRecord,
    write_record,
)
from uncertainty_seg.errors import BackendUnavailableError

CARD = tiny_card(sha256={'trunk.onnx': 'aa' * 32, 'head.onnx': 'bb' * 32})
KEY = SelfCheckKey.of(CARD, 'tensorrt', '8.6.2', 'fp16', 'Orin')


def record(is_passed: bool, key: SelfCheckKey = KEY) -> SelfCheckRecord:
    return SelfCheckRecord(key, is_passed, () if is_passed else ('mean', 'finite'), {'passes': 20})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for found in (record(False), record(True)):
        assert write_record(found, tmp_path / 'new') == tmp_path / 'new' / RECORD_FILE
        assert read_record(KEY, tmp_path / 'new') == found


@pytest.mark.parametrize('change', [
    {'backend': 'openvino'}, {'version': '8.6.3'}, {'precision': 'fp32'}, {'device': 'Orin Nano'},
    {'graphs': KEY.graphs[:16] + 'f' * 48},
])
def test_a_result_holds_for_nothing_else(tmp_path: Path, change: Mapping[str, Any]) -> None:
    other = dataclasses.replace(KEY, **change)
    write_record(record(False), tmp_path)
    assert read_record(other, tmp_path) is None
    write_record(record(True, other), tmp_path)
    require_not_failed(other, True, tmp_path)
    if other.text != KEY.text:
        assert read_record(KEY, tmp_path) == record(False)


def test_another_graph_is_another_key() -> None:
    other = tiny_card(sha256={'trunk.onnx': 'aa' * 32, 'head.onnx': 'bc' * 32})
    assert SelfCheckKey.of(other, 'tensorrt', '8.6.2', 'fp16', 'Orin') != KEY
    swapped = tiny_card(sha256={'trunk.onnx': 'bb' * 32, 'head.onnx': 'aa' * 32})
    assert SelfCheckKey.of(swapped, 'tensorrt', '8.6.2', 'fp16', 'Orin') != KEY


def test_what_failed_is_refused_until_it_passes(tmp_path: Path) -> None:
    write_record(record(False), tmp_path)
    words = re.escape('tensorrt 8.6.2 in fp16 failed its self-check on this model (mean, finite)')
    for must in (False, True):
        with pytest.raises(BackendUnavailableError, match=words):
            require_not_failed(KEY, must, tmp_path)
    write_record(record(True), tmp_path)
    require_not_failed(KEY, True, tmp_path)


def test_what_was_never_checked_is_refused_only_where_it_has_to_be(tmp_path: Path) -> None:
    require_not_failed(KEY, False, tmp_path)
    with pytest.raises(BackendUnavailableError, match='was never checked on this model, expected'):
        require_not_failed(KEY, True, tmp_path)


def test_while_it_is_checked_it_is_open_even_if_it_failed(tmp_path: Path) -> None:
    write_record(record(False), tmp_path)
    with checking():
        require_not_failed(KEY, True, tmp_path)
    with pytest.raises(BackendUnavailableError, match='failed'):
        require_not_failed(KEY, True, tmp_path)


@pytest.mark.parametrize('content', ['', '{"a"', '[]', '"x"', '{"KEY": {"is_passed": "yes"}}',
                                     '{"KEY": 3}'])
def test_a_damaged_file_proves_nothing_and_is_written_anew(
        tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / RECORD_FILE).write_text(content.replace('KEY', KEY.text))
    with caplog.at_level(logging.WARNING):
        assert read_record(KEY, tmp_path) is None
    assert ('nothing counts as checked' in caplog.text) is (content in ('', '{"a"'))
    with pytest.raises(BackendUnavailableError, match='never checked'):
        require_not_failed(KEY, True, tmp_path)
    write_record(record(True), tmp_path)
    assert read_record(KEY, tmp_path) == record(True)


def test_the_folder_is_that_of_the_engines(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path / 'engines'))
    write_record(record(False))
    assert (tmp_path / 'engines' / RECORD_FILE).is_file()
    with pytest.raises(BackendUnavailableError, match='failed'):
        require_not_failed(KEY)


def test_a_backend_says_its_version_and_device_or_its_module_does() -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    gpu: Any = SimpleNamespace(name='tensorrt', version='8.6.2', device_name='Orin')
    assert key_of(CARD, gpu, 'fp16') == KEY
    named: Any = SimpleNamespace(name='onnxruntime')
    found = key_of(CARD, named, 'fp32')
    assert (found.version, found.device) == (onnxruntime.__version__, '')
    nobody: Any = SimpleNamespace(name='fake')
    assert key_of(CARD, nobody, 'fp32').version == ''
