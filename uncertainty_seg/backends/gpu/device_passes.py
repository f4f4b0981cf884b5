# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The passes of a frame on the device: split into calls of the head, their masks, their sums.

A head with statistics returns sums and not passes, and a surplus pass cannot be taken out of a
sum. A head that takes any number is therefore given no more passes than are left; a head with a
fixed number is given the last pass repeatedly, and what that adds is subtracted by one more call.

Masks stay in their buffers as long as the same masks come. Each call has buffers of its own,
because an engine takes aligned addresses only, and they keep their addresses, because CUDA graphs
are recorded with them. Masks of whole channels are a few kB, and copying them costs nothing; masks
of single elements are as large as the feature maps, for each pass. So numpy's Philox4x64-10 is
computed here in torch's integers: only the seed goes to the device, and every bit is the one that
`core.dropout_masks` draws.

From the sums to the maps the formulas are those of `core.uncertainty`, in torch and float32: seven
maps return to the host, whatever the number of passes and classes. Where no torch computes on the
device's memory, the sums return instead, and masks are drawn on the host.

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any
import zlib

import numpy as np

from uncertainty_seg.backends.gpu.device import DeviceMemory
from uncertainty_seg.backends.graph_files import STATISTICS, SUM_LOGITS
from uncertainty_seg.core.dropout_masks import (
    drops_channels,
    kept_channels,
    lazy_inputs,
    Masks,
    Rows,
)
from uncertainty_seg.core.model_card import DropoutSite, ModelCard
from uncertainty_seg.core.uncertainty import (
    LEAST_PROBABILITY,
    LOGIT_SCALE,
    MapRequest,
    maps_from_sums,
    NO_MORE,
    UncertaintyMaps,
)

_SUM_P, _SUM_ENTROPY, _SUM_P2, _VOTES = STATISTICS
_FLOAT_MAPS = 6
_ROUNDS, _WORDS = 10, 4
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ALL, _LOW, _SIGN = 2**64 - 1, 2**32 - 1, 2**63
# Counters at a time: their words take 2 MB, which stays in a GPU's cache.
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Part:
    """
    One call of the head.

    Attributes
    ----------
    first, stop : int
        Its passes of the T.
    size : int
        Passes that the head is given: beyond `stop` the last is repeated.
    counted : int
        Passes that its sums count for; negative if they are subtracted.
    share : float
        Factor of its sums.

    """

    first: int
    stop: int
    size: int
    counted: int
    share: float = 1.0


