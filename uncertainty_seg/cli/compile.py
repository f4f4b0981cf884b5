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
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TYPE_CHECKING

from uncertainty_seg.cli.arguments import call_with, image_size, print_json, rate, whole_number
from uncertainty_seg.core.model_card import (
    COLOR_ORDERS,
    FIT_RULES,
    InputSpec,
    MASK_DRAWS,
    PRECISIONS,
)
from uncertainty_seg.errors import (
    DatasetError,
    GraphError,
    ImageError,
    ModelBundleError,
    some_of,
    TrainingError,
)

if TYPE_CHECKING:
    from uncertainty_seg.compiler.request import CompileOutcome
    from uncertainty_seg.storage.labelled_folder import ClassTable

# What a user can mend by another file or argument.
MISUSE = (GraphError, TrainingError, DatasetError, ImageError, ModelBundleError)
ACTIVATIONS = ('auto', 'logits', 'softmax', 'sigmoid', 'log_softmax')
LAYOUTS = ('auto', 'nchw', 'nhwc')
METHODS = ('single', 'mc_dropout', 'ensemble', 'direct', 'error_propagation')
QUANTISERS = ('onnxruntime', 'nncf')
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def compile_network(
    net: Any,
    out: Path | str,
    size: tuple[int, int],
    classes: Path | str | Sequence[str] | ClassTable,
    *,
    weights: Sequence[Path | str] = (),
    members: Sequence[Any] = (),
    output: str | None = None,
    method: str = 'mc_dropout',
    inject_dropout: float | None = None,
    at: str = 'head',
    passes: int | None = None,
    fit: str = 'letterbox',
    color_order: str = 'rgb',
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    precision: str = 'fp32',
    calibration_images: Path | str | None = None,
    quantiser: str = 'onnxruntime',
    skip_dropped: int = 0,
    sensor_std: float = 0.0,
    variance: str | None = None,
    samples: int | None = None,
    mask_draw: str = 'stratified',
    full_weights: bool = False,
    features: str = 'none',
    activation: str = 'auto',
    layout: str = 'auto',
    compare_passes: int = 256,
    memory_mb: int | None = None,
    licence: str = 'not stated',
    training: str = 'not stated',
    not_good_for: str = 'not stated',
    sign: Path | str | None = None,
) -> CompileOutcome:
    """
    Compile a network to a bundle whose T passes are cheap and repeatable.

    Parameters
    ----------
    net : Module, Path or str
        A torch module (left as it is), an ONNX file, or 'package.module:function' that returns
        a module. It takes a normalised image (1, 3, h, w) and gives logits or probabilities.
    out : Path or str
        Folder of the bundle; replaced if it is one.
    size : (int, int)
        Width and height of the network's image.
    classes : Path, str, sequence of str or ClassTable
        A file with the table of classes, or the names of the classes in the order of their ids.
    weights : sequence of Path or str
        State dicts or safetensors for a factory; one for each member of an ensemble.
    members : sequence of Module, Path or str
        The other networks of an ensemble.
    output : str, optional
        Name of the output that holds the logits; needed where there is a doubt.
    method : str
        'mc_dropout'; 'ensemble' where each network is a pass; 'direct' for a network that predicts
        the variance of its logits; 'error_propagation' for one pass that computes mean and
        variance of the logits, of which the passes are samples; 'single' for one pass, dropout
        switched off.
    inject_dropout : float, optional
        Rate of dropout to put into a network that has none.
    at : str
        Where to inject it: 'decoder', 'head', or names separated by commas.
    passes : int, optional
        T; 20, or the number of members, or 1 without dropout.
    fit, color_order, mean, std : str, str, sequence of float, sequence of float
        How the network expects its image; see `InputSpec`.
    precision : str
        'fp32', 'fp16' or 'bf16' for trunk and head; 'int8' quantises the trunk.
    calibration_images : Path or str, optional
        Folder of images that the int8 scales are measured on.
    quantiser : str
        'onnxruntime' or 'nncf', for int8.
    skip_dropped : int
        Passes in one call of a head that does not compute dropped channels; 0 for all channels.
    sensor_std : float
        Noise of the camera for error propagation: standard deviation of a pixel value of 0..255.
    variance : str, optional
        For 'direct': name of the output that holds the log-variance of the logits, if it is not
        `log_variance` or the second half of an output of 2C channels.
    samples : int, optional
        For 'direct': S, the noise samples of a pass; 10.
    mask_draw : str
        'stratified': each channel is dropped in as many of the T passes as any other of its rate;
        'independent': each pass by itself. Masks of single elements, and balanced ones, are drawn
        pass by pass either way.
    full_weights : bool
        Store weights in 32 bits.
    features : str
        A tensor before the first dropout that is one more output, for distances from the training
        frames; 'auto' for the end of the encoder's stage of stride 16; 'none'.
    activation : str
        What the numbers of the output are: 'logits', 'softmax', 'sigmoid' or 'log_softmax';
        'auto' takes off a softmax or sigmoid at the very end, and refuses other probabilities.
    layout : str
        Where the output has its classes: 'nchw' or 'nhwc'; 'auto' for the only axis that fits.
    compare_passes : int
        Passes that a torch network draws itself, which as many with random masks are compared
        with; fewer where they would take longer than seconds; 0 for none.
    memory_mb : int, optional
        What the tensors of a frame may take on a CPU, with weights, trunk and sums; a bundle that
        takes more with one pass at a time is refused.
    licence, training, not_good_for : str
        Texts for the card.
    sign : Path or str, optional
        Private key to sign the bundle with, a PEM file.

    Returns
    -------
    CompileOutcome
        With the bundle, which is not calibrated yet.

    Raises
    ------
    UncertaintySegError
        If the network cannot be compiled, or options contradict each other. Nothing is written
        then.

    """
    from uncertainty_seg.compiler.request import compile_request, CompileRequest
    from uncertainty_seg.storage.labelled_folder import class_table, ClassTable, read_classes
    from uncertainty_seg.storage.model_bundle import sign_bundle
    from uncertainty_seg.storage.signatures import read_private_key

    if isinstance(classes, (str, Path)):
        classes = read_classes(Path(classes))
    elif not isinstance(classes, ClassTable):
        classes = class_table(classes)
    images = None if calibration_images is None else Path(calibration_images)
    key = None if sign is None else read_private_key(sign)  # before minutes of work
    made = compile_request(CompileRequest(
        net=net, out=Path(out), classes=classes,
        image=InputSpec(*size, fit, color_order, *(_three(v) for v in (mean, std))),
        weights=tuple(map(Path, weights)), members=tuple(members), output=output, method=method,
        inject_dropout=inject_dropout, at=at, passes=passes, precision=precision,
        calibration_images=images, quantiser=quantiser, skip_dropped=skip_dropped,
        sensor_std=sensor_std, variance=variance, samples=samples, mask_draw=mask_draw,
        full_weights=full_weights, features=features, activation=activation, layout=layout,
        compare_passes=compare_passes, memory_mb=memory_mb, licence=licence, training=training,
        not_good_for=not_good_for))
    if key is not None:
        sign_bundle(made.bundle.folder, key)
    return made


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument('net', help='net.onnx, or package.module:function that returns a module')
    parser.add_argument('--weights', type=Path, action='append', default=[],
                        help='state dict or safetensors for a torch factory; once a member')
    parser.add_argument('--input', dest='size', metavar='WIDTHxHEIGHT', type=image_size,
                        required=True, help='network size, 512x384')
    parser.add_argument('--classes', type=Path, required=True, help='classes.yaml or .json: '
                        '{"classes": [{"id", "name", "rgb"}], "ignore_index"}')
    parser.add_argument('-o', '--out', type=Path, required=True, help='folder of the bundle')
    parser.add_argument('--output', help='name of the output that holds the logits')
    parser.add_argument('--activation', choices=ACTIVATIONS, default='auto',
                        help='what the output is; probabilities that something follows are '
                        'declared, and their logarithm is taken [auto: what the last node says]')
    parser.add_argument('--layout', choices=LAYOUTS, default='auto',
                        help='where the output has its classes [auto: where only they fit]')
    parser.add_argument('--method', choices=METHODS, default='mc_dropout',
                        help='single: one pass, dropout off; ensemble: each --weights (or each '
                        'ONNX file) is a pass; direct: a network with a log-variance beside its '
                        'logits; error_propagation: mean and variance of the logits in one pass')
    parser.add_argument('--sensor-std', type=float, metavar='S', default=0.0,
                        help="error_propagation: the camera's noise in pixel values [0]")
    parser.add_argument('--variance', metavar='NAME',
                        help='direct: name of the output that holds the log-variance')
    parser.add_argument('--samples', type=whole_number(1, 1000),
                        help='direct: noise samples of a pass [10]')
    parser.add_argument('--member', dest='members', action='append', default=[],
                        metavar='NET.onnx', help='another ONNX file of an ensemble')
    parser.add_argument('--inject-dropout', type=rate, metavar='P',
                        help='put dropout of this rate into a network without')
    parser.add_argument('--at', default='head', metavar='decoder|head|NAME',
                        help='where to inject; module, node or tensor names by commas [head]')
    parser.add_argument('--passes', type=whole_number(1, 1000), help='T [20, or the members]')
    parser.add_argument('--mask-draw', choices=MASK_DRAWS, default='stratified',
                        help='stratified: each channel is dropped in the same number of passes; '
                        'independent: pass by pass [stratified]')
    parser.add_argument('--features', default='none', metavar='auto|NAME|none',
                        help='output of features, for scores of what was never shown [none]')
    parser.add_argument('--compare-passes', type=whole_number(0, 1000), metavar='T', default=256,
                        help='passes drawn by a torch network itself, to compare the masks with; '
                        '0 leaves that out [256]')
    parser.add_argument('--memory-mb', type=whole_number(1, 1 << 20), metavar='MB',
                        help='refuse a bundle of which a frame takes more than this on a CPU '
                        '[a warning where a pass takes more than memory_budget_mb]')
    parser.add_argument('--explain', action='store_true', help='print costs and decisions')
    image = parser.add_argument_group('the image that the network expects')
    image.add_argument('--fit', choices=FIT_RULES, default='letterbox')
    image.add_argument('--color-order', choices=COLOR_ORDERS, default='rgb')
    image.add_argument('--mean', type=float, nargs=3, default=IMAGENET_MEAN)
    image.add_argument('--std', type=float, nargs=3, default=IMAGENET_STD)
    speed = parser.add_argument_group('smaller or faster, and not the same: calibrate with it')
    speed.add_argument('--precision', choices=PRECISIONS, default='fp32',
                       help='of trunk and head; int8 quantises the trunk [fp32]')
    speed.add_argument('--calibration-images', type=Path, metavar='DIR',
                       help='images the int8 scales are measured on')
    speed.add_argument('--quantiser', choices=QUANTISERS, default='onnxruntime')
    speed.add_argument('--skip-dropped', type=whole_number(1, 1000), metavar='CHUNK', default=0,
                       nargs='?', const=1, help='do not compute dropped channels; balanced masks, '
                       'CHUNK passes a call [1 where given]')
    speed.add_argument('--full-weights', action='store_true', help='store 32-bit weights')
    parser.add_argument('--sign', type=Path, metavar='KEY',
                        help='sign the bundle with this private key, a PEM file')
    card = parser.add_argument_group('texts for the card')
    card.add_argument('--license', dest='licence', default='not stated', help='licence')
    card.add_argument('--training', default='not stated', help='training data')
    card.add_argument('--not-good-for', default='not stated', help='limits')


