# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the pipeline over images and measure mask, confidence and uncertainty.

This module does not read images. Everything is measured at the size of the image, as a user of the
node sees it: pixels, each frame, and how well scores rank whole frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.stats.bad_rule import BadRule
from uncertainty_seg.calibration.stats.intervals import (
    Draws,
    Interval,
    weighted_auroc,
    weighted_excess_aurc,
    weighted_pixel_auroc,
)
from uncertainty_seg.calibration.stats.metrics import ExpectedCalibrationError, Ranking
from uncertainty_seg.core.arrays import Column, Columns, ConfusionMatrix, ImageU8, LabelMap
from uncertainty_seg.core.gate import largest_ratio
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.pipeline import FrameResult, Pipeline
from uncertainty_seg.core.uncertainty import MAP_NAMES
from uncertainty_seg.errors import ImageError
from uncertainty_seg.storage.progress import progress

# BGR image and true class ids.
Pair = tuple[ImageU8, LabelMap]
# Each frame's histograms of a map over two classes of pixels (wrong and right), (n, bins) each.
Histograms = tuple[NDArray[np.number], NDArray[np.number]]
_SMALLEST_CHANCE = 1e-6
_BETWEEN_PASSES = ('mutual_information', 'variation_ratio', 'total_variance')


@dataclass(frozen=True)
class FrameTable:
    """Measured frames, one row each; arrays (n,)."""

    sources: tuple[str, ...]  # Name of each frame's source.
    blocks: NDArray[np.str_]  # Frames of one block (a dive, a site) depend on each other.
    scores: Mapping[str, Column]  # Grow with uncertainty; NaN if unknown.
    mean_iou: Column  # Mean IoU over the classes that occur; NaN without a true mask.
    is_bad: NDArray[np.bool_]  # Whether the mask is bad by the rule; False without a true mask.

    def __len__(self) -> int:
        return len(self.sources)

    def select(self, rows: NDArray[np.bool_]) -> FrameTable:
        """Return the rows of a mask of shape (n,)."""
        return FrameTable(
            tuple(s for s, keep in zip(self.sources, rows, strict=True) if keep),
            self.blocks[rows], {k: v[rows] for k, v in self.scores.items()},
            self.mean_iou[rows], self.is_bad[rows])

    def with_scores(self, scores: Mapping[str, Column]) -> FrameTable:
        """Return a table with scores added or replaced."""
        return dataclasses.replace(self, scores={**self.scores, **scores})

    def only(self, names: Iterable[str]) -> FrameTable:
        """Return a table with only these scores."""
        return dataclasses.replace(self, scores={name: self.scores[name] for name in names})

    def rows(self) -> list[dict[str, float]]:
        """Return the scores of each frame."""
        return [{name: float(column[i]) for name, column in self.scores.items()}
                for i in range(len(self))]

    def accepted(self, limits: Mapping[str, float]) -> NDArray[np.bool_]:
        """Return whether each frame is within all thresholds, (n,); NaN is within none."""
        return accepted_by(self.scores, limits)

    def ratios(self, limits: Mapping[str, float]) -> Column:
        """Return the `largest_ratio` of each frame, (n,), as the flag's score; inf for NaN."""
        return largest_ratio({name: self.scores[name] / limit for name, limit in limits.items()})


def accepted_by(scores: Columns, limits: Mapping[str, float]) -> NDArray[np.bool_]:
    """Return whether all scores of each frame are within their thresholds, (n,); NaN never is."""
    return np.all([scores[name] <= limit for name, limit in limits.items()], axis=0)


# -------------------------------------------------------------------------------------------------
# Pixels and frames.


