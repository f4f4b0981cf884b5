# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Choose the points where passes are summed, so that the maps agree with those at image size.

Passes of the compiled network are upsampled to the image one by one, and mutual information,
variance and variation ratio are measured there, and then on the logits' grid: at the centres of
the logits and at an offset. The centres are used if they give the means of the image. They do if
all pixels share one mask; with a mask per pixel, they may give twice as much (see `core.grid`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.compiler.checks.pass_checks import NetworkRunner, soft_image
from uncertainty_seg.compiler.compile import CompiledGraphs, with_files
from uncertainty_seg.compiler.plan import Decision
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.grid import offset_like_pixels
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.uncertainty import grid_maps, PassSums, sums_of_logits

_STEP = 'grid'
PASSES, _AT_ONCE = 48, 4
# The centres are used if no mean differs from the image's mean by more than this share.
NEAR = 0.02
# A larger error causes a warning.
FAR = 0.1
_MEANS = ('mutual_information', 'total_variance', 'variation_ratio')
# Below these means the passes agree, and relative errors are meaningless.
_LEAST = np.array((1e-5, 1e-5, 1e-3))
# Most pixels of the image to sample.
_MOST_PIXELS = 1 << 16


def choose_grid(compiled: CompiledGraphs, card: ModelCard) -> tuple[CompiledGraphs, float]:
    """
    Return the graphs with the chosen grid, and the error of its means against the image's.

    The error is the largest relative difference of the means of mutual information, total variance
    and variation ratio, measured on other passes than those used for the choice. It is 0 if
    nothing is upsampled or there is only one pass.
    """
    grid = card.grid
    if grid.is_image or card.has_one_pass:
        return compiled, 0.0
    beside = (offset_like_pixels(grid.rows, grid.height, grid.upsampling),
              offset_like_pixels(grid.columns, grid.width, grid.upsampling))
    wanted, found = _means(compiled, card, ((0.0, 0.0), beside), 1)
    # The variation ratio is left out: with few passes it would outweigh the other two.
    errors = {offset: _error(means[:2], wanted[:2]) for offset, means in found.items()}
    offset = (0.0, 0.0) if errors[0.0, 0.0] <= max(NEAR, errors[beside]) else beside
    named = {(0.0, 0.0): 'at the centres of the logits',
             beside: f'{beside[0]:.2f} of a cell beside them'}
    words = '; '.join(f'{named[one]} {_MEANS[0]} {means[0]:.3g}, variance {means[1]:.3g}, '
                      f'variation ratio {means[2]:.3g}' for one, means in found.items())
    reason = (f'mean over the image: {_MEANS[0]} {wanted[0]:.3g}, variance {wanted[1]:.3g}, '
              f'variation ratio {wanted[2]:.3g}; {words}')
    decision = Decision(_STEP, named[offset], any(offset), reason)
    plan = replace(compiled.plan, decisions=(*compiled.plan.decisions, decision))
    wanted, found = _means(compiled, card, (offset,), 2)
    return with_files(replace(compiled, plan=plan, grid_offset=offset)), \
        _error(found[offset], wanted)


def _error(means: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    counts = wanted > _LEAST[:len(wanted)]
    return float((abs(means - wanted)[counts] / wanted[counts]).max(initial=0.0))


def _means(
    compiled: CompiledGraphs, card: ModelCard, offsets: tuple[tuple[float, float], ...], seed: int
) -> tuple[NDArray[np.float64], Mapping[tuple[float, float], NDArray[np.float64]]]:
    """Return the means of `_MEANS` over the image, and by offset over the grid."""
    runner = NetworkRunner(compiled, card, None, None)
    image, grid = soft_image(card.input.height, card.input.width), card.grid
    passes = card.members or PASSES
    # An odd step, so that the sampled pixels fall on all positions between the logits.
    every = 2 * int((grid.height * grid.width / _MOST_PIXELS) ** 0.5 / 2) + 1
    of_image: PassSums | None = None
    at_grid: dict[tuple[float, float], PassSums | None] = dict.fromkeys(offsets)
    drawn = pass_inputs(card, passes, seed)
    for first in range(0, passes, _AT_ONCE):
        logits = runner.ours(image, {
            name: rows[first:first + _AT_ONCE] for name, rows in drawn.items()})
        for one in logits:
            full = grid.spread(one)[None, :, ::every, ::every]
            of_image = _added(of_image, sums_of_logits(full))
        for offset, before in at_grid.items():
            at_grid[offset] = _added(before, sums_of_logits(logits, 1.0, offset))
    return _mean_maps(of_image), {offset: _mean_maps(sums) for offset, sums in at_grid.items()}


def _added(before: PassSums | None, sums: PassSums) -> PassSums:
    if before is None:
        return sums
    names = ('passes', 'p', 'entropy_nats', 'p_squared', 'votes', 'logits')
    return PassSums(*(getattr(before, name) + getattr(sums, name) for name in names))


def _mean_maps(sums: PassSums | None) -> NDArray[np.float64]:
    assert sums is not None
    maps = grid_maps(sums)
    return np.array([float(np.mean(maps.of(name), dtype=np.float64)) for name in _MEANS])
