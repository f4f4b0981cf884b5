# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The thread that takes frames from the mailbox, so that callbacks never wait for the network.

What is done with a frame is its handler's; see `frame_processor`.

"""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Generic, TypeVar

from uncertainty_seg.ros.frame_mailbox import Mailbox

T = TypeVar('T')


class Worker(Generic[T]):
    """
    Handle one item after the other in an own thread.

    Parameters
    ----------
    mailbox : Mailbox
        Where the items come from; closed by `stop`.
    handle : callable
        Called with each item; it must not raise.

    """

    def __init__(self, mailbox: Mailbox[T], handle: Callable[[T], None]) -> None:
        self._mailbox = mailbox
        self._handle = handle
        # A daemon: an engine that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name='frame-worker', daemon=True)

    def start(self) -> None:
        """Begin to take items."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """
        Take no more items and wait for the one in work.

        Parameters
        ----------
        timeout_s : float
            How long to wait.

        Returns
        -------
        bool
            False if the handler did not come back in time.

        """
        self._mailbox.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._mailbox.take()) is not None:
            self._handle(item)
