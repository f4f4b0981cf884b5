# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure T dropout passes against one pass without, and against what a user would write.

Three ways through the same architecture, interleaved round by round in one process:

* ``torch``: the network in torch eager, dropout layers on, T passes one after the other, each
  upsampled and made a softmax by torch, the maps in numpy. Random weights; time does not care.
* ``one pass``: trunk, head, upsampling and argmax of the bundle as one graph in ONNX Runtime,
  dropout off: what is deployed without uncertainty.
* ``ours``: the bundle's backend with T passes and all maps.

Read the ratios of one run, not its milliseconds: they are medians, and another program on the
machine slows all three. Without torch the first is left out, and said so.

    python benchmarks/bench_passes.py [BUNDLE] [--passes 20] [--threads N] [--rounds 15]

"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
import platform
import time
from typing import Any

import numpy as np
import onnxruntime

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.graph.compose import deterministic_graph
from uncertainty_seg.storage.model_bundle import load_bundle

TORCH_ROUNDS = 3


def one_pass(bundle: ModelBundle, image: Any, threads: int) -> Callable[[], object]:
    """Return a call of the deterministic graph in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        deterministic_graph(bundle).SerializeToString(), options,
        providers=['CPUExecutionProvider'])
    return lambda: session.run(None, {'image': image[None]})


def ours(bundle: ModelBundle, image: Any, passes: int, threads: int) -> Callable[[], object]:
    """Return a call of the shipped backend."""
    settings = Settings(threads=threads)
    backend = open_backend('onnxruntime', bundle, settings)
    masks = make_masks(bundle.card.dropout_sites, passes, 0)
    return lambda: backend.run(image, masks, 1.0)


def torch_eager(
    bundle: ModelBundle, image: Any, passes: int, threads: int
) -> Callable[[], object] | None:
    """Return what a user writes in torch and numpy, or None where torch is missing."""
    try:
        import torch
    except ImportError:
        return None
    from uncertainty_seg.training.fit import normalise
    from uncertainty_seg.training.networks import DropoutPlan, PyramidNet

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


def seconds(call: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle', nargs='?', default='pipeline')
    parser.add_argument('--passes', type=int, default=20)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--rounds', type=int, default=15)
    args = parser.parse_args()
    bundle = load_bundle(args.bundle)
    spec = bundle.card.input
    image = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
    calls: dict[str, Callable[[], object] | None] = {
        'torch': torch_eager(bundle, image, args.passes, args.threads),
        'one pass': one_pass(bundle, image, args.threads),
        'ours': ours(bundle, image, args.passes, args.threads),
    }
    times: dict[str, list[float]] = {name: [] for name, call in calls.items() if call}
    for index in range(args.rounds + 1):  # the first warms up
        for name, call in calls.items():
            if call and not (name == 'torch' and index > TORCH_ROUNDS):
                times[name].append(seconds(call))
    ms = {name: float(np.median(values[1:])) * 1e3 for name, values in times.items()}
    print(f'{bundle.card.name}, {spec.width}x{spec.height}, C={bundle.card.num_classes}, '
          f'T={args.passes}, {args.threads} threads, {platform.machine()}')
    for name, value in ms.items():
        print(f'{name:>9}: {value:8.1f} ms   {ms["ours"] / value:6.3f} of it is ours')
    result = {'passes': args.passes, 'threads': args.threads, 'ms': ms,
              'ours_over_one_pass': ms['ours'] / ms['one pass']}
    if 'torch' in ms:
        result['torch_over_ours'] = ms['torch'] / ms['ours']
    else:
        print('torch is not installed: not measured against it')
    print(json.dumps(result))


if __name__ == '__main__':
    main()
