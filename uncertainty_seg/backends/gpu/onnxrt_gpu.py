# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
ONNX Runtime on an NVIDIA GPU: the second way to one, besides TensorRT itself.

ONNX Runtime gives a graph to the processor, with a warning at most, when its GPU provider cannot
be loaded. On a vehicle only the frame rate would show it, so here it is an error. No GPU was
available: this file has not run on one; its tests take the same steps in the host's memory.

Two graphs around `head_stats.onnx` keep the passes of a frame on the device: one adds the sums of
a chunk to those of the chunks before it, the other computes the maps from the sums. Both are made
from the bundle when it is opened, in float32 whatever the network's precision.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
import hashlib
import logging
import math
from pathlib import Path
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.cpu.onnxrt import OnnxRuntimeBackend
from uncertainty_seg.backends.gpu.device import find_device
from uncertainty_seg.backends.gpu.engine_cache import cache_folder
from uncertainty_seg.backends.graph_files import (
    coarse_statistics,
    COMPILE,
    given_statistics,
    IMAGE,
    INV_TEMPERATURE,
    read_graph,
    require_statistics,
    STATISTICS,
    SUM_LOGITS,
    whole_graph,
)
from uncertainty_seg.backends.resources import (
    choose_chunk,
    Chunking,
    head_bytes_a_pass,
    MAX_CHUNK,
)
from uncertainty_seg.backends.runner import IsEnough
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import HEAD_STATS_FILE, ModelBundle
from uncertainty_seg.core.dropout_masks import Masks
from uncertainty_seg.core.model_card import FEATURE_MAP, ModelCard
from uncertainty_seg.core.settings import passes_of, Settings
from uncertainty_seg.core.uncertainty import (
    LEAST_PROBABILITY,
    LOGIT_SCALE,
    MapRequest,
    MAPS_OF_LOGITS,
    MAPS_OF_MEANS,
    MORE_MAPS,
    UncertaintyMaps,
)
from uncertainty_seg.errors import BackendUnavailableError, ModelBundleError

PASSES, INV_TAU = 'passes', 'inv_tau'
BEFORE = 'before_'
MAPS = tuple(field.name for field in fields(UncertaintyMaps) if field.name not in MORE_MAPS)
_OPSET, _IR = 17, 8
CUDA, TENSORRT, CPU = (
    'CUDAExecutionProvider', 'TensorrtExecutionProvider', 'CPUExecutionProvider')
# What ONNX Runtime raises for a file, whatever runs it.
_FILE_ERRORS = ('InvalidProtobuf', 'InvalidGraph', 'NoSuchFile', 'InvalidArgument')
_INSTALL = 'install CUDA, cuDNN and TensorRT of the versions that it wants: docs/tensorrt.md'
# Softmax, its logarithm and their product are there at the same time, in full size.
_FULL_TENSORS = 3
# Heuristic, so that two starts choose the same kernels; memory stays what is asked for.
CUDA_OPTIONS = {
    'device_id': '0', 'use_tf32': '0', 'cudnn_conv_algo_search': 'HEURISTIC',
    'arena_extend_strategy': 'kSameAsRequested',
}
_log = logging.getLogger(__name__)
Tensors = Mapping[str, Any]


