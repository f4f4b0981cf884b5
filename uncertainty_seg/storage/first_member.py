# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The first network of an ensemble as a separate bundle, to measure its cost and quality alone.

A mask that selects the first member is not enough: the trunk would still run all members.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from uncertainty_seg.core.bundle import ModelBundle, PASSES_FILE, TRUNK_FILE
from uncertainty_seg.core.dropout_masks import MEMBER
from uncertainty_seg.errors import ModelBundleError
from uncertainty_seg.storage.model_bundle import write_bundle


def first_member(bundle: ModelBundle, folder: Path) -> ModelBundle:
    """
    Write the first member of an ensemble to a folder, with the ensemble's calibration in memory.

    It needs onnx. Raises ModelBundleError if the graphs are not those that compile writes for an
    ensemble.
    """
    import onnx.utils

    trunk, passes = onnx.load(bundle.trunk_path), onnx.load(bundle.passes_path)
    chosen = {name for node in passes.graph.node if MEMBER in node.input for name in node.output}
    choice = [node for node in passes.graph.node if chosen & {*node.input}]
    joins = [node for node in trunk.graph.node
             if choice and node.op_type == 'Concat' and choice[0].input[0] in node.output]
    if len(choice) != 1 or len(joins) != 1:
        raise ModelBundleError(f'{bundle.card.name!r} has no members that could be taken apart',
                               'an ensemble as compile and train write it')
    (join,), (choose,) = joins, choice
    del join.input[1:], choose.input[1:]
    choose.op_type = 'Identity'
    del choose.attribute[:]
    for values in (trunk.graph.output, passes.graph.input):
        joined = next(value for value in values if value.name == join.output[0])
        joined.type.tensor_type.shape.dim[0].dim_value = 1
    passes.graph.node.remove(next(n for n in passes.graph.node if MEMBER in n.input))
    passes.graph.input.remove(next(v for v in passes.graph.input if v.name == MEMBER))
    # ONNX Runtime would also run the nodes that lead to no output.
    trunk = onnx.utils.Extractor(trunk).extract_model(
        [value.name for value in trunk.graph.input], [value.name for value in trunk.graph.output])
    card = replace(bundle.card, method='single', members=0, dropout_sites=(), passes=1)
    return replace(bundle, folder=folder, card=write_bundle(folder, card, {
        TRUNK_FILE: trunk.SerializeToString(), PASSES_FILE: passes.SerializeToString()}))
