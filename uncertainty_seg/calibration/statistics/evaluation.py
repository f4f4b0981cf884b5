# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the pipeline over images and measure mask, confidence and uncertainty.

Where the images come from is not known here. Everything is measured at the size of the image,
as a user of the node sees it: pixels, each frame, and how well scores rank whole frames.

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.statistics import metrics
from uncertainty_seg.calibration.statistics.bad_rule import BadRule
from uncertainty_seg.calibration.statistics.bootstrap import block_interval, Interval
from uncertainty_seg.calibration.statistics.frame_table import FrameTable
from uncertainty_seg.calibration.statistics.selective import aurc, excess_aurc
from uncertainty_seg.core.arrays import ConfusionMatrix, ImageU8, LabelMap
from uncertainty_seg.core.calibration import Column
from uncertainty_seg.core.pipeline import FrameResult, Pipeline, ROUNDING
from uncertainty_seg.core.uncertainty import MAP_NAMES
from uncertainty_seg.errors import ImageError

DRAWS = 500
_FOREIGN = 'foreign '
_SMALLEST_CHANCE = 1e-6

_M = TypeVar('_M')


@dataclass(frozen=True)
class FrameMeasure:
    """
    What one frame tells.

    Attributes
    ----------
    scores : mapping of str to float
        The frame's scores.
    nll_nats : float
        Mean negative log-likelihood of "the most likely class is right", in nats; NaN without a
        known pixel.
    accuracy : float
        Share of known pixels that are right; 1 without a known pixel.
    mean_iou : float
        Over the classes that occur in truth or prediction; NaN without a known pixel.
    is_bad : bool
        By the rule that was given; false without one.

    """

    scores: Mapping[str, float]
    nll_nats: float = float('nan')
    accuracy: float = 1.0
    mean_iou: float = float('nan')
    is_bad: bool = False


@dataclass(frozen=True)
class Evaluation:
    """
    What a set of labelled frames tells.

    Attributes
    ----------
    pixels : PixelMeasures
        Over all known pixels.
    frames : tuple of FrameMeasure
        In the order of the images.
    mi_share : float
        Mean mutual information over mean entropy: how much of the uncertainty is the passes'.
    totals : ndarray of float64, shape (n, C * C + 45)
        What each image added to `pixels.totals()`.

    """

    pixels: PixelMeasures
    frames: tuple[FrameMeasure, ...]
    mi_share: float
    totals: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def iou(self) -> NDArray[np.float64]:
        """Return the IoU of each class, (C,), NaN for one that never occurs."""
        return self.pixels.confusion.iou()

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes that occur."""
        return self.pixels.confusion.mean_iou()

    @property
    def accuracy(self) -> float:
        """Share of known pixels that are right."""
        return self.pixels.confusion.accuracy()

    @property
    def ece(self) -> float:
        """Return the expected calibration error, 0..1."""
        return self.pixels.calibration.value()

    @property
    def error_auroc(self) -> dict[str, float]:
        """How well each map that tells something ranks wrong pixels above right ones."""
        return {name: ranking.auroc() for name, ranking in self.pixels.telling.items()}

    @property
    def nll_nats(self) -> float:
        """Mean of the frames' negative log-likelihood."""
        return float(np.nanmean([frame.nll_nats for frame in self.frames]))


def evaluate(
    pipeline: Pipeline, pairs: Iterable[tuple[ImageU8, LabelMap]], ignore_index: int,
    rule: BadRule | None = None,
) -> Evaluation:
    """
    Measure labelled images.

    Parameters
    ----------
    pipeline : Pipeline
        Its gate is not used.
    pairs : iterable of (ndarray (H, W, 3), ndarray (H, W))
        BGR image and true class ids, both uint8.
    ignore_index : int
        Id of pixels of unknown class.
    rule : BadRule, optional
        Says which masks are bad.

    Raises
    ------
    DatasetError
        If a mask has an id that is no class.

    """
    pixels = PixelMeasures(pipeline.card.num_classes)
    frames, information, entropy, totals = [], 0.0, 0.0, [pixels.totals()]
    for index, (image, truth) in enumerate(pairs):
        result = pipeline.measure(image, index)
        pixels.add(result, truth, ignore_index)
        totals.append(pixels.totals())
        frames.append(_measure(result, truth, ignore_index, pipeline.card.num_classes, rule))
        information += result.scores['mutual_information.mean']
        entropy += result.scores['entropy.mean']
    return Evaluation(pixels, tuple(frames), information / max(entropy, 1e-12),
                      np.diff(totals, axis=0))


