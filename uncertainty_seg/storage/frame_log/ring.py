# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which frames are worth keeping, by flag, window, interval, chance and request.

Frames are held in a ring that is bounded by time and memory, so that those before a flagged one
can be kept with it. No pixels or clock are read here, and nothing is written. Cameras are treated
separately.

"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
import math

from uncertainty_seg.core.settings import LogSettings, MEGABYTE
from uncertainty_seg.storage.frame_log.format import LogAbout, LogFrame
from uncertainty_seg.storage.frame_log.store import stable_uniforms

# Tolerance for the rate of a camera.
_SLACK_S = 1e-3
# A driver with several threads may swap neighbours. Stamps that go back by more than this are of
# another recording, or the clock was set.
_SWAPPED_S = 1.0
WAITING, CHOSEN, WRITING, KEPT, SKIPPED = 'waiting', 'chosen', 'writing', 'kept', 'skipped'


@dataclass(eq=False)
class Candidate:
    """
    A frame and its state.

    `time_s` is its stamp, or the time of its offer, and not before that of the frame before;
    `uniforms` are random numbers for the choice as control and for the reservoir; `is_onset` is
    the first flagged frame of an event, which is never a duplicate; `before_s` are the times of
    the camera's last kept and last kept flagged frame before this one was chosen.

    """

    frame: LogFrame
    about: LogAbout
    time_s: float
    uniforms: tuple[float, float]
    reason: str = ''
    is_onset: bool = False
    fate: str = WAITING
    before_s: tuple[float, float] = (-math.inf, -math.inf)


@dataclass
class _CameraRing:
    now_s: float = -math.inf
    seen_flagged_s: float = -math.inf
    kept_flagged_s: float = -math.inf
    kept_s: float = -math.inf
    is_onset_due: bool = False
    was_flagged: bool = False
    newest: Candidate | None = None
    ring: deque[Candidate] = field(default_factory=deque)


