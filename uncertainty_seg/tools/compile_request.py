# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What `compile` is asked for, and the way from there to a bundle on disk.

Nothing is written before the result was run against the network.

"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
import logging
import sys
from typing import Any

from uncertainty_seg.core.bundle import TRUNK_FILE
from uncertainty_seg.core.model_card import InputSpec, ModelCard, SCHEMA_VERSION
from uncertainty_seg.errors import ConfigError, GraphError
from uncertainty_seg.graph.compile import compile_ensemble, compile_graph, CompiledGraphs
from uncertainty_seg.graph.onnx_tools import load_model, OPSET
from uncertainty_seg.graph.options import CompileOptions
from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.model_bundle import write_bundle
from uncertainty_seg.tools.compile_checks import (
    check_compiled,
    CheckReport,
    ExactNetwork,
    MaskedNetwork,
)

_log = logging.getLogger(__name__)
DEFAULT_PASSES = 20
_Loaded = tuple[list[Any], 'MaskedNetwork | None', 'ExactNetwork | None']
INJECTED = ('the network was not trained with the dropout that was put in: its passes differ, '
            'but by how much was never fitted to anything: calibrate it, and compare ranks only')

NOTHING_SKIPPED = ('no dropout of this network is worth skipping channels for (--explain says '
                   'why): the bundle has independent masks and takes any number of passes')


@dataclass(frozen=True)
class Request:
    """
    A checked command line.

    Attributes
    ----------
    args : Namespace
        As parsed by `compile_net`.
    spec : InputSpec
        The image.
    classes : ClassTable
        Names and colours.
    options : CompileOptions
        For the graph.

    """

    args: argparse.Namespace
    spec: InputSpec
    classes: ClassTable
    options: CompileOptions

    @classmethod
    def of(cls, args: argparse.Namespace, classes: ClassTable) -> Request:
        """
        Check arguments against each other.

        Raises
        ------
        ConfigError
            With the two that do not go together.

        """
        _refuse_contradictions(args)
        width, height = args.input
        spec = InputSpec(width, height, args.fit, args.color_order, tuple(args.mean),
                         tuple(args.std))
        is_onnx = args.net.endswith('.onnx')
        inject = (args.inject_dropout, args.at) if args.inject_dropout and is_onnx else None
        options = CompileOptions(
            passes=args.passes or DEFAULT_PASSES, num_classes=len(classes.names),
            output=args.output, inject=inject, precision=args.precision,
            is_half=not args.full_weights, chunk=args.skip_dropped,
        )
        return cls(args, spec, classes, options)


def compile_request(request: Request) -> tuple[CompiledGraphs, ModelCard, CheckReport]:
    """
    Compile, check and write a bundle.

    Parameters
    ----------
    request : Request
        What to compile.

    Returns
    -------
    compiled : CompiledGraphs
        With the plan.
    card : ModelCard
        As written.
    report : CheckReport
        How near the result is to the network.

    Raises
    ------
    UncertaintySegError
        If anything does not fit; no bundle is written then.

    """
    args = request.args
    if args.inject_dropout:
        print(f'WARNING: {INJECTED}.', file=sys.stderr)
    models, network, exact = (_onnx(request) if args.net.endswith('.onnx') else _torch(request))
    if args.method == 'ensemble':
        compiled = compile_ensemble(models, request.spec, request.options)
    else:
        compiled = compile_graph(models[0], request.spec, request.options)
    card = _card(request, compiled)
    report = check_compiled(compiled, card, network, exact)
    files = dict(compiled.files)
    if args.precision == 'int8':
        from uncertainty_seg.tools.quantise_trunk import quantise_trunk

        files[TRUNK_FILE] = quantise_trunk(
            compiled.trunk, request.spec, args.calibration_images, args.quantiser)
    return compiled, write_bundle(args.out, card, files), report


def _onnx(request: Request) -> _Loaded:
    paths = [request.args.net, *request.args.member]
    return [load_model(path) for path in paths], None, None


def _torch(request: Request) -> _Loaded:
    args = request.args
    build = factory(args.net)
    try:
        from uncertainty_seg.training.exact_reference import exact_logits
        from uncertainty_seg.training.export import export_marked, load_weights
        from uncertainty_seg.training.inject import inject_dropout
        from uncertainty_seg.training.masked_reference import masked_network
    except ImportError as err:
        raise ConfigError(f'torch cannot be imported ({err})', 'it, to run a torch factory',
                          'pip install torch, or compile an ONNX file') from err
    models, nets = [], []
    for path in args.weights or [None]:
        net = build()
        if path is not None:
            load_weights(net, path)
        _require_numbers(net, path or args.net)
        if args.inject_dropout:
            net, names = inject_dropout(net, args.inject_dropout, args.at)
            _log.info('dropout %g put in at %s', args.inject_dropout, ', '.join(names))
        nets.append(net)
        models.append(export_marked(net, request.spec))

    width, height = args.input
    wanted = args.output, len(request.classes.names)

    def exact(image: Any, masks: Any) -> Any:
        return exact_logits(nets[0], image, masks, *wanted)

    return models, masked_network(nets[0], height, width, *wanted), exact


