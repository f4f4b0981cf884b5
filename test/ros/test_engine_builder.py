# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Engine builds in a thread: their progress, their results, and cases without a build."""

from collections.abc import Callable
import threading
from typing import Any

import pytest

from uncertainty_seg.backends.gpu.engine_build import BuildState, EngineBuild
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendError
from uncertainty_seg.ros import node
from uncertainty_seg.ros.node import open_or_build, wait_for_build

BUNDLE: Any = object()
SETTINGS = Settings()


def raising(error: Exception) -> Callable[..., Any]:
    def build(*_: Any) -> None:
        raise error
    return build


def test_it_is_said_at_once_and_as_it_goes_on() -> None:
    said: list[BuildState] = []
    goes_on = threading.Event()

    def build(progress: Callable[[float, str], None]) -> None:
        goes_on.wait(10)
        progress(0.5, 'trunk: parsing')
        while len(said) < 2 or said[-1].share < 0.5:
            threading.Event().wait(0.001)

    def say(state: BuildState) -> None:
        said.append(state)
        goes_on.set()

    wait_for_build(EngineBuild(build), say, lambda: False, 0.001)
    assert said[0] == BuildState(0.0, '')
    assert said[-1] == BuildState(0.5, 'trunk: parsing')


def test_what_is_told_to_stop_stops_at_its_next_report() -> None:
    ended = threading.Event()

    def build(progress: Callable[[float, str], None]) -> None:
        try:
            while True:
                progress(0.1, '')
                threading.Event().wait(0.001)
        finally:
            ended.set()

    with pytest.raises(BackendError, match='stopping'):
        wait_for_build(EngineBuild(build), lambda state: None, lambda: True, 0.01)
    assert ended.is_set()


def test_only_a_missing_engine_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    error = BackendError('the GPU has no memory')
    monkeypatch.setattr(node, 'open_pipeline', raising(error))
    monkeypatch.setattr(node, 'build_here', raising(AssertionError('built')))
    with pytest.raises(BackendError) as caught:
        open_or_build(BUNDLE, SETTINGS, lambda state: None, lambda: False)
    assert caught.value is error
