# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
From a network to a bundle on disk: check the request, load, compile, compare, write.

Nothing is written before the compiled graphs have been compared with the network.

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
import logging
import math
import os
from pathlib import Path
import re
import sys
from typing import Any, TYPE_CHECKING

from uncertainty_seg.backends.runner import memory_of_files, MemoryEstimate
from uncertainty_seg.compiler.algebra.feature_output import AUTO
from uncertainty_seg.compiler.checks.distribution_check import (
    check_distribution,
    COMPARED,
    DistributionReport,
    FEWEST_COMPARED,
)
from uncertainty_seg.compiler.checks.moment_checks import check_moments, GOOD_RANK, MomentReport
from uncertainty_seg.compiler.checks.output_checks import (
    require_logits,
    StorageReport,
    store_weights,
)
from uncertainty_seg.compiler.checks.pass_checks import check_compiled, CheckReport
from uncertainty_seg.compiler.compile import (
    compile_ensemble,
    compile_graph,
    compile_moments,
    CompiledGraphs,
)
from uncertainty_seg.compiler.frontend.outputs import in_planes, OutputForm, VARIANCE
from uncertainty_seg.compiler.onnx_tools import load_model, OPSET
from uncertainty_seg.compiler.plan import ACTIVATIONS, CompileOptions, DEFAULT_SAMPLES, LAYOUTS
from uncertainty_seg.core.bundle import ModelBundle, TRUNK_FILE
from uncertainty_seg.core.dropout_masks import drops_channels, fitting_draw, kept_channels
from uncertainty_seg.core.model_card import (
    COLOR_ORDERS,
    DropoutSite,
    FIT_RULES,
    InputSpec,
    MASK_DRAWS,
    ModelCard,
    PRECISIONS,
    SCHEMA_VERSION,
)
from uncertainty_seg.errors import ConfigError, GraphError, install_command, some_of
from uncertainty_seg.storage.labelled_folder import ClassTable
from uncertainty_seg.storage.model_bundle import require_place, write_bundle

if TYPE_CHECKING:
    from uncertainty_seg.compiler.checks.distribution_check import OwnNetwork
    from uncertainty_seg.compiler.checks.pass_checks import ExactNetwork, MaskedNetwork, Untouched

METHODS = ('single', 'mc_dropout', 'ensemble', 'direct', 'error_propagation')
DEFAULT_PASSES = 20
INJECTED = ('the network was not trained with the dropout that was injected: its passes differ, '
            'but by how much was never fitted to anything: calibrate it, and compare ranks only')
NOTHING_SKIPPED = ('no dropout of this network is worth skipping channels for (--explain says '
                   'why): the bundle has independent masks and takes any number of passes')
NO_FEATURES = ('--features auto: no tensor before the first dropout has a sixteenth of the width '
               'and height of the image, so that the bundle gives no features: name a tensor (a '
               'name that there is not lists some), or leave the option out')
