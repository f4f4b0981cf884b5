# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A network that fails, lies or hangs, in the real node: the flag falls, and the node lives on."""

from collections.abc import Iterator
import os
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_fault_node_commands import FAILS, GIVES_NAN, SURPRISES, WAITS
from ros_helpers import (
    Client,
    FAULT_NODE,
    image_message,
    needs_ros,
    node_arguments,
    own_domain,
    Process,
    solid,
    values_of,
)

pytestmark = needs_ros
STALE_TIMEOUT_S = 2.0


class Rig:

    def __init__(self, process: Process, client: Client, release: Path) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import Image
        from std_msgs.msg import Bool

        self.process, self.client, self.release = process, client, release
        self.flags = client.listen('/uncertainty_seg/confident', Bool)
        self.status = client.listen('/uncertainty_seg/status', DiagnosticArray)
        self.masks = client.listen('/uncertainty_seg/mask', Image)
        self.health = client.listen('/diagnostics', DiagnosticArray)
        self._second = 1000
        client.wait_for_camera_match()
        client.wait_for_topics('/uncertainty_seg/mask', '/diagnostics')
        self.recover()

    def send(self, green: int, red: int = 0) -> int:
        """Publish a frame; returns the seconds of its stamp."""
        self._second += 1
        self.client.camera.publish(image_message(solid(0, green, red), self._second * 10**9))
        return self._second

    def answer(self, second: int) -> Any:
        return self.wait(lambda: [s for s in self.status if s.header.stamp.sec == second],
                         f'the status of frame {second}')[0]

    def wait(self, condition: Any, what: str) -> Any:
        return self.client.wait_until(condition, what)

    def wait_for_flag(self, expected: bool) -> None:
        self.wait(lambda: self.flags and self.flags[-1].data is expected, f'flag {expected}')

    def wait_for_reason(self, text: str) -> Any:
        """Wait for a status from now on whose reason holds the text."""
        num_before = len(self.status)
        return self.wait(
            lambda: [s for s in self.status[num_before:] if text in s.status[0].message],
            f'a status with {text!r}')[0]

    def recover(self) -> None:
        """Send good frames until the flag is up and the mask arrives."""
        def is_up() -> bool:
            self.send(0, red=255)
            self.client.spin(0.1)
            return bool(self.flags and self.flags[-1].data and self.masks)
        self.wait(is_up, 'the flag to be up')

    def counts(self, name: str) -> int:
        """Return a count from diagnostics that are sent from now on."""
        num_before = len(self.health)
        self.wait(lambda: len(self.health) > num_before + 1, 'diagnostics')
        return int(values_of(self.health[-1])[name])


@pytest.fixture(scope='module')
def rig(tmp_path_factory: Any) -> Iterator[Rig]:
    folder: Path = tmp_path_factory.mktemp('faults')
    release = folder / 'release'
    os.environ['UNCERTAINTY_SEG_TEST_RELEASE'] = str(release)
    bundle = make_tiny_bundle(folder / 'tiny')
    with own_domain() as domain:
        arguments = node_arguments(bundle, FAULT_NODE, stale_timeout_s=STALE_TIMEOUT_S,
                                   gate__rise_frames=1, stuck_timeout_s=0.0)
        process = Process(arguments, domain, folder / 'log')
        client = Client(domain, process)
        try:
            yield Rig(process, client, release)
        finally:
            release.touch()
            client.close()
            process.end()


@pytest.mark.parametrize(
    ('command', 'reason'),
    [(FAILS, 'the engine failed on command'),
     (GIVES_NAN, 'entropy nan'), (SURPRISES, 'ZeroDivisionError: nobody expected this')],
)
def test_an_engine_fault_is_false_with_its_reason_and_the_node_recovers(
    rig: Rig, command: int, reason: str
) -> None:
    rig.recover()
    status = rig.answer(rig.send(command))
    assert reason in status.status[0].message
    assert values_of(status)['kind'] == 'fault'
    rig.wait_for_flag(False)

    def is_an_error() -> bool:
        rig.send(command)
        rig.client.spin(0.2)  # often enough for the watchdog
        told = rig.health[-1].status[0]
        return told.level == b'\x02' and reason in told.message
    rig.wait(is_an_error, 'an error in the diagnostics')
    rig.recover()
    assert rig.counts('frames_faulty') > 0


