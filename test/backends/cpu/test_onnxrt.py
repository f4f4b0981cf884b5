# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime alone: without its package, and in precisions it does not compute in."""

import dataclasses
from pathlib import Path
import sys

import pytest

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendUnavailableError
from uncertainty_seg.storage.model_bundle import load_bundle

SETTINGS = Settings(threads=1)


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
        OnnxRuntimeBackend(bundle, Settings(threads=1, precision=precision))
