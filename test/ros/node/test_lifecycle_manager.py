# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A lifecycle manager like Nav2's starts and stops the node, and restarts it after any error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ros_helpers import FAULT_NODE
from ros_node_rig import node_rig, NodeRig


class Manager:
    """The requests of nav2_lifecycle_manager to one node, under its names."""

    def __init__(self, rig: NodeRig) -> None:
        from lifecycle_msgs.msg import TransitionEvent

        self.rig = rig
        self.events = rig.client.listen('/uncertainty_seg/transition_event', TransitionEvent)

    @property
    def state(self) -> str:
        return self.rig.client.state()

    def startup(self) -> bool:
        """Configure and activate; stops at the first transition that fails."""
        return all(self.rig.client.change_state(word) for word in ('configure', 'activate'))

    def reset(self) -> bool:
        """Deactivate and clean up, as far as the state requires it."""
        todo = {'active': ('deactivate', 'cleanup'), 'inactive': ('cleanup',)}
        return all(self.rig.client.change_state(word) for word in todo.get(self.state, ()))

    def told(self, number: int = 0, label: str = '') -> bool:
        """Request any transition, valid or not; returns whether it succeeded."""
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.id, request.transition.label = number, label
        return bool(self.rig.client.call(
            '/uncertainty_seg/change_state', ChangeState, request).success)


@pytest.fixture(scope='module')
def shared(folder: Path) -> Iterator[Manager]:
    with node_rig(folder, FAULT_NODE, autostart=False) as rig:
        yield Manager(rig)


@pytest.fixture
def manager(shared: Manager) -> Manager:
    """Return the manager with the node reset to unconfigured."""
    assert shared.reset()
    assert shared.state == 'unconfigured'
    return shared


def serve(manager: Manager) -> None:
    """Assert that the node receives frames and its flag becomes true."""
    manager.rig.client.wait_for_camera_match()
    manager.rig.raise_flag()


def test_startup_pause_resume_reset_and_startup_again(manager: Manager) -> None:
    rig = manager.rig
    rig.wait_for_reason('unconfigured')
    manager.events.clear()
    assert manager.startup()
    assert manager.state == 'active'
    serve(manager)

    assert rig.client.change_state('deactivate')
    rig.wait_for_reason('inactive')
    num_before = len(rig.flags)
    for second in range(5):  # the camera continues to send
        rig.send(5000 + second)
        rig.client.spin(0.02)
    rig.next_health()
    assert not any(flag.data for flag in rig.flags[num_before:])

    assert rig.client.change_state('activate')
    serve(manager)
    assert manager.reset()
    rig.wait_for_reason('unconfigured')
    assert manager.startup()
    serve(manager)

    def goals() -> list[str]:
        return [event.goal_state.label for event in manager.events]
    rig.wait(lambda: goals() == [
        'configuring', 'inactive', 'activating', 'active', 'deactivating', 'inactive',
        'activating', 'active', 'deactivating', 'inactive', 'cleaningup', 'unconfigured',
        'configuring', 'inactive', 'activating', 'active'], 'every transition to be told')


@pytest.mark.parametrize(('file', 'damage'), [
    ('trunk.onnx', lambda data: data[: len(data) // 2]), ('card.json', lambda data: None)])
def test_a_bundle_that_is_repaired_on_disk_can_be_configured_then(
    manager: Manager, folder: Path, file: str, damage: Any
) -> None:
    path = folder / 'tiny' / file
    sound = path.read_bytes()
    broken = damage(sound)
    path.unlink() if broken is None else path.write_bytes(broken)
    try:
        for _ in range(2):  # a manager may retry
            assert not manager.startup()
            assert manager.state == 'unconfigured'
            manager.rig.wait_for_reason(file)
            assert manager.rig.status[-1].status[0].level == b'\x02'
    finally:
        path.write_bytes(sound)
    assert manager.startup()
    serve(manager)


@pytest.mark.parametrize(('part', 'transition'), [
    ('camera_info.make', 'configure'), ('camera.listen', 'activate')])
def test_an_error_in_a_transition_is_said_and_the_node_can_be_started_again(
    manager: Manager, folder: Path, part: str, transition: str
) -> None:
    failure = folder / 'failures' / part
    failure.touch()
    try:
        assert not manager.startup()
        manager.rig.wait_for_reason('unconfigured after an error')
        assert manager.state == 'unconfigured'
        assert f'on_{transition}: RuntimeError' in manager.rig.process.output
    finally:
        failure.unlink()
    assert manager.startup()
    serve(manager)


def test_what_a_state_does_not_allow_is_refused_and_changes_nothing(manager: Manager) -> None:
    for state, allowed in (('unconfigured', (1, 5)), ('active', (4, 7))):
        for number in {*range(9), 60, 255} - {*allowed}:
            assert not manager.told(number), number
        for label in ('nonsense', 'CONFIGURE', 'x' * 1000):
            assert not manager.told(label=label), label
        assert manager.state == state
        manager.startup()
    serve(manager)


def test_shutdown_is_the_end_and_a_signal_ends_the_process(manager: Manager) -> None:
    # The last test of this node; faults on command may have printed tracebacks before.
    rig = manager.rig
    num_before = len(rig.process.output)
    assert manager.startup()
    serve(manager)
    assert manager.told(label='shutdown')
    rig.wait_for_reason('the node has shut down')
    assert manager.state == 'finalized'
    assert not manager.startup()
    assert not manager.told(label='shutdown')
    assert rig.next_health()['state'] == 'finalized'
    assert rig.process.interrupt() == 0
    assert 'Traceback' not in rig.process.output[num_before:]
