# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure how much logging every frame adds to the latency of a frame.

Frames of 1280x720 arrive at 30 Hz; all are flagged and none is skipped. A substitute for the
pipeline processes each: matrix products, which release the GIL like a runtime, and plain Python.
Blocks with and without the log alternate in one run, so that both see the same load.

    python benchmarks/frame_log_latency.py [--mode received|png|jpeg] [--seconds 1] [--blocks 30]
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time

import cv2
import numpy as np

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.image_codec import ImageFile
from uncertainty_seg.core.settings import LogSettings
from uncertainty_seg.storage.frame_log.format import LogAbout, LogFrame
from uncertainty_seg.storage.frame_log.log import FrameLog

WIDTH, HEIGHT, RATE_HZ, BUDGET_MS = 1280, 720, 30, 2.0
CLASSES = 6
START_NS = 1_000_000_000


class Camera:
    """A source of frames: an image with detail and noise, and maps at the network's size."""

    def __init__(self, mode: str) -> None:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), np.uint8)
        smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        noisy = smooth + rng.normal(0, 4, smooth.shape)
        self.image: ImageU8 = np.clip(noisy, 0, 255).astype(np.uint8)
        self.jpeg = ImageFile(bytes(cv2.imencode('.jpg', self.image)[1]), 'jpeg')
        field = cv2.GaussianBlur(rng.random((HEIGHT // 4, WIDTH // 4)), (0, 0), 5)
        self.map: FloatMap = cv2.normalize(field, None, 0, 1, cv2.NORM_MINMAX).astype(np.float32)
        self._mode, self._count = mode, 0

    def next(self) -> LogFrame:  # noqa: A003
        """Return the next frame, with copies of image and map as from a camera."""
        self._count += 1
        image = self.jpeg if self._mode == 'received' else self.image.copy()
        small = self.map.copy()
        mask = functools.partial(_mask, (small * CLASSES).astype(np.uint8) % CLASSES)
        uncertainty = functools.partial(_map, small)
        verdict = Verdict(False, ('mean 2 over 1',), 2.0, 'uncertain')
        stamp_ns = START_NS + round(self._count * 1e9 / RATE_HZ)
        return LogFrame(stamp_ns, '', 'camera', image, 'bgr8', verdict, {'mean': 2.0},
                        {'mean': 1.0}, mask, uncertainty, held_bytes=small.nbytes)


def _mask(small: LabelMap) -> LabelMap:
    stretched = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(stretched, np.uint8)


def _map(small: FloatMap) -> FloatMap:
    return np.asarray(cv2.resize(small, (WIDTH, HEIGHT)), np.float32)


class Load:
    """The substitute for the pipeline."""

    def __init__(self, busy_ms: float) -> None:
        self._matrix = np.random.default_rng(1).random((512, 512), np.float32)
        start_s = time.perf_counter()
        for _ in range(20):
            self._matrix @ self._matrix
        one_ms = (time.perf_counter() - start_s) / 20 * 1e3
        self._rounds = max(1, round(busy_ms / one_ms))

    def __call__(self) -> None:
        """Do the work of one frame."""
        for _ in range(self._rounds):
            self._matrix @ self._matrix
        sum(range(20000))


def block(camera: Camera, load: Load, log: FrameLog | None, num_frames: int) \
        -> tuple[list[float], list[float]]:
    """Return the milliseconds of each frame, and of each offer."""
    frames_ms, offers_ms = [], []
    next_s = time.perf_counter()
    for _ in range(num_frames):
        next_s += 1 / RATE_HZ
        frame = camera.next()
        start_s = time.perf_counter()
        load()
        offer_s = time.perf_counter()
        if log is not None:
            log.offer(frame)
        end_s = time.perf_counter()
        frames_ms.append((end_s - start_s) * 1e3)
        offers_ms.append((end_s - offer_s) * 1e3)
        time.sleep(max(0.0, next_s - time.perf_counter()))
    return frames_ms, offers_ms


def wait_until_written(log: FrameLog) -> None:
    """Wait until the queue is empty, so that its work is not counted in a block without log."""
    while log.state().num_waiting:
        time.sleep(0.01)
    time.sleep(0.2)


def row(name: str, values_ms: list[float]) -> str:
    """Return a line with mean, median, 99 % quantile and maximum."""
    median, high = np.quantile(values_ms, [0.5, 0.99])
    return (f'{name:28s} {np.mean(values_ms):8.3f} {median:8.3f} {high:8.3f} '
            f'{max(values_ms):8.3f}')


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument('--mode', choices=('received', 'png', 'jpeg'), default='received',
                        help='received: JPEG from the camera, kept; else encoded by the log')
    parser.add_argument('--seconds', type=float, default=1.0, help='length of a block [1]')
    parser.add_argument('--blocks', type=int, default=30, help='blocks of each kind [30]')
    parser.add_argument('--busy-ms', type=float, default=15.0, help='work of a frame [15]')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    settings = LogSettings(
        image_format=args.mode, min_interval_s=0.0, duplicate_bits=0, control_share=0.0,
        free_disk_mb=0.0, quota_mb=20000.0)
    about = LogAbout('bench', 'none', '', tuple('abcdef'), ((0, 0, 0),) * CLASSES, 20)
    camera, load = Camera(args.mode), Load(args.busy_ms)
    num_frames = int(args.seconds * RATE_HZ)
    with_ms: list[float] = []
    without_ms: list[float] = []
    offers_ms: list[float] = []
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        log = FrameLog(folder, settings, about)
        block(camera, load, None, RATE_HZ)
        for _ in range(args.blocks):
            without_ms += block(camera, load, None, num_frames)[0]
            frames, offers = block(camera, load, log, num_frames)
            with_ms, offers_ms = with_ms + frames, offers_ms + offers
            wait_until_written(log)
        log.close(60.0)
        state = log.state()
    print(f'{WIDTH}x{HEIGHT} at {RATE_HZ} Hz, {len(with_ms)} flagged frames, image {args.mode}, '
          f'load before {load_before:.1f}')
    print(f'{"ms":28s} {"mean":>8s} {"median":>8s} {"p99":>8s} {"max":>8s}')
    print(row('frame without the log', without_ms))
    print(row('frame with the log', with_ms))
    print(row('of that offer()', offers_ms))
    # Compares each block with the one before it, since other load changes slowly.
    pairs = np.median(np.reshape(with_ms, (-1, num_frames)), axis=1) - np.median(
        np.reshape(without_ms, (-1, num_frames)), axis=1)
    low, middle, high = np.quantile(pairs, [0.25, 0.5, 0.75])
    print(f'added to the median frame: {middle:.2f} ms (quartiles of {len(pairs)} pairs of blocks '
          f'{low:.2f} to {high:.2f}); ratio of medians '
          f'{np.median(with_ms) / np.median(without_ms):.3f}; budget {BUDGET_MS:g} ms')
    print(f'kept {sum(state.kept.values())}, dropped {sum(state.dropped.values())}, '
          f'{state.num_bytes / max(state.num_frames, 1) / 1e6:.2f} MB a frame, '
          f'the last written in {state.write_ms:.0f} ms')


if __name__ == '__main__':
    main()
