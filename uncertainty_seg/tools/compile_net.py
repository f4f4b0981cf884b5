# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
r"""
Compile a segmentation network to a bundle: an ONNX file, or a torch factory MODULE:FUNCTION.

The network takes a normalised image and gives logits, softmax or (binary) sigmoid, at any
resolution; several outputs are chosen from by --output. Dropout may be anywhere in it, and becomes
masks. Before anything is written the result is run against the network: dropout off, and with the
same masks. The bundle is not calibrated yet.

    uncertainty_seg compile my_pkg.nets:build --weights w.pt --input 512x384 \
        --classes classes.yaml -o bundle/
    uncertainty_seg compile net.onnx --input 512x384 --classes classes.yaml -o bundle/

"""

from __future__ import annotations

import argparse
from pathlib import Path

from uncertainty_seg.core.model_card import COLOR_ORDERS, FIT_RULES, PRECISIONS, REDUCTIONS
from uncertainty_seg.errors import (
    DatasetError,
    GraphError,
    ImageError,
    ModelBundleError,
    TrainingError,
)
from uncertainty_seg.tools.arguments import image_size, print_json, rate, whole_number

HELP = 'compile a segmentation network to a bundle'
# What a user can mend by another file or argument.
MISUSE = (GraphError, TrainingError, DatasetError, ImageError, ModelBundleError)
QUANTISERS = ('onnxruntime', 'nncf')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('net', help='net.onnx, or package.module:function that returns a module')
    parser.add_argument('--weights', type=Path, action='append', default=[],
                        help='state dict or safetensors for a torch factory; once a member')
    parser.add_argument('--input', type=image_size, required=True, help='network size, 512x384')
    parser.add_argument('--classes', type=Path, required=True, help='classes.yaml or .json: '
                        '{"classes": [{"id", "name", "rgb"}], "ignore_index"}')
    parser.add_argument('-o', '--out', type=Path, required=True, help='folder of the bundle')
    parser.add_argument('--output', help='name of the output that holds the logits')
    parser.add_argument('--method', choices=('mc_dropout', 'ensemble'), default='mc_dropout',
                        help='ensemble: each --weights (or each ONNX file) is a pass')
    parser.add_argument('--member', action='append', default=[], metavar='NET.onnx',
                        help='another ONNX file of an ensemble')
    parser.add_argument('--inject-dropout', type=rate, metavar='P',
                        help='put dropout of this rate into a network without')
    parser.add_argument('--at', default='head', metavar='decoder|head|NAME',
                        help='where to inject; module, node or tensor names by commas [head]')
    parser.add_argument('--passes', type=whole_number(1, 1000), help='T [20, or the members]')
    parser.add_argument('--explain', action='store_true', help='print costs and decisions')
    image = parser.add_argument_group('the image that the network expects')
    image.add_argument('--fit', choices=FIT_RULES, default='letterbox')
    image.add_argument('--color-order', choices=COLOR_ORDERS, default='rgb')
    image.add_argument('--mean', type=float, nargs=3, default=(0.485, 0.456, 0.406))
    image.add_argument('--std', type=float, nargs=3, default=(0.229, 0.224, 0.225))
    speed = parser.add_argument_group('smaller or faster, and not the same: calibrate with it')
    speed.add_argument('--precision', choices=PRECISIONS, default='fp32',
                       help='of trunk and head; int8 quantises the trunk [fp32]')
    speed.add_argument('--calibration-images', type=Path, metavar='DIR',
                       help='images the int8 scales are measured on')
    speed.add_argument('--quantiser', choices=QUANTISERS, default='onnxruntime')
    speed.add_argument('--skip-dropped', type=whole_number(1, 1000), metavar='CHUNK', default=0,
                       nargs='?', const=1, help='do not compute dropped channels; balanced masks, '
                       'CHUNK passes a call [1 where given]')
    speed.add_argument('--reduction', choices=REDUCTIONS, default='full',
                       help="low: maps at the logits' resolution, upsampled [full]")
    speed.add_argument('--full-weights', action='store_true', help='store 32-bit weights')
    card = parser.add_argument_group('texts for the card')
    card.add_argument('--license', default='not stated', help='licence')
    card.add_argument('--training', default='not stated', help='training data')
    card.add_argument('--not-good-for', default='not stated', help='limits')


def run(args: argparse.Namespace) -> int:
    """Compile, check, write, and say what became of the dropout."""
    from uncertainty_seg.graph.plan import explain
    from uncertainty_seg.storage.labelled_folder import read_classes
    from uncertainty_seg.tools.compile.request import compile_request, CompileRequest

    request = CompileRequest.of(args, read_classes(args.classes))
    compiled, card, report = compile_request(request)
    plan = compiled.plan
    if args.explain:
        print(explain(plan))
    print_json({
        'bundle': str(args.out), 'method': card.method, 'passes': card.passes,
        'precision': card.precision, 'logits_shape': card.logits_shape,
        'sites': [{'name': s.name, 'shape': s.shape, 'p': s.p} for s in card.dropout_sites],
        'injected': [name for p in compiled.prepared for name in p.injected],
        'folded': list(compiled.folded), 'trunk_share': round(plan.trunk_share, 4),
        'gflops': {name: round(2 * cost.macs / 1e9, 4) for name, cost in (
            ('network', plan.network), ('trunk', plan.trunk), ('head', plan.head))},
        'still_error': report.still_error, 'masked_error': report.masked_error,
    })
    return 0
