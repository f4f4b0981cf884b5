# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How warm the board is, and whether it slows itself down: from sysfs, and from NVML.

Reads what the kernel and the NVIDIA driver publish to every user, without helper programs:
thermal zones with their trip points, cooling devices, the over-current counters of a Jetson, the
clock of the processor, and a desktop GPU where `pynvml` is installed. Nothing is estimated, and
nothing here raises: a value that a machine does not provide is NaN.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
import math
from pathlib import Path
import re
import threading
import time
from typing import Any

# -------------------------------------------------------------------------------------------------
# Readings of sysfs: numbers in files, thermal zones with their trip points, clocks.
# Knows no ROS. Nothing here raises: a file that cannot be read is None.

# A sensor that does not answer is left alone for as many reads: those of a Jetson's unit that is
# switched off fail with EAGAIN, and answer again once it is on.
RETRY_AFTER_READS = 60
# Plausible range of a sensor, degrees C. One that is switched off reads -256, such a trip -274.
_COLDEST_C, _HOTTEST_C = -40.0, 150.0
# The first kind that a zone has is where the board begins to slow down. Active trips turn a fan.
_LIMIT_KINDS = ('passive', 'hot', 'critical')


@dataclass(frozen=True)
class Reading:
    """A sensor's name, its reading, and its trip points by kind, degrees C."""

    name: str
    celsius: float
    limits_c: dict[str, float]

    @property
    def limit_c(self) -> float:
        """Degrees C at which this sensor begins to slow the board down; NaN if it never does."""
        return next((self.limits_c[kind] for kind in _LIMIT_KINDS if kind in self.limits_c),
                    math.nan)


class Number:
    """A number in a file; a file that fails is not read again for RETRY_AFTER_READS reads."""

    def __init__(self, path: Path) -> None:
        self._path, self._pause = path, 0

    def read(self) -> float | None:
        """Return the number; None if it cannot be read or is paused."""
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
        """Return the reading; None if the zone is off or its value is not plausible."""
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


# -------------------------------------------------------------------------------------------------
# Readings of NVIDIA GPUs by NVML; for a desktop, or a Jetson whose driver has it.
# `pynvml` (nvidia-ml-py on PyPI) is optional. Nothing here raises.

# NVML's bits for why a clock is lower than it might be; idle and a clock set by hand are no fault.
_HEAT_OR_FAULT = {0x08: 'hardware slowdown', 0x20: 'heat', 0x40: 'heat (by hardware)',
                  0x80: 'power brake'}
# Every GPU under full load reaches it: it is reported, and does not count as throttling.
_GPU_REASONS = {0x04: 'power limit', **_HEAT_OR_FAULT}


@dataclass(frozen=True)
class GpuState:
    """The readings of a GPU: its sensor, why it is throttled, and values for diagnostics."""

    readings: list[Reading]
    reasons: list[str]
    values: dict[str, str]


class Gpu:
    """A GPU in NVML; a query that fails is not repeated."""

    def __init__(self, nvml: Any, index: int) -> None:
        self._nvml, self._name = nvml, f'gpu{index}'
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self._refused: set[str] = set()
        # 1: NVML_TEMPERATURE_THRESHOLD_SLOWDOWN; 0 below: NVML_TEMPERATURE_GPU.
        limit = self._ask('nvmlDeviceGetTemperatureThreshold', 1)
        self._limits_c = {} if limit is None else {'passive': float(limit)}
        # The name before release 12 of NVML is still the only one of an older pynvml.
        new, old = (f'nvmlDeviceGetCurrentClocks{word}Reasons' for word in ('Event', 'Throttle'))
        self._reasons = new if hasattr(nvml, new) else old

    def read(self) -> GpuState:
        """Return the current readings; empty where there are none."""
        celsius = self._ask('nvmlDeviceGetTemperature', 0)
        bits = self._ask(self._reasons)
        readings = [] if celsius is None else [
            Reading(self._name, float(celsius), self._limits_c)]
        if bits is None:
            return GpuState(readings, [], {})
        reasons = [f'{self._name} runs slower for {word}' for bit, word in _HEAT_OR_FAULT.items()
                   if bits & bit]
        words = ', '.join(word for bit, word in _GPU_REASONS.items() if bits & bit) or 'nothing'
        return GpuState(readings, reasons, {f'board.{self._name}.clocks_limited_by': words})

    def _ask(self, function: str, *arguments: int) -> Any:
        if function in self._refused:
            return None
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except Exception:  # NVML's errors are classes of the library, which may be of any release
            self._refused.add(function)
            return None


