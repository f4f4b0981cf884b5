# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From the sums that `head_stats.onnx` gives to the maps, where the sums lie.

The formulas are those of `core.uncertainty`, in torch and float32: what comes back to the host is
seven maps, whatever the number of passes and classes.

"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

from uncertainty_seg.backends.device_memory import DeviceMemory
from uncertainty_seg.core.uncertainty import UncertaintyMaps

SUM_P, SUM_ENTROPY, SUM_P2, VOTES = 'sum_p', 'sum_entropy', 'sum_p2', 'votes'
STATISTICS = (SUM_P, SUM_ENTROPY, SUM_P2, VOTES)
_FLOAT_MAPS = 6


class DeviceReduction:
    """
    Sums over the passes of one frame, and the maps they make.

    Parameters
    ----------
    num_classes, height, width : int
        C, h, w.
    memory : DeviceMemory
        Where the sums lie; all is enqueued on its stream.

    """

    def __init__(self, num_classes: int, height: int, width: int, memory: DeviceMemory) -> None:
        plane = (height, width)
        self._memory = memory
        self.shapes = {SUM_P: (num_classes, *plane), SUM_ENTROPY: plane, SUM_P2: plane,
                       VOTES: (num_classes, *plane)}
        self._sums = {name: memory.empty(shape, np.float32)
                      for name, shape in self.shapes.items()}
        self._floats = memory.empty((_FLOAT_MAPS, *plane), np.float32)
        self._labels = memory.empty(plane, np.uint8)
        self._host_floats = memory.host((_FLOAT_MAPS, *plane), np.float32)
        self._host_labels = memory.host(plane, np.uint8)
        self._passes = 0

    def reset(self) -> None:
        """Begin a frame."""
        self._passes = 0

    def add(self, statistics: Mapping[str, Any], passes: int, share: float = 1.0) -> None:
        """
        Add the sums of some passes.

        Parameters
        ----------
        statistics : mapping of str to torch.Tensor
            All of `STATISTICS`, in `shapes`.
        passes : int
            How many passes this adds to T; below zero if it takes away.
        share : float
            What the sums are multiplied by.

        """
        for name, total in self._sums.items():
            if self._passes == 0:
                total.zero_()
            total.add_(statistics[name], alpha=share)
        self._passes += passes

    def enqueue_finish(self) -> None:
        """Compute the maps and start to copy them to the host."""
        write_maps(self._sums, self._passes, self._labels, self._floats)
        self._memory.copy(self._host_labels, self._labels)
        self._memory.copy(self._host_floats, self._floats)

    def maps(self) -> UncertaintyMaps:
        """Return the maps, once the stream has been waited for; nobody writes to them later."""
        floats = self._host_floats.numpy().copy()
        return UncertaintyMaps(self._host_labels.numpy().copy(), *floats)


def write_maps(sums: Mapping[str, Any], passes: int, labels: Any, floats: Any) -> None:
    """
    Compute the maps from the sums over all passes.

    Parameters
    ----------
    sums : mapping of str to torch.Tensor
        All of `STATISTICS`.
    passes : int
        T.
    labels : torch.Tensor of uint8, shape (h, w)
        Filled.
    floats : torch.Tensor of float32, shape (6, h, w)
        Filled with the other maps, in the order of `UncertaintyMaps`. NaN in a sum is NaN in
        every one: `clamp` and `max` of torch pass it on as numpy's do.

    """
    import torch

    # Sums that were taken away again can leave a little less than nothing.
    mean = (sums[SUM_P] / passes).clamp_(min=0)
    scale = 1.0 / math.log(len(mean))
    entropy = torch.special.entr(mean).sum(0)
    mutual = (entropy - sums[SUM_ENTROPY] / passes).clamp_(min=0)
    # A vote is cast even where a pass gave no number; the entropies know.
    variation = (1 - sums[VOTES].amax(0) / passes).clamp_(min=0)
    variation = torch.where(torch.isnan(sums[SUM_ENTROPY]), torch.nan, variation)
    # The squares' mean less the mean's square: rounding alone can take it below zero.
    variance = (sums[SUM_P2] / passes - (mean * mean).sum(0)).clamp_(min=0)
    labels.copy_(mean.argmax(0))
    for target, values in zip(floats, (
        mean.amax(0).clamp_(max=1), (entropy * scale).clamp_(0, 1), mutual * scale, variation,
        variance, (entropy - mutual) * scale,
    ), strict=True):
        target.copy_(values)
