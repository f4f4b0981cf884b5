# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Every setting of the speed governor, with its meaning, unit and range: the one source.

The node's parameters and the table in docs/speed_governor.md are made from this class. Imports
no ROS.

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from uncertainty_seg.core.parameters import from_dict, parameter
from uncertainty_seg.errors import ConfigError

TICKS_A_DEADLINE = 2.0


@dataclass(frozen=True)
class SpeedSettings:
    """How much speed a flag is worth."""

    slow_factor: float = parameter(
        0.2, 'Speed factor without a flag that can be relied on; 0 stops the vehicle.',
        lower=0.0, upper=1.0,
    )
    deadline_s: float = parameter(
        1.0, 'A flag this old is stale, and so is one not renewed for so long. Also the deadline '
        'asked of its publisher, so at least the stale_timeout_s of the node that publishes it.',
        unit='s', lower=0.05, upper=3600.0,
    )
    settle_s: float = parameter(
        2.0, 'Least time the flag must keep coming as true before the factor rises; at least '
        'deadline_s, so that old messages that arrive at once raise nothing.',
        unit='s', lower=0.05, upper=3600.0,
    )
    rise_per_s: float = parameter(
        0.1, 'How fast the factor rises after that.', unit='1/s', lower=0.001, upper=100.0,
    )
    fall_per_s: float = parameter(
        0.0, 'How fast the factor falls; 0 is at once.', unit='1/s', lower=0.0, upper=100.0,
    )
    compare_clocks: bool = parameter(
        True, 'Count the age of a flag from when it was sent, by the system clocks of both '
        'machines; false counts from its arrival, for clocks that differ.',
    )
    rate_hz: float = parameter(
        10.0, 'How often the factor is published and the deadline looked at; at least '
        f'{TICKS_A_DEADLINE:g} / deadline_s.', unit='Hz', lower=1.0, upper=1000.0,
    )
    command_timeout_s: float = parameter(
        0.5, 'Without a velocity command for this long one zero command is published, and then '
        'none until the next comes.', unit='s', lower=0.05, upper=3600.0,
    )
    stamped: bool = parameter(
        False, 'Commands are geometry_msgs/TwistStamped in and out, as with Nav2 from Kilted on.',
    )

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.settle_s < self.deadline_s:
            raise ConfigError(
                f'settle_s is {self.settle_s:g}', f'at least deadline_s, {self.deadline_s:g}',
                'with less, a flag from before a cut could raise the speed after it',
            )
        if self.rate_hz * self.deadline_s < TICKS_A_DEADLINE:
            raise ConfigError(
                f'rate_hz is {self.rate_hz:g}',
                f'at least {TICKS_A_DEADLINE:g} / deadline_s, '
                f'{TICKS_A_DEADLINE / self.deadline_s:g}',
                'else a stale flag is noticed too late',
            )


def speed_settings_from_dict(values: Mapping[str, object]) -> SpeedSettings:
    """Build checked settings from names; see `core.parameters.from_dict`."""
    return from_dict(SpeedSettings, values)
