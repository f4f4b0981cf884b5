# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Logits over all masks at once, where a linear layer comes directly behind the dropout.

There the logits of a pixel are ``z = b + sum_k m_k w_k f_k`` with independent masks m_k of mean 1
and variance p / (1 - p), so that their mean ``b + W f`` and their covariance
``p / (1 - p) W diag(f**2) W^T`` are known without a single pass. What follows of them is computed
from *sigma passes*, logits that have exactly this mean and covariance: the mean, and from it as
far in one direction as in the other. A softmax does not see what all logits have in common, so
that only the covariance of their differences to the last class counts.

"""

from __future__ import annotations

from dataclasses import dataclass
import functools
import math
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.graph_files import IMAGE, LOGITS, require_graphs, whole_graph
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import drops_channels
from uncertainty_seg.core.model_card import DropoutSite, ModelCard
from uncertainty_seg.errors import ConfigError

Floats = NDArray[np.float32]
_F = TypeVar('_F', np.float32, np.float64)

# Half of the sigma passes: the others are on the other side of the mean. Chosen by measurement
# (docs/methods.md), but never fewer than two for each direction.
FEWEST_POINTS = 24
# A variance that is less than this share of the logit's own is rounding.
_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class LinearHead:
    """
    A linear layer behind dropout.

    Attributes
    ----------
    weights : ndarray of float64, shape (C, K)
        Of the features that are dropped.
    bias : ndarray of float64, shape (C,)
        What is left of the logits if all are dropped.
    rate : float
        p, the chance to be dropped, the same for all.

    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    rate: float

    @property
    def variance(self) -> float:
        """Variance of a mask."""
        return self.rate / (1 - self.rate)

    def mean(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the logits (C, n) of features (K, n), on average over all masks."""
        return np.asarray(self.weights @ features + self.bias[:, None])

    def covariance(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return how the logits of features (K, n) vary together: (C, C, n)."""
        products = self.weights[:, None] * self.weights * self.variance
        return np.asarray(products @ np.square(features, dtype=np.float64))

    def variances(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return how much each logit varies, (C, n): the diagonal of `covariance`."""
        squares = np.square(features, dtype=np.float64)
        return np.asarray(np.square(self.weights) @ squares * self.variance)

    def difference_weights(self) -> NDArray[np.float64]:
        """
        Return the matrix (R, K) from squared features to the covariance of differences, packed.

        The differences are those of the first C - 1 logits to the last; the packed order is that
        of the lower triangle, row by row, with R = C (C - 1) / 2.
        """
        over_last = self.weights[:-1] - self.weights[-1]
        rows, columns = np.tril_indices(len(over_last))
        return np.asarray(over_last[rows] * over_last[columns] * self.variance)

    def sigma_logits(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return all sigma passes (S, C, n) of features (K, n)."""
        mean = self.mean(features)
        squares = np.square(features, dtype=np.float64)
        factor = cholesky(self.difference_weights() @ squares)
        return sigma_passes(mean, factor, sigma_points(len(mean) - 1).astype(np.float64))


@functools.lru_cache(maxsize=8)
def sigma_points(rank: int) -> Floats:
    """
    Return points (S / 2, rank) of a standard normal distribution, to be taken with both signs.

    All count alike. Their mean is 0 and their covariance the identity, exactly, and otherwise
    they are spread as evenly as the multiples of square roots of primes are, modulo 1.

    References
    ----------
    Richtmyer, 1951 (the sequence); Julier and Uhlmann, 1997 (points with an exact covariance).

    """
    count = max(FEWEST_POINTS, 2 * rank)
    primes = [n for n in range(2, 32 * rank) if all(n % m for m in range(2, math.isqrt(n) + 1))]
    shares = (0.5 + np.arange(1, count + 1)[:, None] * np.sqrt(primes[:rank])) % 1
    drawn = np.vectorize(NormalDist().inv_cdf)(np.clip(shares, 1e-6, 1 - 1e-6))
    white = np.linalg.inv(np.linalg.cholesky(drawn.T @ drawn / count)).T
    points = np.asarray(drawn @ white, np.float32)
    points.flags.writeable = False
    return points


def num_sigma_passes(num_classes: int) -> int:
    """Return S, how many sigma passes logits of C classes have."""
    return 2 * len(sigma_points(num_classes - 1))


def cholesky(packed: NDArray[_F], out: NDArray[_F] | None = None) -> NDArray[_F]:
    """
    Return the Cholesky factors of many covariances, packed (R, n) as they are, in `out` if given.

    A direction without variance is left out. NaN and infinite values become NaN.
    """
    rank = math.isqrt(2 * len(packed))
    factor = np.empty_like(packed) if out is None else out
    starts = [row * (row + 1) // 2 for row in range(rank + 1)]
    with np.errstate(all='ignore'):
        for column in range(rank):
            inverse = np.empty(0)
            done = factor[starts[column]:starts[column] + column]
            for row in range(column, rank):
                at = starts[row] + column
                left = packed[at]
                if column:
                    left = left - np.einsum('kn,kn->n', factor[starts[row]:at], done)
                if row == column:
                    least = packed[at] * packed.dtype.type(_LEAST_SHARE)
                    # What is no finite number becomes NaN when it is multiplied by this.
                    inverse = np.where(left > least, 1 / np.sqrt(left), 0)
                np.multiply(left, inverse, out=factor[at])
    return factor


def sigma_passes(
    mean: NDArray[_F], factor: NDArray[_F], points: NDArray[_F], out: NDArray[_F] | None = None
) -> NDArray[_F]:
    """Return the passes (2 P, C, n) of points (P, C - 1) and a mean (C, n), in `out` if given."""
    passes = np.empty((2 * len(points), *mean.shape), mean.dtype) if out is None else out
    plus, minus = passes[:len(points)], passes[len(points):]
    for row in range(len(mean) - 1):
        start = row * (row + 1) // 2
        np.einsum('pk,kn->pn', points[:, :row + 1], factor[start:start + row + 1],
                  out=minus[:, row])
    minus[:, -1] = 0  # what the last class has in common with all
    np.add(mean, minus, out=plus)
    np.subtract(mean, minus, out=minus)
    return passes


# -------------------------------------------------------------------------------------------------
# Is a bundle's head such a layer, and which? Operators that are not linear are refused by their
# names. What the others make of features and masks is tried out with the reference implementation
# of ONNX, so that it does not matter how the layer was written: each feature alone gives a column
# of its weights, and features and masks drawn at random must give what these weights say.

MOMENTS = 'moments'
# The covariance has half the square of that many planes.
MOST_CLASSES = 32
# Linear in the features for any masks, and in the masks for any features.
_LINEAR = frozenset({
    'Add', 'Cast', 'Concat', 'Constant', 'Conv', 'Einsum', 'Flatten', 'Gather', 'Gemm', 'Identity',
    'MatMul', 'Mul', 'Reshape', 'Slice', 'Split', 'Squeeze', 'Sub', 'Transpose', 'Unsqueeze',
})
# Of the largest logit; a head of float16 rounds its results.
_CLOSE, _CLOSE_IN_HALF = 1e-4, 1e-2


def linear_head(bundle: ModelBundle, with_masks: bool = True) -> LinearHead:
    """
    Return the linear layer that a bundle's head is.

    Without `with_masks` it is what the head is to features alone: what it does to them with masks
    is not tried out.

    Raises ConfigError if the head is anything else, or the masks are not independent; and
    ModelBundleError if the graphs are not those of the card.
    """
    card = bundle.card
    if problem := _card_problem(card):
        raise _refused(card, problem)
    names, site = require_graphs(bundle), card.dropout_sites[0]
    if len(names.frontier) != 1 or IMAGE in names.head_inputs:
        raise _refused(card, 'its head takes more than the features that are dropped')
    model = _head(bundle)
    strange = sorted({node.op_type for node in model.graph.node} - _LINEAR)
    if strange:
        raise _refused(card, f'{strange[0]} stands between its masks and its logits')
    probe = _HeadProbe(model, names.frontier[0], site, card.chunk)
    if probe.features[1:] != card.logits_shape[1:] or not _is_whole(site, probe.features):
        raise _refused(card, f'its head makes logits of {card.logits_shape} from features of '
                       f'{probe.features} and masks of {site.shape}')
    head = probe.read()
    close = _CLOSE_IN_HALF if card.precision == 'fp16' else _CLOSE
    if not probe.is_described_by(head, close, with_masks):
        raise _refused(card, 'its head is more than one layer of 1x1')
    return head


def moments_graph(head: LinearHead, features: str, shape: tuple[int, int, int]) -> bytes:
    """
    Write a graph that gives mean and covariance of the logits, for a runtime.

    Parameters
    ----------
    head : LinearHead
        Of C classes.
    features : str
        The output of the trunk.
    shape : (int, int, int)
        (K, hl, wl) of it.

    Returns
    -------
    bytes
        An ONNX file: features (1, K, hl, wl) -> `MOMENTS` (1, C + R, hl, wl), the mean logits and
        the packed covariance of `LinearHead.difference_weights`.

    """
    from onnx import helper, numpy_helper, TensorProto

    weights = {'mean_weights': head.weights, 'mean_bias': head.bias,
               'spread_weights': head.difference_weights()}
    tensors = [numpy_helper.from_array(
        (value[..., None, None] if value.ndim == 2 else value).astype(np.float32), name)
        for name, value in weights.items()]
    rows = len(head.bias) + len(weights['spread_weights'])
    nodes = [
        helper.make_node('Conv', [features, 'mean_weights', 'mean_bias'], ['mean']),
        helper.make_node('Mul', [features, features], ['squares']),
        helper.make_node('Conv', ['squares', 'spread_weights'], ['spread']),
        helper.make_node('Concat', ['mean', 'spread'], [MOMENTS], axis=1),
    ]
    given = helper.make_tensor_value_info(features, TensorProto.FLOAT, [1, *shape])
    made = helper.make_tensor_value_info(MOMENTS, TensorProto.FLOAT, [1, rows, *shape[1:]])
    graph = helper.make_graph(nodes, MOMENTS, [given], [made], tensors)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    return bytes(model.SerializeToString())


def feature_shape(bundle: ModelBundle) -> tuple[str, tuple[int, int, int]]:
    """Return name and shape (K, hl, wl) of the features of a bundle with a linear head."""
    name = require_graphs(bundle).frontier[0]
    return name, (bundle.card.dropout_sites[0].shape[0], *bundle.card.logits_shape[1:])


def _refused(card: ModelCard, what: str) -> ConfigError:
    return ConfigError(f'pass_policy is infinite, and of {card.name!r} {what}',
                       'one dropout, directly before a last linear layer of 1x1',
                       'set pass_policy to all')


def _card_problem(card: ModelCard) -> str:
    """Say why passes of a card are no draws of independent masks at one place; or nothing."""
    sites = len(card.dropout_sites)
    if card.method != 'mc_dropout' or card.members:
        return f'the method is {card.method}'
    if sites != 1:
        return f'dropout stands at {sites} places'
    if card.is_balanced or card.mask_seed is not None:
        return 'the masks are not independent'
    if card.num_classes > MOST_CLASSES:
        return f'there are {card.num_classes} classes, more than {MOST_CLASSES}'
    return ''


def _is_whole(site: DropoutSite, features: tuple[int, ...]) -> bool:
    """Say whether a site drops channels or elements of these features, one mask for each."""
    return site.shape == features or (drops_channels(site) and site.shape[0] == features[0])


def _head(bundle: ModelBundle) -> Any:
    import onnx

    return onnx.load_model_from_string(whole_graph(bundle.head_path))


class _HeadProbe:
    """A head that is given features and masks to see what it makes of them."""

    def __init__(self, model: Any, features: str, site: DropoutSite, chunk: int) -> None:
        from onnx.reference import ReferenceEvaluator

        self._run = ReferenceEvaluator(model).run
        self._name, self._site, self._chunk = features, site, chunk
        shapes = {info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
                  for info in model.graph.input}
        self.features: tuple[int, ...] = shapes[features][1:]

    def logits(
        self, features: NDArray[np.float32], masks: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Run the head on features (K, n) and masks (T, *site.shape); gives (T, C, n)."""
        # A head with a fixed number of passes gets the first ones again for the rest.
        rows = np.resize(masks, (self._chunk or len(masks), *masks.shape[1:]))
        fed = {self._name: features.reshape(1, *self.features), self._site.name: rows}
        found = np.asarray(self._run([LOGITS], fed)[0], np.float64)[:len(masks)]
        return found.reshape(*found.shape[:2], -1)

    def read(self) -> LinearHead:
        """Show the head one feature at each pixel, and none at all."""
        channels, pixels = self.features[0], math.prod(self.features[1:])
        ones = np.ones((1, *self._site.shape), np.float32)
        bias = self.logits(np.zeros((channels, pixels), np.float32), ones)[0, :, 0]
        columns = []
        for first in range(0, channels, pixels):
            single = np.eye(channels, pixels, -first, dtype=np.float32)
            columns.append(self.logits(single, ones)[0, :, :channels - first] - bias[:, None])
        return LinearHead(np.concatenate(columns, 1), bias, self._site.p)

    def is_described_by(self, head: LinearHead, close: float, with_masks: bool) -> bool:
        """Compare with features and masks drawn at random, of both signs and large."""
        rng, keep = np.random.default_rng(0), 1 - self._site.p
        features = (rng.normal(size=self.features) * 4).astype(np.float32)
        passes = min(2, self._chunk or 2)
        kept = rng.random((passes, *self._site.shape)) < keep
        masks = (kept / keep if with_masks else np.ones(kept.shape)).astype(np.float32)
        flat = (features * masks).reshape(passes, self.features[0], -1)
        found = self.logits(features, masks)
        wanted = np.stack([head.mean(one) for one in flat])
        return found.shape == wanted.shape and bool(
            np.abs(found - wanted).max() <= close * np.abs(wanted).max())
