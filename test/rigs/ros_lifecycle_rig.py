# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A rig around the node's process for the lifecycle, clock and topic tests, and a program.

`ros_lifecycle_rig.py ARGUMENTS` is the real node in which a call of rclpy raises while a file of
that call's name lies in the folder UNCERTAINTY_SEG_TEST_FAILURES; what the file says is the end of
the topic's name it raises for.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
import itertools
import os
from pathlib import Path
import sys
from typing import Any

from ros_helpers import (
    Client,
    image_message,
    NODE,
    node_arguments,
    own_domain,
    Process,
    solid,
    values_of,
)

FAILURES_VARIABLE = 'UNCERTAINTY_SEG_TEST_FAILURES'
FAILING_NODE = [str(Path(__file__))]
GOOD, BAD = solid(0, 0, 255), solid(128, 128, 128)
# Calls of rclpy.node.Node and how they tell their topic.
CALLS: Mapping[str, Callable[[tuple[Any, ...]], str]] = {
    'create_publisher': lambda args: str(args[1]),
    'create_subscription': lambda args: str(args[1]),
    'destroy_publisher': lambda args: _topic_of(args[0]),
    'destroy_subscription': lambda args: _topic_of(args[0]),
}


def _topic_of(end: Any) -> str:
    try:
        return str(end.topic_name)
    except Exception:  # InvalidHandle, which is elsewhere in each release: destroyed before
        return ''


class NodeRig:
    """What a node says, collected, and a camera to talk to it."""

    def __init__(self, domain: int, process: Process, client: Client) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import Image
        from std_msgs.msg import Bool

        self.domain, self.process, self.client = domain, process, client
        self.flags = client.listen('/uncertainty_seg/confident', Bool)
        self.status = client.listen('/uncertainty_seg/status', DiagnosticArray)
        self.masks = client.listen('/uncertainty_seg/mask', Image)
        self.flagged = client.listen('/uncertainty_seg/flagged', Image)
        self.health = client.listen('/diagnostics', DiagnosticArray)
        self._seconds = itertools.count(1000)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return self.client.wait_until(condition, what)

    def send(self, sec: int, nanosec: int = 0, pixels: Any = GOOD) -> None:
        """Publish a frame with any stamp a message can hold."""
        msg = image_message(pixels, 0)
        msg.header.stamp.sec, msg.header.stamp.nanosec = sec, nanosec
        self.client.camera.publish(msg)

    def answer(self, sec: int, nanosec: int = 0, pixels: Any = GOOD) -> Any:
        """Publish a frame and return the node's word on it."""
        num_before = len(self.status)

        def answered() -> Any:
            stamps = [(s.header.stamp.sec, s.header.stamp.nanosec, s.header.frame_id)
                      for s in self.status[num_before:]]
            wanted = (sec, nanosec, 'camera_optical')
            return wanted in stamps and self.status[num_before + stamps.index(wanted)]
        self.send(sec, nanosec, pixels)
        return self.wait(answered, f'the status of the frame {sec}.{nanosec:09d}')

    def raise_flag(self) -> None:
        """Send good frames until the flag is up."""
        first = len(self.flags)

        def is_up() -> bool:
            self.send(next(self._seconds))
            self.client.spin(0.03)
            return any(flag.data for flag in self.flags[first:])
        self.wait(is_up, 'the flag to be up')

    def wait_for_reason(self, text: str) -> None:
        """Wait until the flag is false and was last said to be so for this reason."""
        self.wait(lambda: self.flags and not self.flags[-1].data and self.status
                  and text in self.status[-1].status[0].message, f'false with {text!r}')

    def next_health(self, num_more: int = 2) -> dict[str, str]:
        """Return the values of diagnostics made from now on."""
        num_before = len(self.health)
        self.wait(lambda: len(self.health) >= num_before + num_more, 'diagnostics')
        return values_of(self.health[-1])


@contextmanager
def node_rig(
    folder: Path, bundle: Path, program: Sequence[str] = NODE, **parameters: Any
) -> Iterator[NodeRig]:
    """Start a node in a domain of its own and listen to it."""
    with own_domain() as domain:
        failures = folder / 'failures'
        failures.mkdir(exist_ok=True)
        process = Process(node_arguments(bundle, program, **parameters), domain, folder / 'log',
                          {FAILURES_VARIABLE: str(failures)})
        client = Client(domain, process)
        try:
            yield NodeRig(domain, process, client)
        finally:
            client.close()
            process.end()


def run_failing_node(arguments: Sequence[str]) -> int:
    """Run the real node; its calls of rclpy fail while their file says so."""
    from rclpy.node import Node

    from uncertainty_seg.ros.node import main

    folder = Path(os.environ[FAILURES_VARIABLE])
    for call, topic_of in CALLS.items():
        setattr(Node, call, _failing_by_file(getattr(Node, call), folder / call, topic_of))
    return main(list(arguments))


def _failing_by_file(
    real: Callable[..., Any], file: Path, topic_of: Callable[[tuple[Any, ...]], str]
) -> Callable[..., Any]:
    def run(node: Any, *args: Any, **options: Any) -> Any:
        if file.exists() and topic_of(args).endswith(file.read_text()):
            raise OSError(f'{file.name} fails on command')
        return real(node, *args, **options)
    return run


if __name__ == '__main__':
    sys.exit(run_failing_node(sys.argv[1:]))
