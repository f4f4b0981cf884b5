# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Thresholds and temperature of a bundle, what they are valid for, and what they promise.

A threshold is stored with T, mask policy, precision and a digest of the graphs, because the
estimate of mutual information grows with T as about (1 - 1/T), and every change of the network
moves the scores.
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
from uncertainty_seg.errors import CalibrationError, ConfigError

# Every score lies in 0..1, so no score could exceed a threshold of 1 or more.
HIGHEST_SCORE = 1.0
# With fewer bad frames behind it, a promise says little about bad frames, although it is valid.
FEWEST_BAD = 10
_FIX = 'calibrate the bundle again'
# Version of the file. Version 3 allowed thresholds from images used in training or selection, and
# up to 4 the scores of the gate were chosen by data and the number of bad frames was not kept.
_SCHEMA_VERSION = 5
_SCHEMA, _DIGEST = 'schema', 'sha256'


@dataclass(frozen=True)
class Promise:
    """
    Thresholds of the gated scores (`limits`) and the promise that they were fitted for.

    P(a frame is accepted and bad) <= alpha, over the random draw of the calibration blocks and of
    a new block like them (conformal risk control). The promise does not cover a single frame,
    waters missing from the blocks, or the share of bad frames among the accepted ones.

    `bad` defines a bad frame (see `BadRule`); blocks count as independent; `bound` is the bound of
    conformal risk control. `accepted` and `accepted_and_bad` are shares of the calibration frames,
    None where the thresholds were carried over. `bad_if_accepted_upper` bounds P(bad | accepted)
    with 95 % confidence (Clopper-Pearson; Bonferroni-corrected for all candidate thresholds if
    the same frames chose among them). Its unit is the block: of the blocks with an accepted
    frame, the share with a bad accepted one, so each such block counts equally. `num_bad` of the
    `num_frames` frames are bad.
    """

    alpha: float
    limits: Mapping[str, float]
    bad: str
    num_blocks: int
    num_frames: int
    num_bad: int
    bound: float
    accepted: float | None
    accepted_and_bad: float | None
    bad_if_accepted_upper: float | None

    def __post_init__(self) -> None:
        """Raise CalibrationError for thresholds or a bound out of range."""
        wrong = [k for k, v in self.limits.items() if not 0 < v < HIGHEST_SCORE]
        if wrong or not self.limits or not 0 < self.bound <= self.alpha < 1 \
                or not 0 <= self.num_bad <= self.num_frames:
            raise CalibrationError(
                f'a promise of {self.alpha}: bound {self.bound}, limits {wrong} or {self.num_bad} '
                f'bad of {self.num_frames} frames out of range',
                'limits between 0 and 1, a bound of at most alpha', _FIX)

    @property
    def weakness(self) -> str:
        """Return why the promise is empty or weak, in words; '' if `FEWEST_BAD` are bad."""
        if self.num_bad >= FEWEST_BAD:
            return ''
        if not self.num_bad:
            return f'an empty promise: none of the {self.num_frames} frames behind it is bad'
        return (f'a weak promise: only {self.num_bad} of the {self.num_frames} frames behind it '
                f'{"is" if self.num_bad == 1 else "are"} bad')


def without_shares(promise: Promise) -> Promise:
    """Return a promise without measured shares, for a network that was run without labels."""
    return dataclasses.replace(promise, accepted=None, accepted_and_bad=None,
                               bad_if_accepted_upper=None)


