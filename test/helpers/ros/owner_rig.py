# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Run frames through the real pipeline and verdict owner, on publishers that only record."""

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle
from ros_helpers import arrival, image_message, solid, values_of
from ros_stubs import StubNode

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.ros.frame_processor import FrameProcessor, Outputs, show_frame
from uncertainty_seg.ros.health import FrameStatistics, PartFaults
from uncertainty_seg.ros.publishers import PicturePublishers, VerdictPublishers
from uncertainty_seg.ros.verdict_owner import VerdictOwner
from uncertainty_seg.storage.model_bundle import load_bundle

RISE_FRAMES, TIMEOUT_S = 3, 1.0
GOOD, GREY = (0, 0, 255), (128, 128, 128)


class HookedBackend:
    """A backend that calls `during` at the start of each run of the network."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.name = backend.name
        self.during: Callable[[], None] = lambda: None

    def run(self, *args: Any) -> Any:
        self.during()
        return self._backend.run(*args)

    @property
    def timings_ms(self) -> Any:
        return self._backend.timings_ms

    def close(self) -> None:
        self._backend.close()


class Rig:
    """The verdict owner; `send` acts as the worker, the other methods as the executor."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        path = make_tiny_bundle(folder / 'tiny')
        self.settings = settings_from_dict({
            'model': str(path), 'gate.rise_frames': RISE_FRAMES, 'max_repeats': -1, **settings})
        bundle = load_bundle(str(path))
        self.backend = HookedBackend(open_backend('onnxruntime', bundle, self.settings))
        self.pipeline = Pipeline(bundle, self.backend, self.settings)
        self.node, self.now_s, self.veto = StubNode(), 1000.0, ''
        any_node: Any = self.node
        self.verdicts = VerdictPublishers(any_node, TIMEOUT_S)
        self.owner = VerdictOwner(
            self.verdicts, TIMEOUT_S, lambda: self.veto, lambda: self.now_s)
        self.owner.take_over(self.pipeline)
        self.pictures, self.statistics = PicturePublishers(any_node), FrameStatistics()
        self.faults = PartFaults()
        self.start()
        self.node.topics['~/status'].num_subscribers = 1
        self.second = 0

    def start(self) -> None:
        self.process = self.processor(
            Outputs(self.pictures, self.statistics, faults=self.faults))

    def processor(self, outputs: Outputs) -> FrameProcessor:
        return FrameProcessor(
            self.owner.start(), outputs, lambda: self.settings, lambda: self.second * 10**9,
            lambda frame: show_frame(outputs, lambda: self.settings, frame))

    @property
    def flags(self) -> list[bool]:
        """Return the flags from the statuses, since each deadline has its own flag publisher."""
        return [values_of(status)['confident'] == 'true' for status in self.statuses]

    @property
    def statuses(self) -> list[Any]:
        return self.node.topics['~/status'].sent

    @property
    def last_message(self) -> str:
        return self.statuses[-1].status[0].message

    def send(self, count: int = 1, color: tuple[int, int, int] = GOOD) -> None:
        for _ in range(count):
            self.second += 1
            self.owner.note_arrival()
            stamp_ns = self.second * 10**9
            self.process(arrival(image_message(solid(*color), stamp_ns)))

    def tick(self) -> None:
        self.owner.tick(lambda: 'no frame came')

    def change(self, **values: Any) -> None:
        settings = dataclasses.replace(self.settings, **values)
        self.owner.reconfigure(settings)
        self.settings = settings

    def change_gate(self, scale: float) -> None:
        self.change(gate=dataclasses.replace(self.settings.gate, threshold_scale=scale))
