# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""How the node starts and ends: one sentence and an exit code for whatever is wrong."""

from collections.abc import Iterator
from pathlib import Path
import signal
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    image_message,
    needs_ros,
    NODE,
    node_arguments,
    own_domain,
    Process,
    solid,
    values_of,
)

pytestmark = needs_ros


@pytest.fixture(scope='module')
def domain() -> Iterator[int]:
    with own_domain() as number:
        yield number


def run(arguments: list[str], domain: int, folder: Path) -> tuple[int, str]:
    process = Process(arguments, domain, folder / 'log')
    try:
        return process.wait(), process.output
    finally:
        process.end()


def assert_one_sentence(output: str, sentence: str) -> None:
    # ONNX Runtime's own lines may come first.
    lines = [line for line in output.splitlines() if line.strip() and '[INFO]' not in line]
    assert len(lines) == 1, output
    assert sentence in lines[0]
    assert 'Traceback' not in output


def _truncated(bundle: Path) -> None:
    data = (bundle / 'trunk.onnx').read_bytes()
    (bundle / 'trunk.onnx').write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(('change', 'words', 'code', 'named'), [
    (lambda bundle: make_tiny_bundle(bundle, calibrated=False), [], 1, 'calibration.json'),
    pytest.param(_truncated, [], 1, 'trunk.onnx', marks=pytest.mark.release),
    (None, ['-p', 'passes:=5'], 1, 'passes is 5'),
    pytest.param(None, ['-p', 'passes:=0'], 2, 'passes is 0', marks=pytest.mark.release),
    (None, ['--params-file', '/none.yaml'], 2, '/none.yaml'),
    pytest.param(None, ['--params-file', 'FILE'], 2, 'auv1', marks=pytest.mark.release),
    (None, ['-p', 'model:=dolphin'], 2, "'dolphin'"),
    pytest.param(None, ['-p', 'model:=.'], 2, 'card.json', marks=pytest.mark.release),
])
def test_what_cannot_be_started_is_one_sentence_with_its_exit_code(
    tmp_path: Path, domain: int, change: Any, words: list[str], code: int, named: str
) -> None:
    bundle, file = make_tiny_bundle(tmp_path / 'tiny'), tmp_path / 'parameters.yaml'
    file.write_text('/auv1/uncertainty_seg:\n  ros__parameters:\n    seed: 1\n')
    if change is not None:
        change(bundle)
    got, output = run([*node_arguments(bundle), *(str(file) if word == 'FILE' else word
                                                  for word in words)], domain, tmp_path)
    assert got == code
    assert_one_sentence(output, named)


def test_a_node_told_to_run_without_a_calibration_publishes_scores_and_never_true(
    tmp_path: Path, domain: int
) -> None:
    from diagnostic_msgs.msg import DiagnosticArray
    from std_msgs.msg import Bool

    bundle = make_tiny_bundle(tmp_path / 'tiny', calibrated=False)
    process = Process(node_arguments(bundle, uncalibrated='run', gate__rise_frames=1,
                                     damage_scale=0.0, stale_timeout_s=600.0),
                      domain, tmp_path / 'log')
    client = Client(domain, process)
    try:
        flags = client.listen('/uncertainty_seg/confident', Bool)
        status = client.listen('/uncertainty_seg/status', DiagnosticArray)
        health = client.listen('/diagnostics', DiagnosticArray)
        client.wait_for_camera_match()
        stamp_ns = 10**9

        def judged() -> list[dict[str, str]]:
            nonlocal stamp_ns
            stamp_ns += 10**9
            # Red, of which a calibrated node is confident.
            client.camera.publish(image_message(solid(0, 0, 255), stamp_ns))
            found = [values_of(msg) for msg in status]
            return [one for one in found if 'score.entropy.mean' in one]

        client.wait_until(lambda: len(judged()) >= 4, 'four frames')
        for one in judged():
            assert 'no promise' in one['promise']
            assert one['kind'] == 'unknown' and 0 < float(one['score.entropy.mean']) < 0.7
        client.wait_until(lambda: any('no promise' in entry.message for msg in health
                                      for entry in msg.status), 'the warning')
        assert flags and not any(msg.data for msg in flags)
    finally:
        client.close()
        process.end()


def test_the_model_its_source_and_its_promise_are_told(tmp_path: Path, domain: int) -> None:
    from diagnostic_msgs.msg import DiagnosticArray

    bundle = make_tiny_bundle(tmp_path / 'tiny')
    file = tmp_path / 'parameters.yaml'
    file.write_text(f'/**:\n  ros__parameters:\n    model: {bundle}\n')
    process = Process([*NODE, '--ros-args', '--params-file', str(file)], domain,
                      tmp_path / 'log')
    client = Client(domain, process)
    try:
        health = client.listen('/diagnostics', DiagnosticArray)
        client.wait_until(lambda: health and 'promise' in values_of(health[-1]), 'the promise')
        values = values_of(health[-1])
        assert values['model'] == values['model_folder'] == str(bundle)
        assert values['model_source'] == f'the file {file}'
    finally:
        client.close()
        process.end()


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
    assert code == 1
    assert_one_sentence(output, 'trusted_keys')
    sign_bundle(bundle, keys[1])
    code, output = run(arguments, domain, tmp_path)
    assert code == 1
    assert_one_sentence(output, 'trusted_keys')
    sign_bundle(bundle, keys[0])
    process = Process(arguments, domain, tmp_path / 'log')
    client = Client(domain, process)
    try:
        client.wait_for_camera_match()
    finally:
        client.close()
        process.end()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_with_a_last_false(
    tmp_path: Path, domain: int, number: int
) -> None:
    from diagnostic_msgs.msg import DiagnosticArray
    from std_msgs.msg import Bool

    bundle = make_tiny_bundle(tmp_path / 'tiny')
    process = Process(node_arguments(bundle), domain, tmp_path / 'log')
    client = Client(domain, process)
    try:
        flags = client.listen('/uncertainty_seg/confident', Bool)
        status = client.listen('/uncertainty_seg/status', DiagnosticArray)
        client.wait_for_camera_match()
        client.wait_until(lambda: flags and status, 'the flag')
        client.watched = None
        assert process.interrupt(number) == 0
        client.wait_until(lambda: 'shut down' in status[-1].status[0].message, 'the last word')
        assert not flags[-1].data
        assert 'Traceback' not in process.output
    finally:
        client.close()
        process.end()


def test_the_parameter_file_of_the_package_starts_the_node(tmp_path: Path, domain: int) -> None:
    root = Path(__file__).resolve().parents[3]
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    arguments = node_arguments(bundle)
    arguments += ['--params-file', str(root / 'config' / 'uncertainty_seg.yaml'),
                  '-p', f'model:={bundle}', '-p', 'backend:=onnxruntime']
    process = Process(arguments, domain, tmp_path / 'log')
    client = Client(domain, process)
    try:
        client.wait_for_camera_match()
        assert process.interrupt() == 0
        assert 'there is no parameter' not in process.output
    finally:
        client.close()
        process.end()
