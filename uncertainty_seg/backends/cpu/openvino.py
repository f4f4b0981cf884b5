# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
OpenVINO on the CPU, the fastest of the runtimes on x86.

By default it computes in bf16 on processors that support it, so the precision is always set
explicitly. A graph for a fixed number of passes takes a quarter less time and half the memory of
one for any number, so one is compiled for each chunk size. `import openvino` would write to disk
and send telemetry; this module prevents both.

Some operations are rewritten to a form that OpenVINO computes faster. A 3x3 convolution after a
nearest upsampling by two multiplies the same pixel by several weights. One transposed convolution
of the small image, with 4x4 weights and stride 2, gives the same result with 4/9 of the products.
This is done here and not by the compiler, because it makes ONNX Runtime slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import functools
import logging
from pathlib import Path
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.cpu.streaming import GPU_ONLY, StreamingBackend
from uncertainty_seg.backends.runner import COMPILE, IMAGE, SUMS
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import PassInputs
from uncertainty_seg.errors import BackendUnavailableError, install_command, ModelBundleError

_DEVICE = 'CPU'
_TELEMETRY = 'openvino_telemetry'
# Compiled sizes to keep: full chunks, a smaller last chunk, and the two passes of the mask check.
_MOST_SIZES = 3
# With fewer channels, SIMD registers are mostly empty with and without the rewriting.
_FEWEST_CHANNELS = 8
# Interpolation modes in which the output pixels 2i and 2i+1 are the input pixel i.
_REPEATS = {
    ('asymmetric', 'floor'), ('half_pixel', 'round_prefer_floor'),
    ('half_pixel', 'round_prefer_ceil'), ('pytorch_half_pixel', 'round_prefer_floor'),
    ('pytorch_half_pixel', 'round_prefer_ceil'),
}
_log = logging.getLogger(__name__)


class OpenVinoBackend(StreamingBackend):
    """
    Run a bundle's two graphs with OpenVINO; parameters and errors are those of its base.

    Everything is computed in float32 unless the precision is bf16, including fp16 graphs; an int8
    trunk runs in int8 where it is quantised.
    """

    name = 'openvino'
    refused = {'tf32': GPU_ONLY}

    def _import(self) -> None:
        self._ov: Any = import_openvino()
        self._core: Any = core_of_process()
        if not has_bf16(self._core):
            # OpenVINO would compute in float32, for which no bf16 calibration is valid.
            self.refused = {**self.refused,
                            'bf16': 'this processor has no bf16: set precision to fp32'}

    def _open(self, bundle: ModelBundle, passes: bytes) -> None:
        self._path = bundle.passes_path
        trunk = self._read(bundle.trunk_path, bundle.trunk_path.read_bytes())
        self._passes = self._read(self._path, passes)
        self._trunk: Any = self._compile(bundle.trunk_path, trunk)
        self._trunk_call: Any = self._trunk.create_infer_request()
        self._calls: dict[int, Any] = {}
        _log.info('openvino %s, %d threads, %s', self._ov.__version__, self._threads,
                  self.precision)

    def _read(self, path: Path, content: bytes) -> Any:
        with _named(path):
            return self._core.read_model(content)

    def _compile(self, path: Path, model: Any) -> Any:
        with _named(path):
            transpose_upsampled(self._ov, model)
            return self._core.compile_model(
                model, _DEVICE, cpu_options(self.precision, self._threads))

    def _run_trunk(self, batch: ImageU8) -> None:
        self._batch = self._shared(batch)
        self._trunk_call.set_tensor(IMAGE, self._batch)
        self._trunk_call.infer()

    def _run_passes(
        self, parts: PassInputs, passes: int
    ) -> Mapping[str, NDArray[np.float32]]:
        call = self._call(passes)
        for name in self._names.inputs:
            if name in parts:
                tensor = self._shared(parts[name])
            else:
                tensor = self._batch if name == IMAGE else self._trunk_call.get_tensor(name)
            call.set_tensor(name, tensor)
        call.infer()
        return {name: np.array(call.get_tensor(name).data) for name in SUMS}

    def _trunk_output(self, name: str) -> NDArray[np.float32]:
        return np.array(self._trunk_call.get_tensor(name).data)

    def _call(self, passes: int) -> Any:
        """Return the infer request for a number of passes; compile it when first needed."""
        call = self._calls.pop(passes, None)
        if call is None:
            while len(self._calls) >= _MOST_SIZES:
                del self._calls[next(iter(self._calls))]
            model = self._passes.clone()
            if self._card.dropout_sites:
                model.reshape({site.name: [passes, *site.shape]
                               for site in self._card.dropout_sites})
            call = self._compile(self._path, model).create_infer_request()
        self._calls[passes] = call  # The most recently used one is the last.
        return call

    def _shared(self, values: NDArray[Any]) -> Any:
        """Return a tensor that shares the memory of an array and keeps it alive."""
        return self._ov.Tensor(values, shared_memory=True)

    def _free(self) -> None:
        self._trunk = self._trunk_call = self._passes = self._batch = None
        self._calls = {}


