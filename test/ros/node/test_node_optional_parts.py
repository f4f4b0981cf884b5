# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""If an optional part raises, good frames stay true and /diagnostics warns."""

from collections.abc import Iterator
import itertools
from pathlib import Path

import pytest
from ros_helpers import FAULT_NODE, values_of
from ros_node_rig import node_rig, NodeRig

FRAMES = 8
# Stamps, one second apart, shared by the tests.
SECONDS = itertools.count(1_000_000)


@pytest.fixture(scope='module')
def rig(folder: Path) -> Iterator[NodeRig]:
    from sensor_msgs.msg import CameraInfo, Image

    with node_rig(folder, FAULT_NODE, stale_timeout_s=600.0, gate__rise_frames=1,
                  log__folder=folder / 'log_of_frames') as rig:
        rig.client.listen('/uncertainty_seg/heatmap', Image)
        rig.client.listen('/uncertainty_seg/camera_info', CameraInfo)
        rig.client.wait_for_camera_match()
        rig.client.wait_for_topics('/uncertainty_seg/heatmap', '/uncertainty_seg/mask')
        rig.raise_flag()
        yield rig


@pytest.fixture
def failures(rig: NodeRig, folder: Path) -> Iterator[Path]:
    yield folder / 'failures'
    for file in (folder / 'failures').iterdir():
        file.unlink()


def reset(rig: NodeRig) -> None:
    from std_srvs.srv import Trigger

    assert rig.client.call('/uncertainty_seg/reset', Trigger, Trigger.Request()).success
    rig.raise_flag()


def send_good_frames(rig: NodeRig) -> list[str]:
    """Send good frames; return the value `confident` of each one's status."""
    return [values_of(rig.answer(next(SECONDS)))['confident'] for _ in range(FRAMES)]


@pytest.mark.parametrize('fault', [
    'heatmap.render', 'mask.publish', 'camera_info.fit', 'frame_log.offer', 'statistics.latency',
    'score.publish', 'topic_watch.report',
])
def test_good_frames_stay_true_while_a_part_fails_which_is_a_warning_and_one_line_of_the_log(
    rig: NodeRig, failures: Path, fault: str
) -> None:
    from sensor_msgs.msg import CameraInfo

    part = fault.partition('.')[0]
    camera_info = rig.client.node.create_publisher(CameraInfo, '/camera_info', 10)
    rig.client.wait_until(camera_info.get_subscription_count, 'the relay')
    reset(rig)
    first_flag = len(rig.flags)
    (failures / fault).touch()
    camera_info.publish(CameraInfo(width=128, height=96))
    rig.client.spin(0.2)
    assert send_good_frames(rig) == ['true'] * FRAMES

    def is_warned() -> bool:
        rig.send(next(SECONDS))
        rig.client.spin(0.1)
        status = rig.health[-1].status[0]
        return (status.level == b'\x01' and f'{part} failed with RuntimeError' in status.message
                and values_of(rig.health[-1])[f'failed.{part}'] != '0')
    rig.wait(is_warned, f'the warning of {part}')
    (failures / fault).unlink()
    assert all(flag.data for flag in rig.flags[first_flag:])
    assert rig.process.output.count(f'{part} failed with RuntimeError') == 1
    assert rig.process.is_running
    rig.client.node.destroy_publisher(camera_info)


def test_a_check_for_rivals_that_fails_is_a_warning_and_after_a_while_a_veto(
    rig: NodeRig, failures: Path
) -> None:
    reset(rig)
    (failures / 'rival_watch.look').touch()
    rig.wait(lambda: 'rival_watch failed with RuntimeError' in rig.process.output, 'the line')
    assert values_of(rig.answer(next(SECONDS)))['confident'] == 'true'
    rig.wait_for_reason('cannot check whether another node publishes')
    assert values_of(rig.answer(next(SECONDS)))['confident'] == 'false'
    (failures / 'rival_watch.look').unlink()
    rig.raise_flag()
