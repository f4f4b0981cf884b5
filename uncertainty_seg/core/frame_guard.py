# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Detect frames that are unusable whatever the network returns: by stamp and by repeated pixels.

A flag for an image that is an hour old, or that a hung driver repeats for ever, is wrong however
good the image is. Stamps are compared with a clock and with each other. Pixels are compared part
by part, since a driver may give old pixels a new stamp, and a clock or counter may be drawn over
them. Noise added to a still image cannot be distinguished from sensor noise.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.settings import Settings

# Number of frames whose stamps and pixels are remembered. A driver that reuses a ring of buffers,
# or a bag in a loop, is detected up to this length.
MEMORY_FRAMES = 64
# If this many consecutive ages differ by at most this much, the cause is an offset of the clocks.
STEADY_FRAMES, STEADY_S = 10, 0.2
# Every fourth row is compared: sensor noise is in every row, so this is as reliable and faster.
ROW_STEP = 4
# Parts per side, and the share of all parts that must differ in a new picture: low enough for a
# hull or letterbox that never changes, high enough to detect a still image under a running clock.
PARTS, LEAST_NEW = 16, 0.2
# Half of this many latest images may be repeats, as from a camera with half the frame rate.
WINDOW_FRAMES = 10
_NO_CLOCK = ("the node's clock stands at 0: use_sim_time is true and nobody publishes /clock; "
             'play the bag with its clock')


UNPROVEN = ('the camera has shown one picture, and may be frozen: gate.rise_frames is 1, and the '
            'second tells')


