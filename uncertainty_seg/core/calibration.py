# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Thresholds and temperature of a bundle, for what they hold, and what is promised of them.

A threshold carries its T, seed policy, precision and graphs, because the estimate of mutual
information grows with T by about (1 - 1/T) and every change of the network moves the scores.

"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass
import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.gate_choice import RankFamily
from uncertainty_seg.core.score_density import density_from_json, density_to_json, ScoreDensity
from uncertainty_seg.errors import CalibrationError, ConfigError

# Every score lies in 0..1, so that a limit of 1 or more would judge nothing.
HIGHEST_SCORE = 1.0
_FIX = 'calibrate the bundle again'
_DIGEST = 'sha256'


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
    accepted, accepted_and_bad : float
        Shares of the calibration frames.
    bad_if_accepted_upper : float
        P(bad | accepted) is not above this, with 95 % confidence (Clopper-Pearson, shared among
        all the limits that the same frames could have chosen). Of blocks with an accepted frame,
        it is the share that has a bad one, so that each such block counts alike.

    """

    alpha: float
    limits: Mapping[str, float]
    bad: str
    num_blocks: int
    num_frames: int
    bound: float
    accepted: float
    accepted_and_bad: float
    bad_if_accepted_upper: float

    def __post_init__(self) -> None:
        """Refuse a promise that is none."""
        wrong = [k for k, v in self.limits.items() if not 0 < v < HIGHEST_SCORE]
        if wrong or not self.limits or not 0 < self.bound <= self.alpha < 1:
            raise CalibrationError(
                f'a promise of {self.alpha}: bound {self.bound} or limits {wrong} out of range',
                'limits between 0 and 1, a bound of at most alpha', _FIX)


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
        The same from the training set; far below means the network knows it by heart.
    gate_scores : tuple of str
        Scores the gate looks at unless it is told otherwise.
    quantile : float
        Share of validation frames at or below each limit.
    num_train, num_val : int
        Frames the limits come from.
    model_sha256, data_sha256 : str
        Digest over the graphs and what the card says of them, and over the validation images.
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
    family: RankFamily | None = None
    ignore_sha256: str = ''

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
        others = [p.alpha for p in self.promises if set(p.limits) != set(self.gate_scores)]
        if others:
            raise CalibrationError(f'the promise of {others[0]} is for other scores',
                                   f'the gate scores {self.gate_scores}', _FIX)

    def promise_of(self, alpha: float) -> Promise | None:
        """
        Return the promise of an alpha, the strictest if it is 0; None if nothing is promised.

        Raises
        ------
        ConfigError
            If there are promises, but none of this alpha.

        """
        alphas = [promise.alpha for promise in self.promises]
        if alpha == 0:
            return self.promises[alphas.index(min(alphas))] if alphas else None
        if alpha not in alphas:
            raise ConfigError(f'gate.alpha is {alpha:g}', f'0 or one of {alphas}',
                              f'calibrate the bundle with --alpha {alpha:g}')
        return self.promises[alphas.index(alpha)]


def calibration_to_json(calibration: Calibration) -> str:
    """Write a calibration as indented JSON, with a digest over the rest of it."""
    # Not asdict of the whole: it would copy the density's arrays, which are no JSON.
    facts = {f.name: getattr(calibration, f.name) for f in dataclasses.fields(calibration)}
    facts['promises'] = [dataclasses.asdict(promise) for promise in calibration.promises]
    if calibration.density is not None:
        facts['density'] = json.loads(density_to_json(calibration.density))
    if calibration.family is not None:
        facts['family'] = calibration.family.to_facts()
    lines = (f'  "{key}": {_value_text(key, value)}'
             for key, value in {**facts, _DIGEST: _digest(facts)}.items())
    return '{\n' + ',\n'.join(lines) + '\n}\n'


def calibration_from_json(text: str | bytes) -> Calibration:
    """
    Read a calibration.

    Parameters
    ----------
    text : str or bytes
        JSON as `calibration_to_json` writes it.

    Returns
    -------
    Calibration
        Checked against itself.

    Raises
    ------
    CalibrationError
        If the text is no JSON, lacks a key, or was changed after it was written.

    """
    try:
        raw = json.loads(text)
        if raw.pop(_DIGEST) != _digest(raw):
            raise CalibrationError(
                'calibration.json was changed after it was written', 'what calibrate wrote',
                'restore the file, or calibrate the bundle again',
            )
        return _from_facts(raw)
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise CalibrationError(
            f'calibration.json cannot be read ({err})', 'what calibrate wrote', _FIX
        ) from err


def _value_text(key: str, value: object) -> str:
    # Long rows of numbers are for programs, the rest is for people too.
    indent = None if key in ('density', 'family') else 2
    return json.dumps(value, indent=indent).replace('\n', '\n  ')


def _from_facts(raw: dict[str, Any]) -> Calibration:
    density, family = raw.pop('density', None), raw.pop('family', None)
    return Calibration(**{
        **raw, 'gate_scores': tuple(raw['gate_scores']),
        'promises': tuple(Promise(**promise) for promise in raw.get('promises', ())),
        'density': density and density_from_json(json.dumps(density)),
        'family': family and RankFamily.from_facts(family),
    })


def mask_digest(ignore: NDArray[np.bool_] | None) -> str:
    """Return a digest of an ignore mask (H, W); empty for none."""
    if ignore is None:
        return ''
    return hashlib.sha256(f'{ignore.shape}'.encode() + np.packbits(ignore).tobytes()).hexdigest()


def _digest(facts: Mapping[str, object]) -> str:
    canonical = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
