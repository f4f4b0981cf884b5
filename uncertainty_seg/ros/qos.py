# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Quality of service of every topic, in one place."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)


def camera_qos(reliability: str) -> QoSProfile:
    """
    Ask for the newest camera frame.

    Parameters
    ----------
    reliability : str
        'best_effort' matches every camera; 'reliable' only reliable ones.

    Returns
    -------
    QoSProfile
        Depth 1.

    """
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST, depth=1, durability=QoSDurabilityPolicy.VOLATILE,
        reliability=QoSReliabilityPolicy.RELIABLE if reliability == 'reliable'
        else QoSReliabilityPolicy.BEST_EFFORT,
    )


def flag_qos(stale_timeout_s: float) -> QoSProfile:
    """
    Offer the flag: reliable, never an old one to who joins late, and never silent for long.

    Parameters
    ----------
    stale_timeout_s : float
        The deadline offered; a subscriber that asks for it learns when even the node is gone.

    Returns
    -------
    QoSProfile
        Depth 10.

    """
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST, depth=10, durability=QoSDurabilityPolicy.VOLATILE,
        reliability=QoSReliabilityPolicy.RELIABLE, deadline=Duration(seconds=stale_timeout_s),
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
