# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Resizing to the network's size and back is aligned to the pixel."""


import numpy as np
import pytest

from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.core.preprocess import (
    fit_image,
    Geometry,
    PADDING_VALUE,
    unfit_map,
)
from uncertainty_seg.errors import ImageError


def spec(fit: str = 'letterbox', order: str = 'bgr') -> InputSpec:
    return InputSpec(128, 96, fit, order, (0, 0, 0), (1, 1, 1))


def test_letterbox_keeps_the_aspect_and_pads_with_grey_on_both_sides() -> None:
    image = np.full((100, 400, 3), 9, np.uint8)
    geometry = Geometry.of(100, 400, spec())
    assert (geometry.rows, geometry.columns) == (slice(32, 64), slice(0, 128))
    fitted = fit_image(image, geometry, spec())
    assert (fitted[geometry.rows, geometry.columns] == 9).all()
    assert (fitted[:32] == PADDING_VALUE).all()
    assert (fitted[64:] == PADDING_VALUE).all()


def test_the_colour_order_of_the_network_is_met() -> None:
    image = np.zeros((96, 128, 3), np.uint8)
    image[..., 0] = 200  # blue
    geometry = Geometry.of(96, 128, spec())
    assert fit_image(image, geometry, spec(order='rgb'))[0, 0].tolist() == [0, 0, 200]
    assert fit_image(image, geometry, spec())[0, 0].tolist() == [200, 0, 0]


def test_nan_survives_the_way_back() -> None:
    values = np.zeros((96, 128), np.float32)
    values[40, 50] = np.nan
    back = unfit_map(values, Geometry.of(192, 256, spec()))
    assert np.isnan(back[80, 100])
    assert np.isnan(back).sum() < 30


@pytest.mark.parametrize('size', [(0, 5), (5, 0), (1, 5000)])
def test_an_image_that_cannot_be_fitted_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f'{size[1]}x{size[0]}'):
        Geometry.of(*size, spec())


@pytest.mark.parametrize('tall', [False, True])
def test_a_ramp_along_the_side_that_grows_stays_in_place_while_the_other_shrinks_far(
    tall: bool
) -> None:
    step = 12
    ramp = np.repeat((np.arange(20) * step).astype(np.uint8)[:, None], 1000, 1)
    image = np.repeat((ramp.T if tall else ramp)[..., None], 3, 2)
    size = spec('stretch')
    geometry = Geometry.of(image.shape[0], image.shape[1], size)
    fitted = fit_image(np.ascontiguousarray(image), geometry, size)
    values = fitted[5, :, 0] if tall else fitted[:, 5, 0]
    place = np.clip((np.arange(len(values)) + 0.5) * 20 / len(values) - 0.5, 0, 19)
    assert np.abs(values - place * step).max() <= 1


def test_rows_that_shrink_far_are_averaged_though_the_columns_are_not() -> None:
    image = np.zeros((960, 128, 3), np.uint8)
    image[4::10] = image[5::10] = 200  # stripes finer than the network's resolution
    fitted = fit_image(image, Geometry.of(960, 128, spec('stretch')), spec('stretch'))
    assert (np.abs(fitted.astype(int) - 40) <= 1).all()
