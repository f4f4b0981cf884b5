# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Images that are late, early, out of order or frozen never raise the flag of the real node.

Each of these was `true` once, with "OK active" on /diagnostics. The stamps are of the system's
clock, as those of a camera, and the pixels have the noise of a sensor unless the test freezes
them.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import itertools
from pathlib import Path
import signal
import time
from typing import Any

from conftest import make_tiny_bundle
import numpy as np
import pytest
from ros_helpers import (
    Client,
    image_message,
    needs_ros,
    node_arguments,
    own_domain,
    Process,
    values_of,
)

pytestmark = needs_ros
SECOND = 10**9
SAFE = {'max_age_s': 1.0, 'max_repeats': 2}
# Where the age is not what is tested: a busy machine may let a good frame wait for a second.
PATIENT = {'max_age_s': 8.0, 'stale_timeout_s': 8.0}


def red(seed: int) -> Any:
    """Return a frame that the tiny bundle is sure of, with noise."""
    image = np.random.default_rng(seed).integers(0, 3, (96, 128, 3)).astype(np.uint8)
    image[..., 2] = 255 - image[..., 2]
    return image


def is_confident(status: Any) -> bool:
    return values_of(status)['confident'] == 'true'


class Rig:

    def __init__(self, process: Process, client: Client) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import Image
        from std_msgs.msg import Bool

        self.process, self.client = process, client
        # Deep: no status may be lost to a queue of ten while the test is held up.
        self.statuses = client.listen('/uncertainty_seg/status', DiagnosticArray, 1000)
        self.flags = client.listen('/uncertainty_seg/confident', Bool, 1000)
        self.health = client.listen('/diagnostics', DiagnosticArray, 100)
        self._seeds = itertools.count()
        # Deep as well: Fast DDS does not find back to a reliable reader that was stopped while a
        # shorter history was overwritten.
        client.node.destroy_publisher(client.camera)
        client.camera = client.node.create_publisher(Image, '/cam', 100)
        client.wait_for_topics('/uncertainty_seg/status', '/uncertainty_seg/confident')
        client.wait_for_camera_match()
        # The first images to a reader that was just matched may be lost; these are no frames.
        client.wait_until(self._reaches, 'an image to arrive')

    def _reaches(self) -> bool:
        message = image_message(red(0), time.time_ns())
        message.encoding = 'nonsense'
        self.client.camera.publish(message)
        self.client.spin(0.2)
        return any('nonsense' in status.status[0].message for status in self.statuses)

    def send(self, stamp_ns: int | None = None, image: Any = None) -> None:
        pixels = red(next(self._seeds)) if image is None else image
        self.client.camera.publish(
            image_message(pixels, time.time_ns() if stamp_ns is None else stamp_ns))

    def judged(self, stamp_ns: int | None = None, image: Any = None) -> bool:
        """Send a frame and return its flag."""
        num_before = len(self.frames)
        self.send(stamp_ns, image)
        return is_confident(self.wait_for_frame(num_before)[-1])

    @property
    def frames(self) -> list[Any]:
        """List the statuses about frames; the others repeat why the flag is down."""
        return [status for status in self.statuses if 'frame_age_ms' in values_of(status)]

    def wait_for_frame(self, num_before: int) -> list[Any]:
        """Wait for the status of a frame after so many, and return all after them."""
        self.client.wait_until(lambda: len(self.frames) > num_before, 'the status of a frame')
        return self.frames[num_before:]

    @property
    def reason(self) -> str:
        return str(self.frames[-1].status[0].message)

    def raise_flag(self) -> None:
        self.client.wait_until(self.judged, 'the flag to be up')

    def diagnosed(self, words: str) -> Any:
        return self.client.wait_until(
            lambda: next((array for array in self.health
                          if words in array.status[0].message), None), f'diagnostics: {words}')


