# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Split frames into training and validation by whole dives.

Neighbouring frames of a dive look alike: with one in training and one in validation, a network is
tested on what it has learnt by heart.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from uncertainty_seg.errors import ConfigError


def split_by_dive(
    dive_of: Mapping[str, str], shares: Mapping[str, float], seed: int
) -> dict[str, list[str]]:
    """
    Give every dive to one split.

    Parameters
    ----------
    dive_of : mapping of str to str
        Dive of each frame, by stem.
    shares : mapping of str to float
        Wanted share of the frames by name of the split; they add up to 1.
    seed : int
        Decides between choices that are equally near.

    Returns
    -------
    dict of str to list of str
        Stems of each split, sorted. Splits are filled from the smallest share to the largest,
        which takes the rest; each gets the dives whose frames are nearest in number to its share
        (so with two splits no choice is nearer), and at least one while there are enough dives.

    Raises
    ------
    ConfigError
        If the shares are not above 0 or do not add up to 1.

    """
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        listed = ' '.join(f'{name}={share:g}' for name, share in shares.items())
        raise ConfigError(f'shares {listed or "of nothing"}', 'some above 0 that add up to 1')
    stems: dict[str, list[str]] = {}
    for stem, dive in sorted(dive_of.items()):
        stems.setdefault(dive, []).append(stem)
    order = np.random.default_rng(seed).permutation(len(stems))
    left = [sorted(stems)[i] for i in order]
    splits: dict[str, list[str]] = {name: [] for name in shares}
    by_share = sorted(shares, key=lambda name: shares[name])
    for waiting, name in zip(range(len(shares) - 1, 0, -1), by_share, strict=False):
        chosen = _nearest([len(stems[d]) for d in left], shares[name] * len(dive_of),
                          max_count=len(left) - waiting)
        splits[name] = sorted(stem for i in chosen for stem in stems[left[i]])
        left = [dive for i, dive in enumerate(left) if i not in chosen]
    splits[by_share[-1]] = sorted(stem for dive in left for stem in stems[dive])
    return splits


def _nearest(sizes: Sequence[int], target: float, max_count: int) -> set[int]:
    """
    Choose items whose sizes add up nearest to a target.

    At least one is chosen and at most `max_count`; none if that is 0. Of two sums that are
    equally near the smaller one is taken.

    """
    if max_count < 1:
        return set()
    # fewest[i][s]: how few of the first i items add up to s. The classic table of subset sums.
    total, unreachable = sum(sizes), len(sizes) + 1
    fewest = np.full((len(sizes) + 1, total + 1), unreachable, np.int32)
    fewest[0, 0] = 0
    for i, size in enumerate(sizes):
        fewest[i + 1] = fewest[i]
        np.minimum(fewest[i + 1, size:], fewest[i, :total + 1 - size] + 1,
                   out=fewest[i + 1, size:])
    sums = np.flatnonzero((fewest[-1] >= 1) & (fewest[-1] <= max_count))
    rest = int(sums[np.argmin(np.abs(sums - target))])
    chosen = set()
    for i in reversed(range(len(sizes))):
        if fewest[i + 1, rest] != fewest[i, rest]:
            chosen.add(i)
            rest -= sizes[i]
    return chosen
