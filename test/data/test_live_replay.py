# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Replay of bags: the live node, fed by a player, agrees with the offline replay."""

from collections.abc import Iterator
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_helpers import Client, needs_ros, own_domain, Process, ros_environment

from uncertainty_seg.core.settings import Settings, settings_from_dict
from uncertainty_seg.data.replay import replay
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.sim.demo.live import ros_arguments, run_live
from uncertainty_seg.sim.demo.live import ros_environment as demo_environment
from uncertainty_seg.sim.dive import IMAGE_TOPIC
from uncertainty_seg.storage.bags.reader import BagMessage, BagReader, header_stamp_ns
from uncertainty_seg.storage.bags.writer import BagWriter

NODE = '/uncertainty_seg'
START_NS, STEP_NS = 1_700_000_000_000_000_123, 10**8


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with own_domain() as number:
        for name, value in ros_environment(number).items():
            monkeypatch.setenv(name, value)
        yield number


def noisy_bag(path: Path, count: int = 24, height: int = 90, width: int = 120) -> Path:
    """Write images that fade from red to grey, all different, so that the flag falls."""
    generator = np.random.default_rng(7)
    with BagWriter(path) as bag:
        for k in range(count):
            share = k / (count - 1)
            color = (1 - share) * np.array([0, 0, 255]) + share * 128
            noise = generator.integers(-40, 40, (height, width, 3))
            pixels = np.clip(color + noise, 0, 255).astype(np.uint8)
            bag.write_image(IMAGE_TOPIC, START_NS + k * STEP_NS, 'cam', pixels, 'bgr8')
    return path


def images_of(bag: Path, name: str) -> dict[int, tuple[Any, ...]]:
    """Return stamp -> all fields of each image message."""
    with BagReader(bag) as reader:
        return {
            item.stamp_ns: (item.frame_id, item.raw.encoding, item.raw.height, item.raw.width,
                            bytes(item.raw.data))
            for item in reader.images(f'{NODE}/{name}')
        }


def statuses_of(bag: Path) -> dict[int, dict[str, str]]:
    """Return stamp -> the status values of each measured frame that do not depend on a clock."""
    found = {}
    with BagReader(bag) as reader:
        for item in reader.messages(f'{NODE}/status'):
            assert isinstance(item, BagMessage)
            status = item.message.status[0]
            values = {v.key: v.value for v in status.values
                      if not v.key.startswith(('latency.', 'frame_age_ms'))}
            if 'passes' in values:  # a status without a frame may have an equal stamp
                found[header_stamp_ns(item.message)] = {**values, 'message': status.message}
    return found


def numbers_of(bag: Path) -> dict[int, tuple[bytes, bytes, bytes]]:
    """
    Return stamp -> the serialised `~/verdict` of a frame: before the age, the age, after it.

    The last fields are six float64 values, of which the age is the fourth, and two empty lists.
    """
    from rosbags.highlevel import AnyReader

    found = {}
    with AnyReader([bag]) as reader:
        wanted = [one for one in reader.connections if one.topic == f'{NODE}/verdict']
        for connection, _, data in reader.messages(connections=wanted):
            message: Any = reader.deserialize(data, connection.msgtype)
            if dict(zip(message.name, message.position, strict=True))['of_frame']:
                assert len(message.position) == 6 and message.name[3] == 'age_s'
                found[header_stamp_ns(message)] = data[:-32], data[-32:-24], data[-24:]
    return found


