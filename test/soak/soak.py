# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Try to make the flag of the real node lie, over DDS and at camera rate, and count how often it did.

    scripts/soak [--seconds 300] [--seed 0] [--rate 30] [--stale-timeout 1.0] [--only NAME ...]

Node, governor and camera are processes of their own. This process does what another node or an
operator could do to them, one thing after the other as the seed has it, and hears flag, numbers,
status and factor. `soak_oracle` judges them. A line tells the progress; the last is one JSON
object. The exit code is 0 if there was no lie, good frames were true, and nothing grew.

"""

from __future__ import annotations

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
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import Client, node_arguments, own_domain, Process, ros_environment
from soak_frames import FAULTS, MAX_AGE_S, MAX_REPEATS
from soak_oracle import (
    Answer,
    Event,
    Factor,
    Flag,
    Frame,
    MARGIN_S,
    Mark,
    Numbers,
    Oracle,
    Span,
    Timeout,
)

FOLDER = Path(__file__).resolve().parent
SLOW = 0.2
SCALE = 0.5
# Events are judged when none of before can come any more.
PATIENCE_S = 4.0
SAMPLE_S = 1.0
# The graph is looked at once a second; then the node has to ask for the other's flag.
NOTICE_S = 2.5
# Memory may grow by this in a second, as the lower end of the interval; handles not at all.
MOST_KB_A_SECOND, LEAST_GROWN_KB, LEAST_SAMPLES = 2.0, 4096.0, 150
T_95 = {4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}  # of Student's t, by degrees of freedom


class Camera:
    """The process of the camera, and the frames it says it sent."""

    def __init__(self, domain: int, seed: int, rate_hz: float, prefix: str, log: Path) -> None:
        self.frames: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        with log.open('a') as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(FOLDER / 'soak_camera.py'), str(seed), str(rate_hz), prefix],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=ros_environment(domain))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def tell(self, **command: Any) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + '\n')
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill it, as a camera that is unplugged."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith('\n') and line.startswith('['):
                self.frames.put(Frame(*json.loads(line)))


class Soak:
    """
    Everything that runs, and what is done to it.

    Parameters
    ----------
    args : Namespace
        Of the command line.
    domain : int
        Of ROS.
    folder : Path
        For bundle, logs and the disk.
    stack : ExitStack
        Ends what was begun.

    """

    def __init__(
        self, args: argparse.Namespace, domain: int, folder: Path, stack: ExitStack
    ) -> None:
        self._args, self._domain, self._folder = args, domain, folder
        self.random = random.Random(args.seed)
        deadline_s = args.stale_timeout
        self.oracle = Oracle(stale_timeout_s=deadline_s, slow_factor=SLOW, deadline_s=deadline_s,
                             settle_s=deadline_s)
        self._heap: list[tuple[float, int, Event]] = []
        self._numbers, self._cameras = itertools.count(), itertools.count()
        self._rival_s: deque[tuple[float, float]] = deque(maxlen=200)
        self.errors: list[str] = []
        self._factor, self.calms, self.calms_fast = 0.0, 0, 0
        self.samples: list[dict[str, float]] = []
        self._sampled_s, self._answered = 0.0, ''
        self.done: Counter[str] = Counter()
        self.camera: Camera | None = None
        bundle = make_tiny_bundle(folder / 'tiny')
        parameters = {
            'max_age_s': MAX_AGE_S, 'max_repeats': MAX_REPEATS,
            # Between red and red with a grey half: of the content, the tiny network sees that.
            'gate__threshold_scale': SCALE,
            'reliability': 'reliable',
            'stale_timeout_s': args.stale_timeout, 'log__folder': str(folder / 'log'),
            'log__quota_mb': 3.0, 'log__free_disk_mb': 0.25,
            'log__control_share': 0.2, 'log__min_interval_s': 0.0, 'log__duplicate_bits': 0,
            **dict(word.split(':=') for word in args.parameter),
        }
        self.node = Process(
            node_arguments(bundle, [str(FOLDER / 'soak_node.py')], **parameters), domain,
            folder / 'node.log')
        stack.callback(self.node.end)
        self.governor = Process(
            ['-m', 'uncertainty_seg.ros.governor.node', '--ros-args',
             '-r', 'confident:=/uncertainty_seg/confident', '-p', f'slow_factor:={SLOW}',
             '-p', f'deadline_s:={deadline_s}', '-p', f'settle_s:={deadline_s}',
             '-p', 'rise_per_s:=1.0'], domain, folder / 'governor.log')
        stack.callback(self.governor.end)
        stack.callback(self._let_go)
        self.client = Client(domain, self.node)
        stack.callback(self.client.close)
        self._listen()

    def _let_go(self) -> None:
        for process in (self.node, self.governor):
            if process.is_running:
                process.send_signal(signal.SIGCONT)
        if self.camera is not None:
            self.camera.end()

    def _listen(self) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.qos import QoSProfile
        from sensor_msgs.msg import JointState
        from std_msgs.msg import Bool, Float32

        node, depth = self.client.node, QoSProfile(depth=2000)
        for topic, kind, take in (
            ('/uncertainty_seg/confident', Bool, self._on_flag),
            ('/uncertainty_seg/verdict', JointState, self._on_numbers),
            ('/uncertainty_seg/status', DiagnosticArray, self._on_status),
            ('/speed_governor/speed_factor', Float32, self._on_factor),
        ):
            node.create_subscription(kind, topic, take, depth)
        self.client.wait_for_topics('/uncertainty_seg/confident', '/uncertainty_seg/verdict',
                                    '/uncertainty_seg/status', '/speed_governor/speed_factor')

    def _on_flag(self, msg: Any, info: Any) -> None:
        time_s = info['source_timestamp'] / 1e9
        is_rival = any(a <= time_s <= b for a, b in self._rival_s)
        self.note(Flag(time_s, msg.data, is_rival))

    def _on_numbers(self, msg: Any, info: Any) -> None:
        values = dict(zip(msg.name, msg.position, strict=True))
        self.note(Numbers(info['source_timestamp'] / 1e9, msg.header.frame_id,
                          values['confident'] == 1.0, values['promise_void'] == 1.0))

    def _on_status(self, msg: Any, info: Any) -> None:
        values = {pair.key: pair.value for pair in msg.status[0].values}
        self._answered = msg.header.frame_id or self._answered
        self.note(Answer(info['source_timestamp'] / 1e9, msg.header.frame_id,
                         values.get('confident') == 'true', values.get('kind', ''),
                         values.get('promise', '')))

    def _on_factor(self, msg: Any, info: Any) -> None:
        self._factor = msg.data
        self.note(Factor(info['source_timestamp'] / 1e9, msg.data))

    # --- events --------------------------------------------------------------------------------

    def note(self, event: Event) -> None:
        """Keep an event until all of before it are here."""
        heapq.heappush(self._heap, (event.time_s, next(self._numbers), event))

    def mark(self, kind: str) -> None:
        """Note that a fault begins now."""
        self.note(Mark(time.time(), kind))

    def judge(self, until_s: float = math.inf) -> None:
        """Let the oracle judge the events up to a time."""
        camera = self.camera
        while camera is not None and not camera.frames.empty():
            self.note(camera.frames.get())
        while self._heap and self._heap[0][0] <= until_s:
            self.oracle.feed([heapq.heappop(self._heap)[2]])

    def spin(self, seconds: float) -> None:
        """Hear, judge and sample for a while."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.client.spin(min(left_s, 0.1))
            self.judge(time.time() - PATIENCE_S)
            self._sample()

    @contextmanager
    def span(self, what: str) -> Iterator[None]:
        """Note that something lasts."""
        self.note(Span(time.time(), what, True))
        try:
            yield
        finally:
            self.note(Span(time.time(), what, False))

    def _sample(self) -> None:
        now_s = time.monotonic()
        if now_s - self._sampled_s < SAMPLE_S or not self.is_whole:
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

    # --- what is done ----------------------------------------------------------------------------

    def new_camera(self) -> None:
        """Start a camera in place of the one there was."""
        number = next(self._cameras)
        self.camera = Camera(self._domain, self._args.seed + 1000 * number, self._args.rate,
                             f'{number}.', self._folder / 'camera.log')

    def calm(self) -> None:
        """Let the flag and the factor rise; note whether they did, if it was long enough."""
        calm_s = self.random.uniform(1.5, 2 + self._args.stale_timeout)
        self.spin(calm_s)
        if calm_s > 1.5 + self._args.stale_timeout:
            self.calms += 1
            self.calms_fast += self._factor > SLOW

    @property
    def is_whole(self) -> bool:
        """Tell whether node and governor run."""
        return self.node.is_running and self.governor.is_running

    def do(self, name: str) -> None:
        """Do one thing by its name; what fails meanwhile does not end the run."""
        try:
            if name in FAULTS:
                assert self.camera is not None
                self.camera.tell(plan=name)
                self.spin(0.7)
            else:
                DEEDS[name](self)
        except (Exception, pytest.fail.Exception) as err:
            self.errors.append(f'{name}: {type(err).__name__}: {err}')
        self.done[name] += 1

    def storm(self) -> None:
        """Send all kinds of frames mixed."""
        assert self.camera is not None
        self.camera.tell(storm=True)
        self.spin(self.random.uniform(2, 5))
        self.camera.tell(storm=False)

    def silence(self) -> None:
        """Send nothing."""
        assert self.camera is not None
        silence_s = self.random.uniform(0.3, 2 * self._args.stale_timeout + 1)
        self.camera.tell(silence_s=silence_s)
        self.spin(self._args.rate and 2 / self._args.rate)
        self.mark_silence(silence_s)
        self.spin(silence_s)

    def mark_silence(self, silence_s: float) -> None:
        """Note a silence that is long enough to be one, from the last frame on."""
        self.judge(0.0)  # takes in the frames
        times_s = [event.time_s for _, _, event in self._heap if isinstance(event, Frame)]
        if silence_s > self._args.stale_timeout + MARGIN_S and times_s:
            self.note(Mark(max(times_s), 'silence'))

    def stop_camera(self) -> None:
        """Stop the process of the camera and let it go on."""
        assert self.camera is not None
        self.camera.signal(signal.SIGSTOP)
        pause_s = self.random.uniform(0.5, 2 * self._args.stale_timeout + 1)
        self.spin(0.05)
        self.mark_silence(pause_s)
        self.spin(pause_s)
        self.camera.signal(signal.SIGCONT)

    def lose_camera(self) -> None:
        """Kill the camera and start another."""
        assert self.camera is not None
        self.camera.end()
        pause_s = self.random.uniform(0.0, 2.5)
        self.mark_silence(pause_s)
        self.spin(pause_s)
        self.judge(0.0)
        self.new_camera()
        self.spin(1.0)

    def stop_node(self) -> None:
        """Stop the process of the node and let it go on, at times without frames meanwhile."""
        assert self.camera is not None
        pause_s = self.random.choice((0.3, 1.1, 2.0, 3.5))
        if self.random.random() < 0.5:
            self.camera.tell(silence_s=pause_s + 0.5)
        with self.span('paused'):
            self.node.send_signal(signal.SIGSTOP)
            self.spin(pause_s)
            if pause_s > self._args.stale_timeout:
                self.mark('node continued')
            self.node.send_signal(signal.SIGCONT)
        self.spin(0.5)

    def stop_governor(self) -> None:
        """Stop the process of the governor and let it go on."""
        self.governor.send_signal(signal.SIGSTOP)
        self.spin(self.random.choice((0.3, 1.1, 3.0)))
        self.governor.send_signal(signal.SIGCONT)

    def weaken(self) -> None:
        """Set what undoes the calibration, and back."""
        name, value, back = self.random.choice((
            ('gate__threshold_scale', 1.3, SCALE), ('gate__fall_frames', 5, 1)))
        assert self.camera is not None
        with self.span('weakening'):
            if name == 'gate__fall_frames':
                self.change(gate__fall_window=5)
            self.change(**{name: value})
        with self.span('weakened'):
            self.camera.tell(plan=self.random.choice(('grey', 'quarter_black')))
            self.spin(1.5)
        self.change(**{name: back})
        if name == 'gate__fall_frames':
            self.change(gate__fall_window=1)

    def misuse(self) -> None:
        """Set what must be refused."""
        for name, value in (
            ('gate__scores', ['bogus']), ('gate__fall_frames', 10000), ('passes', 0),
            ('gate__threshold_scale', math.nan), ('stale_timeout_s', -1.0), ('max_age_s', 0.0),
            ('max_repeats', -1), ('gate__alpha', 2.0),
        ):
            if self.client.set_parameters(**{name: value})[0].successful:
                self.oracle.lies.append(f'{time.time():.3f}: {name} = {value} was accepted')

    def change(self, **values: Any) -> None:
        """Set parameters that restart the gate."""
        with self.span('restarting'):
            results = self.client.set_parameters(**values)
        assert all(result.successful for result in results), results

    def change_timeout(self) -> None:
        """Set another timeout, and back."""
        other_s, own_s = self._args.stale_timeout * 0.6, self._args.stale_timeout
        self.change(stale_timeout_s=other_s)
        self.note(Timeout(time.time(), other_s))
        self.spin(2.0)
        self.note(Timeout(time.time(), own_s))
        self.change(stale_timeout_s=own_s)

    def change_passes(self) -> None:
        """Set a T that is not calibrated, and back."""
        self.mark('passes')
        self.change(passes=4)
        with self.span('uncalibrated'):
            self.spin(1.0)
        self.change(passes=-1)

    def reset(self) -> None:
        """Start the gate from nothing."""
        from std_srvs.srv import Trigger

        self.mark('reset')
        with self.span('restarting'):
            self.client.call('/uncertainty_seg/reset', Trigger, Trigger.Request())
        self.spin(0.5)

    def deactivate(self) -> None:
        """Go through the lifecycle, at times down to unconfigured."""
        self.mark('deactivate')
        assert self.client.change_state('deactivate')
        with self.span('inactive'):
            self.spin(self.random.uniform(0, 1))
            if self.random.random() < 0.5:
                assert self.client.change_state('cleanup')
                self.spin(0.3)
                assert self.client.change_state('configure')
        self.note(Span(time.time(), 'activated', True))
        assert self.client.change_state('activate')
        self.note(Span(time.time(), 'activated', False))

    def speak_up(self) -> None:
        """Publish the flag, too."""
        from std_msgs.msg import Bool

        from uncertainty_seg.ros.topics import flag_qos

        node = self.client.node
        with self.span('noticing'):
            rival = node.create_publisher(
                Bool, '/uncertainty_seg/confident', flag_qos(self._args.stale_timeout))
            self._speak(rival, NOTICE_S)
            with self.span('rival'):
                self._speak(rival, 2.0)
            node.destroy_publisher(rival)
            self.spin(NOTICE_S)

    def _speak(self, rival: Any, seconds: float) -> None:
        from std_msgs.msg import Bool

        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            before_s = time.time()
            rival.publish(Bool(data=False))
            self._rival_s.append((before_s, time.time()))
            self.spin(0.1)

    # --- the runs ---------------------------------------------------------------------------

    def run(self, seconds: float, only: Sequence[str]) -> None:
        """Do one thing after the other: each once, in an order of chance, and then anew."""
        self.client.wait_for_camera_match()  # the node is active
        self.new_camera()
        self.client.wait_until(
            lambda: self.client.node.count_publishers('/cam') > 1, 'the camera')
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
                print(self.progress(passed_s), flush=True)
        if not self.is_whole:
            output = self.node.output + self.governor.output
            self.errors.append(f'a process ended: {output[-2000:]}')
            return
        self.calm()

    def progress(self, passed_s: float) -> str:
        """Return a line."""
        oracle = self.oracle
        return (f'{passed_s:6.0f} s, {oracle.sent.total()} frames, {oracle.answered.total()} '
                f'answered, {oracle.num_true} true, {oracle.num_fast} fast, '
                f'{len(oracle.lies)} lies, {oracle.blind} blind of {oracle.ready}')

    def report(self) -> dict[str, Any]:
        """Return all figures."""
        oracle = self.oracle
        share = oracle.answered.total() / max(oracle.sent.total(), 1)
        return {
            'frames': oracle.sent.total(), 'answered_share': round(share, 4),
            'faulty': sum(n for kind, n in oracle.sent.items() if kind != 'good'),
            'true': oracle.num_true, 'numbers': oracle.num_numbers,
            'lies': len(oracle.lies), 'blind': oracle.blind,
            'ready': oracle.ready, 'excused': oracle.num_excused,
            'late_but_corrected': oracle.num_corrected, 'factors_above_slow': oracle.num_fast,
            'calms': self.calms, 'calms_fast': self.calms_fast,
            'errors': self.errors,
            'done': dict(sorted(self.done.items())),
            'sent': dict(sorted(oracle.sent.items())),
            'false_after_ms': {
                kind: {'n': len(times), 'median': round(1e3 * statistics.median(times), 1),
                       'max': round(1e3 * max(times), 1)}
                for kind, times in sorted(oracle.false_after_s.items())},
            'growth': growth(self.samples),
        }


