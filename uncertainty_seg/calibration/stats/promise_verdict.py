# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How far a promise can be off by chance, and whether labelled frames show that it is kept.

The promise is on average over draws of the calibration blocks: thresholds of one draw accept more
or fewer bad frames than alpha, the less the more blocks there were (`spread`). Whether those of a
bundle keep it is asked of frames that neither the network nor its thresholds have seen.

"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike

from uncertainty_seg.calibration.stats.conformal import mean_block_share
from uncertainty_seg.calibration.stats.intervals import CONFIDENCE
from uncertainty_seg.core.calibration import Promise

KEPT, NOT_KEPT = 'kept', 'not kept'
TOO_FEW, SEEN = 'too few images to tell', 'not judged, since these images are not new to it'
# A promise counts as kept only where so many times its share are excluded: five images without a
# bad one among the accepted prove nothing.
_EXCLUDED = 2.0
_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class PromiseVerdict:
    """
    What labelled frames say of a promise.

    At most `alpha` was promised to be accepted and bad; `share` was, every block counted alike,
    and with 95 % confidence it is between `lower` and `upper` for frames like these (Clopper and
    Pearson, with `num_blocks` independent units). The word is one of this module's.
    """

    word: str
    alpha: float
    share: float
    lower: float
    upper: float
    num_blocks: int

    def sentence(self) -> str:
        """Say it to a person."""
        return (f'Promise of {100 * self.alpha:.3g} %: {self.word}. {100 * self.share:.1f} % '
                f'({100 * self.lower:.1f} to {100 * self.upper:.1f} %) of {self.num_blocks} '
                'blocks of frames were accepted and bad.')


def judge_promise(
    accepted: ArrayLike, is_bad: ArrayLike, blocks: ArrayLike, alpha: float, is_new: bool
) -> PromiseVerdict:
    """
    Judge a promise of `alpha` by frames, (n,) each; `is_new`: nothing was fitted to any of them.

    It is kept if the share is at most alpha and twice alpha is excluded, and not kept if alpha is
    excluded, each with 95 % confidence. It needs scipy.
    """
    lost = np.asarray(accepted, bool) & np.asarray(is_bad, bool)
    count, share = len(np.unique(np.asarray(blocks))), mean_block_share(lost, blocks)
    lower, upper = _around(share * count, count)
    word = TOO_FEW
    if not is_new:
        word = SEEN
    elif lower > alpha:
        word = NOT_KEPT
    elif share <= alpha and upper < _EXCLUDED * alpha:
        word = KEPT
    return PromiseVerdict(word, alpha, share, lower, upper, count)


def _around(bad: float, count: int) -> tuple[float, float]:
    """Return the two-sided interval of Clopper and Pearson; blocks may be bad in part."""
    from scipy.stats import beta

    lower = 0.0 if bad <= 0 else float(beta.ppf(_TAIL, bad, count - bad + 1))
    return lower, 1.0 if bad >= count else float(beta.ppf(1 - _TAIL, bad + 1, count - bad))


def spread(promise: Promise) -> tuple[float, float]:
    """
    Return between which shares 95 % of thresholds fitted on so many blocks accept bad frames.

    For one frame a block the share over new frames has a beta distribution (Vovk, 2012,
    arXiv:1209.2673); blocks of several frames, which may be bad in part, spread less. It needs
    scipy.
    """
    from scipy.stats import beta

    count = promise.num_blocks
    allowed = max(math.floor(promise.alpha * (count + 1) + 1e-9), 1)
    lower, upper = beta.ppf([_TAIL, 1 - _TAIL], allowed, count + 1 - allowed)
    return float(lower), float(upper)
