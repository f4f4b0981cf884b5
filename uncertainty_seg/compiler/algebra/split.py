# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Split a masked graph into the part that is the same in every pass and the part that varies.

The trunk is everything that no mask reaches; it runs once at batch 1. The head is the rest.
Convolutions over a concatenation of constant and varying tensors are split first, so that the
part over the constant tensors goes to the trunk. The trunk may also output image features.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper, TensorProto

from uncertainty_seg.compiler.algebra.dropout_to_masks import PASSES_AXIS
from uncertainty_seg.compiler.algebra.free_passes import one_pass
from uncertainty_seg.compiler.algebra.move_masks import touched_by
from uncertainty_seg.compiler.onnx_tools import (
    attribute,
    build_model,
    constants,
    consumers,
    copy_of,
    drop_unused,
    float_info,
    needed_nodes,
    NodeWriter,
    rename_tensors,
    replace_node,
    Shape,
    Shapes,
    shapes,
    types_of,
    Values,
)
from uncertainty_seg.compiler.plan import Cost, Decision, node_cost
from uncertainty_seg.core.model_card import DropoutSite, FEATURE_MAP, MOST_FEATURES
from uncertainty_seg.errors import GraphError, some_of

LOGITS = 'logits'
# Logits and log-variance of `direct`, (T, 2C, hl, wl), from which the samples are drawn.
MOMENTS = 'moments'
_LINEAR = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')


