# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Choose the scores and guards of a gate on the training frames.

The *order* consists of scores that separate bad frames from good ones. A *guard* detects what bad
training frames do not show, such as unfamiliar water; it is low for most frames, so its rank only
matters in the tail (see `RankFamily`). With foreign (out-of-distribution) frames, both are chosen
by cross-validation over blocks: ranks and thresholds come from four fifths and are measured on the
last fifth, for each fifth in turn. Without them, the density of the scores is the guard, and the
order is chosen by the risk on all frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from uncertainty_seg.calibration.stats.conformal import (
    HIGHEST_RANK,
    mean_block_share,
    promised_limit,
)
from uncertainty_seg.calibration.stats.evaluation import FrameTable
from uncertainty_seg.calibration.stats.intervals import weighted_aurc
from uncertainty_seg.calibration.stats.ranks import has_ranks, RankFamily
from uncertainty_seg.core.arrays import Column, Columns
from uncertainty_seg.errors import CalibrationError, ConfigError

# Scores of the image, of features and of the density measure how unusual a frame is, not whether
# its mask is good; scores of single maps may do either.
GUARD_ROOMS = ('density.', 'features.', 'image.')
GUARD_SCORES = ('mutual_information.top', 'unknown.top', 'energy.mean')
GUARD_POWER = 8.0
# The guard against unfamiliar water that is used untested if there are no foreign frames. Its
# rank is low for most frames.
UNPROVEN_GUARD = 'density.scores'
MOST_ORDER, MOST_SCORES = 3, 5
_FIFTHS = 5
# Smallest gain of a guard: the additional share of familiar frames accepted (by a looser threshold
# at the same alpha) plus `FOREIGN_PRICE` times the share of foreign frames newly refused.
SMALLEST_GUARD_GAIN = 0.01
# Cost of one accepted foreign frame, in accepted familiar frames.
FOREIGN_PRICE = 1.0
# A random guard refuses equal parts of foreign and familiar frames. A guard must refuse this many
# times as large a part of the accepted foreign frames as of the accepted familiar ones.
LEAST_FAVOUR = 2.0
# A score is added only if it reduces the area under risk and coverage by this share.
SMALLEST_GAIN = 0.02
_SEED = 0
# Prefix of a score's name for its rank as a guard.
_GUARD = 'guard '


def gate_of(
    frames: FrameTable, alphas: Sequence[float], foreign: FrameTable | None,
    named: Sequence[str],
) -> tuple[RankFamily, tuple[str, ...]]:
    """
    Return the rank family of a gate's scores, and the scores.

    `frames` are labelled training frames; guards are tested on `foreign` ones. Scores that a user
    named are all used; those that cannot order frames become guards. Raises CalibrationError if
    all frames are bad or all are good, or no score varies; ConfigError if a named score does not
    exist.
    """
    if named:
        missing = [name for name in named if name not in frames.scores]
        if missing:
            raise ConfigError(f'no score {missing[0]!r}', f'one of {", ".join(frames.scores)}')
        powers = {name: GUARD_POWER for name in named if not is_order(name)}
        return RankFamily.fit({name: frames.scores[name] for name in named}, powers), tuple(named)
    if frames.is_bad.all() or not frames.is_bad.any():
        word, fix = ('bad', 'train the network on, or take a rule that some frames keep') \
            if frames.is_bad.all() else ('good', 'take a rule that some frames break')
        raise CalibrationError(f'all {len(frames)} frames to choose scores on are {word}',
                               'good and bad frames', f'{fix}, or name the scores of the gate')
    if foreign is not None:
        order, guards = choose_gate(frames, alphas, foreign)
        return RankFamily.fit({name: frames.scores[name] for name in (*order, *guards)},
                              dict.fromkeys(guards, GUARD_POWER)), (*order, *guards)
    family = RankFamily.fit({name: column for name, column in frames.scores.items()
                             if has_ranks(column)}, {UNPROVEN_GUARD: GUARD_POWER})
    return family, choose_scores(family, frames)


