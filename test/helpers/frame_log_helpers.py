# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Frames for the frame log; a frame's number determines its content."""

from collections.abc import Callable, Mapping
from pathlib import Path
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.image_codec import ImageFile
from uncertainty_seg.core.settings import from_dict, LogSettings, MEGABYTE
from uncertainty_seg.storage.frame_log.format import iter_frames, LogAbout, LogFrame, LoggedFrame

HEIGHT, WIDTH, CLASSES = 36, 48, 4
START_NS = 1_000_000_000
ABOUT = LogAbout('dive 7', 'tiny', 'ab' * 32, ('sea', 'pipe', 'fish', 'silt'),
                 ((0, 0, 255), (255, 255, 0), (0, 255, 0), (90, 80, 70)), 8, seed=5,
                 parameters={'passes': 8, 'gate.scores': ('mean',)})
# Disk blocks of a frame: folder (1), image (2), mask (1), map (1) and sidecar (1).
FRAME_BYTES = 6 * 4096
PLAIN: dict[str, object] = {'control_share': 0.0, 'free_disk_mb': 0.0, 'min_interval_s': 0.0,
                            'duplicate_bits': 0, 'before_s': 0.0, 'after_s': 0.0}


def settings(**changes: object) -> LogSettings:
    """Return settings that keep every flagged frame and no other, changed by `changes`."""
    return from_dict(LogSettings, {**PLAIN, **changes})


def room_for(num_frames: int, **changes: object) -> LogSettings:
    """Return settings whose quota holds at most `num_frames` frames of `log_frame`."""
    return settings(quota_mb=(num_frames + 0.5) * FRAME_BYTES / MEGABYTE, **changes)


def verdict(ratio: float) -> Verdict:
    is_confident = ratio <= 1
    return Verdict(is_confident, (f'mean {ratio:g} over 1',), ratio,
                   'confident' if is_confident else 'uncertain')


def image_of(number: int) -> NDArray[np.uint8]:
    """Draw noise that is unique to this number."""
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def mask_of(number: int) -> NDArray[np.uint8]:
    return np.full((HEIGHT, WIDTH), number % CLASSES, np.uint8)


def map_of(number: int) -> NDArray[np.float32]:
    """Return a ramp from 0 to 1 over the columns with one NaN in the top row."""
    values = np.tile(np.linspace(0, 1, WIDTH, dtype=np.float32), (HEIGHT, 1))
    values[0, number % WIDTH] = np.nan
    return values


def log_frame(
    number: int, ratio: float = 2.0, *, rate_hz: float = 10.0, camera: str = '',
    jpeg: bool = False, mask: Callable[[], NDArray[np.uint8]] | None = None, **changes: Any
) -> LogFrame:
    image: ImageFile | NDArray[np.uint8] = image_of(number)
    if jpeg:
        image = ImageFile(bytes(cv2.imencode('.jpg', image)[1]), 'jpeg')
    facts: Mapping[str, Any] = {
        'stamp_ns': START_NS + round(number * 1e9 / rate_hz), 'camera': camera,
        'ros_frame': 'optical', 'image': image, 'encoding': 'jpeg' if jpeg else 'bgr8',
        'verdict': verdict(ratio), 'scores': {'mean': ratio, 'top': float('nan')},
        'thresholds': {'mean': 1.0}, 'mask': mask or (lambda: mask_of(number)),
        'uncertainty': lambda: map_of(number), **changes}
    return LogFrame(**facts)


def number_of(stamp_ns: int, rate_hz: float = 10.0) -> int:
    return round((stamp_ns - START_NS) / 1e9 * rate_hz)


def numbers(folder: Path) -> list[int]:
    """Return the numbers of the frames in a log."""
    return [number_of(frame.sidecar['stamp_ns']) for frame in iter_frames(folder)]


def reasons(folder: Path) -> dict[int, str]:
    return {number_of(frame.sidecar['stamp_ns']): frame.sidecar['reason']
            for frame in iter_frames(folder)}


def assert_whole(frame: LoggedFrame) -> None:
    """Assert that a logged frame equals the frame that was offered, and has no other files."""
    number = number_of(frame.sidecar['stamp_ns'])
    np.testing.assert_array_equal(frame.read_image(), image_of(number))
    np.testing.assert_array_equal(frame.read_mask(), mask_of(number))
    np.testing.assert_allclose(frame.read_uncertainty(), map_of(number), atol=1 / 131000)
    assert frame.frame_id == frame.folder.name
    assert {p.name for p in frame.folder.iterdir()} == {
        'image.png', 'mask.png', 'uncertainty.png', 'frame.json'}


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    """Poll a condition that another thread fulfils, for at most 10 s."""
    for _ in range(2000):
        if is_so():
            return
        time.sleep(0.005)
    raise AssertionError(f'{what} did not happen')
