# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Scores of a map by what the mask says is there: each class, foreground, borders and insides.

A mean over the image is a mean over its largest class. Here every class that occurs speaks for
itself, and their equal-weight mean lets a rare one be heard. One pass over the pixels sums all of
it, and the same counts serve every map of a frame.

A class that does not occur has no uncertainty: its score is 0, not NaN, since other scores judge
the frame. So none of these sees a thing that the network missed altogether.

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap
from uncertainty_seg.core.region_scores import boundary_mask
from uncertainty_seg.errors import ShapeError


@dataclass(frozen=True)
class Parts:
    """
    How the pixels of a frame are divided, for any map of it.

    Attributes
    ----------
    index : ndarray of int, shape (n,)
        Part of each pixel: its class, plus C if it lies at a border, or 2 C if left out.
    counts : ndarray of int, shape (2, C)
        Pixels inside and at the border of each class.

    """

    index: NDArray[np.intp]
    counts: NDArray[np.intp]

    @classmethod
    def of(
        cls, label: LabelMap, num_classes: int, ignore: NDArray[np.bool_] | None = None
    ) -> Parts:
        """
        Divide a frame.

        Parameters
        ----------
        label : ndarray of uint8, shape (h, w)
            Predicted class ids.
        num_classes : int
            C.
        ignore : ndarray of bool, shape (h, w), optional
            True where a pixel is left out.

        Returns
        -------
        Parts
            Of all pixels that count.

        Raises
        ------
        ShapeError
            If a class id is not below C, or the mask is not of the map's size.

        """
        if label.size and int(label.max()) >= num_classes:
            raise ShapeError(f'class id {int(label.max())} in the mask',
                             f'less than {num_classes}')
        # In bytes as long as they last; sums want the widest, and are made for every map.
        kind = np.uint8 if num_classes <= 127 else np.uint16
        index = label.astype(kind)
        index += boundary_mask(label, ignore=ignore).view(np.uint8) * kind(num_classes)
        if ignore is not None:
            np.copyto(index, kind(2 * num_classes), where=ignore)
        flat = index.ravel().astype(np.intp)
        counts = np.bincount(flat, minlength=2 * num_classes + 1)[: 2 * num_classes]
        return cls(flat, counts.reshape(2, num_classes))

    @property
    def num_kept(self) -> int:
        """Pixels that count."""
        return int(self.counts.sum())

    def foreground_share(self, background: int = 0) -> float:
        """Return the share of the pixels that count that are of another class."""
        return 1 - int(self.counts[:, background].sum()) / max(self.num_kept, 1)

    def sums(self, values: FloatMap) -> NDArray[np.float64]:
        """Sum a map (h, w) over the inside and the border of each class, (2, C)."""
        size = self.counts.size
        summed = np.bincount(self.index, values.ravel(), minlength=size + 1)[:size]
        return np.asarray(summed.reshape(self.counts.shape), np.float64)


def class_scores(
    values: FloatMap, parts: Parts, background: int = 0
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """
    Score a map by class.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w)
        A map of the frame that was divided.
    parts : Parts
        Its division.
    background : int
        The class that is not foreground.

    Returns
    -------
    scores : dict of str to float
        'foreground': mean over the foreground. 'class_mean': mean of the class means, each class
        that occurs once. 'boundary' and 'interior': mean near and away from borders. 0 where there
        is no such pixel.
    by_class : ndarray of float64, shape (C,)
        Mean of each class, 0 where it does not occur. All of it is NaN if any pixel that counts
        is, or none counts.

    """
    sums = parts.sums(values)
    if not parts.num_kept or np.isnan(sums).any():
        nan = np.full(sums.shape[1], np.nan)
        return dict.fromkeys(('foreground', 'class_mean', 'boundary', 'interior'), np.nan), nan
    of_class = parts.counts.sum(0)
    by_class = sums.sum(0) / np.maximum(of_class, 1)
    is_front = np.arange(len(by_class)) != background
    scores = {
        'foreground': _ratio(sums[:, is_front], parts.counts[:, is_front]),
        'class_mean': float(by_class[of_class > 0].mean()),
        'boundary': _ratio(sums[1], parts.counts[1]),
        'interior': _ratio(sums[0], parts.counts[0]),
    }
    return scores, by_class


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.intp]) -> float:
    return float(sums.sum() / max(int(counts.sum()), 1))
