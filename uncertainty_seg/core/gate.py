# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From scores to the flag: a state machine that only good frames can turn to `true`.

It has no thread and reads no clock: `update`, for a frame, and `fault`, for any other event, are
given the time. Before the first frame and for a score that is not a number, the flag is false.

For the same events, settings and times, a gate with smaller thresholds is true only when one with
larger thresholds is. A frame that is bad at the larger thresholds is bad at the smaller ones, a
frame good enough to rise at the smaller is so at the larger, and nothing else changes the flag.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import difflib
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.core.calibration import Calibration, HIGHEST_SCORE, Promise
from uncertainty_seg.core.settings import GateSettings
from uncertainty_seg.errors import ConfigError

# -------------------------------------------------------------------------------------------------
# The gated scores and their thresholds, from calibration and settings.

VOID = 'void'
_NUM_NAMED = 5  # scores named in an error; a calibration may have a hundred
# The flag rises only if every score is at most this share of the way from its smallest value in
# the calibration to its threshold.
RISE_RATIO = 0.95
# Whatever `fall_frames` is, the flag falls at a bad frame that is this long after the first of
# consecutive bad frames, by the stamps.
FALL_WITHIN_S = 1.0
WITHIN = ('all scores within limits',)
NO_CALIBRATION = 'no promise: the bundle has no calibration'


# A guard has a threshold like any score, but no say about frames below it: how near a frame is to
# being foreign says nothing about whether its mask is bad, so the order of such frames is that of
# the other scores. Its threshold does not depend on alpha: this share of the training frames is at
# or below it. Features detect foreign water, and disagreement of the passes foreign objects.
GUARDS = {'features.knn': 0.98, 'mutual_information.top': 0.99}


