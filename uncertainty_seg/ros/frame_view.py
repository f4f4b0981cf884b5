# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The pictures of one frame, each made when somebody asks for it and only once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, ImageU8, LabelMap
from uncertainty_seg.core.frame_result import FrameResult
from uncertainty_seg.core.gate import Verdict
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.render import (
    color_mask,
    draw_flag,
    heatmap,
    heatmap_upper,
    overlay,
)
from uncertainty_seg.core.settings import Settings


class FrameView:
    """
    One frame's outputs at the size of its image.

    Parameters
    ----------
    image_bgr : ndarray of uint8, shape (H, W, 3)
        The camera image.
    result : FrameResult
        What the pipeline made of it.
    verdict : Verdict
        The flag that was published; it can differ from the result's if the frame came too late.
    card : ModelCard
        For the palette.
    settings : Settings
        Map and view.
    thresholds : mapping of str to float
        Calibrated limits, for the heatmap's range.

    """

    def __init__(
        self, image_bgr: ImageU8, result: FrameResult, verdict: Verdict, card: ModelCard,
        settings: Settings, thresholds: Mapping[str, float],
    ) -> None:
        self._image_bgr, self._result, self._verdict = image_bgr, result, verdict
        self._card, self._settings, self._thresholds = card, settings, thresholds

    @property
    def size(self) -> tuple[int, int]:
        """H, W of every picture."""
        return self._image_bgr.shape[0], self._image_bgr.shape[1]

    @cached_property
    def mask(self) -> LabelMap:
        """Class ids (H, W)."""
        return self._result.label_at_source()

    @cached_property
    def confidence(self) -> NDArray[np.uint8]:
        """Largest mean probability (H, W) as 0..255."""
        return self._result.confidence_at_source()

    @cached_property
    def uncertainty(self) -> FloatMap:
        """Return the chosen map (H, W), 0..1, NaN kept."""
        return self._result.map_at_source(self._settings.map)

    @cached_property
    def heatmap(self) -> ImageU8:
        """Return the chosen map in colours (H, W, 3); warm is uncertain."""
        return heatmap(self.uncertainty, heatmap_upper(self._settings, self._thresholds))

    @cached_property
    def mask_color(self) -> ImageU8:
        """Class colours (H, W, 3)."""
        return color_mask(self.mask, self._card.palette)

    @cached_property
    def overlay(self) -> ImageU8:
        """Class colours over the image (H, W, 3), with the flag as border and words."""
        alpha = self._settings.view.overlay_alpha
        picture = overlay(self._image_bgr, self.mask, self._card.palette, alpha)
        return draw_flag(picture, self._verdict)
