# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A dive: one camera path along one pipe, with events at known times.

A vehicle follows the pipe at 0.5 to 0.8 m/s. The default dive of 40 s shows, in this order:
inspection, a partly buried stretch (normal), inspection, a cloud of silt, recovery, an object
never shown in training, recovery, a shoal of fish, inspection. Dives of other lengths keep the
order and scale the times.

Any frame can be rendered by itself; the same seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
import hashlib
import json
import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.sim.basics import (
    Camera,
    FloatArray,
    require_within,
    rotation,
    SIDES_PX,
    spectral_tile,
    stream,
)
from uncertainty_seg.sim.objects import Thing, thing_axes
from uncertainty_seg.sim.pipe import PipePlan
from uncertainty_seg.sim.scene import render, render_all
from uncertainty_seg.sim.water import Cloud, random_sensor, random_water
from uncertainty_seg.sim.world import build_world, shoal
from uncertainty_seg.storage.bags.writer import (
    BagWriter,
    camera_info_message,
    PinholeCamera,
    value_message,
)
from uncertainty_seg.storage.progress import progress

# Start and stop in seconds in a dive of 40 s.
BURIAL_S, CLOUD_S, OBJECT_S, FISH_S = (8.5, 12.5), (14.0, 21.0), (25.5, 30.0), (32.5, 35.3)
NOMINAL_S = 40.0
CLOUD_PER_M = 3.5
START_NS = 1_700_000_000_000_000_000
IMAGE_TOPIC, INFO_TOPIC = '/camera/image_raw', '/camera/camera_info'
EVENT_TOPIC, TRUTH_TOPIC = '/ground_truth/event', '/ground_truth/mask'
FRAME_ID = 'camera_optical_frame'
RECEIPT_FILE = 'dive.json'


@dataclass(frozen=True)
class DiveEvent:
    """A 'burial', 'silt_cloud', 'diver' or 'fish', in seconds from the start of the dive."""

    kind: str
    start_s: float
    stop_s: float


@dataclass(frozen=True, eq=False)
class DiveFrame:
    """
    One frame of a dive: its number, stamp, BGR image, true mask and event.

    The first frame's stamp is the same in all dives; `event` is 'inspection' between the events.
    """

    index: int
    stamp_ns: int
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    event: str


