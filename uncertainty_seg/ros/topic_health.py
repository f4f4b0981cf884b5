# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The node's health together with what is wrong with its topics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus

from uncertainty_seg.ros.health import Health


@dataclass(frozen=True)
class TopicHealth(Health):
    """
    A look at the node and at its topics.

    Attributes
    ----------
    conflicts : tuple of str
        A sentence for everything that is wrong with a topic now, see `qos_events`.
    deadlines_missed : mapping of str to int
        How often the node was late, a topic.

    """

    conflicts: tuple[str, ...] = ()
    deadlines_missed: Mapping[str, int] = field(default_factory=dict)

    @property
    def level(self) -> bytes:
        """As of the node, but not OK while somebody does not get what they asked for."""
        level = super().level
        return DiagnosticStatus.WARN if self.conflicts and level == DiagnosticStatus.OK else level

    @property
    def message(self) -> str:
        """What the node says; the first sentence on its topics where it only names its state."""
        message = super().message
        return self.conflicts[0] if self.conflicts and message == self.state else message

    def values(self) -> dict[str, str]:
        """List the numbers, then every sentence."""
        values = super().values()
        values |= {f'deadline_missed.{name}': str(n) for name, n in self.deadlines_missed.items()}
        return values | {f'topic.{i}': text for i, text in enumerate(self.conflicts, start=1)}