class OnnxRuntimeCudaBackend(OnnxRuntimeBackend):
    """
    Run a bundle with ONNX Runtime's CUDA provider; parameters and errors as its base.

    Notes
    -----
    Features, masks and sums stay on the device, and only maps come back, where the head takes any
    number of passes. Of other cards the logits come back, and the processor reduces them. float32
    is float32 unless the precision is tf32.

    """

    name = 'onnxruntime_cuda'
    refused = {'bf16': 'use backend tensorrt'}
    # The first must run the graphs; the others may run what it does not support.
    providers: tuple[str, ...] = (CUDA,)
    device = 'cuda'

    def __init__(self, bundle: ModelBundle, settings: Settings) -> None:
        self._is_fixed = settings.mask_policy == 'fixed'
        self._passes = passes_of(bundle.card, settings)
        self._masks: Masks | None = None
        self._slots: dict[int, dict[str, Any]] = {}
        self._filled: set[int] = set()
        super().__init__(bundle, settings)

    @property
    def version(self) -> str:
        """Of ONNX Runtime."""
        return str(self._ort.__version__)

    @property
    def device_name(self) -> str:
        """Return the GPU, with its compute capability and the CUDA of its driver."""
        return self._target

    def _import(self) -> None:
        self._target = self._find_device()
        super()._import()
        there = self._ort.get_available_providers()
        lacking = [name for name in self.providers if name not in there]
        if lacking:
            raise BackendUnavailableError(
                f'this onnxruntime {self._ort.__version__} has no {lacking[0]}',
                fix='put onnxruntime-gpu in the place of onnxruntime: docs/tensorrt.md',
            )

    def _find_device(self) -> str:
        """Return the GPU's name, before a library that needs a GPU is touched."""
        found = find_device()
        return f'{found.name}, {found.compute_capability}, {found.driver}'

    def _open(self, bundle: ModelBundle) -> None:
        self._head_path = bundle.head_path
        self._bank_heads, self._tensors = {}, {}
        self._buffer = np.empty((0, *self._card.logits_shape), np.float32)
        self._chunk_bytes = head_bytes_a_pass(bundle.head_path)
        self._trunk = self._open_session(bundle.trunk_path)
        self._image = self._empty((1, self._card.input.height, self._card.input.width, 3),
                                  np.uint8)
        self._head = self._adder = self._finisher = None
        stats = bundle.folder / HEAD_STATS_FILE
        if not self._card.chunk and stats.is_file():
            self._open_statistics(stats)
        else:
            self._head = self._open_session(bundle.head_path, has_masks=True)
        _log.info('%s: onnxruntime %s on %s, reduction on the %s', self.name,
                  self._ort.__version__, self._target, 'device' if self._adder else 'processor')

    def _open_statistics(self, path: Path) -> None:
        plane = plane_of(self._card, self.reduction)
        stack = (self._card.num_classes, *plane)
        self._chunk_bytes += _FULL_TENSORS * 4 * math.prod(stack)
        is_coarse = self.reduction == 'coarse'
        content = coarse_statistics(path, plane) if is_coarse else path.read_bytes()
        self._adder = self._open_session(path, adding(content), has_masks=True)
        self._finisher = self._open_session(path, finishing(self._card, self.reduction))
        self._more_finisher: Any = None
        self._statistics = given_statistics([info.name for info in read_graph(path).output])
        self._zeros = {name: self._empty(shape, np.float32) for name, shape in zip(
            self._statistics, (stack, plane, plane, stack, self._card.logits_shape),
            strict=False)}
        for zeros in self._zeros.values():
            zeros.update_inplace(np.zeros(zeros.shape(), np.float32))

    def _open_session(
        self, path: Path, content: bytes | None = None, has_masks: bool = False
    ) -> Any:
        content = content or whole_graph(path)
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.use_deterministic_compute = True
        # Shows `require_placed` which node runs where; versions that lack the option ignore it.
        options.add_session_config_entry('session.record_ep_graph_assignment_info', '1')
        providers = [(name, self._options(name, content, has_masks)) for name in self.providers]
        try:
            session = self._ort.InferenceSession(
                content, options, providers=providers, enable_fallback=0)
        except Exception as err:  # the runtime's own errors derive from nothing narrower
            if type(err).__name__ in _FILE_ERRORS:
                raise ModelBundleError(
                    f'onnxruntime cannot open {path} ({err})', fix=COMPILE) from err
            says = ' '.join(str(err).split())
            raise BackendUnavailableError(
                f'{self.name} cannot open {path} ({says})', fix=_INSTALL) from err
        session.disable_fallback()
        require_placed(session, self.providers[0], path)
        return session

    def _options(self, provider: str, graph: bytes, has_masks: bool) -> dict[str, str]:
        """Return the options of one provider for one graph."""
        if provider != CUDA:
            return {}
        return {**CUDA_OPTIONS, 'use_tf32': str(int(self.precision == 'tf32'))}

    def _new_chunking(self, passes: int) -> Chunking:
        if self._adder is None:
            return super()._new_chunking(passes)
        return choose_chunk(passes, self._chunk_bytes, self._budget_mb)

    @property
    def can_stop_early(self) -> bool:
        """Say whether `run_until` works: not with sums on the device."""
        return self._adder is None and super().can_stop_early

    def _run(
        self, batch: ImageU8, masks: Masks, passes: int, inv_temperature: float,
        request: MapRequest, steps: Sequence[int], is_enough: IsEnough,
    ) -> tuple[UncertaintyMaps, int]:
        if self._adder is None:
            return super()._run(batch, masks, passes, inv_temperature, request, steps, is_enough)
        require_statistics(self._card, request, self._statistics)
        start_s = time.perf_counter()
        self._run_trunk(batch)
        trunk_s = time.perf_counter()
        sums = self._sums(masks, passes, np.array([inv_temperature], np.float32))
        head_s = time.perf_counter()
        maps = self._finish(sums, passes, request)
        self._timings_ms = {
            'trunk': (trunk_s - start_s) * 1e3, 'head': (head_s - trunk_s) * 1e3,
            'reduction': (time.perf_counter() - head_s) * 1e3,
        }
        return maps, passes

    def _run_trunk(self, batch: ImageU8) -> None:
        self._image.update_inplace(batch)
        features = self._call(self._trunk, {IMAGE: self._image}, self._names.trunk_outputs)
        self._tensors = {IMAGE: self._image, **features}

    def _sums(self, masks: Masks, passes: int, inv_temperature: NDArray[np.float32]) -> Tensors:
        """Run the head chunk by chunk; each adds to the sums of the chunks before."""
        if not self._is_fixed or masks is not self._masks:
            self._filled.clear()
            self._masks = masks
        heat = self._ort.OrtValue.ortvalue_from_numpy(inv_temperature)
        sums: Tensors = self._zeros
        chunk = self._chunk(passes)
        for first in range(0, passes, chunk):
            given = {**self._tensors,
                     **self._resident(first, min(first + chunk, passes), masks)}
            inputs = {name: given[name] for name in self._names.head_inputs}
            inputs.update({BEFORE + name: value for name, value in sums.items()})
            sums = self._call(
                self._adder, {**inputs, INV_TEMPERATURE: heat}, self._statistics)
        return sums

    def _resident(self, first: int, stop: int, masks: Masks) -> Tensors:
        """Return a chunk of masks on the device; drawn and copied once where they never change."""
        slot = self._slots.get(first, {})
        shapes = {name: (stop - first, *rows.shape[1:]) for name, rows in masks.items()}
        if any(name not in slot or tuple(slot[name].shape()) != shape
               for name, shape in shapes.items()):
            self._filled.discard(first)
            slot = {name: self._empty(shape, np.float32) for name, shape in shapes.items()}
            self._slots[first] = slot
        if first not in self._filled:
            for name, rows in masks.items():
                slot[name].update_inplace(np.ascontiguousarray(rows[first:stop]))
            self._filled.add(first)
        return slot

    def _finish(self, sums: Tensors, passes: int, request: MapRequest) -> UncertaintyMaps:
        count = self._ort.OrtValue.ortvalue_from_numpy(np.array([passes], np.float32))
        usual = {name: sums[name] for name in STATISTICS}
        maps = self._call(self._finisher, {**usual, PASSES: count}, MAPS, 'cpu')
        if request.names:
            maps |= self._more(sums, count, request)
        found = UncertaintyMaps(**{name: value.numpy() for name, value in maps.items()})
        return found.with_features(self._trunk_output(FEATURE_MAP)) if self._names.features \
            else found

    def _more(self, sums: Tensors, count: Any, request: MapRequest) -> dict[str, Any]:
        """Return the other maps asked for; their graph is opened for the first frame with one."""
        if self._more_finisher is None:
            self._more_finisher = self._open_session(
                self._head_path, finishing_more(self._card, self._statistics, self.reduction))
        tau = self._ort.OrtValue.ortvalue_from_numpy(
            np.array([1 / request.unknown_temperature], np.float32))
        used = {name: sums[name] for name in (STATISTICS[0], SUM_LOGITS) if name in sums}
        names = MAPS_OF_MEANS + (MAPS_OF_LOGITS if SUM_LOGITS in used else ())
        found = self._call(self._more_finisher, {**used, PASSES: count, INV_TAU: tau}, names,
                           'cpu')
        return {name: found[name] for name in names if name in request.names}

    def _call(
        self, session: Any, inputs: Tensors, outputs: tuple[str, ...], device: str | None = None
    ) -> dict[str, Any]:
        """Run a graph on tensors in place, and leave its results on the device."""
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, device or self.device)
        session.run_with_iobinding(binding)
        return dict(zip(outputs, binding.get_outputs(), strict=True))

    def _empty(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        return self._ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, self.device, 0)

    def _free(self) -> None:
        super()._free()
        self._adder = self._finisher = self._more_finisher = self._image = self._masks = None
        self._slots, self._zeros = {}, {}


