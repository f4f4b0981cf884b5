# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The rows of a comparison: every figure of every contender, and its difference from the baseline.

The terminal, the page and the JSON line all show the same list of rows. A gain above 0 is always
better, whatever the figure; only a gain whose interval excludes 0 is called better.

The best of many maps or scores on given frames is better there than on new frames. So the choice
for the frames of a fold is made on all other folds, and no frame's label influences the score by
which it is measured. If folds choose differently, their values are made comparable by converting
them to ranks among the frames of the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.calibration.stats.conformal import promised_coverage
from uncertainty_seg.calibration.stats.evaluation import Histograms
from uncertainty_seg.calibration.stats.intervals import (
    DRAWS,
    Draws,
    Interval,
    weighted_auroc,
    weighted_excess_aurc,
    weighted_pixel_auroc,
    weighted_totals,
)
from uncertainty_seg.calibration.stats.metrics import Floats
from uncertainty_seg.core.arrays import Column, Columns
from uncertainty_seg.core.pipeline import ROUNDING
from uncertainty_seg.errors import DatasetError

# Random splits into halves for the promise; each is used in both directions.
HALVINGS = 20
# Number of folds for the choice of maps and scores.
FOLDS = 5
_SEED = 0
# Merits that differ by less count as equal, so that names of one order do not alternate.
_EQUAL = 1e-3
Folds = NDArray[np.intp]
# From a name and the rows to use (n,) to its quality on these rows; larger is better.
Merit = Callable[[str, NDArray[np.bool_]], float]

_TITLES = {
    'mean_iou': 'mean IoU', 'ece': 'calibration error (ECE)',
    'error_auroc': 'wrong pixels: AUROC',
    'bad_auroc': 'bad frames: AUROC', 'excess_aurc': 'bad frames: E-AURC',
    'ood_auroc': 'foreign frames: AUROC', 'accepted': 'accepted at a promise of {}',
    'accepted_and_bad': 'accepted and bad at a promise of {}',
    'cost_ratio': 'time, as a multiple of the baseline',
}
# Figures without a gain: risk further below alpha is not better, and cost is relative already.
_NOT_JUDGED = ('accepted_and_bad', 'cost_ratio')
_SMALLER_IS_BETTER = ('ece', 'excess_aurc')


@dataclass(frozen=True)
class Contended:
    """
    Measurements of one contender on n labelled and m out-of-distribution frames.

    `totals` and `errors` (histograms of each map) are those of an `Evaluation`; `foreign` holds
    scores of out-of-distribution images and may be empty. `cost_ratio` is the contender's time
    divided by the baseline's.
    """

    is_bad: NDArray[np.bool_]
    totals: Floats
    scores: Columns
    errors: Mapping[str, Histograms]
    foreign: Columns
    cost_ratio: float = float('nan')

    def told_maps(self) -> tuple[str, ...]:
        """Return the maps that are not zero everywhere; one pass has no disagreement."""
        return tuple(name for name, parts in self.errors.items()
                     if sum(int(part[:, 1:].sum()) for part in parts))

    def told_scores(self) -> tuple[str, ...]:
        """Return the scores that differ between frames."""
        return tuple(name for name, column in self.scores.items() if _says_something(
            np.concatenate([column, self.foreign.get(name, np.empty(0))])))


def _says_something(values: Column) -> bool:
    known = values[np.isfinite(values)]
    return known.size > 0 and float(known.max()) > ROUNDING and float(np.ptp(known)) > 0


@dataclass(frozen=True)
class FigureRow:
    """
    One figure of one contender.

    `figure` is its name in JSON, such as 'mean_iou' or 'accepted@0.05'; `name` is the map or score
    that the folds chose, empty if there is no choice. `gain` is the improvement over the baseline
    on the same draws; it is None for the baseline and for figures that are not judged.
    """

    figure: str
    label: str
    name: str
    value: Interval
    gain: Interval | None = None

    @property
    def title(self) -> str:
        """Return the readable name of the figure."""
        word, _, rest = self.figure.partition('@')
        return _TITLES[word].format(rest)

    @property
    def direction(self) -> int:
        """
        Return 1 for better than the baseline, -1 for worse, and 0 if no difference is seen.

        None is seen if the interval of the gain contains 0, or the gain is 0 in three decimals.
        """
        if self.gain is None or round(abs(self.gain.value), 3) == 0:
            return 0
        return int(self.gain.lower > 0) - int(self.gain.upper < 0)

    def facts(self) -> dict[str, object]:
        """Return the row as plain values, for JSON."""
        return {'figure': self.figure, 'bundle': self.label, 'name': self.name,
                'value': asdict(self.value), 'gain': self.gain and asdict(self.gain)}


