# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The inputs that make the passes of a frame differ; one seed gives the same inputs everywhere.

For dropout they are masks. Each site draws from its own stream, so that it keeps its masks when
another site is added, and pass by pass, so that the first t passes do not depend on T. Only
stratified masks depend on T: each channel of a site is dropped in the same number of passes up to
rounding, in an order independent of other channels, so that no channel is over-represented. They
are for whole channels; a site of elements has so many that they average out. A site of noise draws
standard normal numbers in the same way; those of `direct` are the same in every pass, so that only
the masks make passes differ. For a deep ensemble the inputs are the rows that select a member; a
single pass has no such inputs.

Masks of whole channels take a few kB. Masks of elements are as large as the feature maps in each
pass; `LazyRows` draw only the passes that are read, so that memory does not grow with T.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import math
from typing import TypeAlias
import zlib

import numpy as np
from numpy.typing import DTypeLike, NDArray

from uncertainty_seg.core.model_card import DropoutSite, ModelCard
from uncertainty_seg.errors import ConfigError

MEMBER = 'member'
PassInputs = dict[str, NDArray[np.float32]]
_TEICHROEW = (0.029899776, 0.008355968, 0.076542912, 0.252408784, 3.949846138)
_BLOCK = 1 << 16  # words at a time: they stay in the cache between drawing and comparing
_COUNTER_WORDS = 4  # words that Philox generates per counter value
# Masks of a site that need more bytes than this in all passes together are drawn when read.
LAZY_BYTES = 4 * 2**20


class LazyRows:
    """Masks (T, *site.shape) as `make_masks` returns them; reading passes draws these alone."""

    dtype = np.dtype(np.float32)

    def __init__(self, site: DropoutSite, passes: int, seed: int) -> None:
        self.shape = (passes, *site.shape)
        self._site, self._seed = site, seed

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        first, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f'every {step}th pass, expected passes that follow one another')
        return _independent_masks(self._site, first, max(first, stop), self._seed)

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[np.float32]:
        """Draw the masks of all passes, for a backend that needs an array."""
        return self[:]


Rows: TypeAlias = NDArray[np.float32] | LazyRows
Masks: TypeAlias = Mapping[str, Rows]


def pass_inputs(card: ModelCard, passes: int, seed: int) -> PassInputs:
    """
    Return the inputs of a bundle's head, apart from the trunk's outputs, for T passes.

    Masks and noise (T, *site.shape), or for an ensemble `member`: one row per pass with a single
    1. T is the number of members of an ensemble, and 1 if all passes would be equal. Raises
    ConfigError if `passes` or `seed` is out of range, or does not fit the card.
    """
    return {name: rows[:] for name, rows in lazy_inputs(card, passes, seed).items()}


def lazy_inputs(card: ModelCard, passes: int, seed: int) -> dict[str, Rows]:
    """Return the inputs of `pass_inputs`, large ones as `LazyRows`; raises the same errors."""
    _require(passes, seed)
    if card.has_one_pass and passes != 1:
        raise ConfigError(f'passes is {passes}', f'1: {card.name!r} has no dropout, so that all '
                          'passes would be equal', 'leave passes at -1')
    if card.method == 'direct':
        return {**_drawn(card.mask_sites, passes, seed, card.mask_draw),
                **_samples(card.noise_sites[0], passes, seed)}
    if card.method != 'deep_ensemble':
        return _drawn(card.dropout_sites, passes, seed, card.mask_draw)
    if passes != card.members:
        raise ConfigError(f'passes is {passes}', f'the {card.members} members of {card.name!r}',
                          'leave passes at -1')
    return {MEMBER: np.eye(card.members, dtype=np.float32)}


def still_inputs(card: ModelCard, passes: int) -> PassInputs:
    """
    Return inputs, float32 (passes, *site.shape), that make all passes equal.

    Noise is zero, masks are ones, and the member of an ensemble is the first.
    """
    _require(passes, 0)
    still = {site.name: np.zeros((passes, *site.shape), np.float32) for site in card.noise_sites}
    ones = ones_masks(card.mask_sites, passes)
    if card.members:
        first_member = np.eye(1, card.members, dtype=np.float32)
        ones[MEMBER] = np.repeat(first_member, passes, axis=0)
    return {**ones, **still}


def make_masks(
    sites: Iterable[DropoutSite], passes: int, seed: int, mask_draw: str = 'independent',
) -> PassInputs:
    """
    Draw the masks and the noise of T passes, float32 (T, *site.shape), the same on every machine.

    A mask is 0 where dropped, else 1 / (1 - p). `mask_draw` is one of `MASK_DRAWS`, for the sites
    that drop channels. Raises ConfigError if `passes` is below 1 or `seed` below 0.
    """
    _require(passes, seed)
    drawn = _drawn(sites, passes, seed, mask_draw)
    return {name: rows[:] for name, rows in drawn.items()}


def ones_masks(sites: Iterable[DropoutSite], passes: int) -> PassInputs:
    """
    Return masks that switch dropout off: every pass is the deterministic network.

    Large masks are read-only views of a single value.
    """
    _require(passes, 0)
    ones = {site.name: np.broadcast_to(np.float32(1), (passes, *site.shape)) for site in sites}
    return {name: rows if rows.nbytes > LAZY_BYTES else rows.copy() for name, rows in ones.items()}


def num_passes(inputs: Masks) -> int:
    """Return T of the inputs from `pass_inputs`; 1 if there are none."""
    return len(next(iter(inputs.values()), (0,)))


def has_free_seed(card: ModelCard) -> bool:
    """Return whether the inputs depend on the seed; the selection of a member does not."""
    return any(site.name != MEMBER for site in card.dropout_sites)


