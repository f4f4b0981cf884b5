# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Find the log-variance of a network with a variance head, and join it to the logits.

The method `direct` needs both: as two outputs, or as one of 2C channels whose second half is the
log-variance. The passes behind work on one output, so that two are joined, before a last
upsampling that both have.

"""

from __future__ import annotations

import onnx
from onnx import helper, TensorProto

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.frontend.constant_folding import fold_constants
from uncertainty_seg.graph.frontend.outputs import (
    chosen_output,
    last_resize,
    resize_planes,
    without_activation,
)
from uncertainty_seg.graph.onnx_tools import (
    constants,
    copy_of,
    float_info,
    fresh_name,
    refill,
    Shape,
    types_of,
    UNKNOWN,
)

VARIANCE = 'log_variance'


def join_variance(
    model: onnx.ModelProto, output: str | None, variance: str | None, num_classes: int
) -> onnx.ModelProto:
    """
    Leave a network one output of logits and log-variances.

    Parameters
    ----------
    model : ModelProto
        Of static input, constants folded; left as it is.
    output : str or None
        Name of the output of logits, (1, C, h, w), or of both, (1, 2C, h, w) or (1, h, w, 2C).
    variance : str or None
        Name of the output of log-variances, (1, C, h, w); None takes `log_variance`, or the second
        half of an output of 2C channels.
    num_classes : int
        C.

    Returns
    -------
    ModelProto
        Its one output, of 2C channels, still as the network lays it out.

    Raises
    ------
    GraphError
        If there is no log-variance, or it is not of the logits' shape.

    """
    result = copy_of(model)
    graph = result.graph
    types = types_of(model)
    names = [info.name for info in graph.output]
    if variance is None and VARIANCE not in names:
        double = [n for n in ([output] if output else names)
                  if _has_both(types.get(n, UNKNOWN).shape or (), num_classes)]
        if len(double) != 1:
            listed = ', '.join(f'{n} {types.get(n, UNKNOWN).shape}' for n in names)
            raise GraphError(
                f'the network has no variance head: its outputs are {listed}',
                f'{VARIANCE} beside the logits, or one output of {2 * num_classes} channels',
                'name it with --variance, or train a network that has one')
        refill(graph.output, [helper.make_tensor_value_info(double[0], TensorProto.FLOAT,
                                                            types[double[0]].shape)])
        return result
    spread = variance or VARIANCE
    refill(graph.output, [info for info in graph.output if info.name != spread])
    logits = without_activation(graph, chosen_output(graph, output, num_classes, types),
                                num_classes, types)
    made = {name for node in graph.node for name in node.output}
    shapes = [types.get(name, UNKNOWN).shape for name in (logits, spread)]
    if spread not in made or shapes[0] != shapes[1] or _planes(shapes[0]) != num_classes:
        raise GraphError(
            f'the log-variance {spread!r} of shape {shapes[1]} beside logits of {shapes[0]}',
            f'both as planes (1, {num_classes}, h, w)',
            f'name the output that has them with --variance: one of {names}')
    refill(graph.output, [_joined(graph, logits, spread, shapes[0] or ())])
    return fold_constants(result)


def _has_both(shape: tuple[int | None, ...], num_classes: int) -> bool:
    """Whether a tensor has 2C planes; one of C planes has not, however wide it is."""
    planes = {shape[1], shape[-1]} if len(shape) == 4 else set(shape)
    return 2 * num_classes in planes and num_classes not in planes


def _planes(shape: Shape | None) -> int:
    return shape[1] if shape is not None and len(shape) == 4 else 0


def _joined(
    graph: onnx.GraphProto, logits: str, spread: str, shape: Shape
) -> onnx.ValueInfoProto:
    """Write the join, before the last Resize where both have the same one."""
    both = fresh_name(graph, f'{logits}_and_variance')
    lasts = [last_resize(graph, name) for name in (logits, spread)]
    first, second = lasts
    if first is None or second is None or _way(graph, first) != _way(graph, second):
        graph.node.append(helper.make_node('Concat', [logits, spread], [both], axis=1))
        return float_info(both, (1, 2 * shape[1], *shape[2:]))
    low = fresh_name(graph, f'{both}_low')
    join = helper.make_node('Concat', [first.input[0], second.input[0]], [low], axis=1)
    again = copy_of(first)
    again.name, again.input[0], again.output[0] = both, low, both
    graph.node.extend([join, again])
    resize_planes(graph, again, 2 * shape[1])
    return float_info(both, (1, 2 * shape[1], *shape[2:]))


def _way(graph: onnx.GraphProto, resize: onnx.NodeProto) -> tuple[object, ...]:
    """Return all that decides what a Resize does."""
    known = constants(graph)
    values = [known[name].tolist() if name else None for name in resize.input[1:]]
    return (repr(values), *sorted(entry.SerializeToString() for entry in resize.attribute))
