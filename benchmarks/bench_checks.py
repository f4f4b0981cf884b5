# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the checks of a frame cost: its stamp, its pixels, damage of the image, the network's result.

Frames of 640x480 go through the frame loop with a shipped model. Each goes twice, with and without
the checks, in an order that alternates, so that a machine that slows down slows both. Read
`inside_ms`, what the checks take where they stand, with the caches as the network leaves them, by
the processor time of their thread: the median of all frames, and the 10 % quantile, which is
nearer to an idle machine. `pairs_ms` is the difference of the two times of a frame by the clock;
its quartiles tell how much of it is the machine's.

    python benchmarks/bench_checks.py [--models pipeline suim] [--backends onnxruntime openvino]
        [--frames 150] [--threads 1]

The target is 0.3 ms a frame. The last line is one JSON object.

"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
import json
import time
from typing import Any

import numpy as np

from uncertainty_seg.backends import registry
from uncertainty_seg.core import plausibility
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.dropout_masks import Masks
from uncertainty_seg.core.frame_guard import FrameGuard
from uncertainty_seg.core.frame_loop import FrameLoop
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.storage.model_bundle import load_bundle

HEIGHT, WIDTH = 480, 640
WARM_UP, TARGET_MS = 10, 0.3
START_NS = 1_700_000_000 * 10**9


class Unchecked(plausibility.CheckedBackend):
    """A backend whose results are taken as they come."""

    def run(self, image: ImageU8, masks: Masks, temperature: float) -> UncertaintyMaps:
        """Run it."""
        return self._backend.run(image, masks, temperature)

    def run_and(
        self, work: Callable[[UncertaintyMaps], Any], image: ImageU8, masks: Masks,
        temperature: float,
    ) -> tuple[UncertaintyMaps, Any]:
        """Return the maps unseen, and what the work makes of them."""
        maps = self.run(image, masks, temperature)
        return maps, work(maps)


class Clocks:
    """How long each check took in the frame at hand, in milliseconds of its thread."""

    def __init__(self) -> None:
        self.now: dict[str, float] = defaultdict(float)
        self._is_inside = False

    def timed(self, name: str, check: Callable[..., Any]) -> Callable[..., Any]:
        """Return a check that is timed."""
        def run(*args: Any) -> Any:
            if self._is_inside:  # part of another one
                return check(*args)
            self._is_inside, start_ns = True, time.thread_time_ns()
            try:
                return check(*args)
            finally:
                self.now[name] += (time.thread_time_ns() - start_ns) / 1e6
                self._is_inside = False
        return run

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time every check there is, wherever it is called."""
        places = [(FrameGuard, 'stamp_fault'), (FrameGuard, 'age_fault'),
                  (FrameGuard, 'pixel_fault'), (plausibility, 'implausible'),
                  (plausibility, 'fingerprint'), (Pipeline, 'damage')]
        before = [(place, name, getattr(place, name)) for place, name in places
                  if hasattr(place, name)]
        for place, name, check in before:
            # The pixels have a fingerprint of their own, by a name of frame_guard's.
            setattr(place, name, self.timed(name, check))
        try:
            yield
        finally:
            for place, name, check in before:
                setattr(place, name, check)


def pictures() -> Iterator[ImageU8]:
    """Yield a smooth picture with noise, anew each time: it is neither frozen nor damaged."""
    import cv2

    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 200, (12, 16, 1), np.uint8) + rng.integers(0, 40, 3, np.uint8)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    while True:
        yield cv2.add(smooth, rng.integers(0, 6, smooth.shape, np.uint8))


def measure(model: str, backend: str, threads: int, num_frames: int) -> dict[str, Any]:
    """Send frames twice and return the figures."""
    bundle = load_bundle(model)
    settings = Settings(threads=threads)
    runner = registry.open_backend(backend, bundle, settings)
    checked = FrameLoop(Pipeline(bundle, runner, settings), guard=FrameGuard(settings))
    unchecked = FrameLoop(Pipeline(
        bundle, Unchecked(runner, bundle.card.num_classes), replace(settings, damage_scale=0.0)))
    images, clocks = pictures(), Clocks()
    parts: dict[str, list[float]] = defaultdict(list)
    pairs: list[float] = []
    for number in range(WARM_UP + num_frames):
        image = next(images)
        stamp_ns = START_NS + number * 33_000_000
        times = {}
        for loop in ((checked, unchecked) if number % 2 else (unchecked, checked)):
            clocks.now.clear()
            with clocks.watching():
                start_s = time.perf_counter()
                outcome = loop.take(lambda image=image: image, stamp_ns, None,
                                    lambda stamp_ns=stamp_ns: stamp_ns + 10_000_000)
                times[loop] = time.perf_counter() - start_s
            assert outcome is not None and not outcome.problem, outcome
            if loop is checked and number >= WARM_UP:
                for name, spent_ms in clocks.now.items():
                    parts[name].append(spent_ms)
                parts['all'].append(sum(clocks.now.values()))
        if number >= WARM_UP:
            pairs.append((times[checked] - times[unchecked]) * 1e3)
    runner.close()
    low, middle, high = np.quantile(pairs, [0.25, 0.5, 0.75])
    return {
        'inside_ms': {name: [round(float(value), 4) for value in np.quantile(spent, [0.5, 0.1])]
                      for name, spent in parts.items()},
        'pairs_ms': [round(float(value), 3) for value in (low, middle, high)],
        'frames': num_frames,
    }


def main() -> None:
    """Measure every model on every backend and print."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', default=['pipeline', 'suim'])
    parser.add_argument('--backends', nargs='+', default=['onnxruntime', 'openvino'])
    parser.add_argument('--frames', type=int, default=150)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    found = {}
    for model in args.models:
        for backend in args.backends:
            figures = measure(model, backend, args.threads, args.frames)
            found[f'{model}, {backend}'] = figures
            inside = ', '.join(f'{name} {middle:.3f} ({low:.3f})'
                               for name, (middle, low) in figures['inside_ms'].items())
            low, middle, high = figures['pairs_ms']
            print(f'{model}, {backend}: {inside} ms; pairs {middle:.2f} ms '
                  f'(quartiles {low:.2f} to {high:.2f})', flush=True)
    print(json.dumps({'target_ms': TARGET_MS, 'added': found}))


if __name__ == '__main__':
    main()
