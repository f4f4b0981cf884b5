# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From light to an 8-bit picture: marine snow, exposure, white balance, blur, noise, compression.

The exposure follows each picture by itself, without the lag of a real camera.

"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.sim.camera import Camera
from uncertainty_seg.sim.noise import FloatArray
from uncertainty_seg.sim.water import Formed, lamps_of, LUMA, Water

SNOW_BOX_M = 3.0
LEAST_TRANSMISSION, LEAST_LEVELS = 0.045, 8.0


@dataclass(frozen=True, eq=False)
class Sensor:
    """
    How the camera turns light into bytes.

    Parameters
    ----------
    target : float
        Level, 0..1 and linear, to which the bright part of the image is exposed.
    tint : ndarray of float32, shape (3,)
        White balance and colour cast, BGR gains.
    noise : float
        Standard deviation at mid grey, in grey levels.
    motion_px : tuple of float
        Movement during the exposure.
    quality : int
        Of the JPEG the picture went through; 0 for none.
    snow : float
        Particles a cubic metre.

    """

    target: float
    tint: FloatArray
    noise: float
    motion_px: tuple[float, float]
    quality: int
    snow: float


def random_sensor(rng: np.random.Generator, water: Water) -> Sensor:
    """Draw a sensor whose white balance partly undoes the water."""
    strength = rng.uniform(0.35, 1.0) * np.clip((0.85 - water.turbidity) / 0.4, 0.15, 1)
    lost = water.attenuation * 3.2
    gains = np.exp(np.clip((lost - lost[1]) * strength, -1.0, 0.95))
    cast = gains * np.exp(rng.normal(0, 0.05, 3))
    motion = rng.normal(0, 1.2, 2) * (rng.random() < 0.5)
    quality = int(rng.integers(35, 90)) if rng.random() < 0.6 else 0
    return Sensor(float(rng.uniform(0.26, 0.5)), cast.astype(np.float32),
                  float(rng.uniform(1.0, 4.5)), (float(motion[0]), float(motion[1])), quality,
                  float(rng.uniform(2, 14) + 45 * water.turbidity ** 1.5))


def exposure(formed: Formed, sensor: Sensor) -> float:
    """Return the gain that brings the bright part of the image to the sensor's target."""
    small = cv2.resize(formed.light, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    bright = float(np.percentile(small @ (LUMA * sensor.tint), 88))
    return float(np.clip(sensor.target / max(bright, 1e-6), 0.5, 160))


def _tone(linear: FloatArray) -> FloatArray:
    """Map linear light to 0..1: straight below, a soft shoulder above, then display gamma."""
    soft = linear / np.sqrt(np.sqrt(1 + (linear * linear) ** 2))
    return np.power(np.maximum(soft, 0), np.float32(1 / 1.9))


def visible(formed: Formed, gain: float) -> NDArray[np.bool_]:
    """
    Return where an object can be seen at all.

    Enough light must pass the water, and an object of albedo 0.2 must differ from a black one by
    `LEAST_LEVELS` grey levels in the finished picture.
    """
    veil = formed.veil * np.float32(gain)
    step = _tone(veil + formed.signal * np.float32(gain)) - _tone(veil)
    return (formed.transmission >= LEAST_TRANSMISSION) & (step >= LEAST_LEVELS / 255)


def _snow(rng: np.random.Generator, camera: Camera, water: Water, sensor: Sensor, drift: FloatArray
          ) -> FloatArray:
    """Return the light of drifting particles near the camera, (H, W), as lamps light them."""
    count = int(sensor.snow * SNOW_BOX_M ** 3)
    home = rng.random((count, 3), dtype=np.float32) * np.float32(SNOW_BOX_M)
    size = np.clip(rng.lognormal(-7.0, 0.45, count), 0.0003, 0.004).astype(np.float32)
    points = np.mod(home + drift - camera.position, np.float32(SNOW_BOX_M))
    points = points - np.float32(SNOW_BOX_M / 2) + camera.position
    pixels, depth = camera.project(points)
    width, height = camera.size
    seen = (depth > 0.22) & (np.abs(pixels[:, 0] - width / 2) < width * 0.52) \
        & (np.abs(pixels[:, 1] - height / 2) < height * 0.52)
    points, pixels, depth, size = points[seen], pixels[seen], depth[seen], size[seen]
    power = np.zeros(depth.size, np.float32)
    for lamp in lamps_of(water, camera):
        _, away, light = lamp.reach(points)
        power += light * np.exp(-(away + depth) * water.attenuation[1])
    sharp = camera.focal_px * size / depth
    blur = np.float32(camera.focal_px * 0.004) * np.abs(1 / depth - 0.6) + 0.6
    radius = np.hypot(sharp, blur)
    level = power * (sharp / radius) ** 2 * np.float32(0.55)
    scale = max(float(level.max(initial=1e-6)), 1e-6)
    layer = np.zeros((height, width), np.uint8)
    fixed = np.round(pixels * 16).astype(int)
    span = np.round(radius * 16).astype(int)
    grey = np.ceil(np.sqrt(level / scale) * 255).astype(int)
    for k in np.argsort(level):
        cv2.circle(layer, (int(fixed[k, 0]), int(fixed[k, 1])), int(span[k]), int(grey[k]), -1,
                   cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(layer, (0, 0), 0.7).astype(np.float32) * np.float32(1 / 255)
    return soft * soft * np.float32(scale / np.pi)


def _smear(image: FloatArray, motion: tuple[float, float]) -> FloatArray:
    """Blur along the movement of the camera."""
    length = float(np.hypot(*motion))
    if length < 0.7:
        return image
    size = 2 * int(np.ceil(length / 2)) + 3
    kernel, middle = np.zeros((size, size), np.uint8), size // 2
    ends = [np.round((middle + np.array(motion) * k / 2) * 16).astype(int) for k in (-1, 1)]
    cv2.line(kernel, tuple(map(int, ends[0])), tuple(map(int, ends[1])), 255, 1, cv2.LINE_AA, 4)
    weights = kernel.astype(np.float32) / max(float(kernel.sum()), 1.0)
    return cv2.filter2D(image, -1, weights)


def develop(formed: Formed, gain: float, camera: Camera, water: Water, sensor: Sensor,
            streams: tuple[np.random.Generator, np.random.Generator], drift: FloatArray
            ) -> NDArray[np.uint8]:
    """
    Turn light into a BGR picture (H, W, 3), with the `gain` from `exposure`.

    The two `streams` draw the particles of marine snow (the same in every frame of a dive), which
    have drifted `drift` (3,) metres, and the noise (another in each frame).
    """
    light = formed.light + _snow(streams[0], camera, water, sensor, drift)[..., None]
    light = light * (np.float32(gain) * sensor.tint)
    height, width = light.shape[:2]
    u = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light *= (1 - np.float32(0.13) * (u * u + v * v))[..., None]
    picture = _smear(_tone(light), sensor.motion_px) * np.float32(255)
    noise = streams[1].standard_normal(picture.shape, dtype=np.float32)
    picture += noise * (np.float32(sensor.noise) * (1.35 - picture / np.float32(380)))
    image = np.clip(picture + np.float32(0.5), 0, 255).astype(np.uint8)
    if sensor.quality:
        _, packed = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, sensor.quality])
        image = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return image
