# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the pipeline over labelled images and measure mask, confidence and uncertainty.

Where the images come from is not known here. Everything is measured at the size of the image,
as a user of the node sees it.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.metrics import CalibrationError15, ConfusionMatrix, Ranking
from uncertainty_seg.core.pipeline import FrameResult, Pipeline
from uncertainty_seg.core.uncertainty import MAP_NAMES

_SMALLEST_CHANCE = 1e-6


@dataclass(frozen=True)
class FrameMeasure:
    """
    What one labelled frame tells.

    Attributes
    ----------
    scores : mapping of str to float
        The frame's scores.
    nll_nats : float
        Mean negative log-likelihood of "the most likely class is right", in nats.
    accuracy : float
        Share of known pixels that are right.

    """

    scores: Mapping[str, float]
    nll_nats: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """
    What a set of labelled frames tells.

    Attributes
    ----------
    iou : ndarray of float64, shape (C,)
        Of each class, NaN for one that never occurs.
    mean_iou, accuracy, ece : float
        Over all known pixels.
    error_auroc : mapping of str to float
        How well each map ranks wrong pixels above right ones.
    frames : tuple of FrameMeasure
        In the order of the images.
    mi_share : float
        Mean mutual information over mean entropy: how much of the uncertainty is the passes'.

    """

    iou: NDArray[np.float64]
    mean_iou: float
    accuracy: float
    ece: float
    error_auroc: Mapping[str, float]
    frames: tuple[FrameMeasure, ...]
    mi_share: float


def evaluate(
    pipeline: Pipeline, pairs: Iterable[tuple[ImageU8, LabelMap]], ignore_index: int
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

    Returns
    -------
    Evaluation
        Over all pairs.

    """
    confusion = ConfusionMatrix(pipeline.card.num_classes)
    calibration = CalibrationError15()
    rankings = {name: Ranking() for name in MAP_NAMES}
    frames, information, entropy = [], 0.0, 0.0
    for index, (image, truth) in enumerate(pairs):
        result = pipeline.measure(image, index)
        confusion.add(truth, result.label_at_source(), ignore_index)
        frames.append(_measure(result, truth, ignore_index, calibration, rankings))
        information += result.scores['mutual_information.mean']
        entropy += result.scores['entropy.mean']
    return Evaluation(
        confusion.iou(), confusion.mean_iou(), confusion.accuracy(), calibration.value(),
        {name: ranking.auroc() for name, ranking in rankings.items()}, tuple(frames),
        information / max(entropy, 1e-12),
    )


def _measure(
    result: FrameResult,
    truth: LabelMap,
    ignore_index: int,
    calibration: CalibrationError15,
    rankings: Mapping[str, Ranking],
) -> FrameMeasure:
    known = truth != ignore_index
    is_right = (result.label_at_source() == truth)[known]
    confidence = result.map_at_source('confidence')[known]
    calibration.add(confidence, is_right)
    for name, ranking in rankings.items():
        ranking.add(result.map_at_source(name)[known], ~is_right)
    chance = np.clip(np.where(is_right, confidence, 1 - confidence), _SMALLEST_CHANCE, 1)
    nll = float(-np.log(chance).mean()) if chance.size else 0.0
    accuracy = float(is_right.mean()) if is_right.size else 1.0
    return FrameMeasure(result.scores, nll, accuracy)


def fit_temperature(
    halves: Mapping[float, tuple[Evaluation, Evaluation]],
) -> tuple[float, float]:
    """
    Choose a temperature, and say what it is worth on frames it was not chosen on.

    Parameters
    ----------
    halves : mapping of float to (Evaluation, Evaluation)
        Two halves of the same frames, measured at every temperature tried.

    Returns
    -------
    temperature : float
        With the least mean negative log-likelihood over all frames.
    ece : float
        Mean over both halves, each at the temperature that the other half chose.

    """

    def best(*parts: int) -> float:
        def nll(temperature: float) -> float:
            frames = [f for part in parts for f in halves[temperature][part].frames]
            return float(np.mean([frame.nll_nats for frame in frames]))

        return min(halves, key=nll)

    ece = (halves[best(1)][0].ece + halves[best(0)][1].ece) / 2
    return best(0, 1), ece