@dataclass
class PixelMeasures:
    """Measures over any number of images; pixels of unknown class are left out."""

    num_classes: int
    confusion: ConfusionMatrix = field(init=False)  # True against predicted class.
    # Confidence against accuracy.
    calibration: ExpectedCalibrationError = field(default_factory=ExpectedCalibrationError)
    # For each map, how well it ranks wrong pixels.
    rankings: dict[str, Ranking] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Create an empty confusion matrix."""
        self.confusion = ConfusionMatrix(self.num_classes)

    def add(self, result: FrameResult, truth: LabelMap, ignore_index: int) -> None:
        """Count one image; `truth` has true class ids, or `ignore_index` where unlabelled."""
        label = result.label
        self.confusion.add(truth, label, ignore_index)
        known = truth != ignore_index
        is_right = (label == truth)[known]
        self.calibration.add(result.map_at_source('confidence')[known], is_right)
        for name in MAP_NAMES:
            self.rankings.setdefault(name, Ranking()).add(
                result.map_at_source(name)[known], ~is_right)

    def merge(self, other: PixelMeasures) -> None:
        """Add the counts of other measures of the same classes."""
        self.confusion.counts += other.confusion.counts
        pairs: list[tuple[object, object]] = [(self.calibration, other.calibration)]
        pairs += [(self.rankings.setdefault(name, Ranking()), ranking)
                  for name, ranking in other.rankings.items()]
        for mine, theirs in pairs:
            for name, sums in vars(theirs).items():
                setattr(mine, name, getattr(mine, name) + sums)

    def totals(self) -> NDArray[np.float64]:
        """Return the sums for IoU, accuracy and calibration error, (C * C + 45,)."""
        bins = self.calibration
        return np.concatenate([self.confusion.counts.ravel(), bins.count, bins.hits,
                               bins.confidence])


@dataclass(frozen=True)
class Evaluation:
    """
    Measurements of a set of labelled frames.

    Attributes
    ----------
    pixels : PixelMeasures
        Measures over all known pixels.
    scores : mapping of str to ndarray of float64, shape (n,)
        Scores of each image.
    frame_iou : ndarray of float64, shape (n,)
        Mean IoU of each image over the classes that occur in truth or prediction; NaN without a
        known pixel.
    is_bad : ndarray of bool, shape (n,)
        Whether each mask is bad by the given rule; False without a rule.
    totals : ndarray of float64, shape (n, C * C + 45)
        Contribution of each image to `pixels.totals()`, for bootstrap draws of images.
    maps : mapping of str to two ndarray of uint32, shape (n, 1024)
        If requested, each image's histograms of a map over wrong and right pixels.

    """

    pixels: PixelMeasures
    scores: Mapping[str, Column]
    frame_iou: Column
    is_bad: NDArray[np.bool_]
    totals: NDArray[np.float64]
    maps: Mapping[str, Histograms] = field(default_factory=dict)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Return the IoU of each class, (C,); NaN for a class that never occurs."""
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
        """Return the AUROC of each map for wrong pixels."""
        return {name: float(weighted_pixel_auroc(ranking.positive[None], ranking.negative[None],
                                                 np.ones((1, 1)))[0])
                for name, ranking in self.pixels.rankings.items()}

    def table(self, sources: Sequence[str], blocks: NDArray[np.str_]) -> FrameTable:
        """Return the frames as a table with their sources and blocks."""
        return FrameTable(tuple(sources), blocks, self.scores, self.frame_iou, self.is_bad)


def evaluate(
    pipeline: Pipeline, pairs: Sequence[Pair], rule: BadRule | None = None, title: str = 'frames',
    by_frame: bool = False,
) -> Evaluation:
    """
    Measure labelled images, with a progress bar called `title`; the gate is not used.

    Pairs are BGR images (H, W, 3) and true class ids (H, W), both uint8; pixels of unknown class
    have the card's `ignore_index`. The rule defines bad masks. `by_frame` keeps the histograms of
    each image, 8 kB per map.
    """
    pixels = PixelMeasures(pipeline.card.num_classes)
    scores, frame_iou, bad, totals, kept = [], [], [], [], []
    for index, (image, truth) in enumerate(progress(pairs, desc=title)):
        result, one = pipeline.measure(image, index), PixelMeasures(pipeline.card.num_classes)
        one.add(result, truth, pipeline.card.ignore_index)
        pixels.merge(one)
        totals.append(one.totals())
        scores.append(result.scores)
        frame_iou.append(one.confusion.mean_iou() if one.confusion.counts.any() else np.nan)
        bad.append(rule is not None and rule.is_bad(one.confusion))
        if by_frame:
            kept.append({name: ranking.merged() for name, ranking in one.rankings.items()})
    pixels.rankings = {name: ranking for name, ranking in pixels.rankings.items()
                       if not is_rounding(pipeline.card, name)}
    return Evaluation(pixels, _columns(scores), np.array(frame_iou), np.array(bad, np.bool_),
                      np.array(totals), _stacked(kept))


