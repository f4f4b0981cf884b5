# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the node says of itself on /diagnostics, once a second, in every state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from std_msgs.msg import Header

from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.ros import qos
from uncertainty_seg.ros.diagnostics import diagnostics_message, HEALTH_NAME
from uncertainty_seg.ros.engine_builder import BuildState
from uncertainty_seg.ros.frame_statistics import FrameStatistics


@dataclass(frozen=True)
class Health:
    """
    A look at the node.

    Attributes
    ----------
    state : str
        Lifecycle state.
    is_stale, is_confident : bool
        Active without a verdict for too long; the flag as published last.
    why_down, hint : str
        Why the flag is down; why no frame comes, where that is known, else empty.
    model : str
        The parameter.
    pipeline : Pipeline or None
        None until configured.
    statistics : FrameStatistics
        Since the last activation.
    num_received, num_dropped, num_repeated : int
        New frames that came, those replaced by newer ones before their turn, and messages that
        were the frame before once more.
    published : mapping of str to int
        Pictures made of each topic.
    build : BuildState or None
        How far the engine is that is being built; None if none is.
    conflicts : tuple of str
        A sentence for everything that is wrong with a topic now, see `qos_events`.
    deadlines_missed : mapping of str to int
        How often the node was late, a topic.

    """

    state: str
    is_stale: bool
    is_confident: bool
    why_down: str
    hint: str
    model: str
    pipeline: Pipeline | None
    statistics: FrameStatistics
    num_received: int
    num_dropped: int
    num_repeated: int
    published: Mapping[str, int]
    build: BuildState | None = None
    conflicts: tuple[str, ...] = ()
    deadlines_missed: Mapping[str, int] = field(default_factory=dict)

    @property
    def level(self) -> bytes:
        """OK for usable frames, ERROR for none or faulty ones; WARN while not active or heard."""
        if self.state != 'active':
            return DiagnosticStatus.WARN
        if self.is_stale or self.statistics.is_faulty:
            return DiagnosticStatus.ERROR
        return DiagnosticStatus.WARN if self.conflicts else DiagnosticStatus.OK

    @property
    def message(self) -> str:
        """The build, the hint, why no verdict comes, a fault, a conflict, or the state."""
        if self.build is not None:
            return str(self.build)
        if self.hint or self.is_stale:
            return self.hint or self.why_down
        is_faulty = self.state == 'active' and self.statistics.is_faulty
        if is_faulty:
            return self.statistics.last_fault
        return self.conflicts[0] if self.conflicts else self.state

    def values(self) -> dict[str, str]:
        """List the numbers."""
        stats = self.statistics
        values = {
            'state': self.state,
            'model': self.model,
            'confident': str(self.is_confident).lower(),
            'frames_received': str(self.num_received),
            'frames_dropped': str(self.num_dropped),
            'frames_repeated': str(self.num_repeated),
            'frames_processed': str(stats.num_processed),
            'frames_faulty': str(stats.num_faulty),
            'rate_hz': f'{stats.rate_hz():.2f}',
            'last_fault': stats.last_fault,
        }
        if self.pipeline is not None:
            values['backend'] = self.pipeline.backend_name
            values['passes'] = str(self.pipeline.passes)
        if self.build is not None:
            values['engine_build_percent'] = f'{self.build.share * 100:.0f}'
            values['engine_build_phase'] = self.build.phase
        for stage, (median, largest) in stats.latencies_ms().items():
            values[f'latency.{stage}_ms'] = f'median {median:.2f}, max {largest:.2f}'
        values |= {f'published.{name}': str(n) for name, n in self.published.items()}
        values |= {f'deadline_missed.{name}': str(n) for name, n in self.deadlines_missed.items()}
        return values | {f'topic.{i}': text for i, text in enumerate(self.conflicts, start=1)}


class HealthPublisher:
    """
    Publish to /diagnostics for as long as the node lives.

    Parameters
    ----------
    node : Node
        Owns the publisher.

    """

    def __init__(self, node: Node) -> None:
        self._clock = node.get_clock()
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', qos.report_qos())

    def publish(self, health: Health) -> None:
        """Say how the node is."""
        self._publisher.publish(diagnostics_message(
            Header(stamp=self._clock.now().to_msg()), HEALTH_NAME, health.level,
            health.message, health.values(), health.model,
        ))
