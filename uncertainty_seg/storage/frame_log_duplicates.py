# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Tell whether a frame shows what was kept lately already."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.log_settings import LogSettings
from uncertainty_seg.core.perceptual_hash import hash_distance
from uncertainty_seg.storage.frame_log_frame import LogFrame

# So many frames kept lately are looked at.
NUM_RECENT = 16


@dataclass(frozen=True)
class _Recent:
    phash: int
    features: NDArray[np.float32] | None
    is_flagged: bool


class RecentFrames:
    """The frames kept lately, of each camera by itself."""

    def __init__(self) -> None:
        self._cameras: dict[str, deque[_Recent]] = {}

    def add(self, frame: LogFrame, phash: int) -> None:
        """Note a frame that was kept."""
        recent = self._cameras.setdefault(frame.camera, deque(maxlen=NUM_RECENT))
        recent.append(_Recent(phash, frame.features, frame.is_flagged))

    def has_one_like(self, frame: LogFrame, phash: int, settings: LogSettings) -> bool:
        """
        Look for a near-duplicate.

        Parameters
        ----------
        frame : LogFrame
            The frame.
        phash : int
            Its perceptual hash.
        settings : LogSettings
            How near is too near; either measure is enough.

        Returns
        -------
        bool
            A flagged frame is a duplicate of flagged ones only: what made it so may be small, and
            then the scene is like before and the news is not.

        """
        return any(
            hash_distance(phash, old.phash) < settings.duplicate_bits
            or cosine_distance(frame.features, old.features) < settings.duplicate_features
            for old in self._cameras.get(frame.camera, ())
            if old.is_flagged or not frame.is_flagged
        )


def cosine_distance(a: NDArray[np.float32] | None, b: NDArray[np.float32] | None) -> float:
    """Return 1 - cos of two feature vectors; infinite if one is missing, zero or of other size."""
    if a is None or b is None or a.shape != b.shape:
        return math.inf
    norm = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return 1.0 - float(a @ b) / norm if norm > 0 else math.inf
