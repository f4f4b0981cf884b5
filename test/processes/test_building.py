# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A signal at any instant of an engine's build, whose thread stays in C code and reports nothing.

There are two builders: a derivation of a key, which like TensorRT's build runs for minutes on a
core and without the lock of the interpreter; and TensorRT-RTX itself, which builds for GPUs that
are not here. TensorRT needs one.

"""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    HAS_ROS,
    node_arguments,
    own_domain,
    Process,
    ROOT,
    SKIP_REASON,
)

RIG = str(Path(__file__).resolve().parents[1] / 'rigs' / 'ros_engine_node.py')
# A quiet machine needs 0.7 s.
LONGEST_S = 15.0
# A verb that goes on for longer after a signal was not just about to end.
DONE_S = 0.3
RTX = os.environ.get('UNCERTAINTY_SEG_RTX17', '')
PATH = os.pathsep.join(filter(None, [str(ROOT), RTX, os.environ.get('PYTHONPATH', '')]))
WITH_RTX = [pytest.mark.release, pytest.mark.skipif(
    not RTX, reason='TensorRT-RTX is not here (UNCERTAINTY_SEG_RTX17)')]


@pytest.fixture(scope='module')
def domain() -> Iterator[int]:
    with own_domain() as number:
        yield number


@pytest.mark.release
@pytest.mark.parametrize('builder', ['native', pytest.param('rtx', marks=WITH_RTX)])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.ros
@pytest.mark.skipif(not HAS_ROS, reason=SKIP_REASON)
def test_a_signal_leaves_the_build_with_a_last_false(
    tmp_path: Path, domain: int, number: int, builder: str
) -> None:
    from std_msgs.msg import Bool

    (tmp_path / 'order').write_text(builder)
    words = node_arguments(make_tiny_bundle(tmp_path / 'tiny'), [RIG], backend='tensorrt')
    client = Client(domain)
    process = Process(words, domain, tmp_path / 'log',
                      {'UNCERTAINTY_SEG_TEST_BUILD': str(tmp_path), 'PYTHONPATH': PATH})
    try:
        client.watched = process
        flags = client.listen('/uncertainty_seg/confident', Bool)
        client.wait_for_topics('/uncertainty_seg/confident')
        begun = tmp_path / {'native': 'begun', 'rtx': 'real'}[builder]
        client.wait_until(begun.exists, 'the build')
        client.spin(random.Random(number).uniform(0.0, 3.0))
        flags.clear()
        start_s = time.monotonic()
        client.watched = None
        process.send_signal(number)
        client.wait_until(lambda: not process.is_running, 'the end')
        assert time.monotonic() - start_s < LONGEST_S
        assert process.wait() == 0, process.output
        client.wait_until(lambda: flags, 'the last flag')
        assert not any(flag.data for flag in flags)
        assert 'Traceback' not in process.output
        if builder == 'native':  # the other one may report before it is left, and ends then
            assert 'the node was told to stop during configure' in process.output
            assert not (tmp_path / 'ended').exists()
    finally:
        client.close()
        process.end()


@pytest.mark.release
@pytest.mark.skipif(not RTX, reason='TensorRT-RTX is not here (UNCERTAINTY_SEG_RTX17)')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('seed', range(4))
def test_a_signal_ends_the_verb_that_builds_and_no_half_engine_is_left(
    tmp_path: Path, seed: int, number: int
) -> None:
    delay_s = random.Random(2 * seed + (number == signal.SIGINT)).uniform(0.0, 2.0)
    for attempt in range(5):  # a quick machine may be done before the signal
        cache = tmp_path / str(attempt)
        code, output, said, took_s = interrupted_build(cache, delay_s / 2**attempt, number)
        assert took_s < LONGEST_S
        # In its last milliseconds Python has no handlers any more.
        if code not in (0, -number) or took_s > DONE_S:
            break
    assert code == 128 + number, said
    assert output == '' and said.splitlines()[-1] == 'stopped' and 'Traceback' not in said
    whole = {path.stem for path in cache.glob('*.json')}
    assert {path.stem for path in cache.glob('*.engine')} == whole
    assert not [path for path in cache.iterdir()
                if path.suffix not in ('.json', '.engine', '.lock')]


def interrupted_build(cache: Path, delay_s: float, number: int) -> tuple[int, str, str, float]:
    """Return exit code, stdout, stderr, and the seconds from the signal to the end."""
    cache.mkdir()
    words = [sys.executable, '-m', 'uncertainty_seg', 'self-check', 'pipeline', '--cache',
             str(cache), '--compute-capability', '8.6,8.9,12.0']
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE,
                          env={**os.environ, 'PYTHONPATH': PATH}) as process:
        while not list(cache.glob('*.lock')):  # of the first build
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(delay_s)
        process.send_signal(number)
        start_s = time.monotonic()
        output, said = process.communicate(timeout=60)
        return process.returncode, output, said, time.monotonic() - start_s