class Dive:
    """A dive of some seconds that can be rendered frame by frame, in any order."""

    def __init__(self, seed: int, *, duration_s: float = 40.0, rate_hz: float = 8.0,
                 size: tuple[int, int] = (640, 480)) -> None:
        require_within('seed', seed, 0, 2**31 - 1)
        require_within('duration', duration_s, 1e-3, 600)
        require_within('rate', rate_hz, 1e-3, 120)
        require_within('shorter side', min(size), *SIDES_PX)
        self.seed, self.duration_s, self.rate_hz = seed, float(duration_s), float(rate_hz)
        self.size = size
        self.num_frames = max(1, math.floor(duration_s * rate_hz + 1e-9))
        self._pace = self.duration_s / NOMINAL_S
        rng = stream(seed, 20)
        self._speed = float(rng.uniform(0.55, 0.72))
        self._phases = rng.uniform(0, 2 * np.pi, 8)
        self._focal = size[0] / 2 / math.tan(float(rng.uniform(0.55, 0.62)))
        self._height = float(rng.uniform(1.0, 1.2))
        self._side = float(rng.choice([-1.0, 1.0]))
        self._world = build_world(seed, self._plan(rng))
        water = random_water(rng, float(rng.uniform(0.1, 0.2)))
        self._water = replace(water, beam=min(water.beam, math.cos(0.88)))
        sensor = random_sensor(rng, self._water)
        self._sensor = replace(sensor, motion_px=(0.0, 0.8), quality=0,
                               noise=min(sensor.noise, 2.5), target=max(sensor.target, 0.36))
        silt = self._world.sediment / self._world.sediment.max()
        self._billows = spectral_tile(stream(seed, 25), 256, 1.7, 2, 26)
        self._silt = (0.9 * silt).astype(np.float32)
        self.events = tuple(DiveEvent(kind, *self._scaled(span)) for kind, span in (
            ('burial', BURIAL_S), ('silt_cloud', CLOUD_S), ('diver', OBJECT_S), ('fish', FISH_S)))

    @property
    def focal_px(self) -> float:
        """Return the focal length of the camera, which has no distortion, in pixels."""
        return self._focal

    def _scaled(self, span: tuple[float, float]) -> tuple[float, float]:
        """Scale a span of the nominal dive to this one's length."""
        return span[0] * self._pace, span[1] * self._pace

    def _plan(self, rng: np.random.Generator) -> PipePlan:
        """Plan the world under the path."""
        first, last = self._x(0.0), self._x(self.duration_s)
        burial = tuple(self._x(t) for t in self._scaled(BURIAL_S))
        growths, x = [], first - 2
        while x < last + 14:
            length = float(rng.uniform(1.5, 4.5))
            growths.append((x, x + length, float(rng.uniform(0.2, 1))))
            x += length + float(rng.uniform(1.5, 4))
        return PipePlan(first - 6, last + 17, 8, ((burial[0] + 1.7, burial[1] + 2.3, 0.78),),
                        ((last - 1, last + 4, 0.7),), tuple(growths), 0.3)

    def _x(self, t: float) -> float:
        """Return the position of the vehicle along the pipe, in metres."""
        return self._speed * t + 0.12 * math.sin(0.5 * t + self._phases[0])

    def _axis(self, x: float) -> tuple[float, float]:
        """Return y and z of the pipe's axis."""
        i = self._world.pipe.index(np.array([x], np.float32))[0]
        return float(self._world.pipe.y[i]), float(self._world.pipe.z[i])

    def _camera(self, t: float) -> Camera:
        """Return the camera at a moment."""
        p = self._phases
        x = self._x(t)
        y, z = self._axis(x)
        y += 0.2 * math.sin(t / 2.7 + p[1]) + 0.07 * math.sin(t / 1.1 + p[2])
        z += self._world.pipe.radius + self._height + 0.07 * math.sin(t / 2.1 + p[3])
        yaw = math.atan2(self._axis(x + 2.4)[0] - y, 2.4)
        yaw += 0.05 * math.sin(t / 1.9 + p[4])
        pitch = 0.56 + 0.03 * math.sin(t / 1.7 + p[5])
        axes = rotation(yaw, pitch, 0.03 * math.sin(t / 1.3 + p[6]))
        return Camera(np.array([x, y, z], np.float32), axes, self._focal, self.size)

    def _crossing(self, t: float, span: tuple[float, float], width: float, ahead: float
                  ) -> FloatArray:
        """Return a point that crosses the pipe ahead of the vehicle: fast, slow, fast."""
        w = float(np.clip(2 * (t - span[0]) / (span[1] - span[0]) - 1, -1, 1))
        x = self._x(t) + ahead + 0.4 * w * w
        y, z = self._axis(x)
        off = self._side * width * (0.35 * w + 0.65 * w ** 3)
        return np.array([x, y + off, z + self._world.pipe.radius], np.float32)

    def _things(self, t: float) -> tuple[Thing, ...]:
        """Return the objects never shown in training that are present at a moment."""
        things: tuple[Thing, ...] = ()
        diver, fish = self._scaled(OBJECT_S), self._scaled(FISH_S)
        if diver[0] <= t <= diver[1]:
            here, soon = (self._crossing(v, diver, 3.9, 2.25) for v in (t, t + 0.05))
            heading = math.atan2(float(soon[1] - here[1]), float(soon[0] - here[0]))
            here[2] += 0.24 + 0.05 * math.sin(2 * t)
            things += (Thing('diver', here, thing_axes(heading, -0.08, 0.12), t, self.seed),)
        if fish[0] <= t <= fish[1]:
            here, soon = (self._crossing(v, fish, -5.2, 2.3) for v in (t, t + 0.05))
            heading = math.atan2(float(soon[1] - here[1]), float(soon[0] - here[0]))
            here[2] += 0.35
            things += shoal(self.seed, stream(self.seed, 22), here, heading, 34, t)
        return things

    def _cloud(self, t: float) -> Cloud | None:
        """Return the cloud at a moment, if there is one."""
        start, stop = self._scaled(CLOUD_S)
        if not start < t < stop:
            return None
        u = (t - start) / (stop - start)
        rise, fall = (min(1.0, max(0.0, v)) for v in (u / 0.25, (1 - u) / 0.35))
        level = rise * rise * (3 - 2 * rise) * fall * fall * (3 - 2 * fall)
        drift = np.array([0.22, 0.3 * self._side, 0.05], np.float32) * np.float32(t)
        return Cloud(self._billows, CLOUD_PER_M * level, drift, self._silt)

    def event_at(self, t: float) -> str:
        """Return the kind of event at a moment, 'inspection' between events."""
        for event in self.events:
            if event.start_s <= t <= event.stop_s:
                return event.kind
        return 'inspection'

    def frame(self, index: int) -> DiveFrame:
        """Render the frame `index` of 0 .. `num_frames` - 1."""
        t = index / self.rate_hz
        drift = np.array([0.03, 0.08, -0.02], np.float32) * np.float32(t)
        scene = render(self._world, self._camera(t), self._water, self._sensor,
                       (stream(self.seed, 23), stream(self.seed, 24, index)), drift,
                       self._things(t), self._cloud(t))
        stamp = START_NS + round(index * 1e9 / self.rate_hz)
        return DiveFrame(index, stamp, scene.image, scene.mask, self.event_at(t))


