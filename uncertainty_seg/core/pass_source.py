# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The masks of the policy 'fixed', shared by the pipelines of several cameras."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.model_card import ModelCard

Masks = Mapping[str, NDArray[np.float32]]


class PassSource:
    """
    Masks drawn once for all who ask.

    Parameters
    ----------
    card : ModelCard
        Its method and sites.

    """

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self._drawn: tuple[tuple[int, int], Masks] | None = None

    def of(self, passes: int, seed: int) -> Masks:
        """Return the masks of T passes; the same object as last time where both are the same."""
        drawn = self._drawn
        if drawn is None or drawn[0] != (passes, seed):
            # Backends know masks they have been given before by their identity.
            drawn = self._drawn = (passes, seed), pass_inputs(self._card, passes, seed)
        return drawn[1]