def split_trunk_head(
    model: onnx.ModelProto, sites: Iterable[DropoutSite]
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """
    Split at the first dropout of every path; without dropout, before the last linear layer.

    The trunk computes the tensors at the cut from the image. The head takes them and the masks,
    and returns `logits`, float32 (T, C, hl, wl), with T = 1 without masks. Raises GraphError if no
    mask reaches the output, or if the output or a tensor at the cut has no static shape.
    """
    sites = tuple(sites)
    masks = {site.name for site in sites}
    graph = _named_output(model).graph
    touched = touched_by(graph.node, masks or _last_layer(graph))
    if LOGITS not in touched:
        raise GraphError('no dropout reaches the output', 'passes that differ',
                         'name the output that the dropout belongs to')
    head_nodes = [n for n in graph.node if any(name in touched for name in n.output)]
    trunk_nodes = [n for n in graph.node if not any(name in touched for name in n.output)]
    stored = _stored(trunk_nodes, graph)
    made = {name for n in trunk_nodes for name in n.output} - {
        name for n in stored for name in n.output}
    used = dict.fromkeys(name for n in head_nodes for name in n.input)
    cut = [name for name in used if name in made]
    images = [info for info in graph.input if info.name not in masks]
    types = types_of(one_pass(model, sites))
    known = {name: kind.shape for name, kind in types.items() if kind.shape is not None}
    output = model.graph.output[0].name
    missing = [name for name in (*cut, output) if name not in known]
    if missing:
        raise GraphError(f'tensor {missing[0]!r} has no static shape', 'a fixed input size')
    handed = _Handed(graph)
    frontier = [float_info(part, known[name]) for name in cut
                for part in handed.over(name, types[name].kind)]
    trunk_nodes += handed.given
    trunk = build_model('trunk', needed_nodes(trunk_nodes, [info.name for info in frontier]),
                        images, frontier, graph.initializer)
    mask_infos = [float_info(s.name, (PASSES_AXIS, *s.shape)) for s in sites]
    direct = [info for info in images if info.name in used]
    axis = PASSES_AXIS if sites else 1
    logits = float_info(LOGITS, (axis, *known[output][1:]))
    head = build_model(
        'head', [*needed_nodes(stored, used), *handed.taken, *head_nodes],
        [*direct, *frontier, *mask_infos], [logits], graph.initializer,
    )
    return trunk, head


# Integers are passed on in two parts, which float32 represents exactly up to 2**36.
_PART = 4096
_WHOLE = {TensorProto.INT64: np.int64, TensorProto.INT32: np.int32}


class _Handed:
    """Converts tensors that are not float32 to float32 between the trunk and the head."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.given: list[onnx.NodeProto] = []
        self.taken: list[onnx.NodeProto] = []
        self._graph = graph

    def over(self, name: str, kind: int) -> list[str]:
        """Return the float32 tensors that carry a tensor from the trunk to the head."""
        if kind == TensorProto.FLOAT:
            return [name]
        give, take = (NodeWriter(self._graph, f'{name}_{word}') for word in ('given', 'taken'))
        if kind in _WHOLE:
            parts = self._in_parts(name, kind, give, take)
        else:
            parts = [give.node('Cast', [name], to=TensorProto.FLOAT)]
            take.node('Cast', parts, to=kind)
        take.nodes[-1].output[0] = name
        self.given += give.nodes
        self.taken += take.nodes
        return parts

    @staticmethod
    def _in_parts(name: str, kind: int, give: NodeWriter, take: NodeWriter) -> list[str]:
        size = give.constant('size', _PART, _WHOLE[kind])
        low = give.node('Mod', [name, size], 'low')
        high = give.node('Div', [give.node('Sub', [name, low], 'rest'), size], 'high')
        parts = [give.node('Cast', [part], f'part{i}', to=TensorProto.FLOAT)
                 for i, part in enumerate((low, high))]
        low, high = (take.node('Cast', [part], f'whole{i}', to=kind)
                     for i, part in enumerate(parts))
        take.node('Add', [low, take.node('Mul', [high, size], 'many')])
        return parts


def _last_layer(graph: onnx.GraphProto) -> list[str]:
    """
    Return the outputs of the last linear layer, or of the last node if there is none.

    The trunk is then the same as in a bundle with dropout before the classifier, and the
    classifier is not quantised with the trunk.
    """
    nodes = needed_nodes(graph.node, [LOGITS])
    return list(next((n for n in reversed(nodes) if n.op_type in _LINEAR), nodes[-1]).output)


def _stored(nodes: list[onnx.NodeProto], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return nodes that read only constants, such as 8-bit weights; the head gets a copy."""
    fixed, found = {tensor.name for tensor in graph.initializer}, []
    for node in nodes:
        if all(name in fixed for name in node.input if name):
            fixed.update(node.output)
            found.append(node)
    return found


def _named_output(model: onnx.ModelProto) -> onnx.ModelProto:
    if len(model.graph.output) != 1:
        names = [o.name for o in model.graph.output]
        raise GraphError(f'the network has the outputs {some_of(names)}', 'one',
                         'name the one of logits')
    result = copy_of(model)
    for node in result.graph.node:
        rename_tensors(node, {model.graph.output[0].name: LOGITS})
    return result


# -------------------------------------------------------------------------------------------------
# A convolution of concatenated tensors becomes a sum: conv(cat[u, s]) = conv_u(u) + conv_s(s).
# Where a skip connection s is the same in every pass and u is not, conv_s runs once in the trunk,
# and s is never copied T times. Operations that treat channels separately may stand between.

STEP = 'skip_split'
# Operators that treat each channel separately and have no argument with a channel axis.
_PER_CHANNEL = ('Relu', 'LeakyRelu', 'Clip', 'Sigmoid', 'HardSwish', 'HardSigmoid', 'Tanh', 'Elu',
                'Identity', 'Resize', 'MaxPool', 'AveragePool')
_BY_CHANNEL = ('BatchNormalization', 'Mul', 'Add')


@dataclass(frozen=True)
class _Skip:
    """A convolution, the nodes between it and the Concat before it, and the Concat's inputs."""

    conv: onnx.NodeProto
    between: tuple[onnx.NodeProto, ...]
    parts: tuple[str, ...]


def split_skips(
    model: onnx.ModelProto, sites: Iterable[DropoutSite], passes: int
) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """Split each convolution over tensors that vary and tensors that do not; one decision each."""
    result = copy_of(model)
    graph = result.graph
    sites = tuple(sites)
    known = shapes(one_pass(model, sites))
    touched = touched_by(graph.node, [site.name for site in sites])
    fixed = constants(graph)
    decisions = []
    for conv in list(graph.node):
        skip = _skip_of(graph, conv, touched, fixed)
        if skip is None or any(name not in known for name in skip.parts):
            continue
        decision = _judge(skip, known, touched, passes)
        decisions.append(decision)
        if decision.is_applied:
            fixed.update(_apply(graph, skip, known, touched, fixed))
    drop_unused(graph)
    return result, tuple(decisions)


def _skip_of(
    graph: onnx.GraphProto, conv: onnx.NodeProto, touched: Container[str], fixed: Values
) -> _Skip | None:
    if conv.op_type != 'Conv' or conv.input[1] not in fixed or attribute(conv, 'group', 1) != 1:
        return None
    made = {name: node for node in graph.node for name in node.output}
    between: list[onnx.NodeProto] = []
    node = made.get(conv.input[0])
    while node is not None and _is_per_channel(node, fixed):
        between.insert(0, node)
        node = made.get(_data_of(node, fixed))
    if node is None or node.op_type != 'Concat' or attribute(node, 'axis') != 1:
        return None
    parts = _flat_parts(node, made)
    is_mixed = 0 < sum(name in touched for name in parts) < len(parts)
    return _Skip(conv, tuple(between), parts) if is_mixed else None


def _flat_parts(join: onnx.NodeProto, made: Mapping[str, onnx.NodeProto]) -> tuple[str, ...]:
    """Return the concatenated tensors, with nested concatenations expanded."""
    parts: list[str] = []
    for name in join.input:
        inner = made.get(name)
        is_join = inner is not None and inner.op_type == 'Concat' and attribute(inner, 'axis') == 1
        parts += _flat_parts(inner, made) if inner is not None and is_join else [name]
    return tuple(parts)


def _is_per_channel(node: onnx.NodeProto, fixed: Values) -> bool:
    if node.op_type in _PER_CHANNEL:
        return all(name in fixed or not name for name in node.input[1:])
    if node.op_type == 'BatchNormalization':
        return all(name in fixed for name in node.input[1:])
    if node.op_type in _BY_CHANNEL:
        values = [fixed[name] for name in node.input if name in fixed]
        return len(values) == 1 and _channels_of(values[0]) is not None
    return False


def _channels_of(values: NDArray[np.generic]) -> int | None:
    """Return the number of channels of a factor or summand; None if it varies over the image."""
    shape = (1,) * (4 - values.ndim) + values.shape
    return shape[1] if len(shape) == 4 and shape[0] == shape[2] == shape[3] == 1 else None


def _data_of(node: onnx.NodeProto, fixed: Values) -> str:
    return next(name for name in node.input if name not in fixed)


def _judge(skip: _Skip, known: Shapes, touched: Container[str], passes: int) -> Decision:
    widths = [known[name][1] for name in skip.parts]
    still = sum(w for w, name in zip(widths, skip.parts, strict=True) if name not in touched)
    share = still / sum(widths)
    cost = node_cost(skip.conv, known)
    copied = known[skip.conv.input[0]]
    # Computed once instead of T times: its multiply-adds, and copies of s in Concat and `between`.
    once = Cost(int(cost.macs * share), int(np.prod(copied) * share) * (1 + len(skip.between)))
    saved = (passes - 1) * once.total - passes * Cost(0, cost.elements).total
    what = (f'{still} of {sum(widths)} channels are the same in every pass; '
            f'saves {(passes - 1) * once.macs / 1e6:.0f} M of '
            f'{passes * cost.macs / 1e6:.0f} M multiply-adds, adds {passes} sums')
    name = skip.conv.name or skip.conv.output[0]
    return Decision(STEP, name, saved > 0, what)


def _apply(
    graph: onnx.GraphProto, skip: _Skip, known: Shapes, touched: Container[str], fixed: Values
) -> dict[str, NDArray[np.generic]]:
    """Replace a convolution by the sum; return the constants that this adds."""
    new: dict[str, NDArray[np.generic]] = {}
    output = skip.conv.output[0]
    ends = np.cumsum([known[name][1] for name in skip.parts])
    starts = [0, *ends[:-1]]
    nodes: list[onnx.NodeProto] = []
    sums: list[str] = []
    for side in ('same', 'drawn'):
        chosen = [i for i, name in enumerate(skip.parts) if (name in touched) == (side == 'drawn')]
        channels = np.concatenate([np.arange(starts[i], ends[i]) for i in chosen])
        data = skip.parts[chosen[0]]
        prefix = f'{output}_{side}'
        if len(chosen) > 1:
            data = f'{prefix}_join'
            nodes.append(helper.make_node('Concat', [skip.parts[i] for i in chosen], [data],
                                          axis=1))
        for index, node in enumerate(skip.between):
            twin, cut = _twin(node, fixed, channels, f'{prefix}_{index}')
            new.update(cut)
            twin.input[list(node.input).index(_data_of(node, fixed))] = data
            nodes.append(twin)
            data = twin.output[0]
        conv = copy_of(skip.conv)
        del conv.input[2 if side == 'drawn' else 3:]  # the bias goes to the trunk
        conv.input[0] = data
        conv.input[1] = f'{prefix}_weights'
        new[conv.input[1]] = np.ascontiguousarray(fixed[skip.conv.input[1]][:, channels])
        conv.name, conv.output[0] = prefix, f'{prefix}_sum'
        nodes.append(conv)
        sums.append(conv.output[0])
    nodes.append(helper.make_node('Add', sums, [output], name=f'{output}_skip'))
    replace_node(graph, skip.conv, nodes)
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in new.items())
    return new


