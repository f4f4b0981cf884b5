# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure T dropout passes against one pass without, and against what a user would write.

Three ways through the same architecture, interleaved round by round in one process:

* ``torch``: the network in torch eager, dropout layers on, T passes one after the other, each
  upsampled and made a softmax by torch, the maps in numpy. Random weights; time does not care.
* ``one pass``: trunk, head, upsampling and argmax of the bundle as one graph, dropout off, in the
  runtime and precision of ours: what is deployed without uncertainty.
* ``ours``: the bundle's backend with T passes and all maps; below it, its stages.

Read the ratios of one run, not its milliseconds: they are medians, and another program on the
machine slows all three. The wall clock is what a user waits for; on a busy machine the ratios of
CPU time with ``--threads 1`` are the steadier ones (with more threads those of ONNX Runtime spin
after their work, which counts as CPU time). Without torch the first way is left out, and said so.

    python benchmarks/bench_passes.py [BUNDLE] [--backend auto] [--precision bundle]
        [--passes 20] [--threads N] [--rounds 15] [--deterministic GRAPH.onnx] [--no-torch]

"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import json
import os
from pathlib import Path
import platform
import time
from typing import Any

import numpy as np
import onnxruntime
from plain_graph import deterministic_graph

from uncertainty_seg.backends.cpu.openvino import core_of_process, cpu_options
from uncertainty_seg.backends.registry import AUTO, open_backend, OPENERS
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.model_card import PRECISIONS
from uncertainty_seg.core.pipeline import Backend
from uncertainty_seg.core.settings import BUNDLE_PRECISION, precision_of, Settings
from uncertainty_seg.storage.model_bundle import load_bundle

TORCH_ROUNDS = 3
PAUSE_S = 0.05  # until the threads of the call before have stopped to spin
BUSY_LOAD = 0.5
Call = Callable[[], object]


def one_pass(
    bundle: ModelBundle, graph: Path | None, image: Any, threads: int,
    backend: str = 'onnxruntime', precision: str = 'fp32',
) -> Call:
    """Return a call of the deterministic graph in the runtime of a backend."""
    model = graph.read_bytes() if graph else deterministic_graph(bundle).SerializeToString()
    if backend == 'openvino':
        core = core_of_process()
        compiled = core.compile_model(core.read_model(model), 'CPU',
                                      cpu_options(precision, threads))
        call = compiled.create_infer_request()
        return lambda: call.infer([image[None]], share_inputs=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image[None]})


def ours(backend: Backend, bundle: ModelBundle, image: Any, passes: int) -> Call:
    """Return a call of the shipped backend."""
    masks = pass_inputs(bundle.card, passes, 0)
    return lambda: backend.run(image, masks, 1.0)


def torch_eager(bundle: ModelBundle, image: Any, passes: int, threads: int) -> Call | None:
    """Return what a user writes in torch and numpy, or None where torch is missing."""
    try:
        import torch
    except ImportError:
        return None
    from uncertainty_seg.training.batches import normalise
    from uncertainty_seg.training.networks import PyramidNet
    from uncertainty_seg.training.recipes import DropoutPlan

    torch.set_num_threads(threads)
    net = PyramidNet(bundle.card.num_classes, DropoutPlan(head=0.5)).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.train()

    def run() -> object:
        probs = []
        with torch.no_grad():
            for _ in range(passes):
                logits = net(normalise(image[None]))
                full = torch.nn.functional.interpolate(
                    logits, image.shape[:2], mode='bilinear', align_corners=False)
                probs.append(full.softmax(1)[0].numpy())
        return numpy_maps(np.stack(probs))

    return run


def numpy_maps(p: Any) -> tuple[Any, ...]:
    """Compute the maps the way a notebook does, in float32."""
    mean = p.mean(0)
    entropy = -(mean * np.log(mean + 1e-12)).sum(0)
    mean_entropy = -(p * np.log(p + 1e-12)).sum(1).mean(0)
    votes = np.stack([(p.argmax(1) == c).sum(0) for c in range(p.shape[1])])
    return (mean.argmax(0), mean.max(0), entropy, entropy - mean_entropy,
            1 - votes.max(0) / len(p), p.var(0).sum(0))


