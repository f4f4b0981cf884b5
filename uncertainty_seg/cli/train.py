# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Train a network on folders of labelled images and write its bundle, without a calibration.

RECIPE is an included recipe (own, for your own images; suim and pipeline, those of the included
models) or a YAML file with the keys below. Beside the bundle OUT the command writes the recipe,
OUT.recipe.yaml, the weights OUT.pt, OUT.curves.csv, OUT.facts.json (for the card) and
OUT.progress, from which a stopped run continues. Needs torch.
"""

import argparse
import logging
import math
from pathlib import Path
import time

from uncertainty_seg.cli.arguments import call_with, print_json, read_assignments, whole_number
from uncertainty_seg.training.recipes import describe, TrainRecipe

GOES_ON = 'from the last finished epoch'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('recipe', metavar='RECIPE',
                        help='own, suim, pipeline, or a .yaml file of the keys below')
    parser.add_argument('--data', type=Path, nargs='+', required=True, metavar='DIR',
                        help='folders of labelled images with the same classes.json')
    parser.add_argument('--mix', type=Path, nargs='+', default=[], metavar='DIR',
                        help='labelled folders that fill a share of each batch, such as a few '
                        'real images with many rendered ones')
    parser.add_argument('--out', type=Path, required=True, help='folder of the bundle')
    parser.add_argument('--init', default='', metavar='START',
                        help='initial weights: a bundle, a file of weights, pretrained weights of '
                        'the encoder (their file, or its folder), or none for random weights')
    parser.add_argument('--set', dest='assignments', action='append', default=[],
                        metavar='KEY=VALUE', help='one key of the recipe; repeatable')
    parser.add_argument('--threads', type=whole_number(1, 256), default=0,
                        help='CPU threads [2, or 1 on a busy computer]')
    parser.add_argument('--compile-only', action='store_true',
                        help='make the bundle from the existing weights OUT.pt')
    parser.epilog = f'keys of a recipe [default]:\n{describe(TrainRecipe)}'.replace('%', '%%')


def run(args: argparse.Namespace) -> int:
    """Train and compile."""
    from uncertainty_seg.training.train import train

    logging.getLogger('uncertainty_seg').setLevel(logging.INFO)
    start_s = time.monotonic()
    done = call_with(train, args, changes=read_assignments(args.assignments))
    iou = done.get('val_mean_iou') or math.nan
    print(f'{args.out} was trained on {done["images"]} images'
          + (f', mean IoU {iou:.3f} on the split val' if math.isfinite(iou) else '')
          + '. It has no calibration yet: score runs it, and calibrate adds the flag.')
    print_json({'verb': 'train', **done, 'seconds': round(time.monotonic() - start_s, 1)})
    return 0
