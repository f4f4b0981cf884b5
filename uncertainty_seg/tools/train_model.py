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

from uncertainty_seg.tools.arguments import print_json, whole_number


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


def run(args: argparse.Namespace) -> int:
    """Train and compile."""
    from uncertainty_seg.storage.labelled_folder import load_folder
    from uncertainty_seg.training.recipes import make_bundle, recipe, train_weights

    logging.getLogger('uncertainty_seg').setLevel(logging.INFO)
    plan = recipe(args.recipe)
    data = load_folder(args.data, 'train')
    start_s = time.monotonic()
    if not args.compile_only:
        train_weights(plan, data, args.encoder, args.weights, args.threads)
    card = make_bundle(plan, data, args.weights, args.out)
    print_json({'bundle': str(args.out), 'sites': [s.name for s in card.dropout_sites],
                'seconds': round(time.monotonic() - start_s, 1)})
    return 0
