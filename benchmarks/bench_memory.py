# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure whether peak memory grows with T.

Each T is a process of its own, whose peak resident set is read at its end. The target: T=100
within 10 % of T=20.

    python benchmarks/bench_memory.py [BUNDLE] [--passes 1 20 100 400] [--frames N] [--threads N]

"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

from common import picture


def peak_mb(args: argparse.Namespace) -> tuple[float, float]:
    """Run frames in this process; return its peak resident set, and seconds a frame."""
    from uncertainty_seg.backends.registry import open_backend
    from uncertainty_seg.core.dropout_masks import lazy_inputs
    from uncertainty_seg.core.settings import Settings
    from uncertainty_seg.storage.model_bundle import load_bundle

    bundle = load_bundle(args.bundle)
    image = picture(bundle)
    backend = open_backend('onnxruntime', bundle, Settings(threads=args.threads))
    masks = lazy_inputs(bundle.card, args.child, 0)
    start_s = time.perf_counter()
    for _ in range(args.frames):
        backend.run(image, masks, 1.0)
    frame_s = (time.perf_counter() - start_s) / args.frames
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, frame_s


def main() -> None:
    """Start a process for each T and print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle', nargs='?', default='pipeline')
    parser.add_argument('--passes', type=int, nargs='+', default=[1, 20, 100, 400])
    parser.add_argument('--frames', type=int, default=10)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--child', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(*peak_mb(args))
        return
    found: dict[int, float] = {}
    for passes in args.passes:
        command = [sys.executable, __file__, *sys.argv[1:], '--child', str(passes)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[passes], frame_s = map(float, said.split())
        print(f'T={passes:4d}: {found[passes]:7.1f} MB, '
              f'{found[passes] / found[args.passes[0]]:.3f} of T={args.passes[0]}, '
              f'{frame_s:.2f} s a frame', flush=True)
    print(json.dumps({'peak_mb': found}))


if __name__ == '__main__':
    main()
