# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The thread that takes frames from the scheduler, so that callbacks never wait for the network.

There is one for all cameras, since there is one network. What is done with a frame is its
handler's; see `frame_processor`.

"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from uncertainty_seg.ros.frame_scheduler import FrameScheduler

T = TypeVar('T')


class Worker(Generic[T]):
    """
    Handle one frame after the other in an own thread.

    Parameters
    ----------
    scheduler : FrameScheduler
        Where the frames come from, and who handles each; closed by `stop`.

    """

    def __init__(self, scheduler: FrameScheduler[T]) -> None:
        self._scheduler = scheduler
        # A daemon: an engine that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name='frame-worker', daemon=True)

    def start(self) -> None:
        """Begin to take frames."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """
        Take no more frames and wait for the one in work.

        Parameters
        ----------
        timeout_s : float
            How long to wait.

        Returns
        -------
        bool
            False if the handler did not come back in time.

        """
        self._scheduler.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (turn := self._scheduler.take()) is not None:
            slot, item, waited_s = turn
            slot.handle(item, waited_s)
