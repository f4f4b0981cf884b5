# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Stored results of the self-check: what they apply to, and damaged files."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conftest import tiny_card
import pytest

from uncertainty_seg.backends.check_record import (
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

CARD = tiny_card(sha256={'trunk.onnx': 'aa' * 32, 'passes.onnx': 'bb' * 32})
CHECKED = SelfCheckKey.of(CARD, 'tensorrt', '10.3.0', 'fp16', 'Orin')


def record(is_passed: bool, key: SelfCheckKey = CHECKED) -> SelfCheckRecord:
    return SelfCheckRecord(key, is_passed, () if is_passed else ('mean', 'finite'), {'passes': 20})


def test_what_failed_is_refused_until_it_passes_and_may_be_checked(tmp_path: Path) -> None:
    folder = tmp_path / 'new'
    require_not_failed(CHECKED, folder)
    assert write_record(record(False), folder) == folder / RECORD_FILE
    assert read_record(CHECKED, folder) == record(False)
    with pytest.raises(BackendUnavailableError, match=r'10.3.0 in fp16.*mean, finite'):
        require_not_failed(CHECKED, folder)
    with checking():
        require_not_failed(CHECKED, folder)
    write_record(record(True), folder)
    assert read_record(CHECKED, folder) == record(True)
    require_not_failed(CHECKED, folder)


@pytest.mark.parametrize('change', [
    {'backend': 'openvino'}, {'version': '10.3.1'}, {'precision': 'fp32'},
    {'device': 'Orin Nano'}, {'graphs': CHECKED.graphs[:16] + 'f' * 48},
])
def test_a_result_holds_for_nothing_else(tmp_path: Path, change: dict[str, str]) -> None:
    other = dataclasses.replace(CHECKED, **change)
    write_record(record(False), tmp_path)
    assert read_record(other, tmp_path) is None
    write_record(record(True, other), tmp_path)
    require_not_failed(other, tmp_path)
    assert read_record(CHECKED, tmp_path) == record(False)


@pytest.mark.parametrize('content', ['', '{"a"', '[]', '"x"', '{"KEY": {"is_passed": "yes"}}',
                                     '{"KEY": 3}'])
def test_a_damaged_file_proves_nothing_and_is_written_anew(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path))  # the folder of the cache
    (tmp_path / RECORD_FILE).write_text(content.replace('KEY', CHECKED.text))
    assert read_record(CHECKED) is None
    write_record(record(True))
    assert read_record(CHECKED) == record(True)


def test_a_backend_says_its_version_and_device_or_its_module_does() -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    gpu: Any = SimpleNamespace(name='tensorrt', version='10.3.0', device_name='Orin')
    assert key_of(CARD, gpu, 'fp16') == CHECKED
    found = key_of(CARD, SimpleNamespace(name='onnxruntime'), 'fp32')
    assert (found.version, found.device) == (onnxruntime.__version__, '')
    assert key_of(CARD, SimpleNamespace(name='fake'), 'fp32').version == ''
