# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Parameters of the running node, over its services."""

from collections.abc import Iterator
import math
from pathlib import Path
from typing import Any

import pytest
from ros_node_rig import BAD, node_rig, NodeRig


@pytest.fixture(scope='module')
def rig(folder: Path) -> Iterator[NodeRig]:
    with node_rig(folder, stale_timeout_s=600, gate__rise_frames=1) as rig:
        rig.client.wait_for_camera_match()
        rig.raise_flag()
        yield rig


def test_a_stricter_threshold_lets_the_flag_fall_without_another_frame(rig: NodeRig) -> None:
    # Staleness plays no role here: stale_timeout_s is ten minutes.
    assert rig.verdict()['confident'] == 'true'
    rig.wait(lambda: rig.flags and rig.flags[-1].data, 'the flag to be up')
    assert rig.client.set_parameters(gate__threshold_scale=0.01)[0].successful
    rig.wait(lambda: not rig.flags[-1].data, 'the flag to fall')
    assert float(rig.verdict()['threshold.entropy.mean']) == pytest.approx(0.0072)
    # An integer, as `ros2 param set` parses "1".
    assert rig.client.set_parameters(gate__threshold_scale=1)[0].successful
    assert rig.verdict()['confident'] == 'true'


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'gate__threshold_scale': math.nan}, 'gate.threshold_scale'),
        ({'gate__scores': ['luck']}, 'luck'),
        ({'gate__alpha': 0.2}, 'gate.alpha'),
        ({'map': 'treasure'}, 'treasure'),
        ({'gate__fall_frames': 9}, 'gate.fall_frames'),
        ({'max_age_s': 0.5}, 'read-only'),
        ({'use_sim_time': True}, 'use_sim_time'),
        ({'model': 'other'}, 'model'),
    ],
)
def test_a_bad_change_is_refused_with_a_reason_and_changes_nothing(
    rig: NodeRig, change: dict[str, Any], reason: str
) -> None:
    before = rig.verdict()['threshold.entropy.mean']
    (result,) = rig.client.set_parameters(**change)
    assert not result.successful
    assert reason in result.reason
    assert rig.verdict()['threshold.entropy.mean'] == before


def test_another_deadline_is_offered_and_kept(rig: NodeRig) -> None:
    def offered_s() -> set[float]:
        infos = rig.client.node.get_publishers_info_by_topic('/uncertainty_seg/confident')
        return {info.qos_profile.deadline.nanoseconds / 1e9 for info in infos}

    assert rig.verdict()['confident'] == 'true'
    rig.client.wait_until(lambda: offered_s() == {600}, 'the first deadline')
    assert rig.client.set_parameters(stale_timeout_s=0.5)[0].successful
    # A subscriber with the old deadline may not match the new one, so the flag falls before.
    rig.client.wait_until(lambda: not rig.flags[-1].data, 'the flag to fall')
    rig.client.wait_until(lambda: offered_s() == {0.5}, 'the new deadline')
    # Retried, since on a busy machine a frame may wait for longer than the new deadline.
    rig.client.wait_until(lambda: rig.verdict()['confident'] == 'true', 'the flag')
    # Without frames the flag falls after the new timeout; the old one was ten minutes.
    rig.client.wait_until(lambda: rig.flags and not rig.flags[-1].data, 'the flag to fall')
    rig.client.wait_until(
        lambda: 'no frame on /cam' in rig.status[-1].status[0].message, 'the reason')
    (result,) = rig.client.set_parameters(max_rate_hz=[1.0])
    assert not result.successful and 'stale_timeout_s' in result.reason
    assert rig.client.set_parameters(stale_timeout_s=600)[0].successful
    rig.client.wait_until(lambda: offered_s() == {600}, 'the first deadline again')
    assert rig.verdict()['confident'] == 'true'


def test_settings_that_undo_the_promise_are_said_in_status_and_diagnostics(rig: NodeRig) -> None:
    assert 'gate' not in rig.verdict().get('promise_void_because', '')
    assert rig.client.set_together(gate__fall_frames=100, gate__fall_window=100).successful
    values = rig.verdict()
    assert values['promise'] == 'void' and 'gate.fall_frames' in values['promise_void_because']
    num_before = len(rig.health)
    rig.wait(lambda: [a for a in rig.health[num_before:] if a.status[0].level == b'\x01'
                      and 'gate.fall_frames' in a.status[0].message], 'a warning')
    # The flag stays true over bad frames for less than a second of their stamps.
    rig.raise_flag()
    rig.wait(lambda: rig.verdict(BAD)['confident'] == 'false', 'the flag to fall all the same')
    assert rig.client.set_together(gate__fall_frames=1, gate__fall_window=1).successful
    assert 'gate' not in rig.verdict().get('promise_void_because', '')


def test_a_check_that_is_looser_than_is_safe_voids_the_promise_everywhere(tmp_path: Path) -> None:
    with node_rig(tmp_path, max_skew_s=9.0, damage_scale=2.0) as rig:
        rig.client.wait_for_camera_match()
        values = rig.verdict()
        assert values['promise'] == 'void'
        for name in ('max_age_s', 'max_skew_s', 'max_repeats', 'damage_scale'):
            assert name in values['promise_void_because'] and name in rig.next_health()[
                'checks_off']
            assert any('WARN' in line and name in line
                       for line in rig.process.output.splitlines())
            rig.wait(lambda of=name: rig.verdict() and any(
                of in told.message and told.level == b'\x01'
                for told in rig.health[-1].status), 'a warning')


def test_a_locked_gate_cannot_be_changed_by_anybody_until_the_node_is_cleaned_up(
    tmp_path: Path
) -> None:
    with node_rig(tmp_path, lock_gate=True) as rig:
        client = rig.client
        client.wait_for_camera_match()
        for name, value in (('gate.threshold_scale', 2.0), ('gate.scores', ['entropy.mean']),
                            ('passes', 3), ('stale_timeout_s', 600.0), ('max_age_s', 3600.0),
                            ('damage_scale', 0.0), ('stuck_timeout_s', 0.0),
                            ('use_sim_time', True)):  # ages are measured with that clock
            (result,) = client.set_parameters(**{name.replace('.', '__'): value})
            assert not result.successful and name in result.reason
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
