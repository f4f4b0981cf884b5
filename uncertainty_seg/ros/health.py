# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The state of the node on /diagnostics, once a second and on change, in every lifecycle state.

Each camera has a status. Late frames are reported as in Autoware's nodes: a warning for a frame
over its latency budget, an error once that has lasted for `LATENCY_ERROR_S`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
import logging
import math
import re
import statistics
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from uncertainty_seg.backends.gpu.engine_build import BuildState
from uncertainty_seg.core.gate import NO_CALIBRATION
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.status import Status


def diagnostics_message(header: Any, *statuses: Status) -> DiagnosticArray:
    """Build a diagnostics message."""
    return DiagnosticArray(header=header, status=[DiagnosticStatus(
        level=bytes([status.level]), name=status.name, message=status.message,
        hardware_id=status.hardware_id,
        values=[KeyValue(key=key, value=str(value)) for key, value in status.values.items()],
    ) for status in statuses])


# The parts that the flag does not depend on: a failure of one affects no other part.

# A failure is reported for this long, so that an intermittent one is seen.
FAULT_MEMORY_S = 10.0
_log = logging.getLogger(__name__)


@dataclass
class _PartFault:
    num: int = 0
    sentence: str = ''
    failed_s: float = 0.0
    is_failing: bool = False


class PartFaults:
    """
    Contain and count the exceptions of optional parts.

    Pictures, relayed calibrations, the frame log, counts and diagnostics must not change the flag,
    stop frames or end the node. Each runs within `alone`, in any thread. A part is reported from
    its first fault until it has worked again and `FAULT_MEMORY_S` have passed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._faults: dict[str, _PartFault] = {}
        self._logged: set[tuple[str, type]] = set()

    @contextmanager
    def alone(self, part: str) -> Iterator[None]:
        """Run a block of a part; an Exception ends the block, and is counted and logged."""
        try:
            yield
        except Exception as err:
            self._note(part, err)
        else:
            if part in self._faults:
                with self._lock:
                    self._faults[part].is_failing = False

    def clear(self) -> None:
        """Reset the counts; a fault that was logged is not logged again."""
        with self._lock:
            self._faults = {}

    def sentences(self) -> tuple[str, ...]:
        """Return a sentence for each part that fails, or has failed lately."""
        with self._lock:
            now_s = self._clock()
            return tuple(f.sentence for f in self._faults.values()
                         if f.is_failing or now_s - f.failed_s < FAULT_MEMORY_S)

    def values(self) -> dict[str, str]:
        """Return how often each part has failed, as values of /diagnostics."""
        with self._lock:
            return {f'failed.{part}': str(fault.num) for part, fault in self._faults.items()}

    def _note(self, part: str, err: Exception) -> None:
        text = ' '.join(str(err).split())[:200]
        sentence = f'{part} failed with {type(err).__name__}: {text}; the other parts continue'
        with self._lock:
            fault = self._faults.setdefault(part, _PartFault())
            fault.num += 1
            fault.sentence, fault.is_failing = sentence, True
            fault.failed_s = self._clock()
            is_new = (part, type(err)) not in self._logged
            self._logged.add((part, type(err)))
        if is_new:
            _log.error('%s; not logged again', sentence, exc_info=err)


_NUMBER = re.compile(r'\d+(\.\d+)?')
WINDOW_FRAMES = 100
AGE = 'frame_age'
# Time over the latency budget after which the warning becomes an error.
LATENCY_ERROR_S = 3.0


class FrameStatistics:
    """
    Statistics of the last frames; written by the worker, read by the timer.

    `is_faulty` is true if the newest frame was unusable. `over_since_s` is since when every frame
    has been over its latency budget, None if the last was within it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._timings: dict[str, deque[float]] = {}
            self._done_s: deque[float] = deque(maxlen=WINDOW_FRAMES)
            self._ages_s: deque[float] = deque(maxlen=WINDOW_FRAMES)
            self.num_processed = self.num_faulty = 0
            self.last_fault, self.is_faulty = '', False
            self.latest_ms = 0.0
            self.over_since_s: float | None = None

    def add_latency(self, to_flag_ms: float, budget_ms: float) -> None:
        """Record a frame's latency to its flag, and since when it exceeds the budget."""
        with self._lock:
            self.latest_ms = to_flag_ms
            if to_flag_ms <= budget_ms:
                self.over_since_s = None
            elif self.over_since_s is None:
                self.over_since_s = self._clock()

    def over_budget_s(self) -> float | None:
        """Return for how many seconds every frame was over budget; None if the last was not."""
        since_s = self.over_since_s
        return None if since_s is None else self._clock() - since_s

    def add_frame(self, timings_ms: Mapping[str, float], age_s: float = math.nan) -> None:
        """Count a processed frame, with the duration of each stage and its age."""
        with self._lock:
            self.num_processed += 1
            self._done_s.append(self._clock())
            self._ages_s.append(age_s)
        self.add_timings(timings_ms)

    def add_timings(self, timings_ms: Mapping[str, float]) -> None:
        """Record the durations of stages of a frame."""
        with self._lock:
            for stage, value_ms in timings_ms.items():
                self._timings.setdefault(stage, deque(maxlen=WINDOW_FRAMES)).append(value_ms)

    def add_fault(self, reason: str) -> bool:
        """Count an unusable frame; return whether the reason is new, apart from its numbers."""
        with self._lock:
            self.num_faulty += 1
            self.is_faulty = True
            is_new = _NUMBER.sub('', reason) != _NUMBER.sub('', self.last_fault)
            self.last_fault = reason
            return is_new

    def rate_hz(self) -> float:
        """Return the rate of the last frames, in Hz; it falls towards 0 once frames stop."""
        with self._lock:
            if len(self._done_s) < 2:
                return 0.0
            # Measured up to now, not to the last frame, so that the rate falls if frames stop.
            span_s = max(self._clock() - self._done_s[0], 1e-9)
            return (len(self._done_s) - 1) / span_s

    def latencies_ms(self) -> dict[str, tuple[float, float]]:
        """Return median and largest of each stage, and of the age, over the last frames."""
        with self._lock:
            known = [age_s * 1e3 for age_s in self._ages_s if math.isfinite(age_s)]
            return {name: (statistics.median(values), max(values))
                    for name, values in {**self._timings, AGE: known}.items() if values}


