# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The rows of a comparison: every figure of every contender, and its difference from the baseline.

One list of rows is all there is: the terminal, the page, the JSON and the CSV show it. A gain is
always written so that above 0 is better, whatever the figure; only a gain whose interval excludes
0 is called better.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.compare.cost import MeasuredCost
from uncertainty_seg.calibration.compare.frames import MeasuredFrames
from uncertainty_seg.calibration.statistics.bootstrap import Interval
from uncertainty_seg.calibration.statistics.metrics import Floats
from uncertainty_seg.calibration.statistics.paired import (
    Draws,
    promised_coverage,
    weighted_auroc,
    weighted_excess_aurc,
    weighted_pixels,
    weighted_totals,
)
from uncertainty_seg.calibration.statistics.picking import (
    Folds,
    folds_of,
    Histograms,
    pick,
    picked_column,
    picked_histograms,
)
from uncertainty_seg.core.calibration import Column

# Cuts in halves for the promise; each is used both ways round.
HALVINGS = 20
_SEED = 0
PICKED = 'picked'


@dataclass(frozen=True)
class FigureKind:
    """
    What a row measures.

    Attributes
    ----------
    key : str
        Its name in JSON and CSV.
    title : str
        In words.
    is_cost : bool
        A price or a check, of which no difference is judged.
    digits : int
        Decimals.

    """

    key: str
    title: str
    is_cost: bool = False
    digits: int = 3


@dataclass(frozen=True)
class Row:
    """
    One figure of one contender.

    Attributes
    ----------
    kind : FigureKind
        What is measured.
    label : str
        Of the contender.
    name : str
        The map or score; the choice of the folds where they chose; else empty.
    is_picked : bool
        It is the contender's own figure, or of what the folds chose: nothing about it was chosen
        on the frames that it is of. Other rows are one of many.
    value : Interval
        The figure; only a value for a cost.
    gain : Interval or None
        How much better than the baseline on the same draws; None for the baseline and for a cost.
    against : str
        The map or score of the baseline that it is compared with.
    verdict : str
        In words; empty for the baseline and for a cost.

    """

    kind: FigureKind
    label: str
    name: str
    is_picked: bool
    value: Interval
    gain: Interval | None = None
    against: str = ''
    verdict: str = ''

    def facts(self) -> dict[str, object]:
        """Return the row as plain values, for JSON and CSV."""
        ends = [None, None, None] if self.gain is None else [
            self.gain.value, self.gain.lower, self.gain.upper]
        return {
            'figure': self.kind.key, 'bundle': self.label, 'name': self.name,
            'is_picked': self.is_picked, 'value': self.value.value, 'lower': self.value.lower,
            'upper': self.value.upper, 'gain': ends[0], 'gain_lower': ends[1],
            'gain_upper': ends[2], 'against': self.against, 'verdict': self.verdict,
        }


@dataclass(frozen=True)
class _Figures:
    """One contender's figures over all draws: (kind key, name) -> (d,), in order."""

    picked: dict[str, tuple[str, Floats]] = field(default_factory=dict)
    each: dict[str, dict[str, Floats]] = field(default_factory=dict)


