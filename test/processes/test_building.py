# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A signal at any instant of an engine's build, whose thread stays in C code and reports nothing.

TensorRT needs a GPU; a derivation of a key takes its place, which like TensorRT's build runs for
minutes on a core and without the lock of the interpreter.

"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import random
import signal
import time

from conftest import make_tiny_bundle
import pytest
from ros_helpers import Client, needs_ros, node_arguments, own_domain, Process

pytestmark = needs_ros
RIG = str(Path(__file__).resolve().parents[1] / 'rigs' / 'ros_engine_node.py')
# A quiet machine needs 0.7 s.
LONGEST_S = 15.0


@pytest.fixture(scope='module')
def domain() -> Iterator[int]:
    with own_domain() as number:
        yield number


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_build_with_a_last_false(
    tmp_path: Path, domain: int, number: int
) -> None:
    from std_msgs.msg import Bool

    (tmp_path / 'order').write_text('native')
    words = node_arguments(make_tiny_bundle(tmp_path / 'tiny'), [RIG], backend='tensorrt')
    client = Client(domain)
    process = Process(words, domain, tmp_path / 'log',
                      {'UNCERTAINTY_SEG_TEST_BUILD': str(tmp_path)})
    try:
        client.watched = process
        flags = client.listen('/uncertainty_seg/confident', Bool)
        client.wait_for_topics('/uncertainty_seg/confident')
        client.wait_until((tmp_path / 'begun').exists, 'the build')
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
        assert 'the node was told to stop during configure' in process.output
        assert not (tmp_path / 'ended').exists() and 'Traceback' not in process.output
    finally:
        client.close()
        process.end()
