# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the real node on a recorded dive: player, node and recorder, three processes over DDS.

This process speaks no ROS. It starts the others, waits for what they print, and stops them in
an order that loses nothing.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
import importlib.util
from itertools import islice
import json
import os
from pathlib import Path
import signal
import statistics
import subprocess
import sys
import time
from typing import TextIO

from tqdm import tqdm

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.settings import Settings, settings_to_dict
from uncertainty_seg.errors import BackendUnavailableError, UncertaintySegError
from uncertainty_seg.storage.bags.reader import read_images
from uncertainty_seg.storage.model_bundle import load_bundle, models_folders
from uncertainty_seg.tools.demo.timeline import (
    HEATMAP_TOPIC,
    IMAGE_TOPIC,
    MASK_TOPIC,
    STATUS_TOPIC,
)
from uncertainty_seg.tools.replay import NODE_NAME

# -------------------------------------------------------------------------------------------------
# A child process that prints JSON lines, is watched while it runs and stopped in order.
# What it does is not known here.

STOP_TIMEOUT_S = 30.0


class ChildProcess:
    """
    A module in its own process; it is stopped at the end of the `with` block.

    Parameters
    ----------
    name : str
        For people, and for its log files.
    module : str
        Run as ``python -m``.
    words : sequence of str
        Its arguments.
    logs : Path
        Folder of its log files.
    environment : mapping of str to str
        Its environment.

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
        """Start it."""
        self._files = [path.open('w') for path in (self._out_path, self._log_path)]
        # A session of its own: Ctrl-C reaches this process alone, which stops them in order.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._files[0],
            stderr=self._files[1], env=self._environment, start_new_session=True,
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop it, whatever has happened."""
        self.stop(is_checked=False)
        for file in self._files:
            file.close()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._running().poll() is None

    def require_running(self) -> None:
        """Raise what it said last if it has ended."""
        if not self.is_running:
            raise self._error('ended too early')

    def wait_for(self, key: str, timeout_s: float, others: Sequence[ChildProcess]) -> None:
        """Wait until it prints a JSON line with this key."""
        end_s = time.monotonic() + timeout_s
        while key not in self._said():
            for process in (self, *others):
                process.require_running()
            if time.monotonic() > end_s:
                raise others[0]._error(f'published nothing within {timeout_s:g} s')
            time.sleep(0.1)

    def result(self) -> Mapping[str, object]:
        """Return its last JSON line; it must have ended well."""
        if self._running().wait() != 0:
            raise self._error('failed')
        return self._said()

    def stop(self, is_checked: bool = True) -> None:
        """Interrupt it and wait; kill what does not listen."""
        process = self._running()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if is_checked and process.returncode != 0:
            raise self._error('did not end in order')

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _said(self) -> dict[str, object]:
        lines = [line for line in self._out_path.read_text().splitlines() if line.startswith('{')]
        try:
            found: dict[str, object] = json.loads(lines[-1]) if lines else {}
        except ValueError:  # caught in the middle of writing
            return {}
        return found

    def _error(self, what: str) -> UncertaintySegError:
        lines = self._log_path.read_text(errors='replace').strip().splitlines()
        said = lines[-1] if lines else 'it said nothing'
        return UncertaintySegError(
            f'the {self._name} {what} ({said})', fix=f'all it said is in {self._log_path}'
        )


# -------------------------------------------------------------------------------------------------
# Find how fast a dive may be played so that the node on this computer takes every frame.

NUM_FRAMES = 5
# The node shares the computer with player and recorder, and draws pictures for the latter.
HEADROOM = 0.55


def find_pace(settings: Settings, dive: Path, rate_hz: float) -> float:
    """
    Time the pipeline on the first frames of a dive.

    Parameters
    ----------
    settings : Settings
        Model, backend, threads.
    dive : Path
        Bag of the dive.
    rate_hz : float
        Frames a second of the dive.

    Returns
    -------
    float
        At most 1, the dive's own time.

    """
    images = [decode(item.raw) for item in islice(read_images(dive, IMAGE_TOPIC), NUM_FRAMES)]
    pipeline = open_pipeline(load_bundle(settings.model), settings)
    seconds = []
    with closing(pipeline):
        for k, image in enumerate(images):
            start_s = time.perf_counter()
            pipeline.measure(image, k)
            seconds.append(time.perf_counter() - start_s)
    return min(1.0, HEADROOM / (statistics.median(seconds) * rate_hz))


