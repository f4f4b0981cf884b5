# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Fit the temperature and the thresholds of a bundle's flag, with a promise on accepted bad frames.

The gate is the same for all data: margin.class_mean orders the frames, and the guards features.knn
and mutual_information.top refuse those unlike the training frames. Validation frames give the
temperature. The held-out split limits gives the thresholds, so that at most a share alpha of the
frames is accepted and bad (conformal risk control over blocks). What that rests on, and whether to
rely on it, is printed. calibration.json is written into the bundle.

With --like the bundle is a calibrated one in another precision. It takes over the thresholds of
that one, lowered until it accepts hardly any image of --data that the other refuses; no masks are
needed.

Blocks are independent of each other: dives, sites, tracks. Neighbouring frames of a video are
not, so name the blocks with --blocks unless all images are independent.
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

# Options of a fit, which --like does not take.
_OF_A_FIT = ('train', 'val', 'limits', 'blocks', 'bad', 'alpha', 'scores', 'report')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments; those with suppressed defaults are absent if not given."""
    parser.add_argument('bundle', help='name of an included model, or folder of a bundle')
    parser.add_argument('--data', type=Path, metavar='DIR',
                        help='folder with a splits.json, for those of the next three that are not '
                        'given')
    parser.add_argument('--train', type=Path, metavar='DIR',
                        help='labelled images; the split "train" if DIR has a splits.json')
    parser.add_argument('--val', type=Path, metavar='DIR',
                        help='labelled images unseen in training; the split "val"')
    parser.add_argument('--limits', type=Path, metavar='DIR',
                        help='held-out labelled images, used for nothing else; the split "limits"')
    parser.add_argument('--like', metavar='BUNDLE',
                        help='take over the thresholds of this bundle, the same network in '
                        'another precision; --data needs no masks')
    parser.add_argument('--error', type=rate, default=argparse.SUPPRESS,
                        help='with --like: largest share of frames that only the new bundle '
                        'accepts; added to each alpha [0.005]')
    parser.add_argument('--blocks', type=Path, metavar='FILE',
                        help='the block of each image, JSON or CSV [its dive in a dataset, else '
                        'each image is a block]')
    parser.add_argument('--bad', default=argparse.SUPPRESS, metavar='RULE',
                        help="when a mask is bad: 'iou<0.5', 'iou[diver]<0.5', 'accuracy<0.7', "
                        'joined by or [iou<0.5]')
    parser.add_argument('--alpha', dest='alphas', nargs='+', type=rate,
                        default=argparse.SUPPRESS, metavar='ALPHA',
                        help='largest share of frames that are accepted and bad, one or more '
                             'promises [0.05 0.10]')
    parser.add_argument('--scores', nargs='+', metavar='SCORE', default=(),
                        help='scores of the gate [margin.class_mean features.knn '
                             'mutual_information.top]')
    parser.add_argument('--report', type=Path, metavar='FILE',
                        help='write an HTML report there')
    parser.add_argument('--sign', type=Path, metavar='KEY',
                        help='sign the bundle with this Ed25519 private key (PEM file)')
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Calibrate and print the result."""
    from uncertainty_seg.calibration.api import calibrate, calibrate_like
    from uncertainty_seg.storage.model_bundle import find_bundle

    settings = settings_from_args(args)
    if args.like is not None:
        given = [name for name in _OF_A_FIT
                 if getattr(args, 'alphas' if name == 'alpha' else name, None)]
        if args.data is None or given:
            raise ConfigError('--like ' + (f'with --{given[0]}' if given else 'without --data'),
                              '--data DIR, a folder of images', 'the thresholds come from the '
                              'other bundle; leave out the options of a fit')
        found = call_with(calibrate_like, args, settings=settings).summary()
    else:
        if hasattr(args, 'error'):
            raise ConfigError('--error without --like', '--like BUNDLE, whose thresholds are '
                              'taken over', 'leave --error out: --alpha sets the promise')
        places = {name: getattr(args, name) or args.data for name in ('train', 'val', 'limits')}
        absent = [name for name, place in places.items() if place is None]
        if absent:
            raise ConfigError(f'no images for {" and ".join(absent)}',
                              '--data DIR with these splits, or a folder for each')
        outcome = call_with(calibrate, args, **places, settings=settings)
        found = outcome.summary()
        print('\n'.join(outcome.sentences()))
    folder = find_bundle(args.bundle)
    print(f'The thresholds are in {folder / "calibration.json"}; run evaluate on other images to '
          'see whether the promise is kept.')
    # The thresholds of all scores are in that file.
    print_json({'verb': 'calibrate', 'bundle': str(folder),
                **{name: value for name, value in found.items() if name != 'thresholds'}})
    return 0
