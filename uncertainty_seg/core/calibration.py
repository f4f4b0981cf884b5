# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Thresholds and temperature of a bundle, for what they hold, and what is promised of them.

A threshold carries its T, seed policy, precision, reduction and graphs, because the estimate of
mutual information grows with T by about (1 - 1/T) and every change of the network moves the
scores.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
from dataclasses import dataclass
import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.model_card import load_object
from uncertainty_seg.core.scores.density import ScoreDensity
from uncertainty_seg.core.uncertainty import REDUCTIONS, UNKNOWN_TEMPERATURE
from uncertainty_seg.errors import CalibrationError, ConfigError

# Every score lies in 0..1, so that a limit of 1 or more would judge nothing.
HIGHEST_SCORE = 1.0
_FIX = 'calibrate the bundle again'
# Version of the file: 1 held what folds and early stops needed.
_SCHEMA_VERSION = 2
_SCHEMA, _DIGEST = 'schema', 'sha256'
# Of a digest: among a million images two agree by chance once in 40 million sets.
SEEN_DIGITS = 16


@dataclass(frozen=True)
class Promise:
    """
    Limits of the gate's scores with what they were fitted to promise.

    P(a frame is accepted and bad) <= alpha, over the draw of the calibration blocks and of a new
    block that is like them (conformal risk control). It is no statement about one frame, about
    water that the blocks do not have, or about the share of bad frames among the accepted ones.

    Attributes
    ----------
    alpha : float
        Promised bound, in (0, 1).
    limits : mapping of str to float
        Limit of each gate score.
    bad : str
        What a bad frame is, as `core.bad_rule` reads it.
    num_blocks, num_frames : int
        Blocks that count as independent, and the frames in them.
    bound : float
        What conformal risk control found, at most alpha.
    accepted, accepted_and_bad : float, optional
        Shares of the calibration frames. None where the limits were carried over, since nobody
        measured them of this network.
    bad_if_accepted_upper : float, optional
        P(bad | accepted) is not above this, with 95 % confidence (Clopper-Pearson, shared among
        all the limits that the same frames could have chosen, where they did). Of blocks with an
        accepted frame, it is the share that has a bad one, so that each such block counts alike.

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

    Attributes
    ----------
    bundle, precision, model_sha256 : str
        Name of the calibrated bundle, its precision and digest. What its labels gave is its own:
        frames and blocks of the promises, temperature, distances, limits of scores outside the
        gate.
    num_images : int
        Images without labels that both were run on.
    accepted : mapping of str to (float, float)
        Shares of these that the bundle and this network accept, by alpha as text.

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

    Attributes
    ----------
    passes, seed, mask_policy, precision : int, int, str, str
        What the scores were computed with; other settings are refused.
    temperature : float
        The logits are divided by it.
    thresholds : mapping of str to float
        Limit of each score, from the validation set.
    train_thresholds : mapping of str to float
        The same from the training set; far lower values mean that the network overfits.
    gate_scores : tuple of str
        Scores that the gate uses by default.
    quantile : float
        Share of validation frames at or below each limit.
    num_train, num_val : int
        Frames the limits come from.
    model_sha256, data_sha256 : str
        Digest over the graphs and their entries in the card, and over the validation images.
    promises : tuple of Promise
        Limits of the gate scores for each alpha, the strictest first; may be empty.
    pixel_limits : mapping of str to float
        Value of a map above which a pixel counts as uncertain, for the scores that need one.
    distances : mapping of str to float
        Of each score, how far training and validation lie apart (Kolmogorov and Smirnov), 0..1.
    density : ScoreDensity, optional
        What the scores of ordinary frames look like together.
    family : RankFamily, optional
        How the limits of the gate scores move together when the gate is made stricter.
    ignore_sha256 : str
        `mask_digest` of the pixels that were left out.
    damage_limits : mapping of str to float
        Limits of the statistics of `core.scores.image`; empty for the fixed ones alone.
    features_sha256 : str
        Digest of the file with the features of the training frames; empty if there is none.
    unknown_temperature : float
        Of the map 'unknown', 1 or more and below 100.
    mask_draw : str
        The card's, see `core.model_card`.
    reductions : tuple of str
        What the scores may be computed with: the one they were, or several that were shown to give
        the same verdicts. The first runs where the settings leave it open.
    carried_error : float
        In [0, 1), what is to be added to each alpha, since the limits were carried over from
        another precision of the network.
    carried_from : CarriedFrom, optional
        That network.
    floors : mapping of str to float
        Of each score, its least value on the validation frames, where the way to the limit begins
        that `core.gate.RISE_RATIO` is a share of.
    seen_images : tuple of str
        `image_digest` of every image that was calibrated on, sorted.

    """

    passes: int
    seed: int
    mask_policy: str
    precision: str
    temperature: float
    thresholds: Mapping[str, float]
    train_thresholds: Mapping[str, float]
    gate_scores: tuple[str, ...]
    quantile: float
    num_train: int
    num_val: int
    model_sha256: str
    data_sha256: str
    promises: tuple[Promise, ...] = ()
    pixel_limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
    distances: Mapping[str, float] = dataclasses.field(default_factory=dict)
    density: ScoreDensity | None = None
    family: Mapping[str, Any] | None = None
    ignore_sha256: str = ''
    damage_limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
    features_sha256: str = ''
    unknown_temperature: float = UNKNOWN_TEMPERATURE
    mask_draw: str = 'independent'
    reductions: tuple[str, ...] = ('exact',)
    carried_error: float = 0.0
    carried_from: CarriedFrom | None = None
    floors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seen_images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse limits that could never be judged."""
        if not self.gate_scores:
            raise CalibrationError('calibration names no gate score', 'at least one', _FIX)
        missing = [name for name in self.gate_scores if name not in self.thresholds]
        if missing:
            raise CalibrationError(f'gate scores {missing} have no threshold', 'limits', _FIX)
        bad = [k for k, v in self.thresholds.items() if not 0 < v < HIGHEST_SCORE]
        if bad or not 0 < self.temperature < 100:
            raise CalibrationError(
                f'thresholds of {bad} or temperature {self.temperature} are out of range',
                'thresholds between 0 and 1, which no score exceeds', _FIX,
            )
        if not 1 <= self.unknown_temperature < 100:
            raise CalibrationError(f'unknown_temperature is {self.unknown_temperature}',
                                   '1 or more and below 100', _FIX)
        if not self.reductions or not {*self.reductions} <= {*REDUCTIONS}:
            raise CalibrationError(f'reductions are {self.reductions}', f'some of {REDUCTIONS}',
                                   _FIX)
        if not 0 <= self.carried_error < 1:
            raise CalibrationError(f'carried_error is {self.carried_error}', '0 or more, below 1',
                                   _FIX)
        low = [name for name, floor in self.floors.items() if not 0 <= floor <= HIGHEST_SCORE]
        if low:
            raise CalibrationError(f'the floor of {low[0]!r} is {self.floors[low[0]]}',
                                   '0 to 1, as the score', _FIX)
        _require_damage_limits(self.damage_limits)
        others = [p.alpha for p in self.promises if set(p.limits) != set(self.gate_scores)]
        if others:
            raise CalibrationError(f'the promise of {others[0]} is for other scores',
                                   f'the gate scores {self.gate_scores}', _FIX)

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
                              f'calibrate the bundle with --alpha {alpha:g}')
        return self.promises[alphas.index(alpha)]

    def count_seen(self, images: Iterable[NDArray[np.uint8]]) -> int:
        """Count the BGR images that were calibrated on; 0 where that was not written down."""
        seen = frozenset(self.seen_images)
        return sum(image_digest(image) in seen for image in images) if seen else 0



def _require_damage_limits(limits: Mapping[str, float]) -> None:
    if not limits:
        return
    # Not at the top: it needs OpenCV, which the help of a command must not load.
    from uncertainty_seg.core.scores.image import require_limits

    require_limits(limits)


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
        'reductions': tuple(raw['reductions']),
        'density': density and ScoreDensity.from_facts(density),
        'carried_from': source and _carried_from(source),
        'seen_images': _cut(raw['seen_images']),
    })


def _cut(text: str) -> tuple[str, ...]:
    if len(text) % SEEN_DIGITS:
        raise ValueError(f'seen_images has {len(text)} digits, no multiple of {SEEN_DIGITS}')
    return tuple(text[at:at + SEEN_DIGITS] for at in range(0, len(text), SEEN_DIGITS))


def _carried_from(facts: Mapping[str, Any]) -> CarriedFrom:
    shares = {alpha: (float(first), float(second))
              for alpha, (first, second) in facts['accepted'].items()}
    return CarriedFrom(**{**facts, 'accepted': shares})


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
