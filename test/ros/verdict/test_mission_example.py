# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The example of mission code in Python, run together with the real node."""

from collections.abc import Iterator
from pathlib import Path
import signal
from typing import Any

import pytest
from ros_helpers import Process, ROOT
from ros_node_rig import BAD, node_rig, NodeRig

PYTHON = ROOT / 'examples' / '06_mission_node.py'
CRUISE, SLOW = 1.5, 0.25


class Mission:
    """The node, the example in a separate process, and the speed limits that it publishes."""

    def __init__(self, rig: NodeRig, folder: Path) -> None:
        from std_msgs.msg import Float32

        self.rig = rig
        self.limits: list[Any] = rig.client.listen('/speed_limit', Float32)
        self.process = Process(
            [str(PYTHON), '--ros-args', '-r', 'verdict:=/uncertainty_seg/verdict',
             '-r', 'status:=/uncertainty_seg/status',
             '-r', 'trigger_log:=/uncertainty_seg/trigger_log', '-p', f'cruise_mps:={CRUISE}',
             '-p', f'slow_mps:={SLOW}'], rig.domain, folder / 'mission.log')

    def wait_for(self, limit_mps: float) -> None:
        """Wait until the last published limit is `limit_mps`."""
        def is_there() -> bool:
            return bool(self.limits) and self.limits[-1].data == pytest.approx(limit_mps)
        self.rig.wait(is_there, f'a limit of {limit_mps} m/s\n{self.process.output}')


@pytest.fixture(scope='module')
def mission(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mission]:
    folder: Path = tmp_path_factory.mktemp('mission')
    with node_rig(folder, log__folder=str(folder / 'frames')) as rig:
        rig.client.wait_for_topics('/uncertainty_seg/verdict')
        rig.client.wait_for_camera_match()
        found = Mission(rig, folder)
        try:
            yield found
        finally:
            found.process.end()


def test_it_cruises_while_confident_and_slows_down_and_asks_for_a_log_when_unsure(
    mission: Mission
) -> None:
    rig = mission.rig
    # The node repeats false, so the first verdict shows that discovery is complete.
    rig.wait(lambda: '[mission]: fault' in mission.process.output, 'the mission to hear it')
    mission.wait_for(0.0)
    assert {limit.data for limit in mission.limits} == {0.0}
    rig.raise_flag()
    mission.wait_for(CRUISE)
    for second in range(3):
        rig.answer(70_000 + second, pixels=BAD)
    mission.wait_for(SLOW)
    rig.wait(lambda: rig.verdict(BAD) and 'why: entropy' in mission.process.output,
             'the reason')
    rig.wait(lambda: '[mission]: log: ' in mission.process.output, 'the answer of trigger_log')
    rig.raise_flag()  # one request per fall, not per frame
    assert mission.process.output.count('log: ') == 1


def test_it_stops_when_frames_stop_and_when_the_node_is_killed(mission: Mission) -> None:
    rig = mission.rig
    rig.raise_flag()
    mission.wait_for(CRUISE)
    mission.wait_for(0.0)  # the node reports it after stale_timeout_s
    assert rig.process.is_running
    rig.raise_flag()
    mission.wait_for(CRUISE)
    rig.client.watched = None
    rig.process.send_signal(signal.SIGKILL)  # now no message reports it
    mission.wait_for(0.0)
