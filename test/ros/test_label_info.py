# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The names of the classes reach who joins late, through the real message and real DDS."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
import json
import logging
import os
from pathlib import Path
import sys
import time
from typing import Any

from conftest import tiny_card
import pytest
from ros_helpers import HAS_ROS, own_domain, Process, SKIP_REASON, TIMEOUT_S

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from ros_stubs import StubNode  # noqa: I100
import ros_vision_msgs

from uncertainty_seg.ros import publishers as label_info

pytestmark = pytest.mark.ros

PEER = str(Path(__file__).resolve().parents[1] / 'rigs' / 'ros_label_peer.py')
Start = Callable[..., Process]


@pytest.fixture(scope='module')
def messages(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what PYTHONPATH needs for vision_msgs, made by ROS's generators if need be."""
    if ros_vision_msgs.is_installed():
        return ''
    if missing := ros_vision_msgs.missing_tool():
        pytest.skip(f'vision_msgs is not installed, and to build it {missing} is missing')
    return str(ros_vision_msgs.build(tmp_path_factory.mktemp('vision_msgs')))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        domain = stack.enter_context(own_domain())

        def start_one(*words: str, path: str = '') -> Process:
            folders = ':'.join(filter(None, [path, str(Path(PEER).parents[1])]))
            log = tmp_path / f'{words[0]}{time.monotonic_ns()}.txt'
            process = Process([PEER, *words], domain, log, {
                'PYTHONPATH': os.pathsep.join([folders, os.environ['PYTHONPATH']])})
            stack.callback(process.end)
            return process

        yield start_one


def wait_for(text: str, process: Process) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while text not in process.output:
        if time.monotonic() > end_s or not process.is_running:
            pytest.fail(f'waited for {text!r}\n{process.output}')
        time.sleep(0.02)


def heard_by(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.output.splitlines() if line.startswith('{')]


@pytest.mark.release
def test_a_late_subscriber_in_another_process_hears_the_names_of_the_model_of_now(
    messages: str, start: Start
) -> None:
    node = start('publish', path=messages)
    wait_for('ready', node)
    listeners = [start('listen', f'/uncertainty_seg/{camera}/label_info', path=messages)
                 for camera in ('front', 'down')]
    for listener in listeners:
        wait_for('}', listener)
    # What the cleaned up model latched would come as quickly.
    time.sleep(0.5)
    for listener in listeners:
        heard, = heard_by(listener)
        assert heard['classes'] == {'0': 'seabed', '1': 'pipeline', '2': 'Bewuchs, grün'}
        assert heard['threshold'] == 0.0
        assert heard['frame_id'] == ''
        assert 0 < heard['now_ns'] - heard['stamp_ns'] < TIMEOUT_S * 1e9
        assert heard['offers'] == [['RELIABLE', 'TRANSIENT_LOCAL']]


@pytest.fixture
def no_message(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, 'vision_msgs', None)
    label_info._message_types.cache_clear()
    yield
    label_info._message_types.cache_clear()


def test_without_vision_msgs_nothing_is_created_and_one_line_says_so(
    no_message: None, caplog: pytest.LogCaptureFixture
) -> None:
    stub: Any = StubNode()
    with caplog.at_level(logging.DEBUG, 'uncertainty_seg'):
        cameras = [label_info.LabelInfoPublisher(stub, f'~/{name}', tiny_card())
                   for name in 'ab']
        for camera in cameras:
            camera.close()
    assert not stub.topics
    record, = caplog.records
    assert record.levelno == logging.INFO


def test_a_vision_msgs_that_is_broken_in_another_way_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch, no_message: None, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, 'vision_msgs')
    (tmp_path / 'vision_msgs').mkdir()
    (tmp_path / 'vision_msgs' / '__init__.py').write_text('1 / 0')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        label_info.LabelInfoPublisher(StubNode(), '~/label_info', tiny_card())
