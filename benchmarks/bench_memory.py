# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure whether peak memory grows with T.

Each T runs in a process of its own, some frames through the shipped backend; the peak resident
set of the whole process is read at its end. The target: T=100 within 10 % of T=20.

With --unet the network is a U-Net of 512x384 with torch.nn.Dropout on the elements of every block,
whose masks are as large as its feature maps; --whole draws the masks of all passes before they
run, for comparison.

    python benchmarks/bench_memory.py [BUNDLE] [--unet] [--whole] [--passes 1 20 100 400]
        [--frames N] [--threads N] [--budget MB]

"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

CLASSES = ('sand', 'pipe', 'rock', 'plant')


def peak_mb(args: argparse.Namespace) -> tuple[float, float]:
    """Run frames in this process; return its peak resident set, and seconds a frame."""
    from uncertainty_seg.backends.registry import open_backend
    from uncertainty_seg.core.dropout_masks import lazy_inputs, pass_inputs
    from uncertainty_seg.core.settings import Settings
    from uncertainty_seg.storage.model_bundle import load_bundle

    bundle = load_bundle(args.bundle)
    spec = bundle.card.input
    image = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
    backend = open_backend(
        'onnxruntime', bundle, Settings(threads=args.threads, memory_budget_mb=args.budget))
    masks = (pass_inputs if args.whole else lazy_inputs)(bundle.card, args.child, 0)
    start_s = time.perf_counter()
    for _ in range(args.frames):
        backend.run(image, masks, 1.0)
    frame_s = (time.perf_counter() - start_s) / args.frames
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, frame_s


def unet(width: int = 32, depth: int = 4) -> Any:
    """Return a U-Net with dropout of elements behind every block."""
    import torch
    from torch import nn

    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
                             nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(),
                             nn.Dropout(0.2))

    class UNet(nn.Module):

        def __init__(self) -> None:
            super().__init__()
            sizes = [width << level for level in range(depth + 1)]
            self.down = nn.ModuleList(map(block, [3, *sizes], sizes))
            self.up = nn.ModuleList(block(3 * size, size) for size in sizes[:-1])
            self.last = nn.Conv2d(width, len(CLASSES), 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = [self.down[0](x)]
            for down in self.down[1:]:
                kept.append(down(nn.functional.max_pool2d(kept[-1], 2)))
            x = kept.pop()
            for up in reversed(self.up):
                x = up(torch.cat([kept.pop(), nn.functional.interpolate(x, scale_factor=2)], 1))
            return self.last(x)

    torch.manual_seed(0)
    return UNet().eval()


def compile_unet(folder: str) -> None:
    """Compile the U-Net; in a process of its own, whose memory does not count."""
    from uncertainty_seg.compiler.request import compile_network

    compile_network(unet(), folder, (512, 384), CLASSES)


def child(args: argparse.Namespace, *words: str) -> str:
    """Run this file again with the options of the command line; return what it printed last."""
    command = [sys.executable, __file__, args.bundle, '--threads', str(args.threads), '--frames',
               str(args.frames), '--budget', str(args.budget), *words]
    command += ['--whole'] * args.whole
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return (output.splitlines() or [''])[-1]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle', nargs='?', default='pipeline')
    parser.add_argument('--unet', action='store_true')
    parser.add_argument('--whole', action='store_true')
    parser.add_argument('--passes', type=int, nargs='+', default=[1, 20, 100, 400])
    parser.add_argument('--frames', type=int, default=10)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--budget', type=int, default=64, help='memory_budget_mb')
    parser.add_argument('--child', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child == 0:
        compile_unet(args.bundle)
    elif args.child:
        print(*peak_mb(args))
    elif args.unet:
        with tempfile.TemporaryDirectory() as folder:
            args.bundle = f'{folder}/unet'
            child(args, '--child', '0')
            measure(args)
    else:
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Start a process for each T and print the table."""
    found = {}
    for passes in args.passes:
        found[passes], frame_s = map(float, child(args, '--child', str(passes)).split())
        ratio = found[passes] / found[args.passes[0]]
        print(f'T={passes:4d}: {found[passes]:7.1f} MB, {ratio:.3f} of T={args.passes[0]}, '
              f'{frame_s:.2f} s a frame', flush=True)
    print(json.dumps({'peak_mb': found}))


if __name__ == '__main__':
    main()
