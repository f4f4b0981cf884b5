# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Train a shipped recipe on a folder of labelled images and write its bundle, not yet calibrated.

Needs torch and torchvision. scripts/train does all of it: data, weights, bundle, calibration.

"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
import time
from typing import TYPE_CHECKING

from uncertainty_seg.errors import DatasetError
from uncertainty_seg.tools.arguments import print_json, whole_number

if TYPE_CHECKING:
    from uncertainty_seg.storage.labelled_folder import LabelledFolder

SPLITS = {'train': ('train',), 'val': ('val',), 'all': ('train', 'val')}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('recipe', help='suim or pipeline')
    parser.add_argument('--data', type=Path, required=True, help='folder of labelled images')
    parser.add_argument('--encoder', type=Path, required=True,
                        help='ImageNet weights, mobilenet_v2-b0353104.pth')
    parser.add_argument('--weights', type=Path, required=True, help='trained weights, written')
    parser.add_argument('--out', type=Path, required=True, help='folder of the bundle')
    parser.add_argument('--threads', type=whole_number(1, 256), default=2, help='CPU threads [2]')
    parser.add_argument('--compile-only', action='store_true', help='take --weights as they are')
    parser.add_argument('--split', choices=tuple(SPLITS), default='train',
                        help='images to train on; all: train and val, for cross-fitting [train]')
    folds = parser.add_argument_group('cross-fitting: one network for each fold of the images')
    folds.add_argument('--folds', type=whole_number(2, 1000), metavar='K', default=0,
                       help='divide the images into K folds')
    folds.add_argument('--fold', type=whole_number(0, 999), metavar='k',
                       help='train on the images outside of this fold; folds.json (image -> fold) '
                       'is written beside the bundle')
    folds.add_argument('--fold-seed', type=whole_number(0), default=0, help='of the division [0]')


def run(args: argparse.Namespace) -> int:
    """Train and compile."""
    from uncertainty_seg.training.recipes import make_bundle, recipe, reseeded, train_weights

    logging.getLogger('uncertainty_seg').setLevel(logging.INFO)
    plan = reseeded(recipe(args.recipe), args.fold or 0)
    data = training_images(args)
    start_s = time.monotonic()
    if not args.compile_only:
        train_weights(plan, data, args.encoder, args.weights, args.threads)
    card = make_bundle(plan, data, args.weights, args.out)
    print_json({'bundle': str(args.out), 'sites': [s.name for s in card.dropout_sites],
                'images': len(data.stems), 'seconds': round(time.monotonic() - start_s, 1)})
    return 0


def training_images(args: argparse.Namespace) -> LabelledFolder:
    """
    Read the images that the arguments choose, and write down their folds where there are any.

    Raises DatasetError if the folds are none, or others than those beside the bundle.
    """
    from uncertainty_seg.storage import folds

    data = folds.load_splits(args.data, SPLITS[args.split])
    if not args.folds and args.fold is None:
        return data
    if not args.folds or args.fold is None:
        raise DatasetError('one of --folds and --fold', 'both, or none')
    fold_by_stem = folds.fold_of(data.stems, args.folds, args.fold_seed)
    rest = folds.without_fold(data, args.fold, fold_by_stem)
    beside = args.out.parent / folds.FOLDS_FILE
    if beside.is_file() and folds.read_folds(beside) != fold_by_stem:
        raise DatasetError(f'{beside} divides the images in another way',
                           'bundles of one division in a folder',
                           'delete it with the bundles beside it, or take another --out')
    beside.parent.mkdir(parents=True, exist_ok=True)
    folds.write_folds(beside, fold_by_stem)
    return rest
