# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Operators that an older opset does not know, written out as the functions onnx defines them by.

A body belongs to the opset it was written for, which lies between the operator's first one and
the model's; it may hold further functions, which are written out in turn.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import defs, helper, numpy_helper

from uncertainty_seg.errors import GraphError
from uncertainty_seg.graph.constant_folding import fold_constants
from uncertainty_seg.graph.onnx_tools import attribute, copy_of, OPSET, replace_nodes
from uncertainty_seg.graph.opset_rules import schema_of
from uncertainty_seg.graph.tensor_types import TensorType, types_of, UNKNOWN

# onnx's own body squeezes the batch away where it is 1.
_WRONG = ('AffineGrid',)


def expand_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Write out every operator that opset 17 does not know.

    Parameters
    ----------
    model : ModelProto
        Without functions of its own; left as it is.

    Returns
    -------
    ModelProto
        In the same opset as before, but of operators that opset 17 has in some form.

    Raises
    ------
    GraphError
        If such an operator has no body; the node is named.

    """
    if not any(_is_unknown(node) for node in model.graph.node):
        return copy_of(model)
    result = fold_constants(model)  # what is constant needs no body
    while any(_is_unknown(node) for node in result.graph.node):
        ready = _ready(result)
        if not ready:
            result = fold_constants(result)
            ready = _ready(result) or [
                next(n for n in result.graph.node if _is_unknown(n))]
        _expand(result, {n.output[0] for n in ready})
    return result


def _ready(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the unknown nodes whose inputs have a known number of axes."""
    types = types_of(model)
    return [n for n in model.graph.node if _is_unknown(n) and all(
        types.get(name, UNKNOWN).rank >= 0 for name in n.input if name)]


