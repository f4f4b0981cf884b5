# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Reduce a network's outputs to one: logits as planes (1, C, hl, wl).

Exported networks end in a softmax, a sigmoid, an argmax, channels last, a squeeze, or several
outputs. An output that can be converted back to logits exactly is converted; others are rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import difflib
import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, TensorProto

from uncertainty_seg.compiler.frontend.constant_folding import fold_constants
from uncertainty_seg.compiler.onnx_tools import (
    add_constant,
    attribute,
    constants,
    copy_of,
    float_info,
    fresh_name,
    NodeWriter,
    producer,
    refill,
    replace_node,
    Shape,
    TensorType,
    types_of,
    UNKNOWN,
)
from uncertainty_seg.errors import GraphError, some_of

_Number = TypeVar('_Number', bound=np.generic)
# Names of the logits in segmentation libraries.
USUAL_OUTPUTS = ('out', 'logits', 'output')
_LAYOUT = ('Transpose', 'Reshape', 'Squeeze', 'Unsqueeze', 'Flatten', 'Identity', 'Cast', 'Resize')
# Operators, and the `activation` that declares them.
_ACTIVATIONS = {'Softmax': 'softmax', 'LogSoftmax': 'log_softmax', 'Sigmoid': 'sigmoid',
                'ArgMax': 'argmax'}
# Added to probabilities to keep their logarithm finite; changes none above 2e-23 in float32.
_LEAST = 1e-30


@dataclass(frozen=True)
class OutputForm:
    """Required and declared properties of an output."""

    num_classes: int  # C
    activation: str = 'auto'  # One of `plan.ACTIVATIONS`; 'auto' decides by the last nodes.
    size: tuple[int, int] = (0, 0)  # (h, w) of the image
    # Names of the outputs of logits and of log-variances, if a network has several outputs.
    output: str | None = None
    variance: str | None = None


def to_logits(
    model: onnx.ModelProto, output: str | None, num_classes: int, activation: str = 'auto',
) -> onnx.ModelProto:
    """
    Choose the output and convert it to logits.

    Raises GraphError if no output fits, several fit, it cannot be converted to logits exactly, or
    the declared activation contradicts the last nodes.
    """
    types = types_of(model)
    rows, columns = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[2:])
    form = OutputForm(num_classes, activation, (rows, columns))
    name = chosen_output(model.graph, output, num_classes, types)
    result = copy_of(model)
    name, is_logits = without_activation(result.graph, name, form, types)
    if activation == 'log_softmax' and not is_logits:
        raise GraphError(f'activation is log_softmax, and none makes the output {name!r}',
                         'a LogSoftmax at the end',
                         'leave it out: logarithms of probabilities are logits')
    kind = types.get(name, UNKNOWN)
    if kind.kind != TensorProto.FLOAT or kind.shape is None:
        raise GraphError(f'the output {name!r} is {_shown(kind)}', 'float32 of a static shape',
                         'export logits')
    refill(result.graph.output, [helper.make_tensor_value_info(name, kind.kind, kind.shape)])
    shape, axis, _ = _class_axis(name, kind.shape, form)
    _put_planes_first(result.graph, shape, axis)
    if not is_logits and activation in ('softmax', 'sigmoid'):
        _make_logarithms(result.graph, name, form)
    elif shape[axis] == 1:
        result = fold_constants(result)
        _make_two_classes(result.graph)
    return fold_constants(result)


def _shown(kind: TensorType) -> str:
    name = TensorProto.DataType.Name(kind.kind).lower()
    return f'{name} {"(?)" if kind.dims is None else _listed(kind.dims)}'


def chosen_output(
    graph: onnx.GraphProto, output: str | None, num_classes: int,
    types: Mapping[str, TensorType],
) -> str:
    """Return the output named `output`, or the only one that fits C classes; else GraphError."""
    tensors = {name for node in graph.node for name in node.output if name}
    if output is not None and output in tensors:
        return output
    dims = {info.name: types.get(info.name, UNKNOWN).dims or () for info in graph.output}
    return choose_output(dims, OutputForm(num_classes, output=output), sorted(tensors))


