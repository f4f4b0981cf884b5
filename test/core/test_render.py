# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Pictures: the right colour at the right pixel, and NaN never looks like certainty."""

from types import SimpleNamespace

import cv2
import numpy as np

from uncertainty_seg.core.grid import Grid
from uncertainty_seg.core.pipeline import FrameResult, NOT_JUDGED
from uncertainty_seg.core.preprocess import Geometry
from uncertainty_seg.core.render import (
    heatmap,
    two_maps,
)

PALETTE = ((10, 20, 30), (200, 100, 50))


def test_the_heatmap_has_a_fixed_range_and_saturates_above_it() -> None:
    values = np.array([[0.0, 0.1, 0.2, 0.9]], np.float32)
    picture = heatmap(values, 0.2)
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_TURBO)[:, 0]
    assert picture[0].tolist() == table[[0, 127, 255, 255]].tolist()
    # The same value looks the same whatever else is in the frame.
    assert heatmap(values[:, :2], 0.2)[0, 1].tolist() == picture[0, 1].tolist()


def test_two_maps_are_the_same_pixel_by_pixel_in_a_picture_of_any_height() -> None:
    rng = np.random.default_rng(0)
    for height in (1, 32, 71):
        image = rng.integers(0, 256, (height, 3, 3), np.uint8)
        unsure, unknown = rng.random((2, height, 3), np.float32)
        unsure[-1, 0] = np.nan
        before = unsure.copy(), unknown.copy()
        picture = two_maps(image, unsure, unknown, (0.5, 0.7))
        for row in range(height):
            alone = two_maps(*(values[row:row + 1] for values in (image, unsure, unknown)),
                             (0.5, 0.7))
            assert np.array_equal(picture[row:row + 1], alone)
        np.testing.assert_array_equal((unsure, unknown), before)


def test_confidence_is_rounded_to_bytes_and_what_is_no_number_is_zero() -> None:
    values = np.array([[0, 0.3333, 0.5, 0.999, 1, np.nan]], np.float32)
    geometry = Geometry(1, 6, slice(0, 1), slice(0, 6))
    result = FrameResult(0, geometry, Grid(1, 6, 1, 6), SimpleNamespace(confidence=values), {},
                         NOT_JUDGED, {}, 1)
    assert result.confidence_at_source().tolist() == [[0, 85, 128, 255, 255, 0]]
    assert np.isnan(values[0, -1])  # the map itself stays as it is
