# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Settings of the frame log: what is kept, as what, and how much of it.

Nested as `log` in `core.settings.Settings`.

"""

from __future__ import annotations

from dataclasses import dataclass

from uncertainty_seg.core.parameters import parameter
from uncertainty_seg.errors import ConfigError

IMAGE_FORMATS = ('received', 'png', 'jpeg')
MEGABYTE = 10**6


@dataclass(frozen=True)
class LogSettings:
    """Which frames are kept on disk."""

    folder: str = parameter(
        '', 'Folder of the frame log, made if missing; empty keeps nothing.',
    )
    dive: str = parameter(
        '', 'Name of the dive in every frame; empty takes the time of the start, or goes on with '
        'the dive of the log if its newest frame was written within 10 minutes. The control is '
        'drawn by this name: the same dive under the same name keeps the same control.', live=True,
    )
    image_format: str = parameter(
        'received', 'received keeps the bytes of compressed images and writes raw ones as png; '
        'png and jpeg write every image so.', choices=IMAGE_FORMATS, live=True,
    )
    jpeg_quality: int = parameter(
        95, 'Quality of image_format jpeg.', lower=1, upper=100, live=True,
    )
    before_s: float = parameter(
        2.0, 'Frames this long before a flagged one are kept with it.', unit='s',
        lower=0.0, upper=60.0, live=True,
    )
    after_s: float = parameter(
        2.0, 'Frames this long after a flagged one are kept with it.', unit='s',
        lower=0.0, upper=3600.0, live=True,
    )
    min_interval_s: float = parameter(
        2.0, 'Least time between two kept frames of a camera; the control is not held to it.',
        unit='s', lower=0.0, upper=86400.0, live=True,
    )
    control_share: float = parameter(
        0.005, 'Share of all frames kept at random, whatever the flag; an unbiased control.',
        lower=0.0, upper=1.0, live=True,
    )
    duplicate_bits: int = parameter(
        4, 'A frame whose perceptual hash differs in fewer of 64 bits from one kept lately is '
        'skipped; 0 skips none.', unit='bits', lower=0, upper=32, live=True,
    )
    duplicate_features: float = parameter(
        0.0, 'A frame whose features are nearer than this (cosine distance) to one kept lately '
        'is skipped, where the backend gives features; 0 skips none.',
        lower=0.0, upper=2.0, live=True,
    )
    score_power: float = parameter(
        1.0, 'When the log is full a frame stays with a chance that grows with its score to this '
        'power; 0 makes all frames equal.', lower=0.0, upper=100.0, live=True,
    )
    quota_mb: float = parameter(
        4096.0, 'Most that the log may take on disk.', unit='MB', lower=0.001, upper=1e9,
        live=True,
    )
    quota_frames: int = parameter(
        100000, 'Most frames in the log.', unit='frames', lower=1, upper=10**7, live=True,
    )
    control_quota: float = parameter(
        0.1, 'Share of both quotas that belongs to the control.', lower=0.0, upper=0.9, live=True,
    )
    free_disk_mb: float = parameter(
        1024.0, 'The log does not grow while less than this is free on its disk.', unit='MB',
        lower=0.0, upper=1e9, live=True,
    )
    queue_frames: int = parameter(
        64, 'Frames that may wait to be written; more are dropped and counted. The control has '
        'four places more.', unit='frames', lower=1, upper=10000, live=True,
    )
    memory_mb: float = parameter(
        256.0, 'Memory for frames that wait: half for those to be written, half for the time '
        'before a flagged frame, which is shortened if need be.', unit='MB',
        lower=1.0, upper=1e6, live=True,
    )
    retry_s: float = parameter(
        5.0, 'Time until the disk is tried again after it refused.', unit='s',
        lower=0.1, upper=3600.0, live=True,
    )

    def __post_init__(self) -> None:
        """Refuse a control that could never be kept."""
        if self.control_share > 0 and self.quota_frames * self.control_quota < 1:
            raise ConfigError(
                f'log.control_quota is {self.control_quota:g} of {self.quota_frames} frames',
                'room for one frame at least', 'raise it, or set log.control_share to 0')
