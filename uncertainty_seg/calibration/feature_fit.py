# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Fit what the features of a frame are compared with, on frames of the training set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap
from uncertainty_seg.core.scores.feature_density import (
    at_cells,
    dominant,
    FeatureDensity,
    pooled,
    shrunk,
    unit_rows,
    whitening,
)
from uncertainty_seg.errors import CalibrationError

NEIGHBOURS = 5
MOST_DIRECTIONS = 32
# Neighbouring places tell the same; so many of each frame are enough, and fit into memory.
PLACES_A_FRAME = 96
# Of the largest variance: a direction below it is noise, which whitening would blow up.
_LEAST_VARIANCE = 1e-6
# Features (1, D, hf, wf) and predicted classes (h, w) of a frame, and pixels left out (h, w).
FeatureFrame: TypeAlias = tuple[FloatMap, LabelMap, 'NDArray[np.bool_] | None']
_Rows: TypeAlias = 'NDArray[np.float64]'


def fit_feature_density(
    frames: Iterable[FeatureFrame], num_classes: int, neighbours: int = NEIGHBOURS
) -> FeatureDensity:
    """
    Keep the pooled features of some frames, and fit Gaussians of their places by class.

    Parameters
    ----------
    frames : iterable of (ndarray, ndarray, ndarray or None)
        Float32 (1, D, hf, wf) features, uint8 (h, w) predicted class ids, both without padding,
        and bool (h, w), True where a pixel is left out. A frame with features that are not
        finite, or of which nothing counts, is an error: its row of the bank would be missing.
    num_classes : int
        C.
    neighbours : int
        k of 'features.knn'.

    Returns
    -------
    FeatureDensity
        Rows of its bank in the order of the frames.

    Raises
    ------
    CalibrationError
        If there are no more frames than neighbours, features are not finite, or do not vary.

    """
    bank: list[_Rows] = []
    classes: list[int] = []
    places: list[NDArray[np.float32]] = []
    kinds: list[NDArray[np.uint8]] = []
    for features, label, ignore in frames:
        bank.append(pooled(features, ignore))
        classes.append(dominant(label, ignore))
        of_frame, of_class = _places(features, label, ignore)
        places.append(of_frame)
        kinds.append(of_class)
    if not bank:
        raise CalibrationError('no training frame with features', 'more frames than neighbours',
                               'take more training frames')
    stored = np.array(bank)
    if not np.isfinite(stored).all():
        raise CalibrationError('features of a training frame that are not finite', 'numbers',
                               'compile with other --features')
    centre, weights, means = _local(np.concatenate(places), np.concatenate(kinds), num_classes)
    return FeatureDensity(_halved(stored), np.array(classes, np.uint8), weights, centre,
                          means, neighbours)


def _halved(rows: _Rows) -> NDArray[np.float16]:
    """
    Round rows to float16, each times a power of two by which its largest value is below 2^15.

    Their directions alone are compared, and features may be of any size: below 6e-5 float16 has
    fewer digits, below 3e-8 it is zero, and above 65504 infinite. So a value has all its digits
    unless it is less than 2e-9 of the largest of its row.
    """
    _, exponents = np.frexp(np.abs(rows).max(1, keepdims=True))
    return np.ldexp(rows, 15 - exponents).astype(np.float16)


def _places(
    features: FloatMap, label: LabelMap, ignore: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return features (n, D) of places spread over a frame, of length 1, and their classes."""
    channels, rows, columns = features.shape[1:]
    kept = np.arange(rows * columns)
    if ignore is not None:
        kept = kept[~at_cells(ignore, rows, columns).ravel().astype(np.bool_)]
    picked = kept[np.unique(np.linspace(0, len(kept) - 1, PLACES_A_FRAME).round().astype(int))] \
        if len(kept) else kept
    flat = features[0].reshape(channels, -1)[:, picked].T
    return unit_rows(flat), at_cells(label, rows, columns).ravel()[picked].astype(np.uint8)


def _local(
    places: NDArray[np.float32], kinds: NDArray[np.uint8], num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return `centre`, `weights` and `means` of a `FeatureDensity`."""
    values = places.astype(np.float64)
    centre = values.mean(0)
    _, _, covariance = shrunk(values - centre)
    variances, axes = np.linalg.eigh(covariance)
    largest = np.argsort(variances)[::-1][:MOST_DIRECTIONS]
    largest = largest[variances[largest] > _LEAST_VARIANCE * variances.max()]
    whitened = axes[:, largest] / np.sqrt(variances[largest])
    reduced = (values - centre) @ whitened
    means = np.zeros((num_classes, len(largest)))  # of a class that never occurs: that of all
    for index in np.unique(kinds):
        means[index] = reduced[kinds == index].mean(0)
    _, _, within = shrunk(reduced - means[kinds])
    factor = whitening(within)
    return (centre.astype(np.float32), (whitened @ factor).astype(np.float32),
            (means @ factor).astype(np.float32))
