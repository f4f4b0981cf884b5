# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Play a dive to the real node over DDS, and record its outputs.

Player, node and recorder are three processes. This one does not import ROS: it starts the others,
reads their output, and stops them in an order in which no frame is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
import json
import os
from pathlib import Path
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from typing import TextIO

from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings, to_dict
from uncertainty_seg.core.status import NODE_NAME
from uncertainty_seg.errors import BackendUnavailableError, UncertaintySegError
from uncertainty_seg.sim.demo.timeline import HEATMAP_TOPIC, MASK_TOPIC, STATUS_TOPIC
from uncertainty_seg.sim.dive import IMAGE_TOPIC
from uncertainty_seg.storage.bags.reader import read_images
from uncertainty_seg.storage.model_bundle import models_folders
from uncertainty_seg.storage.progress import progress

RECORDED = (
    HEATMAP_TOPIC, MASK_TOPIC, STATUS_TOPIC, f'{NODE_NAME}/confident',
    f'{NODE_NAME}/verdict', f'{NODE_NAME}/score',
)
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
# Starting takes minutes on a small, busy computer.
START_TIMEOUT_S = 240.0
# A new node withholds its flag for this long (ros/rivals.py); a replay does not.
WITHHELD_S = 2.0
SETTLE_S = 2.0
STOP_TIMEOUT_S = 30.0
# Frames that are timed, and the share of the time that the pipeline may use: player and recorder
# run on the same computer, and the node draws pictures for the recorder.
NUM_FRAMES = 5
HEADROOM = 0.55
# Ports of DDS: the first one, and the number in each domain. The ports of these domains are below
# those that Linux assigns.
FIRST_PORT, PORTS_OF_DOMAIN, DOMAINS = 7400, 250, range(1, 102)
_TRY_ROS = 'import rclpy; rclpy.init(); rclpy.create_node("demo")'


def require_ros(environment: Mapping[str, str]) -> None:
    """Check ROS; raise BackendUnavailableError if no node can be made."""
    tried = subprocess.run([sys.executable, '-c', _TRY_ROS], env=environment, text=True,
                           stdin=subprocess.DEVNULL, capture_output=True)
    if tried.returncode:
        said = tried.stderr.strip().splitlines() or [f'exit code {tried.returncode}']
        raise BackendUnavailableError(
            f'ROS cannot create a node here ({said[-1]})', 'a sourced ROS 2 or the ROS 2 wheels',
            'source /opt/ros/DISTRO/setup.bash, or run the demo offline')


def run_live(
    dive: Path, out_bag: Path, logs: Path, settings: Settings, pace: float, duration_s: float,
    environment: Mapping[str, str],
) -> int:
    """
    Play a dive to the node, `pace` times as fast as recorded, and record the node's outputs.

    Returns the number of images played. Raises UncertaintySegError if one of the processes fails,
    with the last line of its log, which is in `logs`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    node = ChildProcess(
        'node', 'uncertainty_seg.ros.node', ros_arguments(settings, pace), logs, environment
    )
    recorder = ChildProcess(
        'recorder', 'uncertainty_seg.ros.recorder',
        [*RECORDED, '--out', str(out_bag), '--force'], logs, environment,
    )
    player = ChildProcess('player', 'uncertainty_seg.ros.bag_player', [
        str(dive), '--topic', IMAGE_TOPIC, '--rate', f'{pace:.4f}', '--clock',
        '--ros-args', '-r', f'image:={IMAGE_TOPIC}',
    ], logs, environment)
    with node, recorder:
        recorder.wait_for('recorder', START_TIMEOUT_S, [node])
        time.sleep(WITHHELD_S)
        with player:
            _watch(player, [node, recorder], duration_s / pace)
        time.sleep(SETTLE_S)  # the last frame is still in transit
        recorder.stop()
        node.stop()
    return int(str(player.result()['played']))


def ros_arguments(settings: Settings, pace: float) -> list[str]:
    """Return the arguments of the node: every setting that is not the default, and the topic."""
    defaults = to_dict(Settings())
    changed = {k: v for k, v in to_dict(settings).items() if v != defaults[k]}
    # The longer frame interval of a slowed dive must not count as a stale camera.
    changed.setdefault('stale_timeout_s', max(settings.stale_timeout_s, 2.0 / pace))
    changed['reliability'] = 'reliable'
    # The stamps of the dive are in its own time, which the player publishes.
    words = ['--ros-args', '-r', f'image:={IMAGE_TOPIC}', '-p', 'use_sim_time:=true']
    for name, value in changed.items():
        # The value of a parameter is read as YAML, which includes JSON.
        words += ['-p', f'{name}:={json.dumps(value)}']
    return words


def _watch(player: ChildProcess, others: Sequence[ChildProcess], duration_s: float) -> None:
    total_s, start_s = round(duration_s), time.monotonic()
    with progress(desc='dive', total=total_s, unit='second') as bar:
        while player.is_running:
            for process in others:
                process.require_running()
            bar.update(min(int(time.monotonic() - start_s), total_s) - bar.n)
            time.sleep(0.2)
    player.result()


def own_domain() -> int:
    """Return a ROS domain that is unused on this computer; UncertaintySegError without one."""
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', FIRST_PORT + PORTS_OF_DOMAIN * domain))
                return domain
            except OSError:
                continue
    raise UncertaintySegError('each ROS domain is in use on this computer', 'a free one',
                              'stop some nodes, or name a domain')


def ros_environment(base: Mapping[str, str], domain: int | None = None) -> dict[str, str]:
    """
    Return the environment of the processes: this package, and a profile for Fast DDS.

    Without a domain they use a free one, limited to this computer.
    """
    environment = {**base, 'ROS_DOMAIN_ID': str(domain)}
    if domain is None:
        environment |= {'ROS_DOMAIN_ID': str(own_domain()), 'ROS_LOCALHOST_ONLY': '1',
                        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'ROS_STATIC_PEERS': '',
                        'ROS_DISCOVERY_SERVER': ''}
    package = Path(__file__).resolve().parents[2]
    environment['PYTHONPATH'] = os.pathsep.join(
        filter(None, [str(package.parent), base.get('PYTHONPATH', '')]))
    profiles = [folder.parent / 'fastdds_profile.xml' for folder in models_folders()]
    profile = next((str(path) for path in profiles if path.is_file()), None)
    if profile is not None and not any(name in base for name in PROFILE_VARIABLES):
        # By default Fast DDS loses most camera frames: its shared memory is smaller than a frame.
        environment.update(dict.fromkeys(PROFILE_VARIABLES, profile))
    return environment


def find_pace(pipeline: Pipeline, dive: Path, rate_hz: float) -> float:
    """
    Return the largest pace, at most 1, at which the node on this computer drops no frame.

    The pipeline is timed on the first frames of the dive.
    """
    images = [decode(item.raw) for item in islice(read_images(dive, IMAGE_TOPIC), NUM_FRAMES)]
    seconds = []
    for k, image in enumerate(images):
        start_s = time.perf_counter()
        pipeline.measure(image, k)
        seconds.append(time.perf_counter() - start_s)
    return min(1.0, HEADROOM / (statistics.median(seconds) * rate_hz))


@contextmanager
def _later_signals() -> Iterator[None]:
    """Defer Python's signal handlers to the end of the block."""
    noted: list[int] = []
    # Only the main thread may set handlers, and only it is interrupted by them.
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals() if is_main}
    held = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in held:
        signal.signal(number, lambda number, _: noted.append(number))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for one in noted:
            signal.raise_signal(one)