# -------------------------------------------------------------------------------------------------

RECORDED = (
    MASK_TOPIC, HEATMAP_TOPIC, STATUS_TOPIC, f'{NODE_NAME}/confident', f'{NODE_NAME}/score',
)
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
# The first start compiles the reduction kernel, on a small computer for a minute or two.
START_TIMEOUT_S = 240.0
SETTLE_S = 2.0


def require_ros() -> None:
    """
    Refuse to start without ROS.

    Raises
    ------
    BackendUnavailableError
        If rclpy cannot be found.

    """
    if importlib.util.find_spec('rclpy') is None:
        raise BackendUnavailableError(
            'no rclpy in this Python', 'a sourced ROS 2 or the ROS 2 wheels',
            'source /opt/ros/DISTRO/setup.bash, or use --offline to run the demo without ROS',
        )


def run_live(
    dive: Path, out_bag: Path, logs: Path, settings: Settings, pace: float, duration_s: float
) -> int:
    """
    Play a dive to the node and record what it says.

    Parameters
    ----------
    dive, out_bag : Path
        Bag to play; bag to write, replaced if it is there.
    logs : Path
        Folder for what the processes say.
    settings : Settings
        For the node.
    pace : float
        1 plays the dive in its own time, 0.5 half as fast.
    duration_s : float
        Of the dive, for the progress bar.

    Returns
    -------
    int
        Images played.

    Raises
    ------
    UncertaintySegError
        If one of the processes fails, with what it said last.

    """
    require_ros()
    logs.mkdir(parents=True, exist_ok=True)
    environment = ros_environment(os.environ)
    node = ChildProcess(
        'node', 'uncertainty_seg.ros.main', ros_arguments(settings, pace), logs, environment
    )
    recorder = ChildProcess(
        'recorder', 'uncertainty_seg.ros.recorder',
        [*RECORDED, '--out', str(out_bag), '--force'], logs, environment,
    )
    player = ChildProcess('player', 'uncertainty_seg.ros.bag_player', [
        str(dive), '--topic', IMAGE_TOPIC, '--rate', f'{pace:.4f}',
        '--ros-args', '-r', f'image:={IMAGE_TOPIC}',
    ], logs, environment)
    with node, recorder:
        recorder.wait_for('recorder', START_TIMEOUT_S, [node])
        with player:
            _watch(player, [node, recorder], duration_s / pace)
        time.sleep(SETTLE_S)  # the last frame is still in the network
        recorder.stop()
        node.stop()
    return int(str(player.result()['played']))


def ros_arguments(settings: Settings, pace: float) -> list[str]:
    """Return the node's arguments: every setting that is not the default, and the camera."""
    defaults = settings_to_dict(Settings())
    changed = {k: v for k, v in settings_to_dict(settings).items() if v != defaults[k]}
    # A slowed dive must not look like a camera that hangs.
    changed.setdefault('stale_timeout_s', max(settings.stale_timeout_s, 2.0 / pace))
    changed['reliability'] = 'reliable'
    words = ['--ros-args', '-r', f'image:={IMAGE_TOPIC}']
    for name, value in changed.items():
        # JSON is YAML, which is what a parameter's value is read as.
        words += ['-p', f'{name}:={json.dumps(value)}']
    return words


def _watch(player: ChildProcess, others: Sequence[ChildProcess], duration_s: float) -> None:
    total_s = round(duration_s)
    with tqdm(total=total_s, desc='dive', unit='s', file=sys.stderr, disable=None) as bar:
        start_s = time.monotonic()
        while player.is_running:
            for process in others:
                process.require_running()
            bar.update(min(int(time.monotonic() - start_s), total_s) - bar.n)
            time.sleep(0.2)
    player.result()


def ros_environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the children: this package, and room for camera frames."""
    environment = dict(base)
    package_parent = str(Path(__file__).resolve().parents[2])
    environment['PYTHONPATH'] = os.pathsep.join(
        [package_parent, *filter(None, [base.get('PYTHONPATH', '')])]
    )
    profiles = [folder.parent / 'fastdds_profile.xml' for folder in models_folders()]
    profile = next((str(path) for path in profiles if path.is_file()), None)
    if profile is not None and not any(name in base for name in PROFILE_VARIABLES):
        # Without it Fast DDS loses most camera frames: its shared memory is smaller than one.
        environment.update(dict.fromkeys(PROFILE_VARIABLES, profile))
    return environment
