# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Bags played over DDS: to a listener, and to the node, whose answers must be the pipeline's."""

from collections.abc import Iterator
import json
from pathlib import Path
import signal
import time
from typing import Any

from conftest import make_tiny_bundle
import numpy as np
import pytest
from ros_helpers import Client, needs_ros, node_arguments, own_domain, Process, values_of

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.storage.bags.writer import BagWriter, compressed_message
from uncertainty_seg.storage.model_bundle import load_bundle

pytestmark = needs_ros

PLAYER = ['-m', 'uncertainty_seg.ros.bag_player']
REMAP = ['--ros-args', '-r', 'image:=/cam']
START_NS, PERIOD_NS, NUM_FRAMES = 1_700_000_000_000_000_123, 100_000_000, 12
QUEUE = 100  # of a listener: a busy machine may keep it from a bag that is played fast


def frames() -> list[Any]:
    """Return noisy pictures that fade from red to grey, no two alike."""
    generator = np.random.default_rng(7)
    pictures = []
    for index in range(NUM_FRAMES):
        share = index / (NUM_FRAMES - 1)
        color = (1 - share) * np.array([0, 0, 255]) + share * 128
        noise = generator.integers(-40, 40, (90, 120, 3))
        pictures.append(np.clip(color + noise, 0, 255).astype(np.uint8))
    return pictures


def write_bag(path: Path, topic: str = '/camera/image_raw') -> Path:
    with BagWriter(path) as writer:
        for index, picture in enumerate(frames()):
            stamp_ns = START_NS + index * PERIOD_NS
            writer.write_image(topic, stamp_ns, 'camera', picture, 'bgr8')
            writer.write_image('/truth/mask', stamp_ns, 'camera', picture[..., 0], 'mono8')
    return path


@pytest.fixture(scope='module')
def domain() -> Iterator[int]:
    with own_domain() as number:
        yield number


def test_every_image_arrives_in_order_with_stamp_and_pixels(
    tmp_path: Path, domain: int
) -> None:
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import Image

    bag = write_bag(tmp_path / 'bag')
    player = Process([*PLAYER, str(bag), '--rate', '5', '--clock', *REMAP], domain,
                     tmp_path / 'log')
    client = Client(domain)
    try:
        clocks = client.listen('/clock', Clock, QUEUE)
        client.wait_until(lambda: client.node.count_publishers('/cam') > 1, 'the player')
        # Only now does anybody listen: nothing may have been played before.
        images = client.listen('/cam', Image, QUEUE)
        client.wait_until(lambda: len(images) == NUM_FRAMES, 'every image')
        assert player.wait() == 0
        stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in images]
        assert stamps == [START_NS + i * PERIOD_NS for i in range(NUM_FRAMES)]
        assert {m.header.frame_id for m in images} == {'camera'}
        for msg, picture in zip(images, frames(), strict=True):
            assert bytes(msg.data) == picture.tobytes()
        times = [m.clock.sec * 10**9 + m.clock.nanosec for m in clocks]
        assert times == sorted(times) and len(set(times)) > NUM_FRAMES  # also between the images
        assert times[-1] == stamps[-1]
        assert json.loads(player.output.splitlines()[-1]) == {'played': NUM_FRAMES, 'damaged': 0}
    finally:
        client.close()
        player.end()


