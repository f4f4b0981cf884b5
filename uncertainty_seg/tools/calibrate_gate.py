# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fit what a bundle's flag stands on, and promise how often an accepted frame is bad.

On training frames: what ordinary scores are together (a density), and which scores tell bad
frames from good ones. On a part of the validation blocks: the temperature. On the rest, which
nothing else has seen: the limits, so that P(a frame is accepted and bad) is at most alpha
(conformal risk control over blocks). It writes calibration.json into the bundle, and a report.

Blocks are what is independent of each other: dives, sites, tracks. Neighbouring frames are not;
name the blocks with --blocks unless every image stands for itself.

"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from uncertainty_seg.errors import CalibrationError, ConfigError, DatasetError
from uncertainty_seg.tools.arguments import (
    add_settings,
    positive_number,
    print_json,
    rate,
    settings_from_args,
    whole_number,
)

HELP = 'fit temperature and thresholds of a bundle, with a promise'
MISUSE = (CalibrationError, ConfigError, DatasetError)
_NAMES = ('backend', 'threads', 'passes', 'seed', 'mask_policy', 'precision', 'ignore_mask')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('--data', type=Path, metavar='DIR',
                        help='one folder with a splits.json: short for --train DIR --val DIR')
    parser.add_argument('--train', type=Path, metavar='DIR',
                        help='labelled images; the split "train" if DIR has a splits.json')
    parser.add_argument('--val', type=Path, metavar='DIR',
                        help='labelled images the network has not seen; the split "val"')
    parser.add_argument('--blocks', type=Path, metavar='FILE',
                        help='blocks of the validation images, JSON or CSV [each its own]')
    parser.add_argument('--bad', default='iou<0.5', metavar='RULE',
                        help="when a mask is bad: 'iou<0.5', 'iou[diver]<0.5', 'accuracy<0.7', "
                        'joined by or [iou<0.5]')
    parser.add_argument('--alpha', nargs='+', type=rate, default=[0.05, 0.10],
                        help='P(accepted and bad) to promise, one or more [0.05 0.10]')
    parser.add_argument('--scores', nargs='+', metavar='SCORE', default=(),
                        help='scores of the gate [chosen on the training frames]')
    parser.add_argument('--tune-share', type=positive_number(0.9), default=1 / 3,
                        help='part of the validation blocks that the temperature is fitted on '
                        '[0.33]')
    parser.add_argument('--quantile', type=positive_number(1.0), default=0.98,
                        help='share of frames that the threshold of a score outside of the gate '
                        'lets pass [0.98]')
    parser.add_argument('--frames', type=whole_number(1), default=2000,
                        help='training frames to look at, at most, evenly spread [2000]')
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='write an HTML report there')
    add_settings(parser, _NAMES)


def run(args: argparse.Namespace) -> int:
    """Calibrate and print what was found."""
    from uncertainty_seg.storage.model_bundle import (
        load_bundle,
        update_metrics,
        write_calibration,
    )
    from uncertainty_seg.tools.arguments import require_libraries
    from uncertainty_seg.tools.calibrate.calibration_run import calibrate, CalibrationRequest
    from uncertainty_seg.tools.report.fill import write_calibration_report
    from uncertainty_seg.tools.report.page import require_report_place

    train, val = args.train or args.data, args.val or args.data
    if train is None or val is None:
        raise ConfigError('no training or validation images', '--train DIR and --val DIR')
    request = CalibrationRequest(
        bundle=load_bundle(args.bundle, has_calibration=False),
        settings=settings_from_args(args, _NAMES), train=train, val=val, blocks=args.blocks,
        bad=args.bad, alphas=tuple(sorted(set(args.alpha))), scores=tuple(args.scores),
        tune_share=args.tune_share, quantile=args.quantile, max_train=args.frames)
    require_libraries('scipy', 'sklearn')
    if args.report:
        require_report_place(args.report)
    if not os.access(request.bundle.folder, os.W_OK):
        raise ConfigError(f'bundle {request.bundle.folder} may not be written to',
                          'a folder that may', 'calibrate a copy of it')
    found = calibrate(request)
    write_calibration(request.bundle, found.calibration)
    update_metrics(request.bundle, found.metrics())
    if args.report:
        write_calibration_report(args.report, request, found)
    print_json({'bundle': str(request.bundle.folder), **found.summary()})
    return 0
