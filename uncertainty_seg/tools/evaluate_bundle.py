# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure what a bundle's masks, its uncertainty and its flag are worth on labelled images.

Masks by IoU, confidence by its calibration, every map by how it ranks wrong pixels, every score
and the gate by how they rank bad frames and, with --ood, frames of another kind. --corrupt makes
the images turbid, dark, blurred, tinted and full of snow, step by step, and shows what the gate
does. Figures of frames have 95 % intervals over the blocks.

"""

from __future__ import annotations

import argparse
from pathlib import Path

from uncertainty_seg.errors import CalibrationError, ConfigError, DatasetError
from uncertainty_seg.tools.arguments import (
    add_settings,
    print_json,
    settings_from_args,
    whole_number,
)

HELP = 'measure masks, uncertainty and flag of a bundle on labelled images'
MISUSE = (CalibrationError, ConfigError, DatasetError)
_NAMES = ('backend', 'threads', 'passes', 'seed', 'mask_policy', 'precision', 'ignore_mask',
          'gate.alpha')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('data', type=Path, metavar='DIR', help='folder of labelled images')
    parser.add_argument('--split', default='val', help='of DIR, if it has a splits.json [val]')
    parser.add_argument('--ood', type=Path, metavar='DIR',
                        help='images of another kind, which should be refused')
    parser.add_argument('--corrupt', action='store_true',
                        help='measure the gate on a ladder of corruptions')
    parser.add_argument('--corrupt-frames', type=whole_number(1), default=60,
                        help='images on each step of the ladder, at most [60]')
    parser.add_argument('--blocks', type=Path, metavar='FILE',
                        help='blocks of the images, JSON or CSV [each its own]')
    parser.add_argument('--bad', metavar='RULE',
                        help='when a mask is bad [as it was calibrated, or iou<0.5]')
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='write an HTML report there')
    add_settings(parser, _NAMES)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from uncertainty_seg.storage.model_bundle import load_bundle
    from uncertainty_seg.tools.arguments import require_libraries
    from uncertainty_seg.tools.calibrate.evaluation_run import evaluate_bundle, EvaluationRequest
    from uncertainty_seg.tools.report.fill import write_evaluation_report
    from uncertainty_seg.tools.report.page import require_report_place

    request = EvaluationRequest(
        bundle=load_bundle(args.bundle), settings=settings_from_args(args, _NAMES),
        data=args.data, split=args.split, ood=args.ood,
        corrupt_frames=args.corrupt_frames if args.corrupt else 0, blocks=args.blocks,
        bad=args.bad)
    require_libraries('scipy')
    if args.report:
        require_report_place(args.report)
    found = evaluate_bundle(request)
    if args.report:
        write_evaluation_report(args.report, request, found)
    print_json({'bundle': str(request.bundle.folder), **found.summary()})
    return 0