@dataclass(frozen=True)
class TableMaker:
    """
    Makes the rows; the same draws, folds and halves for every contender.

    Attributes
    ----------
    num_classes : int
        C.
    draws : Draws
        Of the labelled frames' blocks.
    folds : ndarray of int, shape (n,)
        Of the labelled frames.
    foreign : mapping of str to (Draws, ndarray of int)
        The same of each folder of foreign frames, each frame its own block.
    alphas : tuple of float
        To promise.

    """

    num_classes: int
    draws: Draws
    folds: Folds
    foreign: Mapping[str, tuple[Draws, Folds]]
    alphas: tuple[float, ...]

    @classmethod
    def of(
        cls, num_classes: int, blocks: NDArray[np.str_], foreign: Mapping[str, int], folds: int,
        draws: int, alphas: tuple[float, ...],
    ) -> TableMaker:
        """
        Draw and deal.

        Raises DatasetError if there are fewer blocks, or fewer images in a folder, than folds.

        Parameters
        ----------
        num_classes : int
            C.
        blocks : ndarray of str, shape (n,)
            Of each labelled frame.
        foreign : mapping of str to int
            Images in each folder.
        folds, draws : int
            How many.
        alphas : tuple of float
            To promise.

        """
        others = {folder: (Draws.of(np.arange(count), draws, _SEED + 1),
                           folds_of(np.arange(count), folds, _SEED))
                  for folder, count in foreign.items()}
        return cls(num_classes, Draws.of(blocks, draws, _SEED), folds_of(blocks, folds, _SEED),
                   others, alphas)

    def rows(
        self, measured: Mapping[str, MeasuredFrames], costs: Mapping[str, MeasuredCost]
    ) -> tuple[Row, ...]:
        """Return all rows, figure by figure; the first contender is the baseline."""
        figures = {label: self._figures(found) for label, found in measured.items()}
        rows = [*_cost_rows(costs)]
        for kind in self._kinds(figures):
            rows += self._rows_of(kind, figures)
        return tuple(rows)

    def _kinds(self, figures: Mapping[str, _Figures]) -> list[FigureKind]:
        keys = dict.fromkeys(key for found in figures.values() for key in found.picked)
        return [FigureKind(key, _title(key), key.startswith(_CHECK)) for key in keys]

    def _rows_of(self, kind: FigureKind, figures: Mapping[str, _Figures]) -> list[Row]:
        baseline = next(iter(figures))
        base = figures[baseline]
        rows = [self._row(kind, label, *found.picked[kind.key], base.picked.get(kind.key),
                          baseline, True)
                for label, found in figures.items() if kind.key in found.picked]
        for label, found in figures.items():
            for name, values in found.each.get(kind.key, {}).items():
                rows.append(self._row(kind, label, name, values,
                                      _counterpart(base, kind.key, name), baseline, False))
        return rows

    def _row(
        self, kind: FigureKind, label: str, name: str, values: Floats,
        other: tuple[str, Floats] | None, baseline: str, is_picked: bool,
    ) -> Row:
        draws = self.draws
        if label == baseline or other is None or kind.is_cost:
            return Row(kind, label, name, is_picked, draws.interval(values))
        sign = -1.0 if kind.key in _SMALLER_IS_BETTER else 1.0
        gain = draws.interval(sign * (values - other[1]))
        return Row(kind, label, name, is_picked, draws.interval(values), gain, other[0],
                   verdict_of(gain, baseline))

    # ---------------------------------------------------------------------------------------------

    def _figures(self, found: MeasuredFrames) -> _Figures:
        made = _Figures()
        iou, ece = weighted_totals(found.totals, self.num_classes, self.draws.weights)
        made.picked['mean_iou'], made.picked['ece'] = ('', iou), ('', ece)
        names = found.maps()
        self._add_pixels(made, 'error', {name: found.errors[name] for name in names})
        self._add_bad(made, found)
        for folder in self.foreign:
            self._add_foreign(made, found, folder)
        unseen = {name: found.unseen[name] for name in names if name in found.unseen}
        self._add_pixels(made, 'unseen', unseen)
        return made

    def _add_pixels(self, made: _Figures, of: str, maps: Mapping[str, Histograms]) -> None:
        if not maps:
            return

        def merit(name: str, rows: NDArray[np.bool_]) -> float:
            yes, no = (part[rows] for part in maps[name])
            return float(weighted_pixels(yes, no, np.ones((1, len(yes))))[0][0])

        chosen = pick(tuple(maps), merit, self.folds)
        tables = {PICKED: picked_histograms(maps, chosen, self.folds), **maps}
        for name, (yes, no) in tables.items():
            pair = weighted_pixels(yes, no, self.draws.weights)
            for key, values in zip((f'{of}_auroc', f'{of}_aupr'), pair, strict=True):
                _keep(made, key, name, chosen, values)

    def _add_bad(self, made: _Figures, found: MeasuredFrames) -> None:
        bad, weights = found.is_bad, self.draws.weights
        losses = bad.astype(np.float64)
        names = found.told_scores()
        if not names or not bad.any() or bad.all():
            return

        def merit(name: str, rows: NDArray[np.bool_]) -> float:
            ones = np.ones((1, int(rows.sum())))
            return -float(weighted_excess_aurc(found.scores[name][rows], losses[rows], ones)[0])

        chosen = pick(names, merit, self.folds)
        picked = picked_column(found.scores, chosen, self.folds)
        for name in (PICKED, *names):
            column = picked if name == PICKED else found.scores[name]
            _keep(made, 'bad_auroc', name, chosen, weighted_auroc(
                column[bad], column[~bad], weights[:, bad], weights[:, ~bad]))
            _keep(made, 'excess_aurc', name, chosen,
                  weighted_excess_aurc(column, losses, weights))
        for alpha in self.alphas:
            accepted, lost = promised_coverage(picked, bad, self.draws, alpha, HALVINGS, _SEED)
            _keep(made, f'accepted@{alpha:g}', PICKED, chosen, accepted)
            _keep(made, f'accepted_and_bad@{alpha:g}', PICKED, chosen, lost)

    def _add_foreign(self, made: _Figures, found: MeasuredFrames, folder: str) -> None:
        draws, folds = self.foreign[folder]
        table, key = found.foreign[folder], f'ood_auroc {folder}'
        both = {name: np.concatenate([found.scores[name], table[name]])
                for name in found.told_scores()}
        if not both:
            return
        all_folds = np.concatenate([self.folds, folds])
        is_foreign = np.arange(len(all_folds)) >= len(self.folds)

        def merit(name: str, rows: NDArray[np.bool_]) -> float:
            yes, no = both[name][rows & is_foreign], both[name][rows & ~is_foreign]
            return float(weighted_auroc(yes, no, np.ones((1, len(yes))),
                                        np.ones((1, len(no))))[0])

        def auroc(column: Column) -> Floats:
            return weighted_auroc(column[is_foreign], column[~is_foreign], draws.weights,
                                  self.draws.weights)

        chosen = pick(tuple(both), merit, all_folds)
        _keep(made, key, PICKED, chosen, auroc(picked_column(both, chosen, all_folds)))
        for name, column in both.items():
            _keep(made, key, name, chosen, auroc(column))


