# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Run the two files of a bundle in plain ONNX Runtime, without code of the backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime

from uncertainty_seg.compiler.head_graphs import logits_of
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.grid import upsample_bilinear

Array = np.ndarray
Masks = Mapping[str, Array]


def session(model: onnx.ModelProto | bytes | str) -> onnxruntime.InferenceSession:
    """Open a session of one thread for a graph, its bytes or its file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])


class Written:
    """Sessions of trunk and passes, from a bundle or from the files of `CompiledGraphs`."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._trunk, self._passes = session(files['trunk.onnx']), session(files['passes.onnx'])
        self._logits = session(logits_of(onnx.load_model_from_string(files['passes.onnx'])))

    @classmethod
    def of(cls, bundle: ModelBundle) -> Written:
        """Open the files of a bundle on disk."""
        paths = (bundle.trunk_path, bundle.passes_path)
        return cls({path.name: path.read_bytes() for path in paths})

    def logits(self, image: Array, masks: Masks, size: tuple[int, int] | None = None,
               upsampling: str = 'half_pixel') -> Array:
        """Return (T, C, hl, wl) of an image (h, w, 3), uint8; upsampled if `size`."""
        z, = self._run(self._logits, image, masks)
        return z if size is None else upsample_bilinear(z, *size, upsampling)

    def sums(self, image: Array, masks: Masks, temperature: float = 1.0) -> dict[str, Array]:
        """Return the sums over the passes by the names of the graph's outputs."""
        scale = np.array([1 / temperature], np.float32)
        names = [info.name for info in self._passes.get_outputs()]
        found = self._run(self._passes, image, {**masks, 'inv_temperature': scale})
        return dict(zip(names, found, strict=True))

    def _run(self, graph: Any, image: Array, masks: Masks) -> list[Array]:
        names = [info.name for info in self._trunk.get_outputs()]
        tensors = dict(zip(names, self._trunk.run(names, {'image': image[None]}), strict=True))
        given = {'image': image[None], **tensors, **masks}
        return graph.run(None, {info.name: given[info.name] for info in graph.get_inputs()})
