# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What `compile` is asked for, and the way from there to a bundle on disk.

Nothing is written before the result was run against the network.

"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
import logging
import math
import sys
from typing import Any, TYPE_CHECKING

from uncertainty_seg.core.bundle import TRUNK_FILE
from uncertainty_seg.core.dropout_masks import kept_channels
from uncertainty_seg.core.model_card import DropoutSite, InputSpec, ModelCard, SCHEMA_VERSION
from uncertainty_seg.errors import ConfigError, GraphError
from uncertainty_seg.graph.compile import compile_ensemble, compile_graph, CompiledGraphs
from uncertainty_seg.graph.onnx_tools import OPSET
from uncertainty_seg.graph.plan import CompileOptions
from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.model_bundle import write_bundle
from uncertainty_seg.tools.compile.checks import check_compiled, CheckReport

if TYPE_CHECKING:
    from uncertainty_seg.tools.compile.checks import ExactNetwork, MaskedNetwork

# -------------------------------------------------------------------------------------------------
# Load the networks that `compile` is asked for: ONNX files, or what a torch factory builds.

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedNetworks:
    """
    Networks before they are compiled.

    Attributes
    ----------
    models : list of ModelProto
        One, or the members of an ensemble.
    masked : callable or None
        The first as torch runs it with masks; None for an ONNX file.
    exact : callable or None
        The same in float64.

    """

    models: list[Any]
    masked: MaskedNetwork | None = None
    exact: ExactNetwork | None = None


def load_networks(request: CompileRequest) -> LoadedNetworks:
    """
    Load every network of a request, with its weights and injected dropout.

    Parameters
    ----------
    request : Request
        Names files, or a factory and its weights.

    Returns
    -------
    LoadedNetworks
        As graphs with visible dropout.

    Raises
    ------
    ConfigError
        If torch or the factory cannot be imported, or the factory fails.
    GraphError
        If a file is no ONNX network, or torch cannot export one, or weights are no numbers.
    TrainingError
        If weights do not fit.

    """
    return _onnx(request) if request.is_onnx else _torch(request)


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


def _onnx(request: CompileRequest) -> LoadedNetworks:
    from uncertainty_seg.graph.onnx_tools import load_model

    paths = [request.args.net, *request.args.member]
    return LoadedNetworks([load_model(path) for path in paths])


def _torch(request: CompileRequest) -> LoadedNetworks:
    args = request.args
    build = factory(args.net)
    try:
        from uncertainty_seg.training.export import export_marked, load_weights
        from uncertainty_seg.training.inject import inject_dropout
        from uncertainty_seg.training.masked_reference import exact_logits, masked_network
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

    return LoadedNetworks(models, masked_network(nets[0], height, width, *wanted), exact)


def _require_numbers(net: Any, source: object) -> None:
    """Refuse parameters that are NaN or infinite; a buffer may hold infinity, as masks do."""
    for name, values in net.named_parameters():
        if not bool(values.isfinite().all()):
            raise GraphError(f'the weight {name!r} of {source} holds NaN or infinity', 'numbers',
                             'take a checkpoint from before the training diverged')


# -------------------------------------------------------------------------------------------------
# What `compile` warns of: a bundle that works, and may not be what was meant.

INJECTED = ('the network was not trained with the dropout that was put in: its passes differ, '
            'but by how much was never fitted to anything: calibrate it, and compare ranks only')
NOTHING_SKIPPED = ('no dropout of this network is worth skipping channels for (--explain says '
                   'why): the bundle has independent masks and takes any number of passes')
_MOST_EQUAL = 0.01  # chance that all passes come out the same, which needs no warning
_MOST_PASSES = 1000  # as the command line takes them


def warn(text: str) -> None:
    """Write a warning to stderr."""
    print(f'WARNING: {text}.', file=sys.stderr)


def warn_of_rare_dropout(card: ModelCard) -> None:
    """
    Warn where so little is dropped that all passes of a frame may come out the same.

    Such passes show no uncertainty, whatever the image, and `Pipeline.check_masks` is there to
    refuse them. The usual case is a network whose only dropout is one rarely dropped path.

    Parameters
    ----------
    card : ModelCard
        Of the bundle; T, sites, and how masks are drawn.

    """
    chance = chance_of_equal_passes(card.dropout_sites, card.passes, card.is_balanced)
    if card.members or card.passes < 2 or chance <= _MOST_EQUAL:
        return
    enough = _enough_passes(card)
    fix = f'--passes {enough} makes it less than {_MOST_EQUAL:.0%}' if enough else \
        'train it with a higher rate, or --inject-dropout'
    values = sum(math.prod(site.shape) for site in card.dropout_sites)
    rate = max(site.p for site in card.dropout_sites)
    warn(f'all {card.passes} passes come out the same with a chance of {chance:.0%}, so rarely is '
         f'anything dropped (mask values: {values}, highest rate: {rate:.3g}), and such passes '
         f'show no uncertainty: {fix}')


def chance_of_equal_passes(
    sites: Iterable[DropoutSite], passes: int, is_balanced: bool
) -> float:
    """
    Return how likely it is that T passes draw the same masks.

    Parameters
    ----------
    sites : iterable of DropoutSite
        Drawn independently of each other.
    passes : int
        T, at least 1.
    is_balanced : bool
        Whether sites of whole channels keep a fixed number of them, as `make_masks` draws.

    Returns
    -------
    float
        In 0..1. With independent masks the product of (p^T + (1 - p)^T) over all values; a
        balanced site of C channels that keeps K has (C choose K)^(1 - T).

    """
    log_chance = 0.0
    for site in sites:
        channels, kept = site.shape[0], kept_channels(site)
        if is_balanced and kept < channels:
            log_chance += (1 - passes) * math.log(math.comb(channels, kept))
        else:
            one = site.p ** passes + (1 - site.p) ** passes
            # Of hundreds of passes at a rate of a half nothing is left in float64.
            log_chance += math.prod(site.shape) * (math.log(one) if one > 0 else -math.inf)
    return math.exp(log_chance)


def _enough_passes(card: ModelCard) -> int:
    """Return the least T whose passes rarely come out the same; 0 if there is none."""
    return next((passes for passes in range(card.passes + 1, _MOST_PASSES + 1)
                 if chance_of_equal_passes(card.dropout_sites, passes, card.is_balanced)
                 <= _MOST_EQUAL), 0)


# -------------------------------------------------------------------------------------------------

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
        from uncertainty_seg.tools.compile.quantise_trunk import quantise_trunk

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
