# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Shared code of the ROS tests: a node in a separate process, and a client that waits for events.

Every test file locks a ROS domain id for itself, and DDS is limited to this machine, so that
parallel tests do not receive each other's messages. No test sleeps: it waits until publisher and
subscriber have discovered each other, publishes, and waits for the expected result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
import fcntl
from importlib import import_module
from importlib.util import find_spec
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
FAULT_NODE = [str(Path(__file__).resolve().parents[2] / 'rigs' / 'ros_fault_node.py')]
NODE = ['-m', 'uncertainty_seg.ros.node']
TIMEOUT_S = 60.0  # at least ten times what a loaded machine needs
HAS_ROS = find_spec('rclpy') is not None
SKIP_REASON = 'rclpy is missing: source ROS 2, or install the wheels as scripts/test does'

needs_ros = [
    pytest.mark.ros,
    pytest.mark.skipif(not HAS_ROS, reason=SKIP_REASON),
]


def restart_with_ros_libraries(config: Any) -> None:
    """
    Let the ROS wheels restart Python before pytest captures stdout.

    Importing rclpy from wheels replaces the process, to set LD_LIBRARY_PATH. If pytest already
    captured output, everything printed after the restart would be lost.
    """
    if find_spec('ros_wheels_bootstrapper') is None:
        return
    if os.environ.get('_ROS_WHEELS_BOOTSTRAP_COMPLETE'):
        return
    manager = config.pluginmanager.getplugin('capturemanager')
    if manager is not None:
        manager.stop_global_capturing()
    import_module('ros_wheels_bootstrapper')  # does not return


@contextmanager
def own_domain() -> Iterator[int]:
    """Hold a ROS domain id that no other test process on this machine uses."""
    folder = Path(tempfile.gettempdir()) / f'uncertainty_seg_ros_domains_{os.getuid()}'
    folder.mkdir(exist_ok=True)
    for domain in range(1, 102):
        file = (folder / str(domain)).open('w')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        with file:  # closing the file releases the lock, also if the process is killed
            yield domain
        return
    raise RuntimeError('no ROS domain is free')


def ros_environment(domain: int) -> dict[str, str]:
    """Return the environment of a process whose ROS traffic stays on this machine."""
    return {
        **os.environ,
        **dict([_local_only()]),
        'ROS_DOMAIN_ID': str(domain),
        'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
        'PYTHONUNBUFFERED': '1',
    }


def _local_only() -> tuple[str, str]:
    # Later distributions warn about the variable that Humble needs.
    if os.environ.get('ROS_DISTRO') == 'humble':
        return 'ROS_LOCALHOST_ONLY', '1'
    return 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST'


