# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Thresholds and temperature of a bundle, for what they hold, and what is promised of them.

A threshold carries its T, seed policy, precision and graphs, because the estimate of
mutual information grows with T by about (1 - 1/T) and every change of the network moves the
scores.

"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass, field
import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.model_card import digests_in, load_object, SEEN_DIGITS
from uncertainty_seg.core.scores.density import ScoreDensity
from uncertainty_seg.errors import CalibrationError, ConfigError

# Every score lies in 0..1, so that a limit of 1 or more would judge nothing.
HIGHEST_SCORE = 1.0
_FIX = 'calibrate the bundle again'
# Version of the file: of 3 limits could be of images that the network or a choice had seen.
_SCHEMA_VERSION = 4
_SCHEMA, _DIGEST = 'schema', 'sha256'


@dataclass(frozen=True)
class Promise:
    """
    Limits of the gate's scores with what they were fitted to promise.

    P(a frame is accepted and bad) <= alpha, over the draw of the calibration blocks and of a new
    block that is like them (conformal risk control). It is no statement about one frame, about
    water that the blocks do not have, or about the share of bad frames among the accepted ones.

    `bad` is what a bad frame is (see `BadRule`); blocks count as independent; `bound` is what
    conformal risk control found. `accepted` and `accepted_and_bad` are shares of the calibration
    frames, None where the limits were carried over. P(bad | accepted) is not above
    `bad_if_accepted_upper`, with 95 % confidence (Clopper-Pearson, shared among all the limits
    that the same frames could have chosen, where they did); of blocks with an accepted frame it
    is the share that has a bad one, so that each such block counts alike.
    """

    alpha: float
    limits: Mapping[str, float]
    bad: str
    num_blocks: int
    num_frames: int
    bound: float
    accepted: float | None
    accepted_and_bad: float | None
    bad_if_accepted_upper: float | None

    def __post_init__(self) -> None:
        """Refuse a promise that is none."""
        wrong = [k for k, v in self.limits.items() if not 0 < v < HIGHEST_SCORE]
        if wrong or not self.limits or not 0 < self.bound <= self.alpha < 1:
            raise CalibrationError(
                f'a promise of {self.alpha}: bound {self.bound} or limits {wrong} out of range',
                'limits between 0 and 1, a bound of at most alpha', _FIX)


def without_shares(promise: Promise) -> Promise:
    """Return a promise without what was measured: that of a network nobody had labels for."""
    return dataclasses.replace(promise, accepted=None, accepted_and_bad=None,
                               bad_if_accepted_upper=None)


