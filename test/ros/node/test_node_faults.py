# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A network that fails, hangs or returns NaN: the real node's flag falls, and the node runs on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ros_fault_node_commands import FAILS, GIVES_NAN, SURPRISES, WAITS
from ros_helpers import FAULT_NODE, image_message, solid, values_of
from ros_node_rig import node_rig, NodeRig


class Rig:
    """A node whose network fails on command, by the green value of an image."""

    def __init__(self, rig: NodeRig, release: Path) -> None:
        self.node, self.client, self.release = rig, rig.client, release
        self.wait, self.of = rig.wait, rig.of
        rig.client.wait_for_camera_match()
        rig.client.wait_for_topics('/uncertainty_seg/mask', '/diagnostics')
        self.recover()

    def send(self, green: int = 0) -> Any:
        """Publish a frame with a command, or without `green` a good one."""
        return self.node.send(pixels=solid(0, green, 0 if green else 255))

    def hang(self) -> Any:
        """Send a frame with which the network hangs until `release` exists."""
        self.release.unlink(missing_ok=True)
        waits = self.release.with_suffix('.waits')
        waits.unlink(missing_ok=True)
        self.recover()
        msg = self.send(WAITS)
        self.wait(waits.exists, 'the engine to hang')
        return msg

    def recover(self) -> None:
        """Send good frames until the flag is true and a mask arrives."""
        self.node.raise_flag()
        self.wait(lambda: self.node.verdict() and self.node.masks, 'a mask')

    def masks_of(self, *frames: Any) -> list[Any]:
        """Return those of the frames that have a mask."""
        shown = [m.header.stamp for m in self.node.masks]
        return [frame for frame in frames if frame.header.stamp in shown]


@pytest.fixture(scope='module')
def rig(folder: Path) -> Iterator[Rig]:
    release = folder / 'release'
    with node_rig(folder, FAULT_NODE, stale_timeout_s=2.0,
                  gate__rise_frames=1, stuck_timeout_s=0.0) as found:
        try:
            yield Rig(found, release)
        finally:
            release.touch()


@pytest.mark.parametrize(
    ('command', 'reason'),
    [(FAILS, 'the engine failed on command'),
     (GIVES_NAN, 'entropy_nats nan'), (SURPRISES, 'ZeroDivisionError: nobody expected this')],
)
def test_an_engine_fault_is_false_with_its_reason_and_the_node_recovers(
    rig: Rig, command: int, reason: str
) -> None:
    rig.recover()
    faulty = rig.send(command)
    status = rig.of(faulty)
    assert reason in status.status[0].message and values_of(status)['kind'] == 'fault'

    def is_an_error() -> bool:
        rig.send(command)
        rig.client.spin(0.2)  # frequent enough to keep the flag from going stale
        told = rig.node.health[-1].status[0]
        return told.level == b'\x02' and reason in told.message and not rig.node.flags[-1].data
    rig.wait(is_an_error, 'an error in the diagnostics')
    rig.recover()
    assert int(rig.node.next_health()['frames_faulty']) > 0
    assert not rig.masks_of(faulty)


def test_a_callback_that_raises_is_false_and_the_node_lives_on(rig: Rig) -> None:
    rig.recover()
    rig.client.camera.publish(image_message(solid(0, 0, 0), 1, 'raise'))
    rig.node.wait_for_reason('internal error')
    assert 'the callback fails on command' in rig.node.process.output
    rig.recover()


def test_a_hanging_engine_lets_the_flag_fall_and_only_the_newest_frame_follows(
    rig: Rig,
) -> None:
    hanging = rig.hang()
    rig.node.wait_for_reason('no verdict for')
    num_dropped = int(rig.node.next_health()['frames_dropped'])
    burst = []
    for _ in range(20):
        burst.append(rig.send())
        rig.client.spin(0.02)  # spread over time, as from a camera
    assert int(rig.node.next_health()['frames_dropped']) > num_dropped
    rig.release.touch()
    rig.of(burst[-1], rig.node.masks)
    assert rig.masks_of(*burst) == burst[-1:]
    assert values_of(rig.of(hanging))['confident'] == 'false'
    rig.recover()


def test_the_flag_falls_before_a_transition_waits_for_the_engine(rig: Rig) -> None:
    rig.hang()
    future = rig.client.ask_state('deactivate')
    rig.node.wait_for_reason('stopping')
    assert not future.done()
    # Released only now: if the flag had waited for the engine, the node would have abandoned it.
    rig.release.touch()
    assert rig.wait(future.done, 'the answer') and future.result().success
    assert 'the engine does not return' not in rig.node.process.output
    assert rig.client.change_state('activate')
    rig.client.wait_for_camera_match()
    rig.recover()


@pytest.mark.release
def test_a_transition_does_not_wait_for_ever_for_a_hanging_engine(rig: Rig) -> None:
    # Must be the last test, since it leaves the engine of the others hanging.
    hanging = rig.hang()
    rig.node.wait_for_reason('no verdict for')
    assert rig.client.change_state('deactivate')
    rig.node.wait_for_reason('inactive')
    assert not rig.client.change_state('activate')
    assert rig.client.change_state('cleanup')
    assert rig.client.change_state('configure')
    assert rig.client.change_state('activate')
    rig.client.wait_for_camera_match()
    rig.recover()
    rig.release.touch()
    rig.recover()
    assert not rig.masks_of(hanging)
    assert hanging.header.stamp not in [s.header.stamp for s in rig.node.status]