def join_evaluations(parts: Sequence[Evaluation]) -> Evaluation:
    """Return one evaluation over the images of at least one other, of the same classes."""
    pixels = PixelMeasures(parts[0].pixels.num_classes)
    for part in parts:
        pixels.merge(part.pixels)
    frames = tuple(frame for part in parts for frame in part.frames)
    information, entropy = (sum(frame.scores[f'{name}.mean'] for frame in frames)
                            for name in ('mutual_information', 'entropy'))
    return Evaluation(pixels, frames, information / max(entropy, 1e-12),
                      np.concatenate([part.totals for part in parts]))


def _measure(
    result: FrameResult, truth: LabelMap, ignore_index: int, num_classes: int,
    rule: BadRule | None,
) -> FrameMeasure:
    known = truth != ignore_index
    if not known.any():
        return FrameMeasure(result.scores)
    label = result.label_at_source()
    is_right = (label == truth)[known]
    counts = ConfusionMatrix(num_classes)
    counts.add(truth, label, ignore_index)
    is_bad = rule is not None and rule.is_bad(truth, label, ignore_index)
    return FrameMeasure(result.scores, _nll(result, is_right, known), float(is_right.mean()),
                        counts.mean_iou(), is_bad)


def score_frames(pipeline: Pipeline, images: Iterable[ImageU8]) -> tuple[FrameMeasure, ...]:
    """Measure images without masks: their scores alone."""
    return tuple(FrameMeasure(pipeline.measure(image, index).scores)
                 for index, image in enumerate(images))


def frame_table(
    frames: Iterable[FrameMeasure], sources: Iterable[str], blocks: NDArray[np.str_]
) -> FrameTable:
    """
    Put frames, all with the same scores, into columns; see `FrameTable` for these.

    Raises ImageError if there is no frame.
    """
    rows = tuple(frames)
    if not rows:
        raise ImageError('no frame was measured', 'at least one')
    scores = {name: np.array([row.scores[name] for row in rows], np.float64)
              for name in rows[0].scores}
    return FrameTable(tuple(sources), blocks, scores, np.array([row.mean_iou for row in rows]),
                      np.array([row.is_bad for row in rows], np.bool_))


def mean_nll(
    pipeline: Pipeline, pairs: Iterable[tuple[ImageU8, LabelMap]], ignore_index: int
) -> float:
    """Return `Evaluation.nll_nats` of pairs as `evaluate` takes, without measuring the rest."""
    found = []
    for index, (image, truth) in enumerate(pairs):
        result, known = pipeline.measure(image, index), truth != ignore_index
        found.append(_nll(result, (result.label_at_source() == truth)[known], known))
    return float(np.nanmean(found))


def _nll(result: FrameResult, is_right: NDArray[np.bool_], known: NDArray[np.bool_]) -> float:
    """Return the mean over the known pixels, in nats; NaN without one."""
    if not known.any():
        return float('nan')
    confidence = result.map_at_source('confidence')[known]
    chance = np.clip(np.where(is_right, confidence, 1 - confidence), _SMALLEST_CHANCE, 1)
    return float(-np.log(chance).mean())


def try_temperatures(
    grid: Sequence[float], measured: Callable[[float], _M], is_worse: Callable[[_M, _M], bool]
) -> dict[float, _M]:
    """
    Measure the temperatures of a grid from the one nearest to 1 on, in both directions.

    The likelihood has one maximum over the temperature, so that each way ends at the first value
    that is worse than the one before.

    Parameters
    ----------
    grid : sequence of float
        Growing, above 0.
    measured : callable
        Measures a temperature; called once for each that is tried.
    is_worse : callable
        Whether its first argument, of the next temperature, is worse than its second.

    Returns
    -------
    dict of float
        What was measured, by temperature.

    """
    start = min(range(len(grid)), key=lambda place: abs(np.log(grid[place])))
    found = {grid[start]: measured(grid[start])}
    for way in (grid[start:], grid[start::-1]):
        for before, value in pairwise(way):
            found[value] = measured(value)
            if is_worse(found[value], found[before]):
                break
    return found


