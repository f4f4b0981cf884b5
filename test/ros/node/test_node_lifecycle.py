# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Under a lifecycle manager: every state but active says false, and each can be left again."""

from collections.abc import Iterator
from pathlib import Path
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


class Rig:

    def __init__(self, process: Process, client: Client, bundle: Path) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import Image
        from std_msgs.msg import Bool

        self.process, self.client, self.bundle = process, client, bundle
        self._second = 1000
        self.flags = client.listen('/uncertainty_seg/confident', Bool)
        self.status = client.listen('/uncertainty_seg/status', DiagnosticArray)
        self.masks = client.listen('/uncertainty_seg/mask', Image)
        self.health = client.listen('/diagnostics', DiagnosticArray)

    def wait(self, condition: Any, what: str) -> Any:
        return self.client.wait_until(condition, what)

    def wait_for_reason(self, text: str) -> None:
        """Wait until the flag is false and was last said to be so for this reason."""
        self.wait(lambda: self.flags and not self.flags[-1].data and self.status
                  and text in self.status[-1].status[0].message, f'false with {text!r}')

    def wait_for_health(self, state: str) -> None:
        self.wait(lambda: self.health and values_of(self.health[-1])['state'] == state,
                  f'{state} diagnostics')

    def raise_flag(self) -> None:
        def is_up() -> bool:
            self._second += 1
            self.client.camera.publish(image_message(solid(0, 0, 255), self._second * 10**9))
            self.client.spin(0.05)
            return bool(self.flags[-1].data and self.masks)
        self.wait(is_up, 'the flag to be up')


@pytest.fixture(scope='module')
def rig(tmp_path_factory: Any) -> Iterator[Rig]:
    folder: Path = tmp_path_factory.mktemp('lifecycle')
    bundle = make_tiny_bundle(folder / 'tiny')
    with own_domain() as domain:
        process = Process(node_arguments(bundle, autostart=False), domain, folder / 'log')
        client = Client(domain, process)
        try:
            yield Rig(process, client, bundle)
        finally:
            client.close()
            process.end()


def test_the_whole_life_of_a_managed_node(rig: Rig) -> None:
    client = rig.client
    assert client.state() == 'unconfigured'
    rig.wait_for_reason('the node is unconfigured')
    assert client.node.count_publishers('/uncertainty_seg/mask') == 0

    # What the state does not allow is refused, and the node is still there.
    assert not client.change_state('activate')
    assert not client.change_state('cleanup')
    assert client.state() == 'unconfigured'

    # A model that is gone: refused with the reason, and possible once it is back.
    card = rig.bundle / 'card.json'
    away = card.rename(rig.bundle / 'away')
    assert not client.change_state('configure')
    assert client.state() == 'unconfigured'
    rig.wait_for_reason('holds no card.json')
    away.rename(card)

    assert client.change_state('configure')
    assert client.state() == 'inactive'
    rig.wait_for_reason('the node is inactive')
    client.wait_for_topics('/uncertainty_seg/mask')
    assert client.camera.get_subscription_count() == 0

    for _ in range(2):
        assert client.change_state('activate')
        client.wait_for_camera_match()
        rig.raise_flag()
        rig.wait_for_health('active')
        rig.raise_flag()
        assert client.change_state('deactivate')
        rig.wait_for_reason('the node is inactive')
        rig.wait(lambda: not client.camera.get_subscription_count(), 'the camera to be left')

    assert client.change_state('cleanup')
    rig.wait_for_reason('the node is unconfigured')
    rig.wait(lambda: not client.node.count_publishers('/uncertainty_seg/mask'), 'no mask topic')
    rig.wait_for_health('unconfigured')

    assert client.change_state('configure')
    assert client.change_state('activate')
    client.wait_for_camera_match()
    rig.raise_flag()
    assert client.change_state('active_shutdown')
    rig.wait_for_reason('the node has shut down')
    assert client.state() == 'finalized'
    assert rig.process.interrupt() == 0
    assert 'Traceback' not in rig.process.output
