# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Pictures: the right colour at each pixel, and NaN has a colour of its own."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from uncertainty_seg.core.grid import Grid
from uncertainty_seg.core.pipeline import FrameResult, NOT_JUDGED
from uncertainty_seg.core.preprocess import Geometry
from uncertainty_seg.core.render import (
    DEFAULT_SPAN,
    FrameView,
    heat_scale,
    heatmap,
    NAN_COLOR_BGR,
    OUTLINE_BGR,
)
from uncertainty_seg.core.settings import Settings

SPAN = (0.1, 0.5)


def grey_image(height: int, width: int, level: int = 128) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def brightness(picture: np.ndarray) -> np.ndarray:
    return picture.astype(float) @ [0.0722, 0.7152, 0.2126]


def test_the_sure_part_is_the_darkened_image_and_the_rest_grows_brighter_and_warmer() -> None:
    values = np.array([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.9]], np.float32)
    picture = heatmap(grey_image(1, 7), values, SPAN)
    assert picture[0, 0].tolist() == picture[0, 1].tolist() == [64, 64, 64]
    assert picture[0, 5].tolist() == picture[0, 6].tolist()
    blue, _, red = picture[0, 2:].astype(int).T
    assert (red - blue > 40).all()
    assert (np.diff(brightness(picture)[0, 2:6]) > 20).all()
    # Equal values have equal colours, whatever else is in the frame.
    assert heatmap(grey_image(1, 3), values[:, :3], SPAN)[0, 2].tolist() == picture[0, 2].tolist()


def test_every_pixel_is_painted_alone_and_neither_map_nor_image_is_changed() -> None:
    rng = np.random.default_rng(0)
    image, values = rng.integers(0, 256, (71, 5, 3), np.uint8), rng.random((71, 5), np.float32)
    values[3, 2] = np.nan
    before = image.copy(), values.copy()
    picture = heatmap(image, values, SPAN)
    for row in range(71):
        alone = heatmap(image[row:row + 1], values[row:row + 1], SPAN)
        assert np.array_equal(picture[row:row + 1], alone)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(values, before[1])


def test_what_is_no_number_has_a_colour_of_its_own_inside_an_outline_too() -> None:
    levels = np.linspace(0, 1, 256, dtype=np.float32)[None]
    colors = heatmap(grey_image(1, 256), levels, (0.0, 1.0))[0].astype(int)
    for own in (NAN_COLOR_BGR, OUTLINE_BGR):
        assert np.abs(colors - own).max(1).min() > 60
    values = np.full((60, 80), 0.3, np.float32)
    values[20:22, 30:40] = np.nan
    outlined = np.zeros((60, 80), bool)
    outlined[20:50, 20:60] = True
    picture = heatmap(grey_image(60, 80), values, SPAN, outlined)
    assert (picture == NAN_COLOR_BGR).all(-1).tolist() == np.isnan(values).tolist()


def test_outlines_are_on_the_edge_of_large_regions_and_not_around_specks_and_lines() -> None:
    outlined = np.zeros((480, 640), bool)
    outlined[100:300, 200:400] = True
    outlined[20:24, :] = outlined[400:403, 500:503] = True
    values = np.zeros((480, 640), np.float32)
    plain = heatmap(grey_image(480, 640), values, SPAN)
    picture = heatmap(grey_image(480, 640), values, SPAN, outlined)
    drawn = (picture != plain).any(-1)
    assert (picture[100:300, 200] == OUTLINE_BGR).all(-1).mean() > 0.8
    rows, columns = np.nonzero(drawn)
    assert 95 <= rows.min() < rows.max() <= 305 and 195 <= columns.min() < columns.max() <= 405
    assert not drawn[110:290, 210:390].any()


def test_the_range_is_calibrated_or_of_the_frames_at_hand_or_the_stated_default() -> None:
    limits = {'entropy.mean': 0.4, 'entropy.top': 0.8, 'unknown.top': 0.7}
    frames = {'entropy.mean': np.array([0.7, np.nan, 0.8, 0.9]),
              'entropy.top': np.array([0.93, 0.94, 0.95, np.inf])}
    assert heat_scale('entropy', limits, frames)[1:] == (0.2, 0.8, 0.7)
    # For a network that is never certain, the picture is not bright everywhere.
    scale = heat_scale('entropy', {}, frames)
    np.testing.assert_allclose(scale[1:3], (0.8, 0.9496))
    assert scale.unknown_above is None
    for thresholds, scores in (({}, None), ({}, {}), ({}, {'entropy.mean': [0.4]}),
                               ({'entropy.mean': 0.4}, frames),
                               ({'entropy.mean': 0.9, 'entropy.top': 0.3}, None)):
        assert heat_scale('entropy', thresholds, scores)[1:3] == DEFAULT_SPAN
    assert heat_scale('mutual_information', {}).upper < DEFAULT_SPAN[0]


def test_the_unknown_is_outlined_where_there_is_a_limit_and_the_legend_says_so() -> None:
    maps = {name: np.zeros((480, 640), np.float32) for name in ('least_confidence', 'unknown')}
    maps['unknown'][:, 320:] = 1
    result: Any = SimpleNamespace(map_at_source=maps.__getitem__)
    card: Any = None
    limits = {'least_confidence.mean': 0.1, 'least_confidence.top': 0.6}
    for thresholds, is_outlined in ((limits, False), ({**limits, 'unknown.top': 0.5}, True)):
        view = FrameView(grey_image(480, 640), result, card, Settings(), thresholds)
        picture = view.heatmap
        cyan = (picture == OUTLINE_BGR).all(-1)
        assert cyan[:440].any() == cyan[460:].any() == is_outlined
        assert (picture[:440, :300] == 64).all()
        # The legend below shows the whole range of colours.
        assert brightness(picture[460:, :400]).max() > 180


def test_confidence_is_rounded_to_bytes_and_what_is_no_number_is_zero() -> None:
    values = np.array([[0, 0.3333, 0.5, 0.999, 1, np.nan]], np.float32)
    geometry = Geometry(1, 6, slice(0, 1), slice(0, 6))
    result = FrameResult(0, geometry, Grid(1, 6, 1, 6), SimpleNamespace(confidence=values), {},
                         NOT_JUDGED, {}, 1)
    assert result.confidence_at_source().tolist() == [[0, 85, 128, 255, 255, 0]]
    assert np.isnan(values[0, -1])  # the map itself is unchanged