@dataclass
class PixelMeasures:
    """
    Measures over any number of images; pixels of unknown class are left out.

    Attributes
    ----------
    num_classes : int
        C.
    confusion : ConfusionMatrix
        True against predicted class.
    calibration, adaptive, brier : ExpectedCalibrationError and others
        Confidence against accuracy.
    patches : PatchUncertainty
        Entropy of patches against their accuracy.
    rankings : dict of str to Ranking
        Of each map, how well it ranks wrong pixels.
    class_entropy : ndarray of float64, shape (C,)
        Summed entropy over the pixels of each true class.

    """

    num_classes: int
    confusion: ConfusionMatrix = field(init=False)
    calibration: metrics.ExpectedCalibrationError = field(init=False)
    adaptive: metrics.AdaptiveCalibrationError = field(init=False)
    brier: metrics.TopLabelBrier = field(init=False)
    patches: metrics.PatchUncertainty = field(init=False)
    rankings: dict[str, metrics.Ranking] = field(init=False)
    class_entropy: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        """Start from nothing."""
        self.confusion = ConfusionMatrix(self.num_classes)
        self.calibration = metrics.ExpectedCalibrationError()
        self.adaptive = metrics.AdaptiveCalibrationError()
        self.brier = metrics.TopLabelBrier()
        self.patches = metrics.PatchUncertainty()
        self.rankings = {name: metrics.Ranking() for name in MAP_NAMES}
        self.class_entropy = np.zeros(self.num_classes)

    def add(self, result: FrameResult, truth: LabelMap, ignore_index: int) -> None:
        """Count one image; `truth` has true class ids, `ignore_index` where none is known."""
        label = result.label_at_source()
        self.confusion.add(truth, label, ignore_index)
        known = truth != ignore_index
        is_right = label == truth
        confidence, entropy = (result.map_at_source(name) for name in ('confidence', 'entropy'))
        for measure in (self.calibration, self.adaptive, self.brier):
            measure.add(confidence[known], is_right[known])
        self.patches.add(entropy, is_right, known)
        for name, ranking in self.rankings.items():
            if getattr(result.maps, name) is not None:
                ranking.add(result.map_at_source(name)[known], ~is_right[known])
        self.class_entropy += np.bincount(
            truth[known], weights=entropy[known].astype(np.float64),
            minlength=self.num_classes)[:self.num_classes]

    @property
    def given(self) -> dict[str, metrics.Ranking]:
        """Rankings by the maps that there were; those that nobody asked for have no pixel."""
        return {name: ranking for name, ranking in self.rankings.items()
                if ranking.positive.any() or ranking.negative.any()}

    @property
    def telling(self) -> dict[str, metrics.Ranking]:
        """
        Rankings by the maps that are somewhere above what rounding makes of zero.

        One pass has no disagreement: the order of its mutual information is that of rounding.
        """
        return {name: ranking for name, ranking in self.given.items()
                if ranking.is_above(ROUNDING)}

    def is_rounding(self, score: str) -> bool:
        """Say whether a score of frames is of a map that tells nothing."""
        name = score.split('.')[0]
        return name in self.given and name not in self.telling

    def totals(self) -> NDArray[np.float64]:
        """
        Return the sums that IoU, accuracy and calibration error are made of, (C * C + 45,).

        What one image adds to them is its own, by which `bootstrap.pixel_intervals` draws images.
        """
        bins = self.calibration
        return np.concatenate([self.confusion.counts.ravel(), bins.count, bins.hits,
                               bins.confidence])

    def merge(self, other: PixelMeasures) -> None:
        """Add what another one counted, of the same classes."""
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            pairs = [(mine[key], theirs[key]) for key in mine] if isinstance(mine, dict) else \
                [(mine, theirs)] if is_dataclass(mine) else []
            for one, another in pairs:
                for part in set(vars(one)) - {'num_classes'}:
                    setattr(one, part, getattr(one, part) + getattr(another, part))
        self.class_entropy += other.class_entropy

    def mean_entropy(self) -> NDArray[np.float64]:
        """Return the mean entropy over the pixels of each true class, (C,); NaN without one."""
        pixels = self.confusion.counts.sum(1)
        return np.where(pixels > 0, self.class_entropy / np.maximum(pixels, 1), np.nan)


