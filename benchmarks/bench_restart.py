# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure how long a dead or hanging thread keeps the flag true and the node down; starts and stops.

The node of `test/rigs/ros_fault_node.py` runs in a separate process and gets 640x480 frames at 15
Hz. A frame commands it to lose a thread: the worker ends or hangs, or a callback exits or hangs.
From the publication of that frame, the benchmark measures the seconds until this process receives
the first and the last false, and until the node's process ends. Then it starts the node again, as
launch and systemd do after their delay, and measures the seconds until the flag is true.

    python benchmarks/bench_restart.py [--tries 5 | --stops 20 | --starts 5] [--model suim]

With `--stops` it stops the installed program with SIGINT and SIGTERM alternately, at random times
during the start and while active; the seconds are from the signal to the end of the process, whose
exit code must be 0. With `--starts` it measures the time from the start of the process until it is
active, cold (no Python bytecode) and warm. The last line is one JSON object.
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

    def __init__(self, domain: int, folder: Path) -> None:
        from conftest import make_tiny_bundle
        from ros_helpers import Client
        from std_msgs.msg import Bool

        self._model, self._domain, self._folder = make_tiny_bundle(folder / 'tiny'), domain, folder
        self._seconds = itertools.count(1)
        self.client = Client(domain)
        self.flags: list[tuple[float, bool]] = []
        self.client.node.create_subscription(
            Bool, '/uncertainty_seg/confident',
            lambda msg: self.flags.append((time.monotonic(), msg.data)), 10)
        self.start()

    def start(self) -> float:
        """Start the node, and return the seconds until its flag is true."""
        from ros_helpers import FAULT_NODE, node_arguments, Process

        started_s = time.monotonic()
        self.flags.clear()
        self.process = Process(
            node_arguments(self._model, FAULT_NODE, backend='onnxruntime',
                           stale_timeout_s=STALE_S, stuck_timeout_s=STUCK_S),
            self._domain, self._folder / 'log',
            {'UNCERTAINTY_SEG_TEST_RELEASE': str(self._folder / 'release'),
             'PYTHONPATH': os.pathsep.join(sys.path)})
        while not self.client.camera.get_subscription_count():
            self.client.spin(PERIOD_S)
        while not (self.flags and self.flags[-1][1]):
            self.send(PERIOD_S)
        return self.flags[-1][0] - started_s

    def send(self, wait_s: float, green: int = 0, encoding: str = 'bgr8') -> None:
        """Publish a frame and handle callbacks for `wait_s` seconds."""
        from ros_helpers import image_message, solid

        assert self.process.is_running, self.process.output
        self.client.camera.publish(image_message(
            solid(0, green, 255, 480, 640), next(self._seconds) * 10**9, encoding))
        self.client.spin(wait_s)

    def lose(self, fault: str) -> tuple[float, float, float]:
        """Command a fault; return the seconds to the first false, the last false, and the end."""
        from ros_fault_node_commands import ENDS, WAITS

        green, encoding = {'worker ends': (ENDS, 'bgr8'), 'worker hangs': (WAITS, 'bgr8'),
                           'callback exits': (0, 'exit'), 'callback hangs': (0, 'hang')}[fault]
        self.flags.clear()
        told_s = -2 * STALE_S
        while self.process.is_running:
            has_fallen = not all(flag for _, flag in self.flags)
            if not has_fallen and time.monotonic() - told_s >= 2 * STALE_S:
                told_s = time.monotonic()  # repeated, since best effort may lose a frame
                self.send(0.0, green, encoding)
            self.client.spin(0.002)
        end_s = time.monotonic()
        self.client.spin(0.5)
        assert self.process.wait() == 3, self.process.output
        falls = [at_s for at_s, flag in self.flags if not flag]
        assert not self.flags[-1][1]
        return falls[0] - told_s, falls[-1] - told_s, end_s - told_s


def measure_faults(tries: int, domain: int, folder: Path) -> dict[str, list[float]]:
    """Command every fault `tries` times; return the seconds by name."""
    found: dict[str, list[float]] = defaultdict(list)
    bench = Bench(domain, folder)
    try:
        for fault in FAULTS * tries:
            for name, seconds in zip(('first_false', 'last_false', 'end'), bench.lose(fault),
                                     strict=True):
                found[f'{fault}: {name}_s'].append(seconds)
            found['new_true_s'].append(bench.start())
    finally:
        bench.client.close()
        bench.process.end()
    return found


