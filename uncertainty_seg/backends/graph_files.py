# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The inputs and outputs that a bundle's graphs declare, compared with its card.

They are read from the files and not from a runtime, so that every backend refuses the same bundles
with the same sentences. What the nodes compute is not checked.

"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import PassInputs
from uncertainty_seg.core.model_card import FEATURE_MAP, ModelCard
from uncertainty_seg.core.uncertainty import MapRequest
from uncertainty_seg.core.untrusted.onnx_nodes import every_tensor
from uncertainty_seg.errors import ModelBundleError

IMAGE, LOGITS = 'image', 'logits'
# Of head_stats.onnx, as `graph.head_stats` names them, which `backends` may not import; a test
# compares both.
INV_TEMPERATURE = 'inv_temperature'
STATISTICS = ('sum_p', 'sum_entropy', 'sum_p2', 'votes')
# Bundles from before the maps of logits do not give it.
SUM_LOGITS = 'sum_logits'
# What the logits become there before anything is summed.
_FULL = 'stats_full'
COMPILE = 'compile the bundle again'
_FLOAT, _BYTE = 'tensor(float)', 'tensor(uint8)'
_Tensors: TypeAlias = dict[str, tuple[str, list[int | None]]]


@dataclass(frozen=True)
class GraphNames:
    """
    Names of the tensors that pass from trunk to head, in the order of the files.

    Attributes
    ----------
    frontier : tuple of str
        Outputs of the trunk that the head takes.
    head_inputs : tuple of str
        Inputs of the head: frontier and masks, and the image if it needs it.
    features : tuple of str
        The output of features that the head does not take; empty if the card has none.

    """

    frontier: tuple[str, ...]
    head_inputs: tuple[str, ...]
    features: tuple[str, ...] = ()

    @property
    def trunk_outputs(self) -> tuple[str, ...]:
        """All outputs of the trunk."""
        return (*self.frontier, *self.features)


def require_graphs(bundle: ModelBundle) -> GraphNames:
    """
    Refuse graphs whose inputs and outputs are not those of the bundle's card.

    Returns
    -------
    GraphNames
        What to pass from trunk to head.

    Raises
    ------
    ModelBundleError
        Names the first tensor that is missing, unknown, or of another type or shape.

    """
    card, spec = bundle.card, bundle.card.input
    trunk, head = read_graph(bundle.trunk_path), read_graph(bundle.head_path)
    passes = card.chunk or None if card.dropout_sites else 1
    image: _Tensors = {IMAGE: (_BYTE, [1, spec.height, spec.width, 3])}
    features = _tensors(trunk.output)
    described: _Tensors = {}
    if card.feature_shape is not None:
        described = {FEATURE_MAP: (_FLOAT, [1, *card.feature_shape])}
        given = {FEATURE_MAP: features.pop(FEATURE_MAP)} if FEATURE_MAP in features else {}
        _require_tensors('trunk.onnx gives the features', given, described)
    sites: _Tensors = {site.name: (_FLOAT, [passes, *site.shape]) for site in card.dropout_sites}
    _require_tensors('trunk.onnx takes', input_tensors(trunk), image)
    inputs = input_tensors(head)
    direct = image if IMAGE in inputs else {}
    _require_tensors('head.onnx takes', inputs, {**direct, **features, **sites})
    _require_tensors('head.onnx gives', _tensors(head.output),
                     {LOGITS: (_FLOAT, [passes, *card.logits_shape])})
    return GraphNames(tuple(features), tuple(inputs), tuple(described))


def given_statistics(outputs: Collection[str]) -> tuple[str, ...]:
    """Return what a head with these outputs sums over the passes."""
    return STATISTICS + ((SUM_LOGITS,) if SUM_LOGITS in outputs else ())


def require_statistics(card: ModelCard, request: MapRequest, names: Collection[str]) -> None:
    """Refuse maps of logits whose sum a head does not give; raises ModelBundleError."""
    if request.of_logits and SUM_LOGITS not in names:
        raise ModelBundleError(
            f'head_stats.onnx of {card.name!r} gives no sum of the logits for '
            f'{" and ".join(request.of_logits)}', fix=COMPILE)


