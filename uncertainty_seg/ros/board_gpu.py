# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the NVIDIA driver tells of its GPUs, by NVML; for a desktop or a Jetson whose driver has it.

`pynvml` (nvidia-ml-py on PyPI) is optional. Nothing here raises.

"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from uncertainty_seg.ros.board_sensors import Reading

# NVML's bits for why a clock is lower than it might be; idle and a clock set by hand are no fault.
_HEAT_OR_FAULT = {0x08: 'hardware slowdown', 0x20: 'heat', 0x40: 'heat (by hardware)',
                  0x80: 'power brake'}
# Every GPU under full load meets it, so it is told, and is no throttling.
_GPU_REASONS = {0x04: 'power limit', **_HEAT_OR_FAULT}


@dataclass(frozen=True)
class GpuState:
    """What a GPU says: its sensor, why it is throttled, and values for diagnostics."""

    readings: list[Reading]
    reasons: list[str]
    values: dict[str, str]


class Gpu:
    """A GPU that NVML knows; a question that it cannot answer is not put again."""

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
        """Return what the GPU tells now; empty where it tells nothing."""
        celsius = self._ask('nvmlDeviceGetTemperature', 0)
        bits = self._ask(self._reasons)
        readings = [] if celsius is None else [
            Reading(self._name, float(celsius), self._limits_c)]
        if bits is None:
            return GpuState(readings, [], {})
        reasons = [f'{self._name} runs slower for {word}' for bit, word in _HEAT_OR_FAULT.items()
                   if bits & bit]
        said = ', '.join(word for bit, word in _GPU_REASONS.items() if bits & bit) or 'nothing'
        return GpuState(readings, reasons, {f'board.{self._name}.clocks_limited_by': said})

    def _ask(self, function: str, *arguments: int) -> Any:
        if function in self._refused:
            return None
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except Exception:  # NVML's errors are classes of the library, which may be of any release
            self._refused.add(function)
            return None


def find_gpus() -> list[Gpu]:
    """Open NVML; without the library, the driver or a GPU there is nothing to ask."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return [Gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception:
        return []