DEEDS: dict[str, Callable[[Soak], None]] = {
    'storm': Soak.storm, 'silence': Soak.silence, 'camera_stopped': Soak.stop_camera,
    'camera_lost': Soak.lose_camera, 'node_stopped': Soak.stop_node,
    'governor_stopped': Soak.stop_governor, 'weakened': Soak.weaken, 'misused': Soak.misuse,
    'timeout': Soak.change_timeout, 'passes': Soak.change_passes, 'reset': Soak.reset,
    'lifecycle': Soak.deactivate, 'rival': Soak.speak_up,
}


def growth(samples: Sequence[dict[str, float]], num_blocks: int = 8) -> dict[str, Any]:
    """
    Return how fast everything grows after a warm-up of a third, a second, with its interval.

    The medians of blocks are fitted by a line: samples a second apart are not independent.
    """
    kept = samples[len(samples) // 3:]
    found: dict[str, Any] = {'samples': len(kept)}
    if len(kept) < LEAST_SAMPLES:
        return found
    size = len(kept) // num_blocks
    blocks = [kept[k * size:(k + 1) * size] for k in range(num_blocks)]
    times = [statistics.median(one['time_s'] for one in block) for block in blocks]
    for name in kept[0]:
        if name == 'time_s':
            continue
        values = [statistics.median(one[name] for one in block) for block in blocks]
        slope, offset = statistics.linear_regression(times, values)
        rest = sum((v - offset - slope * t)**2 for t, v in zip(times, values, strict=True))
        spread = sum((t - statistics.fmean(times))**2 for t in times)
        half = T_95[num_blocks - 2] * math.sqrt(rest / (num_blocks - 2) / spread)
        found[name] = {'first': values[0], 'last': values[-1],
                       'slope': float(f'{slope:.3g}'),
                       'interval': [float(f'{slope - half:.3g}'), float(f'{slope + half:.3g}')]}
    return found


def faults_of(report: dict[str, Any]) -> list[str]:
    """Say what of a report is not as it must be."""
    found = list(report['errors'])
    if report['lies']:
        found.append(f'{report["lies"]} lies')
    if not report['numbers']:
        found.append('no verdict came as numbers')
    if not report['ready'] or report['blind'] > 0.1 * report['ready']:
        found.append(f'{report["blind"]} of {report["ready"]} good frames were not true')
    if report['calms_fast'] < 0.7 * report['calms']:
        found.append(f'the governor was fast after {report["calms_fast"]} of {report["calms"]} '
                     'calm spells')
    for name, grown in report['growth'].items():
        if isinstance(grown, dict):
            is_memory = name.endswith('_kb')
            limit = MOST_KB_A_SECOND if is_memory else 0.0
            # In a short run one step of an allocator looks like a slope.
            is_step = is_memory and grown['last'] - grown['first'] < LEAST_GROWN_KB
            if grown['interval'][0] > limit and not is_step:
                found.append(f'{name} grows by {grown["slope"]} a second')
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument('--seconds', type=float, default=300.0, help='length of the run [300]')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--rate', type=float, default=30.0, help='frames a second [30]')
    parser.add_argument('--stale-timeout', type=float, default=1.0, help='of the node [1]')
    parser.add_argument('--only', nargs='+', default=[], choices=(*FAULTS, *DEEDS),
                        help='what to do [everything]', metavar='NAME')
    parser.add_argument('--parameter', nargs='*', default=[], metavar='NAME:=VALUE',
                        help='of the node, to see what the oracle says of it')
    args = parser.parse_args(words)
    start_s = time.monotonic()
    with ExitStack() as stack:
        domain = stack.enter_context(own_domain())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
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
