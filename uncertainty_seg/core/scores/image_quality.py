# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Scores of the photograph itself: they show what a confident network does not.

Passes agree on a black frame as well as on a good one. These scores look at the pixels before the
network does, do not depend on classes, and each lies in 0..1 and grows as the picture gets worse.
None alone shows that a mask is bad: a sharp picture of open water is flat and blue. They are made
for a threshold on "unlike the calibration frames", alone or in `score_density`.

The image is the one the network sees, padding cut off: detail finer than that does not count, and
thresholds hold for one size of network.

"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8, LabelMap, require_shape
from uncertainty_seg.core.model_card import COLOR_ORDERS
from uncertainty_seg.errors import ShapeError

IMAGE_SCORES = ('darkness', 'overexposure', 'blur', 'low_contrast', 'specks', 'haze',
                'flat_color', 'green_cast', 'blue_cast')
BRIGHTEST = 250
# Blocks of about a twentieth of the height: small enough to lie inside one thing.
BLOCKS_DOWN = 16
DETAIL_QUANTILE = 0.9
# Colour and haze are looked at in a picture this many times smaller: they have no fine detail.
SHRINK = 4
# Grey levels at which a score is a half: what an ordinary photograph of a diver's camera has.
HALF_CONTRAST = 30.0
HALF_CHROMA = 10.0
HALF_SHARPNESS = 0.5
# A speck is smaller than this share of the height; grey levels of it that are taken for noise.
SPECK_SIZE = 1 / 51
SPECK_NOISE = 4.5
# What rounding to bytes adds to the mean square of a second difference, 1/12 times 4^2 + 4.
_ROUNDING = 20 / 12


def image_scores(
    image: ImageU8, color_order: str, ignore: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """
    Score how bad a picture is.

    Raises ShapeError if the image is not (h, w, 3) of bytes, or the mask is not of its size.

    Parameters
    ----------
    image : ndarray of uint8, shape (h, w, 3)
        As the network sees it, without padding.
    color_order : str
        'rgb' or 'bgr'.
    ignore : ndarray of bool, shape (h, w), optional
        True where a pixel is left out. A block that one lies in, or beside, is left out whole.

    Returns
    -------
    dict of str to float
        In the order of `IMAGE_SCORES`. NaN throughout if everything is left out; NaN for blur and
        low contrast if no whole block is left, or the picture is too small for one; NaN for specks
        if no pixel is far enough from what is left out.

        darkness: one minus the mean of the brightest channel.
        overexposure: share of the pixels with a channel at its end.
        blur: how little fine detail the sharpest tenth of the blocks has for its contrast.
        low_contrast: how small the contrast inside the blocks is, where it is largest.
        specks: how far small bright things outweigh small dark ones; about 0.5 without any.
        haze: brightness of the veil, the mean of the darker of green and blue around a pixel.
        flat_color: how little the colours differ within the picture.
        green_cast, blue_cast: where the mean colour lies between red and green, yellow and blue;
        0.5 is neutral.

    """
    require_shape('image', image, (None, None, 3), np.uint8)
    if color_order not in COLOR_ORDERS:
        raise ShapeError(f'colour order {color_order!r}', f'one of {", ".join(COLOR_ORDERS)}')
    if ignore is not None:
        require_shape('ignore mask', ignore, image.shape[:2], np.bool_)
    if not image.size or (ignore is not None and ignore.all()):
        return dict.fromkeys(IMAGE_SCORES, float('nan'))
    code = cv2.COLOR_RGB2GRAY if color_order == 'rgb' else cv2.COLOR_BGR2GRAY
    gray = np.asarray(cv2.cvtColor(image, code), np.uint8)
    scores = {**_exposure(image, ignore), **_detail(gray, ignore), 'specks': _specks(gray, ignore),
              **_color(image, color_order, ignore)}
    return {name: scores[name] for name in IMAGE_SCORES}


def _exposure(image: ImageU8, ignore: NDArray[np.bool_] | None) -> dict[str, float]:
    first, second, third = cv2.split(image)
    brightest = cv2.max(cv2.max(first, second), third)
    over, kept = brightest >= BRIGHTEST, None
    if ignore is not None:
        kept = (~ignore).view(np.uint8)
        over &= ~ignore
    num_kept = brightest.size if kept is None else int(np.count_nonzero(kept))
    return {
        'darkness': 1 - cv2.mean(brightest, kept)[0] / 255,
        'overexposure': int(np.count_nonzero(over)) / num_kept,
    }


def _detail(gray: LabelMap, ignore: NDArray[np.bool_] | None) -> dict[str, float]:
    """Compare second differences with contrast, block by block."""
    side = max(8, round(gray.shape[0] / BLOCKS_DOWN))
    rows, columns = gray.shape[0] // side * side, gray.shape[1] // side * side
    if not rows or not columns:
        return {'blur': float('nan'), 'low_contrast': float('nan')}
    second = cv2.Laplacian(gray, cv2.CV_16S)[:rows, :columns].astype(np.float32)
    levels = gray[:rows, :columns].astype(np.float32)
    mean, square = _block_means(levels, side), _block_means(levels * levels, side)
    contrast = np.sqrt(np.maximum(square - mean * mean, 0))
    energy = np.sqrt(np.maximum(_block_means(second * second, side) - _ROUNDING, 0))
    if ignore is not None:
        # A second difference looks one pixel beyond its block.
        near = cv2.dilate(ignore.view(np.uint8), np.ones((3, 3), np.uint8))[:rows, :columns]
        whole = _block_means(near.astype(np.float32), side) == 0
        contrast, energy = contrast[whole], energy[whole]
    if not contrast.size:
        return {'blur': float('nan'), 'low_contrast': float('nan')}
    # One grey level of noise is no detail of a flat block.
    sharpness = float(np.quantile(energy / (contrast + 1), DETAIL_QUANTILE))
    return {
        'blur': HALF_SHARPNESS / (HALF_SHARPNESS + sharpness),
        'low_contrast': HALF_CONTRAST
        / (HALF_CONTRAST + float(np.quantile(contrast, DETAIL_QUANTILE))),
    }


def _specks(gray: LabelMap, ignore: NDArray[np.bool_] | None) -> float:
    """Compare small bright specks (particles near the lamp) with small dark ones."""
    width = 2 * max(1, round(gray.shape[0] * SPECK_SIZE / 2)) + 1
    shape = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    kept = None
    if ignore is not None:
        # Both reach twice as far as the shape; a square is faster.
        square = np.ones((2 * width - 1, 2 * width - 1), np.uint8)
        kept = (cv2.dilate(ignore.view(np.uint8), square) == 0).view(np.uint8)
        if not kept.any():
            return float('nan')
    bright, dark = (
        _mean_square(cv2.morphologyEx(gray, operation, shape), kept)
        for operation in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT))
    noise = SPECK_NOISE**2
    return (bright + noise / 2) / (bright + dark + noise)


