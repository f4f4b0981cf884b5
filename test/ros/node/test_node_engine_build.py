# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A node whose engine is missing builds it aloud: the flag is down and says why until it is up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import signal
import time
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    image_message,
    needs_ros,
    node_arguments,
    own_domain,
    Process,
    solid,
    values_of,
)

pytestmark = needs_ros
NODE = [str(Path(__file__).resolve().parents[2] / 'rigs' / 'ros_engine_node.py')]
STALE_TIMEOUT_S = 2.0


class Rig:

    def __init__(self, process: Process, client: Client, folder: Path) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from std_msgs.msg import Bool

        self.process, self.client, self.folder = process, client, folder
        self.status = client.listen('/uncertainty_seg/status', DiagnosticArray)
        self.health = client.listen('/diagnostics', DiagnosticArray)
        self.flags: list[tuple[float, bool]] = []
        client.node.create_subscription(Bool, '/uncertainty_seg/confident', self._on_flag, 10)

    def _on_flag(self, msg: Any) -> None:
        self.flags.append((time.monotonic(), msg.data))

    def order(self, words: str) -> None:
        """Tell the builder what to do next; whole or not at all."""
        draft = self.folder / 'draft'
        draft.write_text(words)
        os.replace(draft, self.folder / 'order')

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return self.client.wait_until(condition, what)

    def wait_for_reason(self, text: str) -> Any:
        before = len(self.status)
        return self.wait(
            lambda: [s for s in self.status[before:] if text in s.status[0].message],
            f'a status with {text!r}')[0]

    def wait_for_health(self, text: str) -> Any:
        before = len(self.health)
        return self.wait(
            lambda: [h for h in self.health[before:] if text in h.status[0].message],
            f'diagnostics with {text!r}')[0]

    def raise_flag(self) -> None:
        second = iter(range(1000, 100000))

        def is_up() -> bool:
            stamp = next(second) * 10**9
            self.client.camera.publish(image_message(solid(0, 0, 255), stamp))
            self.client.spin(0.1)
            return self.flags[-1][1]
        self.wait(is_up, 'the flag to be up')

    @property
    def num_builds(self) -> int:
        return len((self.folder / 'begun').read_text().splitlines())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a node and its client."""
    make_tiny_bundle(tmp_path / 'tiny')

    @contextmanager
    def run(**parameters: Any) -> Iterator[Rig]:
        with own_domain() as domain:
            arguments = node_arguments(tmp_path / 'tiny', NODE, backend='tensorrt',
                                       stale_timeout_s=STALE_TIMEOUT_S, gate__rise_frames=1,
                                       **parameters)
            process = Process(arguments, domain, tmp_path / 'log',
                              {'UNCERTAINTY_SEG_TEST_BUILD': str(tmp_path)})
            client = Client(domain, process)
            try:
                yield Rig(process, client, tmp_path)
            finally:
                client.close()
                process.end()

    yield run


@pytest.mark.release
def test_while_it_builds_the_flag_is_down_and_says_how_far_it_is(start: Any) -> None:
    with start() as rig:
        rig.wait_for_reason('building engine (0 %)')
        rig.order('0.42 trunk: Computing profile costs')
        rig.wait_for_reason('building engine (42 %)')
        health = rig.wait_for_health('building engine (42 %)')
        values = values_of(health)
        assert values['engine_build_percent'] == '42'
        assert values['engine_build_phase'] == 'trunk: Computing profile costs'
        assert (values['confident'], values['state']) == ('false', 'unconfigured')
        # Frames that come meanwhile change nothing, and the deadline of the flag is kept.
        begun, before = time.monotonic(), len(rig.flags)
        while time.monotonic() < begun + STALE_TIMEOUT_S:
            rig.client.camera.publish(image_message(solid(0, 0, 255), 10**9))
            rig.client.spin(0.1)
        times = [at for at, _ in rig.flags[before:]]
        assert max(b - a for a, b in zip(times, times[1:], strict=False)) < STALE_TIMEOUT_S
        assert not any(flag for _, flag in rig.flags)
        assert (rig.folder / 'begun').read_text() == 'engine-build\n'

        rig.order('finish')
        rig.client.wait_for_camera_match()
        rig.raise_flag()
        health = rig.wait_for_health('active')
        assert 'engine_build_percent' not in values_of(health)
        assert rig.num_builds == 1
        output = rig.process.output
        assert 'is missing. Building it now, which may take minutes' in output
        assert 'engine built in' in output and 'Traceback' not in output


@pytest.mark.release
@pytest.mark.parametrize('order, reason', [
    ('fail', 'the builder failed on command'),
    ('crash', 'the engine cannot be built (ZeroDivisionError: nobody expected this)'),
])
def test_a_build_that_fails_is_said_and_can_be_tried_again(
        start: Any, order: str, reason: str) -> None:
    with start(autostart=False) as rig:
        rig.wait_for_reason('the node is unconfigured')
        assert not (rig.folder / 'begun').exists()
        answer = rig.client.ask_state('configure')
        rig.wait_for_reason('building engine (0 %)')
        rig.order(order)
        rig.wait(answer.done, 'the answer to configure')
        assert not answer.result().success
        rig.wait_for_reason(reason)
        health = rig.wait_for_health('unconfigured')
        assert 'engine_build_percent' not in values_of(health)
        assert rig.client.state() == 'unconfigured'

        rig.order('finish')
        assert rig.client.change_state('configure') and rig.client.change_state('activate')
        rig.client.wait_for_camera_match()
        rig.raise_flag()
        # Once it is built it is only opened.
        assert rig.client.change_state('deactivate') and rig.client.change_state('cleanup')
        assert rig.client.change_state('configure')
        assert rig.num_builds == 2


@pytest.mark.release
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_is_told_to_end_gives_the_build_up(start: Any, number: int) -> None:
    with start() as rig:
        rig.order('0.1 trunk: parsing')
        rig.wait_for_reason('building engine (10 %)')
        assert rig.process.interrupt(number) == 0
        assert (rig.folder / 'ended').read_text() == '_Stopped'
        assert not any(flag for _, flag in rig.flags)
        assert 'the node is stopping before its engine was built' in rig.process.output
        assert 'Traceback' not in rig.process.output


@pytest.mark.release
def test_a_build_that_reports_nothing_does_not_keep_the_node(start: Any) -> None:
    with start() as rig:
        rig.order('hang')
        rig.wait_for_reason('building engine (0 %)')
        assert rig.process.interrupt() == 0
        assert not (rig.folder / 'ended').exists()
        assert 'the node was told to stop during configure' in rig.process.output
