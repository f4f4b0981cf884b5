# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime alone: without its package, and in precisions it does not compute in."""

import dataclasses
import os
from pathlib import Path
import subprocess
import sys

import pytest

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendUnavailableError
from uncertainty_seg.storage.model_bundle import load_bundle

SETTINGS = Settings(threads=1, reduction='exact')


@pytest.fixture
def bundle(tiny_bundle: Path) -> ModelBundle:
    return load_bundle(str(tiny_bundle))


def test_missing_onnxruntime_is_named_with_its_remedy(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(BackendUnavailableError, match=r"pip install '\.\[runtime\]'"):
        OnnxRuntimeBackend(bundle, SETTINGS)


@pytest.mark.parametrize(('card', 'precision'), [('fp32', 'bf16'), ('bf16', 'bundle')])
def test_bf16_is_refused_by_setting_and_by_card(
    bundle: ModelBundle, card: str, precision: str
) -> None:
    bundle = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, precision=card))
    words = "onnxruntime does not compute 'tiny' in bf16: use backend openvino"
    with pytest.raises(BackendUnavailableError, match=words):
        OnnxRuntimeBackend(bundle, Settings(threads=1, reduction='exact', precision=precision))


# Where it runs for one of these, ONNX Runtime reports nothing by itself.
SILENCING = ('CI', 'BUILD', 'TF_BUILD', 'GITHUB', 'GITLAB', 'JENKINS', 'TEAMCITY', 'ORT_')


def test_onnx_runtime_keeps_no_record_of_the_models_and_reports_none(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    # What it would send lies in a data base below the home folder first.
    home = tmp_path / 'home'
    home.mkdir()
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(SILENCING) and not name.startswith('XDG_')}
    code = ('import uncertainty_seg, onnxruntime, sys, time; '
            'onnxruntime.InferenceSession(sys.argv[1]); time.sleep(1)')
    subprocess.run([sys.executable, '-c', code, str(tiny_bundle / 'trunk.onnx')], check=True,
                   env={**environment, 'HOME': str(home)})
    assert [str(path) for path in home.rglob('*') if path.is_file()] == []
