# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The speed factor: a state machine that turns the flag into a share of the speed. Imports no ROS.

It reads no clock: each call passes the time. The factor rises in one place only, when a true flag
arrives, and only in proportion to the time since the previous true flag. No timer and no silence
can therefore make the vehicle faster; every other event holds the factor or lowers it.

The age of a flag is the time since it was sent, because a process that got no processor time finds
old flags in its queue. After a network cut many flags arrive at once: the flag must have been true
for `settle_s`, at least the deadline, so a burst of old flags is stale before the factor may rise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
import math

from uncertainty_seg.core.settings import from_dict, parameter
from uncertainty_seg.errors import ConfigError

# The settings. The node's parameters and docs/reference/parameters.md are made from them.


@dataclass(frozen=True)
class SpeedSettings:
    """The settings of the speed governor."""

    slow_factor: float = parameter(
        0.2, 'Speed factor while no reliable flag arrives; 0 stops the vehicle.',
        lower=0.0, upper=1.0,
    )
    deadline_s: float = parameter(
        1.0, 'A flag is stale if it was sent longer ago than this. Also the QoS deadline '
        'requested from its publisher, so set it to at least the stale_timeout_s of that node.',
        unit='s', lower=0.05, upper=3600.0,
    )
    settle_s: float = parameter(
        2.0, 'Time for which true must keep arriving before the factor rises; at least '
        'deadline_s, so that a burst of old messages cannot raise it.',
        unit='s', lower=0.05, upper=3600.0,
    )
    rise_per_s: float = parameter(
        0.1, 'Rate at which the factor rises after that.', unit='1/s', lower=0.001, upper=100.0,
    )
    compare_clocks: bool = parameter(
        True, 'true: the age of a flag or a command counts from its send time, by the system '
        'clocks of both machines; false: from its arrival, for clocks that are not synchronised.',
    )
    command_timeout_s: float = parameter(
        0.5, 'A command is valid for this long after it was sent. If none follows, one zero '
        'command is published, and nothing until the next command. A command that is older on '
        'arrival becomes zero.', unit='s', lower=0.05, upper=3600.0,
    )
    stamped: bool = parameter(
        False, 'Use geometry_msgs/TwistStamped for both commands, as Nav2 does from Kilted on.',
    )

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.settle_s < self.deadline_s:
            raise ConfigError(
                f'settle_s is {self.settle_s:g}', f'at least deadline_s, {self.deadline_s:g}',
                'with less, an old flag could raise the speed after an interruption',
            )

    @property
    def period_s(self) -> float:
        """Return the period of the factor, s: at most 0.1, and at most half the deadline."""
        return min(0.1, self.deadline_s / 2)


def speed_settings_from_dict(values: Mapping[str, object]) -> SpeedSettings:
    """Build checked settings from names; see `core.settings.from_dict`."""
    return from_dict(SpeedSettings, values)


# A driver may send a command once and rely on it for a while. If the factor falls meanwhile, the
# command is republished, scaled down: the vehicle must not wait for the driver's next command.
# The age of a command is the time since it was sent: a process that was stopped, or a network that
# was cut, may deliver a command that the driver gave up long ago.

Velocity = tuple[float, ...]