# Whether a promise was kept is no merit of the one who kept it with more to spare.
_CHECK = 'accepted_and_bad'
_SMALLER_IS_BETTER = ('ece', 'excess_aurc')
_TITLES = {
    'mean_iou': 'mean IoU', 'ece': 'calibration error (ECE)',
    'error_auroc': 'wrong pixels: AUROC', 'error_aupr': 'wrong pixels: AUPR',
    'unseen_auroc': 'unseen objects: pixel AUROC', 'unseen_aupr': 'unseen objects: pixel AUPR',
    'bad_auroc': 'bad frames: AUROC', 'excess_aurc': 'bad frames: E-AURC',
    'ood_auroc': 'foreign frames: AUROC, {}',
    'accepted': 'accepted at a promise of {}', 'accepted_and_bad':
    'accepted and bad at a promise of {}',
    'cost_ratio': 'time, in passes of the baseline', 'least_cost_ratio':
    'time, least over least', 'memory_mb': 'peak memory, MB',
}


def _title(key: str) -> str:
    word, _, rest = key.replace('@', ' ').partition(' ')
    return _TITLES[word].format(rest)


def _counterpart(base: _Figures, key: str, name: str) -> tuple[str, Floats] | None:
    """Return the same map or score of the baseline, or the one picked where it has none."""
    same = base.each.get(key, {}).get(name)
    if same is not None:
        return name, same
    if key not in base.picked:
        return None
    words, values = base.picked[key]
    return f'{PICKED}: {words}', values


def _keep(
    made: _Figures, key: str, name: str, chosen: Sequence[str], values: Floats
) -> None:
    if name == PICKED:
        counts = {one: chosen.count(one) for one in dict.fromkeys(chosen)}
        words = next(iter(counts)) if len(counts) == 1 else ', '.join(
            f'{one} ({count} of {len(chosen)})' for one, count in counts.items())
        made.picked[key] = words, values
    else:
        made.each.setdefault(key, {})[name] = values


def _cost_rows(costs: Mapping[str, MeasuredCost]) -> list[Row]:
    kinds: list[tuple[FigureKind, Callable[[MeasuredCost], float]]] = [
        (FigureKind(key, _title(key), True, digits), partial(_attribute, name))
        for key, name, digits in (('cost_ratio', 'ratio', 2),
                                  ('least_cost_ratio', 'least_ratio', 2),
                                  ('memory_mb', 'memory_mb', 0))]
    nothing = float('nan')
    return [Row(kind, label, '', True, Interval(read(cost), nothing, nothing, nothing, 0))
            for kind, read in kinds for label, cost in costs.items()]


def _attribute(name: str, cost: MeasuredCost) -> float:
    return float(getattr(cost, name))


def verdict_of(gain: Interval, baseline: str) -> str:
    """Say what the interval of a gain says; what is not better says so."""
    if np.isnan(gain.lower):
        return 'not known: too few frames of one kind'
    if gain.lower > 0:
        return f'better than {baseline}'
    if gain.upper < 0:
        return f'not better than {baseline}: worse'
    return f'not better than {baseline}'
