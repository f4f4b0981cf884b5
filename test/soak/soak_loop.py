# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Faulty frames through the frame loop, as many as you like, against an oracle that is exact.

No ROS and no runtime: the frames of `soak_frames` go through decoding, guard, pipeline,
plausibility and gate, under a clock that the frames move. Between and amid them the gate is
restarted and reconfigured. A verdict must be true if and only if the last `rise_frames` frames
were good and nothing came between.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
import random
from typing import Any

from conftest import make_tiny_bundle
from fake_backend import FakeBackend
import numpy as np
from soak_backend import FLOATS, MisbehavingBackend
from soak_frames import FAULTS, FaultyCamera, Shot

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.dropout_masks import Masks
from uncertainty_seg.core.frame_guard import FrameGuard
from uncertainty_seg.core.frame_loop import FrameLoop, Outcome
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.core.settings import settings_from_dict
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.storage.model_bundle import load_bundle

PERIOD_NS = 33_000_000
START_NS = 1_700_000_000 * 10**9
RISES = (1, 2, 3, 5)
# Chances of an event before or amid a frame.
RESTARTS, CHANGES, AMID = 0.01, 0.01, 0.01


class ReadyMaps:
    """
    A network whose maps are ready: sure ones for red, unsure ones for anything else.

    Every image gives other maps, as a network's are.
    """

    name = 'ready'
    timings_ms: Mapping[str, float] = {}

    def __init__(self, sure: UncertaintyMaps, unsure: UncertaintyMaps) -> None:
        self._maps = sure, unsure

    def run(self, image: ImageU8, masks: Masks, temperature: float) -> UncertaintyMaps:
        """Return maps."""
        is_unsure = int(image[::4, 0, 2].min()) < 200 or int(image[-1, 0, 2]) < 200
        maps = self._maps[is_unsure]
        # By the noise of the image, which no two images share.
        confidence = maps.confidence - image[..., 0] * np.float32(1e-4)
        values = {name: getattr(maps, name) for name in ('label', *FLOATS)}
        return UncertaintyMaps(**{**values, 'confidence': confidence})

    def close(self) -> None:
        """Do nothing."""


class LoopSoak:
    """
    A frame loop, its camera, and what must come of each frame.

    Parameters
    ----------
    folder : Path
        For the bundle.
    seed : int
        Of everything.
    faults : sequence of str
        Kinds to choose from.
    settings : mapping
        Over the defaults.

    """

    def __init__(
        self, folder: Path, seed: int, faults: Sequence[str] = FAULTS, **settings: Any
    ) -> None:
        bundle = load_bundle(str(make_tiny_bundle(folder / 'tiny')))
        self._random = random.Random(seed)
        self._now_ns = START_NS
        self._settings = dict(settings)
        chosen = settings_from_dict(self._settings)
        backend = MisbehavingBackend(
            ReadyMaps(*_maps_of(bundle)), sleep=self._sleep)
        scorer = ScoreVector(bundle.card, names={'entropy.mean'})
        self._pipeline = Pipeline(bundle, backend, chosen, scorer=scorer)
        self._loop = FrameLoop(self._pipeline, guard=FrameGuard(chosen))
        self._camera = FaultyCamera(seed, faults)
        self._is_restarted = False
        self._rise_frames, self._num_good = chosen.gate.rise_frames, 0
        self.sent: Counter[str] = Counter()
        self.num_true = 0
        self.lies: list[str] = []
        self.blind: list[str] = []

    def _sleep(self, seconds: float) -> None:
        self._now_ns += int(seconds * 1e9)

    def _read(self, shot: Shot, is_restarted: bool) -> ImageU8:
        if is_restarted:
            self._pipeline.restart('the gate was reset')
        return decode(shot.image)

    def step(self) -> None:
        """Send one frame and compare."""
        self._disturb()
        self._now_ns += PERIOD_NS
        shot = self._camera.draw(self._now_ns)
        is_amid = self._random.random() < AMID
        self._now_ns += 5_000_000
        try:
            outcome = self._loop.take(
                lambda: self._read(shot, is_amid), shot.stamp_ns, None, lambda: self._now_ns)
        except ZeroDivisionError as err:  # as the node does with what is no error of the package
            outcome = self._loop.refuse(str(err))
        assert outcome is not None
        self._compare(shot, outcome, is_amid)

    def _disturb(self) -> None:
        chance = self._random.random()
        if chance < RESTARTS:
            self._pipeline.restart()
            self._num_good = 0
        elif chance < RESTARTS + CHANGES:
            rise_frames = self._random.choice(RISES)
            if rise_frames != self._rise_frames:
                self._settings['gate.rise_frames'] = self._rise_frames = rise_frames
                self._pipeline.reconfigure(settings_from_dict(self._settings))
                self._num_good = 0

    def _compare(self, shot: Shot, outcome: Outcome, is_amid: bool) -> None:
        kind = outcome.verdict.kind
        # What nobody says is good or not is what the gate took it for.
        is_good = kind in ('confident', 'recovering') if shot.is_good is None else shot.is_good
        self._num_good = self._num_good + 1 if is_good and not is_amid else 0
        wanted = self._num_good >= self._rise_frames
        self.sent[shot.kind] += 1
        self.num_true += outcome.verdict.is_confident
        if outcome.verdict.is_confident != wanted:
            text = (f'frame {self.sent.total()}, {shot.kind}: {outcome.verdict.reasons}, '
                    f'{self._num_good} good of {self._rise_frames}')
            (self.lies if outcome.verdict.is_confident else self.blind).append(text)

def _maps_of(bundle: Any) -> tuple[UncertaintyMaps, UncertaintyMaps]:
    """Return the maps of a red and of a grey image, as the fake backend computes them."""
    spec = bundle.card.input
    red, grey = (np.full((spec.height, spec.width, 3), color, np.uint8)
                 for color in ((0, 0, 255), (128, 128, 128)))
    masks = Pipeline(bundle, FakeBackend(bundle.card), settings_from_dict({})).begin().masks
    temperature = bundle.calibration.temperature
    first, second = (FakeBackend(bundle.card).run(image, masks, temperature)
                     for image in (red, grey))
    return first, second