ENTRY = ['-c', 'from uncertainty_seg.ros import entry; entry.node()', '--ros-args']
# State -> latest time of the signal, in seconds, after this line of the log.
STOPS = {'starting': (3.0, ''), 'active': (2.0, 'active, waiting')}


def measure_stops(
    options: argparse.Namespace, domain: int, folder: Path
) -> dict[str, list[float]]:
    """Stop the node `options.stops` times in each state of `STOPS`; return seconds by name."""
    from ros_helpers import Process

    found: dict[str, list[float]] = defaultdict(list)
    instants = random.Random(1)
    for number, name in itertools.product(range(options.stops), STOPS):
        latest_s, line = STOPS[name]
        process = Process([*ENTRY, '-p', f'model:={options.model}'], domain, folder / 'log',
                          {'PYTHONPATH': os.pathsep.join(sys.path)})
        while line not in process.output or not has_handler(process.pid):
            time.sleep(0.002)
        time.sleep(instants.uniform(0.0, latest_s))
        told_s = time.monotonic()
        code = process.interrupt((signal.SIGINT, signal.SIGTERM)[number % 2])
        found[f'{name}: end_s'].append(time.monotonic() - told_s)
        assert code == 0, process.output
    return found


def measure_starts(
    options: argparse.Namespace, domain: int, folder: Path
) -> dict[str, list[float]]:
    """Start the node `options.starts` times cold and warm; return seconds by name."""
    found: dict[str, list[float]] = defaultdict(list)
    start(options, domain, folder, folder / 'kept')  # writes the bytecode of the warm starts
    for number in range(options.starts):
        for name, kept in (('cold', folder / f'cold_{number}'), ('warm', folder / 'kept')):
            for kind, seconds in start(options, domain, folder, kept).items():
                found[f'{name}: {kind}_s'].append(seconds)
    return found


def start(
    options: argparse.Namespace, domain: int, folder: Path, kept: Path
) -> dict[str, float]:
    """Start the node, stop it once active; return the seconds until it was active."""
    from ros_helpers import Process

    started_s = time.monotonic()
    process = Process(
        [*ENTRY, '-p', f'model:={options.model}'], domain, folder / 'log',
        {'PYTHONPYCACHEPREFIX': str(kept / 'python'), 'PYTHONDONTWRITEBYTECODE': ''})
    while 'active, waiting' not in process.output:
        assert process.is_running, process.output
        time.sleep(0.01)
    wall_s = time.monotonic() - started_s
    # Fields follow the program name, which is in parentheses and may contain spaces.
    fields = Path(f'/proc/{process.pid}/stat').read_text().rpartition(')')[2].split()
    processor_s = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
    assert process.interrupt() == 0, process.output
    return {'wall': wall_s, 'processor': processor_s}


def has_handler(pid: int) -> bool:
    """Return whether the process has set its SIGTERM handler, the first step of our code."""
    text = Path(f'/proc/{pid}/status').read_text()
    mask = int(text.partition('SigCgt:')[2].split()[0], 16)
    return bool(mask >> (signal.SIGTERM - 1) & 1)


def main() -> int:
    """Run the measurement that the options select."""
    from ros_helpers import own_domain

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--tries', type=int, default=5)
    parser.add_argument('--stops', type=int, default=0, help='measure so many of each kind')
    parser.add_argument('--starts', type=int, default=0, help='measure so many of each kind')
    parser.add_argument('--model', default='suim', help='of --stops and --starts [suim]')
    options = parser.parse_args()
    # Set before DDS starts; without it frames of this size are lost (docs/guides/cameras.md).
    os.environ |= dict.fromkeys(
        ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'),
        str(ROOT / 'config' / 'fastdds_profile.xml'))
    found: dict[str, list[float]] = defaultdict(list)
    with own_domain() as domain, tempfile.TemporaryDirectory() as folder:
        if options.stops:
            found = measure_stops(options, domain, Path(folder))
        elif options.starts:
            found = measure_starts(options, domain, Path(folder))
        else:
            found = measure_faults(options.tries, domain, Path(folder))
    figures: dict[str, Any] = {
        name: {'median': round(statistics.median(values), 3), 'max': round(max(values), 3)}
        for name, values in found.items()}
    print(json.dumps({**vars(options), 'load': os.getloadavg(), **figures}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
