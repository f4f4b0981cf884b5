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
GOVERNOR = ['-m', 'uncertainty_seg.ros.governor.node']


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


def _missing(bundle: Path) -> None:
    (bundle / 'head.onnx').unlink()


def _truncated(bundle: Path) -> None:
    data = (bundle / 'trunk.onnx').read_bytes()
    (bundle / 'trunk.onnx').write_bytes(data[: len(data) // 2])


def _tampered(bundle: Path) -> None:
    with (bundle / 'head.onnx').open('ab') as file:
        file.write(b'x')


def _uncalibrated(bundle: Path) -> None:
    make_tiny_bundle(bundle, calibrated=False)


def _calibration_gone(bundle: Path) -> None:
    (bundle / 'calibration.json').unlink()


@pytest.mark.release
@pytest.mark.parametrize(
    ('damage', 'sentence'),
    [
        (_missing, 'head.onnx is missing'),
        (_truncated, 'was truncated or changed'),
        (_tampered, 'was truncated or changed'),
        (_uncalibrated, 'has no calibration.json'),
        (_calibration_gone, 'calibration.json is missing'),
    ],
)
def test_a_damaged_bundle_is_one_sentence_and_exit_code_1(
    tmp_path: Path, domain: int, damage: Any, sentence: str
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    damage(bundle)
    code, output = run(node_arguments(bundle), domain, tmp_path)
    assert code == 1
    assert_one_sentence(output, sentence)


@pytest.mark.parametrize(
    ('parameters', 'sentence'),
    [
        ({'passes': 0}, 'passes is 0, expected at least 1'),
        ({'gate__threshold_scale': '.nan'}, 'gate.threshold_scale is nan'),
        ({'backend': 'abacus'}, "backend is 'abacus', expected one of"),
    ],
)
def test_a_bad_parameter_is_one_sentence_and_exit_code_2(
    tmp_path: Path, domain: int, parameters: dict[str, Any], sentence: str
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    code, output = run(node_arguments(bundle, **parameters), domain, tmp_path)
    assert code == 2
    assert_one_sentence(output, sentence)


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
            assert one['promise'] == 'no promise: the bundle has no calibration'
            assert one['kind'] == 'unknown' and 0 < float(one['score.entropy.mean']) < 0.7
        client.wait_until(lambda: any('no promise' in entry.message for msg in health
                                      for entry in msg.status), 'the warning')
        assert flags and not any(msg.data for msg in flags)
    finally:
        client.close()
        process.end()


@pytest.mark.parametrize(('model', 'sentence'), [
    ('', 'no model is named, expected'), ('dolphin', "no model 'dolphin', expected"),
    ('/no/such/folder', "no model '/no/such/folder', expected"),
    ('.', 'holds no card.json, expected')])
def test_a_model_that_is_not_there_is_one_sentence_and_exit_code_2(
    tmp_path: Path, domain: int, model: str, sentence: str
) -> None:
    words = [*NODE, '--ros-args', *(['-p', f'model:={model}'] if model else [])]
    code, output = run(words, domain, tmp_path)
    assert code == 2
    assert_one_sentence(output, sentence)
    assert 'a shipped name (pipeline, pipeline_fp16, suim, suim_fp16)' in output


@pytest.mark.release
@pytest.mark.parametrize('program', [NODE, GOVERNOR])
@pytest.mark.parametrize('key', ['/auv1/uncertainty_seg', 'uncertainty_segg', ''])
def test_a_parameter_file_that_says_nothing_to_the_node_is_one_sentence(
    tmp_path: Path, domain: int, key: str, program: list[str]
) -> None:
    file = tmp_path / 'parameters.yaml'
    file.write_text(f'{key}:\n  ros__parameters:\n    seed: 1\n' if key else '')
    code, output = run(
        [*program, '--ros-args', '-p', 'autostart:=false', '--params-file', str(file)],
        domain, tmp_path)
    assert code == 2
    assert_one_sentence(output, f'{file} holds')


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
        line = (f'model {bundle}, named by the file {file}, from {bundle}; '
                f'promise: {values["promise"]}')
        assert process.output.count(line) == 1
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
    assert_one_sentence(output, 'is not signed, expected a signature of one of the trusted_keys')
    sign_bundle(bundle, keys[1])
    code, output = run(arguments, domain, tmp_path)
    assert code == 1
    assert_one_sentence(output, 'is signed by none of the 1 trusted_keys')
    sign_bundle(bundle, keys[0])
    process = Process(arguments, domain, tmp_path / 'log')
    client = Client(domain, process)
    try:
        client.wait_for_camera_match()
    finally:
        client.close()
        process.end()


def test_a_parameter_that_does_not_fit_the_calibration_is_one_sentence(
    tmp_path: Path, domain: int
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    code, output = run(node_arguments(bundle, passes=5), domain, tmp_path)
    assert code == 1
    assert_one_sentence(output, 'passes is 5, but')


def test_a_parameter_file_that_is_missing_is_exit_code_2(tmp_path: Path, domain: int) -> None:
    arguments = ['-m', 'uncertainty_seg.ros.node', '--ros-args', '--params-file',
                 str(tmp_path / 'none.yaml')]
    code, output = run(arguments, domain, tmp_path)
    assert code == 2
    assert_one_sentence(output, 'none.yaml is not there')


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
