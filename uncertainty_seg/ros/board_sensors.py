# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What sysfs tells of a board: numbers in files, thermal zones with their trip points, clocks.

Knows no ROS. Nothing here raises: a file that cannot be read is None.

"""

from __future__ import annotations

from dataclasses import dataclass
import math
from pathlib import Path
import re

# A sensor that does not answer is left alone for as many reads: those of a Jetson's unit that is
# switched off fail with EAGAIN, and answer again once it is on.
RETRY_AFTER_READS = 60
# What a sensor of a board can mean, degrees C. One that is off says -256, a trip that is -274.
_COLDEST_C, _HOTTEST_C = -40.0, 150.0
# The first kind that a zone has is where the board begins to slow down. Active trips turn a fan.
_LIMIT_KINDS = ('passive', 'hot', 'critical')


@dataclass(frozen=True)
class Reading:
    """A sensor's name, what it says, and its trip points by kind, degrees C."""

    name: str
    celsius: float
    limits_c: dict[str, float]

    @property
    def limit_c(self) -> float:
        """Degrees C at which this sensor begins to slow the board down; NaN if it never does."""
        return next((self.limits_c[kind] for kind in _LIMIT_KINDS if kind in self.limits_c),
                    math.nan)


class Number:
    """A number in a file; a file that fails is not asked again for RETRY_AFTER_READS reads."""

    def __init__(self, path: Path) -> None:
        self._path, self._pause = path, 0

    def read(self) -> float | None:
        """Return the number; None if it cannot be read or is not asked for."""
        if self._pause:
            self._pause -= 1
            return None
        try:
            return float(self._path.read_bytes())
        except (OSError, ValueError):
            self._pause = RETRY_AFTER_READS
            return None


class Zone:
    """A thermal zone; the trip points are read once."""

    def __init__(self, name: str, milli: Number, limits_c: dict[str, float]) -> None:
        self._name, self._milli, self._limits_c = name, milli, limits_c

    @classmethod
    def of(cls, folder: Path) -> Zone:
        """Return the zone of a folder `thermal_zone<n>`."""
        limits: dict[str, float] = {}
        for path in numbered(folder, 'trip_point_*_type'):
            kind = read_text(path)
            milli = Number(path.with_name(path.name.replace('_type', '_temp'))).read()
            if kind in _LIMIT_KINDS and milli is not None and 0 < milli / 1e3 < _HOTTEST_C:
                limits[kind] = min(milli / 1e3, limits.get(kind, math.inf))
        ordered = {kind: limits[kind] for kind in _LIMIT_KINDS if kind in limits}
        return cls(read_text(folder / 'type') or folder.name, Number(folder / 'temp'), ordered)

    def read(self) -> Reading | None:
        """Return what the zone says; None if it is off or says what no board can mean."""
        milli = self._milli.read()
        if milli is None or not _COLDEST_C < milli / 1e3 < _HOTTEST_C:
            return None
        return Reading(self._name, milli / 1e3, self._limits_c)


def processor_clocks(folder: Path) -> list[tuple[Number, float]]:
    """Find the clocks of the first four groups of cores: a Jetson has three at most."""
    found = []
    for policy in numbered(folder, 'policy*')[:4]:
        largest = Number(policy / 'cpuinfo_max_freq').read()
        if largest is not None:
            found.append((Number(policy / 'scaling_cur_freq'), largest))
    return found


def numbered(folder: Path, pattern: str) -> list[Path]:
    """List what matches, 2 before 10; a folder that is missing or closed has nothing."""
    try:
        paths = list(folder.glob(pattern))
    except OSError:
        return []
    return sorted(paths, key=lambda path: [int(n) for n in re.findall(r'\d+', str(path))])


def read_text(path: Path) -> str:
    """Return the text of a file without the line's end; empty if it cannot be read."""
    try:
        return path.read_text(encoding='ascii').strip()
    except (OSError, ValueError):
        return ''
