# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The frames of a report: small pictures that show what the arrays hold, within a budget."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from report_sample import PALETTE, sample_frame

from uncertainty_seg.calibration.report.data import FrameGroup, Legend, ReportFrame
from uncertainty_seg.calibration.report.pictures import (
    frame_tiles,
    heat_bar,
    IGNORED_RGB,
    NAN_COLOR_BGR,
    paint_heat,
    Tile,
)
from uncertainty_seg.errors import ShapeError

LEGEND = Legend(('a', 'b', 'c'), PALETTE, 255, 'entropy', 0.4)


def pixels(address: str | None) -> np.ndarray[Any, Any]:
    assert address is not None
    raw = base64.b64decode(address.split(',')[1])
    decoded = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


def tiles_of(*frames: ReportFrame, budget: int = 10**7) -> list[tuple[Tile, ...]]:
    return frame_tiles([FrameGroup(frames, len(frames))], LEGEND, budget)[0]


def test_four_pictures_stand_in_order_and_show_what_they_are_called() -> None:
    frame = sample_frame(3)
    image, truth, predicted, heat = tiles_of(frame)[0]
    assert [t.caption for t in (image, truth, predicted, heat)] == [
        'image', 'truth', 'prediction', 'entropy']
    assert np.abs(pixels(image.address).astype(int) - frame.image_bgr).mean() < 3
    colours = np.array(PALETTE, np.uint8)[:, ::-1][frame.predicted]
    np.testing.assert_array_equal(pixels(predicted.address), colours)
    hottest = np.unravel_index(pixels(heat.address).sum(-1).argmax(), frame.heat.shape)
    assert frame.heat[hottest] > 0.9 * LEGEND.heat_upper


def test_truth_and_prediction_are_not_mixed_up_and_ignored_is_grey() -> None:
    frame = sample_frame(3)
    assert frame.truth is not None
    truth = frame.truth.copy()
    truth[:10] = 255
    truth[10:20] = 1
    _, shown, predicted, _ = tiles_of(replace(frame, truth=truth))[0]
    assert (pixels(shown.address)[:10] == IGNORED_RGB[::-1]).all()
    assert (pixels(shown.address)[10:20] == PALETTE[1][::-1]).all()
    assert (pixels(predicted.address)[:20] == PALETTE[0][::-1]).all()


def test_a_smaller_mask_has_no_colour_of_its_own() -> None:
    mask = tiles_of(sample_frame(3, height=960, width=1280))[0][2]
    shown = pixels(mask.address)
    assert shown.shape == (270, 360, 3)
    colours = {tuple(int(v) for v in c) for c in shown.reshape(-1, 3)}
    assert colours == {PALETTE[0][::-1], PALETTE[2][::-1]}


@pytest.mark.parametrize(('height', 'width', 'shape'), [
    (480, 640, (270, 360)), (640, 480, (270, 202)), (90, 1280, (25, 360)), (60, 80, (60, 80)),
    (1, 5000, (1, 360)),
])
def test_pictures_keep_their_form_fit_a_box_and_are_never_made_larger(
    height: int, width: int, shape: tuple[int, int]
) -> None:
    for tile in tiles_of(sample_frame(1, height=height, width=width)
                         if min(height, width) > 8 else blank(height, width))[0]:
        assert pixels(tile.address).shape[:2] == shape


def blank(height: int, width: int) -> ReportFrame:
    label = np.zeros((height, width), np.uint8)
    return ReportFrame('x', np.zeros((height, width, 3), np.uint8), label, label,
                       np.zeros((height, width), np.float32), 1.0, 1.0)


def test_brightness_of_the_heat_grows_with_the_value() -> None:
    ramp = np.linspace(0, 0.4, 256, dtype=np.float32)[None]
    luminance = paint_heat(ramp, 0.4)[0].astype(float) @ [0.0722, 0.7152, 0.2126]
    assert (np.diff(luminance) > -1).all()
    assert luminance[-1] - luminance[0] > 200
    bar = pixels(heat_bar())[0].astype(float) @ [0.0722, 0.7152, 0.2126]
    assert bar[0] < 5 and bar[-1] > 200


def test_nan_is_seen_and_what_lies_above_the_range_is_brightest() -> None:
    painted = paint_heat(np.array([[np.nan, 0.4, 7.0, -1.0, 0.0]], np.float32), 0.4)[0]
    assert tuple(painted[0]) == NAN_COLOR_BGR
    np.testing.assert_array_equal(painted[1], painted[2])
    np.testing.assert_array_equal(painted[3], painted[4])


def noise(seed: int) -> ReportFrame:
    rng = np.random.default_rng(seed)
    frame = sample_frame(seed, height=240, width=320)
    return replace(frame, image_bgr=rng.integers(0, 256, (240, 320, 3), np.uint8),
                   heat=rng.random((240, 320), np.float32))


def size_of(rows: list[tuple[Tile, ...]]) -> int:
    return sum(len(tile.address or '') for row in rows for tile in row)


@pytest.mark.parametrize('budget', [10_000_000, 400_000, 250_000, 120_000])
def test_pictures_fit_the_budget_and_use_it(budget: int) -> None:
    rows = tiles_of(*(noise(k) for k in range(4)), budget=budget)
    assert len(rows) == 4
    assert size_of(rows) <= budget
    # The next larger size, if there is one, would not have fitted.
    widths = {pixels(row[0].address).shape[1] for row in rows}
    assert len(widths) == 1
    assert budget > 1_000_000 or size_of(rows) > budget / 4


def test_a_budget_that_nothing_fits_still_shows_all_frames() -> None:
    rows = tiles_of(noise(1), noise(2), budget=10)
    assert [pixels(row[0].address).shape[1] for row in rows] == [120, 120]


def test_the_first_twelve_are_shown_and_groups_are_kept_apart() -> None:
    many = FrameGroup(tuple(sample_frame(k) for k in range(15)), 40)
    few = FrameGroup((sample_frame(20),), 1)
    assert [len(rows) for rows in frame_tiles([many, few], LEGEND)] == [12, 1]
    alone = frame_tiles([few], LEGEND)
    assert frame_tiles([many, few], LEGEND)[1] == alone[0]


def test_no_truth_is_no_picture() -> None:
    tiles = tiles_of(sample_frame(1, has_truth=False))[0]
    assert [tile.address is None for tile in tiles] == [False, True, False, False]


@pytest.mark.parametrize('part', ['truth', 'predicted', 'heat'])
def test_a_map_of_another_size_is_refused_by_name(part: str) -> None:
    frame = replace(sample_frame(1), **{part: getattr(sample_frame(1), part)[:-1]})
    with pytest.raises(ShapeError, match=r"'dive/frame 1' has shape \(119, 160\), expected \(120"):
        tiles_of(frame)
