# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Ends of a topic that do not meet: whose they are and what mends it, over real DDS."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    HAS_ROS,
    image_message,
    node_arguments,
    own_domain,
    Process,
    SKIP_REASON,
    solid,
    values_of,
)

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from diagnostic_msgs.msg import DiagnosticArray  # noqa: I100
from rclpy.duration import Duration
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from sensor_msgs.msg import Image
from std_msgs.msg import Bool

from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.ros.camera_station import profile_fault
from uncertainty_seg.ros.topics import (
    camera_qos,
    conflict_sentences,
    flag_qos,
    SETTLE_S,
    Topic,
    TopicWatch,
    UNKNOWN_NAME,
)

pytestmark = pytest.mark.ros

STALE_TIMEOUT_S = 1.0
FLAG = Topic('/uncertainty_seg/confident', 'std_msgs/msg/Bool', True,
             flag_qos(STALE_TIMEOUT_S))
CAMERA = Topic('/cam', 'sensor_msgs/msg/Image', False, camera_qos('reliable'))


# --- the watch, without DDS ----------------------------------------------------------------------


class StubGraph:
    """A node whose graph and log are lists."""

    def __init__(self) -> None:
        self.ends: dict[str, list[Any]] = {}
        self.publishers = [SimpleNamespace(topic_name=FLAG.name)]
        self.subscriptions = [SimpleNamespace(topic_name=CAMERA.name)]
        self.is_simulated = False
        self.log: list[str] = []

    def get_fully_qualified_name(self) -> str:
        return '/uncertainty_seg'

    def get_parameter_or(self, name: str, alternative: Any) -> Any:
        return SimpleNamespace(value=self.is_simulated)

    def get_logger(self) -> Any:
        return SimpleNamespace(warning=self.log.append)

    def get_publishers_info_by_topic(self, name: str) -> list[Any]:
        return self.ends.get(name, [])

    get_subscriptions_info_by_topic = get_publishers_info_by_topic


class Watched:

    def __init__(self) -> None:
        self.now_s = 0.0
        self.node = StubGraph()
        self.watch = TopicWatch(self.node, lambda: self.now_s)
        self.events = {topic.name: self.watch.events(topic) for topic in (FLAG, CAMERA)}

    def put(self, topic: Topic, qos: QoSProfile, name: str = 'other', **changes: Any) -> None:
        end = {'node_name': name, 'node_namespace': '/', 'topic_type': topic.type_name,
               'qos_profile': qos, **changes}
        self.node.ends.setdefault(topic.name, []).append(SimpleNamespace(**end))

    def alarm(self, topic: Topic) -> None:
        self.events[topic.name].incompatible_qos(None)


BEST_EFFORT = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)


def test_a_conflict_is_said_once_for_as_long_as_the_graph_shows_it() -> None:
    rig = Watched()
    rig.put(CAMERA, BEST_EFFORT)
    assert rig.watch.report() == ()  # no alarm, no look at the graph
    rig.alarm(CAMERA)
    for _ in range(3):
        (sentence,) = rig.watch.report()
    assert '/other' in sentence and '/uncertainty_seg' in sentence
    assert rig.node.log == [sentence]
    rig.node.ends.clear()
    assert rig.watch.report() == ()
    rig.put(CAMERA, BEST_EFFORT)
    rig.alarm(CAMERA)
    assert rig.watch.report() == (sentence,)
    assert rig.node.log == [sentence, sentence]


def test_a_node_without_a_name_is_waited_for_and_then_told_without_one() -> None:
    rig = Watched()
    rig.put(CAMERA, BEST_EFFORT, UNKNOWN_NAME)
    rig.alarm(CAMERA)
    assert rig.watch.report() == ()
    rig.now_s = SETTLE_S
    assert 'a node that does not tell its name' in rig.watch.report()[0]


def test_an_end_of_another_type_is_no_conflict_of_qos() -> None:
    rig = Watched()
    rig.put(CAMERA, BEST_EFFORT, topic_type='std_msgs/msg/String')
    rig.alarm(CAMERA)
    (sentence,) = rig.watch.report()
    assert 'std_msgs/msg/String' in sentence and '/other' in sentence
    rig.node.subscriptions = []
    assert rig.watch.report() == ()


def test_another_type_is_told_beside_the_right_one_and_on_the_clock_that_is_followed() -> None:
    rig = Watched()
    rig.put(CAMERA, camera_qos('reliable'))
    clock = Topic('/clock', 'std_msgs/msg/String', False, camera_qos('reliable'))
    rig.put(clock, BEST_EFFORT, 'stranger')
    assert rig.watch.report() == ()
    rig.node.is_simulated = True
    (sentence,) = rig.watch.report()
    assert sentence.startswith('/clock carries std_msgs/msg/String from /stranger')


def test_what_the_middleware_lost_is_counted_by_topic() -> None:
    rig = Watched()
    for count in (2, 3):
        rig.events[CAMERA.name].message_lost(SimpleNamespace(total_count_change=count))
    assert rig.watch.num_lost == {CAMERA.name: 5}


def test_missed_deadlines_are_counted_where_there_is_one() -> None:
    rig = Watched()
    rig.events[FLAG.name].deadline(None)
    assert rig.watch.num_missed == {FLAG.name: 1}
    mask = Topic('/mask', 'sensor_msgs/msg/Image', True, camera_qos('reliable'))
    assert rig.watch.events(mask).deadline is None


# --- which ends do not meet, and how images may be requested -------------------------------------