class Process:
    """A Python process in a ROS domain, whose output is logged to a file."""

    def __init__(
        self, arguments: Sequence[str], domain: int, log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        with log.open('w') as out:
            self._process = subprocess.Popen(
                [sys.executable, *arguments], stdout=out, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, env={**ros_environment(domain), **(environment or {})},
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, timeout_s: float | None = TIMEOUT_S) -> int:
        return self._process.wait(timeout_s)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def interrupt(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        self._process.send_signal(number)
        return self.wait()

    def end(self) -> None:
        """End the process if it still runs, whatever the test did."""
        if self.is_running:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def node_arguments(
    bundle: Path, program: Sequence[str] = NODE, **parameters: Any
) -> list[str]:
    """
    Return the arguments that run the node on a bundle, with its image on /cam.

    The age and freeze checks are off, because tests repeat images and number their stamps.
    """
    values = {'model': bundle, 'backend': 'onnxruntime', 'max_age_s': 0.0, 'max_repeats': -1,
              'reliability': 'best_effort',  # no frame is lost when the node resubscribes
              **parameters}
    words = [*program, '--ros-args', '-r', 'image:=/cam']
    for name, value in values.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words += ['-p', f'{name.replace("__", ".")}:={text}']
    return words


class Client:
    """
    A node of the test that publishes images and collects the messages of the node under test.

    A wait fails as soon as the watched process ends, and prints its output.
    """

    def __init__(self, domain: int, process: Process | None = None) -> None:
        os.environ.update([_local_only()])
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image

        self.watched = process
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node('test_client', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Any] = {}
        self.received: dict[str, list[Any]] = {}
        self.camera = self.node.create_publisher(Image, '/cam', 10)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def listen(self, topic: str, kind: Any, qos: Any = 10) -> list[Any]:
        """Collect a topic's messages; returns the list they are appended to."""
        messages = self.received.setdefault(topic, [])
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def wait_until(self, condition: Callable[[], Any], what: str) -> Any:
        """Spin until a condition holds and return its value; on timeout fail and print `what`."""
        end_s = time.monotonic() + TIMEOUT_S
        while not (value := condition()):
            output = self.watched.output if self.watched is not None else ''
            if time.monotonic() > end_s:
                pytest.fail(f'waited {TIMEOUT_S:g} s for {what}\n{output}')
            if self.watched is not None and not self.watched.is_running:
                pytest.fail(f'the node ended while waiting for {what}\n{output}')
            self._executor.spin_once(timeout_sec=0.05)
        return value

    def spin(self, seconds: float) -> None:
        """Handle callbacks for a number of seconds."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)

    def wait_for_topics(self, *topics: str) -> None:
        """Wait until the node publishes each of the topics listened to."""
        self.wait_until(
            lambda: all(self.node.count_publishers(topic) > 0 for topic in topics),
            f'publishers of {topics}',
        )

    def wait_for_camera_match(self) -> None:
        """Wait until the node has subscribed to the test's camera."""
        self.wait_until(self.camera.get_subscription_count, 'the node to subscribe')

    def ask(self, service: str, kind: Any, request: Any) -> Any:
        """Call a service and return the future of its response."""
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
        client = self._clients[service]
        self.wait_until(client.service_is_ready, f'service {service}')
        return client.call_async(request)

    def call(self, service: str, kind: Any, request: Any) -> Any:
        """Call a service and return its response."""
        future = self.ask(service, kind, request)
        self.wait_until(future.done, f'the answer of {service}')
        return future.result()

    def set_parameters(self, **values: Any) -> list[Any]:
        """Set each parameter on its own, as `ros2 param set` does; returns their results."""
        return self._set('SetParameters', values).results

    def set_together(self, **values: Any) -> Any:
        """Set parameters atomically; returns the one result."""
        return self._set('SetParametersAtomically', values).result

    def _set(self, kind: str, values: Mapping[str, Any]) -> Any:
        from rcl_interfaces import srv
        from rclpy.parameter import Parameter

        service = {'SetParameters': 'set_parameters',
                   'SetParametersAtomically': 'set_parameters_atomically'}[kind]
        messages = [Parameter(name.replace('__', '.'), value=value).to_parameter_msg()
                    for name, value in values.items()]
        request = getattr(srv, kind).Request(parameters=messages)
        return self.call(f'/uncertainty_seg/{service}', getattr(srv, kind), request)

    def ask_state(self, transition: str) -> Any:
        """Request a lifecycle transition by name; returns the future of the response."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.id = getattr(Transition, f'TRANSITION_{transition.upper()}')
        return self.ask('/uncertainty_seg/change_state', ChangeState, request)

    def change_state(self, transition: str) -> bool:
        """Make a lifecycle transition by name; returns whether it succeeded."""
        future = self.ask_state(transition)
        self.wait_until(future.done, f'the answer to {transition}')
        return bool(future.result().success)

    def state(self) -> str:
        """Return the name of the node's lifecycle state."""
        from lifecycle_msgs.srv import GetState

        answer = self.call('/uncertainty_seg/get_state', GetState, GetState.Request())
        return str(answer.current_state.label)


def image_message(
    pixels: np.ndarray[Any, Any], stamp_ns: int, encoding: str = 'bgr8', **changes: Any
) -> Any:
    """Make a camera message; `changes` overrides fields, to make it invalid."""
    import array

    from builtin_interfaces.msg import Time
    from sensor_msgs.msg import Image

    msg = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                step=pixels.strides[0])
    msg.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    msg.header.frame_id = 'camera_optical'
    msg.data = array.array('B', pixels.tobytes())
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


def arrival(msg: Any) -> Any:
    """Return a camera message as an `Arrival`, the form in which it is queued."""
    from uncertainty_seg.ros.conversions import stamp_ns
    from uncertainty_seg.ros.frame_processor import Arrival

    return Arrival(msg, stamp_ns(msg.header))


def solid(blue: int, green: int, red: int, height: int = 96, width: int = 128) -> Any:
    """Return an image of one colour."""
    return np.full((height, width, 3), (blue, green, red), np.uint8)


def values_of(status: Any) -> dict[str, str]:
    """Return the key-value pairs of a DiagnosticArray's only entry."""
    return {pair.key: pair.value for pair in status.status[0].values}
