# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Frames through the real pipeline, on publishers that only record."""

import array
import dataclasses
import gc
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any
import weakref

import cv2
import numpy as np
from owner_rig import Rig
import pytest
from ros_helpers import arrival, image_message, solid

from uncertainty_seg.core.image_codec import decode, ImageFile
from uncertainty_seg.ros.camera_station import CameraStation
from uncertainty_seg.ros.conversions import image_from_msg
from uncertainty_seg.ros.frame_log_link import message_frame
from uncertainty_seg.ros.frame_processor import Outputs
from uncertainty_seg.ros.frame_scheduler import FrameScheduler


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, **{'gate.rise_frames': 1, 'max_age_s': 0.0})


def raise_bug(*_: Any) -> None:
    raise ZeroDivisionError('a bug in a picture')


def test_what_raises_after_the_verdict_changes_no_flag_and_is_counted_for_its_part(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(rig.pictures, 'publish', raise_bug)
        rig.node.topics['~/mask'].num_subscribers = 1
        for name in ('add_latency', 'add_frame', 'add_timings'):
            patch.setattr(rig.statistics, name, raise_bug)
        rig.send()
        for _ in range(3):
            rig.send()
    assert rig.flags == [True] * 4
    assert rig.faults.values() == {'failed.statistics': '12', 'failed.pictures': '4'}
    for part, record in zip(('statistics', 'pictures'), caplog.records, strict=True):
        assert part in record.message and 'ZeroDivisionError: a bug' in record.message
    assert rig.statistics.num_faulty == 0
    assert rig.process.busy_s == 0


def test_a_station_that_was_freed_holds_on_to_no_model(rig: Rig) -> None:
    any_node: Any = rig.node
    pipeline = rig.pipeline.for_camera()
    station = CameraStation(any_node, lambda: rig.settings, 0, 'front')
    scheduler: FrameScheduler[Any] = FrameScheduler()
    station.configure(pipeline)
    station.listen(scheduler, FrameScheduler())
    station.stop_listening()
    model = weakref.ref(pipeline)
    del pipeline, scheduler
    station.free()
    gc.collect()
    assert model() is None


def test_a_frame_counts_its_wait_into_its_latency(rig: Rig) -> None:
    rig.settings = dataclasses.replace(rig.settings, latency_budget_ms=5000.0)
    rig.process(arrival(image_message(solid(0, 0, 255), 1)), waited_s=4.0)
    assert rig.statistics.over_budget_s() is None
    stages = rig.statistics.latencies_ms()
    assert stages['wait'][1] >= 4000
    assert stages['wait'][1] < stages['to_flag'][1]
    rig.process(arrival(image_message(solid(0, 0, 255), 2)), waited_s=6.0)
    assert rig.statistics.over_budget_s() is not None
    rig.process(arrival(image_message(solid(0, 0, 255), 3)), waited_s=4.0)
    assert rig.statistics.over_budget_s() is None


@pytest.mark.parametrize('encoding', ['bgr8', 'rgb8'])
def test_the_log_counts_a_message_that_its_image_is_no_view_of(rig: Rig, encoding: str) -> None:
    msg = image_message(solid(0, 0, 255), 10**9, encoding)
    image = decode(image_from_msg(msg))
    result = rig.pipeline.process(image, 10**9)
    frame = message_frame('front', msg, image, result, {}, 'entropy')
    grid = result.at_grid  # two of C planes, and three maps
    pixels, maps = image.nbytes, 2 * grid.mean.nbytes + 3 * grid.mutual_information.nbytes
    copies = 1 if np.may_share_memory(image, np.frombuffer(msg.data, np.uint8)) else 2
    assert frame.memory_bytes == copies * pixels + maps
    assert (encoding, copies) in {('bgr8', 1), ('bgr8', 2), ('rgb8', 2)}
    # Mask and map are computed only if the log keeps the frame; they equal the published ones.
    assert 'maps' not in vars(result)
    np.testing.assert_array_equal(frame.mask(), result.label)
    np.testing.assert_array_equal(frame.uncertainty(), result.map_at_source('entropy'))


def test_a_file_is_logged_as_it_was_received(rig: Rig) -> None:
    from sensor_msgs.msg import CompressedImage

    data = bytes(cv2.imencode('.jpg', solid(0, 0, 255))[1])
    msg = CompressedImage(format='f' * 9999, data=array.array('B', data))
    msg.header.frame_id = 'c' * 9999
    image = decode(image_from_msg(msg))
    frame = message_frame('', msg, image, rig.pipeline.process(image), {}, 'entropy')
    assert frame.mask().shape == image.shape[:2]
    assert isinstance(frame.image, ImageFile) and bytes(frame.image.data) == data
    # Long texts of a message are cut, so that the sidecar stays readable.
    assert (len(frame.ros_frame), len(frame.encoding)) == (256, 256)


def test_with_a_log_it_decides_alone_what_is_flagged(rig: Rig) -> None:
    offered: list[Any] = []
    log: Any = SimpleNamespace(offer=offered.append)
    process = rig.processor(Outputs(rig.pictures, rig.statistics, log))
    rig.node.topics['~/flagged'].num_subscribers = 1
    process(arrival(image_message(solid(128, 128, 128), 10**9)))
    assert [frame.is_flagged for frame in offered] == [True]
    # A repeated image with the same stamp may be a control frame, but is not flagged for a label.
    process(arrival(image_message(solid(128, 128, 128), 10**9)))
    assert 'occurred before' in offered[1].verdict.reasons[0]
    assert [frame.is_flagged for frame in offered] == [True, False]
    assert rig.node.topics['~/flagged'].sent == []