def find_gpus() -> list[Gpu]:
    """Open NVML; without the library, the driver or a GPU the list is empty."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return [Gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception:
        return []


# -------------------------------------------------------------------------------------------------

# Cooling devices that cool by computing less; the others are fans and a hot-surface-alert.
_SLOWS = re.compile(r'(thermal-)?(cpufreq|devfreq)-|Processor|intel_powerclamp|[cg]pu-throttle'
                    r'|.*-(throttle-alert|balanced)$')

_UNREADABLE = 'not readable here'


@dataclass(frozen=True)
class BoardState:
    """
    The readings of a board at one moment.

    Attributes
    ----------
    temperature_c : float
        Of the hottest sensor, degrees C; NaN where none can be read.
    hottest : str
        Name of that sensor; empty where none can be read.
    limit_c : float
        At which that sensor begins to slow the board down: its lowest trip point of kind passive,
        else hot, else critical; NaN if it has none.
    is_throttled : bool
        If the board computes slower than it could, for heat or for want of power.
    why : str
        One sentence if it is throttled, else empty.
    values : dict of str to str
        All that was read, for diagnostics: keys begin with `board.`, units are in them.

    """

    temperature_c: float = math.nan
    hottest: str = ''
    limit_c: float = math.nan
    is_throttled: bool = False
    why: str = ''
    values: dict[str, str] = field(default_factory=dict)


class BoardReader:
    """
    Read the state of this board, once a second or so.

    What there is to read is looked up once, when it is made; a read opens about thirty files.
    To be used by one thread.

    Parameters
    ----------
    root : Path
        Where the system's files lie.
    asks_nvml : bool
        Ask the NVIDIA driver too, at the first read.

    """

    def __init__(self, root: Path = Path('/'), asks_nvml: bool = True) -> None:
        thermal, hwmon = root / 'sys/class/thermal', root / 'sys/class/hwmon'
        self._zones = [Zone.of(folder) for folder in numbered(thermal, 'thermal_zone*')]
        devices = [(read_text(folder / 'type'), folder) for folder in
                   numbered(thermal, 'cooling_device*')]
        self._limiters = [(name, Number(folder / 'cur_state'), read_text(folder / 'max_state'))
                          for name, folder in devices if _SLOWS.match(name)]
        self._counters = [(path.name.partition('_')[0], Number(path))
                          for path in numbered(hwmon, 'hwmon*/oc*_event_cnt')]
        self._counts: dict[int, float] = {}
        self._clocks = processor_clocks(root / 'sys/devices/system/cpu/cpufreq')
        self._asks_nvml = asks_nvml
        self._gpus: list[Gpu] | None = None

    def read(self) -> BoardState:
        """
        Read the board.

        Returns
        -------
        BoardState
            A counter of over-current events means throttling if it grew since the last read, so
            the first reading has none.

        """
        gpus = [gpu.read() for gpu in self._open_gpus()]
        found = [reading for reading in (zone.read() for zone in self._zones) if reading]
        found += [reading for gpu in gpus for reading in gpu.readings]
        events, counts = self._over_current()
        reasons = [*self._slowed(), *events, *(reason for gpu in gpus for reason in gpu.reasons)]
        why = f'the board slows itself down: {"; ".join(reasons)}' if reasons else ''
        # Of two that are as hot, the one with a limit: tj-thermal repeats the hottest of a Jetson.
        hottest = max(found, key=lambda reading: (reading.celsius, bool(reading.limits_c)),
                      default=Reading('', math.nan, {}))
        is_readable = bool(found or self._limiters)
        values = {
            **_temperature_values(hottest, found),
            'board.throttling': '; '.join(reasons) or ('none' if is_readable else _UNREADABLE),
            **counts, **self._clock_values(),
        }
        for gpu in gpus:
            values |= gpu.values
        return BoardState(hottest.celsius, hottest.name, hottest.limit_c, bool(reasons), why,
                          values)

    def _slowed(self) -> Iterator[str]:
        """Name the cooling devices that are at work."""
        for name, state, largest in self._limiters:
            step = state.read()
            if step is not None and step > 0:
                yield f'{name} is at {step:.0f} of {largest or "?"}'

    def _over_current(self) -> tuple[list[str], dict[str, str]]:
        """Name the counters that grew since the last read, and the values of all."""
        grown, words = [], []
        for i, (name, counter) in enumerate(self._counters):
            count = counter.read()
            if count is None:
                continue
            more = count - self._counts.get(i, count)
            self._counts[i] = count
            words.append(f'{name} {count:.0f}')
            if more > 0:
                grown.append(f'{name} counted {more:.0f} more over-current or undervoltage events')
        return grown, {'board.over_current_events': ', '.join(words)} if words else {}

    def _clock_values(self) -> dict[str, str]:
        words = []
        for now, largest in self._clocks:
            khz = now.read()
            if khz is not None:
                words.append(f'{khz / 1e3:.0f} of {largest / 1e3:.0f}')
        return {'board.cpu_mhz': ', '.join(words)} if words else {}

    def _open_gpus(self) -> list[Gpu]:
        if self._gpus is None:
            self._gpus = find_gpus() if self._asks_nvml else []
        return self._gpus


def _temperature_values(hottest: Reading, found: list[Reading]) -> dict[str, str]:
    if not found:
        return {'board.temperature_c': _UNREADABLE}
    values = {'board.temperature_c': f'{hottest.celsius:.1f}', 'board.hottest': hottest.name}
    if hottest.limits_c:
        values['board.limits_c'] = ', '.join(f'{k} {v:.1f}' for k, v in hottest.limits_c.items())
    values['board.zones_c'] = ', '.join(f'{one.name} {one.celsius:.1f}' for one in found)
    return values


# -------------------------------------------------------------------------------------------------
# Looks at the board without waiting for it.
# A driver that hangs, as that of a GPU does when the GPU itself hangs, may not answer for long.
# The thread that takes the flag down must not stand in that line.

TOO_OLD_S = 5.0
SILENT = BoardState(values={'board.temperature_c': 'the system does not answer'})


class BoardWatch:
    """
    Read the board in threads of its own, one at a time.

    Parameters
    ----------
    read : callable, optional
        Reads the board; `BoardReader.read` by default.
    clock : callable, optional
        Seconds that never stand still or go back.

    """

    def __init__(
        self, read: Callable[[], BoardState] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._clock = read, clock
        self._newest: tuple[BoardState, float] = BoardState(), clock()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def look(self) -> BoardState:
        """
        Return what was read last, and begin to read again; returns at once.

        Raises what the reading before raised: a bug, since a value that cannot be read is NaN.

        """
        error, self._error = self._error, None
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name='board-watch', daemon=True)
            self._thread.start()
        if error is not None:
            raise error
        state, read_s = self._newest
        return state if self._clock() - read_s < TOO_OLD_S else SILENT

    def wait(self, timeout_s: float) -> None:
        """Wait until the reading that was begun has ended, for that long at most."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            if self._read is None:
                self._read = BoardReader().read
            self._newest = self._read(), self._clock()
        except Exception as err:  # for the one who looks
            self._error = err
