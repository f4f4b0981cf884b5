# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How far a build is, from the phases within phases that TensorRT reports.

A phase has steps; a phase that starts inside one is part of its parent's current step. TensorRT
does not know beforehand how long a step takes, so the share is one of steps and not of time.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import threading
from typing import TYPE_CHECKING, TypeAlias

from uncertainty_seg.backends.tensorrt_api import TensorRt

if TYPE_CHECKING:
    import tensorrt

# Share of the work that is done, 0..1, never falling, and what is being done.
Progress: TypeAlias = Callable[[float, str], None]
_LEAST_STEP = 0.001  # of the share, to be worth telling


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseTracker:
    """
    Turns phases into one share that never falls.

    Parameters
    ----------
    progress : callable
        Told of every change; an error it raises stops the build and is kept in `error`.

    Attributes
    ----------
    error : BaseException or None
        What `progress` raised.

    Notes
    -----
    TensorRT calls from several threads.

    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._share = 0.0
        self._last = -1.0
        self.error: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Enter a phase."""
        with self._lock:
            self._phases[name] = _Phase(parent or None, max(steps, 1))
            self._tell(name)

    def step(self, name: str, step: int) -> bool:
        """Note that a step is done; False if the build is to stop."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
                self._tell(name)
            return self.error is None

    def finish(self, name: str) -> None:
        """Leave a phase."""
        with self._lock:
            self._phases.pop(name, None)

    def _tell(self, name: str) -> None:
        """Call back if something changed; never with 1, which is for the built engine."""
        roots = [key for key, phase in self._phases.items() if phase.parent not in self._phases]
        share = max((self._share_of(key) for key in roots), default=0.0)
        self._share = max(self._share, min(share, 0.99))
        if self.error is not None or self._share < self._last + _LEAST_STEP:
            return
        self._last = self._share
        try:
            self._progress(self._share, name)
        except BaseException as err:  # an interrupt too must not unwind through TensorRT
            self.error = err

    def _share_of(self, name: str) -> float:
        phase = self._phases[name]
        inside = [self._share_of(key) for key, other in self._phases.items()
                  if other.parent == name and key != name]
        return min(1.0, (phase.done + max(inside, default=0.0)) / phase.steps)


def progress_monitor(trt: TensorRt, tracker: PhaseTracker) -> tensorrt.IProgressMonitor:
    """Make the object that TensorRT calls; keep it until the build has ended."""
    if TYPE_CHECKING:
        from tensorrt import IProgressMonitor as base  # the checker must know it by name
    else:
        base = trt.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]

        def __init__(self) -> None:
            base.__init__(self)  # pybind11 wants the base named

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tracker.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return tracker.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            tracker.finish(phase_name)

    return Monitor()
