# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Topics that carry another type, and two nodes with one flag: said in a sentence, survived."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import Client, needs_ros, Process, values_of
from ros_lifecycle_rig import node_rig, NodeRig

pytestmark = [*needs_ros, pytest.mark.release]
GOVERNOR = ['-m', 'uncertainty_seg.ros.governor.node', '--ros-args', '-r',
            'confident:=/other/confident']
NUM_MORE = 2  # diagnostics, one a second, in which what is wrong must be told


class WrongRig:
    """Node and governor, and a stranger who publishes other types on all they listen to."""

    def __init__(self, rig: NodeRig, governor: Process) -> None:
        from geometry_msgs.msg import TwistStamped
        from std_msgs.msg import Float32, String

        self.rig, self.governor = rig, governor
        # Of a context of its own: no process has a topic with two types in one participant.
        self._stranger = Client(rig.domain)
        self._stranger.node.destroy_publisher(self._stranger.camera)
        self.factors = rig.client.listen('/speed_governor/speed_factor', Float32)
        self._wrong = {topic: self._stranger.node.create_publisher(kind, topic, 10)
                       for topic, kind in [('/cam', String), ('/camera_info', String),
                                           ('/clock', String), ('/other/confident', String),
                                           ('/cmd_vel', TwistStamped)]}
        self._kinds = {topic: end.msg_type for topic, end in self._wrong.items()}

    def close(self) -> None:
        self._stranger.close()

    def talk(self) -> None:
        """Publish once on every topic."""
        for topic, end in self._wrong.items():
            end.publish(self._kinds[topic]())

    def replace_on_camera(self, kind: Any) -> None:
        """Publish another wrong type where the images should be."""
        self._stranger.node.destroy_publisher(self._wrong['/cam'])
        self._wrong['/cam'] = self._stranger.node.create_publisher(kind, '/cam', 10)
        self._kinds['/cam'] = kind

    def texts(self, num_before: int = 0) -> list[str]:
        """Return all that was told in the diagnostics of both nodes, from one of them on."""
        return [text for msg in self.rig.health[num_before:]
                for text in (msg.status[0].message, *values_of(msg).values())]

    def hear(self, num_more: int = NUM_MORE) -> list[str]:
        """Go on talking for some diagnostics of the node; returns what they say."""
        num_before = len(self.rig.health)

        def is_told() -> bool:
            self.talk()
            own = [m for m in self.rig.health[num_before:] if 'health' in m.status[0].name]
            return len(own) >= num_more
        self.rig.wait(is_told, 'diagnostics')
        return self.texts(num_before)

    def hear_until(self, *words: str) -> None:
        """Go on talking until one text of the diagnostics holds all words."""
        num_before = len(self.rig.health)

        def is_told() -> bool:
            self.talk()
            return any(all(word in text for word in words) for text in self.texts(num_before))
        self.rig.wait(is_told, f'diagnostics with {words}')


@pytest.fixture(scope='module')
def wrong(tmp_path_factory: Any) -> Iterator[WrongRig]:
    folder: Path = tmp_path_factory.mktemp('wrong_topics')
    bundle = make_tiny_bundle(folder / 'tiny')
    with node_rig(folder, bundle, use_sim_time=True) as rig:
        governor = Process(GOVERNOR, rig.domain, folder / 'governor')
        made = WrongRig(rig, governor)
        rig.client.node.destroy_publisher(rig.client.camera)
        try:
            yield made
        finally:
            made.close()
            governor.end()


@pytest.fixture(scope='module')
def told(wrong: WrongRig) -> list[str]:
    """Give what was said from the start until some seconds after the wrong image was explained."""
    wrong.hear_until('/cam carries std_msgs/msg/String', 'remap image')
    wrong.hear()
    return wrong.texts()


def assert_told(texts: list[str], *words: str) -> None:
    assert any(all(word in text for word in words) for text in texts), set(texts)


def test_another_type_on_the_image_topic_is_an_error(told: list[str], wrong: WrongRig) -> None:
    assert_told(told, '/cam', 'std_msgs/msg/String', '/test_client', 'sensor_msgs/msg/Image')
    assert wrong.rig.health[-1].status[0].level == b'\x02'
    assert wrong.rig.flags and not any(flag.data for flag in wrong.rig.flags)


@pytest.mark.parametrize(('topic', 'kind'), [
    ('/camera_info', 'std_msgs/msg/String'), ('/clock', 'std_msgs/msg/String'),
    ('/other/confident', 'std_msgs/msg/String'),
    # What Nav2 publishes from Kilted on, unless it is told not to: the vehicle stands still.
    ('/cmd_vel', 'TwistStamped')])
def test_another_type_is_named(told: list[str], topic: str, kind: str) -> None:
    assert_told(told, topic, kind)


def test_the_governor_stays_slow_on_a_flag_it_cannot_read(
    told: list[str], wrong: WrongRig
) -> None:
    assert wrong.factors
    assert {round(msg.data, 3) for msg in wrong.factors} == {0.2}
    assert wrong.governor.is_running


def test_compressed_images_on_the_topic_of_raw_ones_are_named(wrong: WrongRig) -> None:
    from sensor_msgs.msg import CompressedImage

    wrong.replace_on_camera(CompressedImage)
    wrong.hear_until('/cam carries sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/Image')
    assert not any(flag.data for flag in wrong.rig.flags)


def test_images_beside_another_type_are_taken(wrong: WrongRig) -> None:
    from sensor_msgs.msg import Image

    client = wrong.rig.client
    client.camera = client.node.create_publisher(Image, '/cam', 10)
    client.wait_for_camera_match()
    wrong.rig.raise_flag()
    assert 'Traceback' not in wrong.rig.process.output


def test_another_type_beside_the_images_is_named(wrong: WrongRig) -> None:
    num_before = len(wrong.rig.health)
    for _ in range(NUM_MORE):
        wrong.rig.raise_flag()
        wrong.hear(1)
    assert_told(wrong.texts(num_before), '/cam', 'sensor_msgs/msg/CompressedImage')


