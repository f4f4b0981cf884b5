# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Score on a Ray cluster of two nodes with one worker each: rows equal to one process, none lost.

All tests share one cluster, since its start takes most of the time.
"""

from collections.abc import Iterator
import importlib.util
import json
import os
from pathlib import Path
import signal
import threading
import time
from typing import Any

import cv2
import numpy as np
import pytest

from uncertainty_seg.cli.main import main
from uncertainty_seg.storage.bags.writer import BagWriter
from uncertainty_seg.storage.score_rows import list_parts

ROOT = Path(__file__).resolve().parents[2]
CAMERA = '/camera/image_raw'
# Enough photographs to kill a run before the last.
NUM_PHOTOS = 400

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(importlib.util.find_spec('ray') is None, reason='ray is not installed'),
    pytest.mark.skipif(importlib.util.find_spec('pyarrow') is None,
                       reason='pyarrow is not installed'),
]


@pytest.fixture(scope='module')
def address() -> Iterator[str]:
    """Start two nodes of one core each on this machine; yield the address of the first."""
    os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
    from ray.cluster_utils import Cluster

    # The workers inherit this environment.
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = str(ROOT)
    node = {'num_cpus': 1, 'num_gpus': 0, 'object_store_memory': 80 * 2**20,
            'include_dashboard': False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**{k: v for k, v in node.items() if k != 'include_dashboard'})
    yield str(cluster.address)
    cluster.shutdown()
    if before is None:
        del os.environ['PYTHONPATH']
    else:
        os.environ['PYTHONPATH'] = before


def fleet_of(path: Path, num_bags: int = 4, num_frames: int = 6) -> Path:
    rng = np.random.default_rng(0)
    for k in range(num_bags):
        with BagWriter(path / f'dive_{k}') as bag:
            for n in range(num_frames):
                pixels = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
                bag.write_image(CAMERA, 10**18 + n * 10**8, 'cam', pixels, 'bgr8')
    return path


def score(*words: object) -> int:
    return main(['score', *map(str, words), '--set', 'backend=onnxruntime'])


def parts_of(table: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in list_parts(table)}


@pytest.mark.timeout(120)
def test_a_cluster_gives_the_bytes_of_one_process_though_a_worker_is_killed(
    tmp_path: Path, tiny_bundle: Path, address: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    # Relative paths are also valid in a worker with another working folder.
    monkeypatch.chdir(tmp_path)
    fleet_of(tmp_path / 'fleet')
    fleet, model = Path('fleet'), tiny_bundle.relative_to(tmp_path)
    photos = fleet / 'photos'
    photos.mkdir()
    noise = np.random.default_rng(1).integers(0, 256, (NUM_PHOTOS, 48, 64, 3), np.uint8)
    for k, pixels in enumerate(noise):
        cv2.imwrite(str(photos / f'{k:03}.png'), pixels)
    table, killed = Path('table'), []

    def kill_the_reader() -> None:
        while not (drafts := [path for path in table.glob('.photos*.tmp')
                              if '.count.' not in path.name]):
            time.sleep(0.01)
        killed.append(int(drafts[0].name.split('.')[-2]))
        os.kill(killed[0], signal.SIGKILL)

    table.mkdir()
    killer = threading.Thread(target=kill_the_reader, daemon=True)
    killer.start()
    assert score(fleet, '--out', table, '--set', f'model={model}', '--ray', address) == 0
    killer.join()
    summary: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(killed) == 1
    assert (summary['num_sources'], summary['num_scored'], summary['broken']) == (
        5, 24 + NUM_PHOTOS, 0)
    assert score(fleet, '--out', table, '--set', f'model={model}', '--ray', address) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])['num_kept'] == 5
    assert score(fleet, '--out', tmp_path / 'here', '--set', f'model={model}') == 0
    assert parts_of(table) == parts_of(tmp_path / 'here')


def test_an_error_in_a_worker_is_one_sentence(
    tmp_path: Path, tiny_bundle: Path, address: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    from uncertainty_seg.data import scoring

    # As on a machine without access to the folder: the worker finds no lock.
    monkeypatch.setattr(scoring, 'LOCK_FILE', '.elsewhere')
    fleet = fleet_of(tmp_path / 'fleet', 1)
    assert score(fleet, '--out', tmp_path / 'table', '--set', f'model={tiny_bundle}',
                 '--ray', address) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith('uncertainty_seg score: ')
    assert str(tmp_path) in line


def test_no_cluster_at_the_address_is_one_sentence(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def refuse(**_: object) -> None:
        raise ConnectionError('Could not find any running Ray instance. Please specify')

    monkeypatch.setattr(ray, 'init', refuse)
    fleet = fleet_of(tmp_path / 'fleet', 1)
    assert score(fleet, '--out', tmp_path / 'table', '--set', f'model={tiny_bundle}',
                 '--ray', 'auto') == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "'auto'" in line and '(Could not find any running Ray instance)' in line
    assert 'ray start --head' in line
