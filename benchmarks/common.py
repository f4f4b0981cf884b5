# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Shared code of the benchmarks: machine, timed call, one-pass graph, test images, numpy maps."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import platform
import time
from typing import Any

import numpy as np

from uncertainty_seg.core.bundle import ModelBundle

PAUSE_S = 0.05  # until threads of the previous call have stopped spinning
BUSY_LOAD = 0.5
Call = Callable[[], object]


def machine(threads: int) -> str:
    """Describe the machine, and whether other load was present."""
    import onnxruntime

    cpu, info = platform.machine(), Path('/proc/cpuinfo')
    if info.is_file():
        models = [line.partition(':')[2].strip() for line in info.read_text().splitlines()
                  if line.startswith('model name')]
        cpu = f'{len(models)} x {models[0]}' if models else cpu
    load = os.getloadavg()[0]
    busy = ' (BUSY: trust no wall clock)' if load > BUSY_LOAD else ''
    return (f'{threads} threads of {cpu}, ONNX Runtime {onnxruntime.__version__}, '
            f'load {load:.1f}{busy}')


def measure(call: Call) -> tuple[float, float]:
    """Time one call; return wall-clock ms and CPU ms of all threads."""
    time.sleep(PAUSE_S)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    call()
    return (time.perf_counter() - wall_s) * 1e3, (time.process_time() - cpu_s) * 1e3


def graph_pass(
    graph: bytes, image: Any, threads: int, backend: str = 'onnxruntime', precision: str = 'fp32'
) -> Call:
    """Return a call that runs a graph, uint8 image to class ids, in the runtime of a backend."""
    if backend == 'openvino':
        from uncertainty_seg.backends.cpu.openvino import core_of_process, cpu_options

        core = core_of_process()
        compiled = core.compile_model(core.read_model(graph), 'CPU',
                                      cpu_options(precision, threads))
        request = compiled.create_infer_request()
        return lambda: request.infer([image[None]], share_inputs=True)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image[None]})


def picture(bundle: ModelBundle) -> Any:
    """Return an image at the network's input size, uint8 (h, w, 3), equal in every process."""
    spec = bundle.card.input
    return np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), np.uint8)


def camera_pictures(count: int, height: int, width: int) -> list[Any]:
    """
    Draw images that pass the damage checks: smooth, with noise, all different.

    Pure noise, or independent noise per colour, is rejected as damaged, and a rejected frame
    skips most of the work.
    """
    import cv2

    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        grey = rng.integers(40, 200, (12, 16, 1), np.uint8)
        smooth = cv2.resize(grey + rng.integers(0, 40, 3, np.uint8), (width, height),
                            interpolation=cv2.INTER_CUBIC)
        found.append(cv2.add(smooth, rng.integers(0, 6, smooth.shape, np.uint8)))
    return found


def numpy_maps(p: Any) -> tuple[Any, ...]:
    """Compute the maps of probabilities (T, C, H, W) in float32, as in a notebook."""
    mean = p.mean(0)
    entropy = -(mean * np.log(mean + 1e-12)).sum(0)
    mean_entropy = -(p * np.log(p + 1e-12)).sum(1).mean(0)
    votes = np.stack([(p.argmax(1) == c).sum(0) for c in range(p.shape[1])])
    return (mean.argmax(0), mean.max(0), entropy, entropy - mean_entropy,
            1 - votes.max(0) / len(p), p.var(0).sum(0))