def import_openvino() -> Any:
    """Import openvino without its telemetry."""
    try:
        with _no_telemetry():
            import openvino
            import openvino.passes
    except ImportError as err:
        raise BackendUnavailableError(
            f'openvino cannot be imported ({err})', fix=install_command('openvino')
        ) from err
    return openvino


@functools.cache
def core_of_process() -> Any:
    """
    Return the only Core of this process, which is never closed.

    Its CPU plugin gives the thread that compiles the first model a new stack for signal handlers,
    and restores the previous stack when it is closed. If two Cores are closed in the order in
    which they were opened, the second restores the stack of the first, which no longer exists. The
    next signal that Python handles, such as Ctrl-C, then ends the process by SIGSEGV (seen with
    OpenVINO 2026).
    """
    return import_openvino().Core()


def cpu_options(precision: str, threads: int) -> dict[str, Any]:
    """Return the options for compiling a graph."""
    return {
        'INFERENCE_PRECISION_HINT': 'bf16' if precision == 'bf16' else 'f32',
        'INFERENCE_NUM_THREADS': threads, 'NUM_STREAMS': 1, 'PERFORMANCE_HINT': 'LATENCY',
        # Two processes that pin their threads would use the same cores.
        'ENABLE_CPU_PINNING': False,
    }


def has_bf16(core: Any) -> bool:
    """Return whether this processor computes in bf16."""
    return 'BF16' in core.get_property(_DEVICE, 'OPTIMIZATION_CAPABILITIES')


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """Hide the telemetry package, which writes to the home folder and reports the import."""
    loaded = sys.modules.pop(_TELEMETRY, None)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if loaded is not None:
            sys.modules[_TELEMETRY] = loaded


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Convert errors of OpenVINO to ModelBundleError with the file's name."""
    try:
        yield
    except Exception as err:  # OpenVINO's errors have no narrower base class
        raise ModelBundleError(f'openvino cannot open {path} ({err})', fix=COMPILE) from err


def transpose_upsampled(openvino: Any, model: Any) -> int:
    """
    Rewrite every 3x3 convolution after a nearest upsampling by two, in place.

    Returns the number of rewritten convolutions. The result is the same up to rounding.
    """
    _fold_constants(openvino, model)
    count = 0
    for conv in model.get_ordered_ops():
        if conv.get_type_name() != 'Convolution' or not _is_same_3x3(conv):
            continue
        upsampling, weights = (conv.input_value(i).get_node() for i in (0, 1))
        if not _is_doubling(upsampling) or weights.get_type_name() != 'Constant':
            continue
        # float32 must be requested: numpy has no bf16, whose bytes would be read as float16.
        kernel = _kernel(weights.get_data(dtype=np.float32))
        transposed = openvino.opset13.convolution_backprop_data(
            upsampling.input_value(0),
            openvino.opset13.constant(kernel, dtype=weights.get_element_type()), [2, 2],
            pads_begin=[1, 1], pads_end=[1, 1])
        transposed.set_friendly_name(conv.get_friendly_name())
        openvino.utils.replace_node(conv, transposed)
        count += 1
    return count


def _fold_constants(openvino: Any, model: Any) -> None:
    """Compute weights that are gathered or cast from constants."""
    manager = openvino.passes.Manager()
    manager.register_pass(openvino.passes.ConstantFolding())
    manager.run_passes(model)


def _is_same_3x3(conv: Any) -> bool:
    about, weights = conv.get_attributes(), conv.input_value(1).get_partial_shape()
    if not weights.is_static:
        return False
    outputs, inputs, *kernel = weights.to_shape()
    return (
        list(kernel) == [3, 3] and min(outputs, inputs) >= _FEWEST_CHANNELS
        and list(about['strides']) == [1, 1] and list(about['dilations']) == [1, 1]
        and list(about['pads_begin']) == list(about['pads_end']) == [1, 1]
        and about.get('auto_pad', 'explicit') == 'explicit'
    )


def _is_doubling(node: Any) -> bool:
    if node.get_type_name() != 'Interpolate':
        return False
    about = node.get_attributes()
    if about.get('mode') != 'nearest':
        return False
    ways = about.get('coordinate_transformation_mode'), about.get('nearest_mode')
    small, large = (s.get_partial_shape() for s in (node.input_value(0), node.output(0)))
    if ways not in _REPEATS or not small[2:].is_static or not large[2:].is_static:
        return False
    padding = [*about.get('pads_begin', []), *about.get('pads_end', [])]
    return not any(padding) and len(small) == 4 and all(
        2 * small[axis].get_length() == large[axis].get_length() for axis in (2, 3))


def _kernel(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum the weights (O, I, 3, 3) that multiply the same pixel; return (I, O, 4, 4)."""
    outputs, inputs = weights.shape[:2]
    flipped = weights[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    result = np.zeros((inputs, outputs, 4, 4), np.float32)
    for row in (0, 1):
        for column in (0, 1):
            result[:, :, row:row + 3, column:column + 3] += flipped
    return result