@dataclass(frozen=True)
class NodeHealth:
    """What all cameras share; `extra` is of the frame log, `trouble` of the log or the painter."""

    state: str
    settings: Settings
    pipeline: Pipeline | None = None
    model_folder: str = ''
    build: BuildState | None = None
    conflicts: tuple[str, ...] = ()
    deadlines_missed: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ''
    image_codec: str = 'own codec'
    faults: PartFaults = field(default_factory=PartFaults)

    def warnings(self) -> list[str]:
        """List problems that do not change the flag, the most important first."""
        found = [*self.conflicts, *self.faults.sentences()]
        return [*found, self.trouble] if self.trouble else found

    def weakness(self) -> list[str]:
        """List what weakens the promise; known from the start, so it comes after all warnings."""
        if self.pipeline is not None and self.pipeline.promise == NO_CALIBRATION:
            return [f'{NO_CALIBRATION}, and the flag is always false']
        if self.pipeline is not None and self.pipeline.weakened_by:
            return ['the settings weaken what the calibration promises: '
                    + '; '.join(self.pipeline.weakened_by)]
        return []

    def values(self) -> dict[str, str]:
        """Return the values of the status."""
        values = {'state': self.state, 'model': self.settings.model,
                  'model_folder': self.model_folder, 'image_codec': self.image_codec,
                  'checks_off': ', '.join(self.settings.checks_off) or 'none'}
        if self.pipeline is not None:
            values |= {'backend': self.pipeline.backend_name,
                       'passes': str(self.pipeline.passes),
                       'promise': self.pipeline.promise}
        if self.build is not None:
            values['engine_build_percent'] = f'{self.build.share * 100:.0f}'
            values['engine_build_phase'] = self.build.phase
        values |= {f'deadline_missed.{name}': str(n) for name, n in self.deadlines_missed.items()}
        values |= {f'topic.{i}': text for i, text in enumerate(self.conflicts, start=1)}
        return values | self.faults.values() | dict(self.extra)