def _require_numbers(net: Any, source: object) -> None:
    """Refuse parameters that are NaN or infinite; a buffer may hold infinity, as masks do."""
    for name, values in net.named_parameters():
        if not bool(values.isfinite().all()):
            raise GraphError(f'the weight {name!r} of {source} holds NaN or infinity', 'numbers',
                             'take a checkpoint from before the training diverged')


def factory(name: str) -> Callable[[], Any]:
    """
    Import a function that builds a torch network.

    Parameters
    ----------
    name : str
        package.module:function.

    Returns
    -------
    callable
        Without arguments.

    Raises
    ------
    ConfigError
        If it cannot be imported or called, or returns no module.

    """
    module_name, _, function = name.partition(':')
    try:
        found = getattr(import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as err:
        raise ConfigError(f'{name!r} cannot be imported ({err})', 'net.onnx or '
                          'package.module:function', 'set PYTHONPATH to where the package lies'
                          ) from err

    def build() -> Any:
        try:
            net = found()
        except Exception as err:  # whatever the user's own code raises
            raise ConfigError(f'{name}() failed ({type(err).__name__}: {err})',
                              'a function without arguments that returns a network') from err
        if not callable(getattr(net, 'state_dict', None)):
            raise ConfigError(f'{name}() returned a {type(net).__name__}', 'a torch module')
        return net

    return build


def _card(request: Request, compiled: CompiledGraphs) -> ModelCard:
    args, classes = request.args, request.classes
    if compiled.logits_shape[0] != len(classes.names):
        raise GraphError(f'the network has {compiled.logits_shape[0]} classes',
                         f'{len(classes.names)}, as {args.classes} says')
    if args.skip_dropped and not compiled.chunk:
        print(f'WARNING: {NOTHING_SKIPPED}.', file=sys.stderr)
    members = len(compiled.prepared) if args.method == 'ensemble' else 0
    return ModelCard(
        schema=SCHEMA_VERSION, name=args.out.resolve().name,
        method='deep_ensemble' if members else 'mc_dropout', class_names=classes.names,
        palette=classes.palette, ignore_index=classes.ignore_index, input=request.spec,
        dropout_sites=compiled.sites, passes=members or request.options.passes, opset=OPSET,
        logits_shape=compiled.logits_shape, training=args.training, license=args.license,
        not_good_for=args.not_good_for, metrics={}, sha256={}, precision=args.precision,
        reduction=args.reduction, chunk=compiled.chunk, is_balanced=compiled.chunk > 0,
        members=members, upsampling=compiled.upsampling,
    )


def _refuse_contradictions(args: argparse.Namespace) -> None:
    is_onnx = args.net.endswith('.onnx')
    is_ensemble = args.method == 'ensemble'
    members = 1 + len(args.member) if is_onnx else len(args.weights)
    for is_wrong, came, expected in (
        (min(args.std) <= 0, f'--std {args.std}', 'numbers above 0'),
        (is_onnx and bool(args.weights), '--weights with an ONNX file, which has its own',
         'a torch factory'),
        (not is_onnx and bool(args.member), '--member with a torch factory', '--weights a member'),
        (is_ensemble and members < 2, f'an ensemble of {members}',
         '--weights (or --member for ONNX files) for at least two networks'),
        (not is_ensemble and members > 1, f'{members} networks', '--method ensemble'),
        (is_ensemble and bool(args.inject_dropout), '--inject-dropout in an ensemble', 'one'),
        (is_ensemble and args.skip_dropped > 0, '--skip-dropped in an ensemble', 'dropout'),
        (is_ensemble and args.passes not in (None, members), f'--passes {args.passes}',
         f'{members}, one a member'),
        (args.precision == 'int8' and args.calibration_images is None, '--precision int8',
         '--calibration-images DIR with images of the sea it will work in'),
        (args.precision != 'int8' and args.calibration_images is not None,
         '--calibration-images', '--precision int8 with it'),
        (not is_onnx and ':' not in args.net, repr(args.net),
         'net.onnx or package.module:function'),
    ):
        if is_wrong:
            raise ConfigError(came, expected)
