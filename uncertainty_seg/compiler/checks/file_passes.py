# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run a given ONNX file in ONNX Runtime, with its dropout on or removed, and else unchanged.

This is the reference for the graphs compiled from the file, so it shares nothing with the
compiler: no conversion, no folding, no masks. Active dropout is written out, because the Dropout
nodes of one run get consecutive seeds from ONNX Runtime: what one drops depends on the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx

from uncertainty_seg.compiler.algebra.dropout_to_masks import is_dropout, is_live_dropout, rate_of
from uncertainty_seg.compiler.checks.pass_checks import Array, said
from uncertainty_seg.compiler.frontend.outputs import chosen_output, in_planes, OutputForm
from uncertainty_seg.compiler.onnx_tools import (
    copy_of,
    hidden,
    image_inputs,
    NodeWriter,
    refill,
    session_of,
    types_of,
)
from uncertainty_seg.errors import GraphError


class FileNetwork:
    """
    The user's network, from an unchanged ONNX file that takes one float32 image.

    `form` names the output and its number of classes.
    """

    def __init__(self, model: onnx.ModelProto, form: OutputForm) -> None:
        self._model, self._form = model, form
        self._sessions: dict[bool, Any] = {}

    def __call__(self, image: NDArray[np.float32]) -> Array:
        """Return the logits (1, C, hl, wl) of a normalised image (1, 3, h, w), dropout off."""
        return self._run(image, is_live=False)

    def passes(self, image: NDArray[np.float32], seed: int) -> Iterator[Array]:
        """Yield random passes of a normalised image, drawn by ONNX Runtime, without end."""
        import onnxruntime

        # For a session that the next run opens. Small seeds would give dependent generators.
        onnxruntime.set_seed(int(np.random.default_rng(seed).integers(1 << 30, 1 << 31)))
        while True:
            yield self._run(image, is_live=True)

    def _run(self, image: NDArray[np.float32], is_live: bool) -> Array:
        info, = image_inputs(self._model.graph)
        dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
        is_last = dims[1:2] != [3] and dims[3:] == [3]
        given = np.ascontiguousarray(image.transpose(0, 2, 3, 1) if is_last else image)
        try:
            if is_live not in self._sessions:
                self._sessions[is_live] = self._opened(is_live)
            returned, = self._sessions[is_live].run([self._output], {info.name: given})
        except Exception as err:  # ONNX Runtime's errors have no narrower base class
            raise GraphError(f'ONNX Runtime cannot run the file itself ({said(err)})',
                             'a file that ONNX Runtime can run, to compare the passes with',
                             'export it again, or set compare_passes=0') from err
        return in_planes(returned.astype(np.float32), self._form)

    def _opened(self, is_live: bool) -> Any:
        model = copy_of(self._model)
        refill(model.graph.node, [new for node in self._model.graph.node for new in (
            _drawing(model.graph, node) if is_live and is_live_dropout(model, node)
            else [hidden(node) if is_dropout(node) else node])])
        for entry in model.opset_import:  # ONNX Runtime 1.32 has no random numbers after opset 21
            entry.version = min(entry.version, 21)
        if self._output not in [info.name for info in model.graph.output]:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(self._output))
        return session_of(model, 'DISABLE_ALL')

    @cached_property
    def _output(self) -> str:
        form, graph = self._form, self._model.graph
        return chosen_output(graph, form.output, form.num_classes, types_of(self._model))


def _drawing(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Write a dropout out: RandomUniformLike keeps a generator for each node, between runs too."""
    write, rate, data = NodeWriter(graph, node.output[0]), rate_of(graph, node), node.input[0]
    drawn = write.node('RandomUniformLike', [data], 'drawn')
    kept = write.node('Less', [drawn, write.constant('share', 1 - rate)], 'kept')
    scaled = write.node('Div', [data, write.constant('scale', 1 - rate)], 'scaled')
    write.node('Where', [kept, scaled, write.constant('nothing', 0)])
    return write.nodes
