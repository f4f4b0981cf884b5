# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Light in the water, and the camera sensor: lamps, attenuation, veil, silt, marine snow, noise.

Single scattering only; formulas and sources are in docs/reference/models.md. A cloud of silt is
additional, uneven extinction that drifts as a whole. Each picture has its own exposure.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.sim.basics import Camera, FloatArray, ramp, sample_tile
from uncertainty_seg.sim.surfaces import FAR_M, Surface

VEIL_STEP_PX, VEIL_SAMPLES = 8, 12
BACKSCATTER, DAY_VEIL = 0.011, 0.10
# Approximates multiple scattering in the glow of the cloud, but not in the view through it.
SILT_GLOW, SILT_LOSS = np.float32(2.0), np.float32(0.4)
LUMA = np.array([0.11, 0.59, 0.30], np.float32)
SNOW_BOX_M = 3.0
LEAST_TRANSMISSION, LEAST_LEVELS = 0.045, 8.0


@dataclass(frozen=True, eq=False)
class Water:
    """
    The water and its light: turbidity 0 clear .. 1 opaque, absorption per metre (BGR), daylight.

    `lamps` are the powers of the left and right lamp, `beam` the cosine at the edge of the beams.
    """

    turbidity: float
    absorption: FloatArray
    daylight: FloatArray
    lamps: tuple[float, float]
    beam: float

    @property
    def scatter(self) -> float:
        """Return the scattering coefficient per metre, exponential in the turbidity."""
        return float(0.04 * np.exp(4.2 * self.turbidity))

    @property
    def attenuation(self) -> FloatArray:
        """Return the beam attenuation per metre, BGR; a quarter of the scatter stays in it."""
        return (self.absorption + np.float32(0.75 * self.scatter)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Lamp:
    """A spot lamp: position, direction, power and the cosine of its beam's edge."""

    position: FloatArray
    forward: FloatArray
    power: float
    edge: float

    def reach(self, points: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return unit vectors to the lamp, metres to it, and irradiance without attenuation."""
        to = self.position - points
        square = np.einsum('...i,...i->...', to, to)
        away = np.sqrt(square) + np.float32(1e-3)
        to = to / away[..., None]
        cosine = -(to @ self.forward)
        cone = np.clip((cosine - self.edge) / (1 - self.edge), 0, 1)
        return to, away, self.power * cone * np.sqrt(cone) / (square + np.float32(0.15))


@dataclass(frozen=True, eq=False)
class Cloud:
    """A cloud of silt: noise, mean extinction per metre, drift in metres, BGR albedo."""

    tile: FloatArray
    density: float
    drift: FloatArray
    colour: FloatArray

    def extinction(self, points: FloatArray) -> FloatArray:
        """Return the extinction per metre at points (H, W, 3)."""
        x, y, z = (points[..., i] - self.drift[i] for i in range(3))
        # Two oblique samplings of plane noise give a field that varies in all three directions.
        billows = sample_tile(self.tile, x + 0.7 * z, y - 0.5 * z, 5.2)
        wisps = sample_tile(self.tile, y + 0.6 * x, 1.3 * z - 0.4 * x, 2.7)
        uneven = np.clip(0.62 * np.exp(0.75 * billows + 0.45 * wisps), 0.3, 3.0)
        return (np.float32(self.density) * uneven).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Formed:
    """
    An image before the sensor: linear BGR light of any scale, and the transmission of the water.

    `signal` is the luminance that an object of albedo 0.2 would have here, `veil` that of the
    water in front of it.
    """

    light: FloatArray
    transmission: FloatArray
    signal: FloatArray
    veil: FloatArray


def random_water(rng: np.random.Generator, turbidity: float) -> Water:
    """Draw water between oceanic blue and coastal green, and its light."""
    green = rng.uniform(0, 1) ** 0.8
    absorption = np.array([0.03 + 0.20 * green, 0.055 + 0.035 * green, 0.30 + 0.10 * green])
    blue, teal = np.array([.95, .62, .12]), np.array([.50, .95, .30])
    tint = blue + (teal - blue) * green
    level = float(rng.choice([0.0, 0.012, 0.04, 0.12], p=[0.3, 0.3, 0.25, 0.15]))
    balance = rng.uniform(0.55, 1.0, 2)
    return Water(turbidity, absorption.astype(np.float32), (tint * level).astype(np.float32),
                 (float(balance[0]), float(balance[1])), float(np.cos(rng.uniform(0.6, 0.95))))


def lamps_of(water: Water, camera: Camera) -> tuple[Lamp, Lamp]:
    """Return the lamps, left and right above the camera, with beams that cross 3 m ahead."""
    both = []
    for side, power in zip((-1, 1), water.lamps, strict=True):
        place = np.array([0.55 * side, -0.3, 0.1])
        aim = np.array([0, 0.15, 3.0]) - place
        aim /= np.linalg.norm(aim)
        both.append(Lamp(camera.position + camera.axes @ place.astype(np.float32),
                         camera.axes @ aim.astype(np.float32), power, water.beam))
    return both[0], both[1]


def form(water: Water, camera: Camera, surface: Surface, t: FloatArray, radius: float,
         lamps_across: tuple[tuple[float, float], tuple[float, float]],
         shaded: NDArray[np.bool_], cloud: Cloud | None = None) -> Formed:
    """
    Light a surface `t` metres away, and view it through the water and the silt, if any.

    The pipe, of `radius`, shades where `shaded`; `lamps_across` are the lamps across its axis.
    """
    lamps = lamps_of(water, camera)
    glow, murk = _lamp_veil(water, camera, lamps, t, cloud)
    sky = (0.6 + 0.4 * surface.normal[..., 2]) * surface.open_to_light
    irradiance = sky[..., None] * water.daylight
    for lamp, place in zip(lamps, lamps_across, strict=True):
        to, away, power = lamp.reach(surface.points)
        facing = np.clip(np.einsum('hwi,hwi->hw', to, surface.normal), 0, 1)
        shadow = np.where(shaded, _shadow(surface.across, place, radius), np.float32(1))
        power = power * (0.1 * surface.open_to_light + 0.9 * facing * shadow)
        power *= 0.4 + 0.6 * surface.open_to_light
        if murk is not None:
            power = power * np.exp(-murk * away)
        irradiance = irradiance + power[..., None] * np.exp(-away[..., None] * water.attenuation)
    through = np.exp(-t[..., None] * water.attenuation)
    spread = np.minimum(t, 8) * np.float32(water.scatter)
    if murk is not None:
        through *= np.exp(-murk * t)[..., None]
        spread = spread + np.minimum(murk * t, 4) * np.float32(0.5)
    arriving = irradiance * through * np.float32(1 / np.pi)
    direct = surface.albedo * arriving
    direct[t >= FAR_M] = 0
    direct = _scatter_forward(direct, spread, camera.focal_px)
    share = np.float32(water.scatter) / (water.attenuation + np.float32(0.02))
    veil = water.daylight * np.float32(DAY_VEIL) * np.minimum(share, 1) * (1 - through)
    if cloud is not None and murk is not None:
        # Silt hides the veil of the water, and reflects less daylight the denser it is.
        hidden = (1 - np.exp(-murk * t))[..., None]
        dull = np.float32(DAY_VEIL) * (0.25 + 0.75 * np.exp(-0.5 * murk))[..., None]
        veil += (water.daylight * cloud.colour * dull - veil) * hidden
    veil = veil + glow
    return Formed(direct + veil, through.max(axis=-1), arriving @ LUMA * np.float32(0.2),
                  veil @ LUMA)


def _lamp_veil(water: Water, camera: Camera, lamps: tuple[Lamp, Lamp], t: FloatArray,
               cloud: Cloud | None) -> tuple[FloatArray, FloatArray | None]:
    """Return the lamps' backscatter (H, W, 3), and the cloud's extinction along each ray."""
    rays = camera.rays(VEIL_STEP_PX)
    size = rays.shape[1], rays.shape[0]
    depth = np.minimum(cv2.resize(t, size, interpolation=cv2.INTER_AREA), np.float32(9))
    total = np.zeros((*depth.shape, 3), np.float32)
    murk = np.zeros(depth.shape, np.float32)
    edges = np.linspace(0, 1, VEIL_SAMPLES + 1) ** 1.7
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        s = depth * np.float32((low + high) / 2)
        points = camera.position + rays * s[..., None]
        strength: FloatArray | float = water.scatter
        before = murk
        if cloud is not None:
            here = cloud.extinction(points)
            murk = before + here * depth * np.float32(high - low)
            strength = water.scatter + here[..., None] * (SILT_GLOW * cloud.colour)
        for lamp in lamps:
            _, away, power = lamp.reach(points)
            fade = np.exp(-(away + s)[..., None] * water.attenuation)
            if cloud is not None:
                # Dense silt scatters light onward: it glows where nothing else would be visible.
                lost = 0.5 * (before + murk) + here * away
                fade *= np.exp(-SILT_LOSS * lost)[..., None]
            total += (power * depth * np.float32(high - low))[..., None] * fade * strength
    total *= np.float32(BACKSCATTER)
    full = t.shape[1], t.shape[0]
    if cloud is not None:
        # Wisps narrower than the coarse step would make its grid visible.
        total = cv2.GaussianBlur(total, (0, 0), 0.9)
    veil = cv2.resize(total, full, interpolation=cv2.INTER_LINEAR)
    if cloud is None:
        return veil, None
    mean = murk / np.maximum(depth, np.float32(0.1))
    return veil, cv2.resize(mean, full, interpolation=cv2.INTER_LINEAR)


def _shadow(across: tuple[FloatArray, FloatArray], lamp: tuple[float, float], radius: float
            ) -> FloatArray:
    """Return the share of a lamp's light that passes the pipe, a disc in cross section."""
    dx, dy = lamp[0] - across[0], lamp[1] - across[1]
    along = -(across[0] * dx + across[1] * dy) / (dx * dx + dy * dy + np.float32(1e-6))
    along = np.clip(along, 0, 1)
    off = np.hypot(across[0] + along * dx, across[1] + along * dy)
    return ramp(off, radius * 0.93, radius * 1.06)


def _scatter_forward(light: FloatArray, spread: FloatArray, focal_px: float) -> FloatArray:
    """Blur by range: mix in two blurred copies; `spread` is scatter times metres."""
    small, wide = focal_px * 0.003, focal_px * 0.012
    first = cv2.GaussianBlur(light, (0, 0), small)
    half = cv2.resize(light, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    second = cv2.resize(cv2.GaussianBlur(half, (0, 0), wide / 4), light.shape[1::-1],
                        interpolation=cv2.INTER_LINEAR)
    a = (1 - np.exp(-0.5 * spread))[..., None]
    b = (0.6 * (1 - np.exp(-0.22 * spread)))[..., None]
    mixed = light + (first - light) * a
    return mixed + (second - mixed) * b


@dataclass(frozen=True, eq=False)
class Sensor:
    """
    How the camera converts light into bytes.

    `target` is the level, 0..1, to which the bright part is exposed, `tint` BGR gains, `noise` the
    standard deviation at mid grey, `motion_px` the movement during the exposure, `quality` that of
    a JPEG (0 for none), `snow` particles per cubic metre.
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
    """Map linear light to 0..1: linear below, a soft shoulder above, then display gamma."""
    soft = linear / np.sqrt(np.sqrt(1 + (linear * linear) ** 2))
    return np.power(np.maximum(soft, 0), np.float32(1 / 1.9))


def visible(formed: Formed, gain: float) -> NDArray[np.bool_]:
    """Return where enough light passes and an albedo of 0.2 differs from black by some levels."""
    veil = formed.veil * np.float32(gain)
    step = _tone(veil + formed.signal * np.float32(gain)) - _tone(veil)
    return (formed.transmission >= LEAST_TRANSMISSION) & (step >= LEAST_LEVELS / 255)


def _snow(rng: np.random.Generator, camera: Camera, water: Water, sensor: Sensor, drift: FloatArray
          ) -> FloatArray:
    """Return the light (H, W) of drifting particles near the camera, lit by the lamps."""
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
    Convert light into a BGR picture (H, W, 3), with the `gain` from `exposure`.

    The `streams` draw marine snow, which drifts, and noise.
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
