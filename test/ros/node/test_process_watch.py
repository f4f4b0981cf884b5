# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A thread that has ended or hangs ends the process, with the cause; messages to systemd."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import dataclasses
import itertools
import os
from pathlib import Path
import socket
import threading
from types import SimpleNamespace
from typing import Any
from unittest import mock

from cases import for_each
import pytest
from ros_fault_node_commands import ENDS, WAITS
from ros_helpers import FAULT_NODE, image_message, solid
from ros_node_rig import node_rig, NodeRig

from uncertainty_seg.ros import process_watch
from uncertainty_seg.ros.process_watch import (
    EXIT_REFUSED,
    EXIT_WATCH,
    LifeSigns,
    LONGEST_LOOK_S,
    LONGEST_TRANSITION_S,
    LOOK_EVERY_S,
    ProcessWatch,
    ServiceManager,
)


def test_systemd_gets_each_message_as_one_datagram_of_lines() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(f'\0notify-{os.getpid()}')
        systemd = ServiceManager(
            {'NOTIFY_SOCKET': f'@notify-{os.getpid()}', 'WATCHDOG_USEC': '600000'})
        assert systemd.tell('READY=1', 'STATUS=two\nlines')
        assert link.recv(4096) == b'READY=1\nSTATUS=two lines'
        assert systemd.feed_every_s == pytest.approx(0.2)
        assert any(not systemd.tell('WATCHDOG=1') for _ in range(100_000))  # nothing reads it


@for_each('address', ['', '/no/such/socket', 'vsock:2:1', '/' + 'x' * 500, '/a\0b'])
def test_without_a_socket_that_works_nothing_is_told_and_nothing_raises(address: str) -> None:
    assert not ServiceManager({'NOTIFY_SOCKET': address}).tell('READY=1')


@for_each('change', [
    {'WATCHDOG_USEC': ''}, {'WATCHDOG_USEC': 'soon'}, {'WATCHDOG_USEC': '0'},
    {'WATCHDOG_PID': '1'}, {'NOTIFY_SOCKET': ''},
])
def test_a_watchdog_that_is_none_or_of_another_process_is_not_fed(change: dict[str, str]) -> None:
    environment = {'NOTIFY_SOCKET': '/s', 'WATCHDOG_USEC': '3000000',
                   'WATCHDOG_PID': str(os.getpid())}
    assert ServiceManager(environment).feed_every_s == pytest.approx(1.0)
    assert ServiceManager({**environment, **change}).feed_every_s == 0.0


class Node:
    """A stub of a node with settable life signs; without `hangs` set its calls block."""

    def __init__(self) -> None:
        self.signs = LifeSigns(stale_s=1.0, stuck_s=10.0, status='active: active')
        self.said: list[str] = []
        self.hangs = threading.Event()
        self.hangs.set()

    def life_signs(self) -> LifeSigns:
        return self.signs

    def fall(self, reason: str) -> None:
        self.hangs.wait(30)
        self.said.append(f'false: {reason}')

    def last_words(self, cause: str) -> None:
        self.hangs.wait(30)
        self.said.append(f'last: {cause}')

    def leave(self, cause: str) -> None:
        self.hangs.wait(30)
        self.said.append(f'leaves: {cause}')


class Rig:
    """A watch of a stub node and service manager; the test calls `look` and sets the clock."""

    def __init__(self) -> None:
        self.now_s, self.codes, self.heard = 500.0, [], []  # type: tuple[float, list[int], Any]
        self.node = Node()
        systemd: Any = SimpleNamespace(
            tell=lambda *lines: self.heard.extend(lines), feed_every_s=0.2)
        self.watch = ProcessWatch(self.node, systemd, self.codes.append, lambda: self.now_s)
        self._beats = itertools.count()

    def look(self, seconds: float = LOOK_EVERY_S) -> None:
        self.now_s += seconds
        self.watch.look()

    def change(self, **signs: Any) -> None:
        self.node.signs = dataclasses.replace(self.node.signs, **signs)

    def run(self, seconds: float, turns: bool = True, beats: bool = True) -> None:
        """Look for `seconds`; the executor runs if `turns`, the worker beats if `beats`."""
        for _ in range(round(seconds / LOOK_EVERY_S)):
            if turns:
                self.watch.turn()
            if beats:
                self.change(worker=next(self._beats))
            self.look()

    def ends(self, look: Callable[[], None]) -> str:
        """Call a look that must end the process; return its last message."""
        with pytest.raises(SystemExit):
            look()
        assert self.codes == [EXIT_WATCH]
        return self.node.said[-1]


def test_a_node_that_is_refused_leaves_at_once_with_its_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str]
) -> None:
    rig = Rig()
    rig.run(1.0)
    rig.change(refusal='the name is taken', transition='configure')
    with pytest.raises(SystemExit):
        rig.look()
    assert rig.codes == [EXIT_REFUSED] == [2]
    assert ['the name is taken' in sentence for sentence in rig.node.said] == [True]
    assert 'the name is taken\n' in capsys.readouterr().err


def test_a_node_whose_threads_work_is_left_alone_and_feeds_the_watchdog() -> None:
    rig = Rig()
    rig.run(20)
    assert (rig.codes, rig.node.said) == ([], [])
    assert rig.heard[:2] == ['STATUS=active: active', 'WATCHDOG=1']
    assert rig.heard.count('STATUS=active: active') == 1
    assert 60 <= rig.heard.count('WATCHDOG=1') <= 101


def test_a_process_that_was_stopped_and_continued_has_not_hung() -> None:
    rig = Rig()
    rig.change(worker=7)
    rig.watch.look()
    for _ in range(int(10 / LONGEST_LOOK_S) - 2):  # stopped for an hour each time
        rig.watch.turn()
        rig.look(3600)
    assert rig.codes == []