_MOST_EQUAL = 0.01  # chance that all passes are equal, which needs no warning
_MOST_PASSES = 1000  # as the command line takes them
_NAMED = 5
_MOST_SAID = 200  # letters
_LEAST_SIDE, _MOST_SIDE = 8, 8192  # pixels
_FACTORY = re.compile(r'[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*')
_FACTORY_FORM = 'net.onnx or package.module:function'
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompileRequest:
    """
    What to compile, and how. `tools.compile_net.compile_network` describes the fields.

    Raises ConfigError if two fields contradict each other; the message names the options of the
    command line.
    """

    net: Any
    out: Path
    image: InputSpec
    classes: ClassTable
    weights: tuple[Path, ...] = ()
    members: tuple[Any, ...] = ()
    output: str | None = None
    method: str = 'mc_dropout'
    inject_dropout: float | None = None
    at: str = 'head'
    passes: int | None = None
    precision: str = 'fp32'
    calibration_images: Path | None = None
    quantiser: str = 'onnxruntime'
    skip_dropped: int = 0
    sensor_std: float = 0.0
    variance: str | None = None
    samples: int | None = None
    mask_draw: str = 'stratified'
    full_weights: bool = False
    features: str = 'none'
    activation: str = 'auto'
    layout: str = 'auto'
    compare_passes: int = COMPARED
    memory_mb: int | None = None
    licence: str = 'not stated'
    training: str = 'not stated'
    not_good_for: str = 'not stated'

    @property
    def is_onnx(self) -> bool:
        """Whether the network is an ONNX file."""
        return isinstance(self.net, (str, Path)) and str(self.net).endswith('.onnx')

    @property
    def is_factory(self) -> bool:
        """Whether the network is package.module:function."""
        return isinstance(self.net, (str, Path)) and not self.is_onnx

    @property
    def variance_output(self) -> str | None:
        """Name of the output of log-variances, if the network has them apart."""
        return (self.variance or VARIANCE) if self.method == 'direct' else None

    @property
    def options(self) -> CompileOptions:
        """Return what the graph compiler is asked for."""
        inject = (self.inject_dropout, self.at) if self.inject_dropout and self.is_onnx else None
        return CompileOptions(
            passes=1 if self.method == 'single' else self.passes or DEFAULT_PASSES,
            num_classes=len(self.classes.names),
            output=self.output, inject=inject, precision=self.precision,
            is_half=not self.full_weights, chunk=self.skip_dropped,
            sensor_std=self.sensor_std,
            method='mc_dropout' if self.method == 'ensemble' else self.method,
            variance=self.variance, samples=self.samples or DEFAULT_SAMPLES,
            features=self.features, activation=self.activation, layout=self.layout,
        )

    def __post_init__(self) -> None:
        for name, value, known in (
            ('method', self.method, METHODS), ('fit', self.image.fit, FIT_RULES),
            ('color_order', self.image.color_order, COLOR_ORDERS),
            ('precision', self.precision, PRECISIONS), ('mask_draw', self.mask_draw, MASK_DRAWS),
            ('activation', self.activation, ACTIVATIONS), ('layout', self.layout, LAYOUTS),
        ):
            if value not in known:
                raise ConfigError(f'{name} is {value!r}', f'one of {", ".join(known)}')
        is_ensemble, is_single = self.method == 'ensemble', self.method == 'single'
        is_propagated = self.method == 'error_propagation'
        members = len(self.weights) if self.is_factory else 1 + len(self.members)
        sides = self.image.width, self.image.height
        for is_wrong, came, expected in (
            (not all(_LEAST_SIDE <= side <= _MOST_SIDE for side in sides),
             f'--input {sides[0]}x{sides[1]}', f'{_LEAST_SIDE} to {_MOST_SIDE} pixels a side'),
            (not all(map(math.isfinite, (*self.image.mean, *self.image.std))),
             f'--mean {list(self.image.mean)} --std {list(self.image.std)}', 'numbers'),
            (max(self.image.mean) > 1, f'--mean {list(self.image.mean)}', 'the mean of values '
             'scaled to 0..1, such as 0.485 0.456 0.406: divide mean and deviation by 255'),
            (min(self.image.std) <= 0, f'--std {list(self.image.std)}', 'numbers above 0'),
            (self.is_onnx and bool(self.weights),
             '--weights with an ONNX file, which has its own', 'a torch factory'),
            (not (self.is_onnx or self.is_factory) and bool(self.weights),
             'weights with a module, which has its own', 'a torch factory'),
            (self.is_factory and bool(self.members), '--member with a torch factory',
             '--weights a member'),
            (is_ensemble and members < 2, f'an ensemble of {members}',
             '--weights (or --member for ONNX files) for at least two networks'),
            (not is_ensemble and members > 1, f'{members} networks', '--method ensemble'),
            (is_single and bool(self.inject_dropout), '--inject-dropout with --method single',
             'one: a single pass has no dropout'),
            (is_single and self.skip_dropped > 0, '--skip-dropped with --method single',
             'one: a single pass has no dropout'),
            (is_single and self.passes not in (None, 1), f'--passes {self.passes}',
             '1 for a single pass'),
            (self.method != 'direct' and bool(self.variance or self.samples),
             '--variance or --samples', '--method direct with it'),
            (self.variance is not None and self.variance == self.output,
             f'--output and --variance are both {self.output}',
             'the output of the logits and that of their log-variances'),
            (is_ensemble and bool(self.inject_dropout), '--inject-dropout in an ensemble', 'one'),
            (is_ensemble and self.skip_dropped > 0, '--skip-dropped in an ensemble', 'dropout'),
            (is_ensemble and self.passes not in (None, members), f'--passes {self.passes}',
             f'{members}, one a member'),
            (is_propagated and self.skip_dropped > 0, '--skip-dropped with error_propagation',
             '--method mc_dropout with it'),
            (is_propagated and self.precision != 'fp32',
             f'--precision {self.precision} with error_propagation',
             'fp32: variances are too small for fewer bits'),
            (not 0 <= self.sensor_std <= 255, f'--sensor-std {self.sensor_std:g}',
             'a number of 0 to 255 pixel values'),
            (self.sensor_std > 0 and not is_propagated, f'--sensor-std with {self.method}',
             '--method error_propagation with it'),
            (self.precision == 'int8' and self.calibration_images is None, '--precision int8',
             '--calibration-images DIR with images of the sea it will work in'),
            (0 < self.compare_passes < FEWEST_COMPARED, f'--compare-passes {self.compare_passes}',
             f'{FEWEST_COMPARED} or more, or 0 to leave the comparison out'),
            (self.memory_mb is not None and self.memory_mb < 1, f'--memory-mb {self.memory_mb}',
             '1 MB or more'),
            (self.precision != 'int8' and self.calibration_images is not None,
             '--calibration-images', '--precision int8 with it'),
            # A module is not printed: some cannot be.
            (self.is_factory and not _FACTORY.fullmatch(str(self.net)),
             repr(str(self.net)) if self.is_factory else '',
             _as_factory(str(self.net)) if self.is_factory else ''),
        ):
            if is_wrong:
                raise ConfigError(came, expected)