def coarse_statistics(path: Path, size: tuple[int, int]) -> bytes:
    """
    Return head_stats.onnx as an ONNX file that sums over the passes at the size of the logits.

    Nothing is left out of it but the upsampling: its outputs have the same names, and `size`,
    which is (hl, wl).
    Raises ModelBundleError if it does not upsample its logits once.

    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    upsamplings = [n for n in graph.node if n.op_type == 'Resize' and _FULL in n.output]
    if len(upsamplings) != 1:
        raise ModelBundleError(f'{path} has {len(upsamplings)} upsamplings of logits', 'one',
                               COMPILE)
    graph.node.remove(upsamplings[0])
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == _FULL:
                node.input[index] = upsamplings[0].input[0]
    for info in graph.output:
        sides = info.type.tensor_type.shape.dim[-2:]
        for dim, value in zip(sides, size, strict=True):
            dim.dim_value = value
    del graph.value_info[:]
    return bytes(model.SerializeToString())


def with_masks(path: Path, masks: PassInputs) -> bytes:
    """
    Return a head as an ONNX file with masks (chunk, *site.shape) of some sites as constants.

    A runtime folds the weights that are gathered by masks when it opens the file.

    """
    import onnx

    model = onnx.load(str(path))
    kept = [info for info in model.graph.input if info.name not in masks]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(mask, name) for name, mask in masks.items())
    return bytes(model.SerializeToString())


# Operators that give what they were given, or a part of it, so that nothing is left to round.
_EXACT = frozenset({
    'Abs', 'Clip', 'Concat', 'DepthToSpace', 'Expand', 'Flatten', 'Gather', 'GatherElements',
    'Identity', 'Max', 'MaxPool', 'Min', 'Neg', 'Pad', 'Relu', 'Reshape', 'Slice', 'SpaceToDepth',
    'Split', 'Squeeze', 'Tile', 'Transpose', 'Unsqueeze', 'Where',
})


def rounding_half(content: bytes) -> bytes:
    """
    Return a graph of float16 as one of float32 that rounds as float16 does.

    A processor has no kernels for float16: its runtime computes in float32, and leaves out the
    rounding between operators. Here every result that the graph says is float16 goes through
    float16, weights are widened, and only the sums inside an operator are float32, as in the
    hardware of a GPU. Values beyond 65504 become infinite. A graph without float16 is not changed.

    """
    import onnx

    model = onnx.load_model_from_string(content)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    float16, float32 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    halves = {info.name for info in [*inferred.value_info, *inferred.input, *inferred.output]
              if info.type.tensor_type.elem_type == float16}
    for tensor in every_tensor(model):
        if tensor.data_type == float16:
            wide = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        is_cast = node.op_type == 'Cast'
        for entry in node.attribute:
            if is_cast and entry.name == 'to' and entry.i == float16:
                entry.i = float32
        if node.op_type in _EXACT:
            continue
        for index, name in enumerate(node.output):
            if name in halves:
                wide, half = f'{name}_in_32_bits', f'{name}_in_16_bits'
                node.output[index] = wide
                nodes += [onnx.helper.make_node('Cast', [wide], [half], to=float16),
                          onnx.helper.make_node('Cast', [half], [name], to=float32)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())


def whole_graph(path: Path) -> bytes:
    """
    Return an ONNX file with every weight in it, also those that lie in another file.

    Its hash names what a runtime computes, and a runtime that is given bytes looks for nothing
    beside the working folder. What is no graph is returned as it is: the runtime will say so.

    """
    import onnx

    data = path.read_bytes()
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:  # noqa: B902  protobuf's own error class has moved between versions
        return data
    if not any(tensor.external_data for tensor in every_tensor(model)):
        return data
    return bytes(onnx.load(str(path)).SerializeToString())


def read_graph(path: Path) -> Any:
    """Return the graph of an ONNX file without its external weights, or raise ModelBundleError."""
    import onnx

    try:
        return onnx.load(str(path), load_external_data=False).graph
    except Exception as err:  # protobuf's own error class has moved between versions
        raise ModelBundleError(f'{path} is no ONNX file ({err})', fix=COMPILE) from err


def input_tensors(graph: Any) -> _Tensors:
    """Return type and shape of each input that is no weight; old files list weights too."""
    weights = {weight.name for weight in graph.initializer}
    return _tensors(info for info in graph.input if info.name not in weights)


def _tensors(infos: Iterable[Any]) -> _Tensors:
    """Return type and shape by name; a symbolic axis is None."""
    import onnx

    found: _Tensors = {}
    for info in infos:
        kind = info.type.tensor_type
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        dims = [dim.dim_value if dim.HasField('dim_value') else None for dim in kind.shape.dim]
        found[info.name] = (f'tensor({name})', dims)
    return found


def _require_tensors(what: str, found: _Tensors, wanted: _Tensors) -> None:
    if set(found) != set(wanted):
        raise ModelBundleError(f'{what} {sorted(found)}', f'{sorted(wanted)} as the card says',
                               COMPILE)
    for name, (kind, shape) in wanted.items():
        if found[name] != (kind, shape):
            raise ModelBundleError(
                f'{what} {name!r} as {found[name][0]} {found[name][1]}',
                f'{kind} {shape} as the card says', COMPILE,
            )
