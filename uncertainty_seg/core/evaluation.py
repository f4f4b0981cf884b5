# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the pipeline over images and measure mask, confidence and uncertainty.

Where the images come from is not known here. Everything is measured at the size of the image,
as a user of the node sees it.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.bad_rule import BadRule
from uncertainty_seg.core.frame_result import FrameResult
from uncertainty_seg.core.frame_table import FrameTable
from uncertainty_seg.core.metrics import ConfusionMatrix
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.pixel_measures import PixelMeasures
from uncertainty_seg.errors import ImageError

_SMALLEST_CHANCE = 1e-6


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
        """Of each class, (C,), NaN for one that never occurs."""
        return self.pixels.confusion.iou()

    @property
    def mean_iou(self) -> float:
        """Over the classes that occur."""
        return self.pixels.confusion.mean_iou()

    @property
    def accuracy(self) -> float:
        """Share of known pixels that are right."""
        return self.pixels.confusion.accuracy()

    @property
    def ece(self) -> float:
        """Return the expected calibration error."""
        return self.pixels.calibration.value()

    @property
    def error_auroc(self) -> dict[str, float]:
        """How well each map ranks wrong pixels above right ones."""
        return {name: ranking.auroc() for name, ranking in self.pixels.rankings.items()}

    @property
    def nll_nats(self) -> float:
        """Mean of the frames'."""
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
        Its gate is not asked.
    pairs : iterable of (ndarray (H, W, 3), ndarray (H, W))
        BGR image and true class ids.
    ignore_index : int
        Class id of pixels nobody knows.
    rule : BadRule, optional
        Says which masks are bad.

    Returns
    -------
    Evaluation
        Over all pairs.

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


def _measure(
    result: FrameResult, truth: LabelMap, ignore_index: int, num_classes: int,
    rule: BadRule | None,
) -> FrameMeasure:
    known = truth != ignore_index
    if not known.any():
        return FrameMeasure(result.scores)
    label = result.label_at_source()
    is_right = (label == truth)[known]
    confidence = result.map_at_source('confidence')[known]
    chance = np.clip(np.where(is_right, confidence, 1 - confidence), _SMALLEST_CHANCE, 1)
    counts = ConfusionMatrix(num_classes)
    counts.add(truth, label, ignore_index)
    is_bad = rule is not None and rule.is_bad(truth, label, ignore_index)
    return FrameMeasure(result.scores, float(-np.log(chance).mean()), float(is_right.mean()),
                        counts.mean_iou(), is_bad)


def score_frames(pipeline: Pipeline, images: Iterable[ImageU8]) -> tuple[FrameMeasure, ...]:
    """Measure images without masks: their scores alone."""
    return tuple(FrameMeasure(pipeline.measure(image, index).scores)
                 for index, image in enumerate(images))


def frame_table(
    frames: Iterable[FrameMeasure], sources: Iterable[str], blocks: NDArray[np.str_]
) -> FrameTable:
    """
    Put frames into columns.

    Parameters
    ----------
    frames : iterable of FrameMeasure
        All with the same scores.
    sources : iterable of str
        Where each came from.
    blocks : ndarray of str, shape (n,)
        The block of each.

    Returns
    -------
    FrameTable
        In the same order.

    Raises
    ------
    ImageError
        If there is no frame.

    """
    rows = tuple(frames)
    if not rows:
        raise ImageError('no frame was measured', 'at least one')
    scores = {name: np.array([row.scores[name] for row in rows], np.float64)
              for name in rows[0].scores}
    return FrameTable(tuple(sources), blocks, scores, np.array([row.mean_iou for row in rows]),
                      np.array([row.is_bad for row in rows], np.bool_))


def best_temperature(found: Mapping[float, Evaluation]) -> float:
    """Return the temperature with the least mean negative log-likelihood."""
    return min(found, key=lambda temperature: found[temperature].nll_nats)
