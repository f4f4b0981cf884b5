# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure the masks, the uncertainty and the flag of a bundle on labelled images, or compare several.

One bundle: mean IoU of the masks, calibration error of the confidence, the ranking of wrong pixels
by each map, and the ranking of bad frames and (with --ood) of out-of-distribution frames by each
score and the gate. Figures of frames have 95 % intervals over the blocks. A bundle without a
calibration has no flag to measure, and temperature 1.

Several bundles, the old one first: is a new one better, and in what? A table gives the time, mean
IoU, calibration error, ranking of wrong pixels, of bad and of foreign frames, and the share of
accepted frames at the same promise; each with the difference to the first bundle and its 95 %
interval. The last row is one pass of the first network. Maps and scores are selected on some folds
and reported on the others. With --report all figures are in FILE.json.
"""

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
    """Declare the verb's arguments; those with suppressed defaults are absent if not given."""
    parser.add_argument('bundles', nargs='+', metavar='BUNDLE', help='name of an included model, '
                                                                     'or folder of a bundle')
    parser.add_argument('data', type=Path, metavar='DATA', help='folder of labelled images')
    parser.add_argument('--split', default='', help='split of DATA, if it has a splits.json '
                        '[control if it exists, else val]')
    parser.add_argument('--ood', type=Path, metavar='DIR',
                        help='out-of-distribution images, which the gate should refuse')
    parser.add_argument('--blocks', type=Path, metavar='FILE',
                        help='the block of each image, JSON or CSV [its dive in a dataset, else '
                        'each image is a block]')
    parser.add_argument('--bad', metavar='RULE', help='when a mask is bad [rule of the first '
                        "bundle's calibration, else iou<0.5]")
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='write an HTML report there')
    parser.add_argument('--alpha', dest='alphas', nargs='+', type=rate,
                        default=argparse.SUPPRESS, metavar='ALPHA',
                        help='comparison: largest share accepted and bad [0.05 0.10]')
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
