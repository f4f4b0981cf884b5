# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
An oracle that decides, outside the node, when a flag may be true, and counts violations ("lies").

Its input are the sent frames and the received messages with their times of sending, all by the
system clock; it uses no code of the node or the package. It is a pure function of the events in
the order of their times.

A true flag is a lie

* about a frame that is faulty;
* if fewer than `rise_frames` good frames in a row were answered since the gate was restarted;
* about a frame that is older than `max_age_s`, unless a false follows within `CORRECTED_S`;
* if no flag follows within `stale_timeout_s` and the process was not stopped meanwhile;
* while the node is inactive or uncalibrated.

A factor of the governor above the slow one is a lie unless only true flags were sent for
`settle_s`, the last at most `deadline_s` ago. `MARGIN_S` is added to all times, to allow for a
busy machine.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from soak_frames import MAX_AGE_S, MAX_SKEW_S

MARGIN_S, CORRECTED_S, SETTLED_S = 0.5, 0.1, 0.02
# Faults only if the node saw the frames before, and the number of frames before that matter.
RELATIVE, LOOKED_BACK = ('repeated', 'alternating', 'frozen', 'ring', 'back'), 70
# Spans in which no flag may be true.
DOWN = ('inactive', 'uncalibrated')


@dataclass(frozen=True)
class Frame:
    """A frame is sent, taken at `time_s` and stamped `lead_s` later."""

    time_s: float
    name: str
    kind: str
    is_good: bool
    lead_s: float = 0.0


@dataclass(frozen=True)
class Flag:
    """A flag was published."""

    time_s: float
    value: bool


@dataclass(frozen=True)
class Answer:
    """The status of a flag was published; `name` is the frame's, '' if it is of no frame."""

    time_s: float
    name: str
    value: bool
    kind: str = ''


@dataclass(frozen=True)
class Factor:
    """The governor published a factor."""

    time_s: float
    value: float


@dataclass(frozen=True)
class Span:
    """
    The start or end of a span, in which good frames need not be true.

    'paused': the node's process is stopped; 'restarting': from the request of a restart to its
    end; 'activated': the node has forgotten earlier frames; and the spans of `DOWN`.
    """

    time_s: float
    what: str
    is_on: bool


Event = Frame | Flag | Answer | Factor | Span


