# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What `compile` warns of: a bundle that works, and may not be what was meant."""

from __future__ import annotations

from collections.abc import Iterable
import math
import sys

from uncertainty_seg.core.dropout_masks import kept_channels
from uncertainty_seg.core.model_card import DropoutSite, ModelCard

INJECTED = ('the network was not trained with the dropout that was put in: its passes differ, '
            'but by how much was never fitted to anything: calibrate it, and compare ranks only')
NOTHING_SKIPPED = ('no dropout of this network is worth skipping channels for (--explain says '
                   'why): the bundle has independent masks and takes any number of passes')
_MOST_EQUAL = 0.01  # chance that all passes come out the same, which needs no warning
_MOST_PASSES = 1000  # as the command line takes them


def warn(text: str) -> None:
    """Write a warning to stderr."""
    print(f'WARNING: {text}.', file=sys.stderr)


def warn_of_rare_dropout(card: ModelCard) -> None:
    """
    Warn where so little is dropped that all passes of a frame may come out the same.

    Such passes show no uncertainty, whatever the image, and `Pipeline.check_masks` is there to
    refuse them. The usual case is a network whose only dropout is one rarely dropped path.

    Parameters
    ----------
    card : ModelCard
        Of the bundle; T, sites, and how masks are drawn.

    """
    chance = chance_of_equal_passes(card.dropout_sites, card.passes, card.is_balanced)
    if card.members or card.passes < 2 or chance <= _MOST_EQUAL:
        return
    enough = _enough_passes(card)
    fix = f'--passes {enough} makes it less than {_MOST_EQUAL:.0%}' if enough else \
        'train it with a higher rate, or --inject-dropout'
    values = sum(math.prod(site.shape) for site in card.dropout_sites)
    rate = max(site.p for site in card.dropout_sites)
    warn(f'all {card.passes} passes come out the same with a chance of {chance:.0%}, so rarely is '
         f'anything dropped (mask values: {values}, highest rate: {rate:.3g}), and such passes '
         f'show no uncertainty: {fix}')


def chance_of_equal_passes(
    sites: Iterable[DropoutSite], passes: int, is_balanced: bool
) -> float:
    """
    Return how likely it is that T passes draw the same masks.

    Parameters
    ----------
    sites : iterable of DropoutSite
        Drawn independently of each other.
    passes : int
        T, at least 1.
    is_balanced : bool
        Whether sites of whole channels keep a fixed number of them, as `make_masks` draws.

    Returns
    -------
    float
        In 0..1. With independent masks the product of (p^T + (1 - p)^T) over all values; a
        balanced site of C channels that keeps K has (C choose K)^(1 - T).

    """
    log_chance = 0.0
    for site in sites:
        channels, kept = site.shape[0], kept_channels(site)
        if is_balanced and kept < channels:
            log_chance += (1 - passes) * math.log(math.comb(channels, kept))
        else:
            one = site.p ** passes + (1 - site.p) ** passes
            # Of hundreds of passes at a rate of a half nothing is left in float64.
            log_chance += math.prod(site.shape) * (math.log(one) if one > 0 else -math.inf)
    return math.exp(log_chance)


def _enough_passes(card: ModelCard) -> int:
    """Return the least T whose passes rarely come out the same; 0 if there is none."""
    return next((passes for passes in range(card.passes + 1, _MOST_PASSES + 1)
                 if chance_of_equal_passes(card.dropout_sites, passes, card.is_balanced)
                 <= _MOST_EQUAL), 0)
