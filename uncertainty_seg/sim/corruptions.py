# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Degrade a photograph in steps, until the mask breaks or the flag falls.

A photograph does not give the distance of everything, so all of it is taken to be at one. That is
enough to ask whether uncertainty grows with the damage. The mask stays valid: nothing is moved.

"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8, require_shape
from uncertainty_seg.errors import ConfigError
from uncertainty_seg.sim.basics import FloatArray, stream
from uncertainty_seg.sim.water import random_water

MAX_SEVERITY = 5
# One entry a severity, from 1 to 5. Lengths are shares of the longer side of the image.
SEEN_THROUGH = (0.70, 0.48, 0.32, 0.20, 0.12)
SCATTER_BLUR = (0.0008, 0.0014, 0.0022, 0.0034, 0.0050)
DARK_GAIN = (0.60, 0.36, 0.21, 0.11, 0.05)
SHOT_NOISE = 0.55
BLUR = (0.0015, 0.003, 0.006, 0.011, 0.020)
LEAST_BLUR_PX = 0.4
CAST_PATH_M = (0.8, 1.8, 3.2, 5.2, 8.0)
SNOW_COUNT = (60, 170, 380, 750, 1400)
VEIL_LEVEL = 150


def corrupt(image_bgr: ImageU8, kind: str, severity: int, seed: int = 0) -> ImageU8:
    """
    Damage an image.

    Raises ConfigError if the kind is unknown or the severity not a whole number from 0 to 5;
    ShapeError if it is not a BGR image of bytes.

    Parameters
    ----------
    image_bgr : ndarray of uint8, shape (H, W, 3)
        Any size.
    kind : str
        'turbidity': a veil of the colour of the water, and forward scatter; contrast falls.
        'darkness': less light, with the shot noise of it; the mean falls.
        'blur': out of focus; sharpness falls.
        'colour_cast': red is lost first, as by metres of water; the mean colour moves away.
        'snow': bright specks of backscatter; the share of changed pixels grows.
    severity : int
        0 (the image itself) to 5.
    seed : int
        Of the water, the noise and the specks. The same seed gives the same image, and the specks
        of a severity are among those of the next.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        A new image.

    """
    require_shape('image', image_bgr, (None, None, 3), np.uint8)
    if kind not in _CORRUPTIONS:
        raise ConfigError(f'the corruption is {kind!r}', f'one of {", ".join(KINDS)}')
    if severity not in range(MAX_SEVERITY + 1):
        raise ConfigError(f'the severity is {severity}', f'0, 1 .. {MAX_SEVERITY}')
    if severity == 0 or not image_bgr.size:
        return image_bgr.copy()
    rng = stream(seed, KINDS.index(kind))
    damaged = _CORRUPTIONS[kind](image_bgr.astype(np.float32), severity - 1, rng)
    return np.clip(np.rint(damaged), 0, 255).astype(np.uint8)


def _turbidity(image: FloatArray, step: int, rng: np.random.Generator) -> FloatArray:
    blue, teal = np.array([0.95, 0.62, 0.12]), np.array([0.50, 0.95, 0.30])
    veil = (blue + (teal - blue) * rng.random()).astype(np.float32) * np.float32(VEIL_LEVEL)
    seen = _blurred(image, SCATTER_BLUR[step])
    return veil + (seen - veil) * np.float32(SEEN_THROUGH[step])


def _darkness(image: FloatArray, step: int, rng: np.random.Generator) -> FloatArray:
    dark = image * np.float32(DARK_GAIN[step])
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return dark + noise * np.sqrt(dark) * np.float32(SHOT_NOISE)


def _blur(image: FloatArray, step: int, _rng: np.random.Generator) -> FloatArray:
    # In a small image, a share of its side alone would be less than a pixel.
    return _blurred(image, BLUR[step], least_px=LEAST_BLUR_PX * (step + 1))


def _colour_cast(image: FloatArray, step: int, rng: np.random.Generator) -> FloatArray:
    absorption = random_water(rng, 0.0).absorption
    # The camera's exposure compensates what the clearest colour loses, and no more.
    lost = absorption - absorption.min()
    return image * np.exp(-lost * np.float32(CAST_PATH_M[step]))


def _snow(image: FloatArray, step: int, rng: np.random.Generator) -> FloatArray:
    height, width = image.shape[:2]
    count = SNOW_COUNT[-1]
    places = rng.random((count, 2)) * (width, height)
    # Few are near, large and out of focus: these are dim, since their light is spread.
    radius = np.clip(rng.lognormal(-6.1, 0.55, count), 0.0012, 0.02)
    level = np.clip(rng.uniform(0.5, 1.0, count) * (0.004 / radius) ** 0.5, 0, 1)
    layer = np.zeros((height, width), np.uint8)
    for (x, y), size, bright in zip(
        places[:SNOW_COUNT[step]], radius * max(height, width), level, strict=False
    ):
        # Drawn apart and kept where brighter, so that a later speck does not hide an earlier one.
        _lighten(layer, float(x), float(y), float(size), int(255 * bright))
    soft = _blurred(layer.astype(np.float32), 0.0010)[..., None] * np.float32(1 / 255)
    return image + (255 - image) * soft


def _lighten(layer: ImageU8, x: float, y: float, radius: float, grey: int) -> None:
    reach = int(np.ceil(radius)) + 2
    left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
    box = layer[top:int(y) + reach + 1, left:int(x) + reach + 1]
    speck = np.zeros_like(box)
    centre = round((x - left) * 16), round((y - top) * 16)
    cv2.circle(speck, centre, round(radius * 16), grey, -1, cv2.LINE_AA, 4)
    np.maximum(box, speck, out=box)


def _blurred(image: FloatArray, share: float, least_px: float = 0.0) -> FloatArray:
    return cv2.GaussianBlur(image, (0, 0), max(max(image.shape[:2]) * share, least_px))


_CORRUPTIONS: dict[str, Callable[[FloatArray, int, np.random.Generator], FloatArray]] = {
    'turbidity': _turbidity,
    'darkness': _darkness,
    'blur': _blur,
    'colour_cast': _colour_cast,
    'snow': _snow,
}
KINDS = tuple(_CORRUPTIONS)
