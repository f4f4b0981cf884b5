# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Connects the node to the frame log: processed messages become frames of the log.

A frame that the log has written is published on `~/flagged`, so that a plain `ros2 bag record` of
that topic holds the same frames as the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import copy
from dataclasses import dataclass, replace
import logging
from os.path import expanduser
import time
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.image_codec import ImageFile
from uncertainty_seg.core.pipeline import FrameResult, Pipeline
from uncertainty_seg.core.settings import MEGABYTE, Settings, to_dict
from uncertainty_seg.ros.conversions import AnyImage, image_from_msg
from uncertainty_seg.storage.frame_log.format import about_run, LogAbout, LogFrame
from uncertainty_seg.storage.frame_log.log import FrameLog

_log = logging.getLogger(__name__)
CLOSE_TIMEOUT_S = 5.0
# Longest text taken from a message, in characters; the middleware may allow any length.
MAX_TEXT = 256
NOT_LOGGING = 'nothing is logged: log.folder is empty, or the node is not configured'


@dataclass(frozen=True)
class MessageFrame(LogFrame):
    """
    A frame of the log, with its message as received.

    A doubtful frame has an unusable stamp or unusable pixels, such as those of a frozen camera:
    it may serve as a control, but is not worth labelling.
    """

    message: AnyImage | None = None
    is_doubtful: bool = False

    @property
    def is_flagged(self) -> bool:
        """Return whether the frame is worth labelling."""
        return super().is_flagged and not self.is_doubtful

    @property
    def memory_bytes(self) -> int:
        """Return the bytes that the frame occupies while it waits, including its message."""
        if self.message is None or isinstance(self.image, ImageFile):
            return super().memory_bytes  # a compressed file is a view of its message
        data = np.frombuffer(self.message.data, np.uint8)
        is_same = np.may_share_memory(data, self.image)
        return super().memory_bytes + (0 if is_same else data.nbytes)


def message_frame(
    camera: str, msg: AnyImage, image_bgr: ImageU8, result: FrameResult,
    thresholds: Mapping[str, float], map_name: str, is_doubtful: bool = False,
) -> MessageFrame:
    """Describe a processed message and its result, with the verdict as published, for the log."""
    # Keep only the inputs of the maps: the trunk's features may be ten times as large.
    grid = copy.copy(result.at_grid)
    grid.features = None
    held = (grid.mean, grid.mutual_information, grid.variation_ratio, grid.total_variance,
            grid.logits)
    kept = replace(result, at_grid=grid)
    # A raw image is logged as decoded, a compressed one as received.
    is_file = isinstance(msg, CompressedImage)
    file = image_from_msg(msg) if is_file else None
    image = file if isinstance(file, ImageFile) else image_bgr
    return MessageFrame(
        stamp_ns=result.stamp_ns, camera=camera, ros_frame=msg.header.frame_id[:MAX_TEXT],
        image=image,
        encoding=str(msg.format if is_file else msg.encoding)[:MAX_TEXT], verdict=result.verdict,
        scores=dict(result.scores), thresholds=dict(thresholds),
        mask=lambda: kept.label, uncertainty=lambda: kept.map_at_source(map_name),
        held_bytes=sum(part.nbytes for part in held), message=msg, is_doubtful=is_doubtful,
    )


class RunLog:
    """
    The frame log of a run, from configure to cleanup; none if `log.folder` is empty.

    `on_kept` is called with a frame once it is on disk, from the log's thread. Raises
    FrameLogError or ConfigError if the folder cannot be used.
    """

    def __init__(
        self, settings: Settings, pipeline: Pipeline, on_kept: Callable[[Any], None]
    ) -> None:
        self._dive = time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())
        self.log: FrameLog | None = None
        if settings.log.folder:
            self.log = FrameLog(expanduser(settings.log.folder), settings.log,
                                self._about(settings, pipeline), lambda frame, _: on_kept(frame))
            state = self.log.state()
            _log.info('frames are logged in %s, which holds %d of them, %.0f of %g MB',
                      settings.log.folder, state.num_frames, state.num_bytes / MEGABYTE,
                      settings.log.quota_mb)

    def reconfigure(self, settings: Settings, pipeline: Pipeline) -> None:
        """Apply live settings."""
        if self.log is not None:
            self.log.reconfigure(settings.log, self._about(settings, pipeline))

    def _about(self, settings: Settings, pipeline: Pipeline) -> LogAbout:
        return about_run(self._dive, pipeline.card, pipeline.passes, to_dict(settings))

    def trigger(self) -> tuple[bool, str]:
        """Log the newest frame of every camera now; return whether that works, and a sentence."""
        if self.log is None:
            return False, NOT_LOGGING
        num_frames, state = self.log.trigger(), self.log.state()
        if not state.is_writing:
            return False, state.error or 'the log cannot write'
        if not num_frames:
            return False, 'no frame to keep: none came yet, or the log cannot take it'
        return True, f'{num_frames} frame(s) on the way to {state.folder}'

    def values(self) -> dict[str, str]:
        """Return the values for /diagnostics."""
        return {} if self.log is None else {
            'log.dive': self.log.dive, **self.log.state().as_dict()}

    def trouble(self) -> str:
        """Return why the log cannot write; empty if it can."""
        if self.log is not None and self.log.has_ended:
            return ('the thread of the frame log has ended, and nothing is logged any more: '
                    'clean the node up and configure it again')
        return '' if self.log is None else self.log.state().error

    def close(self) -> None:
        """Write the waiting frames, and close the log."""
        if self.log is not None and not self.log.close(CLOSE_TIMEOUT_S):
            _log.warning('the disk of %s does not respond; the waiting frames are dropped',
                         self.log.settings.folder)
        self.log = None
