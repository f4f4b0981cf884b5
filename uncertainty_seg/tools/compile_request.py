# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What `compile` is asked for, and the way from there to a bundle on disk.

Nothing is written before the result was run against the network.

"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from uncertainty_seg.core.bundle import TRUNK_FILE
from uncertainty_seg.core.model_card import InputSpec, ModelCard, SCHEMA_VERSION
from uncertainty_seg.errors import ConfigError, GraphError
from uncertainty_seg.graph.compile import compile_ensemble, compile_graph, CompiledGraphs
from uncertainty_seg.graph.onnx_tools import OPSET
from uncertainty_seg.graph.options import CompileOptions
from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.model_bundle import write_bundle
from uncertainty_seg.tools.compile_checks import check_compiled, CheckReport
from uncertainty_seg.tools.compile_networks import load_networks
from uncertainty_seg.tools.compile_warnings import (
    INJECTED,
    NOTHING_SKIPPED,
    warn,
    warn_of_rare_dropout,
)

DEFAULT_PASSES = 20


@dataclass(frozen=True)
class CompileRequest:
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

    @property
    def is_onnx(self) -> bool:
        """Whether the network is a file, and no factory."""
        return str(self.args.net).endswith('.onnx')

    @classmethod
    def of(cls, args: argparse.Namespace, classes: ClassTable) -> CompileRequest:
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


def compile_request(request: CompileRequest) -> tuple[CompiledGraphs, ModelCard, CheckReport]:
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
        warn(INJECTED)
    loaded = load_networks(request)
    if args.method == 'ensemble':
        compiled = compile_ensemble(loaded.models, request.spec, request.options)
    else:
        compiled = compile_graph(loaded.models[0], request.spec, request.options)
    card = _card(request, compiled)
    report = check_compiled(compiled, card, loaded.masked, loaded.exact)
    warn_of_rare_dropout(card)
    files = dict(compiled.files)
    if args.precision == 'int8':
        from uncertainty_seg.tools.quantise_trunk import quantise_trunk

        files[TRUNK_FILE] = quantise_trunk(
            compiled.trunk, request.spec, args.calibration_images, args.quantiser)
    return compiled, write_bundle(args.out, card, files), report


def _card(request: CompileRequest, compiled: CompiledGraphs) -> ModelCard:
    args, classes = request.args, request.classes
    if compiled.logits_shape[0] != len(classes.names):
        raise GraphError(f'the network has {compiled.logits_shape[0]} classes',
                         f'{len(classes.names)}, as {args.classes} says')
    if args.skip_dropped and not compiled.chunk:
        warn(NOTHING_SKIPPED)
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
