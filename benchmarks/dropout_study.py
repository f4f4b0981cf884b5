# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Where should dropout be: one trained network, many placements and rates, quality against cost.

For each plan the same weights are compiled anew and measured on the validation split, by the very
backend that ships: mIoU, calibration error, how well entropy and mutual information (MI) rank
wrong pixels, and, where the folder has ``ood/`` (``make-scenes --ood``), how well they rank
pixels of objects never seen in training above all others. Cost is the median time of a frame, in
the same run, as a ratio to the first plan. Read it as a frontier: a plan is worth its time only
if a column gets better by more than the spread between seeds (about 0.01).

    python benchmarks/dropout_study.py pipeline WEIGHTS.pt DATA [--frames 60]

Prints a table and, last, one JSON line.

"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
import tempfile

import cv2
import numpy as np

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.calibration.labelled_pairs import bgr_pairs
from uncertainty_seg.calibration.statistics.evaluation import evaluate
from uncertainty_seg.calibration.statistics.metrics import auroc, Ranking
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.storage.labelled_folder import LabelledFolder, load_folder
from uncertainty_seg.storage.model_bundle import load_bundle
from uncertainty_seg.training.networks import DropoutPlan
from uncertainty_seg.training.recipes import make_bundle, recipe

PLANS = {
    'head 0.1': DropoutPlan(head=0.1),
    'head 0.3': DropoutPlan(head=0.3),
    'head 0.5': DropoutPlan(head=0.5),
    'head 0.7': DropoutPlan(head=0.7),
    'level4 0.1, head 0.5': DropoutPlan(level4=0.1, head=0.5),
    'level4 0.3, head 0.5': DropoutPlan(level4=0.3, head=0.5),
    'five sites 0.1, head 0.5': DropoutPlan(0.1, 0.1, 0.1, 0.1, 0.5),
    'five sites 0.2': DropoutPlan(0.2, 0.2, 0.2, 0.2, 0.2),
}


def thinned(data: LabelledFolder, frames: int) -> LabelledFolder:
    """Return an evenly spread part of a set."""
    step = max(1, len(data.images) // frames)
    return dataclasses.replace(
        data, images=data.images[::step], masks=data.masks[::step], stems=data.stems[::step])


def unseen_objects(pipeline: Pipeline, folder: Path, frames: int) -> dict[str, float]:
    """Rank pixels of unknown objects, and turbid frames, by entropy and MI."""
    rankings = {name: Ranking() for name in ('entropy', 'mutual_information')}
    for path in sorted((folder / 'unknown').glob('*.png'))[:: max(1, frames // 20)]:
        unknown = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 0
        image = cv2.imread(str(folder / 'images' / f'{path.stem}.jpg'))
        if not unknown.any():
            continue
        result = pipeline.measure(image, 0)
        for name, ranking in rankings.items():
            ranking.add(result.map_at_source(name), unknown)
    return {f'unseen {name}': ranking.auroc() for name, ranking in rankings.items()}


def study(plan: DropoutPlan, args: argparse.Namespace, temporary: Path) -> dict[str, float]:
    """Compile one plan and measure it."""
    data = thinned(load_folder(args.data, 'val'), args.frames)
    make_bundle(recipe(args.recipe), data, args.weights, temporary / args.recipe, plan)
    bundle = load_bundle(str(temporary / args.recipe))
    settings = Settings(threads=args.threads)
    backend = open_backend('onnxruntime', bundle, settings)
    pipeline = Pipeline(bundle, backend, settings, temperature=1.0)
    pipeline.check_masks()
    pairs = bgr_pairs(bundle, data)
    found = evaluate(pipeline, pairs, data.ignore_index)
    times = [sum(pipeline.measure(image, 0).timings_ms.values()) for image, _ in pairs[:15]]
    row = {
        'mIoU': found.mean_iou, 'ECE': found.ece, 'MI/H': found.mi_share,
        'error H': found.error_auroc['entropy'],
        'error MI': found.error_auroc['mutual_information'], 'ms': float(np.median(times)),
    }
    if (args.data / 'ood' / 'images').is_dir():
        row |= unseen_objects(pipeline, args.data / 'ood', args.frames)
        turbid = load_folder(args.data / 'ood', 'turbid')
        scores = [pipeline.measure(image, 0).scores for image, _ in bgr_pairs(bundle, turbid)]
        for name in ('entropy.mean', 'mutual_information.mean'):
            row[f'turbid {name}'] = auroc(
                np.array([s[name] for s in scores]),
                np.array([f.scores[name] for f in found.frames]))
    pipeline.close()
    return row


def main() -> None:
    """Run every plan and print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('recipe')
    parser.add_argument('weights', type=Path)
    parser.add_argument('data', type=Path)
    parser.add_argument('--frames', type=int, default=60)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, plan in PLANS.items():
            rows[name] = study(plan, args, Path(temporary))
            if len(rows) == 1:
                print('| plan | ' + ' | '.join([*rows[name], 'time']) + ' |')
                print('|' + '---|' * (len(rows[name]) + 2))
            ratio = rows[name]['ms'] / next(iter(rows.values()))['ms']
            cells = [f'{v:.3f}' if k != 'ms' else f'{v:.0f}' for k, v in rows[name].items()]
            print(f'| {name} | ' + ' | '.join(cells) + f' | {ratio:.2f} |', flush=True)
    print(json.dumps(rows))


if __name__ == '__main__':
    main()
