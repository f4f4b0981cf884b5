# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Mask and maps align with the image to the pixel: a checkerboard with every fit rule and size.

The backend labels each pixel of the network by its brightness, so that the resulting mask must
equal the input checkerboard.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cases import for_each
from conftest import tiny_card, TINY_HEIGHT, TINY_WIDTH
import numpy as np
from numpy.typing import NDArray
import pytest

from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.core.pipeline import FrameResult, Pipeline
from uncertainty_seg.core.plausibility import CheckedBackend
from uncertainty_seg.core.preprocess import Geometry, unfit_label
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import PassSums
from uncertainty_seg.errors import ImageError

FITS = ('letterbox', 'stretch')
# H, W: equal to the network's, odd, larger, smaller, one pixel, extreme.
SIZES = [(48, 64), (96, 128), (480, 640), (720, 1280), (1280, 720), (481, 641), (97, 131),
         (47, 63), (49, 65), (24, 32), (10, 7), (7, 10), (3, 3), (2, 2), (1, 1), (20, 1000),
         (1000, 20), (1, 40), (33, 1), (45, 3000)]
MAPS = ('entropy', 'mutual_information', 'variation_ratio', 'total_variance')


class Brightness(CheckedBackend):
    """
    Three passes that agree on class 0 at dark pixels, and all differ at bright ones.

    Different images may have equal sums, so it derives from CheckedBackend without its checks.
    """

    name = 'brightness'
    timings_ms: Mapping[str, float] = {}

    def __init__(self) -> None:
        pass

    def run(self, image: Any, masks: Any, temperature: float) -> PassSums:
        is_bright = image[..., 0] > 127

        def planes(bright: Any, dark: Any) -> Any:
            return np.where(is_bright, *(np.float32(v).reshape(-1, 1, 1) for v in (bright, dark)))

        still = np.zeros(is_bright.shape, np.float32)
        return PassSums(3, planes([0.9, 1.2, 0.9], [3, 0, 0]), still, still + 3,
                        planes([1, 1, 1], [3, 0, 0]), planes([0, 0, 0], [0, 0, 0]))

    def close(self) -> None:
        return None


def pipeline_of(fit: str, width: int = TINY_WIDTH, height: int = TINY_HEIGHT) -> Pipeline:
    spec = InputSpec(width, height, fit, 'bgr', (0, 0, 0), (1, 1, 1))
    bundle = ModelBundle(folder=Path(), card=tiny_card(
        input=spec, logits_shape=(3, height, width)), calibration=None)
    return Pipeline(bundle, Brightness(), Settings(), temperature=1.0)


def checkerboard(height: int, width: int, cell_y: int, cell_x: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return ((y // cell_y + x // cell_x) % 2).astype(np.uint8)


def run(pipeline: Pipeline, board: NDArray[np.uint8]) -> FrameResult:
    return pipeline.measure(np.repeat(board[..., None] * np.uint8(255), 3, 2), 1)


def far_from_edges(length: int, cell: int, margin: float) -> NDArray[np.bool_]:
    """Return which pixel centres of an axis are further than `margin` from all cell edges."""
    centre = np.arange(length) + 0.5
    edges = np.arange(cell, length, cell)
    if not len(edges):
        return np.ones(length, bool)
    return np.abs(centre[:, None] - edges).min(1) > margin


@for_each('fit', FITS)
@for_each('size', SIZES)
def test_the_mask_is_the_checkerboard_but_for_one_pixel_of_the_network_at_its_edges(
    fit: str, size: tuple[int, int]
) -> None:
    (height, width), pipeline = size, pipeline_of(fit)
    geometry = Geometry.of(height, width, pipeline.card.input)
    inner_h = geometry.rows.stop - geometry.rows.start
    inner_w = geometry.columns.stop - geometry.columns.start
    # A cell has at least four network pixels.
    cells = [max(2, -(-4 * n // inner)) for n, inner in ((height, inner_h), (width, inner_w))]
    board = checkerboard(height, width, *cells)
    result = run(pipeline, board)
    mask = result.label
    assert mask.shape == size
    is_sure = np.ones(size, bool)
    for axis, (n, inner, cell) in enumerate(((height, inner_h, cells[0]),
                                             (width, inner_w, cells[1]))):
        # Margin in source pixels: a network pixel, at least 0.5 when enlarging, 1 when reducing.
        far = far_from_edges(n, cell, max(n / inner, 0.5 if inner > n else 1.0))
        is_sure &= far[:, None] if axis == 0 else far[None]
    assert is_sure.any() or min(size) < 4
    np.testing.assert_array_equal(mask[is_sure], board[is_sure])
    for name in MAPS:
        values = result.map_at_source(name)
        assert values.shape == size
        np.testing.assert_array_equal(values[is_sure] > 0.5, board[is_sure] == 1)
    np.testing.assert_array_equal(result.confidence_at_source()[is_sure] > 127,
                                  board[is_sure] == 0)


@pytest.mark.parametrize('size', [(12, 64), (24, 128), (48, 20), (96, 40)])
def test_a_letterboxed_image_comes_back_exactly_and_its_padding_is_not_seen(
    size: tuple[int, int]
) -> None:
    pipeline = pipeline_of('letterbox')
    factor = max(size[0] // TINY_HEIGHT, size[1] // TINY_WIDTH)
    board = checkerboard(*size, 4 * factor, 4 * factor)
    result = run(pipeline, board)
    inner = result.maps.entropy[result.geometry.rows, result.geometry.columns].copy()
    for name in MAPS:
        getattr(result.maps, name)[:] = np.nan  # padding must not be read
        getattr(result.maps, name)[result.geometry.rows, result.geometry.columns] = inner
    np.testing.assert_array_equal(result.label, board)
    for name in MAPS:
        assert np.isfinite(result.map_at_source(name)).all()


def indices(length: int, inner: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the network pixel that contains each centre, and where that is unambiguous."""
    place = (np.arange(length) + 0.5) * inner / length
    is_clear = np.abs(place - np.rint(place)) > 1 / 128  # OpenCV rounds to 1/65536
    return np.minimum(place.astype(np.intp), inner - 1), is_clear


@for_each('network', [(48, 64), (47, 65), (1, 1), (3, 200)])
@for_each('fit', FITS)
@for_each('size', SIZES)
def test_a_class_is_that_of_the_pixel_that_holds_the_centre(
    size: tuple[int, int], fit: str, network: tuple[int, int]
) -> None:
    spec = InputSpec(network[1], network[0], fit, 'bgr', (0, 0, 0), (1, 1, 1))
    try:
        geometry = Geometry.of(*size, spec)
    except ImageError:
        assert fit == 'letterbox'
        return
    label = np.random.default_rng(1).integers(0, 256, network, np.uint8)
    inner = label[geometry.rows, geometry.columns]
    rows, rows_clear = indices(size[0], inner.shape[0])
    columns, columns_clear = indices(size[1], inner.shape[1])
    is_clear = rows_clear[:, None] & columns_clear
    got, want = unfit_label(label, geometry), inner[rows][:, columns]
    np.testing.assert_array_equal(got[is_clear], want[is_clear])