def run(args: argparse.Namespace) -> int:
    """Compile, and report what became of the dropout, and what memory the passes take."""
    from uncertainty_seg.compiler.plan import explain
    from uncertainty_seg.compiler.request import warn

    made = call_with(compile_network, args)
    memory = made.memory
    card, plan = made.bundle.card, made.compiled.plan
    checked = {k: v for k, v in asdict(made.report).items() if k not in ('spread', 'moved')}
    if args.explain:
        print(explain(plan))
    print(memory.text())
    if args.memory_mb is not None:
        print(f'it stays below {args.memory_mb} MB with memory_budget_mb: {memory.budget_mb}')
    elif memory.exceeds:
        at_once = f'{memory.chunk} passes at once take' if memory.chunk > 1 else 'a pass takes'
        warn(f'{at_once} {memory.facts()["chunk_mb"]:g} MB, expected at most {memory.budget_mb}, '
             'the default of memory_budget_mb: fewer cannot run at once, so see that the machine '
             'has this much, or compile for a smaller --input')
    print_json({
        'bundle': str(args.out), 'method': card.method, 'passes': card.passes,
        'mask_draw': card.mask_draw,
        'precision': card.precision, 'logits_shape': card.logits_shape,
        'sites': [{'name': s.name, 'shape': s.shape, 'p': s.p, 'kind': s.kind}
                  for s in card.dropout_sites],
        'injected': [name for p in made.compiled.prepared for name in p.injected],
        'features': card.feature_shape, 'folded': list(made.compiled.folded),
        'trunk_share': round(plan.trunk_share, 4),
        'gflops': {name: round(2 * cost.macs / 1e9, 4) for name, cost in (
            ('network', plan.network), ('trunk', plan.trunk), ('head', plan.head))},
        'memory': memory.facts(), **checked, 'distribution': asdict(made.distribution),
        'weights': _weights_told(made),
    })
    return 0


def _weights_told(made: CompileOutcome) -> dict[str, object]:
    """Say how large the files are, what stays in 32 bits, and what the rounding changed."""
    folder, stored = made.bundle.folder, made.stored
    size = sum(path.stat().st_size for path in folder.glob('*.onnx'))
    return {
        'megabytes': round(size / 1e6, 3), 'float32': some_of(stored.full),
        'logit_error': float(f'{stored.logit_error:.3g}'),
        'label_error': float(f'{stored.label_error:.3g}'),
    }
