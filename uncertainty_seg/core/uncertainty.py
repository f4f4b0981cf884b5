# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From T passes to maps: the definitions, in plain numpy and float64.

This is the oracle. Backends compute the same sums in one fused pass over memory, chunk by
chunk; their tests hold them to this file.

"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap
from uncertainty_seg.errors import ShapeError

MAP_NAMES = (
    'entropy', 'mutual_information', 'variation_ratio', 'total_variance', 'aleatoric',
)


@dataclass(frozen=True)
class UncertaintyMaps:
    """
    All maps of one frame at network resolution, each of shape (h, w).

    Every map but `label` and `confidence` grows with uncertainty. NaN means that a pass gave
    no number there; it is never replaced.

    Attributes
    ----------
    label : ndarray of uint8
        Class with the largest mean probability; the lowest id of equals.
    confidence : ndarray of float32
        Largest mean probability, 1/C..1.
    entropy : ndarray of float32
        Of the mean probabilities over ln C, 0..1.
    mutual_information : ndarray of float32
        Entropy minus the mean entropy of the passes, over ln C, 0..1.
    variation_ratio : ndarray of float32
        Share of passes that do not vote for the most voted class.
    total_variance : ndarray of float32
        Sum over classes of the population variance over passes.
    aleatoric : ndarray of float32
        Mean entropy of the passes over ln C, 0..1.

    """

    label: LabelMap
    confidence: FloatMap
    entropy: FloatMap
    mutual_information: FloatMap
    variation_ratio: FloatMap
    total_variance: FloatMap
    aleatoric: FloatMap

    def cut(self, rows: slice, columns: slice) -> UncertaintyMaps:
        """Return views of a part of every map."""
        return UncertaintyMaps(*(getattr(self, f.name)[rows, columns] for f in fields(self)))


def maps_from_probabilities(probs: NDArray[np.floating]) -> UncertaintyMaps:
    """
    Measure how unsure and how divided T passes are, pixel by pixel.

    Parameters
    ----------
    probs : ndarray of float, shape (T, C, H, W)
        Softmax of each pass; sums to 1 over C.

    Returns
    -------
    UncertaintyMaps
        Of shape (H, W); NaN in, NaN out.

    Raises
    ------
    ShapeError
        If `probs` has not four axes, no pass, or fewer than two classes.

    References
    ----------
    Gal, Islam and Ghahramani, 2017, arXiv:1703.02910.

    """
    if probs.ndim != 4 or probs.shape[0] < 1 or probs.shape[1] < 2:
        raise ShapeError(f'probabilities have shape {probs.shape}', '(T >= 1, C >= 2, H, W)')
    passes, num_classes = probs.shape[:2]
    p = probs.astype(np.float64)
    mean = p.mean(0)  # (T, C, H, W) -> (C, H, W)
    entropy = _entropy(mean, 0)  # (C, H, W) -> (H, W)
    mean_entropy = _entropy(p, 1).mean(0)  # (T, C, H, W) -> (H, W)
    votes = (p.argmax(1)[:, None] == np.arange(num_classes)[:, None, None]).sum(0)
    scale = 1.0 / np.log(num_classes)
    broken = np.isnan(p).any((0, 1))  # (H, W)
    variation = np.where(broken, np.nan, 1.0 - votes.max(0) / passes)
    floats = (
        mean.max(0),
        entropy * scale,
        # np.maximum passes NaN on; rounding alone can take this below zero.
        np.maximum((entropy - mean_entropy) * scale, 0.0),
        variation,
        p.var(0).sum(0),
        mean_entropy * scale,
    )
    label = mean.argmax(0).astype(np.uint8)
    return UncertaintyMaps(label, *(f.astype(np.float32) for f in floats))


def _entropy(p: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    safe = np.where(p == 0, 1.0, p)
    return -(p * np.log(safe)).sum(axis)


def maps_from_logits(
    logits: NDArray[np.floating], height: int, width: int, temperature: float = 1.0
) -> UncertaintyMaps:
    """
    Upsample logits, take the softmax of each pass, and measure.

    Parameters
    ----------
    logits : ndarray of float, shape (T, C, hl, wl)
        The head's output.
    height, width : int
        h, w of the maps.
    temperature : float
        The logits are divided by it.

    Returns
    -------
    UncertaintyMaps
        Of shape (h, w).

    """
    z = upsample_bilinear(logits, height, width) / temperature
    exponentials = np.exp(z - z.max(1, keepdims=True))
    return maps_from_probabilities(exponentials / exponentials.sum(1, keepdims=True))


def upsample_bilinear(
    values: NDArray[np.floating], height: int, width: int
) -> NDArray[np.float64]:
    """
    Resize the last two axes, half-pixel centres, edges clamped.

    Parameters
    ----------
    values : ndarray of float, shape (..., hl, wl)
        What to resize.
    height, width : int
        The new size.

    Returns
    -------
    ndarray of float64, shape (..., height, width)
        As torch's interpolate(mode='bilinear', align_corners=False).

    """
    rows, columns = values.shape[-2:]
    y0, y1, fy = _taps(rows, height)
    x0, x1, fx = _taps(columns, width)
    v = values.astype(np.float64)
    v = v[..., y0, :] * (1 - fy)[:, None] + v[..., y1, :] * fy[:, None]
    return v[..., x0] * (1 - fx) + v[..., x1] * fx


def _taps(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    centre = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0.0)
    low = np.minimum(centre.astype(np.intp), old - 1)
    return low, np.minimum(low + 1, old - 1), centre - low
