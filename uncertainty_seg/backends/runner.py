# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What every runtime offers, and what it requires of an image and its masks before a run.

Each runtime's file has the same methods in the same order: opening, `run`, `timings_ms`, `close`.

"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from contextlib import AbstractContextManager

import numpy as np

from uncertainty_seg.core.arrays import FloatMap, ImageU8, require_shape
from uncertainty_seg.core.dropout_masks import Masks
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.uncertainty import MapRequest, NO_MORE, UncertaintyMaps
from uncertainty_seg.errors import ShapeError


class Runner(AbstractContextManager['Runner'], abc.ABC):
    """
    A bundle that is open in a runtime; a context manager that closes it.

    Attributes
    ----------
    name : str
        A key of `registry.OPENERS`.

    """

    name: str
    _timings_ms: Mapping[str, float] = {}

    @abc.abstractmethod
    def run(
        self, image: ImageU8, masks: Masks, temperature: float, request: MapRequest = NO_MORE
    ) -> UncertaintyMaps:
        """
        Compute the maps of one image.

        Parameters
        ----------
        image : ndarray of uint8, shape (h, w, 3)
            In the card's size and colour order.
        masks : mapping of str to ndarray of float32, shape (T, *site.shape)
            One array, or `LazyRows`, for each dropout site. A mapping is not changed once it was
            given: a runtime may keep the masks of the same object where they are.
        temperature : float
            The logits are divided by it.
        request : MapRequest
            What is wanted besides the maps that every frame has.

        Returns
        -------
        UncertaintyMaps
            Of shape (h, w); NaN where a logit that counts was NaN or infinite.

        Raises
        ------
        ShapeError
            If image or masks do not fit the card.
        BackendError
            If the runtime or the device fails, or the backend is closed.
        ModelBundleError
            If the graphs do not give what a map of the request is made of.

        """

    def last_features(self) -> FloatMap | None:
        """
        Return what the trunk made of the last image, float32 (1, D, hf, wf).

        It is the output `feature_map` of a bundle that has one, and else the coarsest plane that
        the head takes. None before the first image, and where the runtime keeps none.
        """
        return None

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Milliseconds of each stage of the last run: 'trunk', 'head', 'reduction'."""
        return self._timings_ms

    @abc.abstractmethod
    def close(self) -> None:
        """Free graphs, buffers and threads; may be called twice."""

    def __exit__(self, *_error: object) -> None:
        self.close()


def require_inputs(card: ModelCard, image: ImageU8, masks: Masks) -> int:
    """
    Refuse what the network was not made for.

    Parameters
    ----------
    card : ModelCard
        Says what it was made for.
    image : ndarray of uint8, shape (h, w, 3)
        The fitted image.
    masks : mapping of str to ndarray of float32, shape (T, *site.shape)
        One array for each dropout site of the card; none for a single pass.

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
    require_image(card, image)
    wanted = {site.name: site.shape for site in card.dropout_sites}
    if set(masks) != set(wanted):
        raise ShapeError(f'masks for {sorted(masks)}', f'{sorted(wanted)}, the sites of the card')
    for name, shape in wanted.items():
        require_shape(f'mask {name!r}', masks[name], (None, *shape), np.float32)
    counts = {name: len(mask) for name, mask in masks.items()}
    passes = min(counts.values(), default=1)
    if passes < 1 or len(set(counts.values())) > 1:
        raise ShapeError(f'masks for {counts} passes', 'the same T >= 1 for every site')
    return passes


def require_image(card: ModelCard, image: ImageU8) -> None:
    """Refuse an image of another size or dtype than the card's; raises ShapeError."""
    require_shape('image', image, (card.input.height, card.input.width, 3), np.uint8)