def _as_factory(net: str) -> str:
    """Say what a network is given as, and what this one may be meant to be."""
    file, _, function = net.partition(':')
    path = Path(file)
    if path.suffix in ('.pt', '.pth', '.ckpt', '.safetensors', '.bin'):
        return f'{_FACTORY_FORM}: weights alone are no network, give them with --weights'
    if path.suffix == '.py' or len(path.parts) > 1:
        return (f'{_FACTORY_FORM}: in the folder of the file, '
                f'{path.name.removesuffix(".py")}:{function or "FUNCTION"}')
    return _FACTORY_FORM


@dataclass(frozen=True)
class CompileOutcome:
    """
    A bundle that was compiled and written.

    Attributes
    ----------
    bundle : ModelBundle
        As written, not calibrated.
    compiled : CompiledGraphs
        Its graphs, and the plan: costs and decisions.
    report : CheckReport or MomentReport
        How near the compiled graphs are to the network.
    stored : StorageReport
        How the weights are stored, and what their rounding changes.
    distribution : DistributionReport
        How near passes with random masks are to those that the network draws itself.
    memory : MemoryEstimate
        What a frame takes on a CPU.

    """

    bundle: ModelBundle
    compiled: CompiledGraphs
    report: CheckReport | MomentReport
    stored: StorageReport
    distribution: DistributionReport
    memory: MemoryEstimate


def compile_request(request: CompileRequest) -> CompileOutcome:
    """
    Compile, check and write a bundle.

    Raises UncertaintySegError if anything does not fit; no bundle is written then.
    """
    require_place(request.out)
    if request.inject_dropout:
        warn(INJECTED)
    loaded = load_networks(request)
    if request.method == 'ensemble':
        compiled = compile_ensemble(loaded.models, request.image, request.options)
    elif request.method == 'error_propagation':
        compiled = compile_moments(loaded.models[0], request.image, request.options)
    else:
        compiled = compile_graph(loaded.models[0], request.image, request.options)
    card = _card(request, compiled)
    for prepared in compiled.prepared if request.method != 'direct' else ():
        require_logits(prepared.float_model, request.image, request.activation)
    report = _checked(request, compiled, card, loaded)
    distribution = _compared(request, compiled, card, loaded, report)
    compiled, stored = store_weights(compiled, card, request.options)
    files = dict(compiled.files)
    if request.calibration_images is not None:
        from uncertainty_seg.compiler.quantise_trunk import quantise_trunk

        files[TRUNK_FILE] = quantise_trunk(
            compiled.trunk, request.image, request.calibration_images, request.quantiser)
    memory = memory_of_files(card, files, request.memory_mb)
    card = write_bundle(request.out, card, files)
    return CompileOutcome(ModelBundle(request.out, card, None), compiled, report, stored,
                          distribution, memory)


def _checked(
    request: CompileRequest, compiled: CompiledGraphs, card: ModelCard, loaded: LoadedNetworks
) -> CheckReport | MomentReport:
    if request.method == 'error_propagation':
        found = check_moments(compiled, card, request.sensor_std)
        if found.rank < GOOD_RANK:
            warn(f'on a random image the propagated variance and that of samples have a rank '
                 f'correlation of {found.rank:.2f}, below {GOOD_RANK}: compare its maps with '
                 'those of --method mc_dropout')
        return found
    report = check_compiled(compiled, card, loaded.masked, loaded.exact, loaded.untouched)
    warn_of_rare_dropout(card)
    return report