class CommandLimiter:
    """
    Scale velocity commands, each valid for `timeout_s`, by the speed factor. Not thread-safe.

    A command with NaN or infinity counts as refused, one that is too old on arrival as late;
    `reason` is why zero was published for the last command, empty if it was passed on.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._command: Velocity | None = None
        self._taken_s = -math.inf
        self._factor = 1.0
        self.num_refused = self.num_late = 0
        self.reason = ''

    def take(
        self, now_s: float, command: Sequence[float], factor: float, age_s: float | None = None
    ) -> Velocity:
        """
        Return a command, in m/s and rad/s, times the factor, 0 to 1.

        All velocities are zero if one is not finite, or if the command was sent at least the
        timeout ago by the system clocks, or as far in the future. A NaN age is too old; with an
        age of None (unknown) the command counts as sent now.
        """
        age_s = 0.0 if age_s is None else age_s
        self.reason = ''
        if not all(math.isfinite(value) for value in command):
            self.num_refused += 1
            self.reason = 'is not finite'
        elif not abs(age_s) < self._timeout_s:
            self.num_late += 1
            self.reason = (f'was sent {age_s:.1f} s ago, expected less than {self._timeout_s:g} '
                           's: delayed, or the clocks differ (compare_clocks)')
        self._command = (0.0,) * len(command) if self.reason else tuple(command)
        # The timeout counts from the sending; a command from the future counts as sent now.
        self._taken_s = now_s if self.reason else now_s - max(age_s, 0.0)
        return self._scaled(self._command, factor)

    def tick(self, now_s: float, factor: float) -> Velocity | None:
        """
        Return what to publish now, None for nothing: the command in force if it must be slower.

        After the timeout, or if the time went back, this is zero, once.
        """
        if self._command is None:
            return None
        if not 0 <= now_s - self._taken_s < self._timeout_s:
            return self.stop()
        # Only slower: a faster command must come from the driver.
        return self._scaled(self._command, factor) if factor < self._factor else None

    def stop(self) -> Velocity | None:
        """End the command in force; return zero to publish, or None if there was no command."""
        command, self._command = self._command, None
        return None if command is None else (0.0,) * len(command)

    def _scaled(self, command: Velocity, factor: float) -> Velocity:
        self._factor = factor
        return tuple(value * factor for value in command)


# rclpy does not tell who sent a message. While the graph shows more than one publisher, the flag
# counts as false; a killed publisher stays in the graph for a while (20 s with Fast DDS).
# When one of two leaves, the other may be the restarted node or a second publisher. Each numbers
# its messages. If a restarted node takes over, the numbers change once, after the dead node has
# fallen silent. If the first node's numbers continue, or go back once more, both publish: after
# the second has left, the first is relied on; the second is never relied on.


class PublisherWatch:
    """
    Watch which publishers the flag has. Not thread-safe.

    A publisher that was alone for `deadline_s` is relied on when another one appears. A flag that
    arrived this long ago no longer shows that its publisher is alive.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._present: frozenset[bytes] = frozenset()
        self._known: set[bytes] = set()
        self._barred: set[bytes] = set()
        self._alone: bytes | None = None
        self._alone_since_s = self._heard_s = -math.inf
        self._number: int | None = None
        # When a second publisher appeared: the one relied on, and whether it was alive; since
        # then: how often the numbers changed.
        self._first: bytes | None = None
        self._was_alive = False
        self._num_changes = 0

    def look(self, now_s: float, present: Collection[bytes]) -> str:
        """
        Check the publishers in the graph before each flag, by identifiers that are never reused.

        Returns why no flag can be relied on; empty if there is at most one publisher, and that one
        did not publish beside another one.
        """
        self._present = frozenset(present)
        if self._present - self._known and len(self._present) > 1:
            was_alone = now_s - self._alone_since_s >= self._deadline_s
            self._first = self._alone if was_alone else None
            self._was_alive = now_s - self._heard_s < self._deadline_s
            self._num_changes = 0
        self._known |= self._present
        if len(self._present) > 1:
            return (f'{len(self._present)} publishers of the flag, expected one: the flags cannot '
                    'be distinguished; stop all but one, or give each its own governor')
        for only in self._present - {self._alone}:
            self._alone, self._alone_since_s = only, now_s
        if self._present & self._barred:
            return ('the flag comes from a publisher that was active beside another one and is '
                    'not trusted; restart the node that should publish it')
        return ''

    def hear(self, now_s: float, number: int | None) -> None:
        """Record the arrival of a flag and its sequence number, None if unknown."""
        before, self._number = self._number, number
        self._heard_s = now_s
        if len(self._present) > 1 and self._is_of_two(before, number):
            self._barred |= self._present - {self._first}

    def _is_of_two(self, before: int | None, number: int | None) -> bool:
        if number is None:
            return self._was_alive
        if before is None:
            return False
        # After the first change only a step back counts: lost messages cause steps forward.
        self._num_changes += number <= before or not self._num_changes and number != before + 1
        return self._num_changes > 1 or not self._num_changes and self._was_alive