Start = Callable[..., Rig]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a node with settings of its own, and everything on."""
    ends: list[Callable[[], None]] = []
    with own_domain() as domain:
        def run(**settings: Any) -> Rig:
            bundle = make_tiny_bundle(tmp_path / 'tiny')
            arguments = node_arguments(bundle, **{**SAFE, **settings})
            process = Process(arguments, domain, tmp_path / 'log')
            client = Client(domain, process)
            ends.extend([client.close, process.end])
            return Rig(process, client)
        try:
            yield run
        finally:
            for end in ends:
                end()


@pytest.mark.release
def test_with_stamps_of_receipt_a_driver_without_stamps_can_be_used(start: Start) -> None:
    from uncertainty_seg.ros.rivals import WITHHELD_S

    rig = start(stamps='receipt', **PATIENT)
    rig.client.spin(WITHHELD_S)  # in the first seconds of a node no flag is true
    flags = [rig.judged(0) for _ in range(6)]
    assert flags == [False, False, True, True, True, True]
    assert [rig.judged(time.time_ns() - 3600 * SECOND) for _ in range(3)] == [True] * 3
    assert values_of(rig.frames[-1])['stamps'] == 'receipt'
    report = rig.client.wait_until(
        lambda: next((array for array in rig.health if array.status[0].message == 'active'), None),
        'diagnostics')
    assert values_of(report)['stamps'] == 'receipt'
    # A frozen camera is found by its pixels alone.
    still = red(12345)
    flags = [rig.judged(0, still) for _ in range(8)]
    assert flags[:3] == [True] * 3 and not any(flags[3:])


def test_another_clock_lets_the_flag_fall_and_is_warned_of(start: Start) -> None:
    from builtin_interfaces.msg import Time
    from rosgraph_msgs.msg import Clock

    rig = start()
    rig.raise_flag()
    clock = rig.client.node.create_publisher(Clock, '/clock', 10)
    assert rig.client.set_parameters(use_sim_time=True)[0].successful
    rig.client.wait_until(lambda: not rig.flags[-1].data, 'the flag to fall')
    hour_ago = time.time() - 3600
    rig.client.wait_until(clock.get_subscription_count, 'the node to take the time')
    clock.publish(Clock(clock=Time(sec=int(hour_ago))))
    report = rig.diagnosed('use_sim_time was changed while the node is configured')
    assert report.status[0].level >= b'\x01'
    assert rig.client.change_state('deactivate') and rig.client.change_state('cleanup')
    assert rig.client.change_state('configure') and rig.client.change_state('activate')
    rig.client.wait_until(lambda: values_of(rig.health[-1])['state'] == 'active' and
                          'use_sim_time' not in rig.health[-1].status[0].message, 'health')


def test_a_frozen_camera_is_a_fault_under_new_stamps_and_under_none(start: Start) -> None:
    rig = start(**PATIENT)
    rig.raise_flag()
    still = red(12345)
    flags = [rig.judged(image=still) for _ in range(12)]
    assert flags == [True] * 3 + [False] * 9
    assert 'the camera is frozen: the pixels of the last 11 images came before' in rig.reason
    rig.diagnosed('the camera is frozen')
    assert not any(rig.judged(0, still) for _ in range(55))


@pytest.mark.release
def test_no_pause_at_whatever_moment_makes_an_old_image_confident(start: Start) -> None:
    """Stop the node as a `true` goes out, take the camera away, and let it go on."""
    rig = start()
    for _ in range(2):
        rig.raise_flag()
        assert rig.judged()
        rig.process.send_signal(signal.SIGSTOP)
        rig.send()
        time.sleep(1.6)
        rig.client.spin(0.1)
        num_seen = len(rig.statuses)
        rig.process.send_signal(signal.SIGCONT)
        rig.client.wait_until(lambda seen=num_seen: len(rig.statuses) > seen, 'a verdict')
        rig.client.spin(0.5)
        # Only what had left the process's hands before it was stopped may still be true.
        late = [status for status in rig.statuses[num_seen:] if is_confident(status)]
        assert all(status is rig.statuses[num_seen] for status in late)
        assert all(float(values_of(status)['frame_age_ms']) < 1000 for status in late)
        assert not rig.flags[-1].data
