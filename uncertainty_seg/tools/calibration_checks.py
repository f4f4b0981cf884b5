# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What ``calibrate`` refuses before anything is measured, since measuring takes minutes."""

from __future__ import annotations

from collections.abc import Sequence
import hashlib

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.conformal import blocks_needed
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.score_density import DENSITY_SCORE
from uncertainty_seg.core.score_vector import ScoreVector
from uncertainty_seg.errors import CalibrationError, ConfigError, DatasetError
from uncertainty_seg.tools.labelled_pairs import KnownFrames


def require_scores(card: ModelCard, names: Sequence[str]) -> None:
    """
    Refuse scores that cannot be there.

    Raises
    ------
    ConfigError
        If a name is no score of the bundle.

    """
    # The value of the limits decides which pixels count, and not which scores there are.
    possible = (*ScoreVector(card, {'entropy': 0.5, 'mutual_information': 0.5}).names,
                DENSITY_SCORE)
    unknown = [name for name in names if name not in possible]
    if unknown:
        raise ConfigError(f'no score {unknown[0]!r}', f'one of {", ".join(possible)}')


def require_blocks(
    blocks: NDArray[np.str_], kept: NDArray[np.bool_], alphas: Sequence[float], tune_share: float
) -> None:
    """
    Refuse blocks that cannot carry the promise, or leave none for the temperature.

    Parameters
    ----------
    blocks : ndarray of str, shape (n,)
        The block of each validation frame.
    kept : ndarray of bool, shape (n,)
        Which frames the limits are fitted on; the temperature is fitted on the others.
    alphas : sequence of float
        To promise.
    tune_share : float
        Part of the blocks that was asked for for the temperature.

    Raises
    ------
    CalibrationError
        It says how many blocks are needed.

    """
    count, alpha = len(np.unique(blocks[kept])), min(alphas)
    needed = blocks_needed(alpha)
    if count < needed:
        total = max(int(np.ceil(needed / (1 - tune_share))), needed + 1)
        raise CalibrationError(
            f'{count} blocks to promise alpha {alpha:g} on', f'at least {needed}',
            f'have {total} validation blocks in all (a part is for the temperature), or promise '
            'a larger alpha')
    if kept.all():
        raise CalibrationError(
            f'no block to fit the temperature on, with {count} in all and a share of '
            f'{tune_share:.2g}', 'at least 1', 'have more blocks, or a larger --tune-share')


def refuse_shared(train: KnownFrames, val: KnownFrames) -> None:
    """
    Refuse to promise on frames that density and choice have seen, whatever they are called.

    Raises
    ------
    DatasetError
        If an image is in both.

    """
    seen = {_digest(image): stem
            for (image, _), stem in zip(train.pairs, train.stems, strict=True)}
    for (image, _), stem in zip(val.pairs, val.stems, strict=True):
        twin = seen.get(_digest(image))
        if twin is not None:
            raise DatasetError(
                f'the validation image {stem!r} is the training image {twin!r}',
                'validation images that nothing was trained or chosen on',
                'give --train and --val different folders, or the folder a splits.json')


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
