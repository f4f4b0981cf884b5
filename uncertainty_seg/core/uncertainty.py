# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From T passes to uncertainty maps: sums over the passes, and the maps computed from them.

`sums_of_logits` defines the sums, in float64: it is the oracle of the tests, which compare the
graph `passes.onnx` with it on every runtime. Everything else is computed here, for all runtimes
alike: maps at the grid of the sums (`grid_maps`), for scores and gate, and maps of the image
(`image_maps`), each computed on first use.
"""

from __future__ import annotations

from collections.abc import Callable
import copy
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import FloatMap, LabelMap
from uncertainty_seg.core.grid import cells, Grid, sample_beside
from uncertainty_seg.errors import ConfigError, ShapeError

Floats = NDArray[np.floating]
MAP_NAMES = (
    'entropy', 'mutual_information', 'variation_ratio', 'total_variance', 'aleatoric',
    'least_confidence', 'margin', 'unknown', 'energy',
)
# Divisor of the energy before it is mapped into 0..1: logits of trained networks lie within about
# 30 of each other, and without it nearly all pixels would become 0.
LOGIT_SCALE = 8.0
# The smallest normal float32: smaller values are raised to it before a logarithm is taken.
LEAST_PROBABILITY = 2.0**-126
Strangeness: TypeAlias = Callable[[], FloatMap]
_Of = TypeVar('_Of', bound=np.generic)
_T = TypeVar('_T')


class _Lazy(Generic[_T]):
    """
    A property that is computed on first use.

    It replaces functools.cached_property, which before Python 3.12 locks all instances while one
    is computed: the verdict of a frame would wait for the pictures of the frame before.
    """

    def __init__(self, compute: Callable[[Any], _T]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> _T:
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


@dataclass(frozen=True)
class PassSums:
    """
    Sums over T passes at the grid (hg, wg) of C classes, float32; NaN where a logit was NaN.

    `p` and `votes` (C, hg, wg): the probabilities, and the number of passes in which each class
    has the largest one (the first of equals). `entropy_nats` and `p_squared` (hg, wg): summed over
    the classes too. `logits` (C, hg, wg): not yet divided by the `temperature` of the passes, and
    at the centres of the logits wherever the grid lies. `features` is the trunk's output
    `feature_map` (1, D, hf, wf), if it has one.
    """

    passes: int
    p: FloatMap
    entropy_nats: FloatMap
    p_squared: FloatMap
    votes: FloatMap
    logits: FloatMap
    temperature: float = 1.0
    features: FloatMap | None = None

    @_Lazy
    def mean(self) -> Floats:
        """Return the mean probabilities (C, hg, wg)."""
        return self.p / self.p.dtype.type(self.passes)

    @_Lazy
    def nats_of_mean(self) -> Floats:
        """Return the entropy of the mean probabilities (hg, wg), in nats."""
        return _entropy(self.mean, 0)


class UncertaintyMaps:
    """
    All maps of one frame, each (h, w) and computed on first use.

    Every map except `label` and `confidence` grows with uncertainty. NaN means that a pass gave
    no number for the pixel; it is never replaced.

    Parameters
    ----------
    mean : ndarray of floats, shape (C, h, w)
        The mean probabilities of the passes.
    mutual_information, variation_ratio, total_variance : ndarray of floats, shape (h, w)
        As the properties of these names.
    logits : ndarray of floats, shape (C, h, w)
        The mean logits, before the temperature.
    temperature : float
        Divisor of the logits in the passes.
    features : ndarray of float32, shape (1, D, hf, wf), optional
        The trunk's output `feature_map`; not a map.
    strangeness : callable, optional
        Computes how far the features are from training images, (h, w): 0 or more, and 1 on
        average over training images. The map `unknown` uses it.

    References
    ----------
    Gal, Islam and Ghahramani, 2017, arXiv:1703.02910 (mutual information); Liu et al., 2020,
    arXiv:2010.03759 (energy); Lee et al., 2018, arXiv:1807.03888 (distances of features).

    """

    def __init__(
        self, mean: Floats, mutual_information: Floats, variation_ratio: Floats,
        total_variance: Floats, logits: Floats, temperature: float = 1.0,
        features: FloatMap | None = None, strangeness: Strangeness | None = None,
    ) -> None:
        self.mean, self.logits, self.temperature = mean, logits, temperature
        self.features = features
        self._mutual, self._variation = mutual_information, variation_ratio
        self._variance, self._strangeness = total_variance, strangeness
        # If these maps are a part of others: cuts `unknown` from theirs.
        self._cut_unknown: Strangeness | None = None
        # Which classes the mask may show, bool (C,); None for all.
        self.shown: NDArray[np.bool_] | None = None

    @_Lazy
    def label(self) -> LabelMap:
        """Class with the largest mean probability of those shown, uint8; the lowest of equals."""
        return _likeliest(self.mean, self.shown)

    @_Lazy
    def confidence(self) -> FloatMap:
        """Largest mean probability, 1/C..1."""
        return _float32(self.mean.max(0))

    @_Lazy
    def entropy(self) -> FloatMap:
        """Entropy of the mean probabilities over ln C, 0..1."""
        return _float32(_entropy(self.mean, 0) / np.log(len(self.mean)))

    @_Lazy
    def mutual_information(self) -> FloatMap:
        """Entropy minus the mean entropy of the passes, over ln C, 0..1."""
        return _float32(self._mutual)

    @_Lazy
    def variation_ratio(self) -> FloatMap:
        """Share of passes that do not vote for the most voted class."""
        return _float32(self._variation)

    @_Lazy
    def total_variance(self) -> FloatMap:
        """Sum over classes of the population variance over passes."""
        return _float32(self._variance)

    @_Lazy
    def aleatoric(self) -> FloatMap:
        """Mean entropy of the passes over ln C, 0..1: the rest of the entropy."""
        return np.maximum(self.entropy - self.mutual_information, np.float32(0))

    @_Lazy
    def least_confidence(self) -> FloatMap:
        """1 minus the largest mean probability, 0..1 - 1/C."""
        return np.float32(1) - self.confidence

    @_Lazy
    def margin(self) -> FloatMap:
        """1 minus the difference of the two largest mean probabilities, 0..1."""
        first, second = np.maximum(*self.mean[:2]), np.minimum(*self.mean[:2])
        # It takes a tenth of the time of np.partition; both propagate NaN.
        for values in self.mean[2:]:
            second = np.maximum(second, np.minimum(first, values))
            first = np.maximum(first, values)
        return _float32(1 - (first - second))

    @_Lazy
    def unknown(self) -> FloatMap:
        """
        1 / (1 + exp(E / 8) / s), 0..1, with E of `energy` and s the strangeness.

        Without features of the trunk it equals `energy`.
        """
        if self._cut_unknown is not None:
            return self._cut_unknown()
        if self._strangeness is None:
            return self.energy
        strangeness = np.maximum(self._strangeness(), np.float32(LEAST_PROBABILITY))
        return _squashed(self._free_energy / LOGIT_SCALE - np.log(strangeness))

    @_Lazy
    def energy(self) -> FloatMap:
        """
        1 / (1 + exp(E / 8)), 0..1.

        E is the logarithm of the sum of exp(z) over the classes; z are the mean logits over the
        passes, before any temperature.
        """
        return _squashed(self._free_energy / LOGIT_SCALE)

    @_Lazy
    def _free_energy(self) -> Floats:
        """Return the E of `energy`, (h, w)."""
        z, largest = self.logits, self.logits.max(0)
        if not np.isfinite(z.sum()):
            z = np.where(np.isfinite(z), z, np.nan)
            largest = z.max(0)
        return np.asarray(largest + np.log(np.exp(z - largest).sum(0)))

    def of(self, name: str) -> FloatMap:
        """Return a map by its name, one of `MAP_NAMES` or 'confidence'; raises ConfigError."""
        if name not in (*MAP_NAMES, 'confidence'):
            raise ConfigError(f'no map {name!r}', f'one of {", ".join(MAP_NAMES)}')
        values: FloatMap = getattr(self, name)
        return values

    def cut(self, rows: slice, columns: slice) -> UncertaintyMaps:
        """Return a part of every map, and of the features whose centres lie in it."""
        height, width = self.mean.shape[-2:]
        if rows.indices(height) == (0, height, 1) and columns.indices(width) == (0, width, 1):
            return self
        features = self.features
        if features is not None:
            features = features[..., cells(rows, height, features.shape[-2]),
                                cells(columns, width, features.shape[-1])]
        where = (..., rows, columns)
        part = UncertaintyMaps(
            self.mean[where], self.mutual_information[where], self.variation_ratio[where],
            self.total_variance[where], self.logits[where], self.temperature, features)
        part._cut_unknown = lambda: self.unknown[where]
        part.shown = self.shown
        return part

    def leave_out_specks(self, least: float, rows: slice, columns: slice, grid: Grid) -> None:
        """
        Remove classes from the mask that cover less than a share of a part of the image.

        Their pixels get the most likely of the other classes; only `label` changes. If no class
        covers that share, all stay.
        """
        if least <= 0:
            return
        label = self.label[grid.part(rows, columns)]
        shown = np.bincount(label.ravel(), minlength=len(self.mean)) >= least * label.size
        if shown.any():
            self.shown, self.label = shown, _likeliest(self.mean, shown)

    def inside(self, rows: slice, columns: slice, grid: Grid) -> UncertaintyMaps:
        """Return the part of maps at a grid that lies in a part of the image, with features."""
        part = self.cut(*grid.part(rows, columns))
        if self.features is None:
            return part
        # Cut by the image: rounding to the grid first would select other cells at the border.
        part = copy.copy(part)
        part.features = self.features[
            ..., cells(rows, grid.height, self.features.shape[-2]),
            cells(columns, grid.width, self.features.shape[-1])]
        return part


class SpreadMaps(UncertaintyMaps):
    """
    Maps at a grid, upsampled to maps of the image (h, w).

    The mean probabilities of the image are the softmax of the upsampled logarithms of those at the
    grid; for one pass they equal the network's own. Mutual information, variation ratio, variance,
    mean logits and the map `unknown` are upsampled directly.
    """

    def __init__(self, of: UncertaintyMaps, grid: Grid) -> None:
        self._of, self._grid = of, grid
        self.temperature, self.features = of.temperature, of.features
        self.shown = of.shown

    @_Lazy
    def _log_mean(self) -> Floats:
        least = self._of.mean.dtype.type(LEAST_PROBABILITY)
        log_mean = np.log(np.maximum(self._of.mean, least))
        if not any(self._grid.offset):
            return self._grid.spread(log_mean)
        # The samples beside the centres alone would give a blurred mask. So their component along
        # the mean logits is replaced by that of the logits at the centres; the rest is upsampled.
        centres = _centred(self._of.logits / least.dtype.type(self.temperature))
        beside, log_mean = sample_beside(centres, self._grid.offset), _centred(log_mean)
        share = np.clip((log_mean * beside).sum(0) / np.maximum((beside * beside).sum(0), least),
                        0, 1)
        return self._grid.spread(share) * replace(self._grid, offset=(0.0, 0.0)).spread(centres) \
            + self._grid.spread(log_mean - share * beside)

    @_Lazy
    def mean(self) -> Floats:
        """Return the mean probabilities (C, h, w)."""
        return _softmax(self._log_mean[None], 1.0)[0]

    @_Lazy
    def label(self) -> LabelMap:
        """Class with the largest mean probability of those shown, uint8; the lowest of equals."""
        return _likeliest(self._log_mean, self.shown)

    @_Lazy
    def logits(self) -> Floats:
        """Return the mean over the passes of the logits, (C, h, w)."""
        return replace(self._grid, offset=(0.0, 0.0)).spread(self._of.logits)

    @_Lazy
    def entropy(self) -> FloatMap:
        """Entropy of the mean probabilities over ln C, 0..1; not below the mutual information."""
        entropy = _float32(_entropy(self.mean, 0) / np.log(len(self.mean)))
        # For sharp logits and a grid with an offset, half of the image's entropy was measured.
        return np.maximum(entropy, self.mutual_information) if any(self._grid.offset) else entropy

    @_Lazy
    def unknown(self) -> FloatMap:
        """Upsampled from the grid: logits of the image's size would take ten times as long."""
        return _float32(replace(self._grid, offset=(0.0, 0.0)).spread(self._of.unknown))

    @_Lazy
    def mutual_information(self) -> FloatMap:
        """Entropy minus the mean entropy of the passes, over ln C, 0..1."""
        return _float32(self._grid.spread(self._of.mutual_information))

    @_Lazy
    def variation_ratio(self) -> FloatMap:
        """Share of passes that do not vote for the most voted class."""
        return _float32(self._grid.spread(self._of.variation_ratio))

    @_Lazy
    def total_variance(self) -> FloatMap:
        """Sum over classes of the population variance over passes."""
        return _float32(self._grid.spread(self._of.total_variance))