def _compared(
    request: CompileRequest, compiled: CompiledGraphs, card: ModelCard, loaded: LoadedNetworks,
    report: CheckReport | MomentReport,
) -> DistributionReport:
    """Compare distributions, or say why not."""
    for is_so, why in (
        (request.compare_passes == 0, '--compare-passes 0'),
        (request.method != 'mc_dropout' or not card.mask_sites, f'--method {request.method}'),
        (card.is_balanced, 'balanced masks are another distribution'),
        (loaded.own is None, 'an ONNX file does not draw its dropout'),
    ):
        if is_so:
            return DistributionReport(left_out=why)
    own, untouched = loaded.own, loaded.untouched
    assert own is not None and untouched is not None and isinstance(report, CheckReport)
    return check_distribution(compiled, card, own, untouched, report, request.compare_passes)


def _card(request: CompileRequest, compiled: CompiledGraphs) -> ModelCard:
    classes = request.classes
    if compiled.logits_shape[0] != len(classes.names):
        raise GraphError(f'the network has {compiled.logits_shape[0]} classes',
                         f'{len(classes.names)}, as {classes.source} says')
    if request.skip_dropped and not compiled.chunk:
        warn(NOTHING_SKIPPED)
    if request.features == AUTO and compiled.feature_shape is None:
        warn(NO_FEATURES)
    members = len(compiled.prepared) if request.method == 'ensemble' else 0
    has_masks = any(site.kind == 'mask' for site in compiled.sites)
    has_many = has_masks or request.method == 'error_propagation'
    if request.passes not in (None, 1) and not has_many:
        raise ConfigError(f'--passes {request.passes} of a network without dropout', '1',
                          'train it with dropout, or put some in with --inject-dropout')
    return ModelCard(
        schema=SCHEMA_VERSION, name=request.out.resolve().name,
        method='deep_ensemble' if members else request.method, class_names=classes.names,
        palette=classes.palette, ignore_index=classes.ignore_index, input=request.image,
        dropout_sites=compiled.sites,
        passes=members or (request.options.passes if has_many else 1), opset=OPSET,
        logits_shape=compiled.logits_shape, training=request.training, license=request.licence,
        not_good_for=request.not_good_for, metrics={}, sha256={}, precision=request.precision,
        chunk=compiled.chunk, is_balanced=compiled.chunk > 0, members=members,
        upsampling=compiled.upsampling, feature_shape=compiled.feature_shape,
        mask_draw=fitting_draw(request.mask_draw, compiled.sites, compiled.chunk > 0),
    )