def measure(call: Call) -> tuple[float, float]:
    """Time one call: ms by the clock, and ms of CPU time of all threads."""
    time.sleep(PAUSE_S)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    call()
    return (time.perf_counter() - wall_s) * 1e3, (time.process_time() - cpu_s) * 1e3


def machine(threads: int) -> str:
    """Say where this ran, and whether it was alone."""
    cpu = platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        models = [line.partition(':')[2].strip() for line in info.read_text().splitlines()
                  if line.startswith('model name')]
        cpu = f'{len(models)} x {models[0]}' if models else cpu
    load = os.getloadavg()[0]
    busy = ' (BUSY: trust no wall clock)' if load > BUSY_LOAD else ''
    return (f'{threads} threads of {cpu}, ONNX Runtime {onnxruntime.__version__}, '
            f'load {load:.1f}{busy}')


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle', nargs='?', default='pipeline')
    parser.add_argument('--backend', default=AUTO, choices=(AUTO, *OPENERS))
    parser.add_argument('--precision', default=BUNDLE_PRECISION,
                        choices=(BUNDLE_PRECISION, *PRECISIONS))
    parser.add_argument('--passes', type=int, default=20)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--no-torch', action='store_true', help='leave the first way out')
    parser.add_argument('--deterministic', type=Path,
                        help='another graph for the one pass, taking the same image')
    args = parser.parse_args()
    bundle = load_bundle(args.bundle)
    spec = bundle.card.input
    where = machine(args.threads)
    image = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
    precision = precision_of(bundle.card, args.precision)
    backend = open_backend(args.backend, bundle,
                           Settings(threads=args.threads, precision=args.precision))
    calls = {
        'torch': None if args.no_torch
        else torch_eager(bundle, image, args.passes, args.threads),
        'one pass': one_pass(bundle, args.deterministic, image, args.threads, backend.name,
                             precision),
        'ours': ours(backend, bundle, image, args.passes),
    }
    times: dict[str, list[tuple[float, float]]] = {n: [] for n, call in calls.items() if call}
    stages: list[Mapping[str, float]] = []
    for index in range(args.rounds + 1):  # the first warms up
        for name, call in calls.items():
            if call and not (name == 'torch' and index > TORCH_ROUNDS):
                times[name].append(measure(call))
        stages.append(backend.timings_ms)
    backend.close()
    report(f'{bundle.card.name}, {spec.width}x{spec.height}, C={bundle.card.num_classes}, '
           f'T={args.passes}, {backend.name} {precision}, {where}', times, stages)


def report(
    title: str, times: Mapping[str, Sequence[tuple[float, float]]],
    stages: Sequence[Mapping[str, float]],
) -> None:
    """Print medians and ratios, and the same as one line of JSON."""
    medians = {name: np.median(values[1:], 0) for name, values in times.items()}
    print(title)
    print(f'{"":>12} {"wall ms":>9} {"CPU ms":>9} {"ours / it":>10} {"by CPU":>8}')
    for name, (wall, cpu) in medians.items():
        own_wall, own_cpu = medians['ours']
        print(f'{name:>12} {wall:9.1f} {cpu:9.1f} {own_wall / wall:10.3f} {own_cpu / cpu:8.3f}')
    parts = {name: float(np.median([s[name] for s in stages[1:]])) for name in stages[0]}
    for name, value in parts.items():
        print(f'{name:>12} {value:9.1f}')
    result = {
        'what': title,
        'wall_ms': {name: round(float(value[0]), 2) for name, value in medians.items()},
        'cpu_ms': {name: round(float(value[1]), 2) for name, value in medians.items()},
        'stages_ms': {name: round(value, 2) for name, value in parts.items()},
        'ours_over_one_pass': round(float(medians['ours'][0] / medians['one pass'][0]), 3),
        'ours_over_one_pass_cpu': round(float(medians['ours'][1] / medians['one pass'][1]), 3),
    }
    if 'torch' in medians:
        result['torch_over_ours'] = round(float(medians['torch'][0] / medians['ours'][0]), 2)
    else:
        print('not measured against torch')
    print(json.dumps(result))


if __name__ == '__main__':
    main()