def grid_maps(sums: PassSums, strangeness: Strangeness | None = None) -> UncertaintyMaps:
    """Return the maps (hg, wg) of sums over T passes; NaN where a sum is NaN."""
    passes, mean = sums.p.dtype.type(sums.passes), sums.mean
    nats = mean.dtype.type(np.log(len(mean)))
    # Only rounding can make these values negative; np.maximum propagates NaN.
    mutual = np.maximum(sums.nats_of_mean - sums.entropy_nats / passes, 0) / nats
    variation = np.maximum(1 - sums.votes.max(0) / passes, 0)
    variation = np.where(np.isnan(sums.entropy_nats), np.nan, variation)
    variance = np.maximum(sums.p_squared / passes - (mean * mean).sum(0), 0)
    maps = UncertaintyMaps(mean, mutual, variation, variance, sums.logits / passes,
                           sums.temperature, sums.features, strangeness)
    maps.entropy = _float32(sums.nats_of_mean / np.log(len(mean)))
    return maps


def image_maps(maps: UncertaintyMaps, grid: Grid) -> UncertaintyMaps:
    """Return maps of the image from maps at a grid, each computed on first use."""
    return maps if grid.is_image else SpreadMaps(maps, grid)


def sums_of_logits(
    logits: Floats, temperature: float = 1.0, offset: tuple[float, float] = (0.0, 0.0)
) -> PassSums:
    """
    Return the sums over passes of logits (T, C, hl, wl), at an offset from their centres.

    They are float64; the logits themselves are summed at the centres. Raises ShapeError if there
    is no pass, or there are fewer than two classes.
    """
    if logits.ndim != 4 or logits.shape[0] < 1 or logits.shape[1] < 2:
        raise ShapeError(f'logits have shape {logits.shape}', '(T >= 1, C >= 2, hl, wl)')
    z = sample_beside(logits.astype(np.float64), offset)
    p = _softmax(z, temperature)
    # The first of equal classes has the vote, as in an argmax; NaN has none.
    is_first = z.argmax(1)[:, None] == np.arange(z.shape[1])[:, None, None]
    votes = (is_first & (z == z.max(1, keepdims=True))).sum(0, dtype=np.float64)
    return PassSums(len(z), p.sum(0), _entropy(p, 1).sum(0), (p * p).sum((0, 1)), votes,
                    logits.sum(0, dtype=np.float64), temperature)


