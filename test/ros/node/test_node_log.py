# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The frame log of the real node: the frames it keeps, its reports, republished frames."""

from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ros_helpers import solid
from ros_node_rig import node_rig, NodeRig

GOOD, BAD = (0, 0, 255), (120, 120, 120)


class Rig:
    """A node with a frame log, and the content of the log's folder."""

    def __init__(self, rig: NodeRig, folder: Path) -> None:
        self.node, self.client, self.folder = rig, rig.client, folder
        self._second = 1000

    def send(self, color: tuple[int, int, int]) -> int:
        """Send a frame that is no near-duplicate of another; returns its stamp in seconds."""
        self._second += 1
        pixels = solid(*color)
        rng = np.random.default_rng(self._second)
        pixels[..., 2 if color == GOOD else 0] -= rng.integers(
            0, 9, (12, 16), np.uint8).repeat(8, 0).repeat(8, 1)
        self.node.send(self._second, pixels=pixels)
        self.client.spin(0.05)
        return self._second

    def send_until_seen(self, color: tuple[int, int, int], count: int = 1) -> None:
        start = self.value('log.seen')
        self.node.wait(
            lambda: self.send(color) and self.value('log.seen') >= start + count, 'frames')

    def value(self, key: str) -> int:
        values = {p.key: p.value for msg in self.node.health for p in msg.status[0].values}
        return int(values.get(key, 0))

    def sidecars(self) -> list[dict[str, Any]]:
        files = (self.folder / 'frames').glob('[!.]*/frame.json')
        return sorted((json.loads(f.read_text()) for f in files), key=lambda s: s['stamp_ns'])

    def trigger(self) -> Any:
        from std_srvs.srv import Trigger

        return self.client.call('/uncertainty_seg/trigger_log', Trigger, Trigger.Request())


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv('HOME', str(tmp_path))
    folder = tmp_path / 'frame_log'
    with node_rig(tmp_path, stale_timeout_s=600, log__folder='~/frame_log',
                  log__control_share=0.0, log__before_s=1.5, log__after_s=0.5,
                  log__min_interval_s=0.0, log__free_disk_mb=0.0, log__duplicate_bits=0) as rig:
        rig.client.wait_for_camera_match()
        yield Rig(rig, folder)


@pytest.mark.release
def test_a_bad_frame_and_the_one_before_it_are_kept_with_mask_map_and_reason(rig: Rig) -> None:
    rig.send_until_seen(GOOD, 4)
    before = {s['stamp_ns'] for s in rig.sidecars()}
    assert before == set()
    second = rig.send(GOOD)
    rig.node.wait(lambda: [m for m in rig.node.masks if m.header.stamp.sec == second], 'its mask')
    bad = rig.send(BAD)
    rig.node.wait(lambda: len(rig.sidecars()) >= 2, 'two frames on disk')
    rig.send_until_seen(GOOD, 3)
    earlier, flagged = rig.sidecars()
    assert [s['reason'] for s in (earlier, flagged)] == ['window', 'flagged']
    assert [s['stamp_ns'] // 10**9 for s in (earlier, flagged)] == [bad - 1, bad]
    assert flagged['verdict']['confident'] is False
    assert flagged['scores']['entropy.mean'] > flagged['thresholds']['entropy.mean']
    assert flagged['parameters']['log.before_s'] == 1.5
    place = rig.folder / 'frames' / flagged['frame_id']
    image = cv2.imread(str(next(place.glob('image.*'))))
    assert image.shape == (96, 128, 3) and abs(int(image[..., 1].mean()) - 120) < 2
    mask = cv2.imread(str(place / 'mask.png'), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (96, 128) and mask.max() <= 2
    assert cv2.imread(str(place / 'uncertainty.png'), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    # Exactly the kept frames are republished, unchanged.
    rig.node.wait(lambda: len(rig.node.flagged) >= 2, 'the kept frames')
    assert [m.header.stamp.sec for m in rig.node.flagged] == [bad - 1, bad]
    assert {m.encoding for m in rig.node.flagged} == {'bgr8'}


def test_a_frame_is_kept_on_request_whatever_it_shows(rig: Rig) -> None:
    answer = rig.trigger()
    assert not answer.success and 'no frame to keep' in answer.message
    rig.send_until_seen(GOOD)
    answer = rig.trigger()
    assert answer.success and str(rig.folder) in answer.message
    (sidecar,) = rig.node.wait(rig.sidecars, 'the frame')
    assert sidecar['reason'] == 'trigger'
    rig.node.wait(lambda: rig.value('log.kept.trigger') == 1, 'the count')


def test_log_settings_change_live_and_the_folder_does_not(rig: Rig) -> None:
    (result,) = rig.client.set_parameters(log__folder='/elsewhere')
    assert not result.successful and 'read-only' in result.reason
    assert rig.client.set_parameters(log__control_share=1.0)[0].successful
    rig.send_until_seen(GOOD)
    sidecars = rig.node.wait(rig.sidecars, 'the control frame')
    assert {s['reason'] for s in sidecars} == {'control'}
