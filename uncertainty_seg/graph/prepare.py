# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Bring a network as it came to the one form that the algebra works on.

Opset 17, one image of bytes at batch 1, static shapes, shape arithmetic folded, batch norms
folded, one output of logits at its own resolution, dropout still in it.

"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.graph.constant_folding import fold_constants
from uncertainty_seg.graph.final_resize import strip_final_resize
from uncertainty_seg.graph.fold_batch_norm import fold_batch_norm
from uncertainty_seg.graph.image_input import take_bytes
from uncertainty_seg.graph.inject import inject_dropout
from uncertainty_seg.graph.opset import to_opset17
from uncertainty_seg.graph.options import CompileOptions
from uncertainty_seg.graph.outputs import to_logits
from uncertainty_seg.graph.plan import Decision
from uncertainty_seg.graph.refusals import free_names, require_compilable, require_own_names
from uncertainty_seg.graph.static_input import fix_input


@dataclass(frozen=True)
class Prepared:
    """
    A network ready for the algebra.

    Attributes
    ----------
    model : ModelProto
        Image of bytes to logits, with dropout.
    float_model : ModelProto
        Normalised floats to logits as the network makes them, upsampled and all: what the result
        is compared with.
    upsampling : str
        Of the bilinear resize that was taken off, for the reduction.
    injected : tuple of str
        Sites that were put in.
    decisions : tuple of Decision
        What was folded.

    """

    model: onnx.ModelProto
    float_model: onnx.ModelProto
    upsampling: str
    injected: tuple[str, ...]
    decisions: tuple[Decision, ...]


def prepare(model: onnx.ModelProto, spec: InputSpec, options: CompileOptions) -> Prepared:
    """
    Normalise a network.

    Parameters
    ----------
    model : ModelProto
        Any of opset 11 to 23; left as it is.
    spec : InputSpec
        Size and normalisation of the image.
    options : CompileOptions
        Output, classes, dropout to inject.

    Returns
    -------
    Prepared
        See there.

    Raises
    ------
    GraphError
        With what cannot be compiled, and what to do.

    """
    require_own_names(model)
    static = fold_constants(to_opset17(fix_input(model, spec.height, spec.width)))
    require_compilable(static)
    if options.num_classes:
        static = to_logits(static, options.output, options.num_classes)
    logits = free_names(static)
    injected: tuple[str, ...] = ()
    if options.inject is not None:
        logits, injected = inject_dropout(logits, *options.inject)
    plain, upsampling = strip_final_resize(take_bytes(logits, spec))
    folded, decisions = fold_batch_norm(plain)
    return Prepared(folded, logits, upsampling, injected, decisions)