# -------------------------------------------------------------------------------------------------
# Load the networks.


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
    untouched : UntouchedNet or None
        The first as the user gave it, in eval mode; None for an ONNX file.
    own : OwnPasses or None
        The first with the dropout that it draws itself; None for an ONNX file.

    """

    models: list[Any]
    masked: MaskedNetwork | None = None
    exact: ExactNetwork | None = None
    untouched: Untouched | None = None
    own: OwnNetwork | None = None


def load_networks(request: CompileRequest) -> LoadedNetworks:
    """
    Load every network of a request, with its weights and injected dropout, as graphs.

    Raises ConfigError if torch or the factory cannot be imported, or the factory fails; GraphError
    if a file is no ONNX network, or torch cannot export one, or weights are no numbers;
    TrainingError if weights do not fit.
    """
    if request.is_onnx:
        return LoadedNetworks([load_model(str(path)) for path in (request.net, *request.members)])
    return _torch(request)


def _torch(request: CompileRequest) -> LoadedNetworks:
    nets_of = _by_factory if request.is_factory else _as_given
    unchecked = nets_of(request)
    try:
        from uncertainty_seg.compiler.capture.export import export_net
        from uncertainty_seg.compiler.capture.inject import inject_dropout
        from uncertainty_seg.compiler.capture.marking import find_dropout, initialise_lazy
        from uncertainty_seg.compiler.capture.masked_reference import (
            OwnPasses,
            run_exact,
            run_masked,
            UntouchedNet,
        )
    except ImportError as err:
        raise ConfigError(f'torch cannot be imported ({err})', 'it, to run a torch network',
                          f'{install_command("torch")}, or compile an ONNX file') from err
    size = request.image.height, request.image.width
    num_classes = len(request.classes.names)
    wanted = request.output, num_classes, request.variance_output
    models, found, untouched, own = [], [], None, None
    for net, source in unchecked:
        initialise_lazy(net, *size)
        _require_numbers(net, source)
        untouched = untouched or UntouchedNet(net, *wanted)
        if request.inject_dropout:
            net, names = inject_dropout(net, request.inject_dropout, request.at)
            _log.info('dropout %g injected at %s', request.inject_dropout, ', '.join(names))
        found.append(find_dropout(net, *size))
        models.append(export_net(found[-1], *size))
        if own is None and request.method == 'mc_dropout' and request.compare_passes:
            own = OwnPasses(net, found[-1], request.output, num_classes)
    warn_of_silenced(found[0].silenced)
    warn_of_switched_off(found[0].switched_off)
    form = OutputForm(num_classes, request.activation, request.layout, size)

    def masked(image: Any, masks: Any) -> Any:
        return in_planes(run_masked(found[0], image, masks, *wanted), form)

    def exact(image: Any, masks: Any) -> Any:
        values = run_exact(found[0], image, masks, *wanted)
        return None if values is None else in_planes(values, form)

    return LoadedNetworks(models, masked, exact, untouched and UntouchedPlanes(untouched, form),
                          own and OwnPlanes(own, form))


@dataclass(frozen=True)
class UntouchedPlanes:
    """An untouched network whose output is laid out as logits are."""

    net: Untouched
    form: OutputForm

    def __call__(self, image: Any) -> Any:
        """Return its output for a normalised image (1, 3, h, w)."""
        return in_planes(self.net(image), self.form)

    def exact(self, image: Any) -> Any:
        """Return the same in float64, or None."""
        values = self.net.exact(image)
        return None if values is None else in_planes(values, self.form)


@dataclass(frozen=True)
class OwnPlanes:
    """Passes that a network draws itself, laid out as logits are."""

    net: OwnNetwork
    form: OutputForm

    def passes(self, image: Any, seed: int) -> Iterator[Any]:
        """Yield pass after pass."""
        return (in_planes(values, self.form) for values in self.net.passes(image, seed))


def _as_given(request: CompileRequest) -> list[tuple[Any, object]]:
    nets = [request.net, *request.members]
    strange = [net for net in nets if not callable(getattr(net, 'state_dict', None))]
    if strange:
        raise ConfigError(f'a network of the type {type(strange[0]).__name__}',
                          'a torch module, net.onnx or package.module:function')
    return [(net, type(net).__name__) for net in nets]


def _by_factory(request: CompileRequest) -> Iterator[tuple[Any, object]]:
    build = factory(str(request.net))

    def built(path: Path | None) -> tuple[Any, object]:
        from uncertainty_seg.compiler.capture.export import load_weights
        from uncertainty_seg.compiler.capture.marking import initialise_lazy

        net = build()
        initialise_lazy(net, request.image.height, request.image.width)
        if path is not None:
            load_weights(net, path)
        return net, path or request.net

    return map(built, request.weights or (None,))


def factory(name: str) -> Callable[[], Any]:
    """
    Import a function without arguments, package.module:function, that builds a torch network.

    Raises ConfigError if it cannot be imported or called, or returns no module.
    """
    module_name, _, function = name.partition(':')
    if not {'', os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # as `python` has it; what is installed comes first
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as err:
        missing = err.name or module_name
        is_own = f'{module_name}.'.startswith(f'{missing}.')
        fix = 'run it in the folder of that file, or with PYTHONPATH=FOLDER:$PYTHONPATH' \
            if is_own else f'install {missing!r}, which {module_name!r} imports'
        raise ConfigError(f'{name!r} cannot be imported: there is no module {missing!r} in this '
                          'folder or among what is installed',
                          _FACTORY_FORM, fix) from err
    except Exception as err:  # whatever the user's own code raises
        raise ConfigError(f'{name!r} cannot be imported ({_said(err)})',
                          'a module that Python can import') from err
    if not callable(found := getattr(module, function, None)):
        raise ConfigError(f'{name!r} cannot be imported: {module_name!r} has no function '
                          f'{function!r}', _FACTORY_FORM)
    if needed := _needed_arguments(found):
        raise ConfigError(f'{name}() needs {some_of(needed)}', 'a function without arguments that '
                          'returns a network', 'write one that calls it')

    def build() -> Any:
        try:
            net = found()
        except Exception as err:  # whatever the user's own code raises
            raise ConfigError(f'{name}() failed ({_said(err)})',
                              'a function without arguments that returns a network') from err
        if not callable(getattr(net, 'state_dict', None)):
            raise ConfigError(f'{name}() returned a {type(net).__name__}', 'a torch module')
        return net

    return build


def _needed_arguments(function: Callable[..., Any]) -> list[str]:
    """Name the arguments without a default, where Python can tell."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (
        p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _said(err: Exception) -> str:
    """Return what the user's own code raised, on one line."""
    text = ' '.join(str(err).split())[:_MOST_SAID]
    return f'{type(err).__name__}: {text}' if text else type(err).__name__


