# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A speed governor in a process, and what it says with the time it said it; used by the ROS tests.

What a test holds against a deadline is the system time at which the governor sent a factor, not
when this process came to read it. Only a limit on how late it may be leaves room for a busy
machine; what must never happen is looked at without any.

"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import signal
import time
from typing import Any

from ros_helpers import Client, own_domain, Process

GOVERNOR = ['-m', 'uncertainty_seg.ros.governor.node']
PEER = [str(Path(__file__).resolve().parents[2] / 'rigs' / 'ros_speed_peer.py')]
SLOW, DEADLINE_S, RATE_HZ = 0.25, 0.5, 10.0
# Ten times and more what was measured on a busy machine; far below the 20 s after which Fast DDS
# gives up a participant by itself.
LATE_S = 8.0
# From the governor's look at the clock to the stamp of the message, if it is interrupted between.
STAMPED_LATE_S = 0.25
# A killed peer leaves the graph after this many seconds, and not after Fast DDS's own 20.
LEASE_S = 6
PROFILE = f"""<profiles xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
<participant profile_name="peer" is_default_profile="true"><rtps><builtin><discovery_config>
<leaseDuration><sec>{LEASE_S}</sec></leaseDuration>
<leaseAnnouncement><sec>1</sec></leaseAnnouncement>
</discovery_config></builtin></rtps></participant></profiles>
"""


def governor_arguments(*words: str, **parameters: Any) -> list[str]:
    """Return the arguments that run a governor which settles and rises in seconds."""
    values = {'slow_factor': SLOW, 'deadline_s': DEADLINE_S, 'settle_s': DEADLINE_S,
              'rise_per_s': 1.0, 'command_timeout_s': 600, **parameters}
    words = (*GOVERNOR, '--ros-args', *words)
    for name, value in values.items():
        words += ('-p', f'{name}:={str(value).lower() if isinstance(value, bool) else value}')
    return list(words)


class SpeedRig:

    def __init__(self, domain: int, folder: Path, governor: Process, stamped: bool) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from geometry_msgs.msg import (
            Twist,
            TwistStamped,
        )
        from std_msgs.msg import Float32

        self.domain, self.folder, self.governor = domain, folder, governor
        self.client = Client(domain, governor)
        self.factors: list[tuple[float, float]] = []  # (system time sent, factor)
        node = self.client.node
        node.create_subscription(Float32, '/speed_governor/speed_factor', self._on_factor, 50)
        kind = TwistStamped if stamped else Twist
        self.limited = self.client.listen('/cmd_vel_limited', kind)
        self.health = self.client.listen('/diagnostics', DiagnosticArray)
        self.commands = node.create_publisher(kind, '/cmd_vel', 10)
        self._flag = folder / 'flag'
        self._profile = folder / 'profile.xml'
        self._profile.write_text(PROFILE)
        self._peers: list[Process] = []
        self.wait(lambda: self.factors and self.commands.get_subscription_count(), 'the governor')
        self.client.wait_for_topics('/cmd_vel_limited')

    def _on_factor(self, msg: Any, info: Any) -> None:
        self.factors.append((info['source_timestamp'] * 1e-9, msg.data))

    @property
    def factor(self) -> float:
        return self.factors[-1][1]

    def wait(self, condition: Any, what: str) -> Any:
        return self.client.wait_until(condition, what)

    def speak(self, word: str, deadline_s: float = DEADLINE_S) -> Process:
        """Start a stand-in of the perception node; the one before, if it still runs, ends."""
        self._end_peers()
        ended_s = now_s()  # what was heard before is of the one before
        self.wait(lambda: self.factors[-1][0] > ended_s and self.factor == SLOW, 'the slow factor')
        self.say(word)
        return self._start(self._flag, deadline_s)

    def speak_beside(self, word: str) -> Process:
        """Start another publisher of the flag beside the stand-in; it says this word only."""
        self.say_beside(word)
        return self._start(self.folder / 'beside', DEADLINE_S)

    def _start(self, file: Path, deadline_s: float) -> Process:
        log = self.folder / f'peer_{file.name}'
        self._peers.append(Process([*PEER, 'flag'], self.domain, log, {
            'FASTRTPS_DEFAULT_PROFILES_FILE': str(self._profile),
            'FASTDDS_DEFAULT_PROFILES_FILE': str(self._profile),
            'UNCERTAINTY_SEG_TEST_FLAG': str(file),
            'UNCERTAINTY_SEG_TEST_DEADLINE_S': str(deadline_s)}))
        return self._peers[-1]

    def say(self, word: str) -> None:
        """Let the stand-in say another word from now on; nothing, with an empty one."""
        _replace(self._flag, word)

    def say_beside(self, word: str) -> None:
        """Let the publisher beside the stand-in say another word from now on."""
        _replace(self.folder / 'beside', word)

    def wait_for_rise(self, above: float = SLOW + 0.05) -> None:
        self.wait(lambda: self.factor > above, f'a factor above {above}')

    def wait_for_slow(self) -> None:
        self.wait(lambda: self.factor == SLOW, 'the slow factor')

    def hear(self, num_more: int = 5) -> list[float]:
        """Return the next factors, half a second of them."""
        num_before = len(self.factors)
        self.wait(lambda: len(self.factors) >= num_before + num_more, 'more factors')
        return [factor for _, factor in self.factors[num_before:]]

    def wait_for_reason(self, text: str) -> None:
        """Wait until the governor says so of itself, from now on."""
        num_before = len(self.health)
        self.wait(lambda: any(text in msg.status[0].message for msg in self.health[num_before:]),
                  f'diagnostics with {text!r}')

    def assert_slow_in_time(self, lost_s: float, deadline_s: float = DEADLINE_S) -> float:
        """
        Hold what was heard against the promise, for a flag whose last message is from `lost_s`.

        Returns the seconds from there to the first slow factor.
        """
        self.wait_for_slow()
        self.hear()
        after = [(sent_s, factor) for sent_s, factor in self.factors if sent_s >= lost_s]
        slow_s = next(sent_s for sent_s, factor in after if factor == SLOW) - lost_s
        assert slow_s <= deadline_s + 1 / RATE_HZ + LATE_S
        # Whatever the load: a deadline after it the last flag is stale, and nothing may rise.
        rises = [b[0] for a, b in zip(self.factors, self.factors[1:], strict=False) if b[1] > a[1]]
        assert all(sent_s - lost_s < deadline_s + STAMPED_LATE_S for sent_s in rises)
        return slow_s

    def close(self) -> None:
        self._end_peers()
        self.client.close()

    def _end_peers(self) -> None:
        for peer in self._peers:
            peer.send_signal(signal.SIGCONT)
            peer.end()
        self._peers.clear()


@contextmanager
def speed_rig(folder: Path, *words: str, **parameters: Any) -> Iterator[SpeedRig]:
    """Start a governor and listen to it."""
    with own_domain() as domain:
        governor = Process(governor_arguments(*words, **parameters), domain, folder / 'log')
        rig = None
        try:
            rig = SpeedRig(domain, folder, governor, bool(parameters.get('stamped')))
            yield rig
        finally:
            if rig is not None:
                rig.close()
            governor.send_signal(signal.SIGCONT)
            governor.end()


def _replace(file: Path, text: str) -> None:
    new = file.with_suffix('.new')
    new.write_text(text)
    new.rename(file)


def now_s() -> float:
    """Return the system time, as the middleware stamps with."""
    return time.time()