def split_passes(passes: int, limit: int, fixed: int = 0) -> tuple[Part, ...]:
    """
    Split T passes into calls of at most `limit` passes, or of exactly `fixed` if that is not 0.

    All parts have one size, unless T has no divisor between half of `limit` and `limit`: a call of
    another size would have to be recorded again in every frame.

    """
    if fixed:
        return _padded(passes, fixed)
    limit = max(1, min(limit, passes))
    divisors = [n for n in range(limit // 2 + 1, limit + 1) if passes % n == 0]
    calls = -(-passes // limit)
    size = divisors[-1] if divisors else -(-passes // calls)
    return tuple(_part(first, min(first + size, passes)) for first in range(0, passes, size))


def _part(first: int, stop: int) -> Part:
    return Part(first, stop, stop - first, stop - first)


def _padded(passes: int, size: int) -> tuple[Part, ...]:
    parts = [Part(first, min(first + size, passes), size, size)
             for first in range(0, passes, size)]
    extra = len(parts) * size - passes
    if extra:
        parts.append(Part(passes - 1, passes, size, -extra, -extra / size))
    return tuple(parts)


class SeededMasks(Mapping[str, Rows]):
    """The inputs of T passes, known by card and seed; drawn on the host only if they are read."""

    def __init__(self, card: ModelCard, passes: int, seed: int) -> None:
        self.card, self.passes, self.seed = card, passes, seed
        self._drawn: dict[str, Rows] = {}

    def __getitem__(self, name: str) -> Rows:
        if not self._drawn:
            self._drawn = lazy_inputs(self.card, self.passes, self.seed)
        return self._drawn[name]

    def __iter__(self) -> Iterator[str]:
        return (site.name for site in self.card.dropout_sites)

    def __len__(self) -> int:
        return len(self.card.dropout_sites)


class MaskBank:
    """
    Buffers for the masks of T passes.

    Attributes
    ----------
    buffers : list of dict of str to buffer
        For each part, a tensor of (part.size, *site.shape) for each site.

    """

    def __init__(self, card: ModelCard, parts: Sequence[Part], memory: DeviceMemory) -> None:
        self._card, self._parts, self._memory = card, parts, memory
        self.buffers: list[dict[str, Any]] = [
            {site.name: memory.empty((part.size, *site.shape), np.float32)
             for site in card.dropout_sites} for part in parts]
        self._staging: list[dict[str, Any]] = []
        # Kept, so that no other object can get the same identity.
        self._loaded: Masks | None = None

    def load(self, masks: Masks) -> None:
        """Enqueue the masks' way to the device, unless this same object was loaded last."""
        if masks is self._loaded:
            return
        self._loaded = None
        is_drawn = isinstance(masks, SeededMasks) and self._card.method == 'mc_dropout'
        if isinstance(masks, SeededMasks) and is_drawn and self._memory.computes:
            self._draw(masks)
        else:
            self._copy(masks)
        self._loaded = masks

    def clear(self) -> None:
        """Release all buffers; nothing can be loaded afterwards."""
        self.buffers, self._staging, self._loaded = [], [], None

    def _draw(self, masks: SeededMasks) -> None:
        import torch

        for part, buffers in zip(self._parts, self.buffers, strict=True):
            given = part.stop - part.first
            for site in self._card.dropout_sites:
                rows = buffers[site.name]
                if self._card.mask_draw == 'stratified' and drops_channels(site):
                    # They are drawn for all passes at once, and are a few kB.
                    rows[:given].copy_(torch.from_numpy(masks[site.name][part.first:part.stop]))
                else:
                    draw(site, masks.seed, part.first, part.stop, self._card.is_balanced,
                         rows[:given])
                if given < part.size:
                    rows[given:].copy_(rows[given - 1:given].expand_as(rows[given:]))

    def _copy(self, masks: Masks) -> None:
        """Copy through buffers that the device reads while the host goes on."""
        if not self._staging:
            self._staging = [{name: self._memory.host(tuple(buffer.shape), np.float32)
                              for name, buffer in buffers.items()} for buffers in self.buffers]
        for part, buffers, staging in zip(self._parts, self.buffers, self._staging, strict=True):
            given = part.stop - part.first
            for name, buffer in buffers.items():
                rows = staging[name].numpy()
                rows[:given] = masks[name][part.first:part.stop]
                rows[given:] = rows[given - 1]
                self._memory.copy(buffer, staging[name])


def draw(site: DropoutSite, seed: int, first: int, stop: int, is_balanced: bool, out: Any) -> None:
    """
    Draw the masks of the passes `first` to `stop` of a site, the same however they are split.

    Parameters
    ----------
    site, seed, is_balanced : DropoutSite, int, bool
        A site of an mc_dropout card, a seed of at least 0, and the card's kind of drawing.
    first, stop : int
        Which passes.
    out : torch.Tensor of float32, shape (stop - first, *site.shape)
        Filled, on any device.

    """
    if is_balanced and kept_channels(site) < site.shape[0]:
        _draw_balanced(site, seed, first, stop, out)
    else:
        _draw_independent(site, seed, first, stop, out)


def random_words(seed: int, name: str, first: int, stop: int, device: Any) -> Any:
    """
    Return words of the stream of a site's name, as numpy's `Philox.random_raw` gives them.

    The tensor of int64, shape (stop - first,), holds their bits: 2**63 and more look negative.

    """
    import torch

    # numpy steps the counter before it uses it.
    counters = torch.arange(first // _WORDS + 1, -(-stop // _WORDS) + 1, device=device)
    words = torch.stack(_philox(counters, (seed & _ALL, zlib.crc32(name.encode()))), 1).reshape(-1)
    skipped = first % _WORDS
    return words[skipped:skipped + stop - first]


def _draw_independent(site: DropoutSite, seed: int, first: int, stop: int, out: Any) -> None:
    flat, scale = out.view(-1), float(np.float32(1.0 / (1.0 - site.p)))
    size = flat.numel() // max(stop - first, 1)
    limit = _signed(int(site.p * 2.0**64) ^ _SIGN)
    begin, step = first * size, _BLOCK * _WORDS
    for done in range(0, flat.numel(), step):
        block = flat[done:done + step]
        words = random_words(seed, site.name, begin + done, begin + done + block.numel(),
                             out.device)
        # With the top bit turned over, signed integers compare as unsigned ones.
        block.copy_((words ^ _signed(_SIGN)) >= limit).mul_(scale)


def _draw_balanced(site: DropoutSite, seed: int, first: int, stop: int, out: Any) -> None:
    import torch

    channels, kept = site.shape[0], kept_channels(site)
    words = random_words(seed, site.name, first * channels, stop * channels, out.device)
    order = torch.argsort((words ^ _signed(_SIGN)).view(-1, channels), dim=1, stable=True)
    rows = out.view(-1, channels).zero_()
    rows.scatter_(1, order[:, channels - kept:], float(np.float32(channels / kept)))


def _philox(counters: Any, key: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """Return the four words of each counter, whose other three words are zero."""
    import torch

    zero = torch.zeros_like(counters)
    a, b, c, d = counters, zero, zero, zero
    key0, key1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _product(_MULTIPLIERS[0], a)
        high1, low1 = _product(_MULTIPLIERS[1], c)
        a, b, c, d = high1 ^ b ^ _signed(key0), low1, high0 ^ d ^ _signed(key1), low0
        key0, key1 = (key0 + _KEY_STEPS[0]) & _ALL, (key1 + _KEY_STEPS[1]) & _ALL
    return a, b, c, d


def _product(factor: int, values: Any) -> tuple[Any, Any]:
    """Return the upper and the lower 64 bits of an unsigned product."""
    upper, lower = factor >> 32, factor & _LOW
    value_upper, value_lower = _shifted(values), values & _LOW
    middle = value_lower * upper + _shifted(value_lower * lower)
    other = value_upper * lower + (middle & _LOW)
    high = value_upper * upper + _shifted(middle) + _shifted(other)
    return high, values * _signed(factor)


def _shifted(values: Any) -> Any:
    """Shift right by 32 bits without the sign."""
    return (values >> 32) & _LOW


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >= _SIGN else bits


def statistics_shapes(
    num_classes: int, plane: tuple[int, int], logits_shape: tuple[int, ...] | None
) -> dict[str, tuple[int, ...]]:
    """Return what a head gives and in which shape; see `DeviceReduction`."""
    shapes: dict[str, tuple[int, ...]] = {
        _SUM_P: (num_classes, *plane), _SUM_ENTROPY: plane, _SUM_P2: plane,
        _VOTES: (num_classes, *plane)}
    return shapes if logits_shape is None else {**shapes, SUM_LOGITS: logits_shape}


class DeviceReduction:
    """
    The sums over the passes of a frame, and the maps of them, enqueued on a memory's stream.

    `logits_shape` is (C, hl, wl), None for a head that does not give the sum of its logits;
    `summed` is the size (hl, wl) of the other sums if the reduction is coarse.

    """

    def __init__(
        self, num_classes: int, height: int, width: int, memory: DeviceMemory,
        logits_shape: tuple[int, ...] | None = None, upsampling: str = 'half_pixel',
        summed: tuple[int, int] | None = None,
    ) -> None:
        plane = (height, width)
        self._memory = memory
        self.shapes = statistics_shapes(num_classes, summed or plane, logits_shape)
        self._upsampling = upsampling
        self._more: dict[str, Any] = {}  # buffers of the host, made when a map is asked for first
        self._request = NO_MORE
        self._sums = {name: memory.empty(shape, np.float32)
                      for name, shape in self.shapes.items()}
        self._floats = memory.empty((_FLOAT_MAPS, *plane), np.float32)
        self._labels = memory.empty(plane, np.uint8)
        self._host_floats = memory.host((_FLOAT_MAPS, *plane), np.float32)
        self._host_labels = memory.host(plane, np.uint8)
        self._passes = 0
        self._features: list[tuple[Any, Any]] = []

    def take_features(self, features: Sequence[Any]) -> None:
        """Copy these tensors of float32 (at most one) to the host with the maps of each frame."""
        self._features = [(one, self._memory.host(tuple(one.shape), np.float32))
                          for one in features]

    def reset(self) -> None:
        """Begin a frame."""
        self._passes = 0

    def add(self, statistics: Mapping[str, Any], passes: int, share: float = 1.0) -> None:
        """
        Add the sums of some passes.

        Parameters
        ----------
        statistics : mapping of str to torch.Tensor
            All of `STATISTICS`, in `shapes`.
        passes : int
            How many passes this adds to T; negative if it subtracts.
        share : float
            Factor of the sums.

        """
        for name, total in self._sums.items():
            if self._passes == 0:
                total.zero_()
            total.add_(statistics[name], alpha=share)
        self._passes += passes

    def enqueue_finish(self, request: MapRequest = NO_MORE) -> None:
        """Compute the maps, those of the request too, and start to copy them to the host."""
        write_maps(self._sums, self._passes, self._labels, self._floats, self._upsampling)
        self._memory.copy(self._host_labels, self._labels)
        self._memory.copy(self._host_floats, self._floats)
        for features, host in self._features:
            self._memory.copy(host, features)
        self._request = request
        more = more_maps(self._sums, self._passes, request, self._labels.shape, self._upsampling)
        for name, values in more.items():
            if name not in self._more:
                self._more[name] = self._memory.host(tuple(values.shape), np.float32)
            self._memory.copy(self._more[name], values)

    def maps(self) -> UncertaintyMaps:
        """Return the maps after the stream was waited for, as arrays of their own."""
        floats = self._host_floats.numpy().copy()
        maps = UncertaintyMaps(self._host_labels.numpy().copy(), *floats, **{
            name: self._more[name].numpy().copy() for name in self._request.names})
        for _, host in self._features:
            maps = maps.with_features(host.numpy().copy())
        return maps


class HostReduction:
    """
    The same on the host, in numpy, for memory on which nothing but engines computes.

    The sums of each call are copied to a place of their own; what they add up to is computed when
    the stream was waited for. More is transferred than maps: for each call of the head 2 C + 2
    planes.

    """

    def __init__(
        self, num_classes: int, height: int, width: int, memory: DeviceMemory,
        logits_shape: tuple[int, ...] | None = None, upsampling: str = 'half_pixel',
        summed: tuple[int, int] | None = None,
    ) -> None:
        self._memory, self._plane, self._upsampling = memory, (height, width), upsampling
        self.shapes = statistics_shapes(num_classes, summed or self._plane, logits_shape)
        self._landed: list[dict[str, Any]] = []  # for each call of a frame
        self._calls: list[tuple[int, float]] = []  # passes and share of each
        self._request = NO_MORE
        self._features: list[tuple[Any, Any]] = []

    def take_features(self, features: Sequence[Any]) -> None:
        """Copy these buffers of float32 (at most one) to the host with the maps of each frame."""
        self._features = [(one, self._memory.host(tuple(one.shape), np.float32))
                          for one in features]

    def reset(self) -> None:
        """Begin a frame."""
        self._calls = []

    def add(self, statistics: Mapping[str, Any], passes: int, share: float = 1.0) -> None:
        """Enqueue copies of the sums of some passes; see `DeviceReduction.add`."""
        index = len(self._calls)
        if index == len(self._landed):
            self._landed.append({name: self._memory.host(shape, np.float32)
                                 for name, shape in self.shapes.items()})
        for name, landed in self._landed[index].items():
            self._memory.copy(landed, statistics[name])
        self._calls.append((passes, share))

    def enqueue_finish(self, request: MapRequest = NO_MORE) -> None:
        """Start to copy features to the host; remember what is asked for."""
        self._request = request
        for features, host in self._features:
            self._memory.copy(host, features)

    def maps(self) -> UncertaintyMaps:
        """Compute the maps after the stream was waited for."""
        sums = {name: np.zeros(shape) for name, shape in self.shapes.items()}
        for landed, (_, share) in zip(self._landed, self._calls, strict=False):
            for name, total in sums.items():
                total += share * landed[name].numpy()
        maps = maps_from_sums(sums, sum(passes for passes, _ in self._calls), self._plane,
                              self._upsampling, self._request)
        for _, host in self._features:
            maps = maps.with_features(host.numpy().copy())
        return maps


def write_maps(
    sums: Mapping[str, Any], passes: int, labels: Any, floats: Any,
    upsampling: str = 'half_pixel',
) -> None:
    """
    Compute the maps from the sums over all passes.

    Parameters
    ----------
    sums : mapping of str to torch.Tensor
        All of `STATISTICS`, of the maps' size or coarser.
    passes : int
        T.
    labels : torch.Tensor of uint8, shape (h, w)
        Filled.
    floats : torch.Tensor of float32, shape (6, h, w)
        Filled with the other maps, in the order of `UncertaintyMaps`. NaN in a sum is NaN in
        every one: `clamp` and `max` of torch pass it on as numpy's do.
    upsampling : str
        One of `core.model_card.UPSAMPLINGS`, from coarse sums.

    """
    import torch

    # What was added and subtracted again can leave a little less than zero.
    mean = (sums[_SUM_P] / passes).clamp_(min=0)
    scale = 1.0 / math.log(len(mean))
    entropy = torch.special.entr(mean).sum(0)
    mutual = (entropy - sums[_SUM_ENTROPY] / passes).clamp_(min=0)
    # A pass of NaN has a vote too, but its entropy is NaN.
    variation = (1 - sums[_VOTES].amax(0) / passes).clamp_(min=0)
    variation = torch.where(torch.isnan(sums[_SUM_ENTROPY]), torch.nan, variation)
    # Mean of squares less square of the mean: rounding alone can take it below zero.
    variance = (sums[_SUM_P2] / passes - (mean * mean).sum(0)).clamp_(min=0)
    if mean.shape[1:] != labels.shape:
        spread = torch.stack((mutual, variation, variance))
        mutual, variation, variance = _upsampled(spread, labels.shape, upsampling)
        mean = _coarse_mean(mean, labels.shape, upsampling)
        mean = torch.where(torch.isnan(mutual), torch.nan, mean)
        entropy = torch.special.entr(mean).sum(0)
        mutual = torch.minimum(mutual, entropy)
    labels.copy_(mean.argmax(0))
    for target, values in zip(floats, (
        mean.amax(0).clamp_(max=1), (entropy * scale).clamp_(0, 1), mutual * scale, variation,
        variance, (entropy - mutual) * scale,
    ), strict=True):
        target.copy_(values)


def more_maps(
    sums: Mapping[str, Any], passes: int, request: MapRequest, plane: tuple[int, int],
    upsampling: str,
) -> dict[str, Any]:
    """
    Compute the maps of a request from the sums over all passes.

    Parameters
    ----------
    sums : mapping of str to torch.Tensor
        `STATISTICS`, and `SUM_LOGITS` if a map of logits is asked for.
    passes : int
        T.
    request : MapRequest
        What is wanted.
    plane : (int, int)
        (h, w).
    upsampling : str
        One of `core.model_card.UPSAMPLINGS`.

    Returns
    -------
    dict of str to torch.Tensor of float32, shape (h, w)
        The maps by name; NaN where a sum is.

    """
    import torch

    found = {}
    if request.of_means:
        mean = (sums[_SUM_P] / passes).clamp_(min=0)
        if mean.shape[1:] != plane:
            mean = _coarse_mean(mean, plane, upsampling)
        first, second = mean.topk(2, 0).values  # NaN counts as the largest
        softened = mean ** (1 / request.unknown_temperature)
        softened = softened / softened.sum(0)
        found = {'margin': 1 - (first - second),
                 'unknown': torch.special.entr(softened).sum(0) / math.log(len(mean))}
    if request.of_logits:
        z = _upsampled(sums[SUM_LOGITS] / passes, plane, upsampling)
        z = torch.where(torch.isfinite(z), z, torch.nan)
        found |= {'energy': torch.sigmoid(-torch.logsumexp(z, 0) / LOGIT_SCALE),
                  'max_logit': torch.sigmoid(-z.amax(0) / LOGIT_SCALE)}
    return {name: values for name, values in found.items() if name in request.names}


def _upsampled(planes: Any, plane: tuple[int, int], upsampling: str) -> Any:
    import torch

    return torch.nn.functional.interpolate(
        planes[None], plane, mode='bilinear', align_corners=upsampling == 'align_corners')[0]


def _coarse_mean(mean: Any, plane: tuple[int, int], upsampling: str) -> Any:
    """Return mean probabilities (C, h, w) of those at the size of the logits."""
    return _upsampled(mean.clamp(min=LEAST_PROBABILITY).log(), plane, upsampling).softmax(0)