def test_callbacks_that_do_not_run_let_the_flag_fall_once_and_end_the_process_later() -> None:
    rig = Rig()
    rig.run(1)
    rig.run(0.8, turns=False)
    assert rig.node.said == []
    rig.run(5, turns=False)
    (sentence,) = rig.node.said
    assert sentence.startswith('false: ') and ' 1.' in sentence
    rig.run(3)  # callbacks run again
    rig.run(2, turns=False)
    assert len(rig.node.said) == 2
    assert 'callback' in rig.ends(lambda: rig.run(10, turns=False))


def test_a_transition_may_take_an_hour_and_then_the_watchdog_is_not_fed() -> None:
    rig = Rig()
    rig.change(transition='configure')
    for _ in range(int(LONGEST_TRANSITION_S / LONGEST_LOOK_S) - 1):
        rig.look(LONGEST_LOOK_S)
    assert (rig.codes, rig.node.said) == ([], [])
    rig.heard.clear()
    rig.look(LONGEST_LOOK_S)
    assert rig.heard == ['WATCHDOG=1']
    rig.heard.clear()
    for _ in range(20):
        rig.look(LONGEST_LOOK_S)
    assert (rig.codes, rig.heard) == ([], [])


def test_a_worker_that_stands_still_ends_the_process_after_the_timeout() -> None:
    rig = Rig()
    rig.run(1)
    rig.change(in_work='a frame of front')
    rig.run(9.8, beats=False)
    assert rig.codes == []
    said = rig.ends(lambda: rig.run(0.5, beats=False))
    assert 'a frame of front' in said and 'stuck_timeout_s' in said
    assert rig.heard[-2:] == ['STOPPING=1', f'STATUS={said.removeprefix("last: ")}']


def test_last_words_that_hang_do_not_keep_the_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process_watch, 'LAST_WORDS_S', 0.05)
    rig = Rig()
    rig.node.hangs.clear()
    rig.change(worker_end='gone')
    with pytest.raises(SystemExit):
        rig.watch.look()
    assert rig.codes == [EXIT_WATCH]
    rig.node.hangs.set()
    # The output has the stack of each thread, for debugging.
    out = capfd.readouterr().err
    assert 'uncertainty_seg_node: ' in out and ' gone; ' in out
    assert 'test_process_watch.py' in out


def test_the_flag_falls_and_the_process_ends_though_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    monkeypatch.setattr(threading.Thread, 'start', mock.Mock(side_effect=RuntimeError))
    rig.run(1.2, turns=False)
    assert rig.node.said[0].startswith('false: ')
    rig.change(worker_end='x')
    assert rig.ends(rig.look).startswith('last: ')


def test_a_watch_that_fails_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    ended = threading.Event()

    def exit_process(code: int) -> None:
        ended.set()
        threading.Event().wait()  # no thread continues after the end of a process

    rig.watch = ProcessWatch(rig.node, ServiceManager({}), exit_process)
    monkeypatch.setattr(rig.node, 'life_signs', lambda: 1 / 0)
    rig.watch.__enter__()
    assert ended.wait(30)
    assert 'ZeroDivisionError' in rig.node.said[-1]


@contextmanager
def running(folder: Path, **parameters: Any) -> Iterator[NodeRig]:
    with node_rig(folder, FAULT_NODE, gate__rise_frames=1, **parameters) as rig:
        rig.client.wait_for_camera_match()
        rig.raise_flag()
        yield rig


def ends(rig: NodeRig, green: int, red: int = 255, encoding: str = 'bgr8') -> list[str]:
    """Send frames with a command until the process has ended; returns all reasons since."""
    first, seconds = len(rig.status), itertools.count(10**6)
    rig.client.watched = None

    def has_ended() -> bool:
        rig.client.camera.publish(image_message(
            solid(0, green, red), next(seconds) * 10**9, encoding))
        rig.client.spin(0.05)
        return not rig.process.is_running
    rig.wait(has_ended, 'the process to end')
    rig.client.spin(0.3)
    assert rig.process.wait() == EXIT_WATCH
    assert not rig.flags[-1].data
    return [s.status[0].message for s in rig.status[first:]]


def test_a_worker_that_ends_takes_the_process_with_it_and_says_so(tmp_path: Path) -> None:
    with running(tmp_path) as rig:
        reasons = ends(rig, ENDS)
        assert 'SystemExit: the worker ends on command' in reasons[-1]
        assert '[FATAL]' in rig.process.output


@pytest.mark.release
def test_a_worker_that_hangs_ends_the_process_with_its_log_whole(tmp_path: Path) -> None:
    from uncertainty_seg.storage.frame_log.format import read_sidecar

    log = tmp_path / 'frames'
    # stuck_timeout_s is longer than the 5 s after which a silent camera is explained.
    with running(tmp_path, stale_timeout_s=0.5, stuck_timeout_s=6.0, log__folder=log,
                 log__control_share=1.0) as rig:
        reasons = ends(rig, WAITS, 0)
        assert any('processing a frame takes too long' in reason for reason in reasons)
        assert 'the worker hangs' in reasons[-1]
        assert not any('lost in transport' in text or 'no frame on' in text for text in reasons)
        assert 'ros_fault_node.py' in rig.process.output  # where it hangs
    folders = list((log / 'frames').iterdir())
    assert folders and all(read_sidecar(folder) for folder in folders)


def test_a_callback_that_hangs_lets_the_flag_fall_and_ends_the_process(tmp_path: Path) -> None:
    with running(tmp_path, stale_timeout_s=0.5, stuck_timeout_s=3.0) as rig:
        reasons = ends(rig, 0, 255, 'hang')
        assert any(' 0.' in reason for reason in reasons) and 'callback' in reasons[-1]
