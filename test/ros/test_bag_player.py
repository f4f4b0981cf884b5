# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Bags played over DDS: every image arrives once, in order and on time."""

from contextlib import ExitStack
import json
from pathlib import Path
import signal
import time
from typing import Any

from conftest import compressed_message
import numpy as np
from ros_helpers import Client, Process

from uncertainty_seg.storage.bags.writer import BagWriter

PLAYER = ['-m', 'uncertainty_seg.ros.bag_player']
REMAP = ['--ros-args', '-r', 'image:=/cam']
START_NS, PERIOD_NS, NUM_FRAMES = 1_700_000_000_000_000_123, 100_000_000, 12
QUEUE = 100  # of a subscriber, which may be slow on a busy machine


def frames() -> list[Any]:
    """Return noisy images that fade from red to grey, all different."""
    generator = np.random.default_rng(7)
    pictures = []
    for index in range(NUM_FRAMES):
        share = index / (NUM_FRAMES - 1)
        color = (1 - share) * np.array([0, 0, 255]) + share * 128
        noise = generator.integers(-40, 40, (90, 120, 3))
        pictures.append(np.clip(color + noise, 0, 255).astype(np.uint8))
    return pictures


def write_bag(
    path: Path, topic: str = '/camera/image_raw', other: str = '/truth/mask'
) -> Path:
    with BagWriter(path) as writer:
        for index, picture in enumerate(frames()):
            stamp_ns = START_NS + index * PERIOD_NS
            writer.write_image(topic, stamp_ns, 'camera', picture, 'bgr8')
            writer.write_image(other, stamp_ns, 'camera', picture[..., 0], 'mono8')
    return path


def test_every_image_arrives_in_order_with_stamp_and_pixels(
    tmp_path: Path, domain: int
) -> None:
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import Image

    bag = write_bag(tmp_path / 'bag')
    words = [*PLAYER, str(bag), '--rate', '5', '--clock', *REMAP]
    with Process(words, domain, tmp_path / 'log') as player, Client(domain) as client:
        clocks = client.listen('/clock', Clock, QUEUE)
        client.wait_until(lambda: client.node.count_publishers('/cam') > 1, 'the player')
        # The first subscriber starts here; no image may have been played before.
        images = client.listen('/cam', Image, QUEUE)
        client.wait_until(lambda: len(images) == NUM_FRAMES, 'every image')
        assert player.wait() == 0
        stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in images]
        assert stamps == [START_NS + i * PERIOD_NS for i in range(NUM_FRAMES)]
        assert {m.header.frame_id for m in images} == {'camera'}
        for msg, picture in zip(images, frames(), strict=True):
            assert bytes(msg.data) == picture.tobytes()
        client.wait_until(lambda: clocks[-1].clock.nanosec == images[-1].header.stamp.nanosec,
                          'the time of the last image')
        times = [m.clock.sec * 10**9 + m.clock.nanosec for m in clocks]
        assert times == sorted(times) and len(set(times)) > NUM_FRAMES  # also between the images
        assert times[-1] == stamps[-1]
        assert json.loads(player.output.splitlines()[-1]) == {'played': NUM_FRAMES, 'damaged': 0}


def test_compressed_images_go_out_as_they_are_and_decoded_for_who_wants_that(
    tmp_path: Path, domain: int
) -> None:
    import cv2
    from sensor_msgs.msg import CompressedImage, Image

    kind = 'jpeg'
    files = [cv2.imencode('.' + kind, picture)[1].tobytes() for picture in frames()]
    files[3] = files[3][:40]  # truncated, so that it cannot be decoded
    with BagWriter(tmp_path / 'bag') as writer:
        for index, data in enumerate(files):
            stamp_ns = START_NS + index * PERIOD_NS
            writer.write('/camera/image_raw/compressed',
                         compressed_message(stamp_ns, 'camera', kind, data), stamp_ns)
    words = [*PLAYER, str(tmp_path / 'bag'), '--rate', '5', *REMAP]
    with Process(words, domain, tmp_path / 'log') as player, Client(domain) as client:
        raw = client.listen('/cam', Image, QUEUE)
        client.wait_until(lambda: client.node.count_publishers('/cam/compressed') > 0, 'files')
        packed = client.listen('/cam/compressed', CompressedImage, QUEUE)
        client.wait_until(lambda: not player.is_running, 'the end of the bag')
        assert player.wait() == 0, player.output
        client.wait_until(lambda: len(raw) == NUM_FRAMES - 1, 'every image')
        # Decoded by OpenCV here, not by the package's decoder.
        whole = [data for index, data in enumerate(files) if index != 3]
        for msg, data in zip(raw, whole, strict=True):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert (msg.height, msg.width, msg.encoding) == (90, 120, 'bgr8')
            assert bytes(msg.data) == pixels.tobytes()
        assert [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in raw] == [
            START_NS + i * PERIOD_NS for i in range(NUM_FRAMES) if i != 3]
        # This subscriber started later, and received every image sent since.
        received = [bytes(m.data) for m in packed]
        assert received and received == files[-len(received):]
        assert {m.format for m in packed} == {kind}
        assert json.loads(player.output.splitlines()[-1]) == {
            'played': NUM_FRAMES - 1, 'damaged': 1}


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
    assert code == 1 and '/nobody' in output  # no subscriber


def _run(arguments: list[str], domain: int, folder: Path) -> tuple[int, str]:
    with Process([*PLAYER, *arguments], domain, folder / 'log') as player:
        return player.wait(), player.output


def test_a_bag_that_cannot_be_played_is_one_sentence(tmp_path: Path, domain: int) -> None:
    with BagWriter(tmp_path / 'empty') as writer:
        empty = bytes([0, 1, 0, 0, 1, 0, 0, 0, 0])
        writer.write_serialized('/log', 'std_msgs/msg/String', 1, empty)
    with BagWriter(tmp_path / 'silent') as writer:
        writer._connection('/cam', 'sensor_msgs/msg/Image')
    write_bag(tmp_path / 'two', topic='/left', other='/right')
    for name, named in (('nowhere', 'no bag at'), ('empty', 'no image topic'), ('two', '/left'),
                        ('silent', 'no message on /cam')):
        code, output = _run([str(tmp_path / name)], domain, tmp_path)
        assert code == 1 and named in output and output.count('\n') == 1


def test_a_signal_that_a_terminal_and_launch_both_send_is_one(
    tmp_path: Path, domain: int
) -> None:
    bag = write_bag(tmp_path / 'bag')
    with ExitStack() as stack:
        players = [stack.enter_context(Process(
            [*PLAYER, str(bag), '--ros-args', '-r', f'image:=/nobody{k}'], domain,
            tmp_path / f'log{k}')) for k in range(2)]
        for player, pause_s in zip(players, (0.0, 0.03), strict=True):
            end_s = time.monotonic() + 60
            while 'waiting for a subscriber' not in player.output:
                assert player.is_running and time.monotonic() < end_s, player.output
                time.sleep(0.01)
            player.send_signal(signal.SIGINT)
            time.sleep(pause_s)
            player.send_signal(signal.SIGINT)
            assert player.wait() == 0, player.output
            assert len(player.output.splitlines()) == 1
