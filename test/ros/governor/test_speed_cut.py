# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The cable between perception and governor is cut: two network namespaces, a link that goes down.

Needs root and the program ip; skips where either is missing or namespaces are not allowed.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import os
from pathlib import Path
import shutil
import subprocess
import sys
import time

import pytest
from ros_helpers import needs_ros, own_domain, Process, TIMEOUT_S
from ros_speed_rig import DEADLINE_S, governor_arguments, LATE_S, PEER, RATE_HZ, SLOW

pytestmark = needs_ros
# Shared memory would go through the cut: both namespaces are on one machine.
NETWORK = {'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4', 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}
ENTER = ['-c', "import os, sys; os.execvp('ip', sys.argv)"]


class Cable:
    """Two namespaces, and a link between them."""

    def __init__(self) -> None:
        # Names of links have at most 15 letters.
        self.ends = [f'useg{os.getpid() % 10**6}{end}' for end in 'ab']

    def lay(self) -> None:
        first, second = self.ends
        for name in self.ends:
            self._ip('netns', 'add', name)
        self._ip('-n', first, 'link', 'add', first, 'type', 'veth', 'peer', 'name', second,
                 'netns', second)
        for number, name in enumerate(self.ends, 1):
            self._ip('-n', name, 'address', 'add', f'10.213.7.{number}/24', 'dev', name)
            self._ip('-n', name, 'link', 'set', 'lo', 'up')
            self._ip('-n', name, 'link', 'set', name, 'up')
        # Fast DDS takes the interfaces that are up when it starts, and no others later.
        end_s = time.monotonic() + TIMEOUT_S
        while not all(' state UP ' in self._ip('-n', n, 'link', 'show', n) for n in self.ends):
            assert time.monotonic() < end_s, 'the link does not come up'
            time.sleep(0.05)

    def cut(self) -> None:
        self._ip('-n', self.ends[0], 'link', 'set', self.ends[0], 'down')

    def mend(self) -> None:
        self._ip('-n', self.ends[0], 'link', 'set', self.ends[0], 'up')

    def remove(self) -> None:
        for name in self.ends:
            subprocess.run(['ip', 'netns', 'delete', name], check=False, capture_output=True)

    def inside(self, end: int, arguments: list[str]) -> list[str]:
        """Return the arguments of a Python that becomes one in a namespace."""
        return [*ENTER, 'netns', 'exec', self.ends[end], sys.executable, *arguments]

    def _ip(self, *words: str) -> str:
        done = subprocess.run(['ip', *words], check=True, capture_output=True)
        return done.stdout.decode()


@pytest.fixture
def cable() -> Iterator[Cable]:
    if shutil.which('ip') is None or os.getuid() != 0:
        pytest.skip('cutting a network needs root and the program ip (iproute2)')
    cable = Cable()
    try:
        cable.lay()
    except subprocess.CalledProcessError as err:
        cable.remove()
        pytest.skip(f'network namespaces are not allowed here: {err.stderr.decode().strip()}')
    try:
        yield cable
    finally:
        cable.remove()


class Ear:
    """What a listener beside the governor wrote down: times of the machine, and factors."""

    def __init__(self, file: Path, governor: Process) -> None:
        self.file, self._governor = file, governor

    def heard(self) -> list[tuple[float, float]]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        pairs = [line.split() for line in lines]
        return [(float(pair[0]), float(pair[1])) for pair in pairs if len(pair) == 2]

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > end_s or not self._governor.is_running:
                pytest.fail(f'waited for {what}\n{self._governor.output}')
            time.sleep(0.05)

    def wait_for_rise(self) -> None:
        self.wait(lambda: bool(self.heard()) and self.heard()[-1][1] > SLOW + 0.05, 'a rise')


@pytest.mark.release
def test_a_cut_cable_slows_the_vehicle_and_a_mended_one_raises_nothing_at_once(
    cable: Cable, tmp_path: Path
) -> None:
    flag = tmp_path / 'flag'
    flag.write_text('true')
    environment = {**NETWORK, 'UNCERTAINTY_SEG_TEST_DEADLINE_S': str(DEADLINE_S),
                   'UNCERTAINTY_SEG_TEST_FLAG': str(flag),
                   'UNCERTAINTY_SEG_TEST_HEARD': str(tmp_path / 'heard')}
    with own_domain() as domain:
        def start(end: int, arguments: list[str], log: str) -> Process:
            inside = cable.inside(end, arguments)
            processes.append(Process(inside, domain, tmp_path / log, environment))
            return processes[-1]

        processes: list[Process] = []
        try:
            start(0, [*PEER, 'flag'], 'flag.log')
            ear = Ear(tmp_path / 'heard', start(1, governor_arguments(), 'governor.log'))
            start(1, [*PEER, 'listen'], 'listen.log')
            ear.wait_for_rise()
            cable.cut()
            cut_s = time.monotonic()
            ear.wait(lambda: ear.heard()[-1][1] == SLOW, 'the slow factor')
            # Far longer than the deadline, with flags waiting to be sent again.
            time.sleep(4 * DEADLINE_S)
            after = [pair for pair in ear.heard() if pair[0] >= cut_s]
            first = next(n for n, (_, factor) in enumerate(after) if factor == SLOW)
            assert after[first][0] - cut_s <= DEADLINE_S + 1 / RATE_HZ + LATE_S
            assert {factor for _, factor in after[first:]} == {SLOW}
            mended_s = time.monotonic()
            cable.mend()
            ear.wait_for_rise()
            rise_s = next(at for at, factor in ear.heard() if at > mended_s and factor > SLOW)
            assert rise_s - mended_s >= DEADLINE_S  # and settle_s
        finally:
            for process in processes:
                process.end()