RELIABLE = QoSProfile(depth=1)


@pytest.mark.parametrize(('topic', 'theirs', 'named'), [
    (CAMERA, RELIABLE, []),
    (CAMERA, BEST_EFFORT, ['parameter reliability of /me to best_effort']),
    (FLAG, RELIABLE, []),
    (FLAG, QoSProfile(depth=1, deadline=Duration(seconds=0.125)),
     ['parameter stale_timeout_s of /me to 0.125 or less']),
    (FLAG, QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
                      deadline=Duration(seconds=0.125)), ['ransient local', 'stale_timeout_s']),
])
def test_a_conflict_names_both_sides_each_policy_and_the_fix(
    topic: Topic, theirs: QoSProfile, named: list[str]
) -> None:
    info = SimpleNamespace(node_name='other', node_namespace='/', qos_profile=theirs)
    found = conflict_sentences(topic, '/me', [info])
    assert len(found) == len(named)
    for sentence, words in zip(found, named, strict=True):
        assert topic.name in sentence and '/me' in sentence and '/other' in sentence
        assert words in sentence


LATCHED = QoSProfile(depth=5, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


@pytest.mark.parametrize(('profile', 'settings', 'named'), [
    (camera_qos('best_effort'), {}, ''), (QoSProfile(depth=5), {}, ''),
    (QoSProfile(history=QoSHistoryPolicy.KEEP_ALL), {}, 'keep_all'),
    (QoSProfile(depth=1, reliability=QoSReliabilityPolicy.SYSTEM_DEFAULT), {}, 'system_default'),
    (LATCHED, {}, '5 images may wait'), (LATCHED, {'gate.rise_frames': 6}, ''),
    (QoSProfile(depth=5), {'stamps': 'receipt'}, 'gate.rise_frames is 3'),
    (QoSProfile(depth=5), {'max_age_s': 0.0}, '5 images may wait'),
    (QoSProfile(depth=1), {'max_age_s': 0.0, 'gate.rise_frames': 1}, ''),
])
def test_images_are_requested_so_that_no_old_one_raises_the_flag(
    profile: QoSProfile, settings: dict[str, Any], named: str
) -> None:
    fault = profile_fault(profile, settings_from_dict(settings))
    assert named in fault and bool(fault) == bool(named)


# --- the node, over real DDS ---------------------------------------------------------------------


class Rig:

    def __init__(self, process: Process, client: Client) -> None:
        self.process, self.client = process, client
        self.health = client.listen('/diagnostics', DiagnosticArray)

    def topics_told(self) -> list[str]:
        """Return the sentences of the newest diagnostics."""
        if not self.health:
            return []
        return [v for k, v in values_of(self.health[-1]).items() if k.startswith('topic.')]

    def wait_for(self, sentence: str) -> None:
        self.client.wait_until(lambda: any(sentence in told for told in self.topics_told()),
                               f'{sentence!r} in the diagnostics')
        assert self.process.output.count(sentence) == 1


@pytest.fixture(scope='module')
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp('qos')
    bundle = make_tiny_bundle(folder / 'tiny')
    with own_domain() as domain:
        arguments = node_arguments(
            bundle, reliability='reliable', stale_timeout_s=STALE_TIMEOUT_S)
        process = Process(arguments, domain, folder / 'log')
        client = Client(domain, process)
        try:
            client.wait_for_camera_match()
            yield Rig(process, client)
        finally:
            client.close()
            process.end()


def test_a_camera_that_offers_less_is_named_until_it_is_gone(rig: Rig) -> None:
    node = rig.client.node
    camera = node.create_publisher(Image, '/cam', BEST_EFFORT)
    rig.wait_for('/cam: nothing passes from /test_client to /uncertainty_seg')
    # A camera that does match is heard meanwhile, and the conflict is a warning beside it.

    def is_warned() -> bool:
        rig.client.camera.publish(image_message(solid(0, 0, 255), len(rig.health) * 10**9 + 10**9))
        rig.client.spin(0.05)
        return rig.health[-1].status[0].level == b'\x01'
    rig.client.wait_until(is_warned, 'a warning')
    assert 'nothing passes' in rig.health[-1].status[0].message
    node.destroy_publisher(camera)
    rig.client.wait_until(lambda: not rig.topics_told(), 'the conflict to be gone')


def test_a_subscriber_that_asks_for_more_is_named_with_every_policy(rig: Rig) -> None:
    node = rig.client.node
    asked = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
                       deadline=Duration(seconds=0.125))
    subscription = node.create_subscription(Bool, FLAG.name, lambda msg: None, asked)
    rig.wait_for('volatile publisher and transient local')
    rig.wait_for('set the parameter stale_timeout_s of /uncertainty_seg to 0.125 or less')
    node.destroy_subscription(subscription)
    rig.client.wait_until(lambda: not rig.topics_told(), 'the conflict to be gone')


def test_a_misspelt_topic_is_answered_with_where_the_images_are(rig: Rig) -> None:
    # From here on nobody is on /cam.
    node = rig.client.node
    node.destroy_publisher(rig.client.camera)
    camera = node.create_publisher(Image, '/front/image_raw', BEST_EFFORT)
    sentence = 'no publisher on /cam, but images are on /front/image_raw'
    rig.client.wait_until(
        lambda: rig.health and sentence in rig.health[-1].status[0].message, 'the hint')
    assert rig.process.output.count(sentence) == 1
    node.destroy_publisher(camera)


