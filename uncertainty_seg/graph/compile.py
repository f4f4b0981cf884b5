# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From an ONNX network with dropout to the graphs of a bundle: the order of the passes.

Each pass is a file of its own and is tested for exact equality; this file only strings them
together. It imports no runtime: that the result computes the same is shown by the tests.

"""

from __future__ import annotations

from dataclasses import dataclass
import logging

import onnx

from uncertainty_seg.core.bundle import HEAD_FILE, HEAD_STATS_FILE, TRUNK_FILE
from uncertainty_seg.core.model_card import DropoutSite, InputSpec
from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.dropout_to_masks import dropout_to_masks
from uncertainty_seg.graph.final_resize import strip_final_resize
from uncertainty_seg.graph.fold_masks import fold_masks
from uncertainty_seg.graph.half_weights import halve_weights
from uncertainty_seg.graph.head_stats import add_statistics
from uncertainty_seg.graph.image_input import take_bytes
from uncertainty_seg.graph.lint import require_clean
from uncertainty_seg.graph.onnx_tools import MARKER_DOMAIN, OPSET
from uncertainty_seg.graph.split import split_trunk_head

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompiledGraphs:
    """
    What a bundle holds beside its card.

    Attributes
    ----------
    files : dict of str to bytes
        Trunk, head, and head with statistics, by file name.
    sites : tuple of DropoutSite
        Mask inputs of the head.
    logits_shape : (int, int, int)
        (C, hl, wl).
    folded : tuple of str
        Masks that moved into the weights of the convolution behind them.
    upsampling : str
        One of `core.model_card.UPSAMPLINGS`.

    """

    files: dict[str, bytes]
    sites: tuple[DropoutSite, ...]
    logits_shape: tuple[int, int, int]
    folded: tuple[str, ...]
    upsampling: str


def compile_graph(
    model: onnx.ModelProto, spec: InputSpec, is_half: bool = True
) -> CompiledGraphs:
    """
    Compile a network.

    Parameters
    ----------
    model : ModelProto
        Input float32 (1, 3, h, w), normalised; one output of logits (1, C, hl, wl), with or
        without a last bilinear upsampling; at least one live dropout; opset 17.
    spec : InputSpec
        Size and normalisation.
    is_half : bool
        Store large weights in 16 bits.

    Returns
    -------
    CompiledGraphs
        Linted graphs.

    Raises
    ------
    GraphError
        With what cannot be compiled, and what to do.

    """
    _require_opset(model)
    plain, upsampling = strip_final_resize(take_bytes(model, spec))
    masked, sites = dropout_to_masks(plain)
    trunk, head = split_trunk_head(masked, sites)
    head, folded = fold_masks(head)
    shape = tuple(d.dim_value for d in head.graph.output[0].type.tensor_type.shape.dim)
    if len(shape) != 4:
        raise GraphError(f'the output has {len(shape)} axes', '(1, C, hl, wl) logits')
    stats = add_statistics(head, spec, upsampling)
    if is_half:
        trunk, head, stats = halve_weights(trunk), halve_weights(head), halve_weights(stats)
    for part in (trunk, head, stats):
        require_clean(part)
    _log.info(
        '%d dropout sites (%s), trunk %d nodes, head %d nodes, folded: %s', len(sites),
        ', '.join(f'{s.name} p={s.p:g}' for s in sites), len(trunk.graph.node),
        len(head.graph.node), ', '.join(folded) or 'none',
    )
    parts = {TRUNK_FILE: trunk, HEAD_FILE: head, HEAD_STATS_FILE: stats}
    files = {name: part.SerializeToString() for name, part in parts.items()}
    return CompiledGraphs(files, sites, (shape[1], shape[2], shape[3]), folded,
                          upsampling)


def _require_opset(model: onnx.ModelProto) -> None:
    versions = {e.domain: e.version for e in model.opset_import if e.domain != MARKER_DOMAIN}
    if versions.get('', versions.get('ai.onnx')) != OPSET:
        raise GraphError(f'the network has the opsets {versions}', f'opset {OPSET}',
                         f'export it again with opset_version={OPSET}')
