# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Images that are late, early, out of order or frozen never make the real node's flag true.

The stamps are from the system clock, as a camera's are, and the pixels have sensor noise unless a
test freezes them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
import itertools
from pathlib import Path
import signal
import time
from typing import Any

import numpy as np
import pytest
from ros_helpers import values_of
from ros_node_rig import node_rig, NodeRig


def red(seed: int) -> Any:
    """Return a frame with noise, of which the tiny bundle is confident."""
    image = np.random.default_rng(seed).integers(0, 3, (96, 128, 3)).astype(np.uint8)
    image[..., 2] = 255 - image[..., 2]
    return image


def is_confident(status: Any) -> bool:
    return values_of(status)['confident'] == 'true'


class Rig:
    """A node with the age and freeze checks on, and a camera with a deep history."""

    def __init__(self, rig: NodeRig) -> None:
        from sensor_msgs.msg import Image

        self.node, self.client, self._seeds = rig, rig.client, itertools.count()
        # Deep, since Fast DDS does not resume sending to a reliable reader that was stopped while
        # a shorter history was overwritten.
        self.client.node.destroy_publisher(self.client.camera)
        self.client.camera = self.client.node.create_publisher(Image, '/cam', 100)
        self.client.wait_for_camera_match()

    def send(self, stamp_ns: int | None = None, image: Any = None) -> Any:
        stamp_ns = time.time_ns() if stamp_ns is None else stamp_ns
        pixels = red(next(self._seeds)) if image is None else image
        return self.node.send(*divmod(stamp_ns, 10**9), pixels=pixels)

    def judged(self, stamp_ns: int | None = None, image: Any = None) -> bool:
        """Send a frame and return its flag."""
        num_before, msg = len(self.node.status), self.send(stamp_ns, image)
        self.told = self.node.wait(lambda: [
            status for status in self.node.status[num_before:]
            if status.header == msg.header], 'the status of a frame')[0]
        return is_confident(self.told)

    def raise_flag(self) -> None:
        def is_up() -> bool:
            self.send()
            self.client.spin(0.05)
            return bool(self.node.flags and self.node.flags[-1].data)
        self.node.wait(is_up, 'the flag to be up')


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Return a function that starts a node with given settings and all checks on."""
    with ExitStack() as stack:
        def run(**settings: Any) -> Rig:
            given = {'max_age_s': 1.0, **settings}
            return Rig(stack.enter_context(node_rig(tmp_path, max_repeats=2, **given)))
        yield run


def test_a_frozen_camera_is_a_fault_under_new_stamps_and_under_none(
    start: Callable[..., Rig]
) -> None:
    # Tests the freeze check, not the age: on a busy machine a good frame may wait for a second.
    rig = start(max_age_s=8.0, stale_timeout_s=8.0)
    rig.raise_flag()
    rig.node.wait(rig.judged, 'a good frame by itself')
    still = red(12345)
    flags = [rig.judged(image=still) for _ in range(8)]
    assert flags == [True] * 3 + [False] * 5
    assert 'frozen' in rig.told.status[0].message
    rig.node.wait(lambda: any('frozen' in array.status[0].message
                              for array in rig.node.health), 'diagnostics')
    assert not any(rig.judged(0, still) for _ in range(8))


@pytest.mark.release
def test_no_pause_at_whatever_moment_makes_an_old_image_confident(
    start: Callable[..., Rig]
) -> None:
    """Stop the node while a `true` is sent, let the frame grow old, and continue the node."""
    rig = start()
    for _ in range(2):
        rig.raise_flag()
        rig.node.process.send_signal(signal.SIGSTOP)
        rig.send()
        time.sleep(1.6)
        rig.client.spin(0.1)
        num_seen = len(rig.node.status)
        rig.node.process.send_signal(signal.SIGCONT)
        rig.node.wait(lambda seen=num_seen: len(rig.node.status) > seen, 'a verdict')
        rig.client.spin(0.5)
        # Only a message that had left the process before it was stopped may still be true.
        late = [status for status in rig.node.status[num_seen:] if is_confident(status)]
        assert all(status is rig.node.status[num_seen] for status in late)
        assert all(float(values_of(status)['frame_age_ms']) < 1000 for status in late)
        assert not rig.node.flags[-1].data
