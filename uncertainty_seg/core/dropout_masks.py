# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Dropout masks as data: a seed and the sites of a card give the same masks everywhere.

Each site and each pass draws from its own stream, so that the first t passes do not depend on
T, and a site keeps its masks when another one is added.

"""

from __future__ import annotations

from collections.abc import Iterable
import zlib

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.model_card import DropoutSite
from uncertainty_seg.errors import ConfigError


def make_masks(
    sites: Iterable[DropoutSite], passes: int, seed: int
) -> dict[str, NDArray[np.float32]]:
    """
    Draw the masks of T passes.

    Parameters
    ----------
    sites : iterable of DropoutSite
        The card's sites.
    passes : int
        T, at least 1.
    seed : int
        At least 0; the same seed gives the same masks on every machine.

    Returns
    -------
    dict of str to ndarray of float32, shape (T, *site.shape)
        0 where dropped, else 1 / (1 - p).

    Raises
    ------
    ConfigError
        If `passes` is below 1 or `seed` below 0.

    """
    _require(passes, seed)
    return {site.name: _site_masks(site, passes, seed) for site in sites}


def ones_masks(sites: Iterable[DropoutSite], passes: int) -> dict[str, NDArray[np.float32]]:
    """Return masks that switch dropout off: every pass is the deterministic network."""
    _require(passes, 0)
    return {site.name: np.ones((passes, *site.shape), np.float32) for site in sites}


def frame_seed(seed: int, stamp_ns: int) -> int:
    """Mix the seed with a frame's stamp, for the mask policy 'per_frame'."""
    return zlib.crc32(f'{seed}:{stamp_ns}'.encode())


def _site_masks(site: DropoutSite, passes: int, seed: int) -> NDArray[np.float32]:
    # Philox is counter based and frozen by numpy's stream policy for `random_raw`; the uint64
    # words are compared as integers, so that no rounding rule of a later numpy can move a mask.
    stream = np.random.Philox(key=[seed & (2**64 - 1), zlib.crc32(site.name.encode())])
    count = passes * int(np.prod(site.shape))
    kept = stream.random_raw(count) >= np.uint64(int(site.p * 2.0**64))
    masks = kept.reshape(passes, *site.shape).astype(np.float32)
    return masks * np.float32(1.0 / (1.0 - site.p))


def _require(passes: int, seed: int) -> None:
    if passes < 1:
        raise ConfigError(f'passes is {passes}', 'at least 1', "set passes to the bundle's own T")
    if seed < 0:
        raise ConfigError(f'seed is {seed}', 'at least 0')
