# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Uncertainty maps from given logits or probabilities, or with single maps replaced."""

import copy

import numpy as np

from uncertainty_seg.core.grid import Grid
from uncertainty_seg.core.uncertainty import (
    grid_maps,
    image_maps,
    sums_of_logits,
    UncertaintyMaps,
)


def maps_from_logits(logits: np.ndarray, grid: Grid, temperature: float = 1.0) -> UncertaintyMaps:
    """Return the image's maps of logits (T, C, hl, wl) of a grid, in float64, as defined."""
    return image_maps(grid_maps(sums_of_logits(logits, temperature, grid.offset)), grid)


def maps_of_probabilities(probs: np.ndarray) -> UncertaintyMaps:
    """Return the maps of passes (T, C, h, w) of probabilities."""
    with np.errstate(divide='ignore'):
        return grid_maps(sums_of_logits(np.log(probs)))


def with_maps(maps: UncertaintyMaps, **values: np.ndarray) -> UncertaintyMaps:
    """Return a copy of the maps with some of them replaced."""
    changed = copy.copy(maps)
    vars(changed).update(values)
    return changed
