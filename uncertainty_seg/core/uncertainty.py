# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From T passes to maps: the definitions, in plain numpy and float64.

This is the oracle. Backends compute the same sums in one fused pass over memory, chunk by
chunk; their tests hold them to this file.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
import math

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap
from uncertainty_seg.errors import ShapeError

# Computed for every frame.
USUAL_MAPS = (
    'entropy', 'mutual_information', 'variation_ratio', 'total_variance', 'aleatoric',
)
# Computed where somebody asks: of the mean probabilities, and of the mean logits.
MAPS_OF_MEANS, MAPS_OF_LOGITS = ('margin', 'unknown'), ('energy',)
MORE_MAPS = MAPS_OF_MEANS + MAPS_OF_LOGITS
MAP_NAMES = (*USUAL_MAPS, 'least_confidence', *MORE_MAPS)
UNKNOWN_TEMPERATURE = 2.5
# How T passes become maps: `maps_from_logits`, `maps_from_coarse_logits`.
REDUCTIONS = ('exact', 'coarse')
# Logits are divided by it before they are squashed into 0..1: those of trained networks lie
# within about 30 of each other, and without it nearly all would become 0.
LOGIT_SCALE = 8.0
# The smallest normal float32: a smaller mean counts as this where logarithms are upsampled.
LEAST_PROBABILITY = 2.0**-126


@dataclass(frozen=True)
class MapRequest:
    """
    Which maps of `MORE_MAPS` are wanted besides those that every frame has.

    `unknown_temperature` is that of the map 'unknown', 1 or more.
    """

    names: frozenset[str] = field(default_factory=frozenset)
    unknown_temperature: float = UNKNOWN_TEMPERATURE

    @classmethod
    def of(
        cls, names: Iterable[str], unknown_temperature: float = UNKNOWN_TEMPERATURE
    ) -> MapRequest:
        """Ask for some maps; those that every frame has need no asking."""
        return cls(frozenset(MORE_MAPS).intersection(names), unknown_temperature)

    @property
    def of_means(self) -> tuple[str, ...]:
        """Return those that are computed of the mean probabilities, in a fixed order."""
        return tuple(name for name in MAPS_OF_MEANS if name in self.names)

    @property
    def of_logits(self) -> tuple[str, ...]:
        """Return those that are computed of the mean logits, in a fixed order."""
        return tuple(name for name in MAPS_OF_LOGITS if name in self.names)


NO_MORE = MapRequest()


@dataclass(frozen=True)
class UncertaintyMaps:
    """
    All maps of one frame at network resolution, each of shape (h, w).

    Every map but `label` and `confidence` grows with uncertainty. NaN means that a pass gave
    no number there; it is never replaced.

    References
    ----------
    Liu et al., 2020, arXiv:2010.03759 (energy); Liang et al., 2017, arXiv:1706.02690 (softened
    probabilities).

    """

    # Class with the largest mean probability; the lowest id of equals.
    label: LabelMap
    # Largest mean probability, 1/C..1.
    confidence: FloatMap
    # Of the mean probabilities over ln C, 0..1.
    entropy: FloatMap
    # Entropy minus the mean entropy of the passes, over ln C, 0..1.
    mutual_information: FloatMap
    # Share of passes that do not vote for the most voted class.
    variation_ratio: FloatMap
    # Sum over classes of the population variance over passes.
    total_variance: FloatMap
    # Mean entropy of the passes over ln C, 0..1.
    aleatoric: FloatMap
    # 1 less the distance of the two largest mean probabilities, 0..1. This and what follows is
    # None where nobody asked for it.
    margin: FloatMap | None = None
    # Entropy over ln C of the mean probabilities to the power 1 / tau, divided by their sum, 0..1.
    # A tau of 2 to 3 finds things that were never shown best: it looks at how the small
    # probabilities are spread.
    unknown: FloatMap | None = None
    # 1 / (1 + exp(E / 8)), 0..1, where E is the logarithm of the sum of exp(z) over the classes
    # and z are the logits' means over the passes, before any temperature.
    energy: FloatMap | None = None
    # No map: the trunk's output `feature_map` (1, D, hf, wf), where it has one.
    features: FloatMap | None = None

    @property
    def least_confidence(self) -> FloatMap:
        """1 less the largest mean probability, 0..1 - 1/C."""
        return np.float32(1) - self.confidence

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the arrays that there are, in the order of the fields."""
        return tuple(f.name for f in fields(self)
                     if f.name != 'features' and getattr(self, f.name) is not None)

    def cut(self, rows: slice, columns: slice) -> UncertaintyMaps:
        """Return views of a part of every map, and of the features whose centres lie in it."""
        features = self.features
        if features is not None:
            height, width = self.label.shape
            features = features[..., cells(rows, height, features.shape[-2]),
                                cells(columns, width, features.shape[-1])]
        return UncertaintyMaps(**{name: getattr(self, name)[rows, columns]
                                  for name in self.present}, features=features)

    def with_features(self, features: FloatMap | None) -> UncertaintyMaps:
        """Return these maps with the trunk's `feature_map`."""
        return replace(self, features=features)


