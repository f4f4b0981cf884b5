# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
r"""
Compile a segmentation network to a bundle: an ONNX file, or a torch factory MODULE:FUNCTION.

The network takes a normalised image and returns logits, softmax or (binary) sigmoid, at any
resolution; --output chooses one of several outputs. Dropout anywhere in it becomes masks. Before
anything is written, the result is compared with the network: without dropout, with the same masks,
and with random masks. The bundle has no calibration yet.

    uncertainty_seg compile my_pkg.nets:build --weights w.pt --input 512x384 \
        --classes classes.yaml -o bundle/
    uncertainty_seg compile net.onnx --input 512x384 --classes classes.yaml -o bundle/

Given a bundle, the command writes a variant in another precision, or signs the bundle so that a
node with `trusted_keys` accepts it:

    uncertainty_seg compile suim --precision fp16 -o suim_fp16/
    openssl genpkey -algorithm ed25519 -out key.pem
    uncertainty_seg compile suim_fp16/ --sign key.pem

Anyone can check a signed bundle without this package, in its folder:

    openssl pkey -in key.pem -pubout -out key.pub.pem
    sha256sum -c SHA256SUMS
    openssl pkeyutl -verify -rawin -pubin -inkey key.pub.pem -in SHA256SUMS \
        -sigfile SHA256SUMS.sig
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
import logging
from pathlib import Path
import re
from typing import TYPE_CHECKING

from uncertainty_seg.cli.arguments import call_with, image_size, print_json, rate, whole_number
from uncertainty_seg.core.model_card import COLOR_ORDERS, FIT_RULES
from uncertainty_seg.errors import ConfigError, some_of

if TYPE_CHECKING:
    from uncertainty_seg.compiler.request import CompileOutcome

ACTIVATIONS = ('auto', 'logits', 'softmax', 'sigmoid', 'log_softmax')
METHODS = ('single', 'mc_dropout', 'deep_ensemble', 'direct', 'error_propagation')
_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('nets', nargs='+', metavar='NET', help='net.onnx (several for an '
                        'ensemble), package.module:function that returns a module, or a bundle')
    parser.add_argument('--weights', type=Path, action='append', default=[],
                        help='state dict or safetensors for a torch factory; repeat it for each '
                             'member of an ensemble')
    parser.add_argument('--input', dest='size', metavar='WIDTHxHEIGHT', type=image_size,
                        help='input size of the network, such as 512x384')
    parser.add_argument('--classes', type=Path, help='classes.yaml or .json: '
                        '{"classes": [{"id", "name", "rgb"}], "ignore_index"}')
    parser.add_argument('-o', '--out', type=Path, help='folder of the bundle')
    parser.add_argument('--output', help='name of the output that holds the logits')
    parser.add_argument('--activation', choices=ACTIVATIONS, default='auto',
                        help='kind of the output; the logarithm of probabilities is taken [auto: '
                        'by the last node]')
    parser.add_argument('--method', choices=METHODS, default='mc_dropout',
                        help='mc_dropout: T passes with dropout masks; single: one pass, dropout '
                        'off; deep_ensemble: each --weights (or ONNX file) is a pass; direct: a '
                        'network with logits and log-variance; error_propagation: mean and '
                        'variance of the logits in one pass [mc_dropout]')
    parser.add_argument('--sensor-std', type=float, metavar='S', default=0.0,
                        help="error_propagation: the camera's noise in pixel values [0]")
    parser.add_argument('--variance', metavar='NAME',
                        help='direct: name of the output that holds the log-variance')
    parser.add_argument('--samples', type=whole_number(1, 1000),
                        help='direct: noise samples per pass [10]')
    parser.add_argument('--inject-dropout', type=rate, metavar='P',
                        help='add dropout of this rate to a network without dropout')
    parser.add_argument('--at', default='head', metavar='decoder|head|NAME',
                        help='where to inject; or names of modules, nodes or tensors, with commas '
                             '[head]')
    parser.add_argument('--passes', type=whole_number(1, 1000), help='passes [20, or one per '
                                                                     'member]')
    parser.add_argument('--features', default='none', metavar='auto|NAME|none',
                        help='layer of the features for out-of-distribution scores [none]')
    parser.add_argument('--compare-passes', type=whole_number(0, 1000), metavar='T', default=256,
                        help="number of the network's own random passes with which the masks are "
                        'compared; 0: no comparison [256]')
    parser.add_argument('--allow-silenced', action='store_true',
                        help='accept a network with randomness other than dropout, and disable '
                        'that in every pass')
    parser.add_argument('--explain', action='store_true', help='print costs and decisions')
    image = parser.add_argument_group('the image that the network expects')
    image.add_argument('--fit', choices=FIT_RULES, default='letterbox')
    image.add_argument('--color-order', choices=COLOR_ORDERS, default='rgb')
    image.add_argument('--mean', type=float, nargs=3, default=argparse.SUPPRESS,
                       help="mean of pixel values scaled to 0..1 [ImageNet's]")
    image.add_argument('--std', type=float, nargs=3, default=argparse.SUPPRESS,
                       help="standard deviation [ImageNet's]")
    parser.add_argument('--precision', choices=('fp32', 'fp16', 'bf16'), default='fp32',
                        help='precision of trunk and head; fp16 and bf16 change the scores [fp32]')
    parser.add_argument('--full-weights', action='store_true',
                        help='store all weights in 32 bits instead of 16')
    parser.add_argument('--sign', type=Path, metavar='KEY',
                        help='sign the bundle with this Ed25519 private key (PEM file)')
    card = parser.add_argument_group('texts for the card')
    card.add_argument('--license', dest='licence', default='not stated', help='licence')
    card.add_argument('--training', default='not stated', help='training data')
    card.add_argument('--not-good-for', default='not stated', help='known limits')


def run(args: argparse.Namespace) -> int:
    """Compile a network, or convert or sign a given bundle."""
    from uncertainty_seg.compiler.request import compile_network

    if _is_bundle(args.nets[0]):
        return _run_on_bundle(args)
    missing = [name for name, value in (('--input', args.size), ('--classes', args.classes),
                                        ('--out', args.out)) if value is None]
    if missing:
        raise ConfigError(f'no {some_of(missing)}', 'these options, to compile a network')
    made = call_with(compile_network, args, net=args.nets[0], members=args.nets[1:])
    _report(made, args)
    return 0


def _is_bundle(net: str) -> bool:
    """Return whether this is a folder, or one word like a shipped name."""
    return not net.endswith('.onnx') and (
        Path(net).is_dir() or re.fullmatch(r'[\w-]+', net) is not None)


def _run_on_bundle(args: argparse.Namespace) -> int:
    """Write a variant in another precision, sign the bundle, or both."""
    from uncertainty_seg.backends.check_record import unchecked
    from uncertainty_seg.compiler.request import convert
    from uncertainty_seg.storage.model_bundle import find_bundle, sign_bundle
    from uncertainty_seg.storage.signatures import public_line, read_private_key

    net, *others = args.nets
    if others or args.precision == 'fp32' and args.sign is None:
        raise ConfigError(f'the bundle {net}', 'it alone, with --precision fp16 or bf16 for a '
                          'variant of it, or with --sign KEY')
    if args.precision != 'fp32' and args.out is None:
        raise ConfigError('no --out', 'a folder for the variant')
    key = None if args.sign is None else read_private_key(args.sign)
    said: dict[str, object] = {}
    if args.precision != 'fp32':
        made = convert(net, args.out, args.precision)
        folder = made.folder
        said = {'precision': args.precision,
                'next': f'uncertainty_seg calibrate {folder} --data DATA'}
        if args.precision == 'bf16':
            _log.warning('%s', unchecked(made.card.name, 'bf16'))
    else:
        folder = find_bundle(net)
    if key is not None:
        sign_bundle(folder, key)
        said['trusted_key'] = public_line(key)
    print(f'The bundle is in {folder}.')
    print_json({'verb': 'compile', 'bundle': str(folder), **said})
    return 0


def _report(made: CompileOutcome, args: argparse.Namespace) -> None:
    """Print what was compiled, with the dropout sites."""
    from uncertainty_seg.compiler.plan import explain

    card, plan = made.bundle.card, made.compiled.plan
    checked = {k: v for k, v in asdict(made.report).items() if k != 'spread'}
    if args.explain:
        print(explain(plan))
    print(f'{args.out}: {card.method} with T={card.passes}, {plan.trunk_share:.0%} of the work '
          'once a frame. It has no calibration yet: run calibrate for a flag.')
    print_json({
        'verb': 'compile', 'bundle': str(args.out), 'method': card.method, 'passes': card.passes,
        'mask_draw': card.mask_draw,
        'precision': card.precision, 'logits_shape': card.logits_shape,
        'grid_offset': card.grid_offset, 'grid_error': round(card.grid_error, 4),
        'sites': [{'name': s.name, 'shape': s.shape, 'p': s.p, 'kind': s.kind}
                  for s in card.dropout_sites],
        'silenced': card.silenced,
        'injected': [name for p in made.compiled.prepared for name in p.injected],
        'features': card.feature_shape,
        'folded': [d.where for d in plan.decisions if d.step == 'fold_masks' and d.is_applied],
        'trunk_share': round(plan.trunk_share, 4),
        'gflops': {name: round(2 * cost.macs / 1e9, 4) for name, cost in (
            ('network', plan.network), ('trunk', plan.trunk), ('head', plan.head))},
        **checked, 'distribution': asdict(made.distribution),
        'weights': _weights_told(made),
    })


def _weights_told(made: CompileOutcome) -> dict[str, object]:
    """Return the size of the files, the weights kept in 32 bits, and the rounding errors."""
    folder, stored = made.bundle.folder, made.stored
    size = sum(path.stat().st_size for path in folder.glob('*.onnx'))
    return {
        'megabytes': round(size / 1e6, 3), 'float32': some_of(stored.full),
        'logit_error': float(f'{stored.logit_error:.3g}'),
        'label_error': float(f'{stored.label_error:.3g}'),
    }
