# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From an ONNX graph to a TensorRT engine, with any version from 8.6 on and with TensorRT-RTX.

The parser owns the weights and the network points at them: both live until the build has ended.

"""

from __future__ import annotations

from dataclasses import dataclass
import logging
from pathlib import Path
import time
from typing import TYPE_CHECKING

from uncertainty_seg.backends.engine_config import configure, EngineSpec
from uncertainty_seg.backends.engine_progress import PhaseTracker, Progress, progress_monitor
from uncertainty_seg.backends.tensorrt_api import Messages, TensorRt
from uncertainty_seg.errors import BackendError, BackendUnavailableError, GraphError

if TYPE_CHECKING:
    import onnx
    import tensorrt

# The parser of 8.6 ignores axes that are inputs, as opset 18 has them, and reduces over all.
_LAST_OPSET_OF_8 = 17
_log = logging.getLogger(__name__)

__all__ = ['BuiltEngine', 'EngineSpec', 'Progress', 'build_engine', 'merge_timing_caches']


@dataclass(frozen=True)
class BuiltEngine:
    """
    A serialised engine.

    Attributes
    ----------
    plan : bytes
        What `Runtime.deserialize_cuda_engine` takes.
    timing_cache : bytes
        What the build measured, the given cache included; empty if there is none.
    build_s : float
        How long it took.

    """

    plan: bytes
    timing_cache: bytes
    build_s: float


def build_engine(
    trt: TensorRt, graph: Path | bytes, spec: EngineSpec, progress: Progress | None = None,
    timing_cache: bytes = b'',
) -> BuiltEngine:
    """
    Build an engine; minutes on a Jetson.

    Parameters
    ----------
    trt : TensorRt
        What builds it.
    graph : Path or bytes
        An ONNX file, or its content.
    spec : EngineSpec
        What for.
    progress : callable, optional
        Given the share that is done and the name of the phase. Only 0 and 1 on 8.6, which does
        not tell. What it raises stops the build and is raised here.
    timing_cache : bytes
        What earlier builds of this TensorRT on this GPU measured; makes it faster.

    Returns
    -------
    BuiltEngine
        The plan, whole.

    Raises
    ------
    GraphError
        If TensorRT cannot read the graph; names the node.
    BackendError
        If the spec does not fit graph or version, or the build failed; says why.
    BackendUnavailableError
        If there is no builder on this machine, as without a GPU (TensorRT-RTX needs none).

    """
    start_s = time.monotonic()
    messages = Messages()
    logger = trt.logger(messages)
    what = graph.name if isinstance(graph, Path) else 'the graph'
    builder = _new_builder(trt, logger, messages)
    network = builder.create_network(trt.creation_flags(spec.is_strongly_typed))
    parser = trt.module.OnnxParser(network, logger)
    _parse(trt, parser, graph, what, spec.precision)
    config = builder.create_builder_config()
    configure(trt, builder, config, network, spec, what)
    cache = _set_timing_cache(trt, config, timing_cache)
    tracker = PhaseTracker(progress or (lambda share, phase: None))
    monitor = progress_monitor(trt, tracker) if trt.has_progress else None
    if monitor is not None:
        config.progress_monitor = monitor
    tracker.start('build', None, 1)
    memory = None
    if tracker.error is None:
        memory = builder.build_serialized_network(network, config)
    if tracker.error is not None:
        raise tracker.error
    if memory is None:
        raise BackendError(f'TensorRT {trt.version} cannot build {what} in {spec.precision} '
                           f'({messages.said()})')
    built = BuiltEngine(bytes(memory), _serialised(cache), time.monotonic() - start_s)
    if progress is not None:
        progress(1.0, 'built')
    _log.info('TensorRT %s built %s in %s: %.1f MB in %.1f s', trt.version, what, spec.precision,
              len(built.plan) / 1e6, built.build_s)
    return built


def merge_timing_caches(trt: TensorRt, first: bytes, second: bytes) -> bytes:
    """
    Join what two builds measured.

    Parameters
    ----------
    trt : TensorRt
        The version that both are of.
    first, second : bytes
        Timing caches; where both know a layer, the first counts.

    Returns
    -------
    bytes
        `second` alone if `first` is empty, damaged or of another version.

    """
    if not first or not second:
        return first or second
    messages = Messages()
    logger = trt.logger(messages)
    builder = _new_builder(trt, logger, messages)
    config = builder.create_builder_config()
    caches = [config.create_timing_cache(data) for data in (first, second)]
    # Some versions return a cache for anything, and find out when it is combined or set.
    if None in caches or not caches[0].combine(caches[1], False):
        _log.info('timing cache dropped: it fits no more (%s)', messages.said())
        return second
    return _serialised(caches[0])


def _new_builder(
    trt: TensorRt, logger: tensorrt.ILogger, messages: Messages
) -> tensorrt.Builder:
    try:
        builder = trt.module.Builder(logger)
    except TypeError as err:  # "factory function returned nullptr": pybind11 has no other word
        raise BackendUnavailableError(
            f'TensorRT {trt.version} has no builder here ({messages.said()})',
            fix='build engines on the machine with the GPU they are for') from err
    return builder


def _parse(
    trt: TensorRt, parser: tensorrt.OnnxParser, graph: Path | bytes, what: str, precision: str
) -> None:
    model = _model(graph, what)
    opset = max((o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')), default=0)
    if not trt.is_rtx and trt.major < 10 and opset > _LAST_OPSET_OF_8:
        raise GraphError(
            f'{what} is of opset {opset}, of which TensorRT {trt.version} computes some operators '
            'wrongly', f'opset {_LAST_OPSET_OF_8}', 'compile the bundle again')
    if isinstance(graph, Path):
        is_read = parser.parse_from_file(str(graph))
    else:
        is_read = parser.parse(graph)
    if not is_read:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = '; '.join(_sentence(error, model) for error in errors)
        others = {'bf16': 'fp16 or fp32', 'fp16': 'fp32', 'int8': 'fp16 or fp32'}.get(precision)
        raise GraphError(
            f'TensorRT {trt.version} cannot read {what} in {precision} '
            f'({reasons or "no reason"})',
            fix=f'take a bundle in {others}, or another backend' if others else
            'use another backend, or compile a network without that operator')


def _model(graph: Path | bytes, what: str) -> onnx.ModelProto:
    """Read the graph with onnx, which says better than TensorRT what is no ONNX file."""
    import onnx

    try:
        if isinstance(graph, Path):
            return onnx.load(str(graph), load_external_data=False)
        return onnx.load_model_from_string(graph)
    except OSError as err:
        raise GraphError(f'{what} cannot be read ({err})', fix='restore the bundle') from err
    except Exception as err:  # protobuf's own error class has moved between versions
        raise GraphError(f'{what} is no ONNX file ({err})', fix='restore the bundle') from err


def _sentence(error: tensorrt.ParserError, model: onnx.ModelProto) -> str:
    """Say which node it was; 8.6 knows its number only."""
    text = ' '.join(str(error.desc()).split())
    index = error.node()
    if not 0 <= index < len(model.graph.node):
        return text
    node = model.graph.node[index]
    return f'node {node.name or index!r} ({node.op_type}): {text}'


def _set_timing_cache(
    trt: TensorRt, config: tensorrt.IBuilderConfig, data: bytes
) -> tensorrt.ITimingCache | None:
    """Give the config what was measured; None where that is no longer done."""
    if not trt.has_timing_cache:
        return None
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        if data:
            _log.info('timing cache of %d bytes does not fit: measuring anew', len(data))
            return _set_timing_cache(trt, config, b'')
        return None
    return cache


def _serialised(cache: tensorrt.ITimingCache | None) -> bytes:
    return b'' if cache is None else bytes(cache.serialize())
