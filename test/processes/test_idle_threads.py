# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
No library thread spins between frames, since that would occupy a core of the vehicle.

Real processes are tested, without environment variables that limit threads. Their bank of features
is so large that every BLAS would multiply it with several threads. With that product computed by
`@`, a second thread was measured to take 20 to 40 ms per frame, also on a busy machine. The source
is checked too: the packages that a frame passes call no BLAS.
"""

import ast
from collections.abc import Iterator
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
import pytest
from ros_helpers import HAS_ROS, SKIP_REASON
from ros_node_rig import node_rig
from thread_watch import PAUSE_S

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.bags.writer import BagWriter
from uncertainty_seg.storage.model_bundle import features_file, load_bundle, write_calibration

ROOT = Path(__file__).resolve().parents[2]
RIG = str(ROOT / 'test' / 'rigs' / 'thread_watch.py')
# Most CPU time of library threads, relative to ours. Measured: 0.01 to 0.02; with a thread that
# spins 0.27 when twelve programs compete for two cores, more when the cores are free.
MOST = 0.1
NUM_FRAMES = 25


@pytest.fixture(autouse=True)
def as_users_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.endswith('_NUM_THREADS') or name.startswith(('OMP_', 'GOMP_', 'KMP_')):
            monkeypatch.delenv(name)


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return `suim`, gated by features.knn, with a bank of 1.7 million numbers."""
    folder = tmp_path_factory.mktemp('model') / 'suim'
    shutil.copytree(ROOT / 'config' / 'models' / 'suim', folder)
    found = load_bundle(folder)
    assert found.features is not None and found.calibration is not None
    density = dataclasses.replace(found.features, bank=np.tile(found.features.bank, (6, 1)))
    digest = hashlib.sha256(features_file(density)).hexdigest()
    write_calibration(found, dataclasses.replace(found.calibration, features_sha256=digest),
                      density)
    return folder


def pictures() -> Iterator[Any]:
    """Yield images that pass the damage checks: smooth, with noise, all different."""
    generator = np.random.default_rng(0)
    grey = generator.integers(40, 200, (12, 16, 1), np.uint8)
    smooth = cv2.resize(grey + generator.integers(0, 40, 3, np.uint8), (160, 120),
                        interpolation=cv2.INTER_CUBIC)
    while True:
        yield cv2.add(smooth, generator.integers(0, 6, smooth.shape, np.uint8))


def share(file: Path, since: dict[str, Any] | None = None) -> float:
    """Return the CPU time of library threads divided by that of our threads."""
    ours, libraries = (sum(json.loads(file.read_text())[whose].values())
                       - sum((since or {}).get(whose, {}).values())
                       for whose in ('ours', 'libraries'))
    return libraries / ours


def test_while_a_bag_is_replayed(bundle: Path, tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        # Enough frames that the 0.17 s of the start, mostly numpy's import, do not matter.
        for k, picture in zip(range(4 * NUM_FRAMES), pictures(), strict=False):
            bag.write_image('/cam', 10**18 + k * 10**8, 'cam', picture, 'bgr8')
    words = ['replay', str(tmp_path / 'bag'), str(tmp_path / 'out'), '--model', str(bundle),
             '--set', 'backend=onnxruntime', '--set', 'threads=1']
    done = subprocess.run([sys.executable, RIG, str(tmp_path / 'used'), 'verb', *words],
                          capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(done.stdout.splitlines()[-1])['num_bad'] == 0
    assert share(tmp_path / 'used') < MOST


@pytest.mark.ros
@pytest.mark.skipif(not HAS_ROS, reason=SKIP_REASON)
def test_while_the_node_has_a_camera(bundle: Path, tmp_path: Path) -> None:
    used = tmp_path / 'used'
    with node_rig(tmp_path, [RIG, str(used), 'node'], bundle, threads=1) as rig:
        rig.client.wait_for_camera_match()
        rig.verdict(next(pictures()))
        before = json.loads(used.read_text())
        for _, picture in zip(range(NUM_FRAMES), pictures(), strict=False):
            rig.verdict(picture)
        time.sleep(2 * PAUSE_S)
        assert share(used, before) < MOST


@pytest.mark.parametrize(('threads', 'expected'), [(1, 1), (3, 3), (0, 2)])
def test_the_threads_of_the_settings_are_opencvs_too(
    tiny_bundle: Path, threads: int, expected: int
) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        settings = Settings(backend='onnxruntime', threads=threads)
        with open_pipeline(load_bundle(tiny_bundle), settings):
            assert cv2.getNumThreads() == expected
    finally:
        cv2.setNumThreads(before)


# --- the source ----------------------------------------------------------------------------------

# Names in numpy that may call BLAS or LAPACK; `linalg` includes the norm, which is a dot product.
BY_BLAS = {'dot', 'vdot', 'inner', 'matmul', 'tensordot', 'linalg', 'cov', 'corrcoef', 'polyfit',
           'convolve', 'correlate', 'multi_dot', 'optimize'}
ROOMS = ('core', 'backends', 'storage', 'ros')


def by_blas(source: str) -> list[int]:
    """Return the lines that may call BLAS: the operator `@`, or a name in `BY_BLAS`."""
    nodes = ast.walk(ast.parse(source))
    return [node.lineno for node in nodes
            if (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult))
            or (isinstance(node, ast.Attribute) and node.attr in BY_BLAS)
            or (isinstance(node, ast.keyword) and node.arg in BY_BLAS)]


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_that_a_frame_passes_calls_no_blas(room: str) -> None:
    files = sorted((ROOT / 'uncertainty_seg' / room).rglob('*.py'))
    assert files
    assert {file.name: lines for file in files
            if (lines := by_blas(file.read_text(encoding='utf-8')))} == {}
