# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compare what error propagation computes with samples of the network itself.

The samples come by another road: the network as it was before its moments were taken, run once
for each draw, with masks multiplied in and noise added to the image.

"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks, has_dropout
from uncertainty_seg.compiler.algebra.free_passes import one_pass
from uncertainty_seg.compiler.checks.pass_checks import run_graph
from uncertainty_seg.compiler.compile import CompiledGraphs
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.uncertainty import upsample_bilinear
from uncertainty_seg.errors import GraphError

SAMPLES = 60
# Below it the map points elsewhere than sampling does, and the bundle is refused; below the
# second a warning says so.
LEAST_RANK, GOOD_RANK = 0.3, 0.8
# The mean may differ from that of the samples by their own error and by this share of the
# deviation: curved operators move it, and the moments know that only in part.
_MEAN_SHARE = 1.0
_FLAT = 1e-9  # variance, as a share of the squared spread, that is none


@dataclass(frozen=True)
class MomentReport:
    """
    How near propagated moments are to samples of the network, on one image.

    Attributes
    ----------
    rank : float
        Rank correlation of the variance at each pixel, summed over the classes; -1 to 1, and 1
        where it is the same at every pixel.
    total : float
        All variance together, as a share of that of the samples.
    mean_error : float
        Median difference of the means in deviations of the samples.

    """

    rank: float
    total: float
    mean_error: float


def check_moments(
    compiled: CompiledGraphs, card: ModelCard, sensor_std: float = 0.0, samples: int = SAMPLES
) -> MomentReport:
    """
    Compare the trunk's moments with samples of the network.

    Parameters
    ----------
    compiled : CompiledGraphs
        From `compile_moments`.
    card : ModelCard
        Of the bundle to be.
    sensor_std : float
        Noise of the camera, in pixel values.
    samples : int
        Draws of the network, at least 2.

    Returns
    -------
    MomentReport
        On an image of soft random colours.

    Raises
    ------
    GraphError
        If moments are not numbers, there is no variance, or they have little to do with the
        samples.

    """
    image = _soft_image(card.input.height, card.input.width)
    ((mean, variance),) = run_graph(compiled.trunk, [{'image': image}])
    drawn = _samples(compiled.prepared[0].model, image, sensor_std, samples)
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and np.isfinite(drawn).all()):
        raise GraphError('the network gives NaN or infinity on a random image', 'numbers',
                         'look for NaN in its weights, and check --mean and --std')
    # The variance is that of logits less what all classes have in common.
    wanted = (drawn - drawn.mean(1, keepdims=True)).var(0, ddof=1)
    if not variance.max() > _FLAT * float(np.ptp(drawn)) ** 2:
        raise GraphError('the logits have no variance', 'noise that reaches them',
                         'the dropout is followed by something that undoes it')
    deviation = drawn.std(0) + 1e-6 * float(np.ptp(drawn))
    report = MomentReport(
        rank_correlation(variance[0].sum(0), wanted.sum(0)),
        float(variance.sum() / max(float(wanted.sum()), 1e-30)),
        float(np.median(abs(mean[0] - drawn.mean(0)) / deviation)))
    for is_wrong, came, expected in (
        (report.rank < LEAST_RANK, f'a rank correlation of {report.rank:.2f} between the '
         'propagated variance and that of samples', f'at least {LEAST_RANK}'),
        (report.mean_error > _MEAN_SHARE + 2 / samples**0.5, f'a propagated mean '
         f'{report.mean_error:.2g} deviations from that of samples', 'the same'),
    ):
        if is_wrong:
            raise GraphError(came, expected, 'compile this network with --method mc_dropout')
    return report


def rank_correlation(one: NDArray[np.floating[Any]], two: NDArray[np.floating[Any]]) -> float:
    """
    Return Spearman's rank correlation of two arrays of one shape.

    It is in -1..1, and 1 if one of them has the same value everywhere, which contradicts nothing.
    Equal values share their mean rank.
    """
    first, second = _ranks(one), _ranks(two)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 1.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)]


def _soft_image(height: int, width: int) -> NDArray[np.uint8]:
    """Return uint8 (1, h, w, 3): noise of coarse patches and of pixels, as photographs have."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(20, 235, (1, 3, 6, 8)).astype(np.float32)
    smooth = np.moveaxis(upsample_bilinear(coarse, height, width), 1, -1)
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def _samples(
    model: onnx.ModelProto, image: NDArray[np.uint8], std: float, samples: int
) -> NDArray[np.float32]:
    """Return logits (samples, C, hl, wl) of the network with explicit masks and noisy images."""
    masked, sites = dropout_to_masks(model) if has_dropout(model) else (model, ())
    network = one_pass(masked, sites)
    network.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT  # not whole numbers
    masks, rng = make_masks(sites, samples, 1), np.random.default_rng(1)
    name = network.graph.input[0].name
    feeds = [{name: (image + std * rng.normal(size=image.shape)).astype(np.float32),
              **{site: rows[t:t + 1] for site, rows in masks.items()}} for t in range(samples)]
    return np.concatenate([logits for (logits,) in run_graph(network, feeds)])
