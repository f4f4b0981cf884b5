# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The interface of every runtime, and the checks of a bundle's graphs, an image and its masks.

Each runtime's file has the same methods in the same order: opening, `run`, `timings_ms`, `close`.
The graphs' inputs and outputs are read from the files and not from a runtime, so that every
backend rejects the same bundles with the same messages. The nodes themselves are not checked.

This module also decides how many passes run at once, on how many threads and in how much memory.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
import math
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8, require_shape
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import Masks
from uncertainty_seg.core.model_card import FEATURE_MAP, ModelCard
from uncertainty_seg.core.uncertainty import PassSums
from uncertainty_seg.errors import ModelBundleError, ShapeError
from uncertainty_seg.storage.onnx_nodes import every_tensor


class Runner(AbstractContextManager['Runner'], abc.ABC):
    """A bundle opened in a runtime; a context manager that closes it."""

    name: str  # a key of `registry.OPENERS`
    _timings_ms: Mapping[str, float] = {}

    @abc.abstractmethod
    def run(self, image: ImageU8, masks: Masks, temperature: float) -> PassSums:
        """
        Run T passes of one image, and return their sums on the logits' grid.

        The image is uint8 (h, w, 3) in the card's size and colour order. `masks` has an array, or
        `LazyRows`, float32 (T, *site.shape), for each dropout site. The caller must not modify it
        afterwards, since a runtime may reuse the masks of the same object on the device. The
        logits are divided by `temperature`; sums are NaN where a logit is NaN or infinite. Raises
        ShapeError if image or masks do not fit the card, BackendError if the runtime or the device
        fails, or the backend is closed.
        """

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Milliseconds of each stage of the last run: 'trunk' and 'passes'."""
        return self._timings_ms

    @abc.abstractmethod
    def close(self) -> None:
        """Free graphs, buffers and threads; may be called twice."""

    def __exit__(self, *_error: object) -> None:
        self.close()


def require_inputs(card: ModelCard, image: ImageU8, masks: Masks) -> int:
    """
    Return the common T of all masks, after checking image and masks against the card.

    The fitted image is uint8 (h, w, 3); masks are float32 (T, *site.shape), one for each dropout
    site of the card and none for a single pass. Raises ShapeError if the image has another size or
    dtype, a mask is missing or unknown, or masks have different T.
    """
    require_shape('image', image, (card.input.height, card.input.width, 3), np.uint8)
    wanted = {site.name: site.shape for site in card.dropout_sites}
    if set(masks) != set(wanted):
        raise ShapeError(f'masks for {sorted(masks)}', f'{sorted(wanted)}, the sites of the card')
    for name, shape in wanted.items():
        require_shape(f'mask {name!r}', masks[name], (None, *shape), np.float32)
    counts = {name: len(mask) for name, mask in masks.items()}
    passes = min(counts.values(), default=1)
    if passes < 1 or len(set(counts.values())) > 1:
        raise ShapeError(f'masks for {counts} passes', 'the same T >= 1 for every site')
    return passes


# -------------------------------------------------------------------------------------------------
# Graphs.

IMAGE = 'image'
# Tensor names of passes.onnx. They repeat those of `compiler.head_graphs`, which `backends` must
# not import; a test compares them.
INV_TEMPERATURE = 'inv_temperature'
SUM_P, SUM_ENTROPY, SUM_P2, VOTES = 'sum_p', 'sum_entropy', 'sum_p2', 'votes'
SUM_LOGITS = 'sum_logits'
SUMS = (SUM_P, SUM_ENTROPY, SUM_P2, VOTES, SUM_LOGITS)
COMPILE = 'compile the bundle again'
_FLOAT, _BYTE = 'tensor(float)', 'tensor(uint8)'
_Tensors: TypeAlias = dict[str, tuple[str, list[int | None]]]


@dataclass(frozen=True)
class GraphNames:
    """Names of the tensors that go from trunk to passes, in the order of the files."""

    # Outputs of the trunk that are inputs of the passes.
    frontier: tuple[str, ...]
    # Inputs of passes.onnx: frontier, masks, temperature, and the image if needed.
    inputs: tuple[str, ...]
    # The trunk's output of features, which the passes do not read; empty if the card has none.
    features: tuple[str, ...] = ()

    @property
    def trunk_outputs(self) -> tuple[str, ...]:
        """All outputs of the trunk."""
        return (*self.frontier, *self.features)


def require_graphs(bundle: ModelBundle) -> GraphNames:
    """
    Return the tensors to pass from trunk to passes, after checking the graphs against the card.

    Raises ModelBundleError, which names the first tensor that is missing, unknown, or of another
    type or shape.
    """
    card, spec = bundle.card, bundle.card.input
    trunk, head = read_graph(bundle.trunk_path), read_graph(bundle.passes_path)
    passes = None if card.dropout_sites else 1
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
    _require_tensors('passes.onnx takes', inputs, {
        **direct, **features, **sites, INV_TEMPERATURE: (_FLOAT, [1])})
    planes: dict[str, list[int | None]] = {
        name: [*card.logits_shape[1:]] for name in (SUM_ENTROPY, SUM_P2)}
    planes |= {name: [*card.logits_shape] for name in (SUM_P, VOTES, SUM_LOGITS)}
    _require_tensors('passes.onnx gives', _tensors(head.output),
                     {name: (_FLOAT, shape) for name, shape in planes.items()})
    return GraphNames(tuple(features), tuple(inputs), tuple(described))


def added_sums(
    chunks: Iterable[Mapping[str, NDArray[np.float32]]], passes: int, temperature: float
) -> PassSums:
    """
    Add the sums of several chunks of passes, each keyed by the names in `SUMS`, in their order.

    The arrays of the first chunk are modified; `temperature` is that of the passes.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for chunk in chunks:
        if not found:
            found = {name: np.asarray(chunk[name]) for name in SUMS}
            continue
        for name, values in found.items():
            values += chunk[name]
    return PassSums(passes, found[SUM_P], found[SUM_ENTROPY], found[SUM_P2], found[VOTES],
                    found[SUM_LOGITS], temperature)


