# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A camera whose frames are good or faulty by construction, from a seed.

Each frame records whether its flag may be true. That follows from how the frame was made, and from
the documented rules on stamps and repeated pixels, without code of the package. The green value in
the middle of the image commands faults of the network, which `soak_backend` executes.
"""

import array
from collections import deque
from dataclasses import dataclass, replace
import random
from typing import Any

import numpy as np
from soak_backend import COMMANDS

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.image_codec import RawImage

HEIGHT, WIDTH = 48, 64  # of the tiny network
MAX_AGE_S, MAX_SKEW_S, MAX_REPEATS = 1.0, 0.5, 2  # the node's defaults
SIZES = ((96, 128), (24, 32), (60, 80), (48, 64), (144, 192))
STAMP_FAULTS = ('hour_old', 'too_old', 'day_ahead', 'too_far_ahead', 'back', 'zero', 'negative',
                'repeated', 'alternating')
PIXEL_FAULTS = ('frozen', 'ring')
IMAGE_FAULTS = ('unknown_encoding', 'short_step', 'short_data', 'no_pixels', 'huge', 'nan_pixels')
CONTENT_FAULTS = ('grey', 'quarter_black', 'half_grey')
FINE = ('good', 'other_size', 'slow')
NETWORK_FAULTS = tuple(name for name in COMMANDS if name not in FINE)
FAULTS = (*STAMP_FAULTS, *PIXEL_FAULTS, *IMAGE_FAULTS, *CONTENT_FAULTS, *NETWORK_FAULTS)
# Numbers of frames of faults that need several; the first frame of an offset also goes back.
_LENGTHS = {**dict.fromkeys(('hour_old', 'too_old', 'day_ahead', 'too_far_ahead'), (6, 9)),
            'alternating': (4, 9), 'frozen': (4, 9), 'ring': (6, 12), 'hang': (1, 1),
            'slow': (1, 1), 'other_size': (2, 6)}
_MEMORY = 60  # stamps that may be repeated; far fewer than the node remembers


@dataclass(frozen=True)
class Shot:
    """A frame, its kind of fault, and whether its flag may be true."""

    image: RawImage
    stamp_ns: int
    kind: str
    is_good: bool


class FaultyCamera:
    """A source of frames; equal seeds and times give equal frames."""

    def __init__(self, seed: int) -> None:
        self._random, self._noise = random.Random(seed), np.random.default_rng(seed)
        self._plan: deque[str] = deque()
        self._stamps: deque[int] = deque(maxlen=_MEMORY)  # the last sent stamps
        self._before_ns = 0
        self._images: deque[ImageU8] = deque(maxlen=3)  # images that may be sent again
        self._num_repeats = 0
        self._last: ImageU8 | None = None

    def draw(self, now_ns: int, is_storm: bool) -> Shot:
        """Return the frame for a time: the planned one, a random one in a storm, or a good one."""
        if not self._plan and not is_storm:
            return self.shoot('good', now_ns)
        if not self._plan:
            self._plan.extend(['good'] * self._random.randint(0, 9))
            self.plan(self._random.choice((*FAULTS, 'other_size', 'slow')))
        return self.shoot(self._plan.popleft(), now_ns)

    def plan(self, kind: str) -> None:
        """Plan the next frames to be of a kind, as many as the kind needs."""
        self._plan.extend([kind] * self._random.randint(*_LENGTHS.get(kind, (1, 4))))

    def shoot(self, kind: str, now_ns: int) -> Shot:
        """Return a frame of a kind; whether it is good also depends on earlier frames."""
        pixels = self._pixels(kind)
        image, is_readable = self._image(kind, pixels)
        stamp_ns = self._stamp(kind, now_ns)
        is_good = kind not in (*IMAGE_FAULTS, *CONTENT_FAULTS, *NETWORK_FAULTS)
        if not self._is_stamp_good(stamp_ns, now_ns):
            is_good = False
            if kind in FINE:  # as after a frame from the future, or for two frames at once
                kind = 'back'
        if is_readable and not self._are_pixels_new(pixels, kind):
            is_good = False
        return Shot(image, stamp_ns, kind, is_good)

    # --- pixels ------------------------------------------------------------------------------

    def _pixels(self, kind: str) -> ImageU8:
        if kind in PIXEL_FAULTS and self._images:
            at = -1 if kind == 'frozen' else self._num_repeats % len(self._images)
            return self._images[at]
        height, width = self._random.choice(SIZES) if kind == 'other_size' else (HEIGHT, WIDTH)
        # Red, of which the tiny network is certain, with sensor noise.
        pixels = self._noise.integers(0, 9, (height, width, 3), np.uint8)
        pixels[..., 2] += 247
        middle = np.s_[height * 3 // 8:height * 5 // 8, width * 3 // 8:width * 5 // 8]
        pixels[(*middle, 1)] = COMMANDS.get(kind, 0)
        if kind == 'grey':
            pixels[:] = self._noise.integers(120, 130, pixels.shape, np.uint8)
            pixels[(*middle, 1)] = 99
        elif kind == 'quarter_black':
            pixels[height * 3 // 4:] = 0
        elif kind == 'half_grey':
            pixels[::2] = 128
            pixels[(*middle, 1)] = 0
        return pixels

    def _image(self, kind: str, pixels: ImageU8) -> tuple[RawImage, bool]:
        height, width = pixels.shape[:2]
        image = RawImage(pixels.tobytes(), height, width, 'bgr8', 3 * width)
        if kind == 'nan_pixels':
            values = pixels[..., 2].astype(np.float32) / 255
            values[self._random.randrange(height), self._random.randrange(width)] = np.nan
            image = RawImage(values.tobytes(), height, width, '32FC1', 4 * width)
        changes = {
            'unknown_encoding': {'encoding': self._random.choice(('', 'BGR8', 'rgb', 'jpeg'))},
            'short_step': {'step': self._random.randrange(3 * width)},
            'short_data': {'data': image.data[:self._random.randrange(len(image.data))]},
            'no_pixels': {self._random.choice(('height', 'width')): 0},
            'huge': {'height': 2**31, 'width': 2**20, 'step': 3 * 2**20},
        }.get(kind)
        if changes is not None:
            image = replace(image, **changes)
        return image, kind not in IMAGE_FAULTS

    def _are_pixels_new(self, pixels: ImageU8, kind: str) -> bool:
        is_known = any(pixels is one for one in self._images)
        # An image older than the last one exceeds the allowed repeats at once.
        step = 1 if pixels is self._last else MAX_REPEATS + 2
        self._num_repeats, self._last = self._num_repeats + step if is_known else 0, pixels
        if kind == 'good':  # has no command
            self._images.append(pixels)
        return self._num_repeats <= MAX_REPEATS

    # --- stamps ------------------------------------------------------------------------------

    def _stamp(self, kind: str, now_ns: int) -> int:
        def ago(low_s: float, high_s: float) -> int:
            return now_ns - int(self._random.uniform(low_s, high_s) * 1e9)

        if kind == 'repeated' and self._stamps:
            return self._random.choice(self._stamps)
        if kind == 'alternating' and len(self._stamps) >= 2:
            return self._stamps[-2]  # A, B, A, B
        if kind == 'back':
            return self._before_ns - self._random.randrange(1, 10**8)
        return {
            'hour_old': lambda: ago(3600, 3600.02),
            'too_old': lambda: ago(MAX_AGE_S + 0.01, MAX_AGE_S + 0.03),
            'day_ahead': lambda: ago(-86400.02, -86400),
            'too_far_ahead': lambda: ago(-MAX_SKEW_S - 0.43, -MAX_SKEW_S - 0.41),
            'zero': lambda: 0,
            'negative': lambda: -self._random.randrange(1, 2**31) * 10**9,
        }.get(kind, lambda: ago(0.0, 0.02))()

    def _is_stamp_good(self, stamp_ns: int, now_ns: int) -> bool:
        before_ns, self._before_ns = self._before_ns, stamp_ns
        is_new = stamp_ns not in self._stamps
        self._stamps.append(stamp_ns)
        age_s = (now_ns - stamp_ns) / 1e9
        return is_new and stamp_ns > 0 and stamp_ns >= before_ns and (
            -MAX_SKEW_S <= age_s <= MAX_AGE_S)


def message(shot: Shot, name: str) -> Any:
    """Return a frame as a message with its name in the header."""
    from builtin_interfaces.msg import Time
    from sensor_msgs.msg import Image

    image = shot.image
    msg = Image(height=image.height, width=image.width, encoding=image.encoding, step=image.step)
    msg.header.stamp = Time(sec=shot.stamp_ns // 10**9, nanosec=shot.stamp_ns % 10**9)
    msg.header.frame_id = name
    msg.data = array.array('B', bytes(image.data))
    return msg
