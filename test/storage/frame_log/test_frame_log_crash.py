# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Killed writers, and a disk that is full, read-only or removed: real processes and disks."""

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
RIGS = ROOT / 'test' / 'rigs'


def run(*command: str) -> Any:
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120,
                          env={**os.environ, 'PYTHONPATH': path})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def require_mounts(folder: Path) -> None:
    """Skip the test if this user may not mount in a private namespace."""
    if shutil.which('unshare') is None:
        pytest.skip('needs unshare')
    probe = ['unshare', '-m', 'mount', '-t', 'tmpfs', 'tmpfs', str(folder)]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f'may not mount here: {done.stderr.strip()}')


@pytest.mark.release
def test_a_killed_writer_loses_no_finished_frame_and_shows_no_half_one(tmp_path: Path) -> None:
    # docs/guides/frame_log.md reports a manual run of 200 rounds.
    report = run(sys.executable, str(RIGS / 'frame_log_crasher.py'), str(tmp_path), '20', '4')
    assert report['kills'] == 20
    # Some kills happened after frames were written.
    assert report['told'] > 0


@pytest.fixture(scope='module')
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run one log through all faults of its disk; return the state at each stage."""
    folder = tmp_path_factory.mktemp('disk')
    require_mounts(folder)
    found = run('unshare', '-m', sys.executable, str(RIGS / 'frame_log_disk_rig.py'), str(folder))
    assert not any(folder.iterdir())  # the mounts were private
    return {stage['stage']: stage for stage in found}


def test_others_fill_the_disk(stages: dict[str, Any]) -> None:
    plain, now = stages['plain'], stages['others fill it']
    assert (plain['writing'], plain['error'], plain['kept'], plain['whole']) == (True, '', 3, 3)
    # The log stops growing, and better frames replace others.
    assert now['writing'] and now['error'] == '' and now['kept'] == 11
    assert now['whole'] == 11 - now['evicted'] and 3 <= now['whole'] < 11


def test_a_full_disk(stages: dict[str, Any]) -> None:
    before, full, again = stages['others fill it'], stages['full'], stages['room again']
    assert not full['writing']
    assert 'full' in full['error']
    assert full['dropped'] == {'disk_full': 3} and full['whole'] == before['whole']
    assert again['writing'] and again['error'] == '' and again['whole'] == before['whole'] + 2


def test_a_disk_made_read_only(stages: dict[str, Any]) -> None:
    before, now = stages['room again'], stages['read-only']
    assert not now['writing'] and 'its disk is read-only: mount it for writing' in now['error']
    assert now['dropped']['read_only'] == 4 and now['whole'] == before['whole']
    again = stages['writable again']
    assert again['writing'] and again['error'] == ''
    # The smaller quota, set meanwhile, is in force.
    assert again['whole'] == 4


def test_a_disk_taken_away(stages: dict[str, Any]) -> None:
    gone, back = stages['taken away'], stages['put back']
    assert back['kept'] == gone['kept'] + 1
    assert not gone['writing'] and 'its disk is missing: mount it again' in gone['error']
    assert gone['dropped']['folder_missing'] == 4
    assert gone['empty'], 'the log was begun again on the disk below'
    assert back['writing'] and back['error'] == '' and back['whole'] == 4
