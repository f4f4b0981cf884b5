# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The real node with faults on command, run by the ROS tests as a process.

The green value of the centre pixel selects a fault of the network (`ros_fault_node_commands`):
raise a runtime's error, return NaN, wait until the file UNCERTAINTY_SEG_TEST_RELEASE exists (and
create the file with suffix .waits), raise an unexpected exception, or end the worker's thread.
Other values run the configured backend. The encoding of an image selects a fault of the
subscription's callback: 'raise', 'hang' for ever, or 'exit'. An optional part (`PARTS`) raises
while a file of its name is in the folder UNCERTAINTY_SEG_TEST_FAILURES. Calls that make a picture
(`PICTURES`) are recorded in the file `made` there; they wait while a file `wait` exists, and end
their thread if there is a file `end`.
"""

from collections.abc import Callable, Mapping
import dataclasses
from functools import cached_property
import os
from pathlib import Path
import sys
import threading
from typing import Any

import numpy as np
from rclpy.publisher import Publisher
from ros_fault_node_commands import ENDS, FAILS, GIVES_NAN, SURPRISES, WAITS

from uncertainty_seg.backends import registry
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.grid import Grid
from uncertainty_seg.core.pipeline import FrameResult
from uncertainty_seg.core.render import FrameView
from uncertainty_seg.core.uncertainty import PassSums
from uncertainty_seg.errors import BackendError
from uncertainty_seg.ros import publishers, topics
from uncertainty_seg.ros.camera_station import CameraStation
from uncertainty_seg.ros.frame_scheduler import Slot
from uncertainty_seg.ros.health import FrameStatistics
from uncertainty_seg.ros.node import main
from uncertainty_seg.ros.rivals import RivalWatch
from uncertainty_seg.storage.frame_log.log import FrameLog

FAILURES_VARIABLE = 'UNCERTAINTY_SEG_TEST_FAILURES'
# Name of a part in /diagnostics, a dot, any suffix -> class or module and function that raise.
PARTS: Mapping[str, tuple[Any, str]] = {
    'heatmap.render': (FrameView, 'heatmap'),
    'camera_info.make': (topics, 'camera_info_topic'),
    'camera_info.fit': (publishers, 'fit_camera_info'),
    'camera.listen': (CameraStation, 'listen'),
    'frame_log.offer': (FrameLog, 'offer'),
    'statistics.latency': (FrameStatistics, 'add_latency'),
    'topic_watch.report': (topics.TopicWatch, 'report'),
    'rival_watch.look': (RivalWatch, '_look'),
}


# Functions that resize a map to the network's image or to the camera's.
PICTURES: tuple[tuple[Any, str], ...] = (
    (Grid, 'spread'), (FrameResult, 'label'), (FrameResult, 'confidence_at_source'),
    (FrameResult, 'map_at_source'))


class FaultyBackend:

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.name = f'faulty {inner.name}'

    def run(self, image: Any, masks: Any, temperature: float) -> PassSums:
        command = int(image[image.shape[0] // 2, image.shape[1] // 2, 1])
        if command == FAILS:
            raise BackendError('the engine failed on command')
        if command == ENDS:
            raise SystemExit('the worker ends on command')
        if command == SURPRISES:
            raise ZeroDivisionError('nobody expected this')
        if command == WAITS:
            release = Path(os.environ['UNCERTAINTY_SEG_TEST_RELEASE'])
            release.with_suffix('.waits').touch()
            while not release.exists():
                threading.Event().wait(0.01)
        sums: PassSums = self._inner.run(image, masks, temperature)
        if command == GIVES_NAN:
            nan = np.full_like(sums.entropy_nats, np.nan)
            return dataclasses.replace(sums, entropy_nats=nan)
        return sums

    @property
    def timings_ms(self) -> Mapping[str, float]:
        return self._inner.timings_ms

    def close(self) -> None:
        self._inner.close()


def put_faultily(slot: Any, item: Any) -> None:
    if item.msg.encoding == 'raise':
        raise ZeroDivisionError('the callback fails on command')
    if item.msg.encoding == 'hang':
        print('the callback hangs on command', flush=True)
        threading.Event().wait()
    _put(slot, item)


def break_parts(folder: Path) -> None:
    for part, (owner, name) in PARTS.items():
        real = getattr(owner, name)
        if isinstance(real, cached_property):
            setattr(owner, name, property(_breaking(real.func, folder / part)))
        else:
            setattr(owner, name, _breaking(real, folder / part))
    Publisher.publish = _breaking_publish(Publisher.publish, folder)


def note_pictures(folder: Path) -> None:
    for owner, name in PICTURES:
        real = getattr(owner, name)
        noting = _noting(real.fget if isinstance(real, property) else real, name, folder)
        setattr(owner, name, property(noting) if isinstance(real, property) else noting)


def _noting(real: Callable[..., Any], name: str, folder: Path) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        with (folder / 'made').open('a') as file:
            file.write(f'{name}\n')
        while (folder / 'wait').exists() and name == 'spread':
            threading.Event().wait(0.01)
        if (folder / 'end').exists():
            raise SystemExit('a picture ends its thread on command')
        return real(*args)
    return run


def _breaking(real: Callable[..., Any], file: Path) -> Callable[..., Any]:
    def run(*args: Any, **options: Any) -> Any:
        if file.exists():
            raise RuntimeError(f'{file.name} fails on command')
        return real(*args, **options)
    return run


def _breaking_publish(real: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    def publish(self: Any, msg: Any) -> None:
        if (folder / f'{self.topic_name.rpartition("/")[2]}.publish').exists():
            raise RuntimeError('publish fails on command')
        real(self, msg)
    return publish


def open_faulty(name: str, bundle: Any, settings: Any) -> FaultyBackend:
    return FaultyBackend(open_backend(name, bundle, settings))


if __name__ == '__main__':
    registry.open_backend = open_faulty
    _put = Slot.put
    Slot.put = put_faultily
    if FAILURES_VARIABLE in os.environ:
        break_parts(Path(os.environ[FAILURES_VARIABLE]))
        note_pictures(Path(os.environ[FAILURES_VARIABLE]))
    sys.exit(main())
