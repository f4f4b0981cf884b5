# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Looks at the board without waiting for it.

A driver that hangs, as that of a GPU does when the GPU itself hangs, may not answer for long. The
thread that takes the flag down must not stand in that line.

"""

from __future__ import annotations

from collections.abc import Callable
import threading
import time

from uncertainty_seg.ros.board_state import BoardReader, BoardState

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

    def look(self) -> BoardState:
        """Return what was read last, and begin to read again; returns at once."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name='board-watch', daemon=True)
            self._thread.start()
        state, read_s = self._newest
        return state if self._clock() - read_s < TOO_OLD_S else SILENT

    def wait(self, timeout_s: float) -> None:
        """Wait until the reading that was begun has ended, for that long at most."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        if self._read is None:
            self._read = BoardReader().read
        self._newest = self._read(), self._clock()