@dataclass(frozen=True)
class CarriedFrom:
    """
    The bundle that thresholds were carried over from, and the images of the comparison.

    Results that need labels are that bundle's: frames and blocks of the promises, temperature,
    thresholds outside the gate. Both networks were run on `num_images` images without labels;
    `accepted` has the shares that the bundle and this network accept, by alpha as text.
    """

    bundle: str
    precision: str
    model_sha256: str
    num_images: int
    accepted: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Calibration:
    """
    Thresholds of the scores, and how they were fitted.

    `fitting_calibration` refuses a run with other settings. Raises CalibrationError for thresholds
    that no score could exceed.
    """

    passes: int
    seed: int
    mask_policy: str
    precision: str
    # Divisor of the logits.
    temperature: float
    # Threshold of each score, from the split `limits`.
    thresholds: Mapping[str, float]
    # Scores that the gate uses by default.
    gate_scores: tuple[str, ...]
    # Share of the frames of the split `limits` at or below each threshold.
    quantile: float
    num_train: int
    num_limits: int
    # Digests: of the graphs and their entries in the card; of the images of the split `limits`.
    model_sha256: str
    data_sha256: str
    # Thresholds of the gated scores for each alpha.
    promises: tuple[Promise, ...] = ()
    # What the calibration rests on, see `calibration.basis`; empty if made by other means.
    basis: Mapping[str, Any] = field(default_factory=dict)
    # `mask_digest` of the excluded pixels.
    ignore_sha256: str = ''
    # Limits of the statistics of `core.image_damage`; if empty, only the fixed limits apply.
    damage_limits: Mapping[str, float] = field(default_factory=dict)
    # Digest of the file with the features of the training frames; empty if there is none.
    features_sha256: str = ''
    mask_draw: str = 'independent'
    # Classes that cover a smaller share of the image were removed from the mask.
    smallest_class: float = 0.0
    # Added to each alpha where the thresholds were carried over from another precision.
    carried_error: float = 0.0
    carried_from: CarriedFrom | None = None
    # Smallest value of each score on the split `limits`: `core.gate.RISE_RATIO` is a share of
    # the way from there to the threshold.
    floors: Mapping[str, float] = field(default_factory=dict)
    # `image_digest` of every image of the three splits and every foreign one, sorted.
    seen_images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise CalibrationError for thresholds and other values out of range."""
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
            # Not at the top: it imports OpenCV, which the help of a command must not load.
            from uncertainty_seg.core.image_damage import require_limits

            require_limits(self.damage_limits)

    def promise_of(self, alpha: float) -> Promise | None:
        """
        Return the promise for an alpha, the strictest if it is 0; None if there is no promise.

        Raises ConfigError if an alpha above 0 is none of the calibration's.
        """
        alphas = [promise.alpha for promise in self.promises]
        if alpha == 0:
            return self.promises[alphas.index(min(alphas))] if alphas else None
        if alpha not in alphas:
            raise ConfigError(f'gate.alpha is {alpha:g}', f'0 or one of {alphas}',
                              f'calibrate the bundle for alpha {alpha:g}')
        return self.promises[alphas.index(alpha)]


def calibration_to_json(calibration: Calibration) -> str:
    """Return a calibration as indented JSON, with a digest of all other entries."""
    facts: dict[str, Any] = {_SCHEMA: _SCHEMA_VERSION} | {
        f.name: getattr(calibration, f.name) for f in dataclasses.fields(calibration)}
    facts['seen_images'] = ''.join(calibration.seen_images)
    facts['promises'] = [dataclasses.asdict(promise) for promise in calibration.promises]
    facts['carried_from'] = calibration.carried_from and dataclasses.asdict(
        calibration.carried_from)
    return json.dumps({**facts, _DIGEST: _digest(facts)}, indent=2) + '\n'


def calibration_from_json(text: str | bytes) -> Calibration:
    """
    Parse and check a calibration that `calibration_to_json` wrote.

    Raises CalibrationError if the text is not JSON, lacks a key, has another schema, or was
    changed after it was written.
    """
    try:
        raw = load_object(text)
        if raw.get(_SCHEMA) != _SCHEMA_VERSION:
            raise CalibrationError(
                f'calibration.json has schema {raw.get(_SCHEMA, 1)}', f'{_SCHEMA_VERSION}',
                f'{_FIX}: `uncertainty_seg calibrate` with the images, blocks and rule as before, '
                'or, for a bundle in another precision, like the bundle it was made of')
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


def _from_facts(raw: dict[str, Any]) -> Calibration:
    source = raw['carried_from']
    del raw[_SCHEMA]
    return Calibration(**{
        **raw, 'gate_scores': tuple(raw['gate_scores']),
        'promises': tuple(Promise(**promise) for promise in raw['promises']),
        'carried_from': source and CarriedFrom(**{**source, 'accepted': {
            alpha: (float(one), float(other))
            for alpha, (one, other) in source['accepted'].items()}}),
        'seen_images': digests_in(raw['seen_images']),
    })


def image_digest(image: NDArray[np.uint8]) -> str:
    """Return the first digits of a digest of an image's shape and pixels, not of its name."""
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
