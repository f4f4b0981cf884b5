# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a gate is worth on frames that chose nothing of it: the outer loop of nested folds.

For each fold, scores, guards, ranks and limits are chosen and fitted on the frames of the other
folds and measured on this one. The figures are those of all folds together. The gate that ships is
made in the same way from all frames, and its own frames say nothing of it.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.gate_choice import (
    block_folds,
    choose_gate,
    GateChoice,
    named_choice,
)
from uncertainty_seg.calibration.statistics.bootstrap import block_interval, Interval
from uncertainty_seg.calibration.statistics.conformal import (
    bad_share,
    BadShare,
    block_shares,
    HIGHEST_RANK,
    promised_limit,
    PromisedLimit,
)
from uncertainty_seg.calibration.statistics.evaluation import rank_frames
from uncertainty_seg.calibration.statistics.frame_table import FrameTable
from uncertainty_seg.calibration.statistics.metrics import auroc, Floats
from uncertainty_seg.core.calibration import Column, RankFamily
from uncertainty_seg.errors import CalibrationError, ConfigError

_DRAWS = 500
_THIRDS = 3


@dataclass(frozen=True)
class FoldFrames:
    """
    Frames with the fold whose network, which never saw them, gave their scores.

    Attributes
    ----------
    frames : FrameTable
        Labelled; a block lies in one fold.
    folds : ndarray of int64, shape (n,)
        Of each frame.
    foreign : FrameTable or None
        Frames of another kind.
    foreign_folds : ndarray of int64, shape (m,)
        Of each of those.

    """

    frames: FrameTable
    folds: NDArray[np.int64]
    foreign: FrameTable | None = None
    foreign_folds: NDArray[np.int64] | None = None

    @property
    def names(self) -> list[int]:
        """Folds, growing."""
        return [int(fold) for fold in np.unique(self.folds)]

    def split(self, fold: int) -> tuple[FoldFrames, FoldFrames]:
        """Return the frames of all other folds, and of this one."""
        return self._where(lambda folds: folds != fold), self._where(lambda folds: folds == fold)

    def _where(self, chosen: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> FoldFrames:
        rows = chosen(self.folds)
        if self.foreign is None or self.foreign_folds is None:
            return FoldFrames(self.frames.select(rows), self.folds[rows])
        others = chosen(self.foreign_folds)
        return FoldFrames(self.frames.select(rows), self.folds[rows],
                          self.foreign.select(others), self.foreign_folds[others])


@dataclass(frozen=True)
class FittedGate:
    """
    Scores, ranks and limits.

    Attributes
    ----------
    choice, family : GateChoice, RankFamily
        What the gate is made of, and the ranks of its scores.
    limits : mapping of float to PromisedLimit
        The rank that keeps the promise of each alpha; without those that no rank keeps.

    """

    choice: GateChoice
    family: RankFamily
    limits: Mapping[float, PromisedLimit]

    def thresholds(self, alpha: float) -> dict[str, float]:
        """Return the threshold of each score; KeyError where nothing is promised."""
        # What exceeds all reference frames is refused whatever the promise would allow.
        rank = min(self.limits[alpha].limit, HIGHEST_RANK)
        return self.family.limits(rank, self.choice.names)


def fit_gate(
    known: FoldFrames, alphas: Sequence[float], names: Sequence[str] = (),
    ranks: Column | None = None,
) -> FittedGate:
    """
    Choose scores and take ranks on all frames, and limits by cross-fitting.

    A rank of a frame in a gate that was chosen on this very frame is too small if it is bad, and
    limits fitted to such ranks break the promise. So each frame's rank comes from a gate that was
    made of others (`ranks_of_others`), and conformal risk control sees those.

    Parameters
    ----------
    known : FoldFrames
        Frames scored by networks that never saw them.
    alphas : sequence of float
        To promise.
    names : sequence of str
        Scores of the gate; chosen if empty.
    ranks : ndarray of float64, shape (n,), optional
        `ranks_of_others`, where they are known already.

    Returns
    -------
    FittedGate
        Its own frames chose it, so that what it does to them is no evidence.

    Raises
    ------
    CalibrationError
        See `choose_gate`; or if a named score hardly ever changes.
    ConfigError
        If a named score is not there.

    """
    choice, family = _made(known, alphas, names)
    if ranks is None:
        ranks = ranks_of_others(known, alphas, names)
    frames, limits = known.frames, {}
    for alpha in alphas:
        try:
            limits[alpha] = promised_limit(ranks, frames.is_bad, frames.blocks, alpha)
        except CalibrationError:
            continue
    return FittedGate(choice, family, limits)


def ranks_of_others(
    known: FoldFrames, alphas: Sequence[float], names: Sequence[str] = ()
) -> Column:
    """
    Return the rank of each frame, (n,), in a gate made of frames of the other folds.

    Networks differ in how large their scores are; a rank among frames of other networks has that
    difference in it, as the rank of a new frame has, which the network that ships will score.
    Frames of one fold are ranked among two thirds of their own.
    """
    if len(known.names) == 1:
        known = _in_thirds(known)
    ranks = np.full(len(known.frames), np.inf)
    for fold in known.names:
        rest, own = known.split(fold)
        choice, family = _made(rest, alphas, names)
        ranks[known.folds == fold] = family.frame_ranks(own.frames.scores, choice.names)
    return ranks


def _in_thirds(known: FoldFrames) -> FoldFrames:
    foreign = known.foreign
    return FoldFrames(known.frames, block_folds(known.frames.blocks, _THIRDS), foreign,
                      None if foreign is None else block_folds(foreign.blocks, _THIRDS))


def _made(
    known: FoldFrames, alphas: Sequence[float], names: Sequence[str]
) -> tuple[GateChoice, RankFamily]:
    frames = known.frames
    missing = [name for name in names if name not in frames.scores]
    if missing:
        raise ConfigError(f'no score {missing[0]!r}', f'one of {", ".join(frames.scores)}')
    choice = named_choice(names) if names else choose_gate(frames, alphas, known.foreign)
    return choice, choice.family(frames)


@dataclass(frozen=True)
class NestedPromise:
    """
    One alpha, held against frames that chose nothing of the gate that judged them.

    Attributes
    ----------
    alpha : float
        Promised.
    accepted, accepted_and_bad : Interval
        Shares of the frames, every block alike.
    bad_if_accepted : BadShare
        With its upper bound.
    foreign_accepted : Interval or None
        Share of the foreign frames; None without any.
    of_folds : tuple of float
        Accepted and bad in each fold alone.

    """

    alpha: float
    accepted: Interval
    accepted_and_bad: Interval
    bad_if_accepted: BadShare
    foreign_accepted: Interval | None
    of_folds: tuple[float, ...]

    def summary(self) -> dict[str, Any]:
        """Return the figures for scripts."""
        foreign = self.foreign_accepted
        return {'alpha': self.alpha, 'accepted': vars(self.accepted),
                'accepted_and_bad': vars(self.accepted_and_bad),
                'bad_if_accepted_upper': self.bad_if_accepted.upper,
                'foreign_accepted': vars(foreign) if foreign else None,
                'accepted_and_bad_of_folds': self.of_folds}


@dataclass(frozen=True)
class NestedFigures:
    """
    What making a gate in this way is worth.

    Attributes
    ----------
    num_folds, num_frames, num_foreign : int
        K, and rows of frames.
    choices : tuple of GateChoice
        What each fold's gate, chosen on the other folds, was made of.
    promises : tuple of NestedPromise
        One an alpha.
    order : ndarray of float64, shape (n,)
        Rank of each frame in the gate that judged it.
    excess_aurc, bad_auroc : Interval
        How that order ranks bad frames: E-AURC, and the chance that a bad one is above a good one.
    ood_auroc : Interval or None
        The chance that a foreign frame is above a familiar one.

    """

    num_folds: int
    num_frames: int
    num_foreign: int
    choices: tuple[GateChoice, ...]
    promises: tuple[NestedPromise, ...]
    order: Column
    excess_aurc: Interval
    bad_auroc: Interval
    ood_auroc: Interval | None

    def summary(self) -> dict[str, Any]:
        """Return the figures for scripts."""
        return {'num_folds': self.num_folds, 'num_frames': self.num_frames,
                'num_foreign': self.num_foreign, 'choices': [c.names for c in self.choices],
                'promises': [promise.summary() for promise in self.promises],
                'excess_aurc': vars(self.excess_aurc), 'bad_auroc': vars(self.bad_auroc),
                'ood_auroc': vars(self.ood_auroc) if self.ood_auroc else None}


@dataclass
class _Judged:
    """Ranks and acceptance at each alpha of the frames, filled fold by fold."""

    ranks: Column
    accepted: dict[float, NDArray[np.bool_]]

    @classmethod
    def empty(cls, count: int, alphas: Sequence[float]) -> _Judged:
        return cls(np.full(count, np.inf), {alpha: np.zeros(count, bool) for alpha in alphas})

    def fill(self, rows: NDArray[np.bool_], frames: FrameTable, gate: FittedGate) -> None:
        self.ranks[rows] = gate.family.frame_ranks(frames.scores, gate.choice.names)
        for alpha in gate.limits:
            self.accepted[alpha][rows] = frames.accepted(gate.thresholds(alpha))


def nested_figures(
    by_fold: Mapping[int, FoldFrames], alphas: Sequence[float], names: Sequence[str] = ()
) -> NestedFigures:
    """
    Choose on all folds but one and measure on that one, for each fold.

    Parameters
    ----------
    by_fold : mapping of int to FoldFrames
        Of each fold, all frames as they are scored when nothing of this fold chose anything (its
        temperature comes from the others); the rows are the same frames throughout.
    alphas, names
        See `fit_gate`.

    Returns
    -------
    NestedFigures
        Of all folds together.

    Raises
    ------
    CalibrationError
        See `fit_gate`.

    """
    known = next(iter(by_fold.values()))
    foreign_count = len(known.foreign) if known.foreign is not None else 0
    judged = _Judged.empty(len(known.frames), alphas)
    strangers = _Judged.empty(foreign_count, alphas)
    choices = []
    for fold, table in by_fold.items():
        rest, own = table.split(fold)
        gate = fit_gate(rest, alphas, names)
        choices.append(gate.choice)
        judged.fill(known.folds == fold, own.frames, gate)
        if own.foreign is not None and known.foreign_folds is not None:
            strangers.fill(known.foreign_folds == fold, own.foreign, gate)
    return NestedFigures(
        len(by_fold), len(known.frames), foreign_count, tuple(choices),
        tuple(_promise(alpha, known, judged, strangers) for alpha in alphas), judged.ranks,
        *_rankings(known, judged.ranks, strangers.ranks if foreign_count else None))


def _rankings(
    known: FoldFrames, ranks: Column, foreign: Column | None
) -> tuple[Interval, Interval, Interval | None]:
    frames = known.frames
    found = rank_frames(ranks, frames, foreign)
    rows = np.stack([np.minimum(ranks, 1e9), frames.is_bad], 1)
    return found.excess_aurc, block_interval(_bad_auroc, rows, frames.blocks, draws=_DRAWS), \
        found.ood_auroc


def _bad_auroc(rows: Floats) -> float:
    is_bad = rows[:, 1] > 0
    return auroc(rows[is_bad, 0], rows[~is_bad, 0])


def _promise(
    alpha: float, known: FoldFrames, judged: _Judged, strangers: _Judged
) -> NestedPromise:
    frames, accepted = known.frames, judged.accepted[alpha]
    lost = accepted & frames.is_bad
    foreign = None if known.foreign is None else \
        share_of_blocks(strangers.accepted[alpha], known.foreign.blocks)
    return NestedPromise(
        alpha, share_of_blocks(accepted, frames.blocks), share_of_blocks(lost, frames.blocks),
        bad_share(accepted, frames.is_bad, frames.blocks), foreign,
        tuple(float(block_shares(lost[known.folds == f], frames.blocks[known.folds == f])[1]
                    .mean()) for f in known.names))


def share_of_blocks(chosen: NDArray[np.bool_], blocks: NDArray[np.str_]) -> Interval:
    """Return the mean over blocks of the share of a block's frames that are chosen."""
    names, shares = block_shares(chosen, blocks)
    return block_interval(lambda rows: float(rows.mean()), shares, names, draws=_DRAWS)
