# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The masks of `core.dropout_masks`, drawn where they are used.

Masks of whole channels are a few kB, and copying them costs nothing. Masks of single elements are
as large as the feature maps, for each pass. Here numpy's Philox4x64-10 is computed in torch's
integers, so that only the seed goes to the device and every bit is the one that numpy draws.

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
import zlib

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.dropout_masks import kept_channels, pass_inputs
from uncertainty_seg.core.model_card import DropoutSite, ModelCard

_ROUNDS, _WORDS = 10, 4
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ALL, _LOW, _SIGN = 2**64 - 1, 2**32 - 1, 2**63
# Counters at a time: their words take 2 MB, which stays in a GPU's cache.
_BLOCK = 1 << 16


class SeededMasks(Mapping[str, NDArray[np.float32]]):
    """
    The inputs of T passes, told by their seed; drawn on the host only if they are looked at.

    Parameters
    ----------
    card : ModelCard
        Its method and sites.
    passes : int
        T, at least 1.
    seed : int
        At least 0.

    """

    def __init__(self, card: ModelCard, passes: int, seed: int) -> None:
        self.card, self.passes, self.seed = card, passes, seed
        self._drawn: dict[str, NDArray[np.float32]] = {}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if not self._drawn:
            self._drawn = pass_inputs(self.card, self.passes, self.seed)
        return self._drawn[name]

    def __iter__(self) -> Iterator[str]:
        return (site.name for site in self.card.dropout_sites)

    def __len__(self) -> int:
        return len(self.card.dropout_sites)


def draw(site: DropoutSite, seed: int, first: int, stop: int, is_balanced: bool, out: Any) -> None:
    """
    Draw the masks of some passes of a site.

    Parameters
    ----------
    site : DropoutSite
        One of an mc_dropout card.
    seed : int
        At least 0.
    first, stop : int
        Which passes; each has the same masks however they are split.
    is_balanced : bool
        As the card's.
    out : torch.Tensor of float32, shape (stop - first, *site.shape)
        Filled, on any device.

    """
    if is_balanced and kept_channels(site) < site.shape[0]:
        _draw_balanced(site, seed, first, stop, out)
    else:
        _draw_independent(site, seed, first, stop, out)


def random_words(seed: int, name: str, first: int, stop: int, device: Any) -> Any:
    """
    Return some words of a site's stream, as numpy's `Philox.random_raw` gives them.

    Parameters
    ----------
    seed : int
        At least 0.
    name : str
        The site's.
    first, stop : int
        Which words of the stream.
    device : torch.device
        Where to.

    Returns
    -------
    torch.Tensor of int64, shape (stop - first,)
        Their bits; those of 2**63 and more look negative.

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
    """Return the upper and the lower 64 bits of an unsigned product; torch keeps the lower."""
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