def _require_numbers(net: Any, source: object) -> None:
    """Refuse parameters that are NaN or infinite; a buffer may hold infinity, as masks do."""
    for name, values in net.named_parameters():
        if not bool(values.isfinite().all()):
            raise GraphError(f'the weight {name!r} of {source} holds NaN or infinity', 'numbers',
                             'take a checkpoint from before the training diverged')


# -------------------------------------------------------------------------------------------------
# Warn of a bundle that works but may not be what was meant.


def warn(text: str) -> None:
    """Write a warning to stderr."""
    print(f'WARNING: {text}.', file=sys.stderr)


def warn_of_silenced(silenced: Mapping[str, str]) -> None:
    """Warn of modules whose own random numbers, drawn in training mode, no pass will have."""
    if not silenced:
        return
    names = [f'{name or "the net itself"} ({draw})' for name, draw in silenced.items()]
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    warn(f'random numbers that are drawn in training mode by {", ".join(names[:_NAMED])}{more} '
         'are left out of every pass, since no mask can replace them: only the dropout listed as '
         'sites makes passes differ')


def warn_of_switched_off(modules: Sequence[str]) -> None:
    """Warn of dropout that no pass will have, since train() of the network leaves it off."""
    if modules:
        warn(f'train() of the network leaves the dropout of {some_of(modules)} off, so that no '
             'pass has it')


def warn_of_rare_dropout(card: ModelCard) -> None:
    """
    Warn where so little is dropped that all passes of a frame may be equal.

    Such passes show no uncertainty, whatever the image; `Pipeline.check_masks` refuses them. The
    usual case is a network whose only dropout is one rarely dropped path.
    """
    chance = chance_of_equal_passes(
        card.mask_sites, card.passes, card.is_balanced, card.mask_draw)
    if card.members or card.passes < 2 or chance <= _MOST_EQUAL:
        return
    enough = _enough_passes(card)
    fix = f'--passes {enough} makes it less than {_MOST_EQUAL:.0%}' if enough else \
        'train it with a higher rate, or --inject-dropout'
    values = sum(math.prod(site.shape) for site in card.mask_sites)
    rate = max(site.p for site in card.mask_sites)
    warn(f'all {card.passes} passes come out the same with a chance of {chance:.0%}, so rarely is '
         f'anything dropped (mask values: {values}, highest rate: {rate:.3g}), and such passes '
         f'show no uncertainty: {fix}')


def chance_of_equal_passes(
    sites: Iterable[DropoutSite], passes: int, is_balanced: bool, mask_draw: str = 'independent'
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
    mask_draw : str
        As `make_masks` draws those that are not balanced.

    Returns
    -------
    float
        In 0..1. With independent masks the product of (p^T + (1 - p)^T) over all values; a
        balanced site of C channels that keeps K has (C choose K)^(1 - T), a stratified one
        (1 - p T)^C where p T < 1, the same of 1 - p, and 0 else.

    """
    log_chance = 0.0
    for site in sites:
        channels, kept = site.shape[0], kept_channels(site)
        if is_balanced and kept < channels:
            log_chance += (1 - passes) * math.log(math.comb(channels, kept))
        else:
            one = site.p ** passes + (1 - site.p) ** passes
            if mask_draw == 'stratified' and drops_channels(site):
                one = max(0.0, 1 - site.p * passes) + max(0.0, 1 - (1 - site.p) * passes)
            # Of hundreds of passes at a rate of a half nothing is left in float64.
            log_chance += math.prod(site.shape) * (math.log(one) if one > 0 else -math.inf)
    return math.exp(log_chance)


def _enough_passes(card: ModelCard) -> int:
    """Return the least T whose passes are rarely all equal; 0 if there is none."""
    return next((passes for passes in range(card.passes + 1, _MOST_PASSES + 1)
                 if chance_of_equal_passes(card.mask_sites, passes, card.is_balanced,
                                           card.mask_draw)
                 <= _MOST_EQUAL), 0)
