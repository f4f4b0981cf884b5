# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Thresholds and temperature of a bundle, for what they hold, and what is promised of them.

A threshold carries its T, seed policy, precision, reduction and graphs, because the estimate of
mutual information grows with T by about (1 - 1/T) and every change of the network moves the
scores.

"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
import dataclasses
from dataclasses import dataclass, field
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

# -------------------------------------------------------------------------------------------------
# Many thresholds moved by one number.
# A promise needs one parameter that makes the gate stricter. Here it is the rank: how large a
# share of the reference frames a score exceeds. Each threshold is the same rank of its own score,
# so that no score counts for more because its unit is larger; a frame's rank is the largest of its
# scores'.

Column = NDArray[np.float64]
Columns = Mapping[str, Column]
# A threshold on a score that hardly ever moves would be no knob.
FEWEST_VALUES = 20
MOST_KNOTS = 101
# A guard watches for what bad reference frames do not show, so that a promise about these must not
# loosen it: what exceeds this share of the reference frames is refused at every alpha.
GUARD_CEILING = 0.98
# The largest limit that a score in 0..1 can still exceed, and the least that is above 0.
HIGHEST_LIMIT, LOWEST_LIMIT = 1 - 2.0**-24, 2.0**-126


@dataclass(frozen=True)
class RankFamily:
    """
    The ranks of scores among reference frames.

    Attributes
    ----------
    knots : mapping of str to ndarray of float64, shape (k,)
        Of each score, its values at growing shares of the reference frames, strictly growing.
    shares : mapping of str to ndarray of float64, shape (k,)
        These shares; the last is 1.
    powers : mapping of str to float
        A *guard* is a score that is low for most frames and telling for a few. Its rank is
        raised to this power, which leaves it small but in the tail; 1 for all others. Its last
        knot is at `GUARD_CEILING` of the frames, so that no promise lifts its limit above.

    """

    knots: Columns
    shares: Columns
    powers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, reference: Columns, powers: Mapping[str, float] | None = None) -> RankFamily:
        """
        Take the ranks among reference frames, float64 (n,) by score; NaN and inf are left out.

        `powers` are those of guards; a score gets at most `MOST_KNOTS` knots. Raises
        CalibrationError if a score has fewer than `FEWEST_VALUES` different values above 0.
        """
        guards = powers or {}
        pairs = {name: _knots(name, values, GUARD_CEILING if name in guards else 1.0)
                 for name, values in reference.items()}
        return cls({name: pair[0] for name, pair in pairs.items()},
                   {name: pair[1] for name, pair in pairs.items()}, dict(powers or {}))

    @property
    def names(self) -> tuple[str, ...]:
        """Scores that have ranks."""
        return tuple(self.knots)

    def ranks(self, name: str, values: Column) -> Column:
        """
        Return the ranks of values of a score, both float64 (n,); they grow with the values.

        A rank is the share of reference frames below, linear between knots, to the score's power;
        beyond the last knot the ratio to it, above 1. It is infinite for a value that is not
        finite.
        """
        knots = self.knots[name]
        inside = np.interp(values, [0.0, *knots], [0.0, *self.shares[name]])
        ranks = np.where(values > knots[-1], values / knots[-1], inside ** self._power(name))
        return np.where(np.isfinite(values), ranks, np.inf)

    def frame_ranks(self, scores: Columns, names: Collection[str]) -> Column:
        """Return the largest rank of each frame among some scores, (n,)."""
        return np.max([self.ranks(name, scores[name]) for name in names], axis=0)

    def limits(self, rank: float, names: Collection[str]) -> dict[str, float]:
        """
        Return the threshold of each of these scores, in (0, 1), at a rank above 0.

        A frame is within all of them if its rank is at most `rank`, but for the last digits of a
        float.
        """
        return {name: self._limit(rank, name) for name in names}

    def only(self, names: Collection[str]) -> RankFamily:
        """Return the family of some of the scores."""
        return RankFamily({n: self.knots[n] for n in names}, {n: self.shares[n] for n in names},
                          {n: p for n, p in self.powers.items() if n in names})

    def to_facts(self) -> dict[str, object]:
        """Return what `from_facts` reads, as plain lists."""
        return {'knots': {n: v.tolist() for n, v in self.knots.items()},
                'shares': {n: v.tolist() for n, v in self.shares.items()},
                'powers': dict(self.powers)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> RankFamily:
        """
        Build a family from plain lists.

        Raises CalibrationError if knots or shares do not grow, or do not belong together.
        """
        knots, shares = ({n: np.array(v, np.float64) for n, v in facts[key].items()}
                         for key in ('knots', 'shares'))
        for name, values in knots.items():
            given = shares.get(name, np.empty(0))
            if values.shape != given.shape or not values.size or (np.diff(values) <= 0).any() \
                    or (np.diff(given) <= 0).any() or not values[0] > 0 or given[-1] != 1:
                raise CalibrationError(f'the ranks of {name!r} do not grow',
                                       'what calibrate wrote', 'calibrate the bundle again')
        return cls(knots, shares, {n: float(p) for n, p in facts['powers'].items()})

    def _power(self, name: str) -> float:
        return self.powers.get(name, 1.0)

    def _limit(self, rank: float, name: str) -> float:
        knots = self.knots[name]
        if rank > 1:
            return min(rank * float(knots[-1]), HIGHEST_LIMIT)
        share = rank ** (1 / self._power(name))
        inside = float(np.interp(share, [0.0, *self.shares[name]], [0.0, *knots]))
        return min(max(inside, LOWEST_LIMIT), HIGHEST_LIMIT)


def _knots(name: str, values: Column, ceiling: float) -> tuple[Column, Column]:
    if not has_ranks(values):
        raise CalibrationError(f'score {name!r} hardly ever changes',
                               f'at least {FEWEST_VALUES} different values above 0',
                               'leave it out, or take more frames')
    finite = np.sort(values[np.isfinite(values)])
    knots, counts = np.unique(finite, return_counts=True)
    shares = np.cumsum(counts) / len(finite)
    picked = np.unique(np.searchsorted(shares, np.linspace(0, 1, MOST_KNOTS) - 1e-12))
    # A knot at 0 would give every frame of 0 a rank of its own.
    picked = picked[knots[picked] > 0]
    knots, shares = knots[picked], shares[picked]
    if ceiling == 1:
        return knots, shares
    last = float(np.interp(ceiling, shares, knots))
    below = (knots < last) & (shares < ceiling)
    return np.append(knots[below], last), np.append(shares[below] / ceiling, 1.0)


def has_ranks(values: Column) -> bool:
    """Say whether a score moves enough to have a threshold; see `RankFamily`."""
    return len(np.unique(values[np.isfinite(values) & (values > 0)])) >= FEWEST_VALUES


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
    family: RankFamily | None = None
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
    for name in ('density', 'family'):
        facts[name] = facts[name] and facts[name].to_facts()
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
    density, family, source = raw['density'], raw['family'], raw['carried_from']
    del raw[_SCHEMA]
    return Calibration(**{
        **raw, 'gate_scores': tuple(raw['gate_scores']),
        'promises': tuple(Promise(**promise) for promise in raw['promises']),
        'reductions': tuple(raw['reductions']),
        'density': density and ScoreDensity.from_facts(density),
        'family': family and RankFamily.from_facts(family),
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
