# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Inject faults into the real node, over DDS and at camera rate, and count wrong flags ("lies").

    scripts/soak [--seconds 300] [--seed 0] [--rate 30] [--only NAME ...]

Node and governor are separate processes. This process sends the frames, acts on node and governor
like an operator, in an order given by the seed, and receives flag, numbers, status and factor.
`soak_oracle` judges them. It prints lines of progress; the last line is one JSON object. The exit
code is 0 if no flag was wrongly true, good frames were true, and memory did not grow.
"""

import argparse
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, ExitStack
import heapq
import itertools
import json
import math
import os
from pathlib import Path
import queue
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import Client, node_arguments, own_domain, Process
from soak_frames import FAULTS, FaultyCamera, MAX_AGE_S, MAX_REPEATS, message
from soak_oracle import Answer, Event, Factor, Flag, Frame, Oracle, Span

FOLDER = Path(__file__).resolve().parent
SLOW, SCALE, TIMEOUT_S = 0.2, 0.5, 1.0
# An event is judged after this time, when all earlier events have been received.
PATIENCE_S = 4.0
# Allowed growth of a process's memory from the middle third of a run to the last: a constant, plus
# a rate. Handles and threads must not grow.
MOST_KB, MOST_KB_A_SECOND, LEAST_SAMPLES = 4096.0, 2.0, 150


class Camera:
    """A thread that sends frames at its rate, and records the fault of each."""

    def __init__(self, node: Any, seed: int, rate_hz: float) -> None:
        from sensor_msgs.msg import Image

        self.noted: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._shots, self._plans = FaultyCamera(seed), deque[str]()
        self._period_s, self._numbers = 1 / rate_hz, itertools.count()
        self.is_storm, self.silent_until_s = False, 0.0
        self._node, self._closed = node, threading.Event()
        self._images = node.create_publisher(Image, '/cam', 30)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def plan(self, kind: str) -> None:
        self._plans.append(kind)

    def end(self) -> None:
        self._closed.set()
        self._thread.join()
        self._node.destroy_publisher(self._images)

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._closed.wait(max(due_s - time.monotonic(), 0.0)):
            due_s = max(due_s + self._period_s, time.monotonic() - self._period_s)
            while self._plans:
                self._shots.plan(self._plans.popleft())
            if time.monotonic() >= self.silent_until_s:
                self._send(f'{id(self)}.{next(self._numbers)}')

    def _send(self, name: str) -> None:
        now_s = time.time()
        shot = self._shots.draw(int(now_s * 1e9), self.is_storm)
        self.noted.put(Frame(now_s, name, shot.kind, shot.is_good, shot.stamp_ns / 1e9 - now_s))
        self._images.publish(message(shot, name))


class Soak:
    """All processes of the soak and the actions on them; `stack` ends the processes."""

    def __init__(
        self, args: argparse.Namespace, domain: int, folder: Path, stack: ExitStack
    ) -> None:
        self._args, self._folder = args, folder
        self.random = random.Random(args.seed)
        self.oracle = Oracle(SLOW, TIMEOUT_S)
        self._heap: list[tuple[float, int, Event]] = []
        self._numbers, self._cameras = itertools.count(), itertools.count()
        self.errors: list[str] = []
        self._factor, self.calms, self.calms_fast = 0.0, 0, 0
        self.samples: list[dict[str, float]] = []
        self._sampled_s = 0.0
        self.done: Counter[str] = Counter()
        parameters = {
            'max_age_s': MAX_AGE_S, 'max_repeats': MAX_REPEATS,
            # A threshold between red and half grey, which the tiny network can distinguish.
            'gate__threshold_scale': SCALE,
            'reliability': 'reliable', 'stale_timeout_s': TIMEOUT_S,
            'log__folder': str(folder / 'log'), 'log__quota_mb': 3.0, 'log__free_disk_mb': 0.25,
            'log__control_share': 0.2, 'log__min_interval_s': 0.0, 'log__duplicate_bits': 0,
            **dict(word.split(':=') for word in args.parameter),
        }
        program = [str(FOLDER / 'soak_backend.py')]
        self.node = Process(
            node_arguments(make_tiny_bundle(folder / 'tiny'), program, **parameters), domain,
            folder / 'node.log')
        stack.callback(self.node.end)
        self.governor = Process(
            ['-m', 'uncertainty_seg.ros.governor.node', '--ros-args',
             '-r', 'confident:=/uncertainty_seg/confident', '-p', f'slow_factor:={SLOW}',
             '-p', f'deadline_s:={TIMEOUT_S}', '-p', f'settle_s:={TIMEOUT_S}',
             '-p', 'rise_per_s:=1.0'], domain, folder / 'governor.log')
        stack.callback(self.governor.end)
        self.client = Client(domain, self.node)
        stack.callback(self.client.close)
        self._listen()
        self.client.wait_for_camera_match()  # the node is active
        # The client's camera would count as a second publisher and lower the flag.
        self.client.node.destroy_publisher(self.client.camera)
        self.camera = self.new_camera()
        stack.callback(self._let_go)

    def _let_go(self) -> None:
        for process in (self.node, self.governor):
            if process.is_running:
                process.send_signal(signal.SIGCONT)
        self.camera.end()

    def _listen(self) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.qos import QoSProfile
        from std_msgs.msg import Bool, Float32

        ends = {
            '/uncertainty_seg/confident': (Bool, self._on_flag),
            '/uncertainty_seg/status': (DiagnosticArray, self._on_status),
            '/speed_governor/speed_factor': (Float32, self._on_factor),
        }
        for topic, (kind, take) in ends.items():
            self.client.node.create_subscription(kind, topic, take, QoSProfile(depth=2000))
        self.client.wait_for_topics(*ends)

    def _on_flag(self, msg: Any, info: Any) -> None:
        self.note(Flag(info['source_timestamp'] / 1e9, msg.data))

    def _on_status(self, msg: Any, info: Any) -> None:
        values = {pair.key: pair.value for pair in msg.status[0].values}
        self.note(Answer(info['source_timestamp'] / 1e9, msg.header.frame_id,
                         values.get('confident') == 'true', values.get('kind', '')))

    def _on_factor(self, msg: Any, info: Any) -> None:
        self._factor = msg.data
        self.note(Factor(info['source_timestamp'] / 1e9, msg.data))

    # --- events --------------------------------------------------------------------------------

    def note(self, event: Event) -> None:
        """Queue an event, to be judged in the order of times."""
        heapq.heappush(self._heap, (event.time_s, next(self._numbers), event))

    def judge(self, until_s: float = math.inf) -> None:
        """Pass the events up to a time to the oracle."""
        while not self.camera.noted.empty():
            self.note(self.camera.noted.get())
        while self._heap and self._heap[0][0] <= until_s:
            self.oracle.feed([heapq.heappop(self._heap)[2]])

    def spin(self, seconds: float) -> None:
        """Receive, judge and sample for a number of seconds."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.client.spin(min(left_s, 0.1))
            self.judge(time.time() - PATIENCE_S)
            self._sample()

    @contextmanager
    def span(self, what: str) -> Iterator[None]:
        self.note(Span(time.time(), what, True))
        try:
            yield
        finally:
            self.note(Span(time.time(), what, False))

    def _sample(self) -> None:
        now_s = time.monotonic()
        if now_s - self._sampled_s < 1.0 or not self.is_whole:
            return
        self._sampled_s = now_s
        sample = {'time_s': now_s}
        for name, process in (('node', self.node), ('governor', self.governor)):
            folder = Path('/proc') / str(process.pid)
            status = (folder / 'status').read_text()
            sample[f'{name}_kb'] = float(status.partition('RssAnon:')[2].split()[0])
            sample[f'{name}_files'] = len(os.listdir(folder / 'fd'))
            sample[f'{name}_threads'] = len(os.listdir(folder / 'task'))
        self.samples.append(sample)
        with (self._folder / 'samples.jsonl').open('a') as file:
            file.write(json.dumps(sample) + '\n')

    # --- actions ---------------------------------------------------------------------------------

    def new_camera(self) -> Camera:
        seed = self._args.seed + 1000 * next(self._cameras)
        return Camera(self.client.node, seed, self._args.rate)

    def calm(self) -> None:
        """Do nothing for a while; count whether the factor rose, if the time sufficed."""
        calm_s = self.random.uniform(1.5, 2 + TIMEOUT_S)
        self.spin(calm_s)
        if calm_s > 1.5 + TIMEOUT_S:
            self.calms += 1
            self.calms_fast += self._factor > SLOW

    @property
    def is_whole(self) -> bool:
        return self.node.is_running and self.governor.is_running

    def do(self, name: str) -> None:
        """Do one action by its name; an error is recorded and does not end the run."""
        try:
            if name in FAULTS:
                self.camera.plan(name)
                self.spin(0.7)
            else:
                DEEDS[name](self)
        except (Exception, pytest.fail.Exception) as err:
            self.errors.append(f'{name}: {type(err).__name__}: {err}')
        self.done[name] += 1

    def storm(self) -> None:
        self.camera.is_storm = True
        self.spin(self.random.uniform(2, 5))
        self.camera.is_storm = False

    def silence(self) -> None:
        silence_s = self.random.uniform(0.3, 2 * TIMEOUT_S + 1)
        self.camera.silent_until_s = time.monotonic() + silence_s
        self.spin(silence_s)

    def lose_camera(self) -> None:
        """Destroy the camera and start another."""
        self.camera.end()
        self.spin(self.random.uniform(0.0, 2.5))
        self.judge(0.0)  # queues its last frames
        self.camera = self.new_camera()
        self.spin(1.0)

    def stop_node(self) -> None:
        """Stop the node's process and continue it, sometimes without frames meanwhile."""
        pause_s = self.random.choice((0.3, 1.1, 2.0, 3.5))
        if self.random.random() < 0.5:
            self.camera.silent_until_s = time.monotonic() + pause_s + 0.5
        with self.span('paused'):
            self.node.send_signal(signal.SIGSTOP)
            self.spin(pause_s)
            self.node.send_signal(signal.SIGCONT)
        self.spin(0.5)

    def stop_governor(self) -> None:
        self.governor.send_signal(signal.SIGSTOP)
        self.spin(self.random.choice((0.3, 1.1, 3.0)))
        self.governor.send_signal(signal.SIGCONT)

    def change(self, **values: Any) -> None:
        with self.span('restarting'):
            results = self.client.set_parameters(**values)
        assert all(result.successful for result in results), results

    def change_passes(self) -> None:
        """Set an uncalibrated T, then restore it."""
        self.change(passes=4)
        with self.span('uncalibrated'):
            self.spin(1.0)
        self.change(passes=-1)

    def reset(self) -> None:
        from std_srvs.srv import Trigger

        with self.span('restarting'):
            self.client.call('/uncertainty_seg/reset', Trigger, Trigger.Request())
        self.spin(0.5)

    def deactivate(self) -> None:
        """Deactivate and activate the node, sometimes with a cleanup between."""
        assert self.client.change_state('deactivate')
        with self.span('inactive'):
            self.spin(self.random.uniform(0, 1))
            if self.random.random() < 0.5:
                assert self.client.change_state('cleanup')
                self.spin(0.3)
                assert self.client.change_state('configure')
        with self.span('activated'):
            assert self.client.change_state('activate')

    # --- the run ----------------------------------------------------------------------------

    def run(self, seconds: float, only: Sequence[str]) -> None:
        """Do all actions once in random order, then repeat, for a number of seconds."""
        self.spin(3.0)
        start_s, told_s, names = time.monotonic(), 0.0, deque[str]()
        while (passed_s := time.monotonic() - start_s) < seconds and self.is_whole:
            if not names:
                all_names = list(only or (*FAULTS, *list(DEEDS) * 3))
                names.extend(self.random.sample(all_names, len(all_names)))
            self.calm()
            self.do(names.popleft())
            if passed_s - told_s > 15:
                told_s = passed_s
                oracle = self.oracle
                print(f'{passed_s:6.0f} s, {oracle.sent.total()} frames, {oracle.num_true} true, '
                      f'{len(oracle.lies)} lies', flush=True)
        if not self.is_whole:
            output = self.node.output + self.governor.output
            self.errors.append(f'a process ended: {output[-2000:]}')

    def report(self) -> dict[str, Any]:
        oracle = self.oracle
        return {
            'frames': oracle.sent.total(), 'answered': oracle.answered.total(),
            'faulty': sum(n for kind, n in oracle.sent.items() if kind != 'good'),
            'true': oracle.num_true, 'true_s': round(oracle.true_s),
            'lies': len(oracle.lies), 'blind': oracle.blind,
            'ready': oracle.ready, 'excused': oracle.num_excused,
            'late_but_corrected': oracle.num_corrected, 'factors_above_slow': oracle.num_fast,
            'calms': self.calms, 'calms_fast': self.calms_fast, 'errors': self.errors,
            'done': dict(sorted(self.done.items())), 'sent': dict(sorted(oracle.sent.items())),
            'growth': growth(self.samples),
        }