def test_compressed_images_go_out_as_they_are_and_decoded_for_who_wants_that(
    tmp_path: Path, domain: int
) -> None:
    import cv2
    from sensor_msgs.msg import CompressedImage, Image

    kind = 'jpeg'
    files = [cv2.imencode('.' + kind, picture)[1].tobytes() for picture in frames()]
    files[3] = files[3][:40]  # damaged: it cannot be decoded
    with BagWriter(tmp_path / 'bag') as writer:
        for index, data in enumerate(files):
            stamp_ns = START_NS + index * PERIOD_NS
            writer.write('/camera/image_raw/compressed',
                         compressed_message(stamp_ns, 'camera', kind, data), stamp_ns)
    player = Process([*PLAYER, str(tmp_path / 'bag'), '--rate', '5', *REMAP], domain,
                     tmp_path / 'log')
    client = Client(domain)
    try:
        raw = client.listen('/cam', Image, QUEUE)
        client.wait_until(lambda: client.node.count_publishers('/cam/compressed') > 0, 'files')
        packed = client.listen('/cam/compressed', CompressedImage, QUEUE)
        client.wait_until(lambda: not player.is_running, 'the end of the bag')
        assert player.wait() == 0, player.output
        client.wait_until(lambda: len(raw) == NUM_FRAMES - 1, 'every image')
        # OpenCV of this process, not the package's decoder.
        whole = [data for index, data in enumerate(files) if index != 3]
        for msg, data in zip(raw, whole, strict=True):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert (msg.height, msg.width, msg.encoding) == (90, 120, 'bgr8')
            assert bytes(msg.data) == pixels.tobytes()
        assert [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in raw] == [
            START_NS + i * PERIOD_NS for i in range(NUM_FRAMES) if i != 3]
        # This listener came later, and misses none of those that were sent since.
        received = [bytes(m.data) for m in packed]
        assert received and received == files[-len(received):]
        assert {m.format for m in packed} == {kind}
        assert json.loads(player.output.splitlines()[-1]) == {
            'played': NUM_FRAMES - 1, 'damaged': 1}
    finally:
        client.close()
        player.end()


def test_a_parameter_that_the_player_has_not_is_refused_unless_a_file_gives_it_to_all(
    tmp_path: Path, domain: int
) -> None:
    bag, file = write_bag(tmp_path / 'bag'), tmp_path / 'all.yaml'
    code, output = _run([str(bag), *REMAP, '-p', 'rate:=2.0', '-p', 'use_sim_time:=false'],
                        domain, tmp_path)
    assert code == 2 and 'rate' in output.splitlines()[-1]
    file.write_text('/**:\n  ros__parameters:\n    rate: 2.0\n    gate:\n      alpha: 0.1\n')
    code, output = _run([str(bag), '--wait-s', '0.2', '--ros-args', '-r', 'image:=/nobody',
                         '--params-file', str(file)], domain, tmp_path)
    assert code == 1 and '/nobody' in output  # since nobody listens


@pytest.mark.release
def test_the_live_node_gives_the_masks_and_scores_of_the_pipeline(
    tmp_path: Path, domain: int
) -> None:
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Image

    bundle = make_tiny_bundle(tmp_path / 'tiny')
    bag = write_bag(tmp_path / 'bag')
    node = Process(node_arguments(bundle, use_sim_time=True, max_age_s=1.0), domain,
                   tmp_path / 'node')
    client = Client(domain, node)
    player = None
    try:
        masks = client.listen('/uncertainty_seg/mask', Image, QUEUE)
        status = client.listen('/uncertainty_seg/status', DiagnosticArray, QUEUE)
        client.wait_for_topics('/uncertainty_seg/mask', '/uncertainty_seg/status')
        # As a user does who sees that the node is not done with one image when the next one comes.
        client.wait_until(lambda: 'active, waiting for images' in node.output, 'the node')
        player = Process([*PLAYER, str(bag), '--clock', '--rate', '0.25', *REMAP], domain,
                         tmp_path / 'player')
        client.wait_until(lambda: not player.is_running, 'the end of the bag')
        assert player.wait() == 0
        client.wait_until(lambda: len(masks) > NUM_FRAMES // 2, 'masks of most frames')
    finally:
        client.close()
        node.end()
        if player is not None:
            player.end()
    expected = expected_results(bundle)
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in masks]
    assert stamps == sorted(set(stamps))
    for stamp_ns, mask in zip(stamps, masks, strict=True):
        assert bytes(mask.data) == expected[stamp_ns].label.tobytes()
    for msg in status:
        result = expected.get(msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec)
        values = values_of(msg)
        # The node's time is the bag's: a status of no frame may have the stamp of one.
        if result is not None and 'frame_age_ms' in values:
            for name, value in result.scores.items():
                assert values[f'score.{name}'] == f'{value:.6g}'
            # By the bag's own time, of years ago.
            assert -500 < float(values['frame_age_ms']) < 1000
            assert 'old' not in msg.status[0].message