def cells(pixels: slice, size: int, count: int) -> slice:
    """Return those of `count` cells along `size` pixels whose centres lie in a part; 1 or more."""
    first, stop, _ = pixels.indices(size)
    low = min(math.ceil(first * count / size - 0.5), count - 1)
    return slice(low, max(math.ceil(stop * count / size - 0.5), low + 1))


def maps_from_probabilities(
    probs: NDArray[np.floating], request: MapRequest = NO_MORE
) -> UncertaintyMaps:
    """
    Measure how unsure and how divided T passes are, pixel by pixel; NaN in, NaN out.

    `probs` (T, C, H, W) is the softmax of each pass. Maps of logits stay None. Raises ShapeError
    if it has not four axes, no pass, or fewer than two classes. After Gal, Islam and Ghahramani,
    2017, arXiv:1703.02910.
    """
    if probs.ndim != 4 or probs.shape[0] < 1 or probs.shape[1] < 2:
        raise ShapeError(f'probabilities have shape {probs.shape}', '(T >= 1, C >= 2, H, W)')
    p = probs.astype(np.float64)
    return _maps(p.mean(0), *_disagreement(p), request=request)


def _disagreement(p: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return mutual information in nats, variation ratio and total variance, (H, W) each."""
    passes, num_classes = p.shape[:2]
    mean_entropy = _entropy(p, 1).mean(0)  # (T, C, H, W) -> (H, W)
    votes = (p.argmax(1)[:, None] == np.arange(num_classes)[:, None, None]).sum(0)
    broken = np.isnan(p).any((0, 1))  # (H, W)
    return (
        # np.maximum passes NaN on; rounding alone can take this below zero.
        np.maximum(_entropy(p.mean(0), 0) - mean_entropy, 0.0),
        np.where(broken, np.nan, 1.0 - votes.max(0) / passes),
        p.var(0).sum(0),
    )


def _maps(
    mean: NDArray[np.float64], mutual_nats: NDArray[np.float64],
    variation: NDArray[np.float64], variance: NDArray[np.float64], *,
    request: MapRequest, mean_logits: NDArray[np.float64] | None = None,
) -> UncertaintyMaps:
    entropy = _entropy(mean, 0)  # (C, H, W) -> (H, W)
    scale = 1.0 / np.log(len(mean))
    floats = (mean.max(0), entropy * scale, mutual_nats * scale, variation, variance,
              (entropy - mutual_nats) * scale)
    more = _maps_of_means(mean, request)
    if mean_logits is not None:
        more['energy'] = _energy(mean_logits)
    label = mean.argmax(0).astype(np.uint8)
    return UncertaintyMaps(label, *(f.astype(np.float32) for f in floats), **{
        name: more[name].astype(np.float32) for name in request.names & set(more)})


def _maps_of_means(
    mean: NDArray[np.float64], request: MapRequest
) -> dict[str, NDArray[np.float64]]:
    second, first = np.sort(mean, 0)[-2:]
    softened = mean ** (1.0 / request.unknown_temperature)
    softened /= softened.sum(0)
    # Sorting puts NaN last, so that the largest is NaN if any is.
    return {'margin': 1.0 - (first - second),
            'unknown': _entropy(softened, 0) / np.log(len(mean))}


def _energy(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    z = np.where(np.isfinite(mean), mean, np.nan)
    largest = z.max(0)
    x = largest + np.log(np.exp(z - largest).sum(0))
    # 1 / (1 + exp(x)), without an overflow.
    return 0.5 - 0.5 * np.tanh(0.5 * x / LOGIT_SCALE)


def _entropy(p: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    safe = np.where(p == 0, 1.0, p)
    return -(p * np.log(safe)).sum(axis)


def maps_from_sums(
    sums: Mapping[str, NDArray[np.floating]], passes: int, plane: tuple[int, int],
    upsampling: str = 'half_pixel', request: MapRequest = NO_MORE,
) -> UncertaintyMaps:
    """
    Compute the maps (h, w) = `plane` from sums over all T passes; NaN where a sum is.

    `sums` are 'sum_p', 'votes' (C, h, w), 'sum_entropy' in nats, 'sum_p2' (h, w), and 'sum_logits'
    (C, hl, wl) if there is one; all of size (hl, wl) if the reduction is coarse.
    """
    # Sums of which a part was subtracted again may be a hair below zero.
    mean = np.maximum(sums['sum_p'].astype(np.float64) / passes, 0.0)
    mutual = np.maximum(_entropy(mean, 0) - sums['sum_entropy'] / passes, 0.0)
    variation = np.maximum(1.0 - sums['votes'].max(0) / passes, 0.0)
    variation = np.where(np.isnan(sums['sum_entropy']), np.nan, variation)
    variance = np.maximum(sums['sum_p2'] / passes - (mean * mean).sum(0), 0.0)
    if mean.shape[1:] != plane:
        mean, mutual, variation, variance = _spread(
            mean, (mutual, variation, variance), plane, upsampling)
    logits = sums.get('sum_logits') if request.of_logits else None
    return _maps(
        mean, mutual, variation, variance, request=request,
        mean_logits=None if logits is None else upsample_bilinear(
            logits / passes, *plane, upsampling))


def maps_from_logits(
    logits: NDArray[np.floating], height: int, width: int, temperature: float = 1.0,
    upsampling: str = 'half_pixel', request: MapRequest = NO_MORE,
) -> UncertaintyMaps:
    """
    Upsample logits (T, C, hl, wl) to (height, width), take the softmax of each pass, and measure.

    `upsampling` is one of `core.model_card.UPSAMPLINGS`.
    """
    full = upsample_bilinear(logits, height, width, upsampling)
    p = _softmax(full, temperature)
    return _maps(p.mean(0), *_disagreement(p), request=request,
                 mean_logits=full.mean(0))


def maps_from_coarse_logits(
    logits: NDArray[np.floating], height: int, width: int, temperature: float = 1.0,
    upsampling: str = 'half_pixel', request: MapRequest = NO_MORE,
) -> UncertaintyMaps:
    """
    Reduce the passes at the logits' size, and upsample the logarithm of their mean.

    The mean probabilities at (h, w) are the softmax of the upsampled ``log p*``, no probability
    being below `LEAST_PROBABILITY`: of one pass these are those of `maps_from_logits`, and of
    several nearly so. Label, confidence, entropy, margin and `unknown` follow from them. Mutual
    information, at most the entropy, variation ratio and variance are upsampled as they are; the
    aleatoric part is what entropy leaves. Energy follows from the upsampled mean logits.
    """
    z = logits.astype(np.float64)
    p = _softmax(z, temperature)
    mean, mutual, variation, variance = _spread(
        p.mean(0), _disagreement(p), (height, width), upsampling)
    mean_logits = upsample_bilinear(z.mean(0), height, width, upsampling)
    return _maps(mean, mutual, variation, variance, request=request, mean_logits=mean_logits)


def _spread(
    mean: NDArray[np.float64], others: tuple[NDArray[np.float64], ...], plane: tuple[int, int],
    upsampling: str,
) -> tuple[NDArray[np.float64], ...]:
    """Upsample means by their logarithm, and mutual information in nats, variation, variance."""
    log_mean = np.log(np.maximum(mean, LEAST_PROBABILITY))
    full, mutual, variation, variance = (
        upsample_bilinear(values, *plane, upsampling) for values in (log_mean, *others))
    mean = _softmax(full[None], 1.0)[0]
    return mean, np.minimum(mutual, _entropy(mean, 0)), variation, variance


def _softmax(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    z = logits / temperature
    exponentials = np.exp(z - z.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def upsample_bilinear(
    values: NDArray[np.floating], height: int, width: int, upsampling: str = 'half_pixel'
) -> NDArray[np.float64]:
    """
    Resize the last two axes to (height, width), edges clamped, float64.

    As torch's interpolate(mode='bilinear'); 'align_corners' is its align_corners.
    """
    rows, columns = values.shape[-2:]
    y0, y1, fy = bilinear_taps(rows, height, upsampling)
    x0, x1, fx = bilinear_taps(columns, width, upsampling)
    v = values.astype(np.float64)
    v = v[..., y0, :] * (1 - fy)[:, None] + v[..., y1, :] * fy[:, None]
    return v[..., x0] * (1 - fx) + v[..., x1] * fx


def bilinear_taps(
    old: int, new: int, upsampling: str
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """
    Return where each of `new` pixels of a line comes from: both sources, share of the second.

    These are int, int and float64 of shape (new,); `upsampling` is 'half_pixel' or
    'align_corners'.
    """
    centre: NDArray[np.float64]
    if upsampling == 'align_corners':
        centre = np.arange(new, dtype=np.float64) * ((old - 1) / max(new - 1, 1))
    else:
        centre = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0.0)
    low = np.minimum(centre.astype(np.intp), old - 1)
    return low, np.minimum(low + 1, old - 1), centre - low
