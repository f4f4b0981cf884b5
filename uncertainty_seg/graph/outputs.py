# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Leave a network one output: logits of planes (1, C, hl, wl).

Exported networks end in a softmax, a sigmoid, an argmax, planes last, a squeeze, or several
outputs. What has an exact way back to logits is taken back; the rest is refused.

"""

from __future__ import annotations

from collections.abc import Mapping
import difflib
import math

import onnx
from onnx import helper, TensorProto

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.constant_folding import fold_constants
from uncertainty_seg.graph.onnx_tools import attribute, copy_of
from uncertainty_seg.graph.output_layout import planes_first, two_classes
from uncertainty_seg.graph.tensor_types import TensorType, types_of, UNKNOWN

_USUAL = ('out', 'logits', 'output')
_LAYOUT = ('Transpose', 'Reshape', 'Squeeze', 'Unsqueeze', 'Flatten', 'Identity', 'Cast', 'Resize')
_ACTIVATIONS = ('Softmax', 'LogSoftmax', 'Sigmoid', 'ArgMax')


def to_logits(model: onnx.ModelProto, output: str | None, num_classes: int) -> onnx.ModelProto:
    """
    Choose the output and bring it to logits.

    Parameters
    ----------
    model : ModelProto
        From `make_static`; left as it is.
    output : str or None
        Name of the output, or of any tensor; None takes the only one that fits.
    num_classes : int
        C. One channel of a binary network becomes two classes, background and object.

    Returns
    -------
    ModelProto
        With one output, float32 (1, C, hl, wl), whose softmax are the probabilities.

    Raises
    ------
    GraphError
        If no output fits, several do, or it cannot be brought to logits exactly.

    """
    types = types_of(model)
    name = _chosen(model.graph, output, num_classes, types)
    result = copy_of(model)
    name = _without_activation(result.graph, name, num_classes, types)
    kind = types.get(name, UNKNOWN)
    if kind.kind != TensorProto.FLOAT or kind.shape is None:
        raise GraphError(f'the output {name!r} is {_shown(kind)}', 'float32 of a static shape',
                         'export logits')
    del result.graph.output[:]
    result.graph.output.append(helper.make_tensor_value_info(name, kind.kind, kind.shape))
    axis = _class_axis(name, _four(kind.shape, name), num_classes)
    result = planes_first(result, _four(kind.shape, name), axis)
    if _four(kind.shape, name)[axis] == 1:
        result = two_classes(fold_constants(result))
    return fold_constants(result)


def _shown(kind: TensorType) -> str:
    name = TensorProto.DataType.Name(kind.kind).lower()
    dims = '?' if kind.dims is None else ', '.join('?' if d is None else str(d) for d in kind.dims)
    return f'{name} ({dims})'


def _chosen(
    graph: onnx.GraphProto, output: str | None, num_classes: int,
    types: Mapping[str, TensorType],
) -> str:
    names = [info.name for info in graph.output]
    if output is not None:
        tensors = [name for node in graph.node for name in node.output if name]
        if output in names or output in tensors:
            return output
        near = difflib.get_close_matches(output, [*names, *tensors], 3)
        raise GraphError(f'the network has no output {output!r}', f'one of {names}',
                         f'did you mean {near}?' if near else '')
    usual = [name for name in names if name in _USUAL]
    fitting = [name for name in names if _fits(types.get(name, UNKNOWN), num_classes)]
    for candidates in (names, usual, fitting):
        if len(candidates) == 1:
            return candidates[0]
    listed = ', '.join(f'{name} {_shown(types.get(name, UNKNOWN))}' for name in names)
    raise GraphError(f'the network has {len(names)} outputs ({listed})',
                     f'one of {num_classes} classes', 'choose the one of logits with --output')


def _fits(kind: TensorType, num_classes: int) -> bool:
    dims = kind.dims or ()
    axes = {4: (1, 3), 3: (0, 2)}.get(len(dims), ())
    return any(dims[axis] == num_classes for axis in axes)


def _without_activation(
    graph: onnx.GraphProto, name: str, num_classes: int, types: Mapping[str, TensorType]
) -> str:
    """Take a last softmax or sigmoid off; return the name of the output then."""
    made = {out: node for node in graph.node for out in node.output}
    path: list[onnx.NodeProto] = []
    node = made.get(name)
    while node is not None and node.op_type in _LAYOUT and node.domain == '':
        path.append(node)
        node = made.get(node.input[0])
    if node is None or node.op_type not in _ACTIVATIONS:
        return name
    source = node.input[0]
    what = f'the output {name!r} comes from {node.op_type} {node.name!r}'
    if node.op_type == 'ArgMax':
        raise GraphError(f'{what}, which keeps no probabilities', 'logits',
                         f'export the logits, or name them: --output {source}')
    if any(step.op_type == 'Resize' for step in path):
        raise GraphError(f'{what}, which is resized after it', 'logits, resized or not',
                         'resize the logits and not the probabilities, or name the tensor '
                         f'before: --output {source}')
    _require_over_classes(node, path, name, num_classes, types)
    if not path:
        return source
    path[-1].input[0] = source
    return name


def _require_over_classes(
    node: onnx.NodeProto, path: list[onnx.NodeProto], name: str, num_classes: int,
    types: Mapping[str, TensorType],
) -> None:
    shapes = [types.get(n, UNKNOWN).shape for n in (name, *(step.input[0] for step in path))]
    if shapes[0] is None or any(shape is None for shape in shapes):
        raise GraphError(f'the output {name!r} has no static shape', 'a fixed input size')
    full = _four(shapes[0], name)
    axis = _class_axis(name, full, num_classes)
    if node.op_type == 'Sigmoid':
        if full[axis] != 1:
            raise GraphError(
                f'the output {name!r} is a sigmoid of {full[axis]} channels, classes that do '
                'not exclude each other', 'a softmax over classes, or a sigmoid of one channel',
                'train the network with one class a pixel')
        return
    along: int | None = axis - (4 - len(shapes[0]))
    for step, new, old in zip(path, shapes[:-1], shapes[1:], strict=True):
        along = _axis_before(step, along, old or (), new or ())
    rank = len(shapes[-1] or ())
    if along is None or along != attribute(node, 'axis', -1) % rank:
        raise GraphError(
            f'{node.op_type} {node.name!r} runs along axis {attribute(node, "axis", -1)} of '
            f'{shapes[-1]}', f'the axis of the {num_classes} classes', 'export the logits')


def _axis_before(
    step: onnx.NodeProto, axis: int | None, old: tuple[int, ...], new: tuple[int, ...]
) -> int | None:
    """Say which axis of a step's input becomes an axis of its output, if one does."""
    if axis is None:
        return None
    if step.op_type == 'Transpose':
        return list(attribute(step, 'perm', range(len(new))[::-1]))[axis]
    before, size = math.prod(new[:axis]), new[axis]
    return next((i for i, n in enumerate(old) if n == size and math.prod(old[:i]) == before),
                None)


def _four(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """Return the shape of four axes that a squeezed output had before."""
    if len(shape) in (2, 3, 4):
        shape = (1,) * (4 - len(shape)) + shape
    if len(shape) != 4 or shape[0] != 1:
        raise GraphError(f'the output {name!r} has the shape {shape}', '(1, C, h, w) or (1, h, w, '
                         'C) of one image', 'export logits as planes')
    return shape


def _class_axis(name: str, shape: tuple[int, ...], num_classes: int) -> int:
    """Return 1 or 3."""
    wanted = (num_classes, 1) if num_classes == 2 else (num_classes,)
    for size in wanted:
        for axis in (1, 3):
            if shape[axis] == size:
                return axis
    came = f'the output {name!r} of shape {shape} has {shape[1]} channels'
    if shape[1] == 1:
        raise GraphError(came, f'{num_classes} classes', 'list two classes, background and '
                         'object, for a network of one channel')
    raise GraphError(came, f'{num_classes} classes', 'list as many classes as the network has')
