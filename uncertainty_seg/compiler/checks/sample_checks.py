# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compare a compiled network with samples of the network's own randomness.

Passes that the network draws itself, with nothing replaced in it, are compared with passes of
random masks by a permutation test, which assumes no distribution. Propagated moments are compared
with samples of the network, drawn with explicit masks and noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import itertools
import math
import time
from typing import Any, TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
import onnx

from uncertainty_seg.compiler.algebra.dropout_to_masks import dropout_to_masks, has_dropout
from uncertainty_seg.compiler.algebra.free_passes import one_pass
from uncertainty_seg.compiler.checks.pass_checks import (
    Array,
    as_planes,
    CheckReport,
    NetworkRunner,
    run_graph,
    smooth_image,
    soft_image,
)
from uncertainty_seg.compiler.compile import CompiledGraphs
from uncertainty_seg.core.dropout_masks import make_masks, still_inputs
from uncertainty_seg.core.grid import bilinear_taps
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.errors import GraphError

if TYPE_CHECKING:
    from uncertainty_seg.compiler.capture.masked_reference import OwnPasses
    from uncertainty_seg.compiler.checks.file_passes import FileNetwork

COMPARED, FEWEST_COMPARED = 256, 16
# Time budget in seconds for the passes of both; fewer passes are drawn if it is not enough.
SECONDS = 8.0
# A difference is significant if it exceeds that of every shuffle, in every round; each round draws
# new passes. With four measures, samples of one distribution are refused with a probability below
# (4 / 1000)^3 = 7e-8.
_SHUFFLES, _ROUNDS = 999, 3
_MEASURES = ('mean probability', 'entropy', 'mutual information', 'distance between passes')
_MOST_VALUES = 1 << 13  # probabilities compared per pass
_MOST_MASKS = 1 << 24  # mask values per call
# Difference of a probability that the runtimes' rounding may cause, whatever was drawn.
_ROUNDING = 1e-5


# The user's network with dropout off, and with its own random numbers.
StillNetwork = Callable[[NDArray[np.float32]], NDArray[np.float32]]
OwnNetwork: TypeAlias = 'OwnPasses | FileNetwork'


@dataclass(frozen=True)
class DistributionReport:
    """Differences between passes of random masks and passes that the network draws itself."""

    passes: int = 0  # Number of passes of each kind; 0 if they were not compared.
    # Mean absolute difference over pixels; entropy and mutual information as shares of ln C.
    mean_probability: float = 0.0
    entropy: float = 0.0
    mutual_information: float = 0.0
    # Mean mutual information with masks, and of the network itself, as shares of ln C.
    information: float = 0.0
    own_information: float = 0.0
    left_out: str = ''  # Reason why the passes were not compared.


def check_distribution(
    compiled: CompiledGraphs, card: ModelCard, own: OwnNetwork, still: StillNetwork,
    report: CheckReport, passes: int = COMPARED,
) -> DistributionReport:
    """
    Compare passes with masks to passes with the network's own randomness.

    Raises GraphError if they differ by more than chance explains, unless the card says that some
    of that randomness is silenced.
    """
    sampler = _Sampler(NetworkRunner(compiled, card, None, None), card, own, still)
    count = sampler.affordable(passes)
    least = max(_ROUNDING, 4 * max(report.still_error, report.masked_error) * report.spread)
    for attempt in range(_ROUNDS):
        ours, theirs = sampler.draw(count, attempt)
        found, shuffled = shuffled_measures(ours, theirs)
        unlikely = [i for i in range(len(found)) if found[i] > max(least, *shuffled[i])]
        if not unlikely or card.silenced:
            return DistributionReport(count, found[0], found[1], found[2], _information(ours),
                                      _information(theirs))
    worst = max(unlikely, key=lambda i: found[i] / max(float(shuffled[i].max()), least))
    raise GraphError(
        f'{count} passes of the network itself and {count} with masks differ in '
        f'{_MEASURES[worst]} by {found[worst]:.2g} on average, where {_SHUFFLES} shuffles of the '
        f'passes reach {shuffled[worst].max():.2g}', 'the same distribution',
        'some of its randomness is no independent mask: compare the listed sites with the '
        'network, or leave this check out with compare_passes=0')