DEEDS: dict[str, Callable[[Soak], None]] = {
    'storm': Soak.storm, 'silence': Soak.silence, 'camera_lost': Soak.lose_camera,
    'node_stopped': Soak.stop_node, 'governor_stopped': Soak.stop_governor,
    'passes': Soak.change_passes, 'reset': Soak.reset,
    'lifecycle': Soak.deactivate,
}


def growth(samples: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Return the medians of the middle and the last third; {} for a short run."""
    size = len(samples) // 3
    if len(samples) < LEAST_SAMPLES:
        return {}
    return {name: [statistics.median(one[name] for one in samples[k * size:(k + 1) * size])
                   for k in (1, 2)] for name in samples[0]}


def faults_of(report: dict[str, Any]) -> list[str]:
    """Return the failures in a report, as sentences."""
    found = list(report['errors'])
    if report['lies']:
        found.append(f'{report["lies"]} lies')
    if not report['ready'] or report['blind'] > 0.1 * report['ready']:
        found.append(f'{report["blind"]} of {report["ready"]} good frames were not true')
    if report['calms_fast'] < 0.7 * report['calms']:
        found.append(f'fast after {report["calms_fast"]} of {report["calms"]} calm spells')
    passed_s = -math.inf
    for name, (middle, last) in report['growth'].items():
        if name == 'time_s':
            passed_s = last - middle
            continue
        most = MOST_KB + MOST_KB_A_SECOND * passed_s if name.endswith('_kb') else 0.0
        if last - middle > most:
            found.append(f'{name} grew from {middle:g} to {last:g} in {passed_s:.0f} s')
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Run the soak and print its report."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument('--seconds', type=float, default=300.0, help='length of the run [300]')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--rate', type=float, default=30.0, help='frames a second [30]')
    parser.add_argument('--only', nargs='+', default=[], choices=(*FAULTS, *DEEDS),
                        help='what to do [everything]', metavar='NAME')
    parser.add_argument('--keep', type=Path, metavar='FOLDER',
                        help='keep the logs of the processes and what they took, a line a second')
    parser.add_argument('--parameter', nargs='*', default=[], metavar='NAME:=VALUE',
                        help='of the node, to see what the oracle says of it')
    args = parser.parse_args(words)
    start_s = time.monotonic()
    with ExitStack() as stack:
        domain = stack.enter_context(own_domain())
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(args, domain, folder, stack)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        try:
            soak.run(args.seconds, args.only)
        except KeyboardInterrupt:
            print('interrupted: the report is of what was done', flush=True)
        soak.spin(PATIENCE_S + 0.5)
        soak.judge()
        report = {'seed': args.seed, 'seconds': round(time.monotonic() - start_s),
                  **soak.report()}
    for lie in soak.oracle.lies[:30]:
        print(f'lie: {lie}')
    report['faults'] = faults_of(report)
    print(json.dumps(report))
    return 1 if report['faults'] else 0


if __name__ == '__main__':
    sys.exit(main())
