# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the real node on a recorded dive: player, node and recorder, three processes over DDS.

This process speaks no ROS. It starts the others, waits for what they print, and stops them in
an order that loses nothing.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import importlib.util
import json
import os
from pathlib import Path
import sys
import time

from tqdm import tqdm

from uncertainty_seg.core.settings import Settings, settings_to_dict
from uncertainty_seg.errors import BackendUnavailableError
from uncertainty_seg.storage.model_bundle import models_folders
from uncertainty_seg.tools.demo_frames import HEATMAP_TOPIC, MASK_TOPIC
from uncertainty_seg.tools.demo_process import ChildProcess
from uncertainty_seg.tools.demo_timeline import IMAGE_TOPIC, STATUS_TOPIC
from uncertainty_seg.tools.replay_outputs import NODE_NAME

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