def require_agreement(live: Path, offline: Path, num_least: int) -> list[int]:
    """
    Compare masks, uncertainties and scores of the frames that the node processed.

    Returns the stamps of the frames judged by their scores. On a busy machine the node's clock,
    which a replay does not have, may refuse others: an image that is too old, or one that was
    being processed when the flag fell.
    """
    for name in ('mask', 'heatmap'):
        theirs, ours = images_of(live, name), images_of(offline, name)
        assert len(theirs) >= num_least
        assert set(theirs) <= set(ours)
        for stamp, message in theirs.items():
            assert message == ours[stamp], f'{name} at {stamp} differs'
    theirs, ours = statuses_of(live), statuses_of(offline)
    taken = sorted(set(theirs) & set(ours))
    judged = [stamp for stamp in taken if theirs[stamp]['score_ratio'] != 'inf']
    assert len(judged) >= num_least
    for stamp in taken:
        scores = {k: v for k, v in theirs[stamp].items() if k.startswith(('score', 'thresh'))}
        assert len(scores) >= 6
        if stamp not in judged:
            assert theirs[stamp]['confident'] == 'false'
            del scores['score_ratio']
        assert scores.items() <= ours[stamp].items()
    return judged


class TestLive:
    """Three processes over DDS."""

    pytestmark = needs_ros

    def test_node_and_replay_agree_to_the_byte(
        self, tmp_path: Path, tiny_bundle: Path, domain: int
    ) -> None:
        settings = settings_from_dict({'model': str(tiny_bundle), 'backend': 'onnxruntime',
                                       'stale_timeout_s': 4.0})  # for this slow pace
        bag = noisy_bag(tmp_path / 'in')
        played = run_live(bag, tmp_path / 'live', tmp_path / 'logs', settings, 0.5, 2.4,
                          demo_environment(os.environ, domain))
        assert played == 24
        replay(bag, tmp_path / 'offline', settings=settings, views=True)
        judged = require_agreement(tmp_path / 'live', tmp_path / 'offline', 12)
        theirs, ours = statuses_of(tmp_path / 'live'), statuses_of(tmp_path / 'offline')
        said, replayed = numbers_of(tmp_path / 'live'), numbers_of(tmp_path / 'offline')
        assert set(judged) <= set(said) <= set(replayed)
        for t in judged:  # the last field before the age
            assert said[t][0][-8:] == replayed[t][0][-8:]
        if len(judged) == 24:  # without dropped frames the gates agree too
            assert [theirs[t] for t in judged] == [ours[t] for t in judged]
            assert [(said[t][0], said[t][2]) for t in judged] \
                == [(replayed[t][0], replayed[t][2]) for t in judged]
        kinds = {ours[t]['kind'] for t in ours}
        assert {'confident', 'uncertain'} <= kinds  # otherwise the agreement proves little

    def test_node_that_cannot_start_is_said_in_its_own_words(
        self, tmp_path: Path, domain: int
    ) -> None:
        settings = settings_from_dict({'model': str(tmp_path / 'nothing')})
        with pytest.raises(UncertaintySegError, match=r'the node ended too early .*no model'):
            run_live(noisy_bag(tmp_path / 'in', 3), tmp_path / 'live', tmp_path / 'logs',
                     settings, 1.0, 0.3, demo_environment(os.environ, domain))
        assert not (tmp_path / 'live').exists()

    def test_a_recording_that_never_heard_every_topic_is_not_kept(
        self, tmp_path: Path, domain: int
    ) -> None:
        # A node that cannot start publishes its flag, a false one, before it ends.
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from std_msgs.msg import Bool

        client, log = Client(domain), tmp_path / 'log'
        flag = client.node.create_publisher(
            Bool, '/flag', QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        flag.publish(Bool(data=False))
        recorder = Process(['-m', 'uncertainty_seg.ros.recorder', '/flag', '/mask', '--out',
                            str(tmp_path / 'bag')], domain, log)
        try:
            client.watched = recorder
            client.wait_until(flag.get_subscription_count, 'the recorder to subscribe')
            client.spin(0.5)  # for the latched flag to arrive; nothing signals it
            assert recorder.interrupt() == 1
        finally:
            recorder.end()
            client.close()
        assert '/mask' in recorder.output
        assert {path.name for path in tmp_path.iterdir()} == {'log'}


def test_a_slowed_dive_does_not_look_like_a_dead_camera() -> None:
    words = ros_arguments(Settings(), 0.1)
    assert 'stale_timeout_s:=20.0' in words
    assert 'stale_timeout_s:=2.0' in ros_arguments(Settings(), 1.0)