class OnnxRuntimeTensorRtBackend(OnnxRuntimeCudaBackend):
    """
    Run a bundle with ONNX Runtime's TensorRT provider; parameters and errors as its base.

    Notes
    -----
    Graphs of float32 only: the provider builds half precision with weak types, which may take the
    reduction along, and that made 93 % of entropies NaN. TensorRT uses TF32, and the provider has
    no option against it, so that the precision has to be tf32. Engines are built when the backend
    is opened, minutes the first time, and kept in the folder of engines.

    """

    name = 'onnxruntime_tensorrt'
    refused = {**dict.fromkeys(('bf16', 'fp16', 'int8'), 'use backend tensorrt'),
               'fp32': 'set precision to tf32, which needs its own calibration, or use backend '
                       'tensorrt'}
    providers = (TENSORRT, CUDA)

    def _options(self, provider: str, graph: bytes, has_masks: bool) -> dict[str, str]:
        if provider != TENSORRT:
            return super()._options(provider, graph, has_masks)
        is_open = has_masks and self._card.dropout_sites and not self._card.chunk
        ranges = self._ranges() if is_open else {}
        # A folder for each graph, range, GPU and version of ONNX Runtime, because it is not known
        # whether the names of its files distinguish two sets of weights.
        key = hashlib.sha256(graph)
        key.update(repr((self._target, self._ort.__version__, sorted(ranges.items()))).encode())
        folder = cache_folder() / 'onnxruntime' / key.hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        return {**tensorrt_options(folder), **ranges}

    def _ranges(self) -> dict[str, str]:
        """Return how many passes the masks may have, as the provider wants it written."""
        # A budget that holds one pass or fewer leaves one.
        largest = max(1, min(MAX_CHUNK, self._budget_mb * 2**20 // self._chunk_bytes))
        usual = choose_chunk(self._passes, self._chunk_bytes, self._budget_mb).passes
        return {f'trt_profile_{word}_shapes': ','.join(
            f'{site.name}:' + 'x'.join(map(str, (count, *site.shape)))
            for site in self._card.dropout_sites)
            for word, count in (('min', 1), ('opt', usual), ('max', largest))}


def tensorrt_options(folder: Path) -> dict[str, str]:
    """Return the options of the TensorRT provider that keeps its engines in a folder."""
    return {
        'device_id': '0', 'trt_fp16_enable': '0', 'trt_int8_enable': '0',
        'trt_engine_cache_enable': '1', 'trt_engine_cache_path': str(folder),
        'trt_timing_cache_enable': '1', 'trt_timing_cache_path': str(folder),
    }


def require_placed(session: Any, provider: str, path: Path) -> None:
    """
    Refuse a session of the graph `path` that does not run on the execution provider asked for.

    Raises BackendUnavailableError if the provider is not the session's first, or was given no
    node. Parts that run on the processor are logged.

    """
    used = session.get_providers()
    if used[:1] != [provider]:
        raise BackendUnavailableError(
            f'onnxruntime would run {path.name} with {used[0] if used else "nothing"}', provider,
            f'its log says which library cannot be loaded; {_INSTALL}',
        )
    if not hasattr(session, 'get_provider_graph_assignment_info'):
        return
    places = [part.ep_name for part in session.get_provider_graph_assignment_info()]
    if places and provider not in places:
        raise BackendUnavailableError(
            f'onnxruntime gave {provider} no node of {path.name}', 'all of them')
    if CPU in places and provider != CPU:
        _log.warning('%d parts of %s run on the processor: %s does not have them',
                     places.count(CPU), path.name, provider)


def plane_of(card: ModelCard, reduction: str) -> tuple[int, int]:
    """Return the size at which the passes are summed."""
    if reduction == 'coarse':
        return card.logits_shape[1], card.logits_shape[2]
    return card.input.height, card.input.width


def adding(head_stats: bytes) -> bytes:
    """
    Return head_stats.onnx as a graph that adds to given sums.

    The ONNX file has one more input for each of its outputs, named with `before_` in front.

    """
    import onnx

    model = onnx.ModelProto.FromString(head_stats)
    graph = model.graph
    inside = {info.name: f'{info.name}_of_chunk' for info in graph.output}
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


def finishing(card: ModelCard, reduction: str = 'exact') -> bytes:
    """
    Return a graph that computes the maps of `core.uncertainty` from sums over passes.

    The sums are of the size that `plane_of` says. The ONNX file takes `STATISTICS` and float32
    `passes` (1,), and gives `MAPS` (h, w), `label` as uint8. A pixel whose sum of squares is NaN
    is NaN in every map of floats, and 0 in `label`.

    """
    from onnx import helper, TensorProto

    low, plane = list(plane_of(card, reduction)), [card.input.height, card.input.width]
    stack = [card.num_classes, *low]
    floats = TensorProto.FLOAT
    shapes = {'sum_p': stack, 'sum_entropy': low, 'sum_p2': low, 'votes': stack, PASSES: [1]}
    inputs = [helper.make_tensor_value_info(name, floats, dims) for name, dims in shapes.items()]
    outputs = [helper.make_tensor_value_info(
        name, TensorProto.UINT8 if name == 'label' else floats, plane) for name in MAPS]
    is_coarse = reduction == 'coarse'
    nodes = _finish_coarse(card.upsampling) if is_coarse else _finish()
    graph = helper.make_graph(nodes, 'maps_of_sums', inputs, outputs, _constants(card))
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', _OPSET)], ir_version=_IR)
    return bytes(model.SerializeToString())


def finishing_more(
    card: ModelCard, statistics: tuple[str, ...], reduction: str = 'exact'
) -> bytes:
    """
    Return a graph that computes `MORE_MAPS` (h, w) from sums over passes.

    The ONNX file takes `sum_p`, float32 `passes` and `inv_tau` (1,), and gives the maps of the
    means; with `sum_logits` among the statistics it takes that too, and gives those of the logits.

    """
    from onnx import helper, numpy_helper, TensorProto

    plane = [card.input.height, card.input.width]
    shapes = {'sum_p': [card.num_classes, *plane_of(card, reduction)], PASSES: [1], INV_TAU: [1]}
    maps: tuple[str, ...] = MAPS_OF_MEANS
    means = [_node('Div', f'sum_p {PASSES}', 'mean')]
    if reduction == 'coarse':
        means = _coarse_mean(card.upsampling)
    nodes = means + _more_of_means()
    tensors = _constants(card)
    if SUM_LOGITS in statistics:
        shapes[SUM_LOGITS] = list(card.logits_shape)
        nodes, maps = nodes + _more_of_logits(card.upsampling), MORE_MAPS
        tensors.append(numpy_helper.from_array(np.float32(-1 / LOGIT_SCALE), 'falling'))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
             for name, dims in {**shapes, **dict.fromkeys(maps, plane)}.items()]
    graph = helper.make_graph(nodes, 'more_maps_of_sums', infos[:len(shapes)],
                              infos[len(shapes):], tensors)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', _OPSET)], ir_version=_IR)
    return bytes(model.SerializeToString())


def _node(op: str, inputs: str, output: str, **attributes: object) -> Any:
    from onnx import helper

    return helper.make_node(op, inputs.split(), [output], **attributes)


def _more_of_means() -> list[Any]:
    return [
        # Zero, or NaN where a pass was, whatever the runtime makes of the largest of NaN.
        _node('ReduceSum', 'mean class_axis', 'whole', keepdims=0),
        _node('Mul', 'whole zero', 'broken'),
        *_top_two(),
        _node('Sub', 'one distance', 'margin_raw'),
        _node('Add', 'margin_raw broken', 'margin'),
        _node('Pow', f'mean {INV_TAU}', 'powers'),
        _node('ReduceSum', 'powers class_axis', 'norm', keepdims=0),
        _node('Div', 'powers norm', 'soft'),
        _node('Equal', 'soft zero', 'is_zero'),
        _node('Where', 'is_zero one soft', 'safe'),
        _node('Log', 'safe', 'log_soft'),
        _node('Mul', 'soft log_soft', 'plogp'),
        _node('ReduceSum', 'plogp class_axis', 'minus_entropy', keepdims=0),
        _node('Neg', 'minus_entropy', 'entropy_nats'),
        _node('Div', 'entropy_nats log_classes', 'unknown'),
    ]


def _top_two() -> list[Any]:
    """Return what finds the two largest means, in a form that every runtime has."""
    from onnx import helper

    return [
        helper.make_node('TopK', ['mean', 'two'], ['largest_two', 'their_classes'], axis=0),
        helper.make_node('Split', ['largest_two'], ['first_row', 'second_row'], axis=0),
        _node('Sub', 'first_row second_row', 'distance_row'),
        _node('Squeeze', 'distance_row class_axis', 'distance'),
    ]


def _more_of_logits(upsampling: str) -> list[Any]:
    from onnx import helper

    return [
        _node('Div', f'{SUM_LOGITS} {PASSES}', 'low_logits'),
        _node('Unsqueeze', 'low_logits class_axis', 'one_pass'),
        helper.make_node('Resize', ['one_pass', '', 'scales'], ['one_full'], mode='linear',
                         coordinate_transformation_mode=upsampling),
        _node('Squeeze', 'one_full class_axis', 'logits'),
        _node('Sub', 'logits logits', 'zeros'),  # NaN for what is infinite
        _node('ReduceSum', 'zeros class_axis', 'no_logits', keepdims=0),
        _node('ReduceMax', 'logits', 'most', axes=[0], keepdims=0),
        _node('Sub', 'logits most', 'below'),
        _node('Exp', 'below', 'exps'),
        _node('ReduceSum', 'exps class_axis', 'sum_exps', keepdims=0),
        _node('Log', 'sum_exps', 'log_exps'),
        _node('Add', 'most log_exps', 'all_logits'),
        *(node for source, name in (('all_logits', 'energy'), ('most', 'max_logit'))
          for node in _falling(source, name)),
    ]


def _falling(source: str, name: str) -> list[Any]:
    return [
        _node('Mul', f'{source} falling', f'{name}_scaled'),
        _node('Sigmoid', f'{name}_scaled', f'{name}_raw'),
        _node('Add', f'{name}_raw no_logits', name),
    ]


def _constants(card: ModelCard) -> list[Any]:
    from onnx import numpy_helper

    num_classes, rows, columns = card.logits_shape
    values = {
        'least': np.float32(LEAST_PROBABILITY),
        'scales': np.array([1, 1, card.input.height / rows, card.input.width / columns],
                           np.float32),
        'spread_sizes': np.array([num_classes, 1, 1, 1], np.int64),
        'zero': np.float32(0), 'one': np.float32(1), 'nan': np.float32(math.nan),
        'log_classes': np.float32(math.log(num_classes)), 'class_axis': np.array([0], np.int64),
        'two': np.array([2], np.int64),
    }
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def _upsampled(source: str, output: str, upsampling: str) -> list[Any]:
    """Return the nodes from planes (N, hl, wl) to (N, h, w)."""
    from onnx import helper

    return [
        _node('Unsqueeze', f'{source} class_axis', f'{source}_one'),
        helper.make_node('Resize', [f'{source}_one', '', 'scales'], [f'{source}_full'],
                         mode='linear', coordinate_transformation_mode=upsampling),
        _node('Squeeze', f'{source}_full class_axis', output),
    ]


def _log_of_means() -> list[Any]:
    """Return what makes the logarithm of the mean probabilities at the size of the logits."""
    return [
        _node('Div', f'sum_p {PASSES}', 'low_mean'),
        _node('Less', 'low_mean least', 'is_little'),
        _node('Where', 'is_little least low_mean', 'low_safe'),
        _node('Log', 'low_safe', 'low_log'),
    ]


def _coarse_mean(upsampling: str) -> list[Any]:
    return [*_log_of_means(), *_upsampled('low_log', 'log_full', upsampling),
            _node('Softmax', 'log_full', 'mean', axis=0)]


def _finish_coarse(upsampling: str) -> list[Any]:
    """Return the nodes of `core.uncertainty.maps_from_coarse_logits` behind the sums."""
    from onnx import helper

    planes = ('low_mutual', 'low_variation', 'low_variance')
    return [
        *_log_of_means(),
        _node('IsNaN', 'sum_entropy', 'low_is_broken'),
        _node('Mul', 'low_mean low_log', 'low_plogp'),
        _node('ReduceSum', 'low_plogp class_axis', 'low_minus_entropy', keepdims=0),
        _node('Div', f'sum_entropy {PASSES}', 'within_nats'),
        _node('Add', 'low_minus_entropy within_nats', 'minus_mutual'),
        _node('Neg', 'minus_mutual', 'mutual_raw'),
        *_not_below_zero('mutual_raw', 'low_mutual'),
        *_disagreement('low_mean', 'low_variation', 'low_variance'),
        *(_node('Unsqueeze', f'{name} class_axis', f'{name}_plane') for name in planes),
        helper.make_node('Concat', ['low_log', *(f'{name}_plane' for name in planes)],
                         ['low_found'], axis=0),
        _node('Where', 'low_is_broken nan low_found', 'low_all'),
        *_upsampled('low_all', 'all_full', upsampling),
        helper.make_node('Split', ['all_full', 'spread_sizes'],
                         ['log_full', *(f'{name}_full' for name in planes)], axis=0),
        *(_node('Squeeze', f'{name}_full class_axis', output) for name, output in zip(
            planes, ('mutual_found', 'variation_ratio', 'total_variance'), strict=True)),
        _node('IsNaN', 'mutual_found', 'is_broken'),
        _node('Softmax', 'log_full', 'mean', axis=0),
        *_of_means(),
        _node('Less', 'entropy_nats mutual_found', 'is_more'),
        _node('Where', 'is_more entropy_nats mutual_found', 'mutual_nats'),
        *_parts_of_entropy(),
    ]


def _finish() -> list[Any]:
    """Return the nodes; runtimes disagree about the max of NaN, so NaN is set explicitly."""
    return [
        _node('IsNaN', 'sum_p2', 'is_broken'),
        _node('Div', f'sum_p {PASSES}', 'mean'),
        *_of_means(),
        _node('Div', f'sum_entropy {PASSES}', 'within_nats'),
        _node('Sub', 'entropy_nats within_nats', 'mutual_raw'),
        *_not_below_zero('mutual_raw', 'mutual_nats'),
        *_parts_of_entropy(),
        *_disagreement('mean', 'disagreeing', 'total_variance'),
        _node('Where', 'is_broken nan disagreeing', 'variation_ratio'),
    ]


def _of_means() -> list[Any]:
    """Return what makes label, confidence and entropy in nats of the mean probabilities."""
    from onnx import TensorProto

    node = _node
    return [
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
    ]


def _parts_of_entropy() -> list[Any]:
    return [
        _node('Sub', 'entropy_nats mutual_nats', 'aleatoric_nats'),
        _node('Div', 'entropy_nats log_classes', 'entropy'),
        _node('Div', 'mutual_nats log_classes', 'mutual_information'),
        _node('Div', 'aleatoric_nats log_classes', 'aleatoric'),
    ]


def _disagreement(mean: str, variation: str, variance: str) -> list[Any]:
    return [
        _node('ReduceMax', 'votes', 'most_votes', axes=[0], keepdims=0),
        _node('Div', f'most_votes {PASSES}', 'agreeing'),
        _node('Sub', 'one agreeing', variation),
        _node('Div', f'sum_p2 {PASSES}', 'mean_square'),
        _node('Mul', f'{mean} {mean}', 'mean_squared'),
        _node('ReduceSum', 'mean_squared class_axis', 'square_of_mean', keepdims=0),
        _node('Sub', 'mean_square square_of_mean', 'variance_raw'),
        *_not_below_zero('variance_raw', variance),
    ]


def _not_below_zero(name: str, output: str) -> list[Any]:
    """Clip what rounding took below zero; NaN stays."""
    from onnx import helper

    return [
        helper.make_node('Less', [name, 'zero'], [f'{name}_is_below']),
        helper.make_node('Where', [f'{name}_is_below', 'zero', name], [output]),
    ]