def test_a_result_that_cannot_be_is_not_shown(rig: Rig) -> None:
    rig.answer(rig.send(GIVES_NAN))
    second = rig.send(0, red=255)
    rig.wait(lambda: [m for m in rig.masks if m.header.stamp.sec == second], 'the next mask')
    assert not [m for m in rig.masks if m.header.stamp.sec == second - 1]


def test_a_callback_that_raises_is_false_and_the_node_lives_on(rig: Rig) -> None:
    rig.recover()
    rig.client.camera.publish(image_message(solid(0, 0, 0), 1, 'raise'))
    rig.wait_for_reason('internal error, see the log')
    assert 'the callback fails on command' in rig.process.output
    rig.recover()


def test_a_hanging_engine_lets_the_flag_fall_and_only_the_newest_frame_follows(
    rig: Rig,
) -> None:
    rig.release.unlink(missing_ok=True)
    rig.recover()
    hanging = rig.send(WAITS)
    rig.wait_for_reason('a frame has been in work too long')
    rig.wait_for_flag(False)
    num_masks, num_dropped = len(rig.masks), rig.counts('frames_dropped')
    burst = []
    for _ in range(20):
        burst.append(rig.send(0, red=255))
        rig.client.spin(0.02)  # as a camera would, not all at once
    assert rig.counts('frames_dropped') > num_dropped
    rig.release.touch()
    rig.wait(lambda: [m for m in rig.masks if m.header.stamp.sec == burst[-1]], 'the newest frame')
    assert [m.header.stamp.sec for m in rig.masks[num_masks:]] == [hanging, burst[-1]]
    assert 'no verdict for 2 s' in rig.answer(hanging).status[0].message
    rig.recover()


def test_the_flag_falls_before_a_transition_waits_for_the_engine(rig: Rig) -> None:
    rig.release.unlink(missing_ok=True)
    waits = rig.release.with_suffix('.waits')
    waits.unlink(missing_ok=True)
    rig.recover()
    rig.send(WAITS)
    rig.wait(waits.exists, 'the engine to hang')
    future = rig.client.ask_state('deactivate')
    rig.wait_for_reason('the node is stopping')
    rig.wait_for_flag(False)
    assert not future.done()
    # Only now: had the flag waited for the engine, the node would have given it up by then.
    rig.release.touch()
    assert rig.wait(future.done, 'the answer') and future.result().success
    assert 'the engine does not return' not in rig.process.output
    assert rig.client.change_state('activate')
    rig.client.wait_for_camera_match()
    rig.recover()


@pytest.mark.release
def test_a_transition_does_not_wait_for_ever_for_a_hanging_engine(rig: Rig) -> None:
    # The last test here: it takes the engine the others need.
    rig.release.unlink(missing_ok=True)
    rig.recover()
    hanging = rig.send(WAITS)
    rig.wait_for_reason('a frame has been in work too long')
    assert rig.client.change_state('deactivate')
    rig.wait_for_reason('the node is inactive')
    assert not rig.client.change_state('activate')
    assert 'clean the node up and configure it again' in rig.process.output
    assert rig.client.change_state('cleanup')
    assert rig.client.change_state('configure')
    assert rig.client.change_state('activate')
    rig.client.wait_for_camera_match()
    rig.recover()
    rig.release.touch()
    rig.recover()
    assert hanging not in [m.header.stamp.sec for m in rig.masks]
    assert hanging not in [s.header.stamp.sec for s in rig.status]