@dataclass(frozen=True)
class Health:
    """
    The state of one camera, counted since the last activation.

    `hint` is why no or few frames arrive, if known, `rival` who else publishes flag or images.
    """

    camera: str
    node: NodeHealth
    is_stale: bool
    is_confident: bool
    why_down: str
    hint: str
    rival: str
    statistics: FrameStatistics
    counts: Mapping[str, int]
    faults: PartFaults = field(default_factory=PartFaults)

    @property
    def _is_active(self) -> bool:
        return self.node.state == 'active'

    def warnings(self) -> list[str]:
        """List problems that do not change the flag, the most important first."""
        return [*self.node.warnings(), *self.faults.sentences(), *self.node.weakness()]

    def budget(self) -> tuple[bytes, str]:
        """Return the diagnostic level of the latency, and a sentence, empty within the budget."""
        over_s = self.statistics.over_budget_s() if self._is_active else None
        if over_s is None:
            return DiagnosticStatus.OK, ''
        is_long = over_s >= LATENCY_ERROR_S
        lasting = f', for {over_s:.1f} s now' if is_long else ''
        return (DiagnosticStatus.ERROR if is_long else DiagnosticStatus.WARN,
                f'{self.statistics.latest_ms:.0f} ms to the flag, over the budget of '
                f'{self.node.settings.budget_ms:g} ms{lasting}')

    @property
    def level(self) -> bytes:
        """Return OK for usable frames in time, WARN while inactive, ERROR for no usable frame."""
        if not self._is_active:
            return DiagnosticStatus.WARN
        if self.is_stale or self.statistics.is_faulty or self.rival:
            return DiagnosticStatus.ERROR
        is_odd = bool(self.hint or self.warnings())
        warns = DiagnosticStatus.WARN if is_odd else DiagnosticStatus.OK
        return max(self.budget()[0], warns)

    @property
    def message(self) -> str:
        """Return the most severe problem, or the state."""
        if self.node.build is not None:
            return str(self.node.build)
        if self._is_active and self.rival:
            return self.rival
        if self.hint or self.is_stale:
            return self.hint or self.why_down
        if self._is_active and self.statistics.is_faulty:
            return self.statistics.last_fault
        texts = [self.budget()[1], *self.warnings()]
        return next((text for text in texts if text), self.node.state)

    @property
    def condition(self) -> tuple[object, ...]:
        """Return the part that is published as soon as it changes: everything but numbers."""
        return (self.node.state, self.level, self.is_stale, self.hint, self.rival,
                self.statistics.is_faulty, self.node.conflicts, self.node.trouble,
                len(self.warnings()), self.node.build is None)

    def values(self) -> dict[str, str]:
        """Return the values of the status."""
        stats = self.statistics
        values = {
            'confident': str(self.is_confident).lower(),
            'stamps': self.node.settings.stamps,
            'frames_processed': str(stats.num_processed),
            'frames_faulty': str(stats.num_faulty),
            'rate_hz': f'{stats.rate_hz():.2f}',
            'latency_budget_ms': f'{self.node.settings.budget_ms:g}',
            'last_fault': stats.last_fault,
            **{name: str(count) for name, count in self.counts.items()},
        }
        for stage, (median, largest) in stats.latencies_ms().items():
            name = f'{AGE}_ms' if stage == AGE else f'latency.{stage}_ms'
            values[name] = f'median {median:.2f}, max {largest:.2f}'
        values |= self.faults.values()
        return {**({'camera': self.camera} if self.camera else {}), **self.node.values(), **values}


def health_message(header: Header, name: str, cameras: Iterable[Health]) -> DiagnosticArray:
    """Build the status of each camera; the full name tells nodes apart in an aggregator."""
    return diagnostics_message(header, *(
        Status(health.level[0], f'{name}: health{" " * bool(health.camera)}{health.camera}',
               health.message, health.values(), health.node.settings.model)
        for health in cameras))
