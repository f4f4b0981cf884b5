# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Any ONNX network of opset 11 to 23 in opset 17, which all passes and all runtimes read.

Upwards onnx's own converter does it. Downwards it has few rules, so an operator that is newer than
opset 17 becomes the body onnx defines it by, and one that changed its form is lowered by a rule
here. Why opset 17: docs/decisions.md, "Opset 17".

"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import defs, helper, inliner, numpy_helper, TensorProto, version_converter

from uncertainty_seg.compiler.frontend.constant_folding import fold_constants, FoldingState, Nodes
from uncertainty_seg.compiler.onnx_tools import (
    attribute,
    copy_of,
    first_line,
    hidden,
    image_inputs,
    IR_VERSION,
    is_marker,
    is_read_by_inference,
    MARKER_DOMAIN,
    OPSET,
    refill,
    tensor_names,
    TensorType,
    types_of,
    UNKNOWN,
    unused,
    weight_info,
)
from uncertainty_seg.errors import GraphError

_log = logging.getLogger(__name__)
OLDEST, NEWEST = 11, 23
_STANDARD = ('', 'ai.onnx')
_FIXED_SIZE = 'export the network with a fixed input size'


def to_opset17(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Rewrite a network in opset 17, IR version 8.

    Parameters
    ----------
    model : ModelProto
        Of opset 11 to 23, with or without markers of dropout; left as it is. The sizes of its
        input should be fixed (`fix_input`), since some rules need the shapes.

    Returns
    -------
    ModelProto
        Computes the same. Functions of the model are inlined, markers are as they were.

    Raises
    ------
    GraphError
        If the opset is another, or an operator has no form in opset 17; the node is named.

    """
    version = opset_of(model)
    plain = _tidied(_inlined(model))
    _require_known(plain)
    if version < OPSET:
        plain = _raised(plain)
    elif version > OPSET:
        plain = _lowered(fold_constants(expand_functions(plain)))
    domains = [('', OPSET), *[(MARKER_DOMAIN, 1)] * any(is_marker(n) for n in plain.graph.node)]
    refill(plain.opset_import, [helper.make_opsetid(*domain) for domain in domains])
    plain.ir_version = IR_VERSION
    return plain


def opset_of(model: onnx.ModelProto) -> int:
    """
    Return the opset of a model's standard operators.

    Raises
    ------
    GraphError
        If it has none, or one that is not supported here.

    """
    versions = [e.version for e in model.opset_import if e.domain in _STANDARD]
    newest = min(NEWEST, defs.onnx_opset_version())
    if not versions:
        raise GraphError('the network names no opset', f'opset {OLDEST} to {newest}',
                         'export it again')
    if newest < versions[0] <= NEWEST:
        raise GraphError(f'the network has opset {versions[0]}', f'{OLDEST} to {newest}, which is '
                         'what the installed onnx knows', f'export it again with opset_version='
                         f'{OPSET}, or install a newer onnx')
    if not OLDEST <= versions[0] <= newest:
        raise GraphError(f'the network has opset {versions[0]}', f'{OLDEST} to {newest}',
                         f'export it again with opset_version={OPSET}')
    return versions[0]


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return copy_of(model)
    _log.info('inlining %d functions of the model', len(model.functions))
    return inliner.inline_local_functions(model, convert_version=True)


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take weights out of the inputs, where IR version 3 lists them, and notes out of nodes."""
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.domain = '' if node.domain == 'ai.onnx' else node.domain
        node.ClearField('doc_string')
        # torch writes the exporting machine's stack of calls here; shipped files hold no paths.
        if 'metadata_props' in node.DESCRIPTOR.fields_by_name:
            node.ClearField('metadata_props')
    refill(model.graph.input, image_inputs(model.graph))
    return model


def _require_known(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.domain not in ('', MARKER_DOMAIN):
            raise GraphError(
                f'node {node.name!r} is {node.domain}::{node.op_type}, which is not ONNX',
                'standard operators', 'export the network without optimisation for one runtime')
        if not node.domain and schema_of(node.op_type, defs.onnx_opset_version()) is None:
            fix = ('export it in inference mode, and put dropout in with --inject-dropout'
                   if 'Random' in node.op_type else 'export the network again')
            raise GraphError(f'node {node.name!r} is {node.op_type}, which no opset has',
                             'standard operators', fix)


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let onnx convert the graph without its markers and large weights, and put them back."""
    light = copy_of(model)
    markers = {node.output[0]: node for node in model.graph.node if is_marker(node)}
    refill(light.graph.node, [hidden(n) if is_marker(n) else n for n in light.graph.node])
    large = [t for t in model.graph.initializer if not is_read_by_inference(t)]
    refill(light.graph.initializer, filter(is_read_by_inference, model.graph.initializer))
    light.graph.input.extend(weight_info(t) for t in large)
    light.ir_version = IR_VERSION
    try:
        raised = version_converter.convert_version(light, OPSET)
    except Exception as err:  # the converter raises whatever its C++ code throws
        raise GraphError(f'onnx cannot convert the network to opset {OPSET} ({first_line(err)})',
                         fix=f'export it again with opset_version={OPSET}') from err
    refill(raised.graph.node, [markers.get(n.output[0], n) if n.op_type == 'Identity' else n
                               for n in raised.graph.node])
    raised.graph.initializer.extend(large)
    refill(raised.graph.input, image_inputs(raised.graph))
    return raised


def schema_of(operator: str, opset: int) -> Any:
    """Return the definition of an operator in an opset, None if it has none."""
    try:
        return defs.get_schema(operator, opset)
    except defs.SchemaError:
        return None


# -------------------------------------------------------------------------------------------------
# Write operators that opset 17 does not know as the functions onnx defines them by. A body belongs
# to the opset it was written for, which lies between the operator's first one and the model's; it
# may hold further functions, which are written out in turn.

# onnx's own body squeezes the batch away where it is 1.
_WRONG = ('AffineGrid',)


def expand_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """
    Write out every operator that opset 17 does not know, in the opset of the model.

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
            ready = _ready(result) or [next(n for n in result.graph.node if _is_unknown(n))]
        _expand(result, {n.output[0] for n in ready})
    return result


def _is_unknown(node: onnx.NodeProto) -> bool:
    return node.domain == '' and schema_of(node.op_type, OPSET) is None


def _ready(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the unknown nodes whose inputs have a known number of axes."""
    types = types_of(model)
    return [n for n in model.graph.node if _is_unknown(n) and all(
        types.get(name, UNKNOWN).rank >= 0 for name in n.input if name)]


def _expand(model: onnx.ModelProto, chosen: set[str]) -> None:
    version = next(e.version for e in model.opset_import if not e.domain)
    types, taken = types_of(model), tensor_names(model.graph)
    refill(model.graph.node, [new for node in model.graph.node for new in (
        _body(node, version, types, taken) if node.output[0] in chosen else [node])])


def _body(
    node: onnx.NodeProto, version: int, types: Mapping[str, TensorType], taken: set[str]
) -> Nodes:
    if node.op_type == 'GroupNormalization' and version >= 21:
        return _group_norm(node, types[node.input[0]].rank, taken)
    # torch writes an operator of a newer opset too, such as Mish in opset 18.
    schema = schema_of(node.op_type, version) or schema_of(node.op_type, defs.onnx_opset_version())
    function = onnx.FunctionProto()
    if schema is not None and schema.has_context_dependent_function:
        kinds = [_type_bytes(types.get(name, UNKNOWN)) for name in node.input]
        function.ParseFromString(
            schema.get_context_dependent_function(node.SerializeToString(), kinds))
    elif schema is not None and schema.has_function:
        function = schema.function_body
    if not function.node or node.op_type in _WRONG:  # no body at all, or not for such inputs
        raise GraphError(f'node {node.name!r} is {node.op_type}, which opset {OPSET} cannot '
                         'express', f'operators of opset {OPSET}', 'replace it in the network')
    names = dict(zip(function.output, node.output, strict=False))
    names.update(zip(function.input, node.input, strict=False))
    names.update(dict.fromkeys(function.input[len(node.input):], ''))
    prefix = next(name for name in node.output if name)
    attributes = {a.name: a.default_value for a in schema.attributes.values()
                  if a.default_value.name}
    attributes.update({a.name: a for a in node.attribute})
    return [_of_body(inner, names, prefix, taken, attributes) for inner in function.node]


def _type_bytes(known: TensorType) -> bytes:
    proto = helper.make_tensor_type_proto(known.kind, known.dims) if known.kind \
        else onnx.TypeProto()
    return proto.SerializeToString()


def _of_body(
    node: onnx.NodeProto, names: dict[str, str], prefix: str, taken: set[str],
    attributes: Mapping[str, onnx.AttributeProto],
) -> onnx.NodeProto:
    """Return a node of a body with the caller's tensors and attributes."""
    twin = copy_of(node)
    twin.name = f'{prefix}_{node.name or node.output[0]}'
    for name in node.output:
        if name and name not in names:
            names[name] = _fresh(f'{prefix}_{name}', taken)
    refill(twin.input, [names.get(name, name) if name else '' for name in node.input])
    refill(twin.output, [names.get(name, '') for name in node.output])
    values = [_resolved(entry, attributes) for entry in node.attribute]
    refill(twin.attribute, [value for value in values if value is not None])
    for entry in twin.attribute:
        if entry.type == onnx.AttributeProto.GRAPH:  # a branch reads tensors of the body
            refill(entry.g.node, [_of_body(n, names, prefix, taken, attributes)
                                  for n in entry.g.node])
            for info in entry.g.output:
                info.name = names.get(info.name, info.name)
    return twin


def _fresh(wish: str, taken: set[str]) -> str:
    name = unused(wish, taken)
    taken.add(name)
    return name


def _resolved(
    entry: onnx.AttributeProto, attributes: Mapping[str, onnx.AttributeProto]
) -> onnx.AttributeProto | None:
    """Put the caller's attribute in place of a reference to it; None if it has none."""
    if not entry.ref_attr_name:
        return entry
    if entry.ref_attr_name not in attributes:
        return None
    value = copy_of(attributes[entry.ref_attr_name])
    value.name = entry.name
    return value


def _group_norm(node: onnx.NodeProto, rank: int, taken: set[str]) -> Nodes:
    """
    Write GroupNormalization as torch does: normalise groups as if they were channels.

    The body onnx gives takes the variance as the difference of two means, which cancels.

    """
    x, scale, bias = node.input
    prefix, groups = node.output[0], attribute(node, 'num_groups')
    nodes: list[onnx.NodeProto] = []

    def step(op: str, inputs: list[str], word: str, **kwargs: Any) -> str:
        name = _fresh(f'{prefix}_{word}', taken)
        nodes.append(helper.make_node(op, inputs, [name], name=f'{prefix}_{word}', **kwargs))
        return name

    def constant(word: str, values: NDArray[Any]) -> str:
        return step('Constant', [], word, value=numpy_helper.from_array(values))

    to_groups = constant('groups', np.array([0, groups, -1], np.int64))
    ones, zeros = (constant(word, np.full(groups, value, np.float32))
                   for word, value in (('ones', 1), ('zeros', 0)))
    axes = constant('axes', np.arange(1, rank - 1, dtype=np.int64))
    shape = step('Shape', [x], 'shape')
    grouped = step('Reshape', [x, to_groups], 'grouped')
    normal = step('InstanceNormalization', [grouped, ones, zeros], 'normal',
                  epsilon=attribute(node, 'epsilon', 1e-5))
    flat = step('Reshape', [normal, shape], 'flat')
    factor, shift = (step('Unsqueeze', [name, axes], word)
                     for name, word in ((scale, 'scale'), (bias, 'shift')))
    scaled = step('Mul', [flat, factor], 'scaled')
    return [*nodes, helper.make_node('Add', [scaled, shift], node.output, name=node.name)]


# -------------------------------------------------------------------------------------------------
# From opset 18 to 23 down to 17, one rule an operator that changed its form.
# Operators not named here changed at most the types they take. A rule raises if it cannot express
# the node in opset 17, and so does an attribute that opset 17 does not have.

OpsetRule = Callable[[onnx.NodeProto, FoldingState], 'Nodes | None']


def _lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    state = FoldingState.of(model)
    state.start(list(model.graph.node))
    refill(model.graph.node, [new for node in model.graph.node for new in lowered(node, state)])
    refill(model.graph.initializer, state.tensors.values())
    return model


def lowered(node: onnx.NodeProto, state: FoldingState) -> Nodes:
    """
    Write one node of opset 18 to 23 in opset 17; it may be changed in place.

    Raises
    ------
    GraphError
        Naming the node, if opset 17 cannot express it.

    """
    if node.domain == MARKER_DOMAIN:
        return [node]
    rule = _RULES.get(node.op_type)
    replaced = rule(node, state) if rule is not None else None
    nodes = [node] if replaced is None else replaced
    for new in nodes:
        _require_known_form(new)
    return nodes


def refused(node: onnx.NodeProto, what: str, fix: str = '') -> GraphError:
    """Make the error of a node that opset 17 cannot express."""
    return GraphError(f'{node.op_type} {node.name!r} {what}, which opset {OPSET} cannot express',
                      fix=fix or f'export the network again with opset_version={OPSET}')


def _require_known_form(node: onnx.NodeProto) -> None:
    schema = schema_of(node.op_type, OPSET)
    if schema is None:
        raise refused(node, 'is newer')
    for entry in node.attribute:
        if entry.name not in schema.attributes:
            raise refused(node, f'has the attribute {entry.name}')
    if len(node.input) > schema.max_input:
        raise refused(node, f'has {len(node.input)} inputs')


def _drop(node: onnx.NodeProto, name: str) -> Any:
    """Take an attribute off a node and return its value, or None."""
    value = attribute(node, name)
    refill(node.attribute, [entry for entry in node.attribute if entry.name != name])
    return value


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    _drop(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def _input(node: onnx.NodeProto, index: int) -> str:
    return node.input[index] if index < len(node.input) else ''


def _constant(node: onnx.NodeProto, index: int, state: FoldingState) -> NDArray[Any] | None:
    """Return a constant input, None where the node has none there."""
    name = _input(node, index)
    value = state.value(name) if name else None
    if name and value is None:
        raise refused(node, f'takes the computed value {name!r}', _FIXED_SIZE)
    return value


def _rank(node: onnx.NodeProto, state: FoldingState) -> int:
    rank = state.type_of(node.input[0]).rank
    if rank < 0:
        raise refused(node, 'works on a tensor of unknown shape', _FIXED_SIZE)
    return rank


def _reduce(node: onnx.NodeProto, state: FoldingState) -> Nodes | None:
    axes = _constant(node, 1, state)
    is_noop = bool(_drop(node, 'noop_with_empty_axes'))
    del node.input[1:]
    if axes is not None and axes.size:
        _set(node, 'axes', [int(axis) for axis in axes.reshape(-1)])
    elif is_noop and node.op_type in ('ReduceMean', 'ReduceMax', 'ReduceMin', 'ReduceProd'):
        return [helper.make_node('Identity', node.input[:1], node.output, name=node.name)]
    elif is_noop:
        raise refused(node, 'reduces no axis')
    return None


def _split(node: onnx.NodeProto, state: FoldingState) -> None:
    count = _drop(node, 'num_outputs')
    if count is None or _input(node, 1):
        return
    dims, axis = state.type_of(node.input[0]).dims or (), attribute(node, 'axis', 0)
    size = dims[axis] if -len(dims) <= axis < len(dims) else None
    if size is None:
        raise refused(node, 'splits an axis of unknown size', _FIXED_SIZE)
    part = -(-size // count)
    del node.input[1:]
    node.input.append(state.put_fresh(f'{node.output[0]}_sizes', *[part] * (count - 1),
                                      size - part * (count - 1)))


def _pad(node: onnx.NodeProto, state: FoldingState) -> None:
    if attribute(node, 'mode', 'constant') == 'wrap':
        raise refused(node, 'wraps around')
    axes = _constant(node, 3, state)
    if axes is not None:
        pads, rank = _constant(node, 1, state), _rank(node, state)
        full = np.zeros((2, rank), np.int64)
        full[:, axes % rank] = np.asarray(pads).reshape(2, -1)
        node.input[1] = state.put_fresh(f'{node.output[0]}_pads', *full.reshape(-1))
    del node.input[3:]


def _resize(node: onnx.NodeProto, state: FoldingState) -> None:
    policy = _drop(node, 'keep_aspect_ratio_policy') or 'stretch'
    if policy != 'stretch' and _input(node, 3):
        raise refused(node, f'has the policy {policy}')
    if attribute(node, 'coordinate_transformation_mode') == 'half_pixel_symmetric':
        raise refused(node, 'has the mode half_pixel_symmetric')
    if _drop(node, 'antialias') and not _is_upsampling(node, state):
        raise refused(node, 'makes an image smaller with antialiasing',
                      'export the network without antialiasing')
    axes = _drop(node, 'axes')
    if axes is not None:
        _fill_axes(node, [axis % _rank(node, state) for axis in axes], state)


def _is_upsampling(node: onnx.NodeProto, state: FoldingState) -> bool:
    """Say whether no axis shrinks, where antialiasing has no effect."""
    old, new = state.shape(node.input[0]), state.shape(node.output[0])
    if old is None or new is None:
        raise refused(node, 'has a computed size', _FIXED_SIZE)
    return all(n >= o for o, n in zip(old, new, strict=True))


def _fill_axes(node: onnx.NodeProto, axes: Sequence[int], state: FoldingState) -> None:
    """State for all axes what the node states for some."""
    rank = _rank(node, state)
    names = ['', '', '']

    def fill(index: int, word: str, full: NDArray[Any]) -> None:
        value = _constant(node, index + 1, state)
        if value is not None and value.size:
            full[..., list(axes)] = value.reshape(*full.shape[:-1], -1)
            names[index] = state.put(state.fresh(f'{node.output[0]}_{word}'),
                                     full.reshape(-1).astype(value.dtype))

    fill(0, 'roi', np.repeat([[0.0], [1.0]], rank, 1))
    fill(1, 'scales', np.ones(rank, np.float32))
    if _input(node, 3):
        shape = state.shape(node.input[0])
        if shape is None:
            raise refused(node, 'resizes a tensor of unknown shape', _FIXED_SIZE)
        fill(2, 'size', np.array(shape, np.int64))
    del node.input[1:]
    node.input.extend(names if names[2] else names[:2])


def _pool(node: onnx.NodeProto, state: FoldingState) -> None:
    if set(_drop(node, 'dilations') or [1]) != {1}:
        raise refused(node, 'has dilations')
    if node.op_type == 'LpPool' and _drop(node, 'ceil_mode'):
        raise refused(node, 'rounds its size up')


def _grid_sample(node: onnx.NodeProto, state: FoldingState) -> None:
    mode = attribute(node, 'mode', 'linear')
    if _rank(node, state) != 4:
        raise refused(node, 'samples a volume')
    _set(node, 'mode', {'linear': 'bilinear', 'cubic': 'bicubic'}.get(mode, mode))


def _cast(node: onnx.NodeProto, state: FoldingState) -> None:
    _drop(node, 'saturate')  # of 8-bit floats only, which opset 17 does not have


def _quantize(node: onnx.NodeProto, state: FoldingState) -> None:
    kind = _drop(node, 'output_dtype') or TensorProto.UINT8
    _drop(node, 'saturate')
    if _drop(node, 'block_size') or _drop(node, 'precision'):
        raise refused(node, 'quantises by blocks')
    if not _input(node, 2) and kind != TensorProto.UINT8:
        scale = state.shape(node.input[1])
        if scale is None:
            raise refused(node, 'has a scale of unknown shape')
        zero = np.zeros(scale, helper.tensor_dtype_to_np_dtype(kind))
        del node.input[2:]
        node.input.append(state.put(state.fresh(f'{node.output[0]}_zero'), zero))


def _dequantize(node: onnx.NodeProto, state: FoldingState) -> None:
    kind = _drop(node, 'output_dtype')
    if _drop(node, 'block_size'):
        raise refused(node, 'dequantises by blocks')
    if kind not in (None, 0, TensorProto.FLOAT):
        raise refused(node, 'gives another type than float32')


def _scatter(node: onnx.NodeProto, state: FoldingState) -> None:
    if attribute(node, 'reduction', 'none') in ('min', 'max'):
        raise refused(node, f'keeps the {attribute(node, "reduction")}')


def _dft(node: onnx.NodeProto, state: FoldingState) -> None:
    axis = _constant(node, 2, state)
    _set(node, 'axis', int(axis.reshape(-1)[0]) if axis is not None else -2)
    del node.input[2:]


_RULES: dict[str, OpsetRule] = {
    **dict.fromkeys(('ReduceL1', 'ReduceL2', 'ReduceLogSum', 'ReduceLogSumExp', 'ReduceMax',
                     'ReduceMean', 'ReduceMin', 'ReduceProd', 'ReduceSumSquare'), _reduce),
    'Split': _split, 'Pad': _pad, 'Resize': _resize, 'AveragePool': _pool, 'LpPool': _pool,
    'GridSample': _grid_sample, 'Cast': _cast, 'CastLike': _cast, 'QuantizeLinear': _quantize,
    'DequantizeLinear': _dequantize, 'ScatterElements': _scatter, 'ScatterND': _scatter,
    'DFT': _dft,
}
