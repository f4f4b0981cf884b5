# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Two graphs around `head_stats.onnx`, so that the passes of a frame never leave the device.

One adds the sums of a chunk to those of the chunks before it, the other makes the maps of the
sums. Both are made from the bundle when it is opened, and in float32 whatever the network is in.

"""

from __future__ import annotations

from dataclasses import fields
import math
from pathlib import Path
from typing import Any

from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.uncertainty import UncertaintyMaps

# As graph.head_stats names them, which this room may not import; a test compares.
INV_TEMPERATURE, PASSES = 'inv_temperature', 'passes'
SUMS = ('sum_p', 'sum_entropy', 'sum_p2', 'votes')
BEFORE = 'before_'
MAPS = tuple(field.name for field in fields(UncertaintyMaps))
_OPSET, _IR = 17, 8


def adding(head_stats: Path) -> bytes:
    """
    Let a head with statistics add to sums that are given.

    Parameters
    ----------
    head_stats : Path
        As `graph.head_stats.add_statistics` wrote it; left as it is.

    Returns
    -------
    bytes
        An ONNX file with one more input for each of `SUMS`, `before_` put before its name.

    """
    import onnx

    model = onnx.load(str(head_stats))
    graph = model.graph
    inside = {name: f'{name}_of_chunk' for name in SUMS}
    for node in graph.node:
        renamed = [inside.get(name, name) for name in node.output]
        del node.output[:]
        node.output.extend(renamed)
    for info in graph.output:
        before = onnx.ValueInfoProto()
        before.CopyFrom(info)
        before.name = BEFORE + info.name
        graph.input.append(before)
    graph.node.extend(
        onnx.helper.make_node('Add', [BEFORE + name, part], [name])
        for name, part in inside.items())
    return bytes(model.SerializeToString())


def finishing(card: ModelCard) -> bytes:
    """
    Make the maps of `core.uncertainty` from sums over passes.

    Parameters
    ----------
    card : ModelCard
        Gives C, h and w.

    Returns
    -------
    bytes
        An ONNX file: `SUMS` and float32 `passes` (1,) in, `MAPS` (h, w) out, `label` as uint8.
        A pixel whose sum of squares is NaN is NaN in every map of floats, and 0 in `label`.

    """
    from onnx import helper, TensorProto

    plane = [card.input.height, card.input.width]
    stack = [card.num_classes, *plane]
    floats = TensorProto.FLOAT
    shapes = {'sum_p': stack, 'sum_entropy': plane, 'sum_p2': plane, 'votes': stack, PASSES: [1]}
    inputs = [helper.make_tensor_value_info(name, floats, dims) for name, dims in shapes.items()]
    outputs = [helper.make_tensor_value_info(
        name, TensorProto.UINT8 if name == 'label' else floats, plane) for name in MAPS]
    graph = helper.make_graph(_finish(), 'maps_of_sums', inputs, outputs,
                              _constants(card.num_classes))
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', _OPSET)], ir_version=_IR)
    return bytes(model.SerializeToString())


def _constants(num_classes: int) -> list[Any]:
    import numpy as np
    from onnx import numpy_helper

    values = {
        'zero': np.float32(0), 'one': np.float32(1), 'nan': np.float32(math.nan),
        'log_classes': np.float32(math.log(num_classes)), 'class_axis': np.array([0], np.int64),
    }
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def _finish() -> list[Any]:
    """Return the nodes; max and argmax of runtimes disagree about NaN, so it is put in by name."""
    from onnx import helper, TensorProto

    def node(op: str, inputs: str, output: str, **attributes: object) -> Any:
        return helper.make_node(op, inputs.split(), [output], **attributes)

    return [
        node('IsNaN', 'sum_p2', 'is_broken'),
        node('Div', f'sum_p {PASSES}', 'mean'),
        # Label and confidence. ReduceMax takes its axes as an attribute, or TensorRT 8.6 is wrong.
        node('ArgMax', 'mean', 'winner', axis=0, keepdims=0),
        node('Cast', 'winner', 'winner_f', to=TensorProto.FLOAT),
        node('Where', 'is_broken zero winner_f', 'label_f'),
        node('Cast', 'label_f', 'label', to=TensorProto.UINT8),
        node('ReduceMax', 'mean', 'largest', axes=[0], keepdims=0),
        node('Where', 'is_broken nan largest', 'confidence'),
        # Entropy, and what of it is not within the passes; 0 log 0 is 0.
        node('Equal', 'mean zero', 'is_zero'),
        node('Where', 'is_zero one mean', 'safe'),
        node('Log', 'safe', 'log_mean'),
        node('Mul', 'mean log_mean', 'plogp'),
        node('ReduceSum', 'plogp class_axis', 'minus_entropy', keepdims=0),
        node('Neg', 'minus_entropy', 'entropy_nats'),
        node('Div', f'sum_entropy {PASSES}', 'within_nats'),
        node('Sub', 'entropy_nats within_nats', 'mutual_raw'),
        *_not_below_zero('mutual_raw', 'mutual_nats'),
        node('Sub', 'entropy_nats mutual_nats', 'aleatoric_nats'),
        node('Div', 'entropy_nats log_classes', 'entropy'),
        node('Div', 'mutual_nats log_classes', 'mutual_information'),
        node('Div', 'aleatoric_nats log_classes', 'aleatoric'),
        # Disagreement.
        node('ReduceMax', 'votes', 'most_votes', axes=[0], keepdims=0),
        node('Div', f'most_votes {PASSES}', 'agreeing'),
        node('Sub', 'one agreeing', 'disagreeing'),
        node('Where', 'is_broken nan disagreeing', 'variation_ratio'),
        node('Div', f'sum_p2 {PASSES}', 'mean_square'),
        node('Mul', 'mean mean', 'mean_squared'),
        node('ReduceSum', 'mean_squared class_axis', 'square_of_mean', keepdims=0),
        node('Sub', 'mean_square square_of_mean', 'variance_raw'),
        *_not_below_zero('variance_raw', 'total_variance'),
    ]


def _not_below_zero(name: str, output: str) -> list[Any]:
    """Clip what rounding took below zero; NaN is below nothing and stays."""
    from onnx import helper

    return [
        helper.make_node('Less', [name, 'zero'], [f'{name}_is_below']),
        helper.make_node('Where', [f'{name}_is_below', 'zero', name], [output]),
    ]
