# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure the masks, the uncertainty and the flag of a bundle on labelled images, or compare several.

One bundle: masks are measured by IoU, the confidence by its calibration error, every map by how it
ranks wrong pixels, every score and the gate by how they rank bad frames and, with --ood, frames of
another kind. Figures of frames have 95 % intervals over the blocks. A bundle without a calibration
has no flag to measure; all else is measured at temperature 1.

Several bundles, the old one first: is a new one better, and in what? One table says of each its
time, mean IoU, calibration error, how well its maps rank wrong pixels and its scores rank bad and
foreign frames, and how many frames it accepts at the same kept promise, each with the 95 %
interval of its difference from the first, and last of one pass of the first network. Maps and
scores are picked on folds and reported on the others. With --report all figures are in FILE.json.

"""

from __future__ import annotations

import argparse
from pathlib import Path

from uncertainty_seg.cli.arguments import (
    add_settings,
    call_with,
    print_json,
    rate,
    settings_from_args,
)
from uncertainty_seg.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments; what has a default is absent where it is not given."""
    parser.add_argument('bundles', nargs='+', metavar='BUNDLE', help='shipped name or folder')
    parser.add_argument('data', type=Path, metavar='DATA', help='folder of labelled images')
    parser.add_argument('--split', default='', help='of DATA, if it has a splits.json [control if '
                        'there is one, else val]')
    parser.add_argument('--ood', type=Path, metavar='DIR',
                        help='images of another kind, which should be refused')
    parser.add_argument('--blocks', type=Path, metavar='FILE',
                        help='blocks of the images, JSON or CSV [the dives of a dataset, else '
                        'each its own]')
    parser.add_argument('--bad', metavar='RULE', help='when a mask is bad [as the first bundle '
                        'was calibrated, or iou<0.5]')
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='write an HTML report there')
    parser.add_argument('--alpha', dest='alphas', nargs='+', type=rate,
                        default=argparse.SUPPRESS, metavar='ALPHA',
                        help='several bundles: P(accepted and bad) to promise [0.05 0.10]')
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from uncertainty_seg.calibration.api import compare, evaluate, figures_file
    from uncertainty_seg.storage.model_bundle import find_bundle

    settings = settings_from_args(args)
    about = {'verb': 'evaluate', 'figures': args.report and str(figures_file(args.report))}
    if len(args.bundles) > 1:
        compared = call_with(compare, args, settings=settings)
        print(compared.text())
        print_json({**about, **compared.line()})
        return 0
    if hasattr(args, 'alphas'):
        raise ConfigError('--alpha with one bundle', 'several bundles')
    found = call_with(evaluate, args, bundle=args.bundles[0], settings=settings)
    print(found.sentence())
    print_json({**about, 'bundle': str(find_bundle(args.bundles[0])), **found.line()})
    return 0
