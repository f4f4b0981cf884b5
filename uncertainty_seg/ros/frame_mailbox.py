# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A slot for the newest frame between the callback that stores and the worker that takes.

A network slower than the camera must not work through a queue of old frames: what waits is
replaced by what comes, and counted. It knows nothing of messages or ROS.

"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar('T')


class Mailbox(Generic[T]):
    """Hold at most one item; the newest wins."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._is_closed = False
        self._num_received = 0
        self._num_dropped = 0

    @property
    def num_received(self) -> int:
        """Items put so far."""
        return self._num_received

    @property
    def num_dropped(self) -> int:
        """Items that were replaced, or left behind at the end, before anybody took them."""
        return self._num_dropped

    def put(self, item: T) -> None:
        """Store an item in place of one that still waits; never blocks on the taker."""
        with self._changed:
            if self._is_closed:
                return
            self._num_received += 1
            self._num_dropped += self._item is not None
            self._item = item
            self._changed.notify()

    def take(self, timeout_s: float | None = None) -> T | None:
        """
        Wait for an item and remove it.

        Parameters
        ----------
        timeout_s : float or None
            How long to wait; None waits for an item or the end.

        Returns
        -------
        T or None
            The newest item; None after the time or once the mailbox is closed.

        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._item is not None, timeout_s)
            if self._is_closed:
                return None
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        """Wake whoever waits, and take nothing more; what waited counts as dropped."""
        with self._changed:
            self._is_closed = True
            self._num_dropped += self._item is not None
            self._item = None
            self._changed.notify_all()
