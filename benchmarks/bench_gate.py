# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure the default gate on two data sets that share nothing, and its guard on other files.

SUIM is a labelled folder with config/recipes/suim.splits.json as its splits.json. CAMVID has the
official splits: a network is trained by ``train own --init suim`` on `train`, calibrated on `val`
(31 frames for the temperature, 70 for the thresholds) and evaluated on `test`. With ``--files``
each photograph of `limits` of SUIM is written in 15 files, and the guard judges each.

    python benchmarks/bench_gate.py SUIM CAMVID --ood DIR [--files]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import uncertainty_seg as us
from uncertainty_seg.calibration.labelled_pairs import every_score, opened
from uncertainty_seg.core.gate import gate_limits
from uncertainty_seg.core.settings import GateSettings, Settings

ROOT = Path(__file__).resolve().parents[1]
ORDER, GUARD, RULE = 'margin.class_mean', 'features.knn', 'iou<0.4'
NUM_VAL, EPOCHS = 31, 8
SUIM, OUT = ROOT / 'config/models/suim', ROOT / 'train_output/gate'
SIDES_PX = (240, 320, 400, 800, 1600)
FORMATS = (('.png', []), ('.jpg', [cv2.IMWRITE_JPEG_QUALITY, 75]),
           ('.jpg', [cv2.IMWRITE_JPEG_QUALITY, 95]))


def auroc(order: Any, is_bad: Any) -> float:
    """Return the probability that a bad frame has a larger order than a good one."""
    of_bad, of_good = order[is_bad][:, None], order[~is_bad]
    return float((of_bad > of_good).mean() + (of_bad == of_good).mean() / 2)


def figures(bundle: Path, data: Path, split: str, ood: Path, alpha: float) -> dict[str, Any]:
    """Return what the table has of a bundle at a promise."""
    found = us.evaluate(bundle, data, split=split, ood=ood, bad=RULE,
                        settings=Settings(gate=GateSettings(alpha=alpha)))
    frames, flag = found.frames, found.flag
    return {
        'data': f'{data.name}, {split}', 'alpha': alpha, 'frames': len(frames),
        'bad': int(frames.is_bad.sum()), 'AUROC of bad frames': auroc(flag.order, frames.is_bad),
        'by the order alone': auroc(frames.scores[ORDER], frames.is_bad),
        'E-AURC': flag.ranking.excess_aurc.value, 'accepted': flag.accepted.value,
        'accepted and bad': [flag.accepted_and_bad.value, flag.accepted_and_bad.lower,
                             flag.accepted_and_bad.upper],
        'refused by the guard': float((frames.scores[GUARD] > flag.limits[GUARD]).mean()),
        'foreign accepted': flag.foreign_accepted}


def camvid(data: Path) -> tuple[Path, Path]:
    """Train on CamVid unless that is done, and calibrate; return the bundle and the folder."""
    folder, bundle = OUT / 'camvid', OUT / 'camvid_bundle'
    if not bundle.exists():
        folder.mkdir(parents=True)
        for name in ('images', 'masks', 'classes.json'):
            (folder / name).symlink_to((data / name).resolve())
        splits = json.loads((data / 'splits.json').read_text())
        val = sorted(splits['val'])
        (folder / 'splits.json').write_text(json.dumps({
            'train': splits['train'], 'val': val[:NUM_VAL], 'limits': val[NUM_VAL:],
            'test': splits['test']}))
        us.train('own', folder, bundle, init='suim', changes={'epochs': EPOCHS})
    print('\n'.join(us.calibrate(bundle, folder, folder, folder, bad=RULE).sentences()))
    return bundle, folder


def of_files(bundle: Path, folder: Path) -> dict[str, Any]:
    """Return the share of photographs whose verdict by the guard is the same in every file."""
    loaded, ratios = us.load_bundle(bundle), []
    limit = gate_limits(loaded.calibration, GateSettings())[GUARD]
    with opened(loaded, Settings(), scorer=every_score(loaded)) as pipeline:
        for rgb in us.load_folder(folder, 'limits').images:
            ratios.append([])
            for side in SIDES_PX:
                scale = side / max(rgb.shape[:2])
                sized = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), None, fx=scale, fy=scale,
                                   interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
                ratios[-1] += [pipeline.measure(np.asarray(cv2.imdecode(
                    cv2.imencode(ending, sized, options)[1], cv2.IMREAD_COLOR), np.uint8)
                ).scores[GUARD] / limit for ending, options in FORMATS]
    over = np.array(ratios) > 1
    return {'photographs': len(over), 'same verdict in all files':
            float((over.all(1) | ~over.any(1)).mean()),
            'refused, by size and format': over.mean(0).round(4).tolist()}


def main() -> None:
    """Measure, and print a line of JSON for each data set and promise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    for name in ('suim', 'camvid'):
        parser.add_argument(name, type=Path)
    parser.add_argument('--ood', type=Path, required=True, help='folder of foreign photographs')
    parser.add_argument('--files', action='store_true')
    args = parser.parse_args()
    if args.files:
        return print(json.dumps(of_files(SUIM, args.suim)))
    for case in ((SUIM, args.suim, 'limits'), (*camvid(args.camvid), 'test')):
        for alpha in (0.05, 0.10):
            print(json.dumps(figures(*case, args.ood, alpha)), flush=True)


if __name__ == '__main__':
    main()
