# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which offers satisfy which requests, by the rules of DDS, in words.

Requested-versus-offered of the DDS specification (OMG DDS 1.4, section 2.2.3): reliability,
durability, deadline and liveliness. History and depth never conflict.

"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)

# What rmw calls infinite; a duration of nothing means the same there.
INFINITE_NS = 9223372036854775807
# Every middleware takes the first of them for the second.
AUTOMATIC = (QoSLivelinessPolicy.SYSTEM_DEFAULT, QoSLivelinessPolicy.AUTOMATIC)


@dataclass(frozen=True)
class Policy:
    """A policy of which the offer does not satisfy the request; both in words."""

    name: str
    offered: str
    requested: str


def conflicts(offered: QoSProfile, requested: QoSProfile) -> list[Policy]:
    """
    List the policies that keep a publisher and a subscriber apart.

    Parameters
    ----------
    offered, requested : QoSProfile
        The publisher's and the subscriber's.

    Returns
    -------
    list of Policy
        Empty if they match. A policy that is unknown or left to the system is no conflict.

    """
    found = []
    if (offered.reliability == QoSReliabilityPolicy.BEST_EFFORT
            and requested.reliability == QoSReliabilityPolicy.RELIABLE):
        found.append(Policy('reliability', 'best effort', 'reliable'))
    if (offered.durability == QoSDurabilityPolicy.VOLATILE
            and requested.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL):
        found.append(Policy('durability', 'volatile', 'transient local'))
    if (offered.liveliness in AUTOMATIC
            and requested.liveliness == QoSLivelinessPolicy.MANUAL_BY_TOPIC):
        found.append(Policy('liveliness', 'automatic liveliness', 'liveliness by topic'))
    for name, what in (('deadline', 'deadline'), ('liveliness_lease_duration', 'lease')):
        promised, wanted = _period_ns(offered, name), _period_ns(requested, name)
        if promised > wanted:
            found.append(Policy(what, _period(what, promised), _period(what, wanted)))
    return found


def has_deadline(qos: QoSProfile) -> bool:
    """Tell whether a deadline is set."""
    return _period_ns(qos, 'deadline') < INFINITE_NS


def seconds_in_words(period_ns: int) -> str:
    """Write a period as people do, in seconds."""
    return f'{period_ns / 1e9:g} s'


def _period_ns(qos: Any, name: str) -> int:
    period_ns = int(getattr(qos, name).nanoseconds)
    return period_ns if 0 < period_ns < INFINITE_NS else INFINITE_NS


def _period(what: str, period_ns: int) -> str:
    if period_ns == INFINITE_NS:
        return f'no {what}'
    return f'a {what} of {seconds_in_words(period_ns)}'
