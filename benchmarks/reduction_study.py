# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What the coarse reduction changes of scores and verdicts, beside what another draw of masks does.

Every score of each image is computed with the exact reduction, with the coarse one, and with the
exact one under other seeds. For each promise of the bundle's calibration it is counted how many
images come within all limits (rise) or leave them (fall); for each gate score the distance over
its limit is given, its median, and its mean with the sign.

    python benchmarks/reduction_study.py BUNDLE [--images DIR] [--frames 100] [--seeds 1 2 3]

Without images scenes are rendered, from clear water to as murky as any of the training. The last
line is one JSON object.

"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import json
from pathlib import Path

import cv2
import numpy as np

from uncertainty_seg import open_pipeline
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import Calibration
from uncertainty_seg.sim.scene import MAX_TRAINING_TURBIDITY, render_scene
from uncertainty_seg.storage.model_bundle import load_bundle

FIRST_SEED = 10_000  # of scenes that no training saw
Rows = Sequence[Mapping[str, float]]


def images_of(bundle: ModelBundle, folder: Path | None, count: int) -> list[ImageU8]:
    """Return BGR images of a folder, evenly spread, or rendered ones."""
    if folder is not None:
        paths = [path for path in sorted(folder.rglob('*')) if path.suffix in ('.jpg', '.png')]
        found = [cv2.imread(str(path)) for path in paths[::max(1, len(paths) // count)][:count]]
        return [np.asarray(image, np.uint8) for image in found if image is not None]
    shares = np.random.default_rng(0).uniform(0.02, 1.0, count)
    size = bundle.card.input.width, bundle.card.input.height
    return [render_scene(FIRST_SEED + index, size=size,
                         turbidity=float(share) * MAX_TRAINING_TURBIDITY).image
            for index, share in enumerate(shares)]


def scores_of(bundle: ModelBundle, images: Sequence[ImageU8], **settings: object) -> Rows:
    """Return every score of each image."""
    assert bundle.calibration is not None
    with open_pipeline(bundle, backend='onnxruntime', threads=1, all_scores=True,
                       temperature=bundle.calibration.temperature, **settings) as pipeline:
        return [pipeline.measure(image).scores for image in images]


def change(calibration: Calibration, before: Rows, after: Rows) -> dict[str, object]:
    """Compare the verdicts of each promise, and the gate scores over its strictest limits."""
    found: dict[str, object] = {}
    for promise in calibration.promises:
        was, is_now = (np.array([all(row[name] <= limit for name, limit in promise.limits.items())
                                 for row in rows]) for rows in (before, after))
        found[f'alpha {promise.alpha:g}'] = {
            'confident': int(was.sum()), 'rise': int((is_now & ~was).sum()),
            'fall': int((was & ~is_now).sum())}
    for name, limit in calibration.promises[0].limits.items():
        moved = np.array([(b[name] - a[name]) / limit for a, b in zip(before, after, strict=True)])
        found[name] = {'median': round(float(np.median(abs(moved))), 4),
                       'mean': round(float(moved.mean()), 4)}
    return found


def main() -> None:
    """Print what each way changes."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle')
    parser.add_argument('--images', type=Path)
    parser.add_argument('--frames', type=int, default=100)
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    args = parser.parse_args()
    cv2.setNumThreads(1)
    bundle = load_bundle(args.bundle)
    assert bundle.calibration is not None
    images = images_of(bundle, args.images, args.frames)
    exact = scores_of(bundle, images, reduction='exact')
    ways = {'coarse': scores_of(bundle, images, reduction='coarse')}
    for seed in args.seeds:
        ways[f'seed {seed}'] = scores_of(bundle, images, reduction='exact', seed=seed)
    found = {name: change(bundle.calibration, exact, rows) for name, rows in ways.items()}
    for name, values in found.items():
        print(name)
        for what, figures in values.items():
            print(f'  {what}: {figures}')
    print(json.dumps({'frames': len(images), **found}))


if __name__ == '__main__':
    main()
