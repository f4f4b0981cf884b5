# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A backend by its name, and what 'auto' takes and says."""

import dataclasses
import logging
from pathlib import Path
import platform
import sys

import pytest

from uncertainty_seg.backends import registry
from uncertainty_seg.backends.gpu.nvidia import find_device
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.parameters import iter_parameters
from uncertainty_seg.core.plausibility import Backend
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import (
    BackendUnavailableError,
    ConfigError,
    EngineMissingError,
    ModelBundleError,
)
from uncertainty_seg.storage.model_bundle import load_bundle

SETTINGS = Settings(threads=1)


@pytest.fixture
def bundle(tiny_bundle: Path) -> ModelBundle:
    return load_bundle(str(tiny_bundle))


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'openvino', None)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.OPENERS, 'tensorrt', missing)


def missing(bundle: ModelBundle, settings: Settings) -> Backend:
    raise BackendUnavailableError('gpu runtime is not installed', fix='pip install gpu')


@pytest.mark.parametrize('name', registry.OPENERS)
def test_every_backend_opens_under_its_own_name_and_closes_twice(
    bundle: ModelBundle, name: str
) -> None:
    if name == 'openvino':
        pytest.importorskip('openvino')
    try:
        backend = open_backend(name, bundle, SETTINGS)
    except BackendUnavailableError as err:
        # Anything else that is not there fails.
        if name != 'tensorrt':
            raise
        pytest.skip(f'{name}: {err}')
    assert backend.name == name
    backend.close()
    backend.close()


def test_the_names_are_the_choices_of_the_settings() -> None:
    choices = next(p.choices for p in iter_parameters(Settings) if p.name == 'backend')
    assert choices == (registry.AUTO, *registry.OPENERS)


def test_an_unknown_name_is_refused_with_the_known_ones(bundle: ModelBundle) -> None:
    with pytest.raises(ConfigError, match="backend is 'cuda', expected one of auto, tensorrt"):
        open_backend('cuda', bundle, SETTINGS)


def test_auto_takes_openvino_where_it_is_installed_and_logs_name_and_reason(
    bundle: ModelBundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    no_gpu: None,
) -> None:
    pytest.importorskip('openvino')
    monkeypatch.setattr(platform, 'machine', lambda: 'x86_64')
    caplog.set_level(logging.INFO)
    assert open_backend('auto', bundle, SETTINGS).name == 'openvino'
    assert 'backend auto: not tensorrt: gpu runtime is not installed' in caplog.text
    assert 'backend auto: took openvino, the next best that works here' in caplog.text


def test_auto_looks_for_a_gpu_first(
    bundle: ModelBundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(registry.OPENERS, 'tensorrt', registry.OPENERS['onnxruntime'])
    assert open_backend('auto', bundle, SETTINGS).name == 'onnxruntime'
    assert 'backend auto: took tensorrt, the best that works here' in caplog.text
    assert 'not ' not in caplog.text


def test_on_a_machine_without_a_gpu_auto_says_so_and_goes_on(
    bundle: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        find_device()
    except BackendUnavailableError as err:
        reason = str(err)
    else:
        pytest.skip('there is a GPU here')
    caplog.set_level(logging.INFO)
    assert open_backend('auto', bundle, SETTINGS).name in ('openvino', 'onnxruntime')
    assert f'backend auto: not tensorrt: {reason}' in caplog.text
    assert {record.levelname for record in caplog.records} == {'INFO'}


def test_auto_does_not_run_on_the_processor_for_want_of_an_engine(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_built(bundle: ModelBundle, settings: Settings) -> Backend:
        raise EngineMissingError('no engine', fix='uncertainty_seg build-engines')

    monkeypatch.setitem(registry.OPENERS, 'tensorrt', not_built)
    with pytest.raises(EngineMissingError, match='no engine: uncertainty_seg build-engines'):
        open_backend('auto', bundle, SETTINGS)


def test_auto_takes_onnxruntime_where_openvino_is_not_installed(
    bundle: ModelBundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    no_openvino: None, no_gpu: None,
) -> None:
    monkeypatch.setattr(platform, 'machine', lambda: 'x86_64')
    caplog.set_level(logging.INFO)
    assert open_backend('auto', bundle, SETTINGS).name == 'onnxruntime'
    assert 'not openvino: openvino cannot be imported' in caplog.text
    assert "pip install '.[openvino]'" in caplog.text
    assert 'took onnxruntime, the next best that works here' in caplog.text


def test_auto_leaves_openvino_to_those_who_ask_for_it_on_other_processors(
    bundle: ModelBundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    no_gpu: None,
) -> None:
    monkeypatch.setattr(platform, 'machine', lambda: 'aarch64')
    caplog.set_level(logging.INFO)
    assert open_backend('auto', bundle, SETTINGS).name == 'onnxruntime'
    assert 'auto takes openvino on x86_64 only, and this is aarch64' in caplog.text
    assert 'set backend to openvino to try it' in caplog.text


def test_auto_passes_over_what_cannot_compute_in_the_precision_asked_for(
    bundle: ModelBundle, no_openvino: None, no_gpu: None
) -> None:
    words = ('no backend works here .*tensorrt: gpu.*openvino cannot be imported .*'
             "onnxruntime does not compute 'tiny' in bf16: use backend")
    with pytest.raises(BackendUnavailableError, match=words):
        open_backend('auto', bundle, Settings(precision='bf16'))


def test_auto_takes_what_rounds_for_a_bundle_in_fp16(
    bundle: ModelBundle, no_gpu: None, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip('openvino')
    half = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, precision='fp16'))
    with caplog.at_level(logging.INFO), open_backend('auto', half, SETTINGS) as backend:
        assert backend.name == 'onnxruntime'
    assert 'not openvino: openvino computes graphs of fp16 in float32' in caplog.text
    with open_backend('openvino', half, SETTINGS) as backend:
        assert backend.name == 'openvino'


def test_auto_passes_over_what_is_not_installed_and_says_why(
    bundle: ModelBundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(registry.OPENERS, 'gpu', missing)
    monkeypatch.setattr(registry, 'AUTO_ORDER', ('gpu', 'onnxruntime'))
    assert open_backend('auto', bundle, SETTINGS).name == 'onnxruntime'
    assert 'not gpu: gpu runtime is not installed: pip install gpu' in caplog.text
    assert 'took onnxruntime, the next best' in caplog.text


def test_where_no_runtime_works_auto_gives_every_reason(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, 'machine', lambda: 'x86_64')
    for name in registry.AUTO_ORDER:
        monkeypatch.setitem(registry.OPENERS, name, missing)
    words = r'no backend works here \(tensorrt: gpu.*openvino: gpu.*onnxruntime: gpu'
    with pytest.raises(BackendUnavailableError, match=words):
        open_backend('auto', bundle, SETTINGS)


def test_auto_does_not_hide_a_bundle_that_does_not_fit(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.trunk_path.write_bytes(bundle.head_path.read_bytes())
    monkeypatch.setitem(registry.OPENERS, 'other', missing)
    monkeypatch.setattr(registry, 'AUTO_ORDER', ('onnxruntime', 'other'))
    with pytest.raises(ModelBundleError, match='trunk.onnx takes'):
        open_backend('auto', bundle, SETTINGS)
