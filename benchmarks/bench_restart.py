# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How long a dead or hanging thread keeps the flag up and the node away; the memory of a node.

The node of `test/rigs/ros_fault_node.py` runs in a process of its own, gets 640x480 frames at 15
Hz and is told to lose a thread: the worker ends or hangs, or a callback exits or hangs. Seconds
run from the publication of the frame that commands it: to the first false and to the last one that
this process hears, and to the end of the node's process. Then it is started again, as launch and
systemd do after their delay: seconds from that to the new true.

    python benchmarks/bench_restart.py [--tries 5]
    python benchmarks/bench_restart.py --memory pipeline --backend openvino [--frames 150]
    python benchmarks/bench_restart.py --stops 20 [--kinds building] [--model suim]
    python benchmarks/bench_restart.py --starts 5 [--model suim]

The second one runs a shipped bundle and reads the largest resident memory of the process, VmHWM.
The third one stops the installed entry point, SIGINT and SIGTERM in turn, at random instants: of
the start, with loops that are compiled (`reduction` exact, an empty cache) and not, of a build
that stays in C code, and while it is active; seconds run from the signal to the end of
the process, whose exit code must be 0.
The fourth one starts it from nothing until it is active: cold (no bytecode of Python's), warm,
compiled and cached (`reduction` exact, whose loops are compiled, once, and then found). It tells
seconds of the wall clock; of them, those left without the seconds in which the main thread was
ready and had no core, which other work on the machine costs; and seconds of processor time, user
and system.
The last line is one JSON object. Times are this machine's, start-up most of all.

"""

from __future__ import annotations

import argparse
from collections import defaultdict
import itertools
import json
import os
from pathlib import Path
import random
import signal
import statistics
import sys
import tempfile
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / 'test' / 'helpers' / 'ros'), str(ROOT / 'test'), str(ROOT)]
PERIOD_S = 1 / 15
STALE_S, STUCK_S = 1.0, 3.0
FAULTS = ('worker ends', 'callback exits', 'worker hangs', 'callback hangs')


class Bench:
    """A node and its camera."""

    def __init__(self, options: argparse.Namespace, domain: int, folder: Path) -> None:
        from conftest import make_tiny_bundle
        from ros_helpers import Client
        from std_msgs.msg import Bool

        self._model = (ROOT / 'config' / 'models' / options.memory if options.memory
                       else make_tiny_bundle(folder / 'tiny'))
        self._options, self._domain, self._folder = options, domain, folder
        self._seconds = itertools.count(1)
        self.client = Client(domain)
        self.flags: list[tuple[float, bool]] = []
        self.client.node.create_subscription(
            Bool, '/uncertainty_seg/confident',
            lambda msg: self.flags.append((time.monotonic(), msg.data)), 10)
        self.start()

    def start(self) -> float:
        """Start the node, and return the seconds until its flag is up."""
        from ros_helpers import FAULT_NODE, node_arguments, Process

        started_s = time.monotonic()
        self.flags.clear()
        self.process = Process(
            node_arguments(self._model, FAULT_NODE, backend=self._options.backend,
                           stale_timeout_s=STALE_S, stuck_timeout_s=STUCK_S),
            self._domain, self._folder / 'log',
            {'UNCERTAINTY_SEG_TEST_RELEASE': str(self._folder / 'release'),
             'PYTHONPATH': os.pathsep.join(sys.path)})
        while not self.client.camera.get_subscription_count():
            self.client.spin(PERIOD_S)
        while not (self.flags and (self.flags[-1][1] or self._options.memory)):
            self.send(PERIOD_S)
        return self.flags[-1][0] - started_s

    def send(self, wait_s: float, green: int = 0, encoding: str = 'bgr8') -> None:
        """Publish a frame and listen for a while."""
        from ros_helpers import image_message, solid

        assert self.process.is_running, self.process.output
        self.client.camera.publish(image_message(
            solid(0, green, 255, 480, 640), next(self._seconds) * 10**9, encoding))
        self.client.spin(wait_s)

    def peak_mb(self) -> float:
        """Return the largest resident memory so far."""
        status = Path(f'/proc/{self.process._process.pid}/status').read_text()
        return int(status.partition('VmHWM:')[2].split()[0]) / 1e3

    def lose(self, fault: str) -> tuple[float, float, float]:
        """Command a fault; returns the seconds to the first false, to the last, and to the end."""
        from ros_fault_node_commands import ENDS, WAITS

        green, encoding = {'worker ends': (ENDS, 'bgr8'), 'worker hangs': (WAITS, 'bgr8'),
                           'callback exits': (0, 'exit'), 'callback hangs': (0, 'hang')}[fault]
        self.flags.clear()
        told_s = -2 * STALE_S
        while self.process.is_running:
            has_fallen = not all(flag for _, flag in self.flags)
            if not has_fallen and time.monotonic() - told_s >= 2 * STALE_S:
                told_s = time.monotonic()  # again: best effort may lose a frame
                self.send(0.0, green, encoding)
            self.client.spin(0.002)
        end_s = time.monotonic()
        self.client.spin(0.5)
        assert self.process.wait() == 3, self.process.output
        falls = [at_s for at_s, flag in self.flags if not flag]
        assert not self.flags[-1][1]
        return falls[0] - told_s, falls[-1] - told_s, end_s - told_s


ENTRY = ['-c', 'from uncertainty_seg.ros.launching import entry; entry.node()', '--ros-args']
# Words of the node, the latest instant of the signal, in seconds, and the line that it follows.
STOPS = {
    'starting': ([], 3.0, ''),
    'compiling': (['-p', 'reduction:=exact'], 10.0, ''),
    'building': ([], 5.0, 'Building it now'),
    'active': ([], 2.0, 'active, waiting'),
}


def measure_stops(
    options: argparse.Namespace, domain: int, folder: Path
) -> dict[str, list[float]]:
    """Stop the node so often in each of `STOPS`; seconds by name."""
    from conftest import make_tiny_bundle
    from ros_helpers import node_arguments, Process

    found: dict[str, list[float]] = defaultdict(list)
    instants = random.Random(1)
    # Without a GPU no engine is built: a builder that stays in C code takes its place.
    (folder / 'order').write_text('native')
    building = node_arguments(make_tiny_bundle(folder / 'tiny'),
                              [str(ROOT / 'test' / 'rigs' / 'ros_engine_node.py')],
                              backend='tensorrt')
    for number, name in itertools.product(range(options.stops), options.kinds):
        words, latest_s, line = STOPS[name]
        cache = folder / f'cache_{number}' if name == 'compiling' else folder / 'cache'
        own = [*ENTRY, '-p', f'model:={options.model}', *words]
        process = Process(
            building if name == 'building' else own, domain, folder / 'log',
            {'NUMBA_CACHE_DIR': str(cache), 'UNCERTAINTY_SEG_TEST_BUILD': str(folder),
             'PYTHONPATH': os.pathsep.join(sys.path)})
        while line not in process.output or not has_handler(process.pid):
            time.sleep(0.002)
        time.sleep(instants.uniform(0.0, latest_s))
        told_s = time.monotonic()
        code = process.interrupt((signal.SIGINT, signal.SIGTERM)[number % 2])
        found[f'{name}: end_s'].append(time.monotonic() - told_s)
        assert code == 0, process.output
    return found


# Words of the node, and whether it finds nothing that an earlier start has left.
STARTS: dict[str, tuple[list[str], bool]] = {
    'cold': ([], True),
    'warm': ([], False),
    'compiled': (['-p', 'reduction:=exact'], True),
    'cached': (['-p', 'reduction:=exact'], False),
}


def measure_starts(
    options: argparse.Namespace, domain: int, folder: Path
) -> dict[str, list[float]]:
    """Start the node so often in each way of `STARTS`, compiled once; seconds by name."""
    found: dict[str, list[float]] = defaultdict(list)
    start(options, [], domain, folder, folder / 'kept')  # leaves bytecode
    for name, (words, is_first) in STARTS.items():
        for number in range(1 if name == 'compiled' else options.starts):
            kept = folder / ('kept' if name != 'cold' else f'cold_{number}')
            for kind, seconds in start(options, words, domain, folder, kept).items():
                found[f'{name}: {kind}_s'].append(seconds)
            assert is_first or kept.name == 'kept'
    return found


def start(
    options: argparse.Namespace, words: list[str], domain: int, folder: Path, kept: Path
) -> dict[str, float]:
    """Start the node and stop it when it is active; the seconds until then."""
    from ros_helpers import Process

    started_s = time.monotonic()
    process = Process(
        [*ENTRY, '-p', f'model:={options.model}', *words], domain, folder / 'log',
        {'NUMBA_CACHE_DIR': str(kept / 'numba'), 'PYTHONPYCACHEPREFIX': str(kept / 'python'),
         'PYTHONDONTWRITEBYTECODE': ''})
    while 'active, waiting' not in process.output:
        assert process.is_running, process.output
        time.sleep(0.01)
    wall_s = time.monotonic() - started_s
    processor_s = sum(process_times(process.pid))
    waited_s = int(Path(f'/proc/{process.pid}/schedstat').read_text().split()[1]) / 1e9
    assert process.interrupt() == 0, process.output
    return {'wall': wall_s, 'without_waits': wall_s - waited_s, 'processor': processor_s}


def process_times(pid: int) -> tuple[float, float]:
    """Return user and system seconds of a process and all of its threads."""
    # The name of the program, in brackets, may hold blanks.
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    ticks = os.sysconf('SC_CLK_TCK')
    return int(fields[11]) / ticks, int(fields[12]) / ticks


def has_handler(pid: int) -> bool:
    """Tell whether a process has begun to run our code, which handles SIGTERM first of all."""
    text = Path(f'/proc/{pid}/status').read_text()
    mask = int(text.partition('SigCgt:')[2].split()[0], 16)
    return bool(mask >> (signal.SIGTERM - 1) & 1)


def main() -> int:
    """Measure each fault so many times."""
    from ros_helpers import own_domain

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--tries', type=int, default=5)
    parser.add_argument('--memory', metavar='MODEL', help='measure that of a shipped bundle')
    parser.add_argument('--stops', type=int, default=0, help='measure so many of each kind')
    parser.add_argument('--kinds', nargs='+', choices=STOPS, default=list(STOPS),
                        help='of --stops [all]')
    parser.add_argument('--starts', type=int, default=0, help='measure so many of each kind')
    parser.add_argument('--model', default='suim', help='of --stops and --starts [suim]')
    parser.add_argument('--frames', type=int, default=150, help='before the memory is read')
    parser.add_argument('--backend', default='onnxruntime')
    options = parser.parse_args()
    # Before DDS starts: frames of this size are lost without it (docs/transport.md).
    os.environ |= dict.fromkeys(
        ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'),
        str(ROOT / 'config' / 'fastdds_profile.xml'))
    found: dict[str, list[float]] = defaultdict(list)
    with own_domain() as domain, tempfile.TemporaryDirectory() as folder:
        if options.stops or options.starts:
            measure = measure_stops if options.stops else measure_starts
            found = measure(options, domain, Path(folder))
            print_figures(options, found)
            return 0
        bench = Bench(options, domain, Path(folder))
        try:
            if options.memory:
                for _ in range(options.frames):
                    bench.send(PERIOD_S)
                found['peak_mb'].append(bench.peak_mb())
            for fault in () if options.memory else FAULTS * options.tries:
                for name, seconds in zip(('first_false', 'last_false', 'end'), bench.lose(fault),
                                         strict=True):
                    found[f'{fault}: {name}_s'].append(seconds)
                found['new_true_s'].append(bench.start())
        finally:
            bench.client.close()
            bench.process.end()
    print_figures(options, found)
    return 0


def print_figures(options: argparse.Namespace, found: dict[str, list[float]]) -> None:
    """Print the line for scripts."""
    figures: dict[str, Any] = {
        name: {'median': round(statistics.median(values), 3), 'max': round(max(values), 3)}
        for name, values in found.items()}
    print(json.dumps({**vars(options), 'load': os.getloadavg(), **figures}))


if __name__ == '__main__':
    sys.exit(main())
