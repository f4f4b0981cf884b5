# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fit temperature and thresholds of a bundle on labelled images, and write what they are worth.

Each threshold lets a share of the validation frames pass; the same from the training frames
stands beside it. This says nothing yet about how often an accepted frame is bad.

"""

from __future__ import annotations

import argparse
from pathlib import Path

from uncertainty_seg.core.settings import BUNDLE_PASSES, Settings
from uncertainty_seg.tools.arguments import (
    add_settings,
    positive_number,
    print_json,
    settings_from_args,
    whole_number,
)

HELP = 'fit temperature and thresholds of a bundle'
# The mean of entropy sees what hides the whole image; mutual information, in its worst region,
# sees what the network was never shown (docs/dropout_study.md).
GATE_SCORES = ('entropy.mean', 'mutual_information.top', 'mutual_information.worst_window')
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5)
_NAMES = ('backend', 'threads', 'passes', 'seed', 'mask_policy', 'precision')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('--data', type=Path, required=True,
                        help='folder of labelled images with the splits train and val')
    parser.add_argument('--quantile', type=positive_number(1.0), default=0.98,
                        help='share of validation frames that each threshold lets pass [0.98]')
    parser.add_argument('--scores', nargs='+', metavar='SCORE',
                        default=GATE_SCORES,
                        help=f'scores the gate looks at [{" ".join(GATE_SCORES)}]')
    parser.add_argument('--frames', type=whole_number(1), default=200,
                        help='training frames to look at, evenly spread [200]')
    add_settings(parser, _NAMES)


def run(args: argparse.Namespace) -> int:
    """Calibrate and print what was found."""
    from uncertainty_seg.core.calibration import Calibration, fit_thresholds
    from uncertainty_seg.core.evaluation import fit_temperature
    from uncertainty_seg.core.precision import precision_of
    from uncertainty_seg.storage.labelled_folder import load_folder
    from uncertainty_seg.storage.model_bundle import (
        load_bundle,
        model_digest,
        update_metrics,
        write_calibration,
    )
    from uncertainty_seg.tools.labelled_pairs import bgr_pairs, data_digest, measure

    settings: Settings = settings_from_args(args, _NAMES)
    bundle = load_bundle(args.bundle)
    validation = load_folder(args.data, 'val')
    pairs = bgr_pairs(bundle, validation)
    halves = {
        t: (measure(bundle, settings, pairs[::2], t, f'temperature {t:g}, even'),
            measure(bundle, settings, pairs[1::2], t, f'temperature {t:g}, odd'))
        for t in TEMPERATURES
    }
    temperature, ece = fit_temperature(halves)
    known = measure(bundle, settings, pairs, temperature, 'validation')
    train_pairs = bgr_pairs(bundle, load_folder(args.data, 'train'))
    spread = train_pairs[:: max(1, len(train_pairs) // args.frames)]
    seen = measure(bundle, settings, spread, temperature, 'training')
    passes = bundle.card.passes if settings.passes == BUNDLE_PASSES else settings.passes
    calibration = Calibration(
        passes=passes, seed=settings.seed, mask_policy=settings.mask_policy,
        precision=precision_of(bundle.card, settings.precision), temperature=temperature,
        thresholds=fit_thresholds([f.scores for f in known.frames], args.quantile),
        train_thresholds=fit_thresholds([f.scores for f in seen.frames], args.quantile),
        gate_scores=tuple(args.scores), quantile=args.quantile, num_train=len(spread),
        num_val=len(pairs),
        model_sha256=model_digest(bundle.card), data_sha256=data_digest(validation),
    )
    write_calibration(bundle, calibration)
    metrics = {
        'val_mean_iou': known.mean_iou, 'val_pixel_accuracy': known.accuracy, 'val_ece': ece,
        'val_error_auroc_entropy': known.error_auroc['entropy'],
        'val_error_auroc_mutual_information': known.error_auroc['mutual_information'],
        'val_mi_over_entropy': known.mi_share, 'train_mean_iou': seen.mean_iou,
    }
    update_metrics(bundle, {k: round(v, 4) for k, v in metrics.items()})
    iou = dict(zip(bundle.card.class_names, known.iou.round(4).tolist(), strict=True))
    print_json({'bundle': str(bundle.folder), 'temperature': temperature, **metrics, 'iou': iou,
                'thresholds': calibration.thresholds,
                'train_thresholds': calibration.train_thresholds})
    return 0
