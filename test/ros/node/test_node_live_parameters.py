# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Parameters of the running node, over its services."""

from collections.abc import Iterator
import math
from pathlib import Path
from typing import Any

from conftest import make_tiny_bundle
import pytest
from ros_helpers import (
    Client,
    image_message,
    needs_ros,
    node_arguments,
    own_domain,
    Process,
    solid,
    values_of,
)

pytestmark = needs_ros


class Rig:

    def __init__(self, process: Process, client: Client) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from std_msgs.msg import Bool

        self.process, self.client = process, client
        self.status = client.listen('/uncertainty_seg/status', DiagnosticArray)
        self.flags = client.listen('/uncertainty_seg/confident', Bool)
        self.health = client.listen('/diagnostics', DiagnosticArray)
        self._second = 1000
        client.wait_for_camera_match()

    def judged(self, pixels: Any) -> bool:
        """Send one frame and return its flag."""
        self._second += 1
        self.client.camera.publish(image_message(pixels, self._second * 10**9))
        status = self.client.wait_until(
            lambda: [s for s in self.status
                     if s.header.frame_id and s.header.stamp.sec == self._second], 'status')[-1]
        return values_of(status)['confident'] == 'true'

    def verdict(self) -> dict[str, str]:
        """Send a good frame and return what the node says of it."""
        first = self._second + 1

        def answered() -> Any:
            self._second += 1
            msg = image_message(solid(0, 0, 255), self._second * 10**9)
            self.client.camera.publish(msg)
            self.client.spin(0.05)
            return [s for s in self.status if s.header.frame_id and s.header.stamp.sec >= first]
        return values_of(self.client.wait_until(answered, 'status')[-1])


@pytest.fixture(scope='module')
def rig(tmp_path_factory: Any) -> Iterator[Rig]:
    folder: Path = tmp_path_factory.mktemp('parameters')
    bundle = make_tiny_bundle(folder / 'tiny')
    with own_domain() as domain:
        arguments = node_arguments(bundle, stale_timeout_s=600, gate__rise_frames=1)
        process = Process(arguments, domain, folder / 'log')
        client = Client(domain, process)
        try:
            rig = Rig(process, client)
            # A node withholds its flag in its first two seconds.
            client.wait_until(lambda: rig.verdict()['confident'] == 'true', 'the flag')
            yield rig
        finally:
            client.close()
            process.end()


def test_a_stricter_threshold_lets_the_flag_fall_without_another_frame(rig: Rig) -> None:
    # The watchdog is out of it here: its time is ten minutes.
    assert rig.verdict()['confident'] == 'true'
    rig.client.wait_until(lambda: rig.flags and rig.flags[-1].data, 'the flag to be up')
    assert rig.client.set_parameters(gate__threshold_scale=0.01)[0].successful
    rig.client.wait_until(lambda: not rig.flags[-1].data, 'the flag to fall')
    rig.client.wait_until(
        lambda: 'the gate was changed' in [s.status[0].message for s in rig.status], 'the reason')
    assert float(rig.verdict()['threshold.entropy.mean']) == pytest.approx(0.0072)
    # A whole number, as `ros2 param set` makes of "1".
    assert rig.client.set_parameters(gate__threshold_scale=1)[0].successful
    assert rig.verdict()['confident'] == 'true'


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'gate__threshold_scale': math.nan}, 'gate.threshold_scale'),
        ({'gate__threshold_scale': 'strict'}, 'gate.threshold_scale'),
        ({'gate__scores': ['luck']}, 'luck'),
        ({'gate__alpha': 0.2}, 'gate.alpha is 0.2'),
        ({'map': 'treasure'}, 'treasure'),
        ({'gate__fall_frames': 9}, 'gate.fall_frames'),
        ({'max_age_s': 0.5}, 'read-only'),
        ({'lock_gate': True}, 'read-only'),
        ({'passes': 0}, 'passes is 0'),
        ({'model': 'other'}, 'model cannot be changed'),
    ],
)
def test_a_bad_change_is_refused_with_a_reason_and_changes_nothing(
    rig: Rig, change: dict[str, Any], reason: str
) -> None:
    before = rig.verdict()['threshold.entropy.mean']
    (result,) = rig.client.set_parameters(**change)
    assert not result.successful
    assert reason in result.reason
    assert rig.verdict()['threshold.entropy.mean'] == before


def test_another_number_of_passes_is_taken_at_once_and_not_trusted(rig: Rig) -> None:
    assert rig.verdict()['passes'] == '8'
    assert rig.client.set_parameters(passes=3)[0].successful
    verdict = rig.verdict()
    assert (verdict['passes'], verdict['confident']) == ('3', 'false')
    assert rig.status[-1].status[0].message == 'passes is 3: the limits are for 8'
    assert rig.client.set_parameters(passes=-1)[0].successful
    verdict = rig.verdict()
    assert (verdict['passes'], verdict['confident']) == ('8', 'true')


