# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Record topics into a bag, as small as the demo and the replay tests need it.

``python -m uncertainty_seg.ros.recorder TOPIC... --out BAG`` prints one JSON line when every topic
is subscribed and one when the bag is closed. A recording that is stopped before is not kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
import json
from pathlib import Path
import sys

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from uncertainty_seg.errors import BagError, UncertaintySegError
from uncertainty_seg.ros import topics
from uncertainty_seg.ros.node_life import start_ros, stop_on_signals
from uncertainty_seg.storage.bags.writer import BagWriter
from uncertainty_seg.storage.parameter_files import split_words

LOOK_EVERY_S = 0.1
# Enough for the messages that arrive while a chunk of the bag is compressed.
QUEUE_DEPTH = 50


class RecorderNode(Node):
    """Subscribe to each topic, given by its absolute name, as soon as it has a publisher."""

    def __init__(self, names: Sequence[str], writer: BagWriter) -> None:
        super().__init__('uncertainty_seg_recorder', namespace='/')
        self._writer = writer
        self.missing = list(names)
        self.create_timer(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        for topic in list(self.missing):
            publishers = self.get_publishers_info_by_topic(topic)
            if publishers:
                self.missing.remove(topic)
                self._record(topic, publishers[0].topic_type)
                if not self.missing:
                    print(json.dumps({'recorder': 'ready'}), flush=True)

    def _record(self, topic: str, kind: str) -> None:
        def write(data: bytes) -> None:
            self._writer.write_serialized(topic, kind, self.get_clock().now().nanoseconds, data)

        # From 'std_msgs/msg/Bool'; rosidl_runtime_py would import it, but the wheels lack that.
        package, folder, name = kind.split('/')
        # Reliable and volatile, as the node publishes.
        self.create_subscription(getattr(import_module(f'{package}.{folder}'), name), topic, write,
                                 topics.keep_last(QUEUE_DEPTH), raw=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Record until stopped; return 1, with a sentence on stderr, if no bag can be written."""
    parser = argparse.ArgumentParser(prog='uncertainty_seg.ros.recorder', description=__doc__)
    parser.add_argument('topics', nargs='+', metavar='TOPIC')
    parser.add_argument('--out', type=Path, required=True, help='bag to write')
    parser.add_argument('--force', action='store_true', help='replace an older bag')
    words = list(sys.argv[1:] if argv is None else argv)
    args, stop = parser.parse_args(split_words(words)[0]), stop_on_signals()
    try:
        start_ros(words)
        with BagWriter(args.out, overwrite=args.force) as writer:
            node, executor = RecorderNode(args.topics, writer), SingleThreadedExecutor()
            executor.add_node(node)
            while not stop.is_set():
                executor.spin_once(timeout_sec=0.2)
            executor.shutdown()
            node.destroy_node()
            if node.missing or writer.num_messages == 0:
                silent = ', '.join(node.missing or args.topics)
                raise BagError(f'nothing was published on {silent}',
                               fix='no bag is kept; check the names of the topics')
    except UncertaintySegError as err:
        print(f'uncertainty_seg.ros.recorder: {err}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    print(json.dumps({'recorder': 'closed', 'messages': writer.num_messages}), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