class ChildProcess:
    """
    A module that runs in its own process, which is stopped at the end of the `with` block.

    It prints JSON lines to stdout, and its log to stderr; both are stored in the folder of logs
    under its name.
    """

    def __init__(
        self, name: str, module: str, words: Sequence[str], logs: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._name = name
        self._environment = {**environment, 'PYTHONUNBUFFERED': '1'}
        self._log_path = logs / f'{name}.log'
        self._out_path = logs / f'{name}.out'
        self._command = [sys.executable, '-m', module, *words]
        self._process: subprocess.Popen[bytes] | None = None
        self._files: list[TextIO] = []

    def __enter__(self) -> ChildProcess:
        """Start the process."""
        self._files = [path.open('w') for path in (self._out_path, self._log_path)]
        try:
            with _later_signals():
                # In its own session it gets no Ctrl-C, so the order of stopping is kept.
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=self._files[0],
                    stderr=self._files[1], env=self._environment, start_new_session=True)
        except KeyboardInterrupt:  # Python calls __exit__ only after a complete __enter__
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the process, also after an error."""
        self.stop(is_checked=False)
        for file in self._files:
            file.close()

    @property
    def is_running(self) -> bool:
        """Return whether the process has not ended yet."""
        return self._running().poll() is None

    def require_running(self) -> None:
        """Raise an error with the last line of its log if the process has ended."""
        if not self.is_running:
            raise self._error('ended too early')

    def wait_for(self, key: str, timeout_s: float, others: Sequence[ChildProcess]) -> None:
        """Wait until the process prints a JSON line with this key."""
        end_s = time.monotonic() + timeout_s
        while key not in self._last_values():
            for process in (self, *others):
                process.require_running()
            if time.monotonic() > end_s:
                raise others[0]._error(f'published nothing within {timeout_s:g} s')
            time.sleep(0.1)

    def result(self) -> Mapping[str, object]:
        """Wait for the end of the process and return its last JSON line; raise if it failed."""
        if self._running().wait() != 0:
            raise self._error('failed')
        return self._last_values()

    def stop(self, is_checked: bool = True) -> None:
        """Interrupt the process and wait; kill it after `STOP_TIMEOUT_S`."""
        process = self._running()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            except BaseException:  # a second Ctrl-C: in its own session it would keep running
                process.kill()
                process.wait()
                raise
        if is_checked and process.returncode != 0:
            raise self._error('did not end in order')

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _last_values(self) -> dict[str, object]:
        lines = [line for line in self._out_path.read_text().splitlines() if line.startswith('{')]
        try:
            found: dict[str, object] = json.loads(lines[-1]) if lines else {}
        except ValueError:  # the line is not complete yet
            return {}
        return found

    def _error(self, what: str) -> UncertaintySegError:
        lines = self._log_path.read_text(errors='replace').strip().splitlines()
        reported = lines[-1] if lines else 'its log is empty'
        return UncertaintySegError(
            f'the {self._name} {what} ({reported})', fix=f'its log is {self._log_path}'
        )