def _squashed(x: Floats) -> FloatMap:
    """Return 1 / (1 + exp(x)), without an overflow."""
    return _float32(0.5 - 0.5 * np.tanh(0.5 * x))


def _likeliest(values: Floats, shown: NDArray[np.bool_] | None) -> LabelMap:
    """Return the shown class (h, w) of the largest value of (C, h, w), or of the first NaN."""
    if shown is not None and not shown.all():
        values = np.where(shown[:, None, None], values, -np.inf)
    # Class by class: numpy's argmax of a first axis takes five times as long.
    largest, label = values[0], np.zeros(values.shape[1:], np.uint8)
    for index, one in enumerate(values[1:], 1):
        np.copyto(label, np.uint8(index), where=one > largest)
        largest = np.maximum(largest, one)
    return values.argmax(0).astype(np.uint8) if np.isnan(largest).any() else label


def _centred(logits: Floats) -> Floats:
    """Subtract the mean over the classes, which does not change a softmax."""
    return logits - logits.mean(0)


def _entropy(p: NDArray[_Of], axis: int) -> NDArray[_Of]:
    # The bound, which only avoids the logarithm of 0, keeps NaN.
    return -(p * np.log(np.maximum(p, p.dtype.type(LEAST_PROBABILITY)))).sum(axis)


def _softmax(logits: Floats, temperature: float) -> Floats:
    z = logits / logits.dtype.type(temperature)
    exponentials = np.exp(z - z.max(1, keepdims=True))
    exponentials /= exponentials.sum(1, keepdims=True)
    return exponentials


def _float32(values: Floats) -> FloatMap:
    return values.astype(np.float32, copy=False)
