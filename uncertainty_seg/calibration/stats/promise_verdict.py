# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The chance variation of a promise, and whether labelled frames show that it is kept.

A promise holds on average over draws of the calibration blocks. Thresholds of one draw accept more
or fewer bad frames than alpha, with less variation the more blocks there were (`spread`). Whether
a bundle's thresholds keep the promise is tested on frames that neither the network nor the
thresholds were fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike

from uncertainty_seg.calibration.stats.conformal import mean_block_share, upper_bound
from uncertainty_seg.calibration.stats.intervals import CONFIDENCE, Interval
from uncertainty_seg.core.calibration import Promise

KEPT, NOT_KEPT = 'kept', 'not kept'
TOO_FEW, SEEN = 'too few images to tell', 'not judged, since these images are not new to it'
# A promise counts as kept only if the interval excludes this multiple of alpha, because few images
# without a bad one among the accepted, such as five, prove nothing.
_EXCLUDED = 2.0


@dataclass(frozen=True)
class PromiseVerdict:
    """
    Verdict of labelled frames on a promise.

    At most the share `alpha` was promised to be accepted and bad; `share` was measured, with equal
    weight for every block. For frames like these it is between `lower` and `upper` with 95 %
    confidence (Clopper and Pearson, with `num_blocks` independent units). `word` is one of this
    module's constants.
    """

    word: str
    alpha: float
    share: float
    lower: float
    upper: float
    num_blocks: int

    def sentence(self) -> str:
        """Return the verdict as a human-readable text."""
        return (f'Promise of {100 * self.alpha:.3g} %: {self.word}. {100 * self.share:.1f} % '
                f'({100 * self.lower:.1f} to {100 * self.upper:.1f} %) of {self.num_blocks} '
                'blocks of frames were accepted and bad.')


def judge_promise(
    accepted: ArrayLike, is_bad: ArrayLike, blocks: ArrayLike, alpha: float, is_new: bool
) -> PromiseVerdict:
    """
    Judge a promise of `alpha` by frames, (n,) each; `is_new` if nothing was fitted on any of them.

    It is not kept if the 95 % interval is above alpha, and kept if the share is at most alpha and
    the interval is below twice alpha. Requires scipy.
    """
    found = share_interval(np.asarray(accepted, bool) & np.asarray(is_bad, bool), blocks)
    word = TOO_FEW
    if not is_new:
        word = SEEN
    elif found.lower > alpha:
        word = NOT_KEPT
    elif found.value <= alpha and found.upper < _EXCLUDED * alpha:
        word = KEPT
    return PromiseVerdict(word, alpha, found.value, found.lower, found.upper, found.num_blocks)


def share_interval(chosen: ArrayLike, blocks: ArrayLike) -> Interval:
    """
    Return the mean over blocks of the share of chosen frames, with its Clopper-Pearson interval.

    Both are (n,). Near 0 and 1 a bootstrap is too narrow: with 20 blocks and a share of 0.05 it
    holds the truth in 65 of 100 cases. The sum of the shares counts as the number of chosen
    blocks, so the interval is too wide for blocks that are chosen in part. Requires scipy.
    """
    count, share = len(np.unique(np.asarray(blocks))), mean_block_share(chosen, blocks)
    # Each end has half of the error.
    return Interval(share, 1 - upper_bound((1 - share) * count, count, 2),
                    upper_bound(share * count, count, 2), count)


def spread(promise: Promise) -> tuple[float, float]:
    """
    Return the central 95 % range of the share accepted and bad, over draws of as many blocks.

    With one frame per block, the share on new frames has a beta distribution (Vovk, 2012,
    arXiv:1209.2673), of that of the promise's `bound`. It varies less with several frames per
    block, which may be bad in part. Requires scipy.
    """
    from scipy.stats import beta

    count = promise.num_blocks
    allowed = max(math.floor(promise.bound * (count + 1) + 1e-9), 1)
    lower, upper = beta.interval(CONFIDENCE, allowed, count + 1 - allowed)
    return float(lower), float(upper)