# One contender's figures over all draws: by figure, the chosen map or score and its values (d,).
_Figures = dict[str, tuple[str, Floats]]


def rows_of(
    contended: Mapping[str, Contended], blocks: NDArray[np.str_], num_classes: int,
    alphas: Sequence[float], draws: int = DRAWS,
) -> tuple[FigureRow, ...]:
    """
    Return all rows, figure by figure, with the same draws and folds for every contender.

    `contended` is keyed by label, the baseline first; `blocks` (n,) are those of the labelled
    frames, and each out-of-distribution frame is a separate block. Raises DatasetError if there
    are fewer blocks, or fewer out-of-distribution images, than folds.
    """
    count = len(next(iter(next(iter(contended.values())).foreign.values()), ()))
    own = Draws.of(blocks, draws, _SEED)
    strange = Draws.of(np.arange(count), draws, _SEED + 1) if count else None
    folds = np.concatenate([folds_of(blocks), folds_of(np.arange(count))]) if count \
        else folds_of(blocks)
    figures = {label: _figures(found, own, strange, folds, num_classes, alphas)
               for label, found in contended.items()}
    keys = dict.fromkeys(key for found in figures.values() for key in found)
    return tuple(_row(key, label, figures, own) for key in keys for label in figures
                 if key in figures[label])


def _row(figure: str, label: str, figures: Mapping[str, _Figures], draws: Draws) -> FigureRow:
    baseline = next(iter(figures))
    (name, values), other = figures[label][figure], figures[baseline].get(figure)
    value = draws.interval(values) if len(values) > 1 else \
        Interval(float(values[0]), float('nan'), float('nan'), 0)
    if other is None or label == baseline or figure.startswith(_NOT_JUDGED):
        return FigureRow(figure, label, name, value)
    sign = -1.0 if figure in _SMALLER_IS_BETTER else 1.0
    return FigureRow(figure, label, name, value, draws.interval(sign * (values - other[1])))


# -------------------------------------------------------------------------------------------------
# The figures of one contender.


def _figures(
    found: Contended, draws: Draws, strange: Draws | None, folds: Folds, num_classes: int,
    alphas: Sequence[float],
) -> _Figures:
    totals = weighted_totals(found.totals, num_classes, draws.weights)
    made: _Figures = {'cost_ratio': ('', np.array([found.cost_ratio])),
                      'mean_iou': ('', totals['mean_iou']), 'ece': ('', totals['ece'])}
    own, weights = folds[:len(found.is_bad)], draws.weights
    maps = {name: found.errors[name] for name in found.told_maps()}
    if maps:
        chosen, (yes, no) = _pick_map(maps, own)
        made['error_auroc'] = chosen, weighted_pixel_auroc(yes, no, weights)
    if found.told_scores() and found.is_bad.any() and not found.is_bad.all():
        made |= _bad_figures(found, draws, own, alphas)
    if found.told_scores() and strange is not None:
        made['ood_auroc'] = _foreign_figure(found, draws, strange, folds)
    return made


def _pick_map(maps: Mapping[str, Histograms], folds: Folds) -> tuple[str, Histograms]:
    def merit(name: str, rows: NDArray[np.bool_]) -> float:
        yes, no = (part[rows] for part in maps[name])
        return float(weighted_pixel_auroc(yes, no, np.ones((1, len(yes))))[0])

    chosen = pick(tuple(maps), merit, folds)
    return _words(chosen), picked_histograms(maps, chosen, folds)


def _bad_figures(
    found: Contended, draws: Draws, folds: Folds, alphas: Sequence[float]
) -> _Figures:
    bad, weights = found.is_bad, draws.weights
    losses = bad.astype(np.float64)

    def merit(name: str, rows: NDArray[np.bool_]) -> float:
        ones = np.ones((1, int(rows.sum())))
        return -float(weighted_excess_aurc(found.scores[name][rows], losses[rows], ones)[0])

    chosen = pick(found.told_scores(), merit, folds)
    column, words = picked_column(found.scores, chosen, folds), _words(chosen)
    made = {
        'bad_auroc': (words, weighted_auroc(
            column[bad], column[~bad], weights[:, bad], weights[:, ~bad])),
        'excess_aurc': (words, weighted_excess_aurc(column, losses, weights))}
    for alpha in alphas:
        accepted, lost = promised_coverage(column, bad, draws, alpha, HALVINGS, _SEED)
        made[f'accepted@{alpha:g}'] = words, accepted
        made[f'accepted_and_bad@{alpha:g}'] = words, lost
    return made


