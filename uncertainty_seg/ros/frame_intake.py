# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Lets new frames into the slot of their camera, and no frame twice.

A driver that sends its last image again and again, with the stamp it had, is a camera that has
stopped: to judge that image once more would keep the flag up for ever. What is new is told by the
stamp alone; pixels are not compared, for a still camera before a still scene gives the same ones.
A stamp that goes back is new, since a bag that starts again does that.

"""

from __future__ import annotations

import logging

from uncertainty_seg.ros.conversions import AnyImage, stamp_ns
from uncertainty_seg.ros.frame_scheduler import Slot

_log = logging.getLogger(__name__)


class FrameIntake:
    """
    Pass on each message whose stamp is not that of the one before.

    Parameters
    ----------
    slot : Slot
        Gets the new frames.

    """

    def __init__(self, slot: Slot[AnyImage]) -> None:
        self._slot = slot
        self._stamp_ns: int | None = None
        self._is_unstamped_said = False
        self.num_repeated = 0
        self.is_repeating = False

    def __call__(self, msg: AnyImage) -> None:
        """Take a message; returns at once."""
        now_ns = stamp_ns(msg.header)
        if now_ns == 0:
            self._say_unstamped()
        self.is_repeating = now_ns == self._stamp_ns and now_ns != 0
        self._stamp_ns = now_ns
        if self.is_repeating:
            self.num_repeated += 1
        else:
            self._slot.put(msg)

    def clear_counts(self) -> None:
        """Count from nothing."""
        self.num_repeated = 0

    def _say_unstamped(self) -> None:
        if not self._is_unstamped_said:
            self._is_unstamped_said = True
            _log.warning('images come with the stamp 0: every one counts as new, and a camera '
                         'that repeats its last image is not noticed')