def _twin(
    node: onnx.NodeProto, fixed: Values, channels: NDArray[np.int64], prefix: str
) -> tuple[onnx.NodeProto, dict[str, NDArray[np.generic]]]:
    """Copy a node with its arguments reduced to `channels`; also return those arguments."""
    cut: dict[str, NDArray[np.generic]] = {}
    twin = copy_of(node)
    twin.name, twin.output[0] = prefix, f'{prefix}_out'
    del twin.output[1:]
    for index, name in enumerate(node.input):
        if node.op_type not in _BY_CHANNEL or name not in fixed:
            continue
        values = fixed[name]
        axis = 0 if node.op_type == 'BatchNormalization' else values.ndim - 3
        if axis >= 0 and values.ndim and values.shape[axis] > 1:
            twin.input[index] = f'{prefix}_{index}'
            cut[twin.input[index]] = np.ascontiguousarray(np.take(values, channels, axis))
    return twin, cut


# -------------------------------------------------------------------------------------------------
# An extra trunk output: image features, for distances from the training set.

_FEATURES = 'features'
AUTO, NONE = 'auto', 'none'
_STRIDE = 16
# Prefix of the first ensemble member's tensors; tensors shared by all members have it too.
_FIRST_MEMBER = 'member0_'
_SHOWN = 8


