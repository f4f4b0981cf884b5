# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A rig around the node's process for the lifecycle, clock and topic tests, and two programs.

`ros_lifecycle_rig.py node ARGUMENTS` is the real node in which a call of rclpy raises while a file
of that call's name lies in the folder UNCERTAINTY_SEG_TEST_FAILURES; what the file says is the end
of the topic's name it raises for. `ros_lifecycle_rig.py leaks BUNDLE FOLDER CAMERAS NAME` takes a
node through cycles of transitions and writes what grew meanwhile into FOLDER, see `LeakRig`.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, ExitStack
import ctypes
import gc
import itertools
import json
import os
from pathlib import Path
import shutil
import sys
import threading
import time
from typing import Any

from ros_helpers import (
    Client,
    image_message,
    NODE,
    node_arguments,
    own_domain,
    Process,
    solid,
    TIMEOUT_S,
    values_of,
)

FAILURES_VARIABLE = 'UNCERTAINTY_SEG_TEST_FAILURES'
FAILING_NODE = [str(Path(__file__)), 'node']
GOOD, BAD = solid(0, 0, 255), solid(128, 128, 128)
CYCLES, WARM_UP = 100, 8
CONFIGURED = ('activate', 'refused_activate')  # cycles from inactive to inactive
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


@contextmanager
def failing(call: str, topic: str, error: Exception, times: int = 10**9) -> Iterator[None]:
    """Let a call of rclpy raise for the topics that end so, the first few times."""
    from rclpy.node import Node

    real = getattr(Node, call)
    left = itertools.repeat(None, times)

    def run(node: Any, *args: Any, **options: Any) -> Any:
        if CALLS[call](args).endswith(topic) and next(left, self_is_over) is None:
            raise error
        return real(node, *args, **options)

    self_is_over = object()
    setattr(Node, call, run)
    try:
        yield
    finally:
        setattr(Node, call, real)


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