def largest_ratio(ratios: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """
    Return the largest ratio of score to threshold, for frames (n,) or one frame.

    `ratios` are those of each gated score. That of a guard counts only from 1, where it refuses
    the frame, unless there are only guards; NaN counts as infinite.
    """
    only_guards = all(name in GUARDS for name in ratios)
    values = [np.where(name in GUARDS and not only_guards and np.less(ratio, 1), 0.0, ratio)
              for name, ratio in ratios.items()]
    found = np.max(values, axis=0)
    return np.where(np.isnan(found), np.inf, found)


def gate_limits(calibration: Calibration, settings: GateSettings) -> dict[str, float]:
    """
    Return the threshold of each gated score, scale included.

    They come from the promise if there is one and the gated scores are its own; otherwise from the
    calibration's thresholds, which promise nothing. Raises ConfigError if a score has no
    threshold, there is no promise for `settings.alpha`, or the scale raises a threshold to 1, the
    highest possible score.
    """
    promise = calibration.promise_of(settings.alpha)
    limits: Mapping[str, float] = promise.limits if promise else calibration.thresholds
    names: Sequence[str] = settings.scores or calibration.gate_scores
    if promise and settings.scores and set(names) != set(promise.limits):
        limits = calibration.thresholds
    missing = [name for name in names if name not in limits]
    if missing:
        raise ConfigError(
            f'gate.scores names {missing[0]!r}',
            f'one of {_few_like(missing[0], calibration.thresholds)}',
            'calibrate the bundle again to have a threshold for it',
        )
    return {name: _scaled(name, limits[name], settings.threshold_scale) for name in names}


def _few_like(name: str, known: Mapping[str, float]) -> str:
    near = difflib.get_close_matches(name, known, _NUM_NAMED) or list(known)[:_NUM_NAMED]
    more = len(known) - len(near)
    return ', '.join(near) + (f' ({more} more are in calibration.json)' if more else '')


def promise_text(calibration: Calibration, settings: GateSettings) -> str:
    """Return what `gate_limits` promise, in words; empty if nothing, VOID if settings void it."""
    if weakened_by(calibration, settings):
        return VOID
    promise = calibration.promise_of(settings.alpha)
    if promise and calibration.carried_error:
        return (f'{_said(promise)}, and {calibration.carried_error:.2g} more by limits carried '
                'over from another precision')
    return _said(promise) if promise else ''


def weakened_by(calibration: Calibration, settings: GateSettings) -> tuple[str, ...]:
    """
    List the settings that make the gate accept more than its calibration does, each in words.

    Without a promise they are listed too: the calibrated thresholds are still the intended ones.
    Raises ConfigError if `settings.alpha` is above 0 and no promise has it.
    """
    promise, found = calibration.promise_of(settings.alpha), []
    if settings.threshold_scale > 1:
        found.append(f'gate.threshold_scale is {settings.threshold_scale:g}, above 1')
    names, given = set(promise.limits if promise else calibration.gate_scores), settings.scores
    # More scores make a gate stricter, but a promise holds only for its own scores and thresholds.
    if given and (names != set(given) if promise else not names <= set(given)):
        found.append(f'gate.scores are not those of the calibration ({", ".join(sorted(names))})')
    if settings.fall_frames > 1:
        found.append(f'gate.fall_frames is {settings.fall_frames}, above 1: the flag stays true '
                     'on frames over their thresholds')
    if promise and promise != calibration.promise_of(0):
        found.append(f'gate.alpha is {settings.alpha:g}: only {_said(promise)}')
    return tuple(found)


def _said(promise: Promise) -> str:
    said = f'accepted and bad ({promise.bad}) in at most {promise.alpha:g} of the frames'
    return f'{said} ({promise.weakness})' if promise.weakness else said


def cannot_rise(
    calibration: Calibration, settings: GateSettings, limits: Mapping[str, float]
) -> str:
    """
    Return why the flag may never rise: a threshold below all calibration frames; empty if none.

    `limits` are those of `gate_limits`. A score without a floor is assumed to reach 0.
    """
    for name, limit in limits.items():
        least = calibration.floors.get(name, 0.0)
        if least >= limit:
            fix = 'a gate.threshold_scale nearer to 1' if settings.threshold_scale < 1 else \
                'a larger gate.alpha, or other scores for the calibration'
            return (f'no frame of the calibration is below the threshold {limit:.4g} of {name}, '
                    f'the lowest is {least:.4g}; take {fix}')
    return ''


def _way_to(value: float, limit: float, floor: float) -> float:
    """
    Return the position of a score between a floor (0) and its threshold (1).

    A floor that is not below the threshold counts as 0. A score that may rise by `RISE_RATIO` at
    one threshold may do so at any larger one.
    """
    return (value - floor) / (limit - floor) if floor < limit else value / limit


def _scaled(name: str, limit: float, scale: float) -> float:
    if limit * scale >= HIGHEST_SCORE:
        raise ConfigError(
            f'gate.threshold_scale {scale:g} makes the limit of {name} {limit * scale:.3g}',
            f'below {HIGHEST_SCORE:g}, the highest possible score',
            'the flag would never fall: take a smaller scale',
        )
    return limit * scale


KINDS = ('confident', 'uncertain', 'recovering', 'fault', 'unknown')


@dataclass(frozen=True)
class Verdict:
    """
    The flag and why.

    Attributes
    ----------
    is_confident : bool
        Every gated score has been within its threshold for long enough, without a fault.
    reasons : tuple of str
        One sentence each; `WITHIN` when confident, or the bad scores that `fall_frames` tolerates.
    score_ratio : float
        Largest ratio of a score to its threshold, see `largest_ratio`; above 1 for a bad frame;
        infinite after a fault.
    kind : str
        'confident', 'uncertain', 'recovering' (scores good, not yet long enough), 'fault',
        or 'unknown' (no frame yet).
    promise : str
        What the thresholds promise, in words; empty if nothing, `VOID` if settings void it.

    """

    is_confident: bool
    reasons: tuple[str, ...]
    score_ratio: float
    kind: str
    promise: str = ''

    @property
    def is_worth_a_label(self) -> bool:
        """
        Return whether the frame itself was over a threshold or could not be judged.

        It is false while the gate only waits for more good frames, and true for a single bad
        frame that the hysteresis tolerates.
        """
        return self.kind != 'recovering' and not self.score_ratio <= 1.0


class Gate:
    """
    Judge one frame after another.

    `thresholds` are those of the gated scores, all above 0; `promise` is what they promise, copied
    into every verdict. `floors` are the smallest values of scores among ordinary frames, 0 by
    default. `RISE_RATIO` counts from there, because a share of the threshold itself could lie
    below every frame if a score never comes near 0. Raises ConfigError if there is no threshold,
    or one that is not a finite number above 0.
    """

    def __init__(
        self, settings: GateSettings, thresholds: Mapping[str, float], promise: str = '',
        floors: Mapping[str, float] | None = None,
    ) -> None:
        bad = {k: v for k, v in thresholds.items() if not (0 < v < math.inf)}
        if bad or not thresholds:
            raise ConfigError(f'thresholds {bad or "missing"}', 'finite numbers above 0')
        self._settings = settings
        self._thresholds = dict(thresholds)
        self._floors = dict.fromkeys(thresholds, 0.0) | dict(floors or {})
        self._bad_frames: deque[bool] = deque(maxlen=settings.fall_window)
        self._good_in_a_row = 0
        self._bad_since_s: float | None = None
        # None: the hold starts with the next frame, since no start time is known.
        self._held_from_s: float | None = None
        self._now_s = -math.inf
        self._promise = promise
        self._last = Verdict(False, ('no frame yet',), math.inf, 'unknown', promise)

    @property
    def last(self) -> Verdict:
        """Return the current verdict."""
        return self._last

    @property
    def thresholds(self) -> dict[str, float]:
        """Return the threshold of each gated score."""
        return dict(self._thresholds)

    def promises(self, promise: str) -> None:
        """Take another promise for the same thresholds, also in the current verdict."""
        self._promise, self._last = promise, replace(self._last, promise=promise)

    def update(self, scores: Mapping[str, float], now_s: float = 0.0) -> Verdict:
        """
        Judge one frame; never confident if a gated score is missing, not finite or below 0.

        `now_s` is the time of the frame, for `hold_s`. If it is before the last one or not finite,
        the hold starts again with the next frame: no late frame makes the flag true earlier.
        """
        values = {name: scores.get(name, math.nan) for name in self._thresholds}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            return self.fault(f'score {broken[0]} is not a finite number', now_s)
        negative = [name for name, value in values.items() if value < 0]
        if negative:
            return self.fault(f'score {negative[0]} is {values[negative[0]]:.4g}, below the '
                              'minimum 0', now_s)
        ratios = {name: values[name] / limit for name, limit in self._thresholds.items()}
        worst = float(largest_ratio(ratios))
        over = [
            f'{name} {values[name]:.4g} over {self._thresholds[name]:.4g}'
            for name, limit in self._thresholds.items() if values[name] > limit
        ]
        self._bad_frames.append(bool(over))
        lasts = self._bad_for_too_long(bool(over), now_s)
        self._tick(now_s, is_bad=bool(over))
        may_rise = all(_way_to(values[name], limit, self._floors[name]) <= RISE_RATIO
                       for name, limit in self._thresholds.items())
        self._good_in_a_row = self._good_in_a_row + 1 if may_rise else 0
        self._last = replace(self._judge(over, worst, lasts), promise=self._promise)
        return self._last

    def _bad_for_too_long(self, is_bad: bool, now_s: float) -> bool:
        if not is_bad:
            self._bad_since_s = None
            return False
        if self._bad_since_s is None:
            self._bad_since_s = now_s
        # If stamps go back or are NaN, the duration is unknown and counts as too long.
        return not (now_s >= self._now_s
                    and now_s - self._bad_since_s < FALL_WITHIN_S)

    def fault(
        self, reason: str, now_s: float | None = None, kind: str = 'fault'
    ) -> Verdict:
        """
        Make the flag fall at once; the count of good frames starts again from zero.

        `now_s` is the time in the clock of the frames; without it the hold starts with the next
        frame. `kind` is the kind of the verdict.
        """
        self._good_in_a_row = 0
        if now_s is None:
            self._held_from_s = None
        else:
            self._tick(now_s, is_bad=True)
        self._last = Verdict(False, (reason,), math.inf, kind, self._promise)
        return self._last

    def _tick(self, now_s: float, is_bad: bool) -> None:
        if not math.isfinite(now_s):
            self._held_from_s = None
            return
        if now_s < self._now_s:
            # A hold from this earlier time would end too soon; it starts with the next frame.
            self._held_from_s = None
        elif is_bad or self._held_from_s is None:
            self._held_from_s = now_s
        self._now_s = now_s

    def _hold_left_s(self) -> float:
        if self._held_from_s is None:
            return self._settings.hold_s
        return self._held_from_s + self._settings.hold_s - self._now_s

    def _judge(self, over: list[str], worst: float, lasts: bool) -> Verdict:
        # Only a bad frame makes it fall, so bad frames from before the rise may stay counted.
        falls = bool(over) and (lasts or sum(self._bad_frames) >= self._settings.fall_frames)
        if self._last.is_confident and not falls:
            return Verdict(True, tuple(over) or WITHIN, worst, 'confident')
        if over:
            return Verdict(False, tuple(over), worst, 'uncertain')
        waits = self._waits_for()
        if waits:
            return Verdict(False, (waits,), worst, 'recovering')
        return Verdict(True, WITHIN, worst, 'confident')

    def _waits_for(self) -> str:
        rise_frames = self._settings.rise_frames
        if self._good_in_a_row < rise_frames:
            return f'{self._good_in_a_row} of {rise_frames} good frames'
        left_s = self._hold_left_s()
        return f'held false for another {left_s:.2g} s' if left_s > 0 else ''