def _expand(model: onnx.ModelProto, chosen: set[str]) -> None:
    version = next(e.version for e in model.opset_import if not e.domain)
    types = types_of(model)
    taken = {name for n in model.graph.node for name in (*n.input, *n.output)}
    taken |= {tensor.name for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes += (_body(node, version, types, taken) if node.output[0] in chosen else [node])
    replace_nodes(model.graph, nodes)


def _is_unknown(node: onnx.NodeProto) -> bool:
    return node.domain == '' and schema_of(node.op_type, OPSET) is None


def _no_form(node: onnx.NodeProto) -> GraphError:
    return GraphError(f'node {node.name!r} is {node.op_type}, which opset {OPSET} cannot express',
                      f'operators of opset {OPSET}', 'replace it in the network')


def _body(
    node: onnx.NodeProto, version: int, types: Mapping[str, TensorType], taken: set[str]
) -> Sequence[onnx.NodeProto]:
    if node.op_type == 'GroupNormalization' and version >= 21:
        return _group_norm(node, types[node.input[0]].rank, taken)
    schema = _schema(node, version)
    function = _function(schema, node, types)
    names = dict(zip(function.output, node.output, strict=False))
    names.update(zip(function.input, node.input, strict=False))
    names.update(dict.fromkeys(function.input[len(node.input):], ''))
    prefix = next(name for name in node.output if name)
    given = {a.name: a for a in node.attribute}
    defaults = {a.name: a.default_value for a in schema.attributes.values()
                if a.default_value.name}
    return [_renamed(inner, names, prefix, taken, {**defaults, **given})
            for inner in function.node]


def _group_norm(
    node: onnx.NodeProto, rank: int, taken: set[str]
) -> Sequence[onnx.NodeProto]:
    """
    Write GroupNormalization as torch does: normalise groups as if they were channels.

    The body onnx gives takes the variance as the difference of two means, which cancels.

    """
    x, scale, bias = node.input
    prefix = node.output[0]
    groups = attribute(node, 'num_groups')

    def constant(word: str, values: NDArray[Any]) -> onnx.NodeProto:
        name = _fresh(f'{prefix}_{word}', taken)
        return helper.make_node('Constant', [], [name], value=numpy_helper.from_array(values))

    def step(op: str, inputs: list[str], word: str, **kwargs: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [_fresh(f'{prefix}_{word}', taken)],
                                name=f'{prefix}_{word}', **kwargs)

    to_groups = constant('groups', np.array([0, groups, -1], np.int64))
    ones, zeros = (constant(word, np.full(groups, value, np.float32))
                   for word, value in (('ones', 1), ('zeros', 0)))
    axes = constant('axes', np.arange(1, rank - 1, dtype=np.int64))
    shape = step('Shape', [x], 'shape')
    grouped = step('Reshape', [x, to_groups.output[0]], 'grouped')
    normal = step('InstanceNormalization', [grouped.output[0], ones.output[0], zeros.output[0]],
                  'normal', epsilon=attribute(node, 'epsilon', 1e-5))
    flat = step('Reshape', [normal.output[0], shape.output[0]], 'flat')
    factor, shift = (step('Unsqueeze', [name, axes.output[0]], word)
                     for name, word in ((scale, 'scale'), (bias, 'shift')))
    scaled = step('Mul', [flat.output[0], factor.output[0]], 'scaled')
    last = helper.make_node('Add', [scaled.output[0], shift.output[0]], node.output,
                            name=node.name)
    return [to_groups, ones, zeros, axes, shape, grouped, normal, flat, factor, shift, scaled,
            last]


def _schema(node: onnx.NodeProto, version: int) -> Any:
    """Return the schema, of a newer opset if need be: torch writes Mish in opset 18 too."""
    for known in (version, defs.onnx_opset_version()):
        schema = schema_of(node.op_type, known)
        if schema is not None:
            return schema
    raise _no_form(node)


def _function(
    schema: Any, node: onnx.NodeProto, types: Mapping[str, TensorType]
) -> onnx.FunctionProto:
    function = onnx.FunctionProto()
    if schema.has_context_dependent_function:
        kinds = [_type_bytes(types.get(name)) for name in node.input]
        function.ParseFromString(
            schema.get_context_dependent_function(node.SerializeToString(), kinds))
    elif schema.has_function:
        function = schema.function_body
    if not function.node or node.op_type in _WRONG:  # no body at all, or not for such inputs
        raise _no_form(node)
    return function


def _type_bytes(known: TensorType | None) -> bytes:
    if known is None or not known.kind:
        return onnx.TypeProto().SerializeToString()
    return helper.make_tensor_type_proto(known.kind, known.dims).SerializeToString()


def _renamed(
    node: onnx.NodeProto, names: dict[str, str], prefix: str, taken: set[str],
    attributes: Mapping[str, onnx.AttributeProto],
) -> onnx.NodeProto:
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.name = f'{prefix}_{node.name or node.output[0]}'
    for index, name in enumerate(node.input):
        twin.input[index] = names.get(name, name) if name else ''
    for index, name in enumerate(node.output):
        if name and name not in names:
            names[name] = _fresh(f'{prefix}_{name}', taken)
        twin.output[index] = names.get(name, '')
    del twin.attribute[:]
    for entry in node.attribute:
        value = _resolved(entry, attributes)
        if value is not None:
            twin.attribute.append(value)
    for entry in twin.attribute:
        if entry.type == onnx.AttributeProto.GRAPH:  # a branch reads tensors of the body
            inner = [_renamed(n, names, prefix, taken, attributes) for n in entry.g.node]
            replace_nodes(entry.g, inner)
            for info in entry.g.output:
                info.name = names.get(info.name, info.name)
    return twin


def _fresh(wish: str, taken: set[str]) -> str:
    name, number = wish, 2
    while name in taken:
        name, number = f'{wish}_{number}', number + 1
    taken.add(name)
    return name


def _resolved(
    entry: onnx.AttributeProto, attributes: Mapping[str, onnx.AttributeProto]
) -> onnx.AttributeProto | None:
    """Put the caller's attribute in place of a reference to it; None if it has none."""
    if not entry.ref_attr_name:
        return entry
    source = attributes.get(entry.ref_attr_name)
    if source is None:
        return None
    value = onnx.AttributeProto()
    value.CopyFrom(source)
    value.name = entry.name
    return value
