# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the pipeline makes of one frame, and its maps at the size of the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.preprocess import Geometry, unfit_bytes, unfit_label, unfit_map
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.errors import ConfigError


@dataclass(frozen=True)
class FrameResult:
    """
    All that is known of one frame.

    Attributes
    ----------
    stamp_ns : int
        The image's stamp.
    geometry : Geometry
        Where the image lies in the maps.
    maps : UncertaintyMaps
        At network resolution, padding included.
    scores : mapping of str to float
        Without the padding.
    verdict : Verdict
        The flag and why.
    timings_ms : mapping of str to float
        Time a stage.
    passes : int
        T.
    age_s : float
        How old the image was when it was judged; NaN if it was compared with no clock.

    """

    stamp_ns: int
    geometry: Geometry
    maps: UncertaintyMaps
    scores: Mapping[str, float]
    verdict: Verdict
    timings_ms: Mapping[str, float]
    passes: int
    age_s: float = math.nan

    @property
    def label(self) -> LabelMap:
        """Return class ids (H, W) at the size of the image."""
        return self.label_at_source()

    @property
    def confidence(self) -> FloatMap:
        """Return the largest mean probability (H, W), 1/C..1, at the size of the image."""
        return self.map_at_source('confidence')

    def label_at_source(self) -> LabelMap:
        """Return class ids (H, W), letterbox undone."""
        return unfit_label(self.maps.label, self.geometry)

    def confidence_at_source(self) -> NDArray[np.uint8]:
        """Return confidence (H, W) as 0..255; 0 where it is not a number."""
        return unfit_bytes(self.maps.confidence, self.geometry)

    def map_at_source(self, name: str) -> FloatMap:
        """
        Return a map of `maps` by its name, at the size (H, W) of the image; NaN is kept.

        Raises ConfigError if it was not asked for when the frame was measured.
        """
        values = getattr(self.maps, name)
        if values is None:
            raise ConfigError(f'the map {name!r} was not computed for this frame',
                              fix=f'name it in the setting map, or as Pipeline(maps=[{name!r}])')
        return unfit_map(values, self.geometry)
