# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The backend `tensorrt` on a stand-in for TensorRT that runs ONNX Runtime; fixtures for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fake_cuda import FakeCuda
from fake_tensorrt import fake_tensorrt, plan_of
from masked_bundles import channels_bundle, elements_bundle, ensemble_bundle, method_bundle
import numpy as np
import pytest

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.gpu.engine_build import BundleEngines, engines_of
from uncertainty_seg.backends.gpu.engine_cache import EngineCache, EngineTarget
from uncertainty_seg.backends.gpu.nvidia import CudaDevice, TensorRt
from uncertainty_seg.backends.gpu.tensorrt import TensorRtBackend
from uncertainty_seg.compiler.request import convert
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.settings import passes_of, Settings
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.storage.model_bundle import load_bundle

DEVICE = CudaDevice('Fake', '8.6', '12.6', 20, 8 * 10**9, False)
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
TOLERANCE = 2e-5
SMOOTH = ('confidence', 'entropy', 'mutual_information', 'total_variance', 'aleatoric')


class Rig:
    """A bundle, its engines in a cache, and the GPU they run on."""

    def __init__(self, folder: Path, bundle: Path | str, version: str = '10.3.0',
                 **settings: Any) -> None:
        self.gpu = FakeCuda()
        self.faults = self.gpu.faults
        self.trt = TensorRt(fake_tensorrt(self.gpu, version))
        self.bundle: ModelBundle = load_bundle(str(bundle))
        self.card: ModelCard = self.bundle.card
        self.settings = Settings(**{'threads': 1, 'reduction': 'exact', **settings})
        self.cache = EngineCache(folder / 'engines')
        self.target = EngineTarget.of(self.trt, DEVICE)

    def engines(self) -> BundleEngines:
        return engines_of(self.bundle, self.settings)

    @property
    def passes(self) -> int:
        return passes_of(self.card, self.settings)

    def build(self) -> None:
        """Store engines as EngineWork.build does."""
        for needed in self.engines().all:
            plan = plan_of(needed.content(), needed.spec.profiles, self.trt.version)
            self.cache.store(needed.key(self.target), plan, {'role': needed.role})

    def open(self, **changes: Any) -> TensorRtBackend:  # noqa: A003
        facts = {'trt': self.trt, 'cuda': self.gpu, 'device': DEVICE, 'cache': self.cache}
        return TensorRtBackend(self.bundle, self.settings, **{**facts, **changes})


Rigs = Callable[..., Rig]


@pytest.fixture
def rigs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rigs]:
    """Make rigs, and fail a test that did what TensorRT does not survive."""
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path / 'engines'))
    made: list[Rig] = []

    def make(bundle: Path | str, **facts: Any) -> Rig:
        made.append(Rig(tmp_path, bundle, **facts))
        return made[-1]

    yield make
    assert [rig.gpu.violations for rig in made] == [[] for _ in made]


@pytest.fixture(scope='module')
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('bundles')
    made = {'channels': channels_bundle(folder / 'channels'),
            'elements': elements_bundle(folder / 'elements'),
            'ensemble': ensemble_bundle(folder / 'ensemble'),
            'direct': elements_bundle(folder / 'direct', is_direct=True),
            'single': method_bundle(folder / 'single', 'single'),
            'sampled': method_bundle(folder / 'sampled', 'direct'),
            'both': method_bundle(folder / 'both', 'direct', 0.4)}
    made['fp16'] = folder / 'fp16'
    convert(made['channels'], made['fp16'], 'fp16')
    return made


def reference(rig: Rig, masks: Mapping[str, np.ndarray], temperature: float = 1.0,
              image: np.ndarray = IMAGE) -> UncertaintyMaps:
    backend = OnnxRuntimeBackend(rig.bundle, rig.settings)
    with backend:
        return backend.run(image, masks, temperature)


def assert_close(ours: UncertaintyMaps, theirs: UncertaintyMaps, passes: int,
                 tolerance: float = TOLERANCE) -> None:
    """Hold maps equal; where two classes are as good as equal, label and votes may differ."""
    for name in SMOOTH:
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0,
                                   atol=tolerance, err_msg=name)
    votes = ours.variation_ratio * passes
    np.testing.assert_allclose(votes, np.rint(votes), rtol=0, atol=1e-4)
    assert ours.variation_ratio.min() >= 0
    for ties in (abs(ours.variation_ratio - theirs.variation_ratio) > 1e-5,
                 ours.label != theirs.label):
        assert ties.mean() <= (5e-2 if tolerance > TOLERANCE else 1e-3)


def assert_same_bits(one: UncertaintyMaps, other: UncertaintyMaps) -> None:
    assert one.present == other.present
    for name in one.present:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
