# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure the time of each step of a frame, from the camera message to the published pictures.

The frames of a synthetic dive, each with new noise, go through the frame loop of a shipped model
as in the node: JPEG of 1920x1080 and raw bgr8 of 640x480. Each step is timed in place, with caches
as in operation: CPU time of its thread without nested steps; for the network, of the process.
`frame` is the total up to the verdict. The rows below it are pictures, which are rendered only if
their topic has a subscriber: each at the size of the image, including its maps.
bench_node_latency.py measures what ROS adds.

    python benchmarks/frame_steps.py [--models pipeline suim] [--backends onnxruntime openvino]
        [--frames 40] [--threads 1]

Medians in ms; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
import json
import threading
import time
from typing import Any

import cv2
import numpy as np

from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core import pipeline as pipeline_module
from uncertainty_seg.core import plausibility
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.frame_guard import FrameGuard
from uncertainty_seg.core.frame_loop import FrameLoop, Outcome, PlainJudge
from uncertainty_seg.core.image_codec import decode, ImageFile, RawImage
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.render import FrameView
from uncertainty_seg.core.scores.density import FeatureDensity
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.sim.dive import Dive
from uncertainty_seg.storage.model_bundle import load_bundle

CAMERAS = {'jpeg 1920x1080': (1920, 1080), 'raw 640x480': (640, 480)}
WARM_UP, NUM_PICTURES = 5, 4
START_NS = 1_700_000_000 * 10**9
Message = RawImage | ImageFile


class Clocks:
    """The time of each step of the current frame in ms, without nested steps."""

    def __init__(self) -> None:
        self.now: dict[str, float] = defaultdict(float)
        self._inner = threading.local()

    def timed(
        self, step: str, call: Callable[..., Any], clock: Callable[[], int]
    ) -> Callable[..., Any]:
        """Wrap a call, so that its time is added to a step."""
        def run(*args: Any, **more: Any) -> Any:
            outer, self._inner.ms = getattr(self._inner, 'ms', 0.0), 0.0
            start_ns = clock()
            try:
                return call(*args, **more)
            finally:
                spent_ms = (clock() - start_ns) / 1e6
                self.now[step] += spent_ms - self._inner.ms
                self._inner.ms = outer + spent_ms
        return run

    @contextmanager
    def watching(self, backend: Any) -> Iterator[None]:
        """Time every step of a frame inside this context."""
        thread, process = time.thread_time_ns, time.process_time_ns
        places = [
            (FrameGuard, 'stamp_fault', 'stamp', thread),
            (FrameGuard, 'pixel_fault', 'frozen', thread),
            (Pipeline, 'damage', 'damage', thread),
            (pipeline_module, 'fit_image', 'preprocess', thread),
            (type(backend), '_run_trunk', 'trunk', process),
            (type(backend), '_run_passes', 'passes', process),
            (plausibility, 'implausible', 'plausibility', thread),
            (pipeline_module, 'grid_maps', 'maps', thread),
            (ScoreVector, 'compute', 'scores', thread),
            (FeatureDensity, 'frame_score', 'features', thread),
            (PlainJudge, 'judge', 'gate', thread),
        ]
        before = [(place, name, getattr(place, name)) for place, name, _, _ in places]
        for place, name, step, clock in places:
            setattr(place, name, self.timed(step, getattr(place, name), clock))
        try:
            yield
        finally:
            for place, name, call in before:
                setattr(place, name, call)


def messages(camera: str) -> Iterator[Message]:
    """Yield camera messages without end, each different from the one before."""
    width, height = CAMERAS[camera]
    dive = Dive(0, size=(width, height))
    pictures = [dive.frame(index * 40).image for index in range(NUM_PICTURES)]
    rng, number = np.random.default_rng(0), 0
    while True:
        noise = rng.integers(0, 4, (height, width, 3), np.uint8)
        image = np.asarray(cv2.add(pictures[number % NUM_PICTURES], noise), np.uint8)
        number += 1
        yield as_message(image, camera.startswith('jpeg'))


def as_message(image: ImageU8, is_packed: bool) -> Message:
    """Return an image as a camera message, JPEG if `is_packed`."""
    if not is_packed:
        height, width = image.shape[:2]
        return RawImage(image.reshape(-1), height, width, 'bgr8', 3 * width)
    packed = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return ImageFile(packed.reshape(-1), 'bgr8; jpeg compressed bgr8')


PICTURES = ('mask', 'confidence', 'uncertainty', 'heatmap', 'overlay', 'mask_color')


def shown(outcome: Outcome, pipeline: Pipeline) -> dict[str, float]:
    """Render each picture separately; return the ms of each."""
    assert outcome.image_bgr is not None and outcome.result is not None
    found = {}
    for name in PICTURES:
        # A fresh copy of the result, whose maps no earlier picture has computed.
        view = FrameView(outcome.image_bgr, replace(outcome.result), pipeline.card,
                         pipeline.settings, pipeline.calibrated)
        start_ns = time.thread_time_ns()
        getattr(view, name)
        found[name] = (time.thread_time_ns() - start_ns) / 1e6
    return found


def measure(model: str, settings: Settings, camera: str, num_frames: int) -> dict[str, float]:
    """Process frames and return the median of every step."""
    clocks, found = Clocks(), defaultdict(list)
    with open_pipeline(load_bundle(model), settings) as pipeline:
        loop, images = FrameLoop(pipeline, guard=FrameGuard(settings)), messages(camera)
        for number in range(WARM_UP + num_frames):
            message, stamp_ns = next(images), START_NS + number * 33_000_000
            read = clocks.timed('decode', lambda message=message: decode(message),
                                time.thread_time_ns)
            clocks.now.clear()
            with clocks.watching(pipeline._backend._backend):
                start_ns = time.process_time_ns()
                outcome = loop.take(read, stamp_ns, None,
                                    lambda stamp_ns=stamp_ns: stamp_ns + 10_000_000)
                clocks.now['frame'] = (time.process_time_ns() - start_ns) / 1e6
            assert outcome is not None and outcome.result is not None, outcome
            clocks.now |= shown(outcome, pipeline)
            for step, spent_ms in clocks.now.items():
                if number >= WARM_UP:
                    found[step].append(spent_ms)
    return {step: float(np.median(spent)) for step, spent in found.items()}


def print_table(columns: Mapping[str, Mapping[str, float]]) -> None:
    """Print a row for every step and a column for every model and camera."""
    steps = list(dict.fromkeys(step for column in columns.values() for step in column))
    print(' ' * 22, *(f'{title:>30}' for title in columns))
    for step in steps:
        print(f'{step:>22}', *(f'{column.get(step, np.nan):30.2f}' for column in columns.values()))


def main() -> None:
    """Measure every model with every camera and backend, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', default=['pipeline', 'suim'])
    parser.add_argument('--backends', nargs='+', default=['onnxruntime'])
    parser.add_argument('--frames', type=int, default=40)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    settings, columns = Settings(threads=args.threads), {}
    for backend in args.backends:
        for model in args.models:
            for camera in CAMERAS:
                title = f'{model} {backend} {camera}'
                columns[title] = measure(model, replace(settings, backend=backend), camera,
                                         args.frames)
        print_table({t: c for t, c in columns.items() if f' {backend} ' in t})
    print(json.dumps({title: {step: round(ms, 3) for step, ms in column.items()}
                      for title, column in columns.items()}))


if __name__ == '__main__':
    main()
