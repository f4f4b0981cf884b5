# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What T passes cost with either reduction, how far the maps of the two lie apart, and the start.

* Cost: processor time of the whole backend on one thread, T passes with `exact` and with `coarse`,
  beside one deterministic pass of ONNX Runtime (trunk, head, upsampling and argmax as one graph),
  interleaved round by round in one process. Read the ratios of one run.
* Distance: of the coarse maps from the exact ones, and as a yardstick of the exact maps of another
  draw of masks, on images of a folder or on rendered scenes: share of labels that differ, mean
  distance of the entropies, correlation of the mutual information.
* Start: processor time and memory of a new process up to its first frame, with nothing compiled
  before (an empty cache of numba), and once more with what the first left.

    python benchmarks/bench_reduction.py [BUNDLE] [--passes 20 100] [--rounds 15] [--images DIR]
        [--backend onnxruntime] [--no-start]

The last line is one JSON object.

"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import dataclasses
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
import onnxruntime
from plain_graph import deterministic_graph

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.compiler.self_check import fixed_images
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.preprocess import fit_image, Geometry
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import REDUCTIONS, UncertaintyMaps
from uncertainty_seg.storage.model_bundle import load_bundle

FRAMES = 12
START = """
import sys, time
from uncertainty_seg import open_pipeline
import numpy as np
model, backend, reduction = sys.argv[1:]
with open_pipeline(model, backend=backend, reduction=reduction, threads=1, temperature=1.0) as p:
    p.measure(np.zeros((384, 512, 3), np.uint8))
with open('/proc/self/status') as status:  # not getrusage: it counts the parent's memory too
    peak_kb = next(line.split()[1] for line in status if line.startswith('VmHWM'))
print(time.process_time(), int(peak_kb) / 1024)
"""


def images_of(bundle: ModelBundle, folder: Path | None) -> list[ImageU8]:
    """Return images of the network's size and colour order."""
    spec = bundle.card.input
    if folder is None:
        return fixed_images(spec, FRAMES)
    paths = [path for path in sorted(folder.rglob('*')) if path.suffix in ('.jpg', '.png')]
    step = max(1, len(paths) // FRAMES)
    found = [cv2.imread(str(path)) for path in paths[::step][:FRAMES]]
    return [fit_image(np.asarray(image, np.uint8), Geometry.of(*image.shape[:2], spec), spec)
            for image in found if image is not None]


def costs(
    bundle: ModelBundle, backend: str, image: ImageU8, passes: list[int], rounds: int
) -> dict[str, float]:
    """Return the median processor time of each call in ms."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        deterministic_graph(bundle).SerializeToString(), options,
        providers=['CPUExecutionProvider'])
    calls: dict[str, Callable[[], object]] = {
        'one pass': lambda: session.run(None, {'image': image[None]})}
    for reduction in REDUCTIONS:
        settings = Settings(backend=backend, threads=1, reduction=reduction)
        opened = open_backend(backend, bundle, settings)
        for count in passes:
            masks = pass_inputs(bundle.card, count, 0)
            calls[f'T={count} {reduction}'] = lambda o=opened, m=masks: o.run(image, m, 0.8)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 2):
        for name, call in calls.items():
            start_s = time.process_time()
            call()
            if index > 1:
                times[name].append((time.process_time() - start_s) * 1e3)
    return {name: float(np.median(values)) for name, values in times.items()}


def distance(one: UncertaintyMaps, other: UncertaintyMaps) -> tuple[float, float, float]:
    """Return the share of labels that differ, entropy's mean distance, MI's correlation."""
    mutual = np.corrcoef(one.mutual_information.ravel(), other.mutual_information.ravel())
    return (float((one.label != other.label).mean()),
            float(np.abs(one.entropy - other.entropy).mean()), float(mutual[0, 1]))


def distances(bundle: ModelBundle, backend: str, images: list[ImageU8]) -> dict[str, list[float]]:
    """Compare coarse with exact maps, and two draws of exact ones; medians of the images."""
    exact, coarse = (open_backend(backend, bundle, Settings(
        backend=backend, threads=1, reduction=reduction)) for reduction in REDUCTIONS)
    masks, others = (pass_inputs(bundle.card, bundle.card.passes, seed) for seed in (0, 1))
    found: dict[str, list[tuple[float, float, float]]] = {'coarse': [], 'another draw': []}
    for image in images:
        right = exact.run(image, masks, 0.8)
        found['coarse'].append(distance(coarse.run(image, masks, 0.8), right))
        found['another draw'].append(distance(exact.run(image, others, 0.8), right))
    return {name: np.median(rows, 0).round(5).tolist() for name, rows in found.items()}


def starts(model: str, backend: str) -> dict[str, list[float]]:
    """Return processor seconds and MB of a start, with an empty cache and again."""
    found = {}
    for reduction in REDUCTIONS:
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, 'NUMBA_CACHE_DIR': cache}
            for when in ('first', 'second'):
                said = subprocess.run(
                    [sys.executable, '-c', START, model, backend, reduction],
                    env=environment, capture_output=True, text=True, check=True).stdout
                found[f'{when} {reduction}'] = [round(float(v), 2) for v in said.split()]
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle', nargs='?', default='pipeline')
    parser.add_argument('--passes', type=int, nargs='+', default=[20, 100])
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--images', type=Path)
    parser.add_argument('--backend', default='onnxruntime')
    parser.add_argument('--no-start', action='store_true', help='leave the starts out')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    bundle = dataclasses.replace(load_bundle(args.bundle), calibration=None)
    images = images_of(bundle, args.images)
    cost_ms = costs(bundle, args.backend, images[0], args.passes, args.rounds)
    for name, ms in cost_ms.items():
        print(f'{name:>16} {ms:8.1f} ms CPU  {ms / cost_ms["one pass"]:5.2f} of one pass')
    apart = distances(bundle, args.backend, images)
    for name, (labels, entropy, mutual) in apart.items():
        print(f'{name:>16} labels {labels:.2%}, entropy {entropy:.4f}, MI corr. {mutual:.3f}')
    begun = {} if args.no_start else starts(args.bundle, args.backend)
    for name, (cpu_s, memory_mb) in begun.items():
        print(f'{name:>16} start {cpu_s:5.1f} s CPU, {memory_mb:5.0f} MB')
    print(json.dumps({'cost_ms': cost_ms, 'distances': apart, 'starts': begun}))


if __name__ == '__main__':
    main()