def choose_output(
    dims: Mapping[str, Sequence[int | None]], form: OutputForm, others: Sequence[str] = (),
) -> str:
    """
    Choose the output of logits by name and shape.

    It is never the output of log-variances. If the form requires variances and no output has that
    name, one output of 2C channels may hold both. `others` are further names to suggest for an
    unknown name. Raises GraphError if no output fits, or more than one.
    """
    names = [name for name in dims if name != form.variance]
    if form.output is not None:
        if form.output in names:
            return form.output
        near = difflib.get_close_matches(form.output, dict.fromkeys([*names, *others]), 3)
        raise GraphError(f'the network has no output {form.output!r}', f'one of {some_of(names)}',
                         f'did you mean {" or ".join(near)}?' if near else '')
    fitting = [name for name in names if _fits(dims[name], form.num_classes)]
    has_both = form.variance is not None and form.variance not in dims
    both = [name for name in names if has_both and name not in fitting
            and _fits(dims[name], 2 * form.num_classes)]
    usual = [name for name in names if name in USUAL_OUTPUTS]
    for candidates in (names, both, usual, fitting):
        if len(candidates) == 1:
            return candidates[0]
    listed = some_of(f'{name} {_listed(dims[name])}' for name in names)
    raise GraphError(f'the network has {len(names)} outputs ({listed})',
                     f'one of {form.num_classes} classes', 'name the one of logits')


def _fits(dims: Sequence[int | None], num_classes: int) -> bool:
    axes = {4: (1, 3), 3: (0, 2)}.get(len(dims), ())
    return any(dims[axis] == num_classes for axis in axes)


def _listed(dims: Sequence[int | None]) -> str:
    return f'({", ".join("?" if d is None else str(d) for d in dims)})'


def without_activation(
    graph: onnx.GraphProto, name: str, form: OutputForm, types: Mapping[str, TensorType]
) -> tuple[str, bool]:
    """Remove a final softmax or sigmoid; return the output's name and whether one was removed."""
    made = {out: node for node in graph.node for out in node.output}
    path: list[onnx.NodeProto] = []
    node = made.get(name)
    while node is not None and node.op_type in _LAYOUT and node.domain == '':
        path.append(node)
        node = made.get(node.input[0])
    if node is not None and node.op_type == 'Log':
        _require_no_log_sigmoid(made.get(node.input[0]), name, form, types)
    if node is None or node.op_type not in _ACTIVATIONS:
        return name, False
    source = node.input[0]
    what = f'the output {name!r} comes from {node.op_type} {node.name!r}'
    if node.op_type == 'ArgMax':
        raise GraphError(f'{what}, which keeps no probabilities', 'logits',
                         f'return the logits (output={source} names them in an ONNX file)')
    if form.activation not in ('auto', _ACTIVATIONS[node.op_type]):
        raise GraphError(f'{what}, and the activation was declared as {form.activation}',
                         f'activation={_ACTIVATIONS[node.op_type]}', 'leave it out')
    if any(step.op_type == 'Resize' for step in path):
        if form.activation in ('softmax', 'sigmoid'):
            return name, False
        keep = '' if node.op_type == 'LogSoftmax' else \
            f', or keep what is resized: activation={_ACTIVATIONS[node.op_type]}'
        raise GraphError(f'{what}, which is resized after it', 'logits, resized or not',
                         'resize the logits and not the probabilities, or return the logits '
                         f'(output={source} names them in an ONNX file){keep}')
    _require_over_classes(node, path, name, form, types)
    if not path:
        return source, True
    path[-1].input[0] = source
    return name, True


def _require_over_classes(
    node: onnx.NodeProto, path: list[onnx.NodeProto], name: str, form: OutputForm,
    types: Mapping[str, TensorType],
) -> None:
    shapes = [types.get(n, UNKNOWN).shape for n in (name, *(step.input[0] for step in path))]
    if shapes[0] is None or any(shape is None for shape in shapes):
        raise GraphError(f'the output {name!r} has no static shape', 'a fixed input size')
    full, axis, own_axis = _class_axis(name, shapes[0], form)
    if node.op_type == 'Sigmoid':
        if full[axis] != 1:
            raise _several_sigmoids(name, full[axis])
        return
    along: int | None = own_axis
    for step, new, old in zip(path, shapes[:-1], shapes[1:], strict=True):
        along = _axis_before(step, along, old or (), new or ())
    rank = len(shapes[-1] or ())
    if along is None or along != attribute(node, 'axis', -1) % rank:
        raise GraphError(
            f'{node.op_type} {node.name!r} runs along axis {attribute(node, "axis", -1)} of '
            f'{shapes[-1]}', f'the axis of the {form.num_classes} classes', 'export the logits')