class _Sampler:
    """Draws passes of both kinds as probabilities, at some pixels of one smooth image."""

    def __init__(
        self, runner: NetworkRunner, card: ModelCard, own: OwnNetwork, still: StillNetwork
    ) -> None:
        self._runner, self._card, self._own = runner, card, own
        self._image = smooth_image(card.input.height, card.input.width)
        self._floats = runner.floats(self._image)
        theirs = still(self._floats)
        ours = runner.ours(self._image, still_inputs(card, 1))
        planes = as_planes(theirs, ours.shape[1])
        step = max(1, math.isqrt(
            math.ceil(ours.shape[1] * math.prod(planes.shape[2:]) / _MOST_VALUES)))
        self._size = planes.shape[2:]
        self._taken = [slice(step // 2, None, step)] * 2
        off = self._of_ours(ours)
        self._form = min(_FORMS, key=lambda form: _gap(off, self._of_theirs(theirs, form)))
        per_pass = sum(math.prod(site.shape) for site in card.mask_sites)
        self._step = max(1, min(8, _MOST_MASKS // max(per_pass, 1)))

    def affordable(self, passes: int) -> int:
        """Return how many passes of each kind fit into `SECONDS`, at most `passes`."""
        began = time.perf_counter()
        for _ in itertools.islice(self._own.passes(self._floats, 0), 1):
            pass
        self._masked(self._step, 0)
        each = (time.perf_counter() - began) / 2  # a first run warms up
        return max(FEWEST_COMPARED, min(passes, int(SECONDS / max(each, 1e-9))))

    def draw(self, count: int, attempt: int) -> tuple[Array, Array]:
        """Return probabilities (count, C, y, x), of our passes and of theirs."""
        own = itertools.islice(self._own.passes(self._floats, attempt + 1), count)
        theirs = [self._of_theirs(row, self._form) for row in own]
        parts = [self._masked(min(self._step, count - at), 1 + at + attempt * (1 << 16))
                 for at in range(0, count, self._step)]
        return np.concatenate(parts), np.concatenate(theirs)

    def _masked(self, count: int, seed: int) -> Array:
        masks = make_masks(self._card.mask_sites, count, seed)
        return self._of_ours(self._runner.ours(self._image, masks))

    def _of_ours(self, logits: Array) -> Array:
        rows, columns = (
            tuple(values[taken] for values in bilinear_taps(old, new, self._card.upsampling))
            for old, new, taken in zip(logits.shape[2:], self._size, self._taken, strict=True))
        return _softmax(_at_taps(logits.astype(np.float64), rows, columns))

    def _of_theirs(self, returned: Array, form: _Form) -> Array:
        planes = as_planes(returned, len(self._card.class_names))
        return form(planes[:, :, self._taken[0], self._taken[1]].astype(np.float64))


_Form = Callable[[NDArray[np.float64]], NDArray[np.float32]]


def _at_taps(v: NDArray[np.float64], rows: Any, columns: Any) -> NDArray[np.float64]:
    (y0, y1, fy), (x0, x1, fx) = rows, columns
    v = v[..., y0, :] * (1 - fy)[:, None] + v[..., y1, :] * fy[:, None]
    return v[..., x0] * (1 - fx) + v[..., x1] * fx


def _softmax(logits: NDArray[np.float64]) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def _given(p: NDArray[np.float64]) -> Array:
    return p.astype(np.float32)


def _pair(p: NDArray[np.float64]) -> Array:
    """Expand one channel, the probability of the second class, to two classes."""
    return np.concatenate([1 - p, p], 1).astype(np.float32)


def _sigmoid_pair(z: NDArray[np.float64]) -> Array:
    return _pair(1 / (1 + np.exp(-z)))


# Possible forms of a network's output; `_Sampler` uses the one nearest to the compiled graph.
_FORMS: tuple[_Form, ...] = (_softmax, _given, _pair, _sigmoid_pair)


def _gap(ours: Array, theirs: Array) -> float:
    return float(abs(ours - theirs).max()) if ours.shape == theirs.shape else math.inf


def shuffled_measures(ours: Array, theirs: Array) -> tuple[list[float], list[NDArray[np.float64]]]:
    """
    Measure the differences of two samples of passes, before and after shuffling them.

    Both are probabilities (T, C, h, w). The first list holds the mean absolute differences over
    pixels of mean probability, entropy and mutual information, and the energy distance of the
    passes (Szekely and Rizzo, 2013). The second holds the same measures, (shuffles,) each, after
    the passes have been assigned to the two samples at random.
    """
    count, classes = ours.shape[:2]
    passes = np.concatenate([ours, theirs]).reshape(2 * count, classes, -1).astype(np.float32)
    first = np.arange(2 * count) < count
    rng = np.random.default_rng(count)
    signs = np.array([first, *(rng.permutation(first) for _ in range(_SHUFFLES))])
    entropies = _entropy(passes)
    maps = [_map_measures(passes, entropies, part.astype(np.float32) / count)
            for part in np.array_split(signs, 64)]
    flat = passes.reshape(2 * count, -1).astype(np.float64)
    squares = (flat * flat).sum(1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0) / flat.shape[1])
    side = np.where(signs, 1.0, -1.0)
    energy = -np.einsum('bi,bi->b', side @ apart, side) / count**2
    rows = [*np.concatenate(maps, 1), energy]
    return [float(row[0]) for row in rows], [row[1:] for row in rows]


def _map_measures(passes: Array, entropies: Array, weights: Array) -> NDArray[np.float64]:
    """Return measures (3, B) for B choices of passes, given as rows of weights 1 / T or 0."""
    flat = passes.reshape(len(passes), -1)
    chosen, inner = weights @ flat, weights @ entropies
    rest, outer = 2 * flat.mean(0) - chosen, 2 * entropies.mean(0) - inner
    shape = (-1, *passes.shape[1:])
    whole, other = _entropy(chosen.reshape(shape)), _entropy(rest.reshape(shape))
    return np.array([abs(chosen - rest).mean(1), abs(whole - other).mean(1),
                     abs(whole - inner - (other - outer)).mean(1)])


def _information(passes: Array) -> float:
    """Return the mean mutual information of passes (T, C, ...), as a share of ln C."""
    each = _entropy(passes).mean(0)
    return float((_entropy(passes.mean(0, keepdims=True))[0] - each).mean())


def _entropy(p: Array) -> Array:
    """Return entropies (B, ...) of probabilities (B, C, ...), as shares of ln C."""
    entropy: Array = -(p * np.log(np.maximum(p, 1e-12))).sum(1) / math.log(max(p.shape[1], 2))
    return entropy


# -------------------------------------------------------------------------------------------------
# Compare the result of error propagation with samples of the network itself.

SAMPLES = 60
# Below the first rank correlation the map disagrees with sampling, and compilation fails; below
# the second it warns.
LEAST_RANK, GOOD_RANK = 0.3, 0.8
# The mean may differ from the samples' mean by its standard error and this share of the standard
# deviation: nonlinear operators shift the mean, which the moments model only in part.
_MEAN_SHARE = 1.0
_FLAT = 1e-9  # variance that counts as none, as a share of the squared spread


@dataclass(frozen=True)
class MomentReport:
    """Comparison of propagated moments with samples of the network, on one image."""

    # Rank correlation over pixels of the variance summed over classes; -1 to 1, and 1 if it is
    # the same at every pixel.
    rank: float
    total: float  # Total variance as a share of the samples' total variance.
    mean_error: float  # Median difference of the means, in standard deviations of the samples.


def check_moments(
    compiled: CompiledGraphs, card: ModelCard, sensor_std: float = 0.0, samples: int = SAMPLES
) -> MomentReport:
    """
    Compare the trunk's moments with samples of the network.

    Raises GraphError if moments are NaN or infinite, there is no variance, or the moments disagree
    with the samples.
    """
    image = soft_image(card.input.height, card.input.width)
    ((mean, variance),) = run_graph(compiled.trunk, [{'image': image}])
    drawn = _samples(compiled.prepared[0].model, image, sensor_std, samples)
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and np.isfinite(drawn).all()):
        raise GraphError('the network gives NaN or infinity on a random image', 'numbers',
                         'look for NaN in its weights, and check mean and std')
    # The trunk's variance is that of the logits minus their mean over the classes.
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
            raise GraphError(came, expected, 'compile this network with method=mc_dropout')
    return report


def rank_correlation(one: NDArray[np.floating[Any]], two: NDArray[np.floating[Any]]) -> float:
    """
    Return Spearman's rank correlation of two arrays of one shape.

    It is in -1..1. If one array is constant, it contradicts no order, and the result is 1. Equal
    values share their mean rank.
    """
    first, second = _ranks(one), _ranks(two)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 1.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse.reshape(-1)]


def _samples(
    model: onnx.ModelProto, image: NDArray[np.uint8], std: float, samples: int
) -> NDArray[np.float32]:
    """Return logits (samples, C, hl, wl) of the network with explicit masks and noisy images."""
    masked, sites = dropout_to_masks(model) if has_dropout(model) else (model, ())
    network = one_pass(masked, sites)
    network.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT  # noise is no uint8
    masks, rng = make_masks(sites, samples, 1), np.random.default_rng(1)
    name = network.graph.input[0].name
    feeds = [{name: (image + std * rng.normal(size=image.shape)).astype(np.float32),
              **{site: rows[t:t + 1] for site, rows in masks.items()}} for t in range(samples)]
    return np.concatenate([logits for (logits,) in run_graph(network, feeds)])