def test_another_deadline_is_offered_and_kept(rig: Rig) -> None:
    def offered_s() -> set[float]:
        infos = rig.client.node.get_publishers_info_by_topic('/uncertainty_seg/confident')
        return {info.qos_profile.deadline.nanoseconds / 1e9 for info in infos}

    assert rig.verdict()['confident'] == 'true'
    rig.client.wait_until(lambda: offered_s() == {600}, 'the first deadline')
    assert rig.client.set_parameters(stale_timeout_s=0.5)[0].successful
    # Who asked for the old deadline may never hear of the new one: the flag falls before.
    rig.client.wait_until(lambda: not rig.flags[-1].data, 'the flag to fall')
    assert any('the deadline was changed' in s.status[0].message for s in rig.status)
    rig.client.wait_until(lambda: offered_s() == {0.5}, 'the new deadline')
    # Again where a busy machine let the frame wait for as long as that.
    rig.client.wait_until(lambda: rig.verdict()['confident'] == 'true', 'the flag')
    # No frame comes now, and the flag falls by the new time: the old one is ten minutes.
    rig.client.wait_until(lambda: rig.flags and not rig.flags[-1].data, 'the flag to fall')
    rig.client.wait_until(
        lambda: 'no frame on /cam' in rig.status[-1].status[0].message, 'the reason')
    (result,) = rig.client.set_parameters(max_rate_hz=[1.0])
    assert 'more than 1 / stale_timeout_s = 2' in result.reason
    assert rig.client.set_parameters(stale_timeout_s=600)[0].successful
    rig.client.wait_until(lambda: offered_s() == {600}, 'the first deadline again')
    assert rig.verdict()['confident'] == 'true'


def test_a_budget_that_is_exceeded_is_a_warning_and_an_error_once_it_lasts(rig: Rig) -> None:
    def health(level: bytes) -> Any:
        rig.verdict()
        return [s.status[0] for s in rig.health if s.status[0].level == level]

    del rig.health[:]
    assert rig.client.set_parameters(latency_budget_ms=1e6)[0].successful
    rig.client.wait_until(lambda: health(b'\x00'), 'health within the budget')
    together = rig.client.set_together(latency_budget_ms=1e-3)
    assert together.successful
    for level in (b'\x01', b'\x02'):
        (first, *_) = rig.client.wait_until(lambda level=level: health(level), 'a warning')
        assert 'budget of 0.001 ms' in first.message
    assert rig.client.set_parameters(latency_budget_ms=0.0)[0].successful
    del rig.health[:]
    rig.client.wait_until(lambda: health(b'\x00'), 'health again')
    values = {pair.key for pair in rig.health[-1].status[0].values}
    assert {'latency.wait_ms', 'latency.to_flag_ms', 'latency.total_ms'} <= values


def test_settings_that_undo_the_promise_are_said_in_status_and_diagnostics(rig: Rig) -> None:
    def diagnosed(level: bytes, words: str) -> None:
        num_before = len(rig.health)
        rig.client.wait_until(
            lambda: [a for a in rig.health[num_before:]
                     if a.status[0].level == level and words in a.status[0].message], words)

    assert rig.verdict()['promise'] == 'none'
    assert rig.client.set_together(gate__fall_frames=100, gate__fall_window=100).successful
    values = rig.verdict()
    assert values['promise'] == 'void'
    assert 'gate.fall_frames is 100, above 1' in values['promise_void_because']
    diagnosed(b'\x01', 'gate.fall_frames is 100')
    # The flag is up over bad frames, for less than a second by their stamps: as much lies between
    # the frames here.
    assert rig.verdict()['confident'] == 'true'
    grey = [rig.judged(solid(128, 128, 128)) for _ in range(3)]
    assert grey == [True, False, False]
    assert rig.client.set_together(gate__fall_frames=1, gate__fall_window=1).successful
    assert rig.verdict()['promise'] == 'none'


def test_a_locked_gate_cannot_be_changed_by_anybody_until_the_node_is_cleaned_up(
    tmp_path: Path
) -> None:
    bundle = make_tiny_bundle(tmp_path / 'tiny')
    with own_domain() as domain:
        process = Process(node_arguments(bundle, lock_gate=True), domain, tmp_path / 'log')
        client = Client(domain, process)
        try:
            client.wait_for_camera_match()
            for change in ({'gate__threshold_scale': 2.0}, {'gate__threshold_scale': 0.5},
                           {'gate__scores': ['entropy.mean']}, {'passes': 3},
                           {'stale_timeout_s': 600.0},
                           {'use_sim_time': True}):  # ages are counted by that clock
                (result,) = client.set_parameters(**change)
                name = next(iter(change)).replace('__', '.')
                assert not result.successful
                assert f'{name} cannot be changed while the node is configured' in result.reason
            assert client.set_parameters(use_sim_time=False)[0].successful
            assert not client.set_together(map='entropy', use_sim_time='yes').successful
            assert not client.set_together(map='entropy', gate__alpha=0.5).successful
            assert client.set_parameters(map='entropy')[0].successful
            assert client.change_state('deactivate')
            assert not client.set_parameters(gate__threshold_scale=2.0)[0].successful
            assert client.change_state('cleanup')
            assert client.set_parameters(gate__threshold_scale=0.5)[0].successful
            assert client.change_state('configure')
            assert not client.set_parameters(gate__threshold_scale=1.0)[0].successful
        finally:
            client.close()
            process.end()