FULL = 1.0
STALE = 'the flag is stale'
_BAD_CLOCK = 'the clock stands still or went back'


class SpeedPolicy:
    """
    Turn the flag, or its absence, into a speed factor.

    Times are seconds of one clock that also runs while the machine sleeps. If that clock stands
    still or goes back, the factor falls. The factor starts slow; `num_falls` counts the series of
    true flags that ended. Not thread-safe.
    """

    def __init__(self, settings: SpeedSettings, now_s: float) -> None:
        self._settings = settings
        self._now_s = now_s
        self._ticked_s: float | None = None
        self.factor = settings.slow_factor
        # Of the current series of true flags: arrival of the first, send time of the last.
        self._since_s: float | None = None
        self._true_s = now_s
        self._heard_s: float | None = None
        self._why = 'no flag yet'
        self.num_falls = 0

    @property
    def state(self) -> str:
        """Return slow (no true flag), settling (true for less than settle_s), rising or full."""
        if self._since_s is None:
            return 'slow'
        if self._now_s - self._since_s < self._settings.settle_s:
            return 'settling'
        return 'full' if self.factor >= FULL else 'rising'

    @property
    def reason(self) -> str:
        """Return why the flag cannot be relied on, and since when; empty if it can."""
        if not self._why or self._heard_s is None:
            return self._why
        silence_s = self._now_s - self._heard_s
        if silence_s < self._settings.deadline_s:
            return self._why
        return f'{self._why}, last heard {silence_s:.1f} s ago'

    def take_flag(self, now_s: float, is_confident: bool, age_s: float | None = None) -> float:
        """
        Handle a flag that arrived; only a true one that is not stale can raise the factor.

        `age_s` is the time since it was sent, by the system clocks; NaN is stale. With None
        (unknown) the flag counts as sent now.
        """
        self.factor_at(now_s)
        self._heard_s = now_s
        age_s = 0.0 if age_s is None else age_s
        if not is_confident:
            self._lose('the flag is false')
        elif not abs(age_s) < self._settings.deadline_s:
            self._lose(f'the flag was sent {age_s:.1f} s ago: delayed, or the clocks differ')
        else:
            # The clocks may differ a little: a flag from the future counts as sent now.
            self._rise(now_s - max(age_s, 0.0))
        return self.factor

    def lose_flag(self, now_s: float, reason: str) -> float:
        """Handle the loss of the flag; the reason `STALE` does not replace an earlier reason."""
        self.factor_at(now_s)
        self._lose(reason)
        return self.factor

    def factor_at(self, now_s: float) -> float:
        """Return the factor at this time; it has fallen if the flag has become stale."""
        before_s, self._now_s = self._now_s, now_s
        if now_s < before_s:
            self._lose(_BAD_CLOCK)
        elif self._since_s is not None and now_s - self._true_s >= self._settings.deadline_s:
            self._lose(STALE)
        return self.factor

    def tick(self, now_s: float) -> float:
        """Return the factor at a tick of a timer; the clock must have moved since the last."""
        self.factor_at(now_s)
        if self._ticked_s is not None and now_s <= self._ticked_s:
            self._lose(_BAD_CLOCK)
        self._ticked_s = now_s
        return self.factor

    def _rise(self, sent_s: float) -> None:
        if self._since_s is None:
            self._since_s, self._true_s = self._now_s, sent_s
        start_s = max(self._true_s, self._since_s + self._settings.settle_s)
        risen = self._settings.rise_per_s * max(sent_s - start_s, 0.0)
        self.factor = min(self.factor + risen, FULL)
        self._true_s = max(self._true_s, sent_s)
        self._why = ''

    def _lose(self, reason: str) -> None:
        self.num_falls += self._since_s is not None
        # A flag that was lost already keeps its reason when it also becomes stale.
        if reason != STALE or self._since_s is not None:
            self._why = reason
        self._since_s = None
        self.factor = self._settings.slow_factor
