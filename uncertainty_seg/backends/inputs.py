# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What every backend asks of an image and a set of masks before it runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8, require_shape
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.errors import ShapeError


def require_inputs(
    card: ModelCard, image: ImageU8, masks: Mapping[str, NDArray[np.float32]]
) -> int:
    """
    Refuse what the network was not made for.

    Parameters
    ----------
    card : ModelCard
        Says what it was made for.
    image : ndarray of uint8, shape (h, w, 3)
        The fitted image.
    masks : mapping of str to ndarray of float32, shape (T, *site.shape)
        One array for each dropout site of the card.

    Returns
    -------
    int
        T, which all masks agree on.

    Raises
    ------
    ShapeError
        If the image has another size or dtype, a mask is missing or unknown, or the masks
        disagree about T.

    """
    require_shape('image', image, (card.input.height, card.input.width, 3), np.uint8)
    wanted = {site.name: site.shape for site in card.dropout_sites}
    if set(masks) != set(wanted):
        raise ShapeError(f'masks for {sorted(masks)}', f'{sorted(wanted)}, the sites of the card')
    for name, shape in wanted.items():
        require_shape(f'mask {name!r}', masks[name], (None, *shape), np.float32)
    counts = {name: len(mask) for name, mask in masks.items()}
    passes = min(counts.values())
    if passes < 1 or len(set(counts.values())) > 1:
        raise ShapeError(f'masks for {counts} passes', 'the same T >= 1 for every site')
    return passes
