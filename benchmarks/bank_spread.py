# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure how far the mean mutual information of a bank of T masks depends on its seed.

With `mask_policy: fixed` one bank serves every frame, so that what it is off by does not average
out. The mean over images and pixels of the bank's mutual information, corrected by 1 - 1/T, is
divided by that of many passes. The standard deviation of this ratio over seeds is printed for each
T and each kind of drawing.

    python benchmarks/bank_spread.py [BUNDLE ...] [--passes 20 104 208] [--seeds N] [--images DIR]
        [--frames N] [--many T] [--threads N] [--openvino]

"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import make_masks
from uncertainty_seg.core.model_card import MASK_DRAWS
from uncertainty_seg.core.plausibility import Backend
from uncertainty_seg.core.preprocess import fit_image, Geometry
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.model_bundle import load_bundle

# So that no bank is a part of what it is compared with.
MANY_SEED = 10**6


def main() -> None:
    """Print a table for each bundle."""
    args = arguments()
    found = {}
    for name in args.bundles:
        bundle = load_bundle(name)
        backend = open_backend('openvino' if args.openvino else 'onnxruntime', bundle,
                               Settings(threads=args.threads))
        images = fitted_images(bundle, args.images, args.frames)
        whole = mean_information(backend, bundle, images, args.many, MANY_SEED, MASK_DRAWS[0])
        for draw in MASK_DRAWS:
            for passes in args.passes:
                ratios = [mean_information(backend, bundle, images, passes, seed, draw) / whole
                          for seed in range(args.seeds)]
                found[f'{name} {draw} {passes}'] = spread = float(np.std(ratios, ddof=1))
                print(f'{name:10} {draw:12} T={passes:4d}: mean {np.mean(ratios):.3f}, '
                      f'{min(ratios):.3f} to {max(ratios):.3f}, sd {100 * spread:.1f} %',
                      flush=True)
        backend.close()
    print(json.dumps({'sd_of_ratio': found}))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundles', nargs='*', default=['pipeline'])
    parser.add_argument('--passes', type=int, nargs='+', default=[20, 104, 208])
    parser.add_argument('--seeds', type=int, default=24)
    parser.add_argument('--many', type=int, default=1000)
    parser.add_argument('--images', type=Path, help='folder of photographs [rendered scenes]')
    parser.add_argument('--frames', type=int, default=24)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--openvino', action='store_true')
    return parser.parse_args()


def fitted_images(
    bundle: ModelBundle, folder: Path | None, count: int
) -> list[NDArray[np.uint8]]:
    """Return images in the size of the network, evenly spread over a folder or rendered."""
    import cv2

    from uncertainty_seg.sim.scene import render_scene

    spec = bundle.card.input
    if folder is None:
        given = [render_scene(seed, size=(spec.width, spec.height)).image
                 for seed in range(1, count + 1)]
    else:
        paths = sorted(path for path in folder.iterdir() if path.suffix in ('.jpg', '.png'))
        given = [cv2.imread(str(paths[i])) for i in
                 np.linspace(0, len(paths) - 1, count).astype(int)]
    return [fit_image(image, Geometry.of(*image.shape[:2], spec), spec) for image in given]


def mean_information(
    backend: Backend, bundle: ModelBundle, images: list[NDArray[np.uint8]], passes: int, seed: int,
    draw: str,
) -> float:
    """Return the mean mutual information over images and pixels, as of T = infinity."""
    masks = make_masks(bundle.card.dropout_sites, passes, seed, mask_draw=draw)
    calibration = bundle.calibration
    temperature = calibration.temperature if calibration else 1.0
    found = [backend.run(image, masks, temperature).mutual_information.mean() for image in images]
    return float(np.mean(found)) / (1 - 1 / passes)


if __name__ == '__main__':
    main()
