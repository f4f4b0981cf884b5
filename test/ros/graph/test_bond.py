# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The bond with Nav2's lifecycle manager: beats of the real node, in the real message, over DDS.

Nav2's manager hears the beats of the node; what it publishes itself changes nothing.

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
from uncertainty_seg.ros.health import PartFaults
from uncertainty_seg.ros.process_watch import LifecycleBond

pytestmark = needs_ros


def test_without_the_package_it_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'bond', None)
    monkeypatch.setitem(sys.modules, 'bond.msg', None)
    any_node: Any = StubNode()
    with pytest.raises(ConfigError, match='ros-[$]ROS_DISTRO-bond'):
        LifecycleBond(any_node, PartFaults())


class Bonded(NodeRig):
    """The node with its bond, and the messages of it."""

    def __init__(self, domain: int, process: Process, client: Client) -> None:
        super().__init__(domain, process, client)
        from bond.msg import Status

        self.beats = client.listen('/bond', Status, 100)

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


def test_a_node_whose_callbacks_stand_still_does_not_beat(rig: Bonded) -> None:
    rig.client.change_state('activate')
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
