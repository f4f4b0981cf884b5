# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Scales velocity commands, and ends them when they stop coming. Is told the time; imports no ROS.

A driver may send a command once and rely on it for a while. If the factor falls meanwhile, the
command is given out anew, slower: the vehicle must not wait for the driver's next one.

"""

from __future__ import annotations

from collections.abc import Sequence
import math

Velocity = tuple[float, ...]


class CommandLimiter:
    """
    Turn commands into limited ones. Not thread-safe.

    Parameters
    ----------
    timeout_s : float
        A command is over after this long.

    Attributes
    ----------
    num_refused : int
        Commands that held NaN or infinity, for each of which zero was given out.

    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._command: Velocity | None = None
        self._taken_s = -math.inf
        self._factor = 1.0
        self.num_refused = 0

    def take(self, now_s: float, command: Sequence[float], factor: float) -> Velocity:
        """
        Limit a command that arrived.

        Parameters
        ----------
        now_s : float
            The time.
        command : sequence of float
            Velocities along and around the axes, m/s and rad/s.
        factor : float
            0 to 1.

        Returns
        -------
        tuple of float
            Each times the factor; all zero if one of them is not finite.

        """
        is_sound = all(math.isfinite(value) for value in command)
        self.num_refused += not is_sound
        self._command = tuple(command) if is_sound else (0.0,) * len(command)
        self._taken_s = now_s
        return self._scaled(self._command, factor)

    def tick(self, now_s: float, factor: float) -> Velocity | None:
        """
        Look whether the command in force is over or too fast by now.

        Parameters
        ----------
        now_s : float
            The time; if it went back the command is over.
        factor : float
            0 to 1.

        Returns
        -------
        tuple of float or None
            What to give out, zero once when it is over; None for nothing.

        """
        if self._command is None:
            return None
        if not 0 <= now_s - self._taken_s < self._timeout_s:
            return self.stop()
        # Only down: a faster one is the driver's to ask for.
        return self._scaled(self._command, factor) if factor < self._factor else None

    def stop(self) -> Velocity | None:
        """End the command in force: zero to give out, or None if there is none."""
        command, self._command = self._command, None
        return None if command is None else (0.0,) * len(command)

    def _scaled(self, command: Velocity, factor: float) -> Velocity:
        self._factor = factor
        return tuple(value * factor for value in command)
