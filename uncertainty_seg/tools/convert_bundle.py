# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Make a variant of a bundle in another precision: fp16, bf16, or an int8 trunk.

The network is not needed, since its weights are in the bundle. The variant is another model:
its scores move, so it comes without thresholds and without figures. Calibrate it.

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
from pathlib import Path

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle, TRUNK_FILE
from uncertainty_seg.core.model_card import ModelCard, PRECISIONS
from uncertainty_seg.errors import ConfigError, DatasetError, GraphError, ModelBundleError
from uncertainty_seg.tools.arguments import print_json, whole_number

HELP = 'make a variant of a bundle in another precision'
MISUSE = (DatasetError, GraphError, ModelBundleError)
_QUANTISERS = ('onnxruntime', 'nncf')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('bundle', help='shipped name or folder')
    parser.add_argument('-o', '--out', type=Path, required=True, help='folder of the variant')
    parser.add_argument('--precision', required=True,
                        choices=[name for name in PRECISIONS if name != 'fp32'],
                        help='of trunk and head; int8 quantises the trunk')
    parser.add_argument('--calibration-images', type=Path, metavar='DIR',
                        help='images the int8 scales are measured on')
    parser.add_argument('--quantiser', choices=_QUANTISERS, default='onnxruntime')
    parser.add_argument('--limit', type=whole_number(1), default=100,
                        help='most calibration images to look at [100]')


def run(args: argparse.Namespace) -> int:
    """Convert, and say what to do next."""
    from uncertainty_seg.storage.model_bundle import load_bundle
    from uncertainty_seg.tools.compile.quantise_trunk import calibration_images

    if args.precision == 'int8' and args.calibration_images is None:
        raise ConfigError('--precision int8', '--calibration-images DIR with images of the sea '
                          'it will work in')
    if args.precision != 'int8' and args.calibration_images is not None:
        raise ConfigError(f'--calibration-images with --precision {args.precision}',
                          '--precision int8 with it')
    bundle = load_bundle(args.bundle)
    images: tuple[ImageU8, ...] = ()
    if args.calibration_images is not None:
        images = calibration_images(args.calibration_images, bundle.card.input, args.limit).images
    card = convert_bundle(bundle, args.out, args.precision, images, args.quantiser)
    print_json({'bundle': str(args.out), 'precision': card.precision,
                'next': f'uncertainty_seg calibrate {args.out} --data DATA'})
    return 0


def convert_bundle(
    bundle: ModelBundle, out: Path, precision: str, images: Sequence[ImageU8] = (),
    quantiser: str = 'onnxruntime',
) -> ModelCard:
    """
    Write a variant of a bundle.

    Parameters
    ----------
    bundle : ModelBundle
        In fp32.
    out : Path
        Another folder; replaced if it holds a bundle.
    precision : str
        'fp16' or 'bf16' for all graphs, 'int8' for the trunk alone.
    images : sequence of ndarray of uint8, shape (h, w, 3)
        Fitted to the network; for int8.
    quantiser : str
        For int8, as `quantise_trunk.quantised` takes it.

    Returns
    -------
    ModelCard
        As written, without figures.

    Raises
    ------
    ConfigError
        If the bundle is not in fp32, or `out` is its own folder.
    GraphError
        If a graph cannot be converted.

    """
    from uncertainty_seg.graph.frontend.lint import require_clean
    from uncertainty_seg.graph.onnx_tools import load_model
    from uncertainty_seg.graph.precision import to_precision
    from uncertainty_seg.storage.model_bundle import write_bundle
    from uncertainty_seg.tools.compile.quantise_trunk import quantised

    card = bundle.card
    if card.precision != 'fp32':
        raise ConfigError(f'the graphs of {card.name!r} are {card.precision}', 'a bundle in fp32',
                          'convert the one it was made of')
    if out.resolve() == bundle.folder.resolve():
        raise ConfigError(f'{out} is the bundle itself', 'another folder')
    files = {name: (bundle.folder / name).read_bytes() for name in card.sha256}
    if precision == 'int8':
        files[TRUNK_FILE] = quantised(load_model(str(bundle.trunk_path)), images, quantiser).data
    else:
        for name in files:
            graph = to_precision(load_model(str(bundle.folder / name)), precision)
            require_clean(graph)
            files[name] = graph.SerializeToString()
    changed = dataclasses.replace(card, name=out.resolve().name, precision=precision, metrics={})
    return write_bundle(out, changed, files)
