# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Labels that the network contradicts, and is sure of it: suspected errors, region by region.

A region is connected, has one given and one predicted class, and is looked at without its border,
since the edge of an object is never labelled twice alike. How sure the network is of it is the
margin: the largest mean probability less the second. The label's own probability is not above the
second, so that the margin is a lower bound of what stands against the label. A region is suspected
if its margin is not far below the usual one where label and prediction of that class agree (the
self-confidence of confident learning), and counts less the more often the network says the one
class for the other anyway (the confident joint): such a confusion is the network's own.

References
----------
Northcutt, Jiang and Chuang, 2021, doi:10.1613/jair.1.12125 (confident learning). Lad and Mueller,
2023, arXiv:2307.05080 (label errors in segmentation).

"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap
from uncertainty_seg.errors import ShapeError

# Pixels next to the edge of a region that say nothing, and the least share of the image left.
EDGE_PX = 2
LEAST_SHARE = 5e-4
# Of the usual margin; and the power of the area: a region twice as large weighs a fifth more.
_OF_USUAL, _AREA_POWER = 0.5, 0.25


@dataclass(frozen=True)
class SuspectRegion:
    """
    A connected region of one given class that is predicted as another.

    Attributes
    ----------
    frame : str
        What the frame is known by.
    given, predicted : int
        Class ids.
    margin : float
        Mean margin of its pixels, 0..1; NaN in a map counts as 0.
    share : float
        Its share of the image's pixels, edge included.
    box : (int, int, int, int)
        Left, top, width, height in pixels, edge included.
    evidence : float
        What regions are sorted by, 0..1: the margin, weighed by area and rarity of the confusion.

    """

    frame: str
    given: int
    predicted: int
    margin: float
    share: float
    box: tuple[int, int, int, int]
    evidence: float = 0.0


class LabelCheck:
    """
    Collect contradicted regions frame by frame, and how sure the network usually is.

    Parameters
    ----------
    num_classes : int
        C.
    ignore_index : int
        Id of pixels whose class nobody knows.

    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        self._num_classes, self._ignore_index = num_classes, ignore_index
        self._regions: list[SuspectRegion] = []
        # Pixels of each given and predicted class, and the margins of those that agree.
        self._counts = np.zeros((num_classes, num_classes), np.int64)
        self._margins = np.zeros(num_classes)
        self.num_frames = 0

    def add(self, frame: str, given: LabelMap, predicted: LabelMap, margin: FloatMap) -> None:
        """
        Take a frame.

        Raises ShapeError if the maps differ in size, or an id is no class.

        Parameters
        ----------
        frame : str
            What it is known by.
        given, predicted : ndarray of uint8, shape (H, W)
            Class ids.
        margin : ndarray of float32, shape (H, W)
            Largest mean probability less the second, 0..1.

        """
        if not given.shape == predicted.shape == margin.shape:
            raise ShapeError(f'a label of {given.shape}, a prediction of {predicted.shape} and a '
                             f'margin of {margin.shape}', 'one size')
        count = self._num_classes
        known = given != self._ignore_index
        if max(int(given[known].max(initial=0)), int(predicted.max(initial=0))) >= count:
            raise ShapeError(f'a class id of {max(given[known].max(), predicted.max())}',
                             f'0 to {count - 1}')
        sure = np.clip(np.nan_to_num(margin), 0, 1)
        pairs = given[known].astype(np.intp) * count + predicted[known]
        self._counts += np.bincount(pairs, minlength=count**2).reshape(count, count)
        agrees = given == predicted
        self._margins += np.bincount(predicted[agrees], sure[agrees], minlength=count)
        self._regions += self._regions_of(frame, given, predicted, sure)
        self.num_frames += 1

    def usual(self) -> NDArray[np.float64]:
        """Return the mean margin of each class where label and prediction agree, (C,)."""
        return self._margins / np.maximum(self._counts.diagonal(), 1)

    def suspects(self) -> list[SuspectRegion]:
        """Return the regions that are suspected, those with the strongest evidence first."""
        usual = self.usual()
        rates = self._counts / np.maximum(self._counts.sum(1, keepdims=True), 1)
        found = [replace(one, evidence=one.margin * one.share**_AREA_POWER
                         * (1 - float(rates[one.given, one.predicted])))
                 for one in self._regions if one.margin >= _OF_USUAL * usual[one.predicted]]
        return sorted(found, key=lambda one: (-one.evidence, one.frame, one.box))

    def _regions_of(
        self, frame: str, given: LabelMap, predicted: LabelMap, sure: FloatMap
    ) -> Iterable[SuspectRegion]:
        differs = (given != predicted) & (given != self._ignore_index)
        pairs = np.where(differs, given.astype(np.int32) * 256 + predicted, -1)
        for pair in np.unique(pairs[differs]):
            yield from self._of_pair(frame, int(pair) >> 8, int(pair) & 255, pairs == pair, sure)

    def _of_pair(
        self, frame: str, given: int, predicted: int, where: NDArray[np.bool_], sure: FloatMap
    ) -> Iterable[SuspectRegion]:
        count, regions, facts, _ = cv2.connectedComponentsWithStats(
            where.astype(np.uint8), connectivity=4)
        kernel = np.ones((2 * EDGE_PX + 1, 2 * EDGE_PX + 1), np.uint8)
        inner = cv2.erode(where.astype(np.uint8), kernel, borderValue=1).astype(np.bool_)
        kept = np.bincount(regions[inner], minlength=count)
        sums = np.bincount(regions[inner], sure[inner], minlength=count)
        for index in range(1, count):
            if kept[index] >= max(1, LEAST_SHARE * where.size):
                left, top, width, height, area = facts[index].tolist()
                yield SuspectRegion(frame, given, predicted, float(sums[index] / kept[index]),
                                    area / where.size, (left, top, width, height))