def is_guard(name: str) -> bool:
    """Return whether a score may be a guard."""
    return name.startswith(GUARD_ROOMS) or name in GUARD_SCORES


def is_order(name: str) -> bool:
    """Return whether a score may be part of the order."""
    return not name.startswith(GUARD_ROOMS)


def choose_scores(family: RankFamily, frames: FrameTable) -> tuple[str, ...]:
    """
    Choose scores by the area under their risk-coverage curve; the loss is 1 for a bad frame.

    The first is `UNPROVEN_GUARD` if the family has it. Then the score that reduces the area most
    is added repeatedly, up to `MOST_SCORES`. Raises CalibrationError if there is no score.
    """
    losses = frames.is_bad.astype(np.float64)
    columns = {name: family.ranks(name, frames.scores[name]) for name in family.names}
    if not columns:
        raise _nothing_changes()
    return _greedily(tuple(name for name in (UNPROVEN_GUARD,) if name in columns), columns,
                     MOST_SCORES, lambda names: np.array([_area(columns, names, losses)]))


def _greedily(
    chosen: tuple[str, ...], names: Iterable[str], most: int,
    areas_of: Callable[[tuple[str, ...]], Column],
) -> tuple[str, ...]:
    """
    Add scores one by one, each time the one with the least mean of the areas (n,) of the parts.

    The new area must be lower by the share `SMALLEST_GAIN` on average, and lower on most parts.
    """
    left = [name for name in names if name not in chosen]
    now = areas_of(chosen) if chosen else np.array([np.inf])
    while left and len(chosen) < most:
        areas = {name: areas_of((*chosen, name)) for name in left}
        best = min(left, key=lambda name: float(areas[name].mean()))
        is_smaller = areas[best].mean() <= now.mean() * (1 - SMALLEST_GAIN)
        if not (is_smaller and _on_most(now - areas[best])):
            break
        chosen, now = (*chosen, best), areas[best]
        left.remove(best)
    return chosen


def _area(ranks: Columns, names: Iterable[str], losses: Column) -> float:
    """Return the area under the risk-coverage curve of the frames' largest rank."""
    largest = np.max([ranks[name] for name in names], axis=0)
    return float(weighted_aurc(largest, losses, np.ones((1, len(losses))))[0])


def _nothing_changes() -> CalibrationError:
    return CalibrationError('no score of these frames takes enough different values',
                            'scores that differ', 'take more frames')


# -------------------------------------------------------------------------------------------------
# With foreign frames.


