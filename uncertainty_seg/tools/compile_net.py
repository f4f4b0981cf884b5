# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compile a network with dropout to a bundle: an ONNX file, or a torch factory MODULE:FUNCTION.

The network takes normalised float32 (1, 3, h, w) and gives logits (1, C, hl, wl), with or without
a last bilinear upsampling. An ONNX file needs opset 17. The bundle is not calibrated yet.

"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.tools.arguments import image_size, print_json, whole_number

HELP = 'compile a network with dropout to a bundle'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('net', help='net.onnx, or package.module:function that returns a module')
    parser.add_argument('--weights', type=Path, help='state dict for a torch factory')
    parser.add_argument('--input', type=image_size, required=True, help='network size, 512x384')
    parser.add_argument('--classes', type=Path, required=True,
                        help='classes.json: {"classes": [{"id", "name", "rgb"}], "ignore_index"}')
    parser.add_argument('-o', '--out', type=Path, required=True, help='folder of the bundle')
    parser.add_argument('--fit', choices=('letterbox', 'stretch'), default='letterbox')
    parser.add_argument('--color-order', choices=('rgb', 'bgr'), default='rgb')
    parser.add_argument('--mean', type=float, nargs=3, default=(0.485, 0.456, 0.406))
    parser.add_argument('--std', type=float, nargs=3, default=(0.229, 0.224, 0.225))
    parser.add_argument('--passes', type=whole_number(1, 1000), default=20, help='T [20]')
    parser.add_argument('--full-weights', action='store_true', help='store 32-bit weights')
    parser.add_argument('--license', default='not stated', help='licence, for the card')
    parser.add_argument('--training', default='not stated', help='training data, for the card')
    parser.add_argument('--not-good-for', default='not stated', help='limits, for the card')


def run(args: argparse.Namespace) -> int:
    """Compile and say what became of the dropout."""
    from uncertainty_seg.core.model_card import InputSpec, ModelCard, SCHEMA_VERSION
    from uncertainty_seg.graph.compile import compile_graph
    from uncertainty_seg.graph.onnx_tools import OPSET
    from uncertainty_seg.storage.labelled_folder import read_classes
    from uncertainty_seg.storage.model_bundle import write_bundle

    if min(args.std) <= 0:
        raise ConfigError(f'--std {args.std}', 'numbers above 0')
    width, height = args.input
    spec = InputSpec(width, height, args.fit, args.color_order, tuple(args.mean), tuple(args.std))
    classes = read_classes(args.classes)
    graphs = compile_graph(_network(args, spec), spec, is_half=not args.full_weights)
    card = ModelCard(
        schema=SCHEMA_VERSION, name=args.out.name, method='mc_dropout', class_names=classes.names,
        palette=classes.palette, ignore_index=classes.ignore_index,
        input=spec, dropout_sites=graphs.sites,
        passes=args.passes, opset=OPSET, logits_shape=graphs.logits_shape,
        training=args.training, license=args.license, not_good_for=args.not_good_for,
        metrics={}, sha256={},
    )
    write_bundle(args.out, card, graphs.files)
    print_json({'bundle': str(args.out), 'folded': list(graphs.folded), 'sites': [
        {'name': s.name, 'shape': s.shape, 'p': s.p} for s in graphs.sites]})
    return 0


def _network(args: argparse.Namespace, spec: Any) -> Any:
    if args.net.endswith('.onnx'):
        from uncertainty_seg.graph.onnx_tools import load_model

        return load_model(args.net)
    from uncertainty_seg.training.export import export_marked, load_weights

    module_name, _, function = args.net.partition(':')
    try:
        net = getattr(import_module(module_name), function)()
    except (ImportError, AttributeError) as err:
        raise ConfigError(f'{args.net!r} cannot be imported ({err})', 'net.onnx or '
                          'package.module:function', 'set PYTHONPATH to where the package lies'
                          ) from err
    if args.weights is not None:
        load_weights(net, args.weights)
    return export_marked(net, spec)