def add_feature_map(
    trunk: onnx.ModelProto, wish: str
) -> tuple[onnx.ModelProto, tuple[int, int, int] | None, tuple[Decision, ...]]:
    """
    Add the output `feature_map` to a trunk, float32 (1, D, hf, wf) with D <= `MOST_FEATURES`.

    Raises GraphError if `wish` names no feature map of batch 1 before the first dropout.
    """
    if wish == NONE:
        return trunk, None, ()
    made = {name for node in trunk.graph.node for name in node.output}
    known = {name: kind.shape for name, kind in types_of(trunk).items() if name in made
             and kind.kind == TensorProto.FLOAT and kind.shape is not None and kind.rank == 4}
    name = _deepest(trunk, known) if wish == AUTO else _named(known, wish)
    if not name:
        reason = f'no tensor before the first dropout has stride {_STRIDE}: no features'
        return trunk, None, (Decision(_FEATURES, AUTO, False, reason),)
    channels, rows, columns = known[name][1:]
    weights, reason = [], f'{channels} channels of {columns}x{rows} places'
    node = helper.make_node('Identity', [name], [FEATURE_MAP])
    if channels > MOST_FEATURES:
        weights = [numpy_helper.from_array(mixing(channels), f'{FEATURE_MAP}_mix')]
        node = helper.make_node('Conv', [name, weights[0].name], [FEATURE_MAP])
        reason += f', mixed to {MOST_FEATURES}'
    shape = min(channels, MOST_FEATURES), rows, columns
    graph = trunk.graph
    described = build_model(
        graph.name, [*graph.node, node], graph.input,
        [*graph.output, float_info(FEATURE_MAP, (1, *shape))], [*graph.initializer, *weights])
    return described, shape, (Decision(_FEATURES, name, True, reason),)


def mixing(channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the fixed random projection, float32 (MOST_FEATURES, channels, 1, 1)."""
    drawn = np.random.default_rng(0).standard_normal((MOST_FEATURES, channels, 1, 1))
    return np.asarray(drawn / np.sqrt(MOST_FEATURES), np.float32)


def _named(known: Shapes, wish: str) -> str:
    if wish not in known or known[wish][0] != 1:
        some = ', '.join(list(known)[-_SHOWN:])
        raise GraphError(f'features={wish!r} is no tensor (1, D, hf, wf) before the first '
                         f'dropout', f'auto, none, or one such as {some}')
    return wish


def _deepest(trunk: onnx.ModelProto, known: Shapes) -> str:
    """Return the name of the tensor that 'auto' selects, or an empty string."""
    size = tuple(d.dim_value for d in trunk.graph.input[0].type.tensor_type.shape.dim)[1:3]
    nodes = [n for n in trunk.graph.node if n.op_type != 'Constant']
    coarser = [name for name, shape in known.items() if _has_stride(shape, size, 2 * _STRIDE)]
    before = needed_nodes(nodes, coarser) if coarser else nodes
    found = [name for node in before for name in node.output
             if name in known and _has_stride(known[name], size, _STRIDE)]
    first = [name for name in found if name.startswith(_FIRST_MEMBER)]
    found = first or found
    read_twice = [name for name in found if len(consumers(nodes, name)) > 1]
    return (read_twice or found or [''])[-1]


def _has_stride(shape: Shape, size: tuple[int, ...], stride: int) -> bool:
    return shape[0] == 1 and all(
        1 < count and abs(count * stride - pixels) < stride
        for count, pixels in zip(shape[2:], size, strict=True))
