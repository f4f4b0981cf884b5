# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Which offers satisfy which requests: as rclpy's own check says, and in words."""

import importlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from ros_helpers import HAS_ROS, SKIP_REASON

if not HAS_ROS:
    pytest.skip(SKIP_REASON, allow_module_level=True)

from rclpy.duration import Duration  # noqa: I100
from rclpy.qos import (
    qos_check_compatible,
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)

from uncertainty_seg.ros.graph_watch.qos import camera_qos, flag_qos, picture_qos, report_qos
from uncertainty_seg.ros.graph_watch.qos_sentences import conflicts, has_deadline

pytestmark = pytest.mark.ros

INFINITE_NS = 2**63 - 1
# rclpy's check holds 'not set' for shorter than 'infinite', which is the same in DDS.
PERIODS_NS = st.sampled_from([0, 1, 10**8, 10**9, 5 * 10**9])
PROFILES = st.builds(
    lambda reliability, durability, liveliness, deadline, lease: QoSProfile(
        depth=1, reliability=reliability, durability=durability, liveliness=liveliness,
        deadline=Duration(nanoseconds=deadline),
        liveliness_lease_duration=Duration(nanoseconds=lease)),
    st.sampled_from([QoSReliabilityPolicy.BEST_EFFORT, QoSReliabilityPolicy.RELIABLE]),
    st.sampled_from([QoSDurabilityPolicy.VOLATILE, QoSDurabilityPolicy.TRANSIENT_LOCAL]),
    st.sampled_from([QoSLivelinessPolicy.AUTOMATIC, QoSLivelinessPolicy.MANUAL_BY_TOPIC]),
    PERIODS_NS, PERIODS_NS,
)


@settings(max_examples=500, deadline=None)
@given(offered=PROFILES, requested=PROFILES)
def test_conflicts_are_those_of_rclpys_own_check(offered: Any, requested: Any) -> None:
    verdict, _ = qos_check_compatible(offered, requested)
    assert bool(conflicts(offered, requested)) == (verdict == QoSCompatibility.ERROR)


def spelt_out(qos: Any) -> Any:
    def period(value: Any) -> Any:
        return Duration(nanoseconds=value.nanoseconds or INFINITE_NS)
    return QoSProfile(
        depth=1, reliability=qos.reliability, durability=qos.durability,
        liveliness=qos.liveliness, deadline=period(qos.deadline),
        liveliness_lease_duration=period(qos.liveliness_lease_duration))


@settings(max_examples=200, deadline=None)
@given(offered=PROFILES, requested=PROFILES)
def test_a_period_that_is_not_set_is_infinite(offered: Any, requested: Any) -> None:
    told = conflicts(offered, requested)
    assert conflicts(spelt_out(offered), requested) == told
    assert conflicts(offered, spelt_out(requested)) == told


@settings(max_examples=100, deadline=None)
@given(qos=PROFILES)
def test_a_profile_satisfies_itself(qos: Any) -> None:
    assert conflicts(qos, qos) == []


def test_each_policy_is_named_with_both_values() -> None:
    offered = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT,
                         deadline=Duration(seconds=2))
    requested = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
                           liveliness=QoSLivelinessPolicy.MANUAL_BY_TOPIC,
                           deadline=Duration(seconds=0.25),
                           liveliness_lease_duration=Duration(seconds=1))
    told = {p.name: (p.offered, p.requested) for p in conflicts(offered, requested)}
    assert told == {
        'reliability': ('best effort', 'reliable'),
        'durability': ('volatile', 'transient local'),
        'liveliness': ('automatic liveliness', 'liveliness by topic'),
        'deadline': ('a deadline of 2 s', 'a deadline of 0.25 s'),
        'lease': ('no lease', 'a lease of 1 s'),
    }


def test_a_deadline_of_nothing_or_for_ever_is_none() -> None:
    assert not has_deadline(QoSProfile(depth=1))
    assert not has_deadline(QoSProfile(depth=1, deadline=Duration(nanoseconds=INFINITE_NS)))
    assert has_deadline(flag_qos(0.5))


def test_our_own_ends_meet_the_usual_other_ends() -> None:
    sensor_data = importlib.import_module('rclpy.qos').qos_profile_sensor_data
    default = QoSProfile(depth=10)
    for offered in (sensor_data, default):
        assert conflicts(offered, camera_qos('best_effort')) == []
    for ours in (flag_qos(1.0), report_qos(), picture_qos()):
        assert conflicts(ours, sensor_data) == []
        assert conflicts(ours, default) == []
    assert [p.name for p in conflicts(sensor_data, camera_qos('reliable'))] == ['reliability']
