# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The loop of node, replay and score: every frame gets a verdict, unless the judge has ended."""

import dataclasses
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle
from fake_backend import FakeBackend
import numpy as np
import pytest

from uncertainty_seg.core.frame_guard import FrameGuard
from uncertainty_seg.core.frame_loop import FrameLoop, Outcome, PlainJudge
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.errors import ImageError
from uncertainty_seg.storage.model_bundle import load_bundle

BLUE = np.zeros((96, 128, 3), np.uint8)
BLUE[..., 0] = 255
SETTINGS = settings_from_dict({'gate.rise_frames': 1})


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    bundle = load_bundle(str(make_tiny_bundle(tmp_path / 'tiny')))
    return Pipeline(bundle, FakeBackend(bundle.card, fail_on_run=3), SETTINGS)


def read_blue() -> np.ndarray:
    return BLUE


def refuse_to_read(error: BaseException) -> Any:
    def read() -> np.ndarray:
        raise error
    return read


def test_a_frame_is_measured_and_judged_and_the_result_holds_the_verdict(
    pipeline: Pipeline
) -> None:
    outcome = FrameLoop(pipeline).take(read_blue, 7)
    assert outcome is not None and outcome.result is not None
    assert outcome.verdict.is_confident
    assert outcome.result.verdict is outcome.verdict is pipeline.verdict
    assert outcome.image_bgr is BLUE
    assert outcome.thresholds == pipeline.thresholds != {}
    assert (outcome.result.stamp_ns, outcome.problem) == (7, '')


def test_what_reading_refuses_is_a_fault_of_the_frame_and_the_next_one_is_taken(
    pipeline: Pipeline
) -> None:
    loop = FrameLoop(pipeline)
    assert loop.take(read_blue, 0).verdict.is_confident
    outcome = loop.take(refuse_to_read(ImageError('no\n  pixels')), 1)
    assert (outcome.verdict.kind, outcome.verdict.is_confident) == ('fault', False)
    assert (outcome.problem, outcome.result, outcome.image_bgr) == ('no pixels.', None, None)
    assert pipeline.verdict is outcome.verdict
    assert loop.take(read_blue, 2).verdict.is_confident


@pytest.mark.parametrize('error', [ValueError('x'), MemoryError(), KeyboardInterrupt()])
def test_a_bug_is_not_taken_for_a_fault_of_the_frame(
    pipeline: Pipeline, error: BaseException
) -> None:
    # Otherwise a tool would succeed with a bag of false flags. The node catches it; see its tests.
    with pytest.raises(type(error)):
        FrameLoop(pipeline).take(refuse_to_read(error), 1)


def test_an_engine_that_fails_is_a_fault_of_the_frame(pipeline: Pipeline) -> None:
    outcomes = [FrameLoop(pipeline).take(read_blue, stamp) for stamp in range(4)]
    assert [one.verdict.is_confident for one in outcomes] == [True, True, False, True]
    assert 'failed on run 3' in outcomes[2].problem


def test_a_damaged_image_is_not_measured_and_is_a_fault_only_by_its_stamp(tmp_path: Path) -> None:
    bundle = load_bundle(str(make_tiny_bundle(tmp_path / 'tiny')))
    limits = dataclasses.replace(bundle.calibration, damage_limits={})  # the fixed limits apply
    pipeline = Pipeline(dataclasses.replace(bundle, calibration=limits),
                        FakeBackend(bundle.card), SETTINGS)
    for loop, kind, words in (
            (FrameLoop(pipeline), 'uncertain', 'the image is damaged'),
            (FrameLoop(pipeline, guard=FrameGuard(SETTINGS)), 'fault', 'receipt')):
        outcome = loop.take(read_blue, 0, clock_ns=lambda: 10**18)
        assert (outcome.verdict.kind, outcome.result) == (kind, None) and words in outcome.problem


class TiredJudge(PlainJudge):
    """A judge that returns None at one of its calls, and records its arguments."""

    def __init__(self, pipeline: Pipeline, ends_at: str) -> None:
        super().__init__(pipeline)
        self.ends_at, self.told = ends_at, []

    def begin(self) -> Any:
        return None if self.ends_at == 'begin' else super().begin()

    def judge(self, force: Any, result: Any, doubt: Any, about: Any) -> Verdict | None:
        self.told.append(about)
        return None if self.ends_at == 'judge' else super().judge(force, result, doubt, about)

    def refuse(self, reason: str, about: Any, kind: str) -> Verdict | None:
        self.told.append((reason, about))
        return None if self.ends_at == 'refuse' else super().refuse(reason, about, kind)


def test_where_nothing_is_decided_any_more_there_is_no_outcome(pipeline: Pipeline) -> None:
    num_read = 0

    def read() -> np.ndarray:
        nonlocal num_read
        num_read += 1
        return BLUE

    assert FrameLoop(pipeline, TiredJudge(pipeline, 'begin')).take(read, 0) is None
    assert num_read == 0
    assert FrameLoop(pipeline, TiredJudge(pipeline, 'judge')).take(read, 0) is None
    assert num_read == 1
    loop = FrameLoop(pipeline, TiredJudge(pipeline, 'refuse'))
    assert loop.take(refuse_to_read(ImageError('no pixels')), 0) is None
    assert loop.refuse('a message of another type') is None


def test_the_judge_gets_what_the_frame_came_with(pipeline: Pipeline) -> None:
    judge = TiredJudge(pipeline, '')
    loop = FrameLoop(pipeline, judge)
    loop.take(read_blue, 0, 'header 1')
    loop.take(refuse_to_read(ImageError('no pixels')), 1, 'header 2')
    outcome = loop.refuse('too old', 'header 3')
    assert judge.told == ['header 1', ('no pixels.', 'header 2'), ('too old', 'header 3')]
    assert outcome == Outcome(pipeline.verdict)
    assert outcome.problem == 'too old'


def test_a_frame_is_judged_by_what_was_in_force_when_it_began(pipeline: Pipeline) -> None:
    def read() -> np.ndarray:
        pipeline.restart('the node was reset')
        return BLUE

    outcome = FrameLoop(pipeline).take(read, 0)
    assert not outcome.verdict.is_confident


@pytest.mark.parametrize(('settings', 'is_frozen', 'flags'), [
    ({'gate.rise_frames': 1}, True, [False] * 4),
    ({'gate.rise_frames': 1}, False, [False, True, True, True]),
    ({}, False, [False, False, True, True]), ({}, True, [False] * 4),
    ({'gate.rise_frames': 1, 'max_repeats': -1}, True, [True] * 4)])
def test_the_first_image_of_a_camera_raises_no_flag(
    tmp_path: Path, settings: dict[str, Any], is_frozen: bool, flags: list[bool]
) -> None:
    bundle = load_bundle(str(make_tiny_bundle(tmp_path / 'tiny')))
    pipeline = Pipeline(bundle, FakeBackend(bundle.card),
                        settings_from_dict({'damage_scale': 0.0, **settings}))
    loop = FrameLoop(pipeline, guard=FrameGuard(pipeline.settings))
    images = [BLUE ^ np.uint8(0 if is_frozen else k) for k in range(4)]
    outcomes = [loop.take(lambda image=image: image, k * 10**8, clock_ns=lambda k=k: k * 10**8)
                for k, image in enumerate(images, start=1)]
    assert [outcome.verdict.is_confident for outcome in outcomes] == flags
    assert all(outcome.result is not None for outcome in outcomes)
