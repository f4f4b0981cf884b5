# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Checks of the launch files before a process starts, so that no part of the system stays behind.

Each check raises an error of the package with one sentence. Imports neither launch nor rclpy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
import os
from pathlib import Path
import re
import sys
from typing import Any

from uncertainty_seg.core.settings import iter_parameters, Settings
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.ros.entry import LAUNCHED_BY
from uncertainty_seg.storage.model_bundle import find_bundle, shipped_bundles
from uncertainty_seg.storage.parameter_files import (
    full_name,
    ParameterFile,
    read_parameter_file,
    require_spelt,
)

NODE_NAME = 'uncertainty_seg'
NODE_ARGUMENTS = (
    'model', 'image', 'cameras', 'params_file', 'namespace', 'use_sim_time', 'autostart',
    'stale_timeout_s', 'max_age_s', 'respawn', 'respawn_delay', 'rviz', 'log_level')
EXIT_MISUSE = 2
# Arguments of launch itself, for any process.
OF_LAUNCH = ('emulate_tty', 'launch-prefix', 'launch-prefix-filter', 'sigterm_timeout',
             'sigkill_timeout')
_TOPIC = re.compile(r'(~/|/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*', re.ASCII)


def require_name(argument: str, text: str) -> None:
    """Refuse an invalid topic or namespace; the error of rcl would not name the argument."""
    if text not in ('', '/') and not _TOPIC.fullmatch(text.rstrip('/')):
        raise ConfigError(f'{argument} is {text!r}', 'names of letters, digits and _ with / '
                          'between them, a letter first')


def require_known(context: Any, names: Collection[str], file: str) -> None:
    """
    Refuse unknown arguments, which launch ignores silently, such as lock_gate:=true.

    A launch file that includes this one is responsible for its own arguments.
    """
    if not any(os.path.basename(word) == file for word in getattr(sys, 'argv', None) or ()):
        return
    given = [word.partition(':=')[0] for word in getattr(context, 'argv', None) or ()
             if ':=' in word]
    unknown = [name for name in given if name not in names and name not in OF_LAUNCH]
    if unknown:
        raise ConfigError(f'{unknown[0]} is no argument of {file}', f'one of {", ".join(names)}',
                          'give parameters of the node in params_file')


def require_number(argument: str, text: str, is_positive: bool = False) -> float:
    """Return a number; its range is checked only with `is_positive` (finite and above 0)."""
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if value != value or is_positive and not 0 < value < float('inf'):
        raise ConfigError(f'{argument} is {text!r}', f'a number{" above 0" * is_positive}')
    return value


def parameter_file(path: str, namespace: str, node: str) -> ParameterFile:
    """Return a parameter file that addresses a node, and refuse misspelt parameters."""
    file, full = read_parameter_file(path), full_name(namespace, node)
    file.require_match(full)
    if node == NODE_NAME:  # the governor checks its names itself
        require_spelt(file.values(full), [setting.name for setting in iter_parameters(Settings)])
    return file


def camera_topics(text: str) -> dict[str, str]:
    """Parse 'front=/cam1/image_raw,down' into image topics by camera, empty for the default."""
    pairs = [word.partition('=') for word in text.split(',') if word.strip()]
    names = [name.strip() for name, _, _ in pairs]
    Settings(cameras=tuple(names))
    topics = {name: topic.strip() for name, (_, _, topic) in zip(names, pairs, strict=True)}
    for name, topic in topics.items():
        require_name(f'the topic of camera {name}', topic)
    return topics


def require_model(model: str, autostart: str, file: ParameterFile, full: str) -> None:
    """Refuse to start a node that would end at once, because its model is missing or unknown."""
    waits = autostart == 'false' or not autostart and file.value(full, 'autostart') is False
    if named := model or file.value(full, 'model'):
        find_bundle(str(named))
    elif not waits:
        shipped = list(shipped_bundles())
        raise ConfigError('no model is named', f"a bundle's folder or a shipped name "
                          f'({", ".join(shipped) or "none found"})',
                          f'give model:={shipped[0] if shipped else "FOLDER"}, or set model in '
                          'params_file')


def require_package(package: str, executable: str, prefixes: str, argument: str) -> None:
    """Refuse to start anything if an executable that is started later is missing."""
    places = [Path(prefix, 'lib', package, executable) for prefix in prefixes.split(os.pathsep)]
    if not any(place.is_file() for place in places):
        distribution = os.environ.get('ROS_DISTRO', 'DISTRO')
        raise ConfigError(f'{argument} was given, and {package} is not installed', 'the package',
                          f'sudo apt install ros-{distribution}-{package}, or leave it out')


def ends_with_launch() -> dict[str, str]:
    """Return the environment that makes a process end when this `ros2 launch` ends."""
    return {LAUNCHED_BY: str(os.getpid())}


def end_with(name: str, only_misuse: bool) -> Callable[[Any, Any], None]:
    """
    Return an `on_exit` handler that ends the launch when a process fails.

    With `only_misuse`, for a respawned node, only a wrong parameter does: a restart keeps it.
    """

    def on_exit(event: Any, context: Any) -> None:
        code = event.returncode
        if context.is_shutdown or not code or only_misuse and code != EXIT_MISUSE:
            return
        raise ConfigError(f'{name} has failed with exit code {code}',
                          fix='see its error above; it is not restarted')

    return on_exit
