# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Backends by name, and the choice and log of 'auto'."""

from collections.abc import Callable
from contextlib import closing
import dataclasses
import logging
from pathlib import Path
import platform
import sys

import pytest

from uncertainty_seg.backends import registry
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.plausibility import Backend
from uncertainty_seg.core.settings import iter_parameters, Settings
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
        if name != 'tensorrt':
            raise
        pytest.skip(f'{name}: {err}')
    assert backend.name == name
    backend.close()
    backend.close()


def test_the_names_are_the_choices_of_the_settings_and_others_are_refused_with_them(
    bundle: ModelBundle
) -> None:
    choices = next(p.choices for p in iter_parameters(Settings) if p.name == 'backend')
    assert choices == (registry.AUTO, *registry.OPENERS)
    for name in ('cuda', 'onnxruntime_cuda'):
        with pytest.raises(ConfigError, match=f"'{name}'.*auto, tensorrt, openvino, onnxruntime"):
            open_backend(name, bundle, SETTINGS)


@pytest.fixture
def taken(
    bundle: ModelBundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, str]]:
    """Return a function that opens 'auto' on a kind of machine; returns backend and info log."""
    def take(machine: str = 'x86_64', of: ModelBundle = bundle) -> tuple[str, str]:
        monkeypatch.setattr(platform, 'machine', lambda: machine)
        caplog.clear()
        caplog.set_level(logging.INFO)
        with closing(open_backend('auto', of, SETTINGS)) as backend:
            assert {record.levelname for record in caplog.records} == {'INFO'}
            return backend.name, caplog.text

    return take


Taken = Callable[..., tuple[str, str]]


def test_auto_takes_openvino_where_it_is_installed_and_logs_name_and_reason(
    taken: Taken, no_gpu: None
) -> None:
    pytest.importorskip('openvino')
    name, said = taken()
    assert name == 'openvino'
    assert 'tensorrt' in said and 'pip install gpu' in said
    assert 'took openvino' in said


def test_auto_looks_for_a_gpu_first(taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.OPENERS, 'tensorrt', registry.OPENERS['onnxruntime'])
    name, said = taken()
    assert name == 'onnxruntime' and 'took tensorrt' in said and 'not ' not in said


def test_auto_does_not_run_on_the_processor_for_want_of_an_engine(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_built(bundle: ModelBundle, settings: Settings) -> Backend:
        raise EngineMissingError('no engine', fix='build it')

    monkeypatch.setitem(registry.OPENERS, 'tensorrt', not_built)
    with pytest.raises(EngineMissingError, match='no engine'):
        open_backend('auto', bundle, SETTINGS)


@pytest.mark.parametrize(('machine', 'why'), [
    ('x86_64', 'openvino cannot be imported'), ('aarch64', 'aarch64')])
def test_auto_takes_onnxruntime_where_openvino_is_not_installed_or_not_measured(
    taken: Taken, monkeypatch: pytest.MonkeyPatch, no_gpu: None, machine: str, why: str
) -> None:
    if machine == 'x86_64':
        monkeypatch.setitem(sys.modules, 'openvino', None)
    name, said = taken(machine)
    assert name == 'onnxruntime' and why in said


def test_auto_takes_what_rounds_for_a_bundle_in_fp16(
    bundle: ModelBundle, taken: Taken, no_gpu: None
) -> None:
    pytest.importorskip('openvino')
    half = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, precision='fp16'))
    name, said = taken(of=half)
    assert name == 'onnxruntime' and 'not openvino' in said and 'fp16' in said
    with pytest.raises(BackendUnavailableError, match='fp16'):  # `score` opens it like this
        open_backend('openvino', half, SETTINGS)
    open_backend('openvino', dataclasses.replace(half, calibration=None), SETTINGS).close()


def test_where_no_runtime_works_auto_gives_every_reason(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch, no_gpu: None
) -> None:
    monkeypatch.setattr(platform, 'machine', lambda: 'x86_64')
    monkeypatch.setitem(sys.modules, 'openvino', None)
    words = "tensorrt: gpu.*openvino: openvino cannot be imported.*onnxruntime: .*'tiny' in bf16"
    with pytest.raises(BackendUnavailableError, match=words):
        open_backend('auto', bundle, Settings(precision='bf16'))


def test_auto_does_not_hide_a_bundle_that_does_not_fit(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.trunk_path.write_bytes(bundle.passes_path.read_bytes())
    monkeypatch.setattr(registry, 'AUTO_ORDER', ('onnxruntime', 'openvino'))
    with pytest.raises(ModelBundleError, match='trunk.onnx'):
        open_backend('auto', bundle, SETTINGS)
