# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How warm the board is, and whether it slows itself down: from sysfs, and from NVML.

Reads what the kernel and the NVIDIA driver tell anyone, without a program and without rights:
thermal zones with their trip points, cooling devices, the over-current counters of a Jetson, the
clock of the processor, and a desktop GPU where `pynvml` is installed. Nothing is estimated, and
nothing here raises: a machine that does not tell gives NaN.

"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
import math
from pathlib import Path
import re

from uncertainty_seg.ros.board_gpu import find_gpus, Gpu
from uncertainty_seg.ros.board_sensors import (
    Number,
    numbered,
    processor_clocks,
    read_text,
    Reading,
    Zone,
)

# Cooling devices that cool by computing less; the others are fans and a hot-surface-alert.
_SLOWS = re.compile(r'(thermal-)?(cpufreq|devfreq)-|Processor|intel_powerclamp|[cg]pu-throttle'
                    r'|.*-(throttle-alert|balanced)$')

_UNREADABLE = 'not readable here'


@dataclass(frozen=True)
class BoardState:
    """
    What a board tells at one moment.

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
            the first one does not tell.

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
        """Name the counters that grew since the last read, and what all of them say."""
        grown, said = [], []
        for i, (name, counter) in enumerate(self._counters):
            count = counter.read()
            if count is None:
                continue
            more = count - self._counts.get(i, count)
            self._counts[i] = count
            said.append(f'{name} {count:.0f}')
            if more > 0:
                grown.append(f'{name} counted {more:.0f} more over-current or undervoltage events')
        return grown, {'board.over_current_events': ', '.join(said)} if said else {}

    def _clock_values(self) -> dict[str, str]:
        said = []
        for now, largest in self._clocks:
            khz = now.read()
            if khz is not None:
                said.append(f'{khz / 1e3:.0f} of {largest / 1e3:.0f}')
        return {'board.cpu_mhz': ', '.join(said)} if said else {}

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
