# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""When frames stop, or the node itself does: nobody goes on believing an old flag."""

from collections.abc import Iterator
import signal
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    image_message,
    needs_ros,
    node_arguments,
    own_domain,
    Process,
    solid,
    values_of,
)

pytestmark = needs_ros
STALE_TIMEOUT_S = 0.5


class Rig:

    def __init__(self, process: Process, client: Client) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.duration import Duration
        from rclpy.qos import QoSProfile
        from std_msgs.msg import Bool
        try:
            from rclpy.event_handler import SubscriptionEventCallbacks
        except ImportError:  # Humble
            from rclpy.qos_event import SubscriptionEventCallbacks

        self.process, self.client = process, client
        self.status = client.listen('/uncertainty_seg/status', DiagnosticArray)
        self.health = client.listen('/diagnostics', DiagnosticArray)
        self.flags: list[Any] = []
        self.missed: list[Any] = []
        client.node.create_subscription(
            Bool, '/uncertainty_seg/confident', self.flags.append,
            QoSProfile(depth=10, deadline=Duration(seconds=STALE_TIMEOUT_S)),
            event_callbacks=SubscriptionEventCallbacks(deadline=self.missed.append),
        )
        self._second = 1000
        client.wait_for_camera_match()

    def raise_flag(self) -> None:
        """Send good frames until the flag is up."""
        def is_up() -> bool:
            self._second += 1
            self.client.camera.publish(image_message(solid(0, 0, 255), self._second * 10**9))
            self.client.spin(0.05)
            return bool(self.flags and self.flags[-1].data)
        self.client.wait_until(is_up, 'the flag to be up')


@pytest.fixture(scope='module')
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    tmp_path = tmp_path_factory.mktemp('stale')
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    with own_domain() as domain:
        arguments = node_arguments(bundle, stale_timeout_s=STALE_TIMEOUT_S, use_sim_time=True)
        process = Process(arguments, domain, tmp_path / 'log')
        client = Client(domain, process)
        try:
            yield Rig(process, client)
        finally:
            client.close()
            process.end()


def test_silence_with_a_publisher_on_the_graph_is_explained(rig: Rig) -> None:
    def is_explained() -> bool:
        hint = 'FASTRTPS_DEFAULT_PROFILES_FILE'
        return bool(rig.health) and hint in rig.health[-1].status[0].message
    rig.client.wait_until(is_explained, 'the hint in the diagnostics')
    assert rig.process.output.count('/cam but no frame') == 1
    rig.raise_flag()
    rig.client.wait_until(
        lambda: values_of(rig.health[-1])['frames_processed'] != '0', 'frames in diagnostics')


def test_the_flag_falls_when_frames_stop_even_if_simulated_time_stands_still(rig: Rig) -> None:
    # Nobody publishes /clock here: the node's clock stays at zero for ever.
    rig.raise_flag()
    num_before = len(rig.flags)
    rig.client.wait_until(lambda: not rig.flags[-1].data, 'the flag to fall')
    rig.client.wait_until(lambda: len(rig.flags) > num_before + 3, 'the flag to be said again')
    assert 'no frame on /cam for' in rig.status[-1].status[0].message
    rig.client.wait_until(lambda: rig.health[-1].status[0].level == b'\x02', 'stale diagnostics')
    rig.raise_flag()


@pytest.mark.release
def test_a_subscriber_with_the_deadline_learns_that_the_node_hangs(rig: Rig) -> None:
    rig.raise_flag()
    rig.process.send_signal(signal.SIGSTOP)
    try:
        rig.missed.clear()
        rig.client.wait_until(lambda: rig.missed, 'the missed deadline')
    finally:
        rig.process.send_signal(signal.SIGCONT)
    rig.client.wait_until(lambda: not rig.flags[-1].data, 'the flag to fall')
