# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Publishes the images of a bag as a camera would, without rosbag2: `uncertainty_seg_play BAG`.

Images are published on `image` with their recorded stamps, at the pace of the recording, once a
subscriber has connected. A CompressedImage is published unchanged on `image/compressed` and, if
`image` has a subscriber, decoded on `image`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import sys
import threading
import time
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.errors import BagError, ConfigError, ImageError, some_of, UncertaintySegError
from uncertainty_seg.ros import node_life
from uncertainty_seg.ros.topics import COMPRESSED
from uncertainty_seg.storage.bags import reader
from uncertainty_seg.storage.bags.writer import image_message
from uncertainty_seg.storage.parameter_files import split_words

LINGER_S = 0.5
# Time without a message about waiting: a node takes a second or two to start.
SILENT_S = 3.0
MATCH_S = 0.5
CLOCK_PERIOD_S = 0.025


class BagPlayer:
    """
    Publish one image topic of a bag, raw or compressed; rate 1 is the pace of the recording.

    With `has_clock`, the bag's time is published on /clock with each image and at 40 Hz between.
    """

    def __init__(
        self, node: Node, rate: float, has_clock: bool, is_compressed: bool = False,
    ) -> None:
        self._rate = rate
        self._pause = threading.Event()
        qos = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.RELIABLE)
        self._images = node.create_publisher(Image, 'image', qos)
        # Named after the remapped image topic, as the node and image_transport do.
        self._files = node.create_publisher(
            CompressedImage, f'{self._images.topic_name}{COMPRESSED}', qos,
        ) if is_compressed else None
        self._clock = node.create_publisher(Clock, '/clock', 10) if has_clock else None
        self.num_played = self.num_damaged = 0

    def wait_for_subscriber(self, timeout_s: float) -> None:
        """Wait for a subscriber, so that no first frame is lost; BagError after the timeout."""
        start_s, silent_s = time.monotonic(), SILENT_S
        while not any(topic is not None and topic.get_subscription_count()
                      for topic in (self._images, self._files)):
            waited_s = time.monotonic() - start_s
            if waited_s >= timeout_s:
                raise BagError(
                    f'nobody subscribes to {self._images.topic_name} within {timeout_s:g} s',
                    'a node that is active', 'start the node, or remap image to its topic',
                )
            if waited_s >= silent_s:
                silent_s = timeout_s
                print(f'uncertainty_seg_play: waiting for a subscriber on '
                      f'{self._images.topic_name}, {timeout_s:g} s at most', file=sys.stderr)
            self._pause.wait(0.05)
        # This side discovers the subscriber first: until it has discovered us, frames are lost.
        self._pause.wait(MATCH_S)

    def play(self, bag: reader.BagReader, topic: str) -> None:
        """Publish every image of a topic once, at the time it is due."""
        # A node that uses /clock needs a time before it receives the first image.
        start_s = time.monotonic() + (MATCH_S if self._clock is not None else 0.0)
        first_ns = None
        for item in bag.messages(topic):
            if isinstance(item, reader.BadMessage):
                self.num_damaged += 1
                continue
            received_ns = item.received_ns
            first_ns = received_ns if first_ns is None else first_ns
            due_s = start_s + (received_ns - first_ns) * 1e-9 / self._rate
            while (left_s := due_s - time.monotonic()) > 0:
                self._tell_time(received_ns - round(left_s * self._rate * 1e9))
                self._pause.wait(min(left_s, CLOCK_PERIOD_S))
            self._tell_time(received_ns)
            self.num_played += self._publish(item)

    def _tell_time(self, time_ns: int) -> None:
        if self._clock is not None:
            self._clock.publish(Clock(clock=node_life.time_message(time_ns)))

    def _publish(self, item: reader.BagMessage) -> bool:
        serialize = reader.typestore().serialize_cdr
        if self._files is None:
            self._images.publish(bytes(serialize(item.message, reader.IMAGE_TYPE)))
            return True
        self._files.publish(bytes(serialize(item.message, reader.COMPRESSED_TYPE)))
        if not self._images.get_subscription_count():
            return True
        try:
            image = reader.bag_image(item)
            message = image_message(image.stamp_ns, image.frame_id, decode(image.raw), 'bgr8')
        except ImageError:  # already published compressed: its subscriber reports the fault
            self.num_damaged += 1
            return False
        self._images.publish(bytes(serialize(message, reader.IMAGE_TYPE)))
        return True


def main(args: Sequence[str] | None = None) -> int:
    """Play a bag; return 0 (also if interrupted), 1 for an unusable bag or 2 for misuse."""
    node_life.interrupt_on_signals()
    words = list(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser(
        prog='uncertainty_seg_play',
        description='Publish the images of a bag on the topic image, as a camera would.',
        epilog='ROS arguments follow --ros-args, such as -r image:=/cam.',
    )
    parser.add_argument('bag', metavar='BAG', help='rosbag2 folder, .mcap, .db3, or rosbag1 file')
    parser.add_argument('--rate', type=_positive, default=1.0, help='pace; 1 as recorded [1]')
    parser.add_argument('--topic', help="image topic of the bag [the camera's]")
    parser.add_argument('--loop', action='store_true', help='start again at the end')
    parser.add_argument('--clock', action='store_true', help="publish the bag's time on /clock")
    parser.add_argument('--wait-s', type=_positive, default=300.0,
                        help='seconds to wait for a subscriber before the first image [300]')
    options = parser.parse_args(split_words(words)[0])
    try:
        node_life.start_ros(words)
        player = _play(options, words)
    except UncertaintySegError as err:
        print(f'uncertainty_seg_play: {err}', file=sys.stderr)
        return 2 if isinstance(err, ConfigError) else 1
    except KeyboardInterrupt:
        node_life.ignore_signals()
        return 0
    finally:
        rclpy.try_shutdown()
    print(json.dumps({'played': player.num_played, 'damaged': player.num_damaged}), flush=True)
    return 0


def _play(options: Any, words: Sequence[str]) -> BagPlayer:
    with reader.BagReader(options.bag) as bag:
        topic = bag.image_topic(options.topic)
        node = rclpy.create_node('uncertainty_seg_play')
        _require_no_parameters(node, words)
        player = BagPlayer(
            node, options.rate, options.clock, bag.topics()[topic] == reader.COMPRESSED_TYPE)
        player.wait_for_subscriber(options.wait_s)
        player.play(bag, topic)
        while options.loop:
            player.play(bag, topic)
        time.sleep(LINGER_S)  # lets the last image arrive before the publisher is destroyed
        node.destroy_node()
    return player


def _require_no_parameters(node: Node, words: Sequence[str]) -> None:
    """Refuse unknown parameters on the command line; those in a file may be for other nodes."""
    given = [word.partition(':=')[0] for flag, word in zip(words, words[1:], strict=False)
             if flag in ('-p', '--param') and not node.has_parameter(word.partition(':=')[0])]
    if given:
        raise ConfigError(f'there is no parameter {some_of(given)}', 'only use_sim_time',
                          'put options such as --rate 2 before --ros-args: see --help')


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text}, expected a number above 0')
    return value


if __name__ == '__main__':
    sys.exit(main())
