# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Content of /diagnostics: the worst problem first, a status for each camera of each node."""

import dataclasses
from typing import Any
from unittest.mock import MagicMock

from diagnostic_msgs.msg import DiagnosticStatus
import pytest
from std_msgs.msg import Header

from uncertainty_seg.backends.gpu.engine_build import BuildState
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.ros.camera_station import CameraStation
from uncertainty_seg.ros.health import (
    FAULT_MEMORY_S,
    FrameStatistics,
    Health,
    health_message,
    LATENCY_ERROR_S,
    NodeHealth,
    PartFaults,
)

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SETTINGS = settings_from_dict({'latency_budget_ms': 100.0})
NODE = NodeHealth(state='active', settings=SETTINGS)


class Camera:

    def __init__(self) -> None:
        self.now_s = 50.0
        self.statistics = FrameStatistics(lambda: self.now_s)

    def look(self, node: NodeHealth = NODE, **changes: Any) -> Health:
        health = Health(
            camera='', node=node, is_stale=False, is_confident=True, why_down='', hint='',
            rival='', statistics=self.statistics, counts={'frames_over_rate': 3})
        return dataclasses.replace(health, **changes)


@pytest.fixture
def camera() -> Camera:
    return Camera()


def test_over_the_budget_is_a_warning_and_an_error_once_it_lasts(camera: Camera) -> None:
    camera.statistics.add_latency(99.0, 100.0)
    assert (camera.look().level, camera.look().message) == (OK, 'active')
    camera.statistics.add_latency(150.0, 100.0)
    assert camera.look().level == WARN
    assert '150 ms' in camera.look().message and '100 ms' in camera.look().message
    camera.now_s += LATENCY_ERROR_S - 0.1
    camera.statistics.add_latency(130.0, 100.0)
    assert camera.look().level == WARN
    camera.now_s += 0.1
    assert camera.look().level == ERROR
    assert f'for {LATENCY_ERROR_S:.1f} s' in camera.look().message
    camera.statistics.add_latency(100.0, 100.0)  # one good frame ends it
    assert camera.look().level == OK


def test_the_worst_is_said_first(camera: Camera) -> None:
    node = dataclasses.replace(NODE, conflicts=('a conflict',), trouble='a full disk')
    health = camera.look(node)
    assert (health.level, health.message) == (WARN, 'a conflict')
    health = camera.look(dataclasses.replace(node, conflicts=()))
    assert (health.level, health.message) == (WARN, 'a full disk')
    camera.statistics.add_latency(150.0, 100.0)
    assert camera.look(node).message.startswith('150 ms')
    camera.statistics.add_fault('a bad image')
    assert (camera.look(node).level, camera.look(node).message) == (ERROR, 'a bad image')
    stale = camera.look(node, is_stale=True, why_down='no frame')
    assert (stale.level, stale.message) == (ERROR, 'no frame')
    rival = camera.look(node, is_stale=True, why_down='no frame', rival='somebody else')
    assert (rival.level, rival.message) == (ERROR, 'somebody else')
    assert Camera().look(rival='somebody else').level == ERROR
    building = dataclasses.replace(node, state='unconfigured', build=BuildState(0.5, 'trunk'))
    assert '50 %' in camera.look(building).message


def test_a_fault_is_new_to_the_log_where_more_than_its_numbers_changed(camera: Camera) -> None:
    reasons = ('7.2 s old', '7.31 s old', 'frozen', 'frozen', '8 s old')
    assert [*map(camera.statistics.add_fault, reasons)] == [True, False, True, False, True]


def test_each_camera_of_each_node_has_a_status_and_a_promise_of_its_own(camera: Camera) -> None:
    msg = health_message(
        Header(), 'auv/seg', [camera.look(camera=name) for name in ('front', 'down')])
    assert [status.name for status in msg.status] == [
        'auv/seg: health front', 'auv/seg: health down']
    values = {pair.key: pair.value for pair in msg.status[1].values}
    assert (values['camera'], values['frames_over_rate']) == ('down', '3')
    down: Any = MagicMock(_pipeline=MagicMock(weakened_by=('another ignore_mask',)))
    health = CameraStation.health(down, dataclasses.replace(NODE, pipeline=MagicMock()))
    assert 'ignore_mask' in health.warnings()[-1]


# --- optional parts that fail --------------------------------------------------------------------


def test_a_part_that_fails_is_a_warning_until_it_has_worked_and_a_while_has_passed(
    camera: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    faults = PartFaults(lambda: camera.now_s)
    for number in range(3):
        with faults.alone('heatmap'):
            raise ValueError(f'frame\n{number}')
    for health in (camera.look(faults=faults),
                   camera.look(dataclasses.replace(NODE, faults=faults))):
        assert (health.level, health.is_confident) == (WARN, True)
        assert 'heatmap' in health.message and 'ValueError: frame 2' in health.message
        assert health.values()['failed.heatmap'] == '3'
        assert health.condition != camera.look().condition
    assert len(caplog.records) == 1
    camera.now_s += FAULT_MEMORY_S
    assert camera.look(faults=faults).level == WARN  # it has not succeeded since
    with faults.alone('heatmap'):
        pass
    assert camera.look(faults=faults).level == OK
    assert camera.look(faults=faults).values()['failed.heatmap'] == '3'
    with faults.alone('heatmap'):
        raise ValueError('again')
    with faults.alone('heatmap'):
        pass
    assert camera.look(faults=faults).level == WARN  # an intermittent failure is reported
    faults.clear()
    assert (camera.look(faults=faults).level, faults.values()) == (OK, {})


def test_what_ends_a_thread_or_the_process_passes_through_a_part() -> None:
    faults = PartFaults()
    for error in (SystemExit, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error), faults.alone('heatmap'):
            raise error
    assert faults.values() == {}
