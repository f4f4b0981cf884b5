# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What a backend is held against: ONNX Runtime on the CPU in float32, and the definitions in numpy.

It shares no line with the backends but the files of the bundle: sessions that fuse nothing, one
pass after the other, and `core.uncertainty` in float64 for what follows. Slow, and simple.

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.uncertainty import (
    maps_from_logits,
    maps_from_low_logits,
    UncertaintyMaps,
    upsample_bilinear,
)
from uncertainty_seg.errors import BackendUnavailableError

_STRIPE = 32  # rows at a time in float64
Masks = Mapping[str, NDArray[np.float32]]


class Reference:
    """
    Run a bundle as literally as it can be run.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle, of any precision: weights of 16 bits are widened, an int8 trunk is
        computed with float32 between its rounding steps.
    threads : int
        Of ONNX Runtime; 0 takes every core.

    Raises
    ------
    BackendUnavailableError
        If ONNX Runtime is not installed.

    """

    def __init__(self, bundle: ModelBundle, threads: int = 0) -> None:
        self._card = bundle.card
        self._trunk = _session(bundle.trunk_path, threads)
        self._head = _session(bundle.head_path, threads)

    def run(self, image: ImageU8, masks: Masks, temperature: float) -> UncertaintyMaps:
        """Return the maps of an image; as `Backend.run`."""
        card, spec = self._card, self._card.input
        logits = self._logits(image, masks)
        if card.reduction == 'low':
            return maps_from_low_logits(
                logits, spec.height, spec.width, temperature, card.upsampling)
        full = np.stack([upsample_bilinear(one, spec.height, spec.width, card.upsampling)
                         .astype(np.float32) for one in logits])
        stripes = [
            maps_from_logits(part, part.shape[2], part.shape[3], temperature)
            for part in (full[:, :, row:row + _STRIPE] for row in range(0, spec.height, _STRIPE))
        ]
        return UncertaintyMaps(*(np.concatenate([getattr(part, f.name) for part in stripes])
                                 for f in fields(UncertaintyMaps)))

    def _logits(self, image: ImageU8, masks: Masks) -> NDArray[np.float32]:
        """Return (T, C, hl, wl)."""
        names = [info.name for info in self._trunk.get_outputs()]
        batch = image[None]
        found = dict(zip(names, self._trunk.run(names, {'image': batch}), strict=True))
        wanted = {info.name for info in self._head.get_inputs()}
        given = {name: value for name, value in {'image': batch, **found}.items()
                 if name in wanted}
        passes, step = len(next(iter(masks.values()))), self._card.chunk or 1
        return np.concatenate([
            self._head.run(['logits'], {**given, **_rows(masks, first, step)})[0][:passes - first]
            for first in range(0, passes, step)])


def _rows(masks: Masks, first: int, count: int) -> dict[str, NDArray[np.float32]]:
    """Cut some passes out of the masks; the last is repeated where there are too few."""
    last = len(next(iter(masks.values()))) - 1
    rows = np.minimum(np.arange(first, first + count), last)
    return {name: mask[rows] for name, mask in masks.items()}


def _session(path: Path, threads: int) -> Any:
    from uncertainty_seg.graph.onnx_tools import load_model
    from uncertainty_seg.graph.to_float32 import to_float32

    try:
        import onnxruntime
    except ImportError as err:
        raise BackendUnavailableError(
            f'onnxruntime cannot be imported ({err}), and the check compares with it',
            fix='pip install onnxruntime',
        ) from err
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Fuses nothing, and leaves the rounding steps of an int8 trunk where they are.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    content = to_float32(load_model(str(path))).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