# -------------------------------------------------------------------------------------------------
# How well scores rank whole frames: bad ones above good ones, foreign ones above familiar ones.
# Every figure has a 95 % interval over the blocks. Two orders are compared on the same draws, so
# that the interval of their difference is not widened by what both have in common.


@dataclass(frozen=True)
class FrameRanking:
    """
    What one order of the frames is worth.

    Attributes
    ----------
    aurc : float
        Area under the curve of risk over coverage, smaller is better.
    excess_aurc : Interval
        That less the area of the best possible order.
    ood_auroc : Interval or None
        Chance that a foreign frame is above a familiar one; None without foreign frames.

    """

    aurc: float
    excess_aurc: Interval
    ood_auroc: Interval | None


@dataclass(frozen=True)
class RankingGain:
    """
    One order against another, on the same draws.

    Attributes
    ----------
    excess_aurc : Interval
        The other's less the one's: above 0 the one is better.
    ood_auroc : Interval or None
        The one's less the other's: above 0 the one is better.

    """

    excess_aurc: Interval
    ood_auroc: Interval | None


def rank_frames(
    values: Column, frames: FrameTable, foreign: Column | None = None, draws: int = DRAWS
) -> FrameRanking:
    """
    Measure an order of frames.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        Grows with uncertainty; NaN counts as the largest.
    frames : FrameTable
        Gives blocks and which frames are bad.
    foreign : ndarray of float64, shape (m,), optional
        The same of frames the network was not made for, each its own block.
    draws : int
        Of the bootstrap.

    """
    losses = frames.is_bad.astype(np.float64)
    excess = block_interval(lambda rows: excess_aurc(rows[:, 0], rows[:, 1]),
                            np.stack([values, losses], 1), frames.blocks, draws=draws)
    ood = None
    if foreign is not None:
        rows, blocks = _with_foreign([values], [foreign], frames)
        ood = block_interval(_auroc(0), rows, blocks, draws=draws)
    return FrameRanking(aurc(values, losses), excess, ood)


def compare_rankings(
    one: Column, other: Column, frames: FrameTable,
    foreign: tuple[Column, Column] | None = None, draws: int = DRAWS,
) -> RankingGain:
    """
    Measure how much better one order is than another; parameters as in `rank_frames`.

    `foreign` is a pair, both orders' values of foreign frames.
    """
    losses = frames.is_bad.astype(np.float64)
    excess = block_interval(
        lambda rows: excess_aurc(rows[:, 1], rows[:, 2]) - excess_aurc(rows[:, 0], rows[:, 2]),
        np.stack([one, other, losses], 1), frames.blocks, draws=draws)
    if foreign is None:
        return RankingGain(excess, None)
    rows, blocks = _with_foreign([one, other], list(foreign), frames)
    first, second = _auroc(0), _auroc(1)
    return RankingGain(excess, block_interval(lambda r: first(r) - second(r), rows, blocks,
                                              draws=draws))


def _with_foreign(
    familiar: list[Column], foreign: list[Column], frames: FrameTable
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Return rows (n + m, k + 1) of values and whether foreign, and their blocks."""
    count = len(foreign[0])
    is_foreign = np.concatenate([np.zeros(len(frames)), np.ones(count)])
    columns = [np.concatenate(pair) for pair in zip(familiar, foreign, strict=True)]
    names = np.array([f'{_FOREIGN}{i}' for i in range(count)], dtype=np.str_)
    return np.stack([*columns, is_foreign], 1), np.concatenate([frames.blocks, names])


def _auroc(column: int) -> Callable[[NDArray[np.float64]], float]:
    def measured(rows: NDArray[np.float64]) -> float:
        is_foreign = rows[:, -1] > 0
        return metrics.auroc(rows[is_foreign, column], rows[~is_foreign, column])

    return measured