@dataclass(frozen=True)
class CarriedFrom:
    """
    Where limits were carried over from, and what that was measured on.

    What the labels of that bundle gave is its own: frames and blocks of the promises, temperature,
    limits of scores outside the gate. `num_images` have no labels, and both were run on
    them; `accepted` are the shares that the bundle and this network accept, by alpha as text.
    """

    bundle: str
    precision: str
    model_sha256: str
    num_images: int
    accepted: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Calibration:
    """
    Limits of the scores, fitted on frames where the network may be trusted.

    Other settings than `passes`, `seed`, `mask_policy`, `precision` and `mask_draw` are refused.
    Raises CalibrationError if the limits could never be judged.
    """

    passes: int
    seed: int
    mask_policy: str
    precision: str
    # The logits are divided by it.
    temperature: float
    # Limit of each score, from the split limits.
    thresholds: Mapping[str, float]
    # Those that the gate uses by default.
    gate_scores: tuple[str, ...]
    # Share of the frames of the split limits at or below each limit.
    quantile: float
    num_train: int
    num_limits: int
    # Over the graphs and their entries in the card, and over the images of the split limits.
    model_sha256: str
    data_sha256: str
    # Limits of the gate scores for each alpha.
    promises: tuple[Promise, ...] = ()
    # What the scores of ordinary frames look like together.
    density: ScoreDensity | None = None
    # How the limits move together when the gate is made stricter; the room `calibration` reads it.
    family: Mapping[str, Any] | None = None
    # `mask_digest` of the pixels that were left out.
    ignore_sha256: str = ''
    # Of the statistics of `core.scores.image`; empty for the fixed ones alone.
    damage_limits: Mapping[str, float] = field(default_factory=dict)
    # Of the file with the features of the training frames; empty if there is none.
    features_sha256: str = ''
    mask_draw: str = 'independent'
    # Classes of a smaller share of the image were left out of the mask.
    smallest_class: float = 0.0
    # To be added to each alpha where the limits were carried over from another precision.
    carried_error: float = 0.0
    carried_from: CarriedFrom | None = None
    # Of each score its least value on the split limits: `core.gate.RISE_RATIO` is a share of
    # the way from there to the limit.
    floors: Mapping[str, float] = field(default_factory=dict)
    # `image_digest` of every image of the three splits, sorted.
    seen_images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse limits that could never be judged."""
        thresholds, floors = self.thresholds, self.floors
        bad = [k for k, v in thresholds.items() if not 0 < v < HIGHEST_SCORE]
        low = {k: v for k, v in floors.items() if not 0 <= v <= HIGHEST_SCORE}
        others = [p.alpha for p in self.promises if set(p.limits) != set(self.gate_scores)]
        counts = self.passes, self.num_train, self.num_limits
        for is_wrong, came, expected in (
            (not self.gate_scores, 'calibration names no gate score', 'at least one'),
            (not {*self.gate_scores} <= {*thresholds},
             f'gate scores {self.gate_scores}', f'some of {list(thresholds)}'),
            (bad, f'thresholds of {bad}', 'numbers between 0 and 1, which no score exceeds'),
            (not 0 < self.temperature < 100, f'temperature is {self.temperature}',
             'above 0 and below 100'),
            (not 0 <= self.carried_error < 1, f'carried_error is {self.carried_error}',
             '0 or more, below 1'),
            (low, f'floors are {low}', '0 to 1, as the score'),
            (not all(type(count) is int and count >= 0 for count in counts),
             f'passes and numbers of images are {counts!s:.80}', 'whole numbers'),
            (others, f'the promise of {others[:1]} is for other scores',
             f'the gate scores {self.gate_scores}'),
        ):
            if is_wrong:
                raise CalibrationError(came, expected, _FIX)
        if self.damage_limits:
            # Not at the top: it needs OpenCV, which the help of a command must not load.
            from uncertainty_seg.core.scores.image import require_limits

            require_limits(self.damage_limits)

    def promise_of(self, alpha: float) -> Promise | None:
        """
        Return the promise of an alpha, the strictest if it is 0; None if nothing is promised.

        Raises ConfigError if there are promises, but none of this alpha.
        """
        alphas = [promise.alpha for promise in self.promises]
        if alpha == 0:
            return self.promises[alphas.index(min(alphas))] if alphas else None
        if alpha not in alphas:
            raise ConfigError(f'gate.alpha is {alpha:g}', f'0 or one of {alphas}',
                              f'calibrate the bundle for alpha {alpha:g}')
        return self.promises[alphas.index(alpha)]


def calibration_to_json(calibration: Calibration) -> str:
    """Write a calibration as indented JSON, with a digest over the rest of it."""
    # Not asdict of the whole: it would copy the density's arrays, which are no JSON.
    facts: dict[str, Any] = {_SCHEMA: _SCHEMA_VERSION} | {
        f.name: getattr(calibration, f.name) for f in dataclasses.fields(calibration)}
    facts['seen_images'] = ''.join(calibration.seen_images)
    facts['promises'] = [dataclasses.asdict(promise) for promise in calibration.promises]
    facts['density'] = calibration.density and calibration.density.to_facts()
    facts['carried_from'] = calibration.carried_from and dataclasses.asdict(
        calibration.carried_from)
    lines = (f'  "{key}": {_value_text(key, value)}'
             for key, value in {**facts, _DIGEST: _digest(facts)}.items())
    return '{\n' + ',\n'.join(lines) + '\n}\n'


def calibration_from_json(text: str | bytes) -> Calibration:
    """
    Read and check a calibration as `calibration_to_json` writes it.

    Raises CalibrationError if the text is no JSON, lacks a key, or was changed after it was
    written.
    """
    try:
        raw = load_object(text)
        if raw.get(_SCHEMA) != _SCHEMA_VERSION:
            raise CalibrationError(
                f'calibration.json has schema {raw.get(_SCHEMA, 1)}', f'{_SCHEMA_VERSION}', _FIX)
        if raw.pop(_DIGEST) != _digest(raw):
            raise CalibrationError(
                'calibration.json was changed after it was written', 'what calibrate wrote',
                'restore the file, or calibrate the bundle again',
            )
        return _from_facts(raw)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as err:
        raise CalibrationError(
            f'calibration.json cannot be read ({err})', 'what calibrate wrote', _FIX
        ) from err


def _value_text(key: str, value: object) -> str:
    # Long rows of numbers are for programs, the rest is for people too.
    indent = None if key in ('density', 'family') else 2
    return json.dumps(value, indent=indent).replace('\n', '\n  ')


def _from_facts(raw: dict[str, Any]) -> Calibration:
    density, source = raw['density'], raw['carried_from']
    del raw[_SCHEMA]
    return Calibration(**{
        **raw, 'gate_scores': tuple(raw['gate_scores']),
        'promises': tuple(Promise(**promise) for promise in raw['promises']),
        'density': density and ScoreDensity.from_facts(density),
        'carried_from': source and CarriedFrom(**{**source, 'accepted': {
            alpha: (float(one), float(other))
            for alpha, (one, other) in source['accepted'].items()}}),
        'seen_images': digests_in(raw['seen_images']),
    })


def image_digest(image: NDArray[np.uint8]) -> str:
    """Return the first digits of a digest of the pixels of an image, whatever it is called."""
    whole = repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()
    return hashlib.sha256(whole).hexdigest()[:SEEN_DIGITS]


def mask_digest(ignore: NDArray[np.bool_] | None) -> str:
    """Return a digest of an ignore mask (H, W); empty for none."""
    if ignore is None:
        return ''
    return hashlib.sha256(f'{ignore.shape}'.encode() + np.packbits(ignore).tobytes()).hexdigest()


def _digest(facts: Mapping[str, object]) -> str:
    canonical = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