def drops_channels(site: DropoutSite) -> bool:
    """Return whether a site drops whole channels, so that its masks can be stratified."""
    return site.kind == 'mask' and site.name != MEMBER and all(n == 1 for n in site.shape[1:])


def fitting_draw(sites: Iterable[DropoutSite]) -> str:
    """Return the `mask_draw` of a new card: 'stratified' if a site drops whole channels."""
    return 'stratified' if any(map(drops_channels, sites)) else 'independent'


def frame_seed(seed: int, stamp_ns: int) -> int:
    """Mix the seed with a frame's stamp, for the mask policy 'per_frame'."""
    return zlib.crc32(f'{seed}:{stamp_ns}'.encode())


def _drawn(
    sites: Iterable[DropoutSite], passes: int, seed: int, mask_draw: str
) -> dict[str, Rows]:
    return {site.name: _rows(site, passes, seed, mask_draw) for site in sites}


def _rows(site: DropoutSite, passes: int, seed: int, mask_draw: str) -> Rows:
    if site.kind == 'noise':
        return _noise(site, passes, seed)
    if mask_draw == 'stratified' and drops_channels(site):
        return _stratified_masks(site, passes, seed)
    if LazyRows.dtype.itemsize * passes * math.prod(site.shape) > LAZY_BYTES:
        return LazyRows(site, passes, seed)
    return _independent_masks(site, 0, passes, seed)


def _stream(site: DropoutSite, seed: int) -> np.random.Philox:
    # Philox is counter-based, and numpy's stream policy freezes its `random_raw`. The uint64 words
    # are compared as integers, so that no rounding rule of a later numpy can change a mask.
    return np.random.Philox(key=[seed & (2**64 - 1), zlib.crc32(site.name.encode())])


def _independent_masks(
    site: DropoutSite, first_pass: int, stop_pass: int, seed: int
) -> NDArray[np.float32]:
    stream = _stream(site, seed)
    # Skip earlier passes: whole counter values by `advance`, remaining words by drawing them.
    counters, words = divmod(first_pass * math.prod(site.shape), _COUNTER_WORDS)
    stream.advance(counters)
    stream.random_raw(words)
    limit, scale = np.uint64(int(site.p * 2.0**64)), np.float32(1.0 / (1.0 - site.p))
    masks = np.empty((stop_pass - first_pass, *site.shape), np.float32)
    flat = masks.reshape(-1)
    for first in range(0, flat.size, _BLOCK):
        block = flat[first:first + _BLOCK]
        np.multiply(stream.random_raw(block.size) >= limit, scale, out=block)
    return masks


def _stratified_masks(site: DropoutSite, passes: int, seed: int) -> NDArray[np.float32]:
    """
    Drop each channel in p T passes, rounded up or down at random so that the mean is exact.

    The order of the channel's random words selects the passes, independently of other channels.
    """
    channels = site.shape[0]
    words = _stream(site, seed).random_raw((passes + 1) * channels).reshape(-1, channels)
    least, rest = divmod(site.p * passes, 1.0)
    dropped = int(least) + (words[0] < np.uint64(int(rest * 2.0**64)))
    order = np.argsort(words[1:], axis=0, kind='stable')
    in_order = np.arange(passes)[:, None] >= dropped
    masks = np.empty((passes, channels), np.float32)
    np.put_along_axis(masks, order, in_order * np.float32(1.0 / (1.0 - site.p)), axis=0)
    return masks.reshape(passes, *site.shape)


def _samples(site: DropoutSite, passes: int, seed: int) -> PassInputs:
    """Draw the S samples of `direct`, the same in every pass: only masks make passes differ."""
    # Antithetic pairs: the second half is the negated first, so that no class is favoured.
    drawn = _noise(site, 1, seed)
    half = (site.shape[0] + 1) // 2
    pairs = np.concatenate([drawn[:, :half], -drawn[:, :half]], axis=1)[:, :site.shape[0]]
    return {site.name: np.repeat(pairs, passes, axis=0)}


def _noise(site: DropoutSite, passes: int, seed: int) -> NDArray[np.float32]:
    """
    Draw standard normal numbers; the distribution function is accurate to 4e-4.

    Teichroew's polynomial (Knuth, vol. 2, 3.4.1) makes the sum of twelve uniform numbers normal.
    It needs sums and products only: logarithms are rounded differently on other processors.
    """
    size = passes * math.prod(site.shape)
    words = _stream(site, seed).random_raw(3 * size).reshape(size, 3)
    quarters = words.view(np.uint16).reshape(size, 12).sum(1, dtype=np.int64)
    r = ((quarters + 6) / 65536 - 6) / 4  # + 6: each of the 12 numbers is its interval's middle
    squared, value = r * r, np.full(size, _TEICHROEW[0])
    for factor in _TEICHROEW[1:]:
        value = value * squared + factor
    return (value * r).astype(np.float32).reshape(passes, *site.shape)


def _require(passes: int, seed: int) -> None:
    if passes < 1:
        raise ConfigError(f'passes is {passes}', 'at least 1', "set passes to the bundle's own T")
    if seed < 0:
        raise ConfigError(f'seed is {seed}', 'at least 0')


# -------------------------------------------------------------------------------------------------
# Masks of the policy 'fixed', shared by the pipelines of several cameras.


class PassSource:
    """Masks that are drawn once and shared; large ones are `LazyRows`, drawn when read."""

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self._drawn: tuple[tuple[int, int], Masks] | None = None

    def of(self, passes: int, seed: int) -> Masks:
        """Return the masks of T passes; the same object as before if both arguments are equal."""
        drawn = self._drawn
        if drawn is None or drawn[0] != (passes, seed):
            # Backends detect unchanged masks by object identity.
            drawn = self._drawn = (passes, seed), lazy_inputs(self._card, passes, seed)
        return drawn[1]