def _foreign_figure(
    found: Contended, draws: Draws, strange: Draws, folds: Folds
) -> tuple[str, Floats]:
    both = {name: np.concatenate([found.scores[name], found.foreign[name]])
            for name in found.told_scores()}
    is_foreign = np.arange(len(folds)) >= len(found.is_bad)

    def merit(name: str, rows: NDArray[np.bool_]) -> float:
        yes, no = both[name][rows & is_foreign], both[name][rows & ~is_foreign]
        return float(weighted_auroc(yes, no, np.ones((1, len(yes))), np.ones((1, len(no))))[0])

    chosen = pick(tuple(both), merit, folds)
    column = picked_column(both, chosen, folds)
    return _words(chosen), weighted_auroc(column[is_foreign], column[~is_foreign],
                                          strange.weights, draws.weights)


def _words(chosen: Sequence[str]) -> str:
    """Return the chosen names, with the number of folds that chose each."""
    counts = {one: chosen.count(one) for one in dict.fromkeys(chosen)}
    return next(iter(counts)) if len(counts) == 1 else ', '.join(
        f'{one} ({count} of {len(chosen)})' for one, count in counts.items())


# -------------------------------------------------------------------------------------------------
# Choose on some folds, and measure on the others.


def folds_of(blocks: ArrayLike, count: int = FOLDS, seed: int = _SEED) -> Folds:
    """
    Assign the blocks at random to folds of nearly equal size; return each frame's fold, (n,).

    Raises DatasetError if there are fewer blocks than folds.
    """
    names, block = np.unique(np.asarray(blocks), return_inverse=True)
    if len(names) < count:
        raise DatasetError(f'{len(names)} blocks of frames, or foreign images, for {count} folds',
                           f'at least {count}', 'give more frames')
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of_block = np.empty(len(names), np.intp)
    fold_of_block[order] = np.arange(len(names)) % count
    return fold_of_block[block]


def pick(names: Sequence[str], merit: Merit, folds: Folds) -> tuple[str, ...]:
    """
    Return for each fold the name with the largest merit on the frames of all other folds.

    A NaN merit counts as the smallest; among merits nearly equal to the best, the first is taken.
    """
    chosen = []
    for fold in range(int(folds.max()) + 1):
        merits = np.nan_to_num([merit(name, folds != fold) for name in names], nan=-np.inf)
        chosen.append(names[int(np.argmax(merits >= merits.max() - _EQUAL))])
    return tuple(chosen)


def picked_column(columns: Columns, names: Sequence[str], folds: Folds) -> Column:
    """
    Return the values of the score that was chosen for each frame, (n,); `names` are by fold.

    They are unchanged if all folds chose the same score, else ranks among the other folds' frames.
    """
    if len(set(names)) == 1:
        return columns[names[0]]
    values = np.empty(len(folds))
    for fold, name in enumerate(names):
        values[folds == fold] = _ranks(columns[name][folds == fold], columns[name][folds != fold])
    return values


def _ranks(values: Column, reference: Column) -> Column:
    known = np.sort(reference[np.isfinite(reference)])
    if not known.size:
        return np.where(np.isfinite(values), 0.0, np.inf)
    knots, counts = np.unique(known, return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / known.size
    # Beyond the reference's range the order is kept: negative below, more than 1 above.
    beyond = np.minimum(values - knots[0], 0) + np.maximum(values - knots[-1], 0)
    beyond += np.where(values > knots[-1], 1.0, 0.0)
    return np.where(np.isfinite(values), np.interp(values, knots, middle) + beyond, np.inf)


def picked_histograms(
    maps: Mapping[str, Histograms], names: Sequence[str], folds: Folds
) -> Histograms:
    """
    Return the histograms of the map that was chosen for each frame; see `picked_column`.

    If folds chose different maps, a bin is replaced by the share of the other folds' pixels below.
    """
    if len(set(names)) == 1:
        return maps[names[0]]
    shape = maps[names[0]][0].shape
    yes, no = np.zeros(shape), np.zeros(shape)
    for fold, name in enumerate(names):
        rows = folds == fold
        pixels = sum(part[~rows].sum(0).astype(np.float64) for part in maps[name])
        middle = (np.cumsum(pixels) - pixels / 2) / max(float(pixels.sum()), 1.0)
        bins = np.minimum((middle * shape[1]).astype(np.intp), shape[1] - 1)
        for there, part in zip((yes, no), maps[name], strict=True):
            there[rows] = part[rows] @ np.eye(shape[1])[bins]
    return yes, no