# Operators whose results are exact in float16 if their inputs are, so that nothing is rounded.
_EXACT = frozenset({
    'Abs', 'Clip', 'Concat', 'DepthToSpace', 'Expand', 'Flatten', 'Gather', 'GatherElements',
    'Identity', 'Max', 'MaxPool', 'Min', 'Neg', 'Pad', 'Relu', 'Reshape', 'Slice', 'SpaceToDepth',
    'Split', 'Squeeze', 'Tile', 'Transpose', 'Unsqueeze', 'Where',
})


def rounding_half(content: bytes) -> bytes:
    """
    Convert a float16 graph to one that computes in float32 and rounds as float16 does.

    A CPU has no float16 kernels: its runtime computes in float32 and omits the rounding between
    operators. In the converted graph, every result that was float16 is rounded to float16, weights
    are widened, and only the sums inside an operator are float32, as in GPU hardware. Values
    beyond 65504 become infinite. A graph without float16 computes the same as before.
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


def read_graph(path: Path) -> Any:
    """Return the graph of an ONNX file without its external weights, or raise ModelBundleError."""
    import onnx

    try:
        return onnx.load(str(path), load_external_data=False).graph
    except Exception as err:  # protobuf's error class has moved between versions
        raise ModelBundleError(f'{path} is no ONNX file ({err})', fix=COMPILE) from err


def input_tensors(graph: Any) -> _Tensors:
    """Return type and shape of each input except weights, which old files list as inputs too."""
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


# -------------------------------------------------------------------------------------------------
# Threads, passes at once, memory.

_CPU_QUOTA_FILE = Path('/sys/fs/cgroup/cpu.max')
# With more passes per call, the fixed cost of a call is negligible: T = 100 of `pipeline` took
# 40.2 ms in chunks of 20, 38.4 ms in chunks of 25 and 38.5 ms in chunks of 50.
MAX_CHUNK = 25
MEGABYTE = 2**20


def usable_threads(wanted: int) -> int:
    """
    Return the wanted number of threads, or for 0 the number that this process may use.

    That is the number of cores in its affinity, or fewer if a container's CPU quota is lower.
    """
    if wanted > 0:
        return wanted
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_QUOTA_FILE.read_text().split()
        granted = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup, or 'max': no quota
        granted = cores
    return max(1, min(cores, granted))


def choose_chunk(total: int, bytes_a_pass: int, budget_mb: int) -> int:
    """
    Return the number of passes per chunk for T = `total`, in chunks of nearly equal size.

    Each pass in a chunk takes `bytes_a_pass` of the budget in MB. A chunk has at least one pass
    and at most `MAX_CHUNK`, whatever the budget.
    """
    fitting = budget_mb * MEGABYTE // max(bytes_a_pass, 1)
    limit = max(1, min(total, fitting, MAX_CHUNK))
    return math.ceil(total / math.ceil(total / limit))


def bytes_a_pass(passes: bytes) -> int:
    """
    Estimate how many bytes of memory one more pass takes in a passes.onnx.

    It is the growth of the largest total of tensors alive at the same time, if nodes run in the
    order of the file and nothing is fused: an upper bound for a runtime.
    """
    import onnx

    model = onnx.load_model_from_string(passes)
    # With many passes, tensors without a pass axis do not determine where the peak is.
    growth = _peak_bytes(model, 2 * MAX_CHUNK) - _peak_bytes(model, MAX_CHUNK)
    return max(math.ceil(growth / MAX_CHUNK), 1)


def _peak_bytes(model: Any, passes: int) -> int:
    """Return the largest total size of live tensors in bytes, with T fixed."""
    sizes = _tensor_bytes(model, passes)
    nodes = model.graph.node
    last_use = {name: index for index, node in enumerate(nodes) for name in node.input}
    outputs = {info.name for info in model.graph.output}
    live = sum(sizes.get(info.name, 0) for info in model.graph.input)
    peak = live
    for index, node in enumerate(nodes):
        live += sum(sizes.get(name, 0) for name in node.output)
        peak = max(peak, live)
        ended = {name for name in [*node.input, *node.output] if name not in outputs
                 and last_use.get(name, index) == index}
        live -= sum(sizes.get(name, 0) for name in ended)
    return peak


def _tensor_bytes(model: Any, passes: int) -> dict[str, int]:
    import onnx

    sizes = {}
    for info in _with_passes(model, passes):
        kind = info.type.tensor_type
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
        sizes[info.name] = itemsize * math.prod(dim.dim_value for dim in kind.shape.dim)
    return sizes


def tensor_shapes(model: Any, passes: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input, output and intermediate tensor, with T fixed."""
    return {info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
            for info in _with_passes(model, passes)}


def _with_passes(model: Any, passes: int) -> list[Any]:
    """Return type and shape of every tensor of a model, with T fixed."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # its shapes have the symbolic axis
    for info in [*fixed.graph.input, *fixed.graph.output]:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = passes
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    return [*inferred.input, *inferred.value_info, *inferred.output]
