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
import logging
from pathlib import Path

from uncertainty_seg.cli.arguments import call_with, print_json, whole_number
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle, TRUNK_FILE
from uncertainty_seg.core.model_card import ModelCard, PRECISIONS
from uncertainty_seg.errors import ConfigError, DatasetError, GraphError, ModelBundleError

MISUSE = (DatasetError, GraphError, ModelBundleError)
_QUANTISERS = ('onnxruntime', 'nncf')
_MOST_IMAGES = 100
_log = logging.getLogger(__name__)


def convert(
    bundle: ModelBundle | Path | str,
    out: Path | str,
    precision: str,
    *,
    calibration_images: Path | str | None = None,
    quantiser: str = 'onnxruntime',
    limit: int = _MOST_IMAGES,
) -> ModelBundle:
    """
    Write a variant of a bundle in another precision; calibrate it before it is used.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        In fp32: shipped name or folder.
    out : Path or str
        Another folder; replaced if it holds a bundle.
    precision : str
        'fp16' or 'bf16' for all graphs, 'int8' for the trunk alone.
    calibration_images : Path or str, optional
        Folder of images that the int8 scales are measured on; needed for int8 alone.
    quantiser : str
        'onnxruntime' or 'nncf', for int8.
    limit : int
        Images to look at, at most.

    Returns
    -------
    ModelBundle
        As written, without figures and without a calibration.

    Raises
    ------
    ConfigError
        If the bundle is not in fp32, `out` is its own folder, or arguments contradict each other.
    DatasetError
        If no image can be read.
    GraphError
        If a graph cannot be converted.

    """
    from uncertainty_seg.backends.opening import as_bundle
    from uncertainty_seg.compiler.quantise_trunk import calibration_images as read_images

    if precision == 'int8' and calibration_images is None:
        raise ConfigError('--precision int8', '--calibration-images DIR with images of the sea '
                          'it will work in')
    if precision != 'int8' and calibration_images is not None:
        raise ConfigError(f'--calibration-images with --precision {precision}',
                          '--precision int8 with it')
    source, out = as_bundle(bundle), Path(out)
    images: tuple[ImageU8, ...] = ()
    if calibration_images is not None:
        images = read_images(Path(calibration_images), source.card.input, limit).images
    return ModelBundle(out, convert_bundle(source, out, precision, images, quantiser), None)


def convert_bundle(
    bundle: ModelBundle, out: Path, precision: str, images: Sequence[ImageU8] = (),
    quantiser: str = 'onnxruntime',
) -> ModelCard:
    """
    Write a variant of a bundle, without figures; as `convert`, with images in memory.

    `images`, uint8 (h, w, 3), are fitted to the network; they are for int8 alone.
    """
    from uncertainty_seg.compiler.frontend.lint import require_clean
    from uncertainty_seg.compiler.onnx_tools import load_model
    from uncertainty_seg.compiler.precision import to_precision
    from uncertainty_seg.compiler.quantise_trunk import quantised
    from uncertainty_seg.storage.model_bundle import write_bundle

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
    parser.add_argument('--limit', type=whole_number(1), default=_MOST_IMAGES,
                        help='most calibration images to look at [100]')


def run(args: argparse.Namespace) -> int:
    """Convert, and say what to do next."""
    made = call_with(convert, args)
    if made.card.precision == 'bf16':
        from uncertainty_seg.backends.gpu.engine_cache import unchecked

        _log.warning('%s', unchecked(made.card.name, made.card.precision))
    print_json({'bundle': str(args.out), 'precision': made.card.precision,
                'next': f'uncertainty_seg calibrate {args.out} --data DATA'})
    return 0