def _require_no_log_sigmoid(
    node: onnx.NodeProto | None, name: str, form: OutputForm, types: Mapping[str, TensorType]
) -> None:
    """Raise for a single channel of log p, which is no logit, as it is negative everywhere."""
    shape = types.get(name, UNKNOWN).shape
    if node is None or node.op_type != 'Sigmoid' or shape is None:
        return
    full, axis, _ = _class_axis(name, shape, form)
    if full[axis] == 1:
        raise GraphError(f'the output {name!r} is the logarithm of a sigmoid of one channel',
                         'a logit, or the sigmoid itself',
                         'leave the logarithm out, or return the tensor before '
                         f'(output={node.input[0]} names it in an ONNX file)')


def _several_sigmoids(name: str, channels: int) -> GraphError:
    return GraphError(
        f'the output {name!r} is a sigmoid of {channels} channels, classes that do not exclude '
        'each other', 'a softmax over classes, or a sigmoid of one channel',
        'train the network with one class a pixel')


def _axis_before(step: onnx.NodeProto, axis: int | None, old: Shape, new: Shape) -> int | None:
    """Return the axis of a step's input that becomes `axis` of its output; None if none does."""
    if axis is None:
        return None
    if step.op_type == 'Transpose':
        return list(attribute(step, 'perm', range(len(new))[::-1]))[axis]
    before, size = math.prod(new[:axis]), new[axis]
    return next((i for i, n in enumerate(old) if n == size and math.prod(old[:i]) == before), None)


def _class_axis(name: str, shape: Shape, form: OutputForm) -> tuple[Shape, int, int]:
    """Return an output's shape as four axes, and the class axis in it and in `shape`."""
    places = _places(name, shape, form)
    if places is not None:
        return places
    full = shape
    is_plane = len(shape) == 2 and form.num_classes == 2 and min(shape) > 1
    if len(shape) in (3, 4) or is_plane:
        full = (1,) * (4 - len(shape)) + shape
    if len(full) != 4 or full[0] != 1:
        raise GraphError(f'the output {name!r} has the shape {shape}', '(1, C, h, w), (1, h, w, '
                         'C) or (1, places, C) of one image', 'export logits as planes')
    axis = _axis_of_four(name, full, form)
    return full, axis, axis - (4 - len(shape))


def in_planes(values: NDArray[_Number], form: OutputForm) -> NDArray[_Number]:
    """Return the original network's output for one pass in the layout of planes, (1, ...)."""
    if values.shape[:1] != (1,):
        values = values[None]  # some networks squeeze the batch
    places = _places('', values.shape, form) if values.ndim == 3 else None
    if places is None:
        return values  # the comparison finds the class axis by its size, or raises
    full, axis, _ = places
    return np.moveaxis(values.reshape(full), axis, 1)


def _axis_of_four(name: str, shape: Shape, form: OutputForm) -> int:
    """Return the class axis, 1 or 3, of four axes."""
    classes = form.num_classes
    fitting = [axis for axis in (1, 3) if shape[axis] == classes > 1]
    if len(fitting) == 2 and shape[2] > 1:
        raise GraphError(f'the output {name!r} of shape {shape} may have its {classes} classes '
                         'first or last', 'one axis of that size', 'choose another size')
    fitting += [axis for axis in (1, 3) if classes == 2 and shape[axis] == 1]
    if fitting:
        return fitting[0]
    came = f'the output {name!r} of shape {shape} has {_count(shape[1], "channel")}'
    wanted = f'{classes} class' + 'es' * (classes != 1)
    if shape[1] == 1:
        raise GraphError(came, 'one for each class, or two classes', 'list two classes, '
                         'background and object, for a network of one channel')
    raise GraphError(came, wanted, 'list as many classes as the network has')


def _count(number: int, thing: str) -> str:
    return f'{number} {thing}' + 's' * (number != 1)


