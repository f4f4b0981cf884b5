# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The bond with Nav2's lifecycle manager: beats of the real node, in the real message, over DDS.

The manager is played by the test as bond_core's documentation has it: alive until it parts, under
the id of the node and an instance of its own. (docs/ros_interface.md says what bondpy made of it,
which is in no wheel.)

"""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import signal
import sys
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    HAS_ROS,
    needs_ros,
    node_arguments,
    own_domain,
    Process,
    SKIP_REASON,
)

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from ros_lifecycle_rig import NodeRig  # noqa: I100
from ros_stubs import StubNode
import ros_vision_msgs

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.graph_watch.bond import LifecycleBond
from uncertainty_seg.ros.health import PartFaults

pytestmark = needs_ros
MANAGER = 'the-manager'


def test_without_the_package_it_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'bond', None)
    monkeypatch.setitem(sys.modules, 'bond.msg', None)
    any_node: Any = StubNode()
    with pytest.raises(ConfigError, match=r'bond is true and .* bond are missing .*: install it, '
                                          r'as with apt install ros-\$ROS_DISTRO-bond, or set '):
        LifecycleBond(any_node, PartFaults())


class Bonded(NodeRig):
    """The node with its bond, and the messages of both ends."""

    def __init__(self, domain: int, process: Process, client: Client) -> None:
        super().__init__(domain, process, client)
        from bond.msg import Status

        self._type = Status
        self.heard = client.listen('/bond', Status, 100)
        self._speaker = client.node.create_publisher(Status, '/bond', 5)

    @property
    def beats(self) -> list[Any]:
        """Return what the node has said."""
        return [beat for beat in self.heard if beat.instance_id != MANAGER]

    def be_active(self) -> None:
        """Bring the node there from wherever the test before left it."""
        self.client.change_state('configure')
        self.client.change_state('activate')

    def say(self, active: bool, name: str = 'uncertainty_seg') -> None:
        self._speaker.publish(self._type(id=name, instance_id=MANAGER, active=active,
                                         heartbeat_timeout=4.0, heartbeat_period=0.1))

    def wait_for_beats(self, count: int = 3) -> list[Any]:
        num_before = len(self.beats)
        self.wait(lambda: len(self.beats) >= num_before + count, 'beats of the node')
        return self.beats[num_before:]


@pytest.fixture(scope='module')
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bonded]:
    folder: Path = tmp_path_factory.mktemp('bond')
    path = ''
    if not ros_vision_msgs.is_installed('bond'):
        if missing := ros_vision_msgs.missing_tool():
            pytest.skip(f'bond is not installed, and to build its message {missing} is missing')
        path = str(ros_vision_msgs.build(folder / 'messages', 'bond'))
        sys.path.insert(0, path)
    make_tiny_bundle(folder / 'tiny')
    with own_domain() as domain:
        words = node_arguments(folder / 'tiny', autostart=False, bond=True)
        environment = {'PYTHONPATH': os.pathsep.join(
            filter(None, [path, str(Path(__file__).parents[3]), os.environ.get('PYTHONPATH')]))}
        process = Process(words, domain, folder / 'log', environment)
        client = Client(domain, process)
        try:
            yield Bonded(domain, process, client)
        finally:
            client.close()
            process.end()
            if path:
                sys.path.remove(path)


def test_it_beats_while_active_under_the_nodes_name_and_parts_with_a_word(rig: Bonded) -> None:
    assert rig.client.change_state('configure')
    rig.client.spin(0.5)
    assert rig.beats == []
    ids = []
    for _ in range(2):
        assert rig.client.change_state('activate')
        for beat in rig.wait_for_beats():
            assert (beat.id, beat.active) == ('uncertainty_seg', True)
            assert beat.heartbeat_timeout == pytest.approx(4.0)
            assert beat.heartbeat_period == pytest.approx(0.1)
        assert rig.client.change_state('deactivate')
        rig.wait(lambda: not rig.beats[-1].active, 'the node to part')
        num_before = len(rig.beats)
        rig.client.spin(0.5)
        assert len(rig.beats) == num_before
        ids.append({beat.instance_id for beat in rig.beats})
    # Another end each time, as the manager makes a new one too.
    assert [len(found) for found in ids] == [1, 2]


def test_it_notices_the_manager_and_goes_on_without_it(rig: Bonded) -> None:
    rig.be_active()
    rig.client.wait_for_camera_match()
    rig.say(True, 'controller_server')  # the bond of another node
    rig.say(False, 'controller_server')
    rig.wait(lambda: rig.say(True) or 'watches this node' in rig.process.output,
             'the manager to be noticed')
    assert 'has given up' not in rig.process.output
    rig.say(False)
    rig.wait(lambda: 'the lifecycle manager has given up its bond' in rig.process.output,
             'the end of the bond to be noticed')
    rig.raise_flag()
    assert all(beat.active for beat in rig.wait_for_beats())


def test_a_node_whose_callbacks_stand_still_does_not_beat(rig: Bonded) -> None:
    rig.be_active()
    rig.wait_for_beats()
    rig.process.send_signal(signal.SIGSTOP)
    try:
        rig.client.spin(0.5)  # what was under way
        num_before = len(rig.beats)
        rig.client.spin(1.0)
        assert len(rig.beats) == num_before
    finally:
        rig.process.send_signal(signal.SIGCONT)
    rig.wait_for_beats()