def is_rounding(card: ModelCard, name: str) -> bool:
    """
    Return whether a map or score of a card is only rounding, because all passes are equal.

    In one runtime such rounding may rank frames as entropy does; in another it may be zero.
    """
    return card.has_one_pass and name.split('.')[0] in _BETWEEN_PASSES


def _stacked(rows: Sequence[Mapping[str, Histograms]]) -> dict[str, Histograms]:
    return {name: (np.stack([row[name][0] for row in rows]),
                   np.stack([row[name][1] for row in rows])) for name in (rows[0] if rows else ())}


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Column]:
    if not rows:
        raise ImageError('no frame was measured', 'at least one')
    return {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]}


def score_frames(pipeline: Pipeline, images: Mapping[str, ImageU8]) -> FrameTable:
    """Measure the scores of images without masks, by name; each image is a separate block."""
    scores = _columns([pipeline.measure(image, index).scores
                       for index, image in enumerate(images.values())])
    return FrameTable(tuple(images), np.array(list(images), np.str_), scores,
                      np.full(len(images), np.nan), np.zeros(len(images), np.bool_))


# -------------------------------------------------------------------------------------------------
# The temperature of the logits.


def mean_nll(pipeline: Pipeline, pairs: Sequence[Pair], title: str = 'frames') -> float:
    """
    Return the mean negative log-likelihood of "the most likely class is right", in nats.

    `pairs` are those of `evaluate`; each frame with a known pixel has equal weight.
    """
    found = []
    for index, (image, truth) in enumerate(progress(pairs, desc=title)):
        result, known = pipeline.measure(image, index), truth != pipeline.card.ignore_index
        if known.any():
            is_right = (result.label == truth)[known]
            confidence = result.map_at_source('confidence')[known]
            chance = np.clip(np.where(is_right, confidence, 1 - confidence), _SMALLEST_CHANCE, 1)
            found.append(-np.log(chance).mean())
    return float(np.mean(found))


def best_temperature(grid: Sequence[float], measured: Callable[[float], float]) -> float:
    """
    Return the temperature of an increasing grid with the least value of `measured`.

    The search starts at the temperature nearest to 1 and goes in both directions, each up to the
    first value that is worse than the one before. The likelihood of many pixels hardly ever has a
    second maximum over the temperature.
    """
    start = min(range(len(grid)), key=lambda place: abs(np.log(grid[place])))
    found = {grid[start]: measured(grid[start])}
    for way in (grid[start:], grid[start::-1]):
        for before, value in pairwise(way):
            found[value] = measured(value)
            if found[value] > found[before]:
                break
    return min(found, key=lambda temperature: found[temperature])


# -------------------------------------------------------------------------------------------------
# How well scores rank whole frames: bad ones above good ones, foreign ones above familiar ones.


@dataclass(frozen=True)
class FrameRanking:
    """
    Quality of one order of the frames.

    `excess_aurc` is the area under the risk-coverage curve minus that of the best possible order;
    smaller is better. `ood_auroc` is the probability that a foreign (out-of-distribution) frame
    ranks above a familiar one, None without foreign frames.
    """

    excess_aurc: Interval
    ood_auroc: Interval | None


class FrameRanker:
    """
    Measures orders of the same frames, all on the same draws.

    The table gives the blocks and the bad frames; each foreign (out-of-distribution) frame is a
    separate block.
    """

    def __init__(self, frames: FrameTable, num_foreign: int = 0) -> None:
        self._losses = frames.is_bad.astype(np.float64)
        self._draws = Draws.of(frames.blocks)
        self._foreign = Draws.of(np.arange(num_foreign), seed=1) if num_foreign else None

    def rank(self, values: Column, foreign: Column | None = None) -> FrameRanking:
        """
        Measure the order given by `values`.

        They are (n,) and grow with uncertainty; NaN counts as the largest. `foreign` are the
        values of the foreign frames.
        """
        interval, weights = self._draws.interval, self._draws.weights
        excess = interval(weighted_excess_aurc(values, self._losses, weights))
        if foreign is None or self._foreign is None:
            return FrameRanking(excess, None)
        return FrameRanking(excess, interval(weighted_auroc(
            foreign, values, self._foreign.weights, weights)))
