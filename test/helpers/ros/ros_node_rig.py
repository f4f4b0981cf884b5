# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A node in a process, its collected messages, and a camera that sends it images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import itertools
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle
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
GOOD, BAD = solid(0, 0, 255), solid(128, 128, 128)


class NodeRig:
    """The collected messages of a node, and a camera that sends it images."""

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

    def send(
        self, sec: int | None = None, nanosec: int = 0, pixels: Any = GOOD, encoding: str = 'bgr8',
        **changes: Any,
    ) -> Any:
        """Publish a frame, stamped with the next second unless given; returns the message."""
        msg = image_message(pixels, 0, encoding, **changes)
        msg.header.stamp.sec = next(self._seconds) if sec is None else sec
        msg.header.stamp.nanosec = nanosec
        self.client.camera.publish(msg)
        return msg

    def of(self, msg: Any, messages: list[Any] | None = None) -> Any:
        """Return the status of a frame, or its message in another list."""
        found = self.status if messages is None else messages
        return self.wait(lambda: [m for m in found if m.header.stamp == msg.header.stamp],
                         f'what is said of the frame {msg.header.stamp}')[0]

    def answer(self, sec: int, nanosec: int = 0, pixels: Any = GOOD) -> Any:
        """Publish a frame and return the node's status of it."""
        num_before = len(self.status)

        def answered() -> Any:
            stamps = [(s.header.stamp.sec, s.header.stamp.nanosec, s.header.frame_id)
                      for s in self.status[num_before:]]
            wanted = (sec, nanosec, 'camera_optical')
            return wanted in stamps and self.status[num_before + stamps.index(wanted)]
        self.send(sec, nanosec, pixels)
        return self.wait(answered, f'the status of the frame {sec}.{nanosec:09d}')

    def verdict(self, pixels: Any = GOOD) -> dict[str, str]:
        """Send frames until a status of one arrives, and return the values of that status."""
        num_before, first = len(self.status), next(self._seconds)

        def answered() -> Any:
            self.send(next(self._seconds), pixels=pixels)
            self.client.spin(0.05)
            return [s for s in self.status[num_before:]
                    if s.header.frame_id and s.header.stamp.sec > first]
        return values_of(self.wait(answered, 'the status of a frame')[-1])

    def raise_flag(self) -> None:
        """Send good frames until the flag is true."""
        first = len(self.flags)

        def is_up() -> bool:
            self.send(next(self._seconds))
            self.client.spin(0.03)
            return any(flag.data for flag in self.flags[first:])
        self.wait(is_up, 'the flag to be up')

    def wait_for_reason(self, text: str) -> None:
        """Wait until the flag is false and the last status gives this reason."""
        self.wait(lambda: self.flags and not self.flags[-1].data and self.status
                  and text in self.status[-1].status[0].message, f'false with {text!r}')

    def next_health(self, num_more: int = 2) -> dict[str, str]:
        """Return the values of the diagnostics after `num_more` new messages."""
        num_before = len(self.health)
        self.wait(lambda: len(self.health) >= num_before + num_more, 'diagnostics')
        return values_of(self.health[-1])


@contextmanager
def node_rig(
    folder: Path, program: Sequence[str] = NODE, bundle: Path | None = None, **parameters: Any
) -> Iterator[NodeRig]:
    """Start a node in its own ROS domain and subscribe to it; the default bundle is `tiny`."""
    bundle = bundle or folder / 'tiny'
    if not bundle.exists():
        make_tiny_bundle(bundle)
    with own_domain() as domain:
        failures = folder / 'failures'
        failures.mkdir(exist_ok=True)
        process = Process(node_arguments(bundle, program, **parameters), domain, folder / 'log',
                          {FAILURES_VARIABLE: str(failures),
                           'UNCERTAINTY_SEG_TEST_RELEASE': str(folder / 'release')})
        client = Client(domain, process)
        try:
            yield NodeRig(domain, process, client)
        finally:
            client.close()
            process.end()
