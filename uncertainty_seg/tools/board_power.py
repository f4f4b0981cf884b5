# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the board draws, where it tells: the sensors of a Jetson, or nvidia-smi.

Nothing is estimated: a machine without a sensor gives nothing.

"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
import shutil
import subprocess

# Voltage and current of each rail, by the driver of the INA3221 that JetPack 5 and later use.
_RAILS = 'sys/class/hwmon/hwmon*/in*_label'
_SMI = 'nvidia-smi'
_SMI_TIMEOUT_S = 5.0


def power_reader(root: Path = Path('/')) -> Callable[[], dict[str, float]] | None:
    """
    Find what tells the power.

    Parameters
    ----------
    root : Path
        Where the system's files lie.

    Returns
    -------
    callable or None
        Returns watts by name of rail, at the time of the call; None if nothing tells.

    """
    if _rails_w(root):
        return partial(_rails_w, root)
    return _gpu_w if _gpu_w() else None


def _rails_w(root: Path) -> dict[str, float]:
    found = {}
    for label in sorted(root.glob(_RAILS)):
        number = label.name.removeprefix('in').removesuffix('_label')
        if not number.isdigit():
            continue
        milli = [_number(label.with_name(name)) for name in (f'in{number}_input',
                                                             f'curr{number}_input')]
        if milli[0] is not None and milli[1] is not None:
            found[_text(label)] = milli[0] * milli[1] / 1e6
    return found


def _gpu_w() -> dict[str, float]:
    program = shutil.which(_SMI)
    if program is None:
        return {}
    command = [program, '--query-gpu=power.draw', '--format=csv,noheader,nounits']
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True,
                              timeout=_SMI_TIMEOUT_S).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return {}
    watts = {f'gpu{index}': _float(text) for index, text in enumerate(said)}
    return {name: value for name, value in watts.items() if value is not None}


def _number(path: Path) -> float | None:
    return _float(_text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='ascii').strip()
    except (OSError, ValueError):
        return ''


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # nvidia-smi says [N/A]
        return None
