# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Choose on some folds, and report on the others.

The best of two hundred scores on some frames is better there than on any other frames. Here the
choice for the frames of a fold is made on all other folds, so that no frame's own label had a part
in what it is measured by. Folds may choose differently: their values are then made comparable as
ranks among the frames that the choice was made on.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncertainty_seg.core.calibration import Column, Columns
from uncertainty_seg.errors import DatasetError

Folds = NDArray[np.intp]
# Of two kinds of pixels, how many of each frame are in each bin of a map, (n, bins) each.
Histograms = tuple[NDArray[np.number], NDArray[np.number]]
# From a name and the rows it may look at, (n,), to how good it is there; larger is better.
Merit = Callable[[str, NDArray[np.bool_]], float]
# Merits that differ by less are equal: two names for one order must not win in turn.
EQUAL = 1e-3


def folds_of(blocks: ArrayLike, count: int, seed: int) -> Folds:
    """
    Deal the blocks to folds of nearly equal numbers, at random; return each frame's fold, (n,).

    Raises DatasetError if there are fewer blocks than folds, or fewer than two folds.
    """
    names, block = np.unique(np.asarray(blocks), return_inverse=True)
    if len(names) < count or count < 2:
        raise DatasetError(f'{len(names)} blocks of frames for {count} folds',
                           f'at least {max(count, 2)}, and at least 2 folds',
                           'give more frames, or fewer --folds')
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of_block = np.empty(len(names), np.intp)
    fold_of_block[order] = np.arange(len(names)) % count
    return fold_of_block[block]


def pick(names: Sequence[str], merit: Merit, folds: Folds) -> tuple[str, ...]:
    """
    Return for each fold the name with the largest merit on the frames of all other folds.

    A merit of NaN is the least; of those within `EQUAL` of the best the first is taken. There is
    at least one name.
    """
    chosen = []
    for fold in range(int(folds.max()) + 1):
        merits = np.nan_to_num([merit(name, folds != fold) for name in names], nan=-np.inf)
        chosen.append(names[int(np.argmax(merits >= merits.max() - EQUAL))])
    return tuple(chosen)


def picked_column(columns: Columns, names: Sequence[str], folds: Folds) -> Column:
    """
    Return the values of the score that was chosen for each frame.

    Parameters
    ----------
    columns : mapping of str to ndarray of float64, shape (n,)
        Of all scores.
    names : sequence of str
        The score of each fold.
    folds : ndarray of int, shape (n,)
        Of each frame.

    Returns
    -------
    ndarray of float64, shape (n,)
        As they are, if all folds chose the same; else ranks among the other folds' frames.

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
    # Beyond the reference the order is kept: below by what is missing, above by more than 1.
    beyond = np.minimum(values - knots[0], 0) + np.maximum(values - knots[-1], 0)
    beyond += np.where(values > knots[-1], 1.0, 0.0)
    return np.where(np.isfinite(values), np.interp(values, knots, middle) + beyond, np.inf)


def picked_histograms(
    maps: Mapping[str, Histograms], names: Sequence[str], folds: Folds
) -> Histograms:
    """
    Return the pixels of the map that was chosen for each frame; see `picked_column`.

    Where folds chose different maps, a bin becomes the share of the other folds' pixels below.
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