class FrameRing:
    """Takes every frame and returns those to keep; `settings` may be replaced at any time."""

    def __init__(self, settings: LogSettings) -> None:
        self.settings = settings
        self._cameras: dict[str, _CameraRing] = {}
        self._num_seen = 0
        self.num_bytes = 0
        self.num_interval = 0
        self.num_pushed_out = 0

    def __len__(self) -> int:
        """Return how many frames are held."""
        return sum(len(camera.ring) for camera in self._cameras.values())

    def take(self, frame: LogFrame, about: LogAbout, now_s: float) -> list[Candidate]:
        """
        Take the next frame of a camera; `now_s` is of any clock, for frames without a stamp.

        Returns the frames to keep, oldest first: often none, or this one and some before it.
        """
        self._num_seen += 1
        time_s = frame.stamp_ns / 1e9 if frame.stamp_ns else now_s
        name = frame.stamp_ns or -self._num_seen
        uniforms = stable_uniforms(about.dive, about.seed, frame.camera, name)
        camera = self._camera_at(frame.camera, time_s)
        item = Candidate(frame, about, camera.now_s, uniforms,
                         before_s=(camera.kept_s, camera.kept_flagged_s))
        self._forget_old(camera)
        camera.newest = item
        chosen = self._chosen(camera, item)
        if item not in chosen:
            self._wait(camera, item)
        for one in chosen:
            one.fate = CHOSEN
        return chosen

    def give_back(self, item: Candidate) -> None:
        """
        Undo the choice of a frame for which the queue has no room.

        The next frame may then be kept in its place, also as the first of its event.
        """
        camera = self._cameras[item.frame.camera]
        kept_s, kept_flagged_s = item.before_s
        if camera.kept_s == item.time_s:
            camera.kept_s = kept_s
        if camera.kept_flagged_s == item.time_s:
            camera.kept_flagged_s = kept_flagged_s
        camera.is_onset_due |= item.is_onset
        item.is_onset = False

    def newest(self) -> list[Candidate]:
        """Take out the newest frame of each camera, on request; it may be kept already."""
        found = [camera.newest for camera in self._cameras.values() if camera.newest is not None]
        for item in found:
            self._take_out(self._cameras[item.frame.camera], [item])
        return found

    def _camera_at(self, name: str, time_s: float) -> _CameraRing:
        camera = self._cameras.setdefault(name, _CameraRing())
        if time_s < camera.now_s - max(_SWAPPED_S, self.settings.before_s):
            # Time differences to older frames mean nothing.
            self._take_out(camera, list(camera.ring))
            camera = self._cameras[name] = _CameraRing()
        camera.now_s = max(camera.now_s, time_s)
        return camera

    def _chosen(self, camera: _CameraRing, item: Candidate) -> list[Candidate]:
        settings, now_s = self.settings, item.time_s
        since_flagged_s = now_s - camera.seen_flagged_s
        if item.frame.is_flagged:
            camera.seen_flagged_s = now_s
            is_new = not camera.was_flagged and since_flagged_s > settings.after_s + _SLACK_S
            camera.is_onset_due |= is_new
        camera.was_flagged = item.frame.is_flagged
        if item.uniforms[0] < settings.control_share:
            # Whether it is kept depends on chance alone, and the other frames are kept as if it
            # did not exist.
            item.reason = 'control'
            return [item]
        if item.frame.is_flagged:
            if now_s - camera.kept_flagged_s < settings.min_interval_s - _SLACK_S:
                self.num_interval += 1
                return []
            return self._flagged(camera, item)
        if since_flagged_s > settings.after_s + _SLACK_S or settings.after_s <= 0:
            return []
        if now_s - camera.kept_s < self._gap_s(settings.after_s):
            self.num_interval += 1
            return []
        item.reason, camera.kept_s = 'window', now_s
        return [item]

    def _gap_s(self, window_s: float) -> float:
        """Return the least time between frames of a window; a short window has one frame."""
        return min(self.settings.min_interval_s, window_s) - _SLACK_S

    def _flagged(self, camera: _CameraRing, item: Candidate) -> list[Candidate]:
        before_s = self.settings.before_s
        gap_s = self._gap_s(before_s)
        # Flagged frames that followed another one too soon are no context.
        context = [old for old in camera.ring if not old.frame.is_flagged
                   and old.time_s >= max(item.time_s - before_s - _SLACK_S, camera.kept_s + gap_s)]
        before: list[Candidate] = []
        next_s = item.time_s
        for old in reversed(context):
            if old.time_s <= next_s - gap_s:
                next_s = old.time_s
                before.append(old)
        if not before:
            before = context[:1]  # the ring was cut for memory, or a flag was kept just before
        for old in before:
            old.reason = 'window'
        self._take_out(camera, before)
        item.reason = 'flagged'
        item.is_onset, camera.is_onset_due = camera.is_onset_due, False
        camera.kept_s = camera.kept_flagged_s = item.time_s
        return [*reversed(before), item]

    def _wait(self, camera: _CameraRing, item: Candidate) -> None:
        if self.settings.before_s <= 0:
            return
        camera.ring.append(item)
        self.num_bytes += item.frame.memory_bytes
        limit = int(self.settings.memory_mb * MEGABYTE / 2)
        while self.num_bytes > limit:
            oldest = min((one for one in self._cameras.values() if one.ring),
                         key=lambda one: one.ring[0].time_s)
            self._take_out(oldest, [oldest.ring[0]])
            self.num_pushed_out += 1

    def _forget_old(self, camera: _CameraRing) -> None:
        oldest_s = camera.now_s - self.settings.before_s - _SLACK_S
        while camera.ring and camera.ring[0].time_s < oldest_s:
            self._take_out(camera, [camera.ring[0]])

    def _take_out(self, camera: _CameraRing, items: list[Candidate]) -> None:
        for item in items:
            if item in camera.ring:
                camera.ring.remove(item)
                self.num_bytes -= item.frame.memory_bytes
