# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What each step of a frame takes, from the message of the camera to the pictures of its subscribers.

The frames of a synthetic dive, with new noise each, go through the frame loop of a shipped model
as the node runs it: a JPEG of 1920x1080 and raw bgr8 of 640x480. Each step is timed where it
stands, with the caches as the step before leaves them, by the processor time of its thread and
without the steps inside it; the network by that of the process. `frame` is all of it until the
verdict, the check of the results, which runs beside the scores, included. Below it are sending the
verdict with its status, and what a picture takes only if its topic has a subscriber: rendered at
the size of the image, made a message and handed to the middleware. Sending wants ROS.

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
from uncertainty_seg.core import (
    pipeline as pipeline_module,
)
from uncertainty_seg.core import (
    plausibility as plausibility_module,
)
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
    """What each step took in the frame at hand, in ms, without the steps inside it."""

    def __init__(self) -> None:
        self.now: dict[str, float] = defaultdict(float)
        self._inner = threading.local()

    def timed(
        self, step: str, call: Callable[..., Any], clock: Callable[[], int]
    ) -> Callable[..., Any]:
        """Return a call that is timed."""
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
        """Time every step of a frame, wherever it is called."""
        thread, process = time.thread_time_ns, time.process_time_ns
        places = [
            (FrameGuard, 'stamp_fault', 'stamp', thread),
            (FrameGuard, 'pixel_fault', 'frozen', thread),
            (Pipeline, 'damage', 'damage', thread),
            (pipeline_module, 'fit_image', 'preprocess', thread),
            (type(backend), '_run_trunk', 'trunk', process),
            (type(backend), '_run_passes', 'passes', process),
            (plausibility_module, 'implausible', 'plausibility', thread),
            (plausibility_module, 'fingerprint', 'plausibility', thread),
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
    """Yield the pictures of a camera for ever, none like the one before."""
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
    """Return what a camera sends of a picture."""
    if not is_packed:
        height, width = image.shape[:2]
        return RawImage(image.reshape(-1), height, width, 'bgr8', 3 * width)
    packed = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return ImageFile(packed.reshape(-1), 'bgr8; jpeg compressed bgr8')


class Sender:
    """Hands verdicts and pictures to the middleware, where ROS is installed, as the node does."""

    def __init__(self) -> None:
        self.verdict: Callable[[Outcome], None] = lambda outcome: None
        self.picture: Callable[[Any, str], None] = lambda pixels, encoding: None
        try:
            import rclpy
        except ImportError:
            return
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import Image
        from std_msgs.msg import Header

        from uncertainty_seg.ros.conversions import image_to_msg
        from uncertainty_seg.ros.node import keep_frames_on_the_heap
        from uncertainty_seg.ros.publishers import VerdictPublishers

        keep_frames_on_the_heap()
        rclpy.init()
        node = rclpy.create_node('frame_steps')
        publisher = node.create_publisher(Image, 'picture', 1)
        verdicts = VerdictPublishers(node, 60.0)
        for kind, topic in ((Image, 'picture'), (DiagnosticArray, '~/status')):
            node.create_subscription(kind, topic, lambda msg: None, 1)
        while not publisher.get_subscription_count():
            time.sleep(0.05)
        self.verdict = lambda outcome: verdicts.publish(
            outcome.verdict, outcome.thresholds, Header(), outcome.result)
        self.picture = lambda pixels, encoding: publisher.publish(
            image_to_msg(Header(), pixels, encoding))


PICTURES = {'mask': 'mono8', 'confidence': 'mono8', 'uncertainty': '32FC1', 'heatmap': 'bgr8',
            'overlay': 'bgr8', 'mask_color': 'bgr8'}


def shown(outcome: Outcome, pipeline: Pipeline, sender: Sender) -> dict[str, float]:
    """Send the verdict, and render and send each picture alone; return the ms of each."""
    assert outcome.image_bgr is not None and outcome.result is not None
    start_ns = time.thread_time_ns()
    sender.verdict(outcome)
    found = {'verdict: sent': (time.thread_time_ns() - start_ns) / 1e6}
    for name, encoding in PICTURES.items():
        # Of maps of its own, which a picture before has not made.
        view = FrameView(outcome.image_bgr, replace(outcome.result), pipeline.card,
                         pipeline.settings, pipeline.calibrated)
        start_ns = time.thread_time_ns()
        pixels = getattr(view, name)
        between_ns = time.thread_time_ns()
        sender.picture(pixels, encoding)
        end_ns = time.thread_time_ns()
        found[f'{name}: rendered'] = (between_ns - start_ns) / 1e6
        found[f'{name}: sent'] = (end_ns - between_ns) / 1e6
    return found


def measure(
    model: str, settings: Settings, camera: str, num_frames: int, sender: Sender
) -> dict[str, float]:
    """Send frames and return the median of every step."""
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
            clocks.now |= shown(outcome, pipeline, sender)
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
    """Measure every model with every camera and print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', default=['pipeline', 'suim'])
    parser.add_argument('--backends', nargs='+', default=['onnxruntime'])
    parser.add_argument('--frames', type=int, default=40)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    settings = Settings(threads=args.threads)
    sender, columns = Sender(), {}
    for backend in args.backends:
        for model in args.models:
            for camera in CAMERAS:
                title = f'{model} {backend} {camera}'
                columns[title] = measure(model, replace(settings, backend=backend), camera,
                                         args.frames, sender)
        print_table({t: c for t, c in columns.items() if f' {backend} ' in t})
    print(json.dumps({title: {step: round(ms, 3) for step, ms in column.items()}
                      for title, column in columns.items()}))


if __name__ == '__main__':
    main()
