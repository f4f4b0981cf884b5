# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""One frame after the other through the real pipeline, on publishers that only keep."""

from collections.abc import Callable
import dataclasses
import gc
from pathlib import Path
import threading
from typing import Any
import weakref

from conftest import make_tiny_bundle
import numpy as np
import pytest
from ros_helpers import HAS_ROS, image_message, SKIP_REASON, solid, values_of

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from ros_stubs import StubNode

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.ros.camera_station import CameraStation
from uncertainty_seg.ros.conversions import image_from_msg
from uncertainty_seg.ros.frame_log_link import message_frame
from uncertainty_seg.ros.frame_processor import FrameProcessor, Outputs
from uncertainty_seg.ros.frame_scheduler import FrameScheduler
from uncertainty_seg.ros.health import FrameStatistics
from uncertainty_seg.ros.publishers import PicturePublishers, VerdictPublishers
from uncertainty_seg.ros.watchdog import Watchdog
from uncertainty_seg.storage.model_bundle import load_bundle

pytestmark = pytest.mark.ros

TIMEOUT_S = 1.0
PATIENCE_S = 0.2  # for a thread that must not get through


class HookedDog(Watchdog):
    """Lets something happen right after a trip was asked for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(TIMEOUT_S, clock)
        self.num_asked = 0
        self.after: Callable[[], None] | None = None

    def take_trip(self) -> bool:
        tripped = super().take_trip()
        self.num_asked += 1
        # The first question is at the frame's start, the second one before its verdict.
        if self.after is not None and self.num_asked == 2:
            self.after()
        return tripped


class Rig:

    def __init__(self, folder: Path) -> None:
        self.settings = settings_from_dict({
            'model': str(make_tiny_bundle(folder / 'tiny')), 'backend': 'fake',
            'gate.rise_frames': 1,
        })
        bundle = load_bundle(self.settings.model)
        self.pipeline = Pipeline(
            bundle, open_backend('fake', bundle, self.settings), self.settings)
        self.node, self.now_s = StubNode(), 1000.0
        any_node: Any = self.node
        self.verdicts = VerdictPublishers(any_node, TIMEOUT_S)
        self.pictures = PicturePublishers(any_node)
        self.statistics = FrameStatistics()
        self.dog = HookedDog(lambda: self.now_s)
        self.node.topics['~/status'].num_subscribers = 1
        outputs = Outputs(self.verdicts, self.pictures, self.statistics)
        self.veto = ''
        self.process = FrameProcessor(self.pipeline, outputs, self.dog, lambda: self.settings,
                                      lambda: self.veto)
        self._second = 0

    @property
    def flags(self) -> list[bool]:
        return [msg.data for msg in self.node.topics['~/confident'].sent]

    @property
    def last_status(self) -> Any:
        return self.node.topics['~/status'].sent[-1]

    def send_good(self) -> Any:
        self._second += 1
        msg = image_message(solid(0, 0, 255), self._second * 10**9)
        self.process(msg)
        return msg

    def tick(self) -> None:
        """Be the node's timer."""
        self._station().tick(True, '')

    def set(self, **values: Any) -> None:  # noqa: A003
        """Be the node's parameters."""
        settings = dataclasses.replace(self.settings, **values)
        self._station().reconfigure(settings)
        self.settings = settings

    def set_scale(self, scale: float) -> None:
        self.set(gate=dataclasses.replace(self.settings.gate, threshold_scale=scale))

    def _station(self) -> CameraStation:
        """Return a station around the parts of this rig, listening to nothing."""
        any_node: Any = self.node
        station = CameraStation(any_node, lambda: self.settings, 0, 'not this one')
        vars(station).update(
            _watchdog=self.dog, _verdicts=self.verdicts, _pipeline=self.pipeline,
            _processor=self.process, _statistics=self.statistics,
        )
        return station


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def raise_bug(*_: Any) -> None:
    raise ZeroDivisionError('a bug in a picture')


def test_a_picture_that_raises_is_a_fault_of_its_frame_and_the_next_one_is_good(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rig.pictures, 'publish', raise_bug)
        msg = rig.send_good()
    assert rig.flags == [True, False]
    assert 'internal error ZeroDivisionError: a bug in' in rig.last_status.status[0].message
    assert rig.last_status.header == msg.header
    assert rig.statistics.num_faulty == 1
    assert rig.process.busy_s == 0
    rig.send_good()
    assert rig.flags[-1]