def test_camera_frames_larger_than_the_default_segment_arrive_with_our_profile(
    tmp_path: Path, domain: int
) -> None:
    # Without it nine of a hundred do: 640x480 is more than 512 KB, and the node asks best effort.
    # A busy machine loses some with it, too: only the newest is queued.
    from diagnostic_msgs.msg import DiagnosticArray

    profile = str(Path(__file__).resolve().parents[2] / 'config' / 'fastdds_profile.xml')
    environment = {'FASTRTPS_DEFAULT_PROFILES_FILE': profile,
                   'FASTDDS_DEFAULT_PROFILES_FILE': profile}
    with BagWriter(tmp_path / 'bag') as writer:
        for index in range(20):
            picture = np.full((480, 640, 3), index, np.uint8)
            writer.write_image('/cam', START_NS + index * PERIOD_NS, 'camera', picture, 'bgr8')
    arguments = node_arguments(make_tiny_bundle(tmp_path / 'tiny'), stale_timeout_s=600)
    node = Process(arguments, domain, tmp_path / 'node', environment)
    player = Process([*PLAYER, str(tmp_path / 'bag'), *REMAP], domain, tmp_path / 'player',
                     environment)
    client = Client(domain, node)
    try:
        health = client.listen('/diagnostics', DiagnosticArray)
        client.wait_until(lambda: not player.is_running, 'the end of the bag')
        num_before = len(health)
        client.wait_until(lambda: len(health) > num_before + 1, 'diagnostics')
        assert int(values_of(health[-1])['frames_received']) >= 10
    finally:
        client.close()
        node.end()
        player.end()


def expected_results(bundle_folder: Path) -> dict[int, Any]:
    settings = settings_from_dict({'model': str(bundle_folder), 'backend': 'onnxruntime'})
    bundle = load_bundle(settings.model)
    pipeline = Pipeline(bundle, open_backend(settings.backend, bundle, settings), settings)
    stamps = [START_NS + i * PERIOD_NS for i in range(NUM_FRAMES)]
    return {s: pipeline.process(p, s) for s, p in zip(stamps, frames(), strict=True)}


def _run(arguments: list[str], domain: int, folder: Path) -> tuple[int, str]:
    player = Process([*PLAYER, *arguments], domain, folder / 'log')
    try:
        return player.wait(), player.output
    finally:
        player.end()


def test_a_bag_that_cannot_be_played_is_one_sentence(tmp_path: Path, domain: int) -> None:
    with BagWriter(tmp_path / 'empty') as writer:
        empty = bytes([0, 1, 0, 0, 1, 0, 0, 0, 0])
        writer.write_serialized('/log', 'std_msgs/msg/String', 1, empty)
    write_bag(tmp_path / 'two', topic='/left')
    for name, named in (('nowhere', 'no bag at'), ('empty', 'no image topic'), ('two', '/left')):
        code, output = _run([str(tmp_path / name)], domain, tmp_path)
        assert code == 1 and named in output and output.count('\n') == 1


def test_a_player_that_waits_says_for_whom(tmp_path: Path, domain: int) -> None:
    bag = write_bag(tmp_path / 'bag')
    code, output = _run([str(bag), '--wait-s', '4'], domain, tmp_path)
    assert code == 1
    assert all('/image' in line and '4 s' in line for line in output.splitlines())
    assert output.count('\n') == 2


def test_a_signal_that_a_terminal_and_launch_both_send_is_one(
    tmp_path: Path, domain: int
) -> None:
    bag, players = write_bag(tmp_path / 'bag'), []
    try:
        for k in range(2):
            players.append(Process([*PLAYER, str(bag), '--ros-args', '-r', f'image:=/nobody{k}'],
                                   domain, tmp_path / f'log{k}'))
        for k, player in enumerate(players):
            end_s = time.monotonic() + 60
            while 'waiting for a subscriber' not in player.output:
                assert player.is_running and time.monotonic() < end_s, player.output
                time.sleep(0.01)
            player.send_signal(signal.SIGINT)
            time.sleep((0.0, 0.03)[k])
            player.send_signal(signal.SIGINT)
            assert player.wait() == 0, player.output
            assert player.output.count('\n') == 1
    finally:
        for player in players:
            player.end()


