# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How much speed the flag is worth: a state machine that is told the time. Imports no ROS.

The factor rises at one place only, the arrival of a `true`, and only for the time since the one
before; so nothing that merely goes by, no timer and no silence, can make the vehicle faster.
Everything else holds it or lets it fall. A flag is as old as the time since it was sent: a process
that was starved finds old ones in its queue, and takes them one after the other. After a cut many
come at once; therefore the flag must have kept coming for `settle_s`, counted from the first
arrival and at least the deadline: a burst is stale again before that time is over.

"""

from __future__ import annotations

from uncertainty_seg.ros.speed_settings import SpeedSettings

FULL = 1.0
STALE = 'the flag is stale'
_BAD_CLOCK = 'the clock stands still or went back'


class SpeedPolicy:
    """
    Turn flags and their absence into a speed factor.

    Times are seconds of one clock that goes on when the machine sleeps; where that clock is seen
    to stand still or go back, the factor falls. Starts slow. Not thread-safe.

    Parameters
    ----------
    settings : SpeedSettings
        How fast, how far, how long.
    now_s : float
        The time.

    Attributes
    ----------
    num_falls : int
        How often a run of flags that were true ended.

    """

    def __init__(self, settings: SpeedSettings, now_s: float) -> None:
        self._settings = settings
        self._now_s = now_s
        self._ticked_s: float | None = None
        self._factor = settings.slow_factor
        # Of the trues that came without a gap: arrival of the first, sending of the last.
        self._since_s: float | None = None
        self._true_s = now_s
        self._heard_s: float | None = None
        self._why = 'no flag yet'
        self.num_falls = 0

    @property
    def factor(self) -> float:
        """Return the share of the speed asked for that may be driven, `slow_factor` to 1."""
        return self._factor

    @property
    def state(self) -> str:
        """One of slow (no flag), settling (not yet), rising and full."""
        if self._since_s is None:
            return 'slow'
        if not self._is_settled():
            return 'settling'
        return 'full' if self._factor >= FULL else 'rising'

    @property
    def reason(self) -> str:
        """Why there is no flag to rely on, and since when; empty if there is one."""
        if not self._why or self._heard_s is None:
            return self._why
        silence_s = self._now_s - self._heard_s
        if silence_s < self._settings.deadline_s:
            return self._why
        return f'{self._why}, last heard {silence_s:.1f} s ago'

    def take_flag(self, now_s: float, is_confident: bool, age_s: float | None = None) -> float:
        """
        Take a flag that arrived.

        Parameters
        ----------
        now_s : float
            The time.
        is_confident : bool
            What it says.
        age_s : float or None
            How long ago it was sent, by the system clocks; NaN is stale. None if that is not
            known: it counts as sent now.

        Returns
        -------
        float
            The factor; only a `true` in time can have raised it.

        """
        self._advance(now_s)
        self._heard_s = now_s
        age_s = 0.0 if age_s is None else age_s
        if not is_confident:
            self._lose('the flag is false')
        elif not abs(age_s) < self._settings.deadline_s:
            self._lose(f'the flag was sent {age_s:.1f} s ago: held up, or the clocks differ')
        else:
            # One from the future, by clocks that differ a little, is not younger than now.
            self._rise(now_s - max(age_s, 0.0))
        return self._factor

    def lose_flag(self, now_s: float, reason: str) -> float:
        """Take note that the flag is not to be relied on; `STALE` says no more than the clock."""
        self._advance(now_s)
        self._lose(reason)
        return self._factor

    def factor_at(self, now_s: float) -> float:
        """Return the factor that holds now; a flag that is stale by now has made it fall."""
        self._advance(now_s)
        return self._factor

    def tick(self, now_s: float) -> float:
        """Do the same at every tick of a timer, between which the clock must have moved."""
        self._advance(now_s)
        if self._ticked_s is not None and now_s <= self._ticked_s:
            self._lose(_BAD_CLOCK)
            self._factor = self._settings.slow_factor
        self._ticked_s = now_s
        return self._factor

    def _rise(self, sent_s: float) -> None:
        if self._since_s is None:
            self._since_s, self._true_s = self._now_s, sent_s
        start_s = max(self._true_s, self._since_s + self._settings.settle_s)
        risen = self._settings.rise_per_s * max(sent_s - start_s, 0.0)
        self._factor = min(self._factor + risen, FULL)
        self._true_s = max(self._true_s, sent_s)
        self._why = ''

    def _lose(self, reason: str) -> None:
        self.num_falls += self._since_s is not None
        # Silence is no news of a flag that is lost already.
        if reason != STALE or self._since_s is not None:
            self._why = reason
        self._since_s = None
        if not self._settings.fall_per_s:
            self._factor = self._settings.slow_factor

    def _advance(self, now_s: float) -> None:
        passed_s = now_s - self._now_s
        self._now_s = now_s
        if passed_s < 0:
            self._lose(_BAD_CLOCK)
            self._factor = self._settings.slow_factor
            return
        silence_s = now_s - self._true_s
        if self._since_s is not None and silence_s >= self._settings.deadline_s:
            self._lose(STALE)
            passed_s = silence_s - self._settings.deadline_s
        # Once it falls it falls on, until the flag has settled again.
        if not self._is_settled():
            fallen = self._factor - self._settings.fall_per_s * passed_s
            self._factor = max(fallen, self._settings.slow_factor)

    def _is_settled(self) -> bool:
        if self._since_s is None:
            return False
        return self._now_s - self._since_s >= self._settings.settle_s
