# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Start of the node: every error gives one sentence and an exit code."""

import ctypes
from pathlib import Path
import subprocess
import sys
from typing import Any

from conftest import make_tiny_bundle
from old_bundles import old_bundle
import pytest
from ros_helpers import node_arguments, Process
from ros_node_rig import node_rig

from uncertainty_seg.errors import BackendError, BackendUnavailableError, ConfigError
from uncertainty_seg.ros.node_life import exit_code


def run(arguments: list[str], domain: int, folder: Path) -> tuple[int, str]:
    with Process(arguments, domain, folder / 'log') as process:
        return process.wait(), process.output


def assert_one_sentence(output: str, sentence: str) -> None:
    # ONNX Runtime may print lines first, and the node warns that these tests disable checks.
    lines = [line for line in output.splitlines()
             if line.strip() and '[INFO]' not in line and 'max_repeats is -1' not in line]
    assert len(lines) == 1, output
    assert sentence in lines[0]
    assert 'Traceback' not in output


@pytest.mark.parametrize(('change', 'words', 'code', 'named'), [
    (lambda bundle: make_tiny_bundle(bundle, calibrated=False), [], 2, 'calibration.json'),
    (old_bundle, [], 2, 'schema 1'),
    (lambda bundle: (bundle / 'trunk.onnx').write_bytes(b'other'), [], 2, 'trunk.onnx'),
    (None, ['-p', 'passes:=5'], 2, 'passes is 5'),
    (None, ['-p', 'ignore_mask:=/none.png'], 2, '/none.png'),
    (None, ['-p', 'log.folder:=/dev/null/log'], 2, '/dev/null/log'),
    (None, ['-p', 'backend:=tensorrt'], 2, 'NVIDIA'),
    (None, ['--params-file', 'MISSPELT'], 2, 'gate.treshold_scale'),
    (None, ['--params-file', '/none.yaml'], 2, '/none.yaml'),
    (None, ['-p', 'model:=dolphin'], 2, "'dolphin'"),
    (None, ['-r', '~/verdict:=/x', '-r', '~/confident:=/x'], 2, '/x is a topic of'),
    (None, ['-p', 'cameras:=[a, b]', '-r', 'a/image:=/c', '-r', 'b/image:=/c'], 2, 'cameras a, b'),
    pytest.param(None, ['--params-file', 'FILE'], 2, 'auv1', marks=pytest.mark.release),
    pytest.param(None, ['-p', 'seed:=99999999999999999999'], 2, 'seed', marks=pytest.mark.release),
    pytest.param(None, ['-p', 'use_sim_time:=5'], 2, 'use_sim_time', marks=pytest.mark.release),
])
def test_what_cannot_be_started_is_one_sentence_with_its_exit_code(
    tmp_path: Path, domain: int, change: Any, words: list[str], code: int, named: str
) -> None:
    bundle, file = make_tiny_bundle(tmp_path / 'tiny'), tmp_path / 'parameters.yaml'
    is_misspelt = 'MISSPELT' in words
    key, line = ('/**', 'gate.treshold_scale: 0.5') if is_misspelt else (
        '/auv1/uncertainty_seg', 'seed: 1')
    file.write_text(f'{key}:\n  ros__parameters:\n    {line}\n')
    if change is not None:
        change(bundle)
    given = [str(file) if word in ('FILE', 'MISSPELT') else word for word in words]
    got, output = run([*node_arguments(bundle), *given], domain, tmp_path)
    assert got == code
    assert_one_sentence(output, named)


def test_a_node_told_to_run_without_a_calibration_publishes_scores_and_never_true(
    tmp_path: Path
) -> None:
    make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    with node_rig(tmp_path, uncalibrated='run', gate__rise_frames=1, damage_scale=0.0,
                  stale_timeout_s=600.0) as rig:
        rig.client.wait_for_camera_match()
        for _ in range(4):
            values = rig.verdict()  # red, for which a calibrated node is confident
            assert 'no promise' in values['promise'] and values['kind'] == 'unknown'
            assert 0 < float(values['score.entropy.mean']) < 0.7
        rig.wait(lambda: any('no promise' in entry.message for msg in rig.health
                             for entry in msg.status), 'the warning')
        assert rig.flags and not any(msg.data for msg in rig.flags)


def test_a_node_with_trusted_keys_starts_with_what_they_signed_alone(
    tmp_path: Path, domain: int
) -> None:
    pytest.importorskip('cryptography')
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from uncertainty_seg.storage.model_bundle import sign_bundle
    from uncertainty_seg.storage.signatures import public_line

    keys = [Ed25519PrivateKey.generate() for _ in range(2)]
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    arguments = node_arguments(bundle, trusted_keys=f"['{public_line(keys[0])}']")
    code, output = run(arguments, domain, tmp_path)
    assert code == 2
    assert_one_sentence(output, 'trusted_keys')
    sign_bundle(bundle, keys[1])
    code, output = run(arguments, domain, tmp_path)
    assert code == 2
    assert_one_sentence(output, 'trusted_keys')
    sign_bundle(bundle, keys[0])
    with node_rig(tmp_path, trusted_keys=f"['{public_line(keys[0])}']") as rig:
        rig.client.wait_for_camera_match()


def test_only_what_may_heal_is_started_again() -> None:
    healing = BackendError('the driver hung'), ValueError('a bug'), None
    lasting = BackendUnavailableError('no device'), ConfigError('passes is 0')
    assert [exit_code(err) for err in (*healing, *lasting)] == [1, 1, 1, 2, 2]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'malloc_info'), reason='not glibc')
def test_threads_share_few_heaps(tmp_path: Path) -> None:
    """Without the limit each thread has a heap, and a node's memory grew for 25 minutes."""
    script = (
        'import ctypes, sys, threading\n'
        'from uncertainty_seg.ros.node import keep_frames_on_the_heap\n'
        'keep_frames_on_the_heap()\n'
        'libc, wait = ctypes.CDLL(None), threading.Barrier(9)\n'
        'def work():\n'
        '    libc.malloc(50_000), wait.wait(), wait.wait()\n'
        'for _ in range(8):\n'
        '    threading.Thread(target=work).start()\n'
        'wait.wait()\n'
        'libc.fopen.restype = ctypes.c_void_p\n'
        'file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))\n'
        'libc.malloc_info(0, file), libc.fclose(file), wait.wait()\n')
    told = tmp_path / 'heaps.xml'
    subprocess.run([sys.executable, '-c', script, str(told)], check=True, timeout=60)
    assert 1 <= told.read_text().count('<heap ') <= 3  # 11 without
