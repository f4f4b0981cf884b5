# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the files of a logged frame cost: milliseconds and megabytes, one thread.

    python benchmarks/frame_log_encoding.py [--rounds 20]

"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import time
from typing import Any

import cv2
from frame_log_latency import Camera, CLASSES, HEIGHT, WIDTH
import numpy as np

from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.storage.frame_log.format import uncertainty_to_uint16
from uncertainty_seg.storage.perceptual_hash import perceptual_hash


def measured(call: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Return the median time of a call in milliseconds, and what it returned."""
    times_ms = []
    for _ in range(rounds):
        start_s = time.perf_counter()
        result = call()
        times_ms.append((time.perf_counter() - start_s) * 1e3)
    return float(np.median(times_ms)), result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument('--rounds', type=int, default=20, help='calls of each [20]')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    camera = Camera('png')
    wide = cv2.resize(camera.map, (WIDTH, HEIGHT))
    mask = (wide * CLASSES).astype(np.uint8) % CLASSES
    small = (cv2.IMWRITE_PNG_COMPRESSION, 1)
    quality = (cv2.IMWRITE_JPEG_QUALITY, 95)
    print(f'{WIDTH}x{HEIGHT}, median of {args.rounds}')
    for name, call in {
        'image as png': lambda: cv2.imencode('.png', camera.image)[1],
        'image as png, compression 1': lambda: cv2.imencode('.png', camera.image, small)[1],
        'image as jpeg, quality 95': lambda: cv2.imencode('.jpg', camera.image, quality)[1],
        'uncertainty': lambda: cv2.imencode('.png', uncertainty_to_uint16(wide))[1],
        'mask': lambda: cv2.imencode('.png', mask)[1],
        'jpeg decoded': lambda: decode(camera.jpeg),
        'perceptual hash': lambda: perceptual_hash(camera.image),
    }.items():
        time_ms, result = measured(call, args.rounds)
        is_file = isinstance(result, np.ndarray) and result.ndim == 1
        size = f'{result.nbytes / 1e6:7.2f} MB' if is_file else ''
        print(f'  {name:28s} {time_ms:7.2f} ms {size}')


if __name__ == '__main__':
    main()
