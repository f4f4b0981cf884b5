# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Fixtures that run the backend `tensorrt` on the fake TensorRT and the fake CUDA."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fake_cuda import FakeCuda
from fake_tensorrt import fake_tensorrt, plan_of
from masked_bundles import channels_bundle, elements_bundle, ensemble_bundle, method_bundle
import numpy as np
import pytest

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.gpu import engine_build
from uncertainty_seg.backends.gpu.engine_build import (
    BundleEngines,
    engines_of,
    EngineWork,
    Progress,
)
from uncertainty_seg.backends.gpu.engine_cache import EngineCache, EngineKey, EngineTarget
from uncertainty_seg.backends.gpu.nvidia import CudaDevice, TensorRt
from uncertainty_seg.backends.gpu.tensorrt import TensorRtBackend
from uncertainty_seg.compiler.request import convert
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.settings import passes_of, Settings
from uncertainty_seg.core.uncertainty import PassSums
from uncertainty_seg.storage.model_bundle import load_bundle

DEVICE = CudaDevice('Fake', '8.6', '12.6', 20, False)
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
TOLERANCE = 2e-5
SMOOTH = ('p', 'entropy_nats', 'p_squared', 'logits')


def played_build(
    trt: TensorRt, name: str, graph: bytes, key: EngineKey, progress: Progress,
    available_bytes: int = 0,
) -> bytes:
    """Replace `build_engine`, whose calls of TensorRT are tested by the build gate's tests."""
    for share, phase in ((0.5, 'parsing'), (1.0, 'built')):
        progress(share, phase)
    return plan_of(graph, key.profiles, trt.version)


class Rig:
    """A bundle, its engines in a cache, and the GPU they run on."""

    def __init__(self, folder: Path, bundle: Path | str, version: str = '10.3.0',
                 **settings: Any) -> None:
        self.gpu = FakeCuda()
        self.faults = self.gpu.faults
        self.trt = TensorRt(fake_tensorrt(self.gpu, version))
        self.bundle: ModelBundle = load_bundle(str(bundle))
        self.card: ModelCard = self.bundle.card
        self.settings = Settings(**{'threads': 1, **settings})
        self.cache = EngineCache(folder / 'engines')
        self.target = EngineTarget.of(self.trt, DEVICE)

    def engines(self) -> BundleEngines:
        return engines_of(self.bundle, self.settings, self.trt, self.target)

    @property
    def passes(self) -> int:
        return passes_of(self.card, self.settings)

    def build(self) -> None:
        EngineWork(self.trt, self.engines()).build(self.cache)

    def key(self, role: str) -> str:
        """Return the digest that names an engine in the cache; `role` is trunk or passes."""
        return getattr(self.engines(), role).key.digest

    def open(self, **changes: Any) -> TensorRtBackend:  # noqa: A003
        facts = {'trt': self.trt, 'cuda': self.gpu, 'device': DEVICE, 'cache': self.cache}
        return TensorRtBackend(self.bundle, self.settings, **{**facts, **changes})


Rigs = Callable[..., Rig]


@pytest.fixture
def rigs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rigs]:
    """Return a factory of rigs; the test fails if one recorded a violation."""
    monkeypatch.setenv('UNCERTAINTY_SEG_ENGINE_CACHE', str(tmp_path / 'engines'))
    monkeypatch.setattr(engine_build, 'build_engine', played_build)
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
              image: np.ndarray = IMAGE) -> PassSums:
    with OnnxRuntimeBackend(rig.bundle, rig.settings) as backend:
        return backend.run(image, masks, temperature)


def assert_close(ours: PassSums, theirs: PassSums, tolerance: float = TOLERANCE) -> None:
    """Assert that sums agree; votes may differ where two classes are nearly tied."""
    assert ours.passes == theirs.passes
    for name in SMOOTH:
        found = getattr(ours, name)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found / ours.passes, getattr(theirs, name) / ours.passes,
                                   rtol=tolerance, atol=tolerance, err_msg=name)
    assert (ours.votes == np.rint(ours.votes)).all()
    ties = (ours.votes != theirs.votes).any(axis=0)
    assert ties.mean() <= (5e-2 if tolerance > TOLERANCE else 1e-3)


def assert_same_bits(one: PassSums, other: PassSums) -> None:
    for name in (*SMOOTH, 'votes'):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