def _mean_square(values: LabelMap, kept: NDArray[np.uint8] | None) -> float:
    mean, spread = (float(v[0, 0]) for v in cv2.meanStdDev(values, mask=kept))
    return mean * mean + spread * spread


def _block_means(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    down, across = values.shape[0] // side, values.shape[1] // side
    # Rows first: whole lines are added at once.
    lines = values.reshape(down, side, -1).sum(1)
    return np.asarray(lines.reshape(down, across, side).sum(2) / side**2, np.float32)


def _color(
    image: ImageU8, color_order: str, ignore: NDArray[np.bool_] | None
) -> dict[str, float]:
    """Look at a smaller picture: its veil, its mean colour, and how colours spread about it."""
    size = max(1, image.shape[1] // SHRINK), max(1, image.shape[0] // SHRINK)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    code = cv2.COLOR_RGB2LAB if color_order == 'rgb' else cv2.COLOR_BGR2LAB
    lab = cv2.cvtColor(small, code)
    blue = small[..., 2 if color_order == 'rgb' else 0]
    # Water absorbs red, so the usual dark channel is red and carries no information.
    veil, kept = cv2.min(small[..., 1], blue), None
    if ignore is not None:
        part = cv2.resize(ignore.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        kept = (part <= part.min()).view(np.uint8)
        veil = cv2.max(veil, 255 * (1 - kept))  # so that it is never the darkest neighbour
    veil = cv2.erode(veil, np.ones((5, 5), np.uint8))
    mean, spread = (values.ravel()[1:] for values in cv2.meanStdDev(lab, mask=kept))
    return {
        'haze': cv2.mean(veil, kept)[0] / 255,
        'flat_color': HALF_CHROMA / (HALF_CHROMA + float(np.hypot(*spread))),
        'green_cast': (256 - float(mean[0])) / 256,
        'blue_cast': (256 - float(mean[1])) / 256,
    }
