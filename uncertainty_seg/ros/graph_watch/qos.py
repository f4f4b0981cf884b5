# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Quality of service of every topic, in one place."""

from __future__ import annotations

from collections.abc import Callable

from rcl_interfaces.msg import SetParametersResult
from rclpy.duration import Duration
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions


def camera_qos(reliability: str) -> QoSProfile:
    """
    Ask for camera frames.

    Parameters
    ----------
    reliability : str
        'best_effort' matches every camera; 'reliable' only reliable ones.

    Returns
    -------
    QoSProfile
        The newest frame alone, of any camera.

    """
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST, depth=1, durability=QoSDurabilityPolicy.VOLATILE,
        reliability=QoSReliabilityPolicy.RELIABLE if reliability == 'reliable'
        else QoSReliabilityPolicy.BEST_EFFORT,
    )


# What the parameters qos_overrides of ROS may change. Deadlines are promises of the settings.
_OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY,
                QoSPolicyKind.DURABILITY)
# Nobody who comes late may read an old verdict.
_OVERRIDABLE_OF_VERDICT = tuple(
    kind for kind in _OVERRIDABLE if kind != QoSPolicyKind.DURABILITY)


def overridable(
    check: Callable[[QoSProfile], str] = lambda profile: '', is_verdict: bool = False,
) -> QoSOverridingOptions:
    """
    Let the standard parameters `qos_overrides.TOPIC.publisher.depth` and so on change a topic.

    Parameters
    ----------
    check : callable, optional
        Given the profile with the overrides, returns why it cannot be; empty if it can.
    is_verdict : bool, optional
        Whether the messages say if a frame was confident: they stay volatile then.

    Returns
    -------
    QoSOverridingOptions
        For `create_publisher` and `create_subscription`.

    """
    def judge(profile: QoSProfile) -> SetParametersResult:
        reason = check(profile)
        return SetParametersResult(successful=not reason, reason=reason)

    kinds = _OVERRIDABLE_OF_VERDICT if is_verdict else _OVERRIDABLE
    return QoSOverridingOptions(kinds, callback=judge)


def flag_qos(stale_timeout_s: float) -> QoSProfile:
    """
    Offer the flag: reliable, no old one for late subscribers, and never silent for long.

    Parameters
    ----------
    stale_timeout_s : float
        The deadline offered; a subscriber that asks for it is notified even if the node has died.

    Returns
    -------
    QoSProfile
        Depth 10.

    """
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST, depth=10, durability=QoSDurabilityPolicy.VOLATILE,
        reliability=QoSReliabilityPolicy.RELIABLE, deadline=Duration(seconds=stale_timeout_s),
    )


def rival_qos() -> QoSProfile:
    """Ask for every flag there is: reliable, depth 100."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST, depth=100, durability=QoSDurabilityPolicy.VOLATILE,
        reliability=QoSReliabilityPolicy.RELIABLE,
    )


def report_qos() -> QoSProfile:
    """Offer scores and status: reliable, depth 10."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST, depth=10, durability=QoSDurabilityPolicy.VOLATILE,
        reliability=QoSReliabilityPolicy.RELIABLE,
    )


def picture_qos() -> QoSProfile:
    """Offer images: reliable, so that every subscriber matches; old ones make room for new."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST, depth=2, durability=QoSDurabilityPolicy.VOLATILE,
        reliability=QoSReliabilityPolicy.RELIABLE,
    )