_open_dive: Dive | None = None


def _prepare(seed: int, duration_s: float, rate_hz: float, size: tuple[int, int]) -> None:
    """Build the dive once in each process."""
    global _open_dive
    cv2.setNumThreads(1)
    _open_dive = Dive(seed, duration_s=duration_s, rate_hz=rate_hz, size=size)


def _work(index: int) -> DiveFrame:
    """Render one frame of the dive of this process."""
    assert _open_dive is not None
    return _open_dive.frame(index)


def render_frames(dive: Dive) -> Iterator[DiveFrame]:
    """Yield all frames of a dive, in order; see `scene.render_all`."""
    facts = dive.seed, dive.duration_s, dive.rate_hz, dive.size
    return render_all(_work, range(dive.num_frames), _prepare, facts)


# -------------------------------------------------------------------------------------------------
# Writing a dive into a bag.


def simulate_dive(
    out_bag: Path | str, *, seed: int = 1, duration: float = 40.0, rate: float = 8.0,
    size: tuple[int, int] = (640, 480), storage: str = 'mcap', force: bool = False,
) -> int:
    """
    Render a dive of one camera along a pipe into a bag: image, camera, true mask and event.

    Parameters
    ----------
    out_bag : Path or str
        Bag to write.
    seed : int
        The same seed gives the same bytes.
    duration, rate : float
        Seconds, up to 600; frames per second, up to 120.
    size : tuple of int
        Width and height in pixels.
    storage : str
        Format of the bag: 'mcap' or 'sqlite3'.
    force : bool
        Replace an existing bag.

    Returns
    -------
    int
        The number of frames.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    BagError
        If the bag cannot be written, or exists already.

    """
    dive = Dive(seed, duration_s=duration, rate_hz=rate, size=size)
    return write_dive(Path(out_bag), dive, storage, force)


def write_dive(path: Path, dive: Dive, storage: str = 'mcap', overwrite: bool = False) -> int:
    """Render a dive into a rosbag2 bag; see `simulate_dive`."""
    camera = PinholeCamera(*dive.size, dive.focal_px)
    with BagWriter(path, storage, overwrite=overwrite) as writer:
        for frame in progress(render_frames(dive), desc='render', total=dive.num_frames):
            stamp = frame.stamp_ns
            # The event first, so that a reader in bag order knows the event of each image.
            writer.write(EVENT_TOPIC, value_message(frame.event), stamp)
            writer.write_image(IMAGE_TOPIC, stamp, FRAME_ID, frame.image, 'bgr8')
            writer.write(INFO_TOPIC, camera_info_message(stamp, FRAME_ID, camera), stamp)
            writer.write_image(TRUTH_TOPIC, stamp, FRAME_ID, frame.mask, 'mono8')
    return dive.num_frames


def ensure_dive(path: Path, dive: Dive) -> bool:
    """Write a dive, over another, unless an equal one is there; return whether it was written."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob('*.py')):
        digest.update(source.name.encode() + source.read_bytes())
    text = json.dumps({'seed': dive.seed, 'duration_s': dive.duration_s, 'rate_hz': dive.rate_hz,
                       'size': dive.size, 'renderer_sha256': digest.hexdigest()}) + '\n'
    receipt = path.parent / RECEIPT_FILE
    if receipt.is_file() and receipt.read_text() == text and path.is_dir():
        return False
    receipt.unlink(missing_ok=True)
    write_dive(path, dive, overwrite=True)
    receipt.write_text(text)
    return True