@dataclass
class Oracle:
    """
    Judge events in the order of their times.

    `lies` lists flags that were wrongly true. `ready` counts answers to good frames after enough
    good ones, and `blind` those that were false. `timeout_s` is the flag's timeout and also the
    governor's deadline and settling time.
    """

    slow_factor: float
    timeout_s: float
    rise_frames: int = 3

    lies: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    num_true: int = 0
    true_s: float = 0.0
    num_excused: int = 0
    num_corrected: int = 0
    num_fast: int = 0
    ready: int = 0
    blind: int = 0

    def __post_init__(self) -> None:
        """Initialize the state."""
        self._frames: dict[str, Frame] = {}
        self._recent: deque[str] = deque(maxlen=LOOKED_BACK)
        self._unseen: set[str] = set()
        self._spans: set[str] = set()
        self._run = self._run_since = 0
        self._flag: Flag | None = None
        self._is_paired = True
        self._late: tuple[float, str] | None = None
        self._alive_s = 0.0  # when the node last continued after a pause
        # Start of the current series of true flags, and when the last series ended.
        self._true_since_s: float | None = None
        self._broken_s = 0.0
        self._calm = 0

    def feed(self, events: Iterable[Event]) -> None:
        """Judge events, given in order."""
        for event in events:
            self._check_silence(event.time_s)
            getattr(self, f'_on_{type(event).__name__.lower()}')(event)

    def _lie(self, time_s: float, text: str) -> None:
        self.lies.append(f'{time_s:.3f}: {text}')

    # --- sent frames and actions ---------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        self.sent[frame.kind] += 1
        self._frames[frame.name] = frame
        if len(self._recent) == LOOKED_BACK:
            self._frames.pop(self._recent[0], None)
            self._unseen.discard(self._recent[0])
        self._recent.append(frame.name)
        self._unseen.add(frame.name)

    def _on_span(self, span: Span) -> None:
        self._calm = 0
        (self._spans.add if span.is_on else self._spans.discard)(span.what)
        if span.what == 'paused':
            self._alive_s = self._alive_s if span.is_on else span.time_s
        elif span.what in ('restarting', 'activated'):
            # The service's response may arrive after the first frames that count.
            if not span.is_on:
                self._run = min(self._run, self._run_since)
            else:
                self._run_since = 0
                self._run = self._run if span.what == 'restarting' else 0
            if span.what == 'activated':
                self._unseen |= set(self._recent)  # the node has forgotten them

    # --- received messages ---------------------------------------------------------------------

    def _on_flag(self, flag: Flag) -> None:
        if self._flag is not None and self._flag.value:
            self.true_s += min(flag.time_s - self._flag.time_s, self.timeout_s)
        if not flag.value:
            self._true_since_s, self._broken_s = None, flag.time_s
        if self._late is not None:
            is_corrected = not flag.value and flag.time_s - self._late[0] <= CORRECTED_S
            self.num_corrected += is_corrected
            if not is_corrected:
                self._lie(*self._late)
            self._late = None
        self._alive_s = min(self._alive_s, flag.time_s)
        if flag.value:
            self._note_true(flag)
        self._flag, self._is_paired = flag, False

    def _note_true(self, flag: Flag) -> None:
        self.num_true += 1
        before_s = self._flag.time_s if self._flag is not None else flag.time_s
        if flag.time_s - before_s > self.timeout_s:
            self._broken_s, self._true_since_s = before_s + self.timeout_s, None
        if self._true_since_s is None:
            self._true_since_s = flag.time_s
        for what in DOWN:
            if what in self._spans:
                self._lie(flag.time_s, f'true while {what}')

    def _on_answer(self, answer: Answer) -> None:
        flag, is_first = self._flag, not self._is_paired
        self._is_paired = True
        frame = self._frames.get(answer.name)
        if frame is None:
            if not answer.value:
                self._calm = 0  # it fell for a reason other than a frame
            return
        self.answered[frame.kind] += 1
        is_good = self._is_good(frame, answer)
        self._unseen.discard(frame.name)
        self._run = self._run + 1 if is_good else 0
        self._run_since = self._run_since + 1 if is_good else 0
        self._calm = self._calm + 1 if is_good else 0
        if self._calm > self.rise_frames + 2 and not self._spans:
            self.ready += 1
            self.blind += not answer.value
        if not answer.value:
            return
        if flag is not None and is_first and flag.value:
            self._check_true(flag, frame)
        if not is_good:
            self._lie(answer.time_s, f'true about a frame that is {frame.kind}')
        elif self._run < self.rise_frames:
            self._lie(answer.time_s, f'true after {self._run} good frames ({frame.kind})')

    def _check_true(self, flag: Flag, frame: Frame) -> None:
        age_s = flag.time_s - frame.time_s
        if age_s > MAX_AGE_S + CORRECTED_S:
            self._late = flag.time_s, f'true about a frame of {age_s:.2f} s ago'

    def _is_good(self, frame: Frame, answer: Answer) -> bool:
        """Return whether a frame's flag may be true; if unknown, the node's answer is accepted."""
        is_excused = (
            (frame.kind in RELATIVE and self._has_gaps(frame))
            or (frame.kind == 'too_far_ahead'
                and frame.lead_s - (answer.time_s - frame.time_s) <= MAX_SKEW_S))
        if not is_excused or frame.is_good:
            return bool(frame.is_good)
        self.num_excused += 1
        return answer.value or answer.kind in ('confident', 'recovering')

    def _has_gaps(self, frame: Frame) -> bool:
        for name in self._recent:
            if name == frame.name:
                break
            if name in self._unseen:
                return True
        return False

    def _on_factor(self, factor: Factor) -> None:
        if factor.value <= self.slow_factor + 1e-6:
            return
        self.num_fast += 1
        flag, since_s = self._flag, self._true_since_s
        if factor.time_s - self._broken_s <= MARGIN_S:
            return  # the end of the series may not have reached the governor yet
        if flag is None or since_s is None:
            self._lie(factor.time_s, f'factor {factor.value:.2f} without a true flag')
        elif factor.time_s - since_s < self.timeout_s - SETTLED_S:
            self._lie(factor.time_s, f'factor {factor.value:.2f} after '
                      f'{factor.time_s - since_s:.2f} s of true')
        elif factor.time_s - flag.time_s > self.timeout_s + MARGIN_S:
            self._lie(factor.time_s, f'factor {factor.value:.2f} on a flag of '
                      f'{factor.time_s - flag.time_s:.2f} s ago')

    def _check_silence(self, now_s: float) -> None:
        flag = self._flag
        if flag is None or not flag.value or 'paused' in self._spans:
            return  # a stopped process cannot retract its flag; the governor handles that
        allowed_s = max(flag.time_s + self.timeout_s, self._alive_s) + MARGIN_S
        if now_s > allowed_s:
            self._lie(now_s, f'no flag for {now_s - flag.time_s:.2f} s after a true')
            self._alive_s = now_s + 1e9  # reported once
