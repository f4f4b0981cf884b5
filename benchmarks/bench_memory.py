# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure whether peak memory grows with T.

Each T runs in a process of its own, ten frames through the shipped backend; the peak resident
set of the whole process is read at its end. The target: T=100 within 10 % of T=20.

    python benchmarks/bench_memory.py [BUNDLE] [--passes 1 20 100 400] [--threads N]

"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys

import numpy as np

FRAMES = 10


def peak_mb(bundle_name: str, passes: int, threads: int) -> float:
    """Run frames in this process and return its peak resident set."""
    from uncertainty_seg.backends.registry import open_backend
    from uncertainty_seg.core.dropout_masks import make_masks
    from uncertainty_seg.core.settings import Settings
    from uncertainty_seg.storage.model_bundle import load_bundle

    bundle = load_bundle(bundle_name)
    spec = bundle.card.input
    image = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
    backend = open_backend('onnxruntime', bundle, Settings(threads=threads))
    masks = make_masks(bundle.card.dropout_sites, passes, 0)
    for _ in range(FRAMES):
        backend.run(image, masks, 1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Start a process for each T and print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle', nargs='?', default='pipeline')
    parser.add_argument('--passes', type=int, nargs='+', default=[1, 20, 100, 400])
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--child', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(peak_mb(args.bundle, args.child, args.threads))
        return
    found = {}
    for passes in args.passes:
        command = [sys.executable, __file__, args.bundle, '--child', str(passes), '--threads',
                   str(args.threads)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[passes] = float(output.splitlines()[-1])
        ratio = found[passes] / found[args.passes[0]]
        print(f'T={passes:4d}: {found[passes]:7.1f} MB, {ratio:.3f} of T={args.passes[0]}')
    print(json.dumps({'peak_mb': found}))


if __name__ == '__main__':
    main()
