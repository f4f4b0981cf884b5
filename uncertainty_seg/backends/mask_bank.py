# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The masks of one frame on the device, a buffer for each call of the head and site.

They stay there as long as the same masks come. Each buffer is its own, because an engine takes
aligned addresses only, and keeps its address, because graphs are recorded with it.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.device_masks import draw, SeededMasks
from uncertainty_seg.backends.device_memory import DeviceMemory
from uncertainty_seg.backends.pass_parts import Part
from uncertainty_seg.core.model_card import ModelCard

Masks = Mapping[str, NDArray[np.float32]]


class MaskBank:
    """
    Buffers for the masks of T passes.

    Parameters
    ----------
    card : ModelCard
        Its sites.
    parts : sequence of Part
        Calls of the head.
    memory : DeviceMemory
        Where the buffers lie.

    Attributes
    ----------
    buffers : list of dict of str to torch.Tensor
        For each part, a tensor of (part.size, *site.shape) for each site.

    """

    def __init__(self, card: ModelCard, parts: Sequence[Part], memory: DeviceMemory) -> None:
        self._card, self._parts, self._memory = card, parts, memory
        self.buffers: list[dict[str, Any]] = [
            {site.name: memory.empty((part.size, *site.shape), np.float32)
             for site in card.dropout_sites} for part in parts]
        self._staging: list[dict[str, Any]] = []
        # Held, so that no other masks can come under its identity.
        self._loaded: Masks | None = None

    def load(self, masks: Masks) -> None:
        """
        Enqueue what brings masks to the device, unless they are there.

        Parameters
        ----------
        masks : mapping of str to ndarray of float32, shape (T, *site.shape)
            Not changed afterwards; another object for other masks.

        """
        if masks is self._loaded:
            return
        self._loaded = None
        if isinstance(masks, SeededMasks) and self._card.method == 'mc_dropout':
            self._draw(masks)
        else:
            self._copy(masks)
        self._loaded = masks

    def clear(self) -> None:
        """Let go of all buffers; nothing can be loaded any more."""
        self.buffers, self._staging, self._loaded = [], [], None

    def _draw(self, masks: SeededMasks) -> None:
        for part, buffers in zip(self._parts, self.buffers, strict=True):
            given = part.stop - part.first
            for site in self._card.dropout_sites:
                rows = buffers[site.name]
                draw(site, masks.seed, part.first, part.stop, self._card.is_balanced, rows[:given])
                if given < part.size:
                    rows[given:].copy_(rows[given - 1:given].expand_as(rows[given:]))

    def _copy(self, masks: Masks) -> None:
        """Copy by way of buffers that the device reads while the host goes on."""
        if not self._staging:
            self._staging = [{name: self._memory.host(tuple(buffer.shape), np.float32)
                              for name, buffer in buffers.items()} for buffers in self.buffers]
        for part, buffers, staging in zip(self._parts, self.buffers, self._staging, strict=True):
            given = part.stop - part.first
            for name, buffer in buffers.items():
                rows = staging[name].numpy()
                rows[:given] = masks[name][part.first:part.stop]
                rows[given:] = rows[given - 1]
                self._memory.copy(buffer, staging[name])