class FrameGuard:
    """
    Check the frames of one camera, in the order in which they are judged.

    It uses the settings `max_age_s`, `max_skew_s`, `max_repeats` and `stamps`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stamps: deque[int] = deque(maxlen=MEMORY_FRAMES)
        self._pictures = _Pictures()
        self._last_ns: int | None = None
        self._ages_s: deque[float] = deque(maxlen=STEADY_FRAMES)
        self._num_in_row = 0.0
        self._repeats: deque[bool] = deque(maxlen=WINDOW_FRAMES)

    def stamp_fault(self, stamp_ns: int, now_ns: int) -> str:
        """
        Return why the stamp of a frame makes it unusable, in words; empty if it does not.

        Call it once per frame. `stamp_ns` is the frame's stamp, `now_ns` the time of the clock
        that it is compared with.
        """
        before_ns, self._last_ns = self._last_ns, stamp_ns
        is_known = stamp_ns in self._stamps
        if not is_known:
            self._stamps.append(stamp_ns)
        self._ages_s.append((now_ns - stamp_ns) / 1e9)
        is_of_receipt = self._settings.stamps == 'receipt'
        if now_ns == 0 and (is_of_receipt or self._settings.max_age_s):
            return _NO_CLOCK
        if stamp_ns <= 0:
            return (f'the stamp of the image is {stamp_ns / 1e9:g}, expected the time of its '
                    'capture; if the driver sends none, set stamps to receipt')
        if is_known and is_of_receipt:
            return (f"the node's clock stood at {stamp_ns / 1e9:.3f} for two images, expected a "
                    'later time with each: /clock is published too rarely or has stopped')
        if is_known:
            return (f'the stamp {stamp_ns / 1e9:.3f} occurred before, expected a new one with '
                    'each image: the driver repeats images, a short bag runs in a loop, or there '
                    'are two publishers')
        if found := self.age_fault(stamp_ns, now_ns):
            return found
        if before_ns is not None and stamp_ns < before_ns:
            return (f'the stamp went back by {(before_ns - stamp_ns) / 1e9:.3f} s, expected a '
                    'later one: a clock was set, a bag started again, or there are two publishers')
        return ''

    def age_fault(self, stamp_ns: int, now_ns: int) -> str:
        """Return why a stamp is too old or too new at `now_ns`, in words; empty if it is not."""
        age_s, settings = (now_ns - stamp_ns) / 1e9, self._settings
        if not settings.max_age_s or -settings.max_skew_s <= age_s <= settings.max_age_s:
            return ''
        found = (f'the image is {age_s:.1f} s old, at most {settings.max_age_s:g} s is allowed '
                 '(max_age_s)' if age_s > 0 else
                 f'the image is stamped {-age_s:.1f} s in the future, at most '
                 f'{settings.max_skew_s:g} s is allowed (max_skew_s)')
        return f'{found}; {self._advice(age_s)}'

    def _advice(self, age_s: float) -> str:
        ages, settings = self._ages_s, self._settings
        if ages and -settings.max_skew_s <= ages[-1] <= settings.max_age_s:
            return (f'it was {ages[-1]:.1f} s old on arrival, and processing took the rest: take '
                    'a smaller model or fewer passes, or raise max_age_s')
        if len(ages) < STEADY_FRAMES or max(ages) - min(ages) > STEADY_S:
            return 'check what delays the images, or whether a clock was set'
        late = ', or every image is delayed by as much' if age_s > 0 else ''
        return (f'the last {STEADY_FRAMES} images were as far off: the clocks of camera and node '
                f'differ{late}; synchronise them, set stamps to receipt, or play a bag with its '
                'clock and use_sim_time')

    @property
    def is_unproven(self) -> bool:
        """Return whether repeats are checked and the camera has not shown two pictures yet."""
        return self._settings.max_repeats >= 0 and len(self._pictures) < 2

    def pixel_fault(self, image: ImageU8, ignore: NDArray[np.bool_] | None = None) -> str:
        """
        Return how the camera is frozen, in words; empty if it is not. Call it once per frame.

        Every fourth row of `image`, uint8 (H, W, 3), is compared. An image repeats an earlier one
        if less than `LEAST_NEW` of its parts differ. A camera that views a still scene is not
        frozen, as its noise changes every image; a rendered still scene is. Parts with a pixel of
        `ignore`, bool (h, w) of any size, are not compared: a clock drawn there may go on while
        the rest stands still.
        """
        if self._settings.max_repeats < 0:
            return ''
        age = self._pictures.add(image, _free_parts(ignore))
        self._repeats.append(age is not None)
        if age is None:
            self._num_in_row = 0
            return ''
        # A live camera never shows a picture older than its last one again.
        self._num_in_row += 1 if age == 0 else math.inf
        # A camera that has never shown two different pictures may have been frozen all along.
        most = self._settings.max_repeats if len(self._pictures) > 1 else 0
        if self._num_in_row == math.inf:
            found = 'shows older pictures again, expected new ones'
        elif self._num_in_row > most:
            found = (f'repeats its last picture, at most {most} times are allowed (max_repeats, '
                     'or 0 until there were two different ones)')
        elif sum(self._repeats) > max(most, WINDOW_FRAMES // 2):
            found = (f'repeats pictures in more than half of the last {WINDOW_FRAMES} images, '
                     'expected fewer')
        else:
            return ''
        return f'the camera is frozen: it {found}; restart the camera or its driver'


class _Pictures:
    """The latest different pictures, newest last, each as one checksum per part."""

    def __init__(self) -> None:
        self._sums = np.zeros((0, PARTS * PARTS), np.uint64)

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, image: ImageU8, parts: NDArray[np.bool_] | slice) -> int | None:
        """
        Add a picture as the newest; return how many newer ones there were, None if it is new.

        Only `parts` are compared.
        """
        sums = _part_sums(image)
        is_same = (self._sums == sums)[:, parts]
        known = np.flatnonzero(is_same.mean(1) > 1 - LEAST_NEW)[-1:]
        age = len(self._sums) - 1 - int(known[0]) if known.size else None
        kept = np.delete(self._sums, known, 0)[1 - MEMORY_FRAMES:]
        self._sums = np.concatenate([kept, sums[None]])
        return age


def _part_sums(image: ImageU8) -> NDArray[np.uint64]:
    """Return a checksum of each part of an image; any changed bit and any shift changes it."""
    rows = image[::ROW_STEP].reshape(-(-len(image) // ROW_STEP), -1)
    if rest := rows.shape[1] % 8:
        rows = np.pad(rows, ((0, 0), (0, 8 - rest)))
    words = rows.view(np.uint64)
    words = np.add.reduceat(words * _factors(words.shape[1]), _edges(words.shape[1]), 1)
    return np.add.reduceat(words * _factors(len(words))[:, None], _edges(len(words)), 0).ravel()


def _free_parts(ignore: NDArray[np.bool_] | None) -> NDArray[np.bool_] | slice:
    """Return which parts of an image have no pixel of a mask; all parts if every one has."""
    if ignore is None or min(ignore.shape) < PARTS:
        return slice(None)
    marked = np.logical_or.reduceat(ignore, _edges(ignore.shape[1]), 1)
    free = ~np.logical_or.reduceat(marked, _edges(ignore.shape[0]), 0).ravel()
    return free if free.any() else slice(None)


def _edges(length: int) -> NDArray[np.intp]:
    return np.arange(PARTS) * length // PARTS


@lru_cache(16)
def _factors(length: int) -> NDArray[np.uint64]:
    """Return odd factors: multiplication by one maps different words to different products."""
    return np.random.default_rng(length).integers(0, 2**63, length, np.uint64) * 2 + 1