def _places(name: str, shape: Shape, form: OutputForm) -> tuple[Shape, int, int] | None:
    """Read (1, places, C) or (1, C, places), as transformers return; None for other shapes."""
    channels = (form.num_classes, 1) if form.num_classes == 2 else (form.num_classes,)
    if len(shape) != 3 or shape[0] != 1 or min(form.size) <= 1:
        return None
    is_last, is_first = shape[2] in channels, shape[1] in channels
    if is_last and is_first and _grids(shape[1], form.size):
        raise GraphError(f'the output {name!r} of shape {shape} may have its {form.num_classes} '
                         'classes first or last', 'one axis of that size', 'choose another size')
    if is_last == is_first:
        return None
    count = shape[1] if is_last else shape[2]
    grids = _grids(count, form.size)
    if len(grids) != 1:
        raise GraphError(
            f'the output {name!r} of shape {shape} is a list of {count} positions, not the grid '
            f'of an image of {form.size[1]}x{form.size[0]}',
            'as many positions as rows times columns',
            'remove extra positions, such as a class token, or reshape it to planes')
    (rows, columns), = grids
    return ((1, rows, columns, shape[2]), 3, 2) if is_last else \
        ((1, shape[1], rows, columns), 1, 1)


def _grids(count: int, size: tuple[int, int]) -> set[tuple[int, int]]:
    """Return the grids (rows, columns) of `count` places that a stride gives for an image."""
    rounded = [tuple(-(-n // stride) for n in size) for stride in range(1, max(size) + 1)]
    cut = [tuple(n // stride for n in size) for stride in range(1, max(size) + 1)]
    return {(h, w) for h, w in (*rounded, *cut) if h * w == count}


# -------------------------------------------------------------------------------------------------
# Convert an output of logits to planes, and one channel of a binary network to two classes.
# Both changes go before a final Resize, which treats planes separately, so that it stays the last
# node and `strip_final_resize` can remove it. Nothing is rounded: the factors are halves.

_FIRST = (0, 3, 1, 2)


def _put_planes_first(graph: onnx.GraphProto, shape: Sequence[int], axis: int) -> None:
    """Reshape the output to the four axes of `shape`, and move its classes to axis 1."""
    info = graph.output[0]
    name = info.name
    if len(info.type.tensor_type.shape.dim) < 4:
        full = fresh_name(graph, f'{name}_full')
        size = add_constant(graph, f'{full}_shape', np.array(shape, np.int64))
        graph.node.append(helper.make_node('Reshape', [name, size], [full]))
        name = full
    if axis == 3:
        name = _turned(graph, name)
        shape = [shape[i] for i in _FIRST]
    refill(graph.output, [float_info(name, shape)])


def _turned(graph: onnx.GraphProto, name: str) -> str:
    """Transpose a tensor to planes, before the final Resize if there is one."""
    target = fresh_name(graph, f'{name}_planes')
    last = last_resize(graph, name)
    if last is None:
        graph.node.append(helper.make_node('Transpose', [name], [target], perm=_FIRST))
        return target
    low = fresh_name(graph, f'{target}_low')
    turn = helper.make_node('Transpose', last.input[:1], [low], perm=_FIRST)
    values = [constants(graph)[entry] if entry else None for entry in last.input[2:]]
    last.input[:] = [low, '', *(
        add_constant(graph, f'{target}_size', value[list(_FIRST)])
        if value is not None and value.size else '' for value in values)]
    last.output[0] = target
    replace_node(graph, last, [turn, last])
    return target


def _make_two_classes(graph: onnx.GraphProto) -> None:
    """
    Expand one channel z to two classes: logits -z / 2 and z / 2, whose softmax is sigmoid(z).

    A convolution that computes z gets two filters.
    """
    name = graph.output[0].name
    dims = [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
    last = last_resize(graph, name)
    source = last.input[0] if last is not None else name
    if last is not None:
        resize_planes(graph, last, 2)
    conv = producer(graph.node, source)
    if conv is None or not _doubled(graph, conv):
        name = _concatenated(graph, source, last)
    refill(graph.output, [float_info(name, (1, 2, *dims[2:]))])


def _make_logarithms(graph: onnx.GraphProto, name: str, form: OutputForm) -> None:
    """
    Convert declared probabilities to logits: their logarithms, which a softmax inverts.

    One channel p becomes 1 - p and p; if resizing rounded p to above 1, 1 - p becomes 0.
    """
    source = graph.output[0].name
    shape = [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
    if form.activation == 'sigmoid' and shape[1] > 1:
        raise _several_sigmoids(name, shape[1])
    if form.activation == 'softmax' and shape[1] == 1:
        raise GraphError(f'the output {name!r} has one channel, and activation is softmax',
                         'the probabilities of two classes or more', 'say activation=sigmoid')
    target = fresh_name(graph, f'{source}_log')
    write = NodeWriter(graph, target)
    if shape[1] == 1:
        rest = write.node('Sub', [write.constant('one', 1), source], 'rest')
        source = write.node('Concat', [write.node('Relu', [rest], 'other'), source], 'both',
                            axis=1)
    above = write.node('Add', [source, write.constant('least', _LEAST)], 'above')
    write.node('Log', [above])
    graph.node.extend(write.nodes)
    refill(graph.output, [float_info(target, (1, max(shape[1], 2), *shape[2:]))])


def last_resize(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """Return the Resize that writes a tensor, if its arguments are constant and it crops none."""
    node, known = producer(graph.node, name), constants(graph)
    is_plain = (node is not None and node.op_type == 'Resize'
                and all(entry in known for entry in node.input[1:] if entry)
                and attribute(node, 'coordinate_transformation_mode') != 'tf_crop_and_resize')
    return node if is_plain else None


def _doubled(graph: onnx.GraphProto, conv: onnx.NodeProto) -> bool:
    """Replace the one filter of a convolution by two; return whether that was possible."""
    known = constants(graph)
    weights = [known.get(entry) for entry in conv.input[1:]]
    if conv.op_type != 'Conv' or any(w is None or len(w) != 1 for w in weights):
        return False
    for index, value in enumerate(weights, 1):
        if value is not None:
            half = np.asarray(value, np.float32) / 2
            pair = np.concatenate([-half, half])
            conv.input[index] = add_constant(graph, f'{conv.input[index]}_two', pair)
    return True


def _concatenated(graph: onnx.GraphProto, source: str, last: onnx.NodeProto | None) -> str:
    """Concatenate -z / 2 and z / 2; return the name of the new output."""
    both = fresh_name(graph, f'{source}_two_classes')
    halves, nodes = [], []
    for word, factor in (('background', -0.5), ('object', 0.5)):
        half = fresh_name(graph, f'{both}_{word}')
        scale = add_constant(graph, f'{half}_factor', np.array(factor, np.float32))
        nodes.append(helper.make_node('Mul', [source, scale], [half]))
        halves.append(half)
    nodes.append(helper.make_node('Concat', halves, [both], axis=1))
    if last is None:
        graph.node.extend(nodes)
        return both
    last.input[0] = both
    name: str = last.output[0]
    replace_node(graph, last, [*nodes, last])
    return name


def resize_planes(graph: onnx.GraphProto, last: onnx.NodeProto, count: int) -> None:
    """Change the number of planes in a Resize that states all four sizes."""
    if len(last.input) > 3 and last.input[3]:
        sizes = np.array(constants(graph)[last.input[3]])
        sizes[1] = count
        last.input[3] = add_constant(graph, f'{last.input[3]}_{count}', sizes)


# -------------------------------------------------------------------------------------------------
# Remove the final upsampling of a network. Passes are summed on the logits' grid, and only the
# maps are upsampled; with the Resize in the graph, each frame would need T x C x h x w values.

_OURS = {'half_pixel': 'half_pixel', 'pytorch_half_pixel': 'half_pixel',
         'align_corners': 'align_corners'}


def strip_final_resize(
    model: onnx.ModelProto, size: tuple[int, int] | None = None
) -> tuple[onnx.ModelProto, str]:
    """Remove a bilinear Resize that writes the only output; return its kind of upsampling."""
    result = copy_of(model)
    graph = result.graph
    last = producer(graph.node, graph.output[0].name)
    if last is None or len(graph.output) != 1 or last.op_type != 'Resize' \
            or attribute(last, 'mode', 'nearest') != 'linear':
        return result, 'half_pixel'
    mode = attribute(last, 'coordinate_transformation_mode', 'half_pixel')
    if mode not in _OURS or size is not None and not _is_to(model, last, size, _OURS[mode]):
        return result, 'half_pixel'
    refill(graph.node, [n for n in graph.node if n is not last])
    info = helper.make_tensor_value_info(last.input[0], TensorProto.FLOAT, None)
    refill(graph.output, [info])
    return result, _OURS[mode]


def _is_to(
    model: onnx.ModelProto, resize: onnx.NodeProto, size: tuple[int, int], upsampling: str
) -> bool:
    """Return whether a Resize has the result `size` and the scales that follow from the sizes."""
    types = types_of(model)
    old, new = (types.get(name, UNKNOWN).shape for name in (resize.input[0], resize.output[0]))
    if old is None or new is None or new[2:] != size:
        return False
    scales = constants(model.graph).get(resize.input[2]) if len(resize.input) > 2 else None
    if upsampling == 'align_corners' or scales is None or not scales.size:
        return True  # aligned corners use only the sizes
    return bool(np.allclose(scales[2:], np.divide(new[2:], old[2:]), rtol=1e-6, atol=0))


# -------------------------------------------------------------------------------------------------
# Find the log-variance of a network with a variance head, and join it to the logits.
# The method `direct` needs both: as two outputs, or as one of 2C channels whose second half is the
# log-variance. Later graph passes work on one output, so two outputs are concatenated, before a
# final upsampling if both have the same one.

VARIANCE = 'log_variance'


def join_variance(
    model: onnx.ModelProto, output: str | None, variance: str | None, num_classes: int
) -> onnx.ModelProto:
    """Reduce the outputs to one with logits and log-variances; GraphError if they are missing."""
    result = copy_of(model)
    graph = result.graph
    types = types_of(model)
    names = [info.name for info in graph.output]
    if variance is None and VARIANCE not in names:
        double = [n for n in ([output] if output else names)
                  if _has_both(types.get(n, UNKNOWN).shape or (), num_classes)]
        if len(double) != 1:
            raise _no_variance(names, output, num_classes, types)
        refill(graph.output, [helper.make_tensor_value_info(double[0], TensorProto.FLOAT,
                                                            types[double[0]].shape)])
        return result
    spread = variance or VARIANCE
    refill(graph.output, [info for info in graph.output if info.name != spread])
    logits, _ = without_activation(graph, chosen_output(graph, output, num_classes, types),
                                   OutputForm(num_classes), types)
    made = {name for node in graph.node for name in node.output}
    shapes = [types.get(name, UNKNOWN).shape for name in (logits, spread)]
    if spread not in made:
        raise GraphError(f'the network has no output {spread!r}', f'one of {some_of(names)}',
                         'name that of the log-variance')
    if shapes[0] != shapes[1] or _planes(shapes[0]) != num_classes:
        raise GraphError(
            f'the log-variance {spread!r} of shape {shapes[1]} beside logits of {shapes[0]}',
            f'both as planes (1, {num_classes}, h, w)',
            f'name the output that has them with variance: one of {some_of(names)}')
    refill(graph.output, [_joined(graph, logits, spread, shapes[0] or ())])
    return fold_constants(result)


def _no_variance(
    names: list[str], output: str | None, num_classes: int, types: Mapping[str, TensorType]
) -> GraphError:
    """Return the error, which suggests other outputs of C planes as the log-variance."""
    listed = some_of(f'{n} {types.get(n, UNKNOWN).shape}' for n in names)
    expected = f'{VARIANCE} beside the logits, or one output of {2 * num_classes} channels'
    planes = [n for n in names if _planes(types.get(n, UNKNOWN).shape) == num_classes]
    others = [n for n in planes if n != output]
    if len(planes) < 2 or not others:
        return GraphError(f'the network has no variance head: its outputs are {listed}', expected,
                          'name it with variance, or train a network that has one')
    named = ' or '.join(f'variance={n}' for n in others[:3])
    return GraphError(f'the network has no output {VARIANCE!r}: its outputs are {listed}',
                      expected, f'say which of them holds it: {named}')


def _has_both(shape: tuple[int | None, ...], num_classes: int) -> bool:
    """Return whether a tensor has 2C planes, and not C planes and a width of 2C."""
    planes = {shape[1], shape[-1]} if len(shape) == 4 else set(shape)
    return 2 * num_classes in planes and num_classes not in planes


def _planes(shape: Shape | None) -> int:
    return shape[1] if shape is not None and len(shape) == 4 else 0


def _joined(graph: onnx.GraphProto, logits: str, spread: str, shape: Shape) -> onnx.ValueInfoProto:
    """Write the concatenation, before the final Resize if both outputs have the same one."""
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
    """Return all arguments and attributes that define a Resize."""
    known = constants(graph)
    values = [known[name].tolist() if name else None for name in resize.input[1:]]
    return (repr(values), *sorted(entry.SerializeToString() for entry in resize.attribute))
