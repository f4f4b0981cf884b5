# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""From grid cells to pixels and back: as in torch, and with a grid offset from the logits."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from uncertainty_seg.core.grid import (
    at_cells,
    bilinear_taps,
    cells,
    Grid,
    offset_like_pixels,
    sample_beside,
    upsample_bilinear,
)
from uncertainty_seg.errors import ShapeError


@pytest.mark.parametrize('corners', [False, True])
@pytest.mark.parametrize('size', [(13, 28), (5, 7), (40, 56), (3, 4)])
def test_upsampling_equals_torch(corners: bool, size: tuple[int, int]) -> None:
    torch = pytest.importorskip('torch')
    values = np.random.default_rng(1).normal(size=(2, 3, 5, 7))
    ours = upsample_bilinear(values, *size, 'align_corners' if corners else 'half_pixel')
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(values), size, mode='bilinear', align_corners=corners).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@hypothesis.given(
    st.integers(2, 9), st.integers(2, 9), st.integers(1, 5), st.floats(0, 0.49),
    st.floats(0, 0.49), st.sampled_from(['half_pixel', 'align_corners']))
@hypothesis.settings(max_examples=60, deadline=None)
def test_a_plane_sampled_beside_the_centres_comes_back_where_it_was(
    rows: int, columns: int, times: int, down: float, across: float, upsampling: str
) -> None:
    """A function linear in the position is exact for any grid offset, except at clamped edges."""
    height, width = rows * (times + 1), columns * (times + 1)
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    plane = 2 * y - 3 * x
    beside = sample_beside(plane, (down, across))
    ours = Grid(rows, columns, height, width, upsampling, (down, across)).spread(beside)
    wanted = upsample_bilinear(plane, height, width, upsampling)
    places = [(low + share) for low, _, share in (
        bilinear_taps(rows, height, upsampling), bilinear_taps(columns, width, upsampling))]
    inner = np.ix_(*(np.flatnonzero((place >= share) & (place <= count - 2 + share))
                     for place, count, share in zip(places, (rows, columns), (down, across),
                                                    strict=True)))
    np.testing.assert_allclose(ours[inner], wanted[inner], atol=1e-9)


@pytest.mark.parametrize('upsampling', ['half_pixel', 'align_corners'])
@pytest.mark.parametrize('times', [2, 4, 8, 16])
def test_beside_the_centres_independent_cells_vary_as_pixels_do(
    upsampling: str, times: int
) -> None:
    rows, columns = 24, 30
    grid = Grid(rows, columns, rows * times, columns * times, upsampling)
    offset = (offset_like_pixels(rows, grid.height, upsampling),
              offset_like_pixels(columns, grid.width, upsampling))
    noise = np.random.default_rng(0).normal(size=(4000, rows, columns))
    pixels = np.mean([grid.spread(one).var() for one in noise[:200]])
    ours, centres = sample_beside(noise, offset).var(), noise.var()
    assert ours == pytest.approx(pixels, rel=0.02)
    assert centres > 1.9 * pixels
    assert 0.2 < offset[0] <= 0.25


def test_the_offset_of_many_pixels_a_cell_is_that_of_gauss_and_of_none_is_0() -> None:
    assert offset_like_pixels(1000, 64_000, 'half_pixel') == pytest.approx(
        (1 - 3**-0.5) / 2, abs=1e-3)
    assert offset_like_pixels(1000, 2000, 'half_pixel') == pytest.approx(0.25, abs=1e-3)
    assert offset_like_pixels(40, 40, 'half_pixel') == offset_like_pixels(1, 8, 'half_pixel') == 0


def test_values_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError):
        Grid(3, 4, 6, 8).spread(np.zeros((2, 4, 4)))


def test_cells_and_masks_follow_the_centres() -> None:
    assert cells(slice(4, 12), 16, 4) == slice(1, 3)
    assert cells(slice(0, 1), 16, 4) == slice(0, 1)  # at least one cell
    assert Grid(4, 8, 16, 32).part(slice(4, 12), slice(0, 32)) == (slice(1, 3), slice(0, 8))
    mask = np.zeros((16, 32), np.bool_)
    mask[:8, :4] = True
    found = at_cells(mask, 4, 8)
    assert found.sum() == 2 and found[:2, 0].all()
    assert at_cells(mask, 16, 32) is mask