def test_a_verdict_that_cannot_be_published_does_not_end_the_thread(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.send_good()
    with monkeypatch.context() as patch:
        patch.setattr(rig.verdicts, 'publish', raise_bug)
        rig.now_s += TIMEOUT_S
        rig.send_good()
        assert rig.dog.is_stale()  # so that the timer lets the flag fall
    assert rig.process.busy_s == 0
    rig.tick()
    assert rig.flags == [True, False]


def test_a_verdict_that_comes_too_late_is_false_though_no_timer_ran(rig: Rig) -> None:
    rig.send_good()

    def long_work() -> None:
        rig.now_s += TIMEOUT_S

    measure = rig.pipeline.measure

    def measure_slowly(*args: Any) -> Any:
        long_work()
        return measure(*args)

    rig.pipeline.measure = measure_slowly  # type: ignore[method-assign]
    rig.send_good()
    assert rig.flags == [True, False]
    assert 'the frame came or was computed too late' in rig.last_status.status[0].message


def test_a_flag_that_no_timer_let_fall_falls_with_the_next_frame_before_it_is_looked_at(
    rig: Rig
) -> None:
    rig.send_good()
    rig.now_s += TIMEOUT_S
    rig.send_good()
    assert rig.flags == [True, False, True]


def test_the_timer_cannot_come_between_a_frames_question_and_its_flag(rig: Rig) -> None:
    # It would say false, and the true of a frame that is too late would follow.
    timers: list[threading.Thread] = []

    def trip() -> None:
        rig.now_s += TIMEOUT_S
        timers.append(threading.Thread(target=rig.tick))
        timers[0].start()
        timers[0].join(PATIENCE_S)

    rig.dog.after = trip
    rig.send_good()
    timers[0].join(60)
    assert rig.flags == [True]


def test_a_frame_that_is_ready_after_the_trip_is_not_true(rig: Rig) -> None:
    measure = rig.pipeline.measure

    def slow(*args: Any) -> Any:
        result = measure(*args)
        rig.now_s += TIMEOUT_S
        rig.tick()
        return result

    rig.pipeline.measure = slow
    rig.send_good()
    assert rig.flags == [False, False]
    assert 'too late' in rig.last_status.status[0].message


def test_a_verdict_of_a_gate_that_was_replaced_is_not_published(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = rig.pipeline.process

    def judge_and_change(*args: Any) -> Any:
        result = judge(*args)
        rig.set_scale(0.01)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(rig.pipeline, 'process', judge_and_change)
        rig.send_good()
    assert rig.flags == [False, False]
    status = rig.last_status.status[0]
    assert status.message == 'the gate was changed while the frame was in work'
    assert values_of(rig.last_status)['threshold.entropy.mean'] == '0.007'
    rig.set_scale(1.0)
    rig.send_good()
    assert rig.flags[-1]
    assert values_of(rig.last_status)['threshold.entropy.mean'] == '0.7'


def test_a_new_gate_cannot_come_between_a_frames_question_and_its_flag(rig: Rig) -> None:
    changes = [threading.Thread(target=rig.set_scale, args=(0.01,))]

    def change() -> None:
        changes[0].start()
        changes[0].join(PATIENCE_S)

    rig.dog.after = change
    rig.send_good()
    changes[0].join(60)
    assert rig.flags == [True, False]
    assert 'threshold.entropy.mean' not in values_of(rig.last_status)


def test_a_change_that_leaves_the_gate_leaves_the_flag(rig: Rig) -> None:
    rig.send_good()
    rig.set(map='entropy')
    assert rig.flags == [True]
    rig.set_scale(0.5)
    assert rig.flags == [True, False]
    assert rig.last_status.status[0].message == 'the gate was changed'


def test_a_muted_processor_publishes_nothing(rig: Rig) -> None:
    rig.process.mute()
    rig.node.topics['~/mask'].num_subscribers = 1
    rig.send_good()
    assert rig.flags == []
    assert rig.node.topics['~/mask'].sent == []


def test_a_station_that_was_freed_holds_on_to_no_model(rig: Rig) -> None:
    any_node: Any = rig.node
    bundle = load_bundle(rig.settings.model)
    pipeline = Pipeline(bundle, open_backend('fake', bundle, rig.settings), rig.settings)
    station = CameraStation(any_node, lambda: rig.settings, 0, 'front')
    scheduler: FrameScheduler[Any] = FrameScheduler()
    station.configure(pipeline)
    station.listen(scheduler)
    station.stop_listening()
    model = weakref.ref(pipeline)
    del pipeline, scheduler
    station.free()
    gc.collect()
    assert model() is None


def test_no_frame_is_true_while_somebody_else_publishes_the_flag(rig: Rig) -> None:
    rig.send_good()
    rig.veto = 'somebody else publishes the flag'
    rig.send_good()
    assert rig.flags == [True, False]
    assert 'somebody else' in rig.last_status.status[0].message
    rig.veto = ''
    rig.send_good()
    assert rig.flags == [True, False, True]


def test_a_frame_counts_its_wait_into_its_latency(rig: Rig) -> None:
    rig.settings = dataclasses.replace(rig.settings, latency_budget_ms=5000.0)
    rig.process(image_message(solid(0, 0, 255), 1), waited_s=4.0)
    assert rig.statistics.over_budget_s() is None
    stages = rig.statistics.latencies_ms()
    assert stages['wait'][1] >= 4000
    assert stages['wait'][1] < stages['to_flag'][1] < stages['total'][1]
    rig.process(image_message(solid(0, 0, 255), 2), waited_s=6.0)
    assert rig.statistics.over_budget_s() is not None
    rig.process(image_message(solid(0, 0, 255), 3), waited_s=4.0)
    assert rig.statistics.over_budget_s() is None


@pytest.mark.parametrize('encoding', ['bgr8', 'rgb8'])
def test_the_log_counts_a_message_that_its_image_is_no_view_of(rig: Rig, encoding: str) -> None:
    msg = image_message(solid(0, 0, 255), 10**9, encoding)
    image = decode(image_from_msg(msg))
    result = rig.pipeline.process(image, 10**9)
    frame = message_frame('front', msg, image_from_msg(msg), image, result, result.verdict, {},
                          'entropy')
    pixels, maps = image.nbytes, result.maps.label.nbytes + result.maps.entropy.nbytes
    copies = 1 if np.may_share_memory(image, np.frombuffer(msg.data, np.uint8)) else 2
    assert frame.memory_bytes == copies * pixels + maps
    assert (encoding, copies) in {('bgr8', 1), ('bgr8', 2), ('rgb8', 2)}
    # What a backend writes with the next frame does not reach what is kept.
    before = frame.uncertainty().copy()
    result.maps.entropy[:] = 0.5
    np.testing.assert_array_equal(frame.uncertainty(), before)