class LeakRig:
    """
    A node and its camera in this process; every cycle leaves it in the state it was.

    What is counted after the garbage collection: threads and open files of the process, what the
    node has on the ROS graph, Python objects of our classes, kilobytes of anonymous memory, and
    the references in the node's callback group, where rclpy keeps those of dead entities, too.

    """

    def __init__(self, bundle: Path, cameras: str = '') -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image
        from std_msgs.msg import Bool

        from uncertainty_seg.ros import rivals as name_claim
        from uncertainty_seg.ros.node import UncertaintySegNode

        parameters = node_arguments(bundle, autostart=False, stale_timeout_s=60,
                                    gate__rise_frames=1)[len(NODE):]
        if cameras:
            parameters += ['-p', f'cameras:=[{cameras}]']
        self._last_camera = f'/{cameras.rpartition(",")[2]}/image' if cameras else '/cam'
        rclpy.init(args=['leaks', *parameters, '--log-level', 'fatal'])
        self._make_node = UncertaintySegNode
        # Alone in its domain, it need not look for another node at each of a hundred starts.
        name_claim.LOOK_S = name_claim.LOOK_TURNS = 0
        self._card = bundle / 'card.json'
        self._executor = SingleThreadedExecutor()
        self._peer = rclpy.create_node('peer')
        self._executor.add_node(self._peer)
        self._camera = self._peer.create_publisher(Image, '/cam', 10)
        self._num_true = 0
        self._peer.create_subscription(Bool, '/uncertainty_seg/confident', self._on_flag, 10)
        self._peer.create_subscription(Image, '/uncertainty_seg/mask', lambda msg: None, 10)
        self._stamps = itertools.count(1)
        self._turns = itertools.count()
        self.node = self._new_node()

    def close(self) -> None:
        """End the node."""
        self._end(self.node)

    def cycle(self, name: str) -> None:
        """Go once through a scenario, by its name."""
        getattr(self, f'_{name}')()
        self._spin(4)

    def growth(self, name: str) -> dict[str, float]:
        """Return how much more of everything there is after all cycles, memory in kB a cycle."""
        if name in CONFIGURED:
            self._expect('configure', 'SUCCESS')
        for _ in range(WARM_UP):
            self.cycle(name)
        counts = [self._count()]
        for _ in range(2):
            for _ in range(CYCLES // 2):
                self.cycle(name)
            counts.append(self._count())
        before, middle, after = counts
        grown = {what: float(n - before.get(what, 0)) for what, n in after.items()}
        # Of the second half: what is made once and kept is made by then.
        memory_kb = (after['memory_kb'] - middle['memory_kb']) / (CYCLES // 2)
        return {**grown, 'memory_kb': memory_kb}

    def _configure(self) -> None:
        self._expect('configure', 'SUCCESS')
        self._expect('cleanup', 'SUCCESS')

    def _activate(self) -> None:
        self._expect('activate', 'SUCCESS')
        self._raise_flag()
        for _ in range(3):  # these are on their way, or in work, when it ends
            self._send()
        self._spin(2)
        self._expect('deactivate', 'SUCCESS')

    def _shutdown(self) -> None:
        for transition in ('configure', 'activate')[:next(self._turns) % 3]:
            self._expect(transition, 'SUCCESS')
        self._spin(2)
        self._expect('shutdown', 'SUCCESS')
        self._end(self.node)
        self.node = self._new_node()  # not before: two of one name watch each other

    def _refused_configure(self) -> None:
        away = self._card.rename(self._card.with_name('away'))
        self._expect('configure', 'FAILURE')
        away.rename(self._card)

    def _raising_configure(self) -> None:
        with failing('create_publisher', 'heatmap', OSError('on command')):
            self._expect('configure', 'ERROR')

    def _raising_activate(self) -> None:
        self._expect('configure', 'SUCCESS')
        with failing('create_subscription', self._last_camera, OSError('on command')):
            self._expect('activate', 'ERROR')

    def _refused_activate(self) -> None:
        from uncertainty_seg.errors import BackendError

        with failing('create_subscription', self._last_camera, BackendError('on command')):
            self._expect('activate', 'FAILURE')
        if next(self._turns) % 10 == 9:  # a manager that tried again and again
            self._expect('activate', 'SUCCESS')
            self._expect('deactivate', 'SUCCESS')

    def _raising_deactivate(self) -> None:
        self._expect('configure', 'SUCCESS')
        self._expect('activate', 'SUCCESS')
        with failing('destroy_subscription', '/cam', OSError('on command'), times=1):
            self._expect('deactivate', 'ERROR')

    def _raising_cleanup(self) -> None:
        self._expect('configure', 'SUCCESS')
        with failing('destroy_publisher', 'mask', OSError('on command'), times=1):
            self._expect('cleanup', 'ERROR')

    def _new_node(self) -> Any:
        node = self._make_node()
        self._executor.add_node(node)
        return node

    def _end(self, node: Any) -> None:
        node.stop()
        self._executor.remove_node(node)
        node.destroy_node()

    def _expect(self, transition: str, outcome: str) -> None:
        got = getattr(self.node, f'trigger_{transition}')().name
        assert got == outcome, f'{transition} gave {got}, expected {outcome}'

    def _raise_flag(self) -> None:
        num_true, end_s = self._num_true, time.monotonic() + TIMEOUT_S
        while self._num_true == num_true:
            assert time.monotonic() < end_s, 'the flag does not rise'
            if self._camera.get_subscription_count():
                self._send()
            self._executor.spin_once(timeout_sec=0.005)
            # On an idle machine this loop would keep the interpreter from the worker's thread.
            time.sleep(0.002)

    def _send(self) -> None:
        self._camera.publish(image_message(GOOD, next(self._stamps) * 10**9))

    def _on_flag(self, msg: Any) -> None:
        self._num_true += msg.data

    def _spin(self, times: int) -> None:
        for _ in range(times):
            self._executor.spin_once(timeout_sec=0)

    def _count(self) -> dict[str, int]:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        kinds = ('publishers', 'subscriptions', 'timers', 'services', 'clients', 'guards',
                 'waitables')
        ours = Counter(type(o).__name__ for o in gc.get_objects()
                       if str(type(o).__module__).startswith('uncertainty'))
        status = Path('/proc/self/status').read_text()
        return {
            'threads': len(os.listdir('/proc/self/task')),
            'python_threads': threading.active_count(),
            'files': len(os.listdir('/proc/self/fd')),
            **{kind: len(list(getattr(self.node, kind))) for kind in kinds},
            **{f'objects of {name}': n for name, n in ours.items()},
            'references': len(self.node.default_callback_group.entities),
            'memory_kb': int(status.partition('RssAnon:')[2].split()[0]),
        }


def growths(
    folder: Path, bundle: Path, names: Sequence[str], cameras: str = ''
) -> dict[str, dict[str, float]]:
    """Run the program `leaks` once for each scenario, all at a time; return what grew in each."""
    with ExitStack() as stack:
        processes = {}
        for name in names:
            # Of its own: one of the scenarios takes the card away for a moment.
            copy = shutil.copytree(bundle, folder / name / 'bundle')
            words = [str(Path(__file__)), 'leaks', str(copy), str(folder / name), cameras, name]
            processes[name] = Process(
                words, stack.enter_context(own_domain()), folder / name / 'log')
            stack.callback(processes[name].end)
        for process in processes.values():
            # No limit but pytest's: how long a hundred cycles take is not what is tested.
            if process.wait(None):  # no AssertionError, which a test may expect
                raise RuntimeError(process.output)
    return {name: json.loads((folder / name / 'growth.json').read_text()) for name in names}


def main(words: Sequence[str]) -> int:
    """Run one of the two programs."""
    if words[0] == 'node':
        return run_failing_node(words[1:])
    _, bundle, folder, cameras, name = words
    rig = LeakRig(Path(bundle), cameras)
    (Path(folder) / 'growth.json').write_text(json.dumps(rig.growth(name)))
    rig.close()
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