def choose_gate(
    frames: FrameTable, alphas: Sequence[float], foreign: FrameTable
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """
    Choose the scores of the order, then the guards; return both in the order of choice.

    The order begins with the score of the least mean area under the risk-coverage curve. Scores
    are added, up to `MOST_ORDER`, while the area of the frames' largest rank falls by the share
    `SMALLEST_GAIN`, and falls on most of the fifths. Then guards are added, up to `MOST_SCORES` in
    all: of those that qualify (`is_earned`), the one with the largest gain. The gain is the change
    of the share of familiar frames accepted at the same alpha minus `FOREIGN_PRICE` times the
    share of foreign frames accepted, as a mean over the alphas.

    Raises CalibrationError if no score varies. See `gate_of` for the parameters.
    """
    parts, orders, guards = _parts(frames, foreign)
    order = _greedily((), orders, MOST_ORDER, lambda names: np.array([
        _area(part.own.scores, names, part.own.is_bad.astype(np.float64)) for part in parts]))
    return order, _choose_guards(parts, order, guards, alphas)


class _Fifth(NamedTuple):
    """
    The tables of one fold; their scores are replaced by ranks among the other four fifths.

    `rest` is the other four fifths, `own` the fifth itself. The rank of a possible guard, raised
    to `GUARD_POWER`, is stored under `_GUARD` plus the score's name.
    """

    rest: FrameTable
    own: FrameTable
    foreign: FrameTable

    def accepts(self, names: Sequence[str], alphas: Sequence[float]) -> tuple[float, float]:
        """Return the shares of own and foreign frames accepted by thresholds from `rest`."""
        rest, own, foreign = (np.asarray(np.max([table.scores[n] for n in names], axis=0))
                              for table in self)
        found = []
        for alpha in alphas:
            limit = _rank_limit(rest, self.rest, alpha)
            found.append((mean_block_share(own <= limit, self.own.blocks),
                          float((foreign <= limit).mean())))
        accepted, strange = np.mean(found, axis=0)
        return float(accepted), float(strange)


def _rank_limit(ranks: Column, frames: FrameTable, alpha: float) -> float:
    """Return the largest rank that satisfies a promise; minus infinity if none does."""
    try:
        return min(promised_limit(ranks, frames.is_bad, frames.blocks, alpha), HIGHEST_RANK)
    except CalibrationError:
        return -np.inf


def _parts(
    frames: FrameTable, foreign: FrameTable
) -> tuple[list[_Fifth], list[str], list[str]]:
    """Return the fifths, the possible scores of the order, and the possible guards."""
    # Whole blocks are assigned at random, with a fixed seed.
    blocks, index = np.unique(frames.blocks, return_inverse=True)
    folds = (np.random.default_rng(_SEED).permutation(len(blocks)) % _FIFTHS)[index]
    pairs = [(frames.select(folds != fold), frames.select(folds == fold))
             for fold in np.unique(folds)]
    # Candidates must have ranks in all fifths.
    names = [name for name in frames.scores
             if all(has_ranks(rest.scores[name]) for rest, _ in pairs)]
    orders, guards = [n for n in names if is_order(n)], [n for n in names if is_guard(n)]
    if not orders:
        raise _nothing_changes()
    fifths = []
    for rest, own in pairs:
        plain = RankFamily.fit({n: rest.scores[n] for n in orders})
        guard = RankFamily.fit({n: rest.scores[n] for n in guards},
                               dict.fromkeys(guards, GUARD_POWER))
        fifths.append(_Fifth(*(replace(table, scores={
            **{n: plain.ranks(n, table.scores[n]) for n in orders},
            **{_GUARD + n: guard.ranks(n, table.scores[n]) for n in guards}})
            for table in (rest, own, foreign))))
    return fifths, orders, guards


def _choose_guards(
    parts: Sequence[_Fifth], order: tuple[str, ...], guards: Sequence[str],
    alphas: Sequence[float],
) -> tuple[str, ...]:
    def accepted(chosen: Sequence[str]) -> Column:
        names = [*order, *(_GUARD + name for name in chosen)]
        return np.array([part.accepts(names, alphas) for part in parts])

    chosen: tuple[str, ...] = ()
    now = accepted(chosen)
    while len(order) + len(chosen) < MOST_SCORES:
        found = {name: accepted((*chosen, name)) for name in guards
                 if name not in (*order, *chosen)}
        earned = {name: _worth(shares - now).mean() for name, shares in found.items()
                  if is_earned(now, shares)}
        if not earned:
            break
        best = max(earned, key=lambda name: float(earned[name]))
        chosen, now = (*chosen, best), found[best]
    return chosen


def _worth(shares: Column) -> Column:
    return np.asarray(shares[:, 0] - FOREIGN_PRICE * shares[:, 1])


def is_earned(before: Column, after: Column) -> bool:
    """
    Return whether a guard is worth adding.

    `before` and `after` (n, 2) are the shares of familiar and foreign frames accepted at the same
    promise, without and with the guard, on n parts of the frames. The gain must be at least
    `SMALLEST_GUARD_GAIN` on average and positive on most parts, and the part of the accepted
    foreign frames that is refused `LEAST_FAVOUR` times as large as that of familiar ones.
    """
    gain, (own, strange) = _worth(after - before), before.mean(0)
    refused, caught = ((before - after).mean(0) / np.maximum([own, strange], 1e-9)).tolist()
    return bool(gain.mean() >= SMALLEST_GUARD_GAIN and _on_most(gain)
                and (refused <= 0 or caught >= LEAST_FAVOUR * refused))


def _on_most(gains: Column) -> bool:
    return bool((gains > 0).mean() > 0.5)
