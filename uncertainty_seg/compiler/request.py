# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compile a network to a bundle on disk: check the request, load, compile, compare, write.

Nothing is written before the compiled graphs have been compared with the network. `convert` writes
a float32 bundle in another precision, for which the network is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import signature
import math
import os
from pathlib import Path
import re
import sys
from typing import Any, TYPE_CHECKING

from uncertainty_seg.compiler.onnx_tools import told
from uncertainty_seg.compiler.plan import CompileOptions, DEFAULT_PASSES
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import fitting_draw
from uncertainty_seg.core.model_card import (
    COLOR_ORDERS,
    FIT_RULES,
    InputSpec,
    ModelCard,
    SCHEMA_VERSION,
)
from uncertainty_seg.errors import ConfigError, GraphError, install_command, some_of

if TYPE_CHECKING:
    from uncertainty_seg.compiler.capture.masked_reference import UntouchedNet
    from uncertainty_seg.compiler.checks.output_checks import StorageReport
    from uncertainty_seg.compiler.checks.pass_checks import (
        CheckReport,
        ExactNetwork,
        MaskedNetwork,
    )
    from uncertainty_seg.compiler.checks.sample_checks import (
        DistributionReport,
        MomentReport,
        OwnNetwork,
        StillNetwork,
    )
    from uncertainty_seg.compiler.compile import CompiledGraphs
    from uncertainty_seg.compiler.frontend.outputs import OutputForm
    from uncertainty_seg.storage.labelled_folder import ClassTable

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NOT_STATED = 'not stated'
INJECTED = ('the network was not trained with the dropout that was injected: its passes differ, '
            'but by how much was never fitted to anything: calibrate it, and compare ranks only')
NO_FEATURES = ('no tensor before the first dropout has a sixteenth of the width and height of the '
               'image, so that the bundle gives no features: name a tensor for them, or ask for '
               'none')
_LEAST_SIDE, _MOST_SIDE = 8, 8192  # pixels
_FACTORY = re.compile(r'[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*')
_FACTORY_FORM = 'net.onnx or package.module:function'


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
    sensor_std: float = 0.0,
    variance: str | None = None,
    samples: int | None = None,
    full_weights: bool = False,
    features: str = 'none',
    activation: str = 'auto',
    compare_passes: int = 256,
    allow_silenced: bool = False,
    licence: str = _NOT_STATED,
    training: str = _NOT_STATED,
    not_good_for: str = _NOT_STATED,
    sign: Path | str | None = None,
) -> CompileOutcome:
    """
    Compile a network to a bundle whose T passes are cheap and repeatable.

    Parameters
    ----------
    net : Module, Path or str
        A torch module (not modified), an ONNX file, or 'package.module:function' that returns
        a module. It takes a normalised image (1, 3, h, w) and returns logits or probabilities.
    out : Path or str
        Folder of the bundle; an existing bundle there is replaced.
    size : (int, int)
        Width and height of the network's image.
    classes : Path, str, sequence of str or ClassTable
        A file with the table of classes, or the names of the classes in the order of their ids.
    weights : sequence of Path or str
        State dicts or safetensors for a factory; one for each member of an ensemble.
    members : sequence of Module, Path or str
        The other networks of an ensemble.
    output : str, optional
        Name of the output that holds the logits; required if it is ambiguous.
    method : str
        'mc_dropout'; 'deep_ensemble' where each network is a pass; 'direct' for a network that
        predicts the variance of its logits; 'error_propagation' for one pass that computes mean
        and variance of the logits, from which the passes are sampled; 'single' for one pass with
        dropout switched off.
    inject_dropout : float, optional
        Rate of dropout to insert into a network that has none.
    at : str
        Where to inject it: 'decoder', 'head', or names separated by commas.
    passes : int, optional
        T; 20, or the number of members, or 1 without dropout.
    fit, color_order, mean, std : str, str, sequence of float, sequence of float
        How the network expects its image; see `InputSpec`.
    precision : str
        'fp32', 'fp16' or 'bf16' for trunk and head. QuantizeLinear and DequantizeLinear nodes, as
        NNCF and ModelOpt write them, are kept, which requires fp32.
    sensor_std : float
        Camera noise for error propagation: standard deviation in pixel values of 0..255.
    variance : str, optional
        For 'direct': name of the output that holds the log-variance of the logits, if it is not
        `log_variance` or the second half of an output of 2C channels.
    samples : int, optional
        For 'direct': S, the number of noise samples per pass; 10 by default.
    full_weights : bool
        Store weights in 32 bits.
    features : str
        Name of a tensor before the first dropout that becomes another output, for distances from
        the training frames; 'auto' for the end of the encoder's stage of stride 16; 'none'.
    activation : str
        Meaning of the output's values: 'logits', 'softmax', 'sigmoid' or 'log_softmax'. 'auto'
        removes a softmax or sigmoid at the very end, and raises for other probabilities.
    compare_passes : int
        Number of random passes of the network to compare with equally many masked passes; fewer
        if they would take longer than some seconds; 0 for no comparison.
    allow_silenced : bool
        Accept a torch network with random numbers that no mask can replace, and disable them in
        every pass. The card names the modules, and the comparison shows the effect.
    licence, training, not_good_for : str
        Texts for the card.
    sign : Path or str, optional
        Private key to sign the bundle with, a PEM file.

    Returns
    -------
    CompileOutcome
        The bundle, which is not calibrated yet, and the results of the checks.

    Raises
    ------
    UncertaintySegError
        If the network cannot be compiled, or options contradict each other. Nothing is written
        then.

    """
    from uncertainty_seg.storage.labelled_folder import class_table, ClassTable, read_classes
    from uncertainty_seg.storage.model_bundle import sign_bundle
    from uncertainty_seg.storage.signatures import read_private_key

    if isinstance(classes, (str, Path)):
        classes = read_classes(Path(classes))
    elif not isinstance(classes, ClassTable):
        classes = class_table(classes)
    key = None if sign is None else read_private_key(sign)  # before minutes of work
    options = CompileOptions(
        method, passes, len(classes.names), output, activation, inject_dropout, at,
        precision, full_weights, sensor_std, variance, samples, features)
    made = _compiled(CompileRequest(
        net, Path(out), InputSpec(*size, fit, color_order, _three(mean), _three(std)), classes,
        options, tuple(map(Path, weights)), tuple(members), compare_passes, allow_silenced,
        (licence, training, not_good_for)))
    if key is not None:
        sign_bundle(made.bundle.folder, key)
    return made


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


@dataclass(frozen=True)
class CompileRequest:
    """Network, image, classes and options; ConfigError if two of them contradict each other."""

    net: Any
    out: Path
    image: InputSpec
    classes: ClassTable
    options: CompileOptions
    weights: tuple[Path, ...] = ()
    members: tuple[Any, ...] = ()
    compare_passes: int = 0
    allow_silenced: bool = False
    texts: tuple[str, str, str] = (_NOT_STATED, _NOT_STATED, _NOT_STATED)

    @property
    def is_onnx(self) -> bool:
        """Whether the network is an ONNX file."""
        return isinstance(self.net, (str, Path)) and str(self.net).endswith('.onnx')

    @property
    def is_factory(self) -> bool:
        """Whether the network is package.module:function."""
        return isinstance(self.net, (str, Path)) and not self.is_onnx

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        image, is_ensemble = self.image, self.options.method == 'deep_ensemble'
        members = len(self.weights) if self.is_factory else 1 + len(self.members)
        for is_wrong, came, expected in (
            (image.fit not in FIT_RULES, f'fit is {image.fit!r}', f'one of {FIT_RULES}'),
            (image.color_order not in COLOR_ORDERS, f'color_order is {image.color_order!r}',
             f'one of {COLOR_ORDERS}'),
            (not all(_LEAST_SIDE <= side <= _MOST_SIDE for side in (image.width, image.height)),
             f'an image of {image.width}x{image.height}',
             f'{_LEAST_SIDE} to {_MOST_SIDE} pixels a side'),
            (not all(map(math.isfinite, (*image.mean, *image.std))) or min(image.std) <= 0,
             f'mean {list(image.mean)} and std {list(image.std)}', 'numbers, std above 0'),
            (max(image.mean) > 1, f'mean {list(image.mean)}', 'the mean of values scaled to 0..1, '
             'such as 0.485 0.456 0.406: divide mean and std by 255'),
            (not self.is_factory and bool(self.weights),
             'weights with a network that has its own', 'a torch factory'),
            (self.is_factory and bool(self.members), 'several torch factories',
             'one, and a file of weights for each member'),
            (is_ensemble and members < 2, f'an ensemble of {members}',
             'weights, or ONNX files, of at least two networks'),
            (not is_ensemble and members > 1, f'{members} networks', 'the method deep_ensemble'),
            (is_ensemble and self.options.passes not in (None, members),
             f'{self.options.passes} passes', f'{members}, one a member'),
            # A module is never printed, since that fails for some modules.
            (self.is_factory and not _FACTORY.fullmatch(str(self.net)),
             repr(str(self.net)) if self.is_factory else '',
             _as_factory(str(self.net)) if self.is_factory else ''),
        ):
            if is_wrong:
                raise ConfigError(came, expected)


def _as_factory(net: str) -> str:
    """Return the accepted forms of `net`, and a guess at what this one should be."""
    file, _, function = net.partition(':')
    path = Path(file)
    if path.suffix in ('.pt', '.pth', '.ckpt', '.safetensors', '.bin'):
        return f'{_FACTORY_FORM}: weights alone are no network, give them beside a factory'
    if path.suffix in ('.pt2', '.keras', '.h5', '.pb', '.tflite', '.xml', '.engine'):
        return f'{_FACTORY_FORM}: export the network to ONNX'
    if path.suffix == '.py' or len(path.parts) > 1:
        return (f'{_FACTORY_FORM}: in the folder of the file, '
                f'{path.name.removesuffix(".py")}:{function or "FUNCTION"}')
    return _FACTORY_FORM


@dataclass(frozen=True)
class CompileOutcome:
    """
    A compiled and written bundle, with the results of its checks.

    Attributes
    ----------
    bundle : ModelBundle
        The written bundle, not calibrated.
    compiled : CompiledGraphs
        Its graphs, and the plan: costs and decisions.
    report : CheckReport or MomentReport
        Differences between the compiled graphs and the network.
    stored : StorageReport
        How the weights are stored, and the effect of their rounding.
    distribution : DistributionReport
        Comparison of passes with random masks with passes of the network's own dropout.

    """

    bundle: ModelBundle
    compiled: CompiledGraphs
    report: CheckReport | MomentReport
    stored: StorageReport
    distribution: DistributionReport


def _compiled(request: CompileRequest) -> CompileOutcome:
    """Compile, check and write a bundle; nothing is written if a check fails."""
    from uncertainty_seg.compiler.checks.grid_checks import choose_grid, FAR
    from uncertainty_seg.compiler.checks.output_checks import require_logits, store_weights
    from uncertainty_seg.compiler.compile import (
        compile_ensemble,
        compile_graph,
        compile_moments,
    )
    from uncertainty_seg.storage.model_bundle import require_place, write_bundle

    options, image = request.options, request.image
    require_place(request.out)
    if options.inject_dropout:
        warn(INJECTED)
    loaded = _load(request)
    if options.method == 'deep_ensemble':
        compiled = compile_ensemble(loaded.models, image, options)
    elif options.method == 'error_propagation':
        compiled = compile_moments(loaded.models[0], image, options)
    else:
        compiled = compile_graph(loaded.models[0], image, options)
    card = replace(_card(request, compiled), silenced=loaded.silenced)
    for prepared in compiled.prepared if options.method != 'direct' else ():
        require_logits(prepared.float_model, image, options.activation)
    report = _checked(request, compiled, card, loaded)
    distribution = _compared(request, compiled, card, loaded, report)
    compiled, grid_error = choose_grid(compiled, card)
    card = replace(card, grid_offset=compiled.grid_offset, grid_error=grid_error)
    if grid_error > FAR and not card.members:  # few passes differ by more on any grid
        warn(f'the maps are {100 * grid_error:.0f} % off those at image size on average (decision '
             '`grid`): the grid of the logits is too coarse for these passes')
    compiled, stored = store_weights(compiled, card, options)
    card = write_bundle(request.out, card, compiled.files)
    return CompileOutcome(ModelBundle(request.out, card, None), compiled, report, stored,
                          distribution)


def _checked(
    request: CompileRequest, compiled: CompiledGraphs, card: ModelCard, loaded: _Loaded
) -> CheckReport | MomentReport:
    from uncertainty_seg.compiler.checks.pass_checks import check_compiled
    from uncertainty_seg.compiler.checks.sample_checks import check_moments, GOOD_RANK

    if request.options.method == 'error_propagation':
        found = check_moments(compiled, card, request.options.sensor_std)
        if found.rank < GOOD_RANK:
            warn(f'on a random image the propagated variance and that of samples have a rank '
                 f'correlation of {found.rank:.2f}, below {GOOD_RANK}: compare its maps with '
                 'those of the method mc_dropout')
        return found
    report = check_compiled(compiled, card, loaded.masked, loaded.exact, loaded.untouched)
    return report


def _compared(
    request: CompileRequest, compiled: CompiledGraphs, card: ModelCard, loaded: _Loaded,
    report: CheckReport | MomentReport,
) -> DistributionReport:
    """Compare distributions, or return the reason why they are not compared."""
    from uncertainty_seg.compiler.checks.sample_checks import (
        check_distribution,
        DistributionReport,
        FEWEST_COMPARED,
        MomentReport,
    )

    count, method = request.compare_passes, request.options.method
    if 0 < count < FEWEST_COMPARED:
        raise ConfigError(f'compare_passes is {count}', f'{FEWEST_COMPARED} or more, or 0')
    for is_so, why in (
        (count == 0, 'compare_passes is 0'),
        (method != 'mc_dropout' or not card.mask_sites, f'the method is {method}'),
        (bool(request.options.inject_dropout), 'the network does not draw what was injected'),
        (loaded.own is None, 'the file computes in 16 bits'),
    ):
        if is_so:
            return DistributionReport(left_out=why)
    own, still = loaded.own, loaded.still
    assert own is not None and still is not None and not isinstance(report, MomentReport)
    found = check_distribution(compiled, card, own, still, report, count)
    if card.silenced:
        warn(f'random numbers of {some_of(card.silenced)} are left out of every pass: mean mutual '
             f'information {found.information:.3g} of ln C, {found.own_information:.3g} where the '
             'network draws its own')
    return found


def _card(request: CompileRequest, compiled: CompiledGraphs) -> ModelCard:
    from uncertainty_seg.compiler.onnx_tools import OPSET

    classes, options = request.classes, request.options
    if compiled.logits_shape[0] != len(classes.names):
        raise GraphError(f'the network has {compiled.logits_shape[0]} classes',
                         f'{len(classes.names)}, as {classes.source} says')
    if options.features == 'auto' and compiled.feature_shape is None:
        warn(NO_FEATURES)
    members = len(compiled.prepared) if options.method == 'deep_ensemble' else 0
    has_masks = any(site.kind == 'mask' for site in compiled.sites)
    has_many = has_masks or options.method == 'error_propagation'
    if options.passes not in (None, 1) and not has_many:
        raise ConfigError(f'{options.passes} passes of a network without dropout', '1',
                          'train it with dropout, or inject dropout')
    licence, training, not_good_for = request.texts
    return ModelCard(
        schema=SCHEMA_VERSION, name=request.out.resolve().name,
        method='deep_ensemble' if members else options.method, class_names=classes.names,
        palette=classes.palette, ignore_index=classes.ignore_index, input=request.image,
        dropout_sites=compiled.sites,
        passes=members or (options.passes or DEFAULT_PASSES if has_many else 1), opset=OPSET,
        logits_shape=compiled.logits_shape, training=training, license=licence,
        not_good_for=not_good_for, metrics={}, sha256={}, precision=options.precision,
        members=members, upsampling=compiled.upsampling, feature_shape=compiled.feature_shape,
        mask_draw=fitting_draw(compiled.sites),
    )


def convert(bundle: ModelBundle | Path | str, out: Path | str, precision: str) -> ModelBundle:
    """
    Write a variant of a bundle in another precision, which needs its own calibration.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        In fp32: shipped name or folder.
    out : Path or str
        Another folder; replaced if it holds a bundle.
    precision : str
        'fp16' or 'bf16'.

    Returns
    -------
    ModelBundle
        The variant, without figures and without a calibration, since its scores differ.

    Raises
    ------
    ConfigError
        If the bundle is not in fp32, or `out` is its own folder.
    GraphError
        If a graph cannot be converted.

    """
    from uncertainty_seg.backends.opening import as_bundle
    from uncertainty_seg.compiler.frontend.lint import require_clean
    from uncertainty_seg.compiler.onnx_tools import load_model
    from uncertainty_seg.compiler.precision import to_precision
    from uncertainty_seg.storage.model_bundle import write_bundle

    source, out = as_bundle(bundle), Path(out)
    card = source.card
    if card.precision != 'fp32':
        raise ConfigError(f'the graphs of {card.name!r} are {card.precision}', 'a bundle in fp32',
                          'convert the bundle that it was made of')
    if out.resolve() == source.folder.resolve():
        raise ConfigError(f'{out} is the bundle itself', 'another folder')
    files = {}
    for name in card.sha256:
        graph = to_precision(load_model(str(source.folder / name)), precision)
        require_clean(graph)
        files[name] = graph.SerializeToString()
    changed = replace(card, name=out.resolve().name, precision=precision, metrics={}, promise='')
    return ModelBundle(out, write_bundle(out, changed, files), None)


# -------------------------------------------------------------------------------------------------
# Load the networks.


@dataclass(frozen=True)
class _Loaded:
    """
    Networks before they are compiled.

    `models` is one network, or the members of an ensemble. The other fields concern the first:
    torch with masks (`masked`), the same in float64 (`exact`), the user's net in eval mode
    (`untouched`), and with the dropout that it draws itself (`own`) or with that off (`still`).
    ONNX files, and networks with injected dropout, are not run with masks; ONNX Runtime runs a
    file with its own dropout. `silenced` names modules whose other random numbers are disabled.
    """

    models: list[Any]
    masked: MaskedNetwork | None = None
    exact: ExactNetwork | None = None
    untouched: UntouchedNet | None = None
    own: OwnNetwork | None = None
    still: StillNetwork | None = None
    silenced: tuple[str, ...] = ()


def _load(request: CompileRequest) -> _Loaded:
    from uncertainty_seg.compiler.frontend.outputs import OutputForm, VARIANCE

    options, size = request.options, (request.image.height, request.image.width)
    variance = (options.variance or VARIANCE) if options.method == 'direct' else None
    form = OutputForm(options.num_classes, options.activation, size,
                      options.output, variance)
    draws_own = (options.method == 'mc_dropout' and request.compare_passes > 0
                 and not options.inject_dropout)
    return _load_files(request, form, draws_own) if request.is_onnx \
        else _load_torch(request, form, draws_own)


def _load_files(request: CompileRequest, form: OutputForm, draws_own: bool) -> _Loaded:
    from uncertainty_seg.compiler.algebra.dropout_to_masks import has_dropout
    from uncertainty_seg.compiler.checks.file_passes import FileNetwork
    from uncertainty_seg.compiler.onnx_tools import load_model
    from uncertainty_seg.compiler.precision import widen_network

    models = [load_model(str(path)) for path in (request.net, *request.members)]
    is_run = draws_own and widen_network(models[0]) is None and has_dropout(models[0])
    own = FileNetwork(models[0], form) if is_run else None
    return _Loaded(models, own=own, still=own)


def _load_torch(request: CompileRequest, form: OutputForm, draws_own: bool) -> _Loaded:
    nets_of = _by_factory if request.is_factory else _as_given
    unchecked = nets_of(request)
    try:
        from uncertainty_seg.compiler.capture.export import export_net
        from uncertainty_seg.compiler.capture.marking import find_dropout, require_shapes
        from uncertainty_seg.compiler.capture.masked_reference import (
            OwnPasses,
            run_exact,
            run_masked,
            UntouchedNet,
        )
    except ImportError as err:
        raise ConfigError(f'torch cannot be imported ({err})', 'torch, to run a torch network',
                          f'{install_command("torch")}, or compile an ONNX file') from err

    models, found, untouched, own = [], [], None, None
    is_live = request.options.method not in ('single', 'deep_ensemble')
    for net, source in unchecked:
        require_shapes(net)
        _require_numbers(net, source)
        untouched = untouched or UntouchedNet(net, form)
        found.append(find_dropout(
            net, *form.size, allow_silenced=request.allow_silenced, is_live=is_live))
        models.append(export_net(found[-1], *form.size))
        if own is None and draws_own:
            own = OwnPasses(net, found[-1], form)
    silenced = tuple(sorted(name or 'the net itself' for name in found[0].silenced))
    if request.options.inject_dropout:
        return _Loaded(models, untouched=untouched, silenced=silenced)
    return _Loaded(models, lambda image, masks: run_masked(found[0], image, masks, form),
                   lambda image, masks: run_exact(found[0], image, masks, form), untouched, own,
                   untouched, silenced)


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
        from uncertainty_seg.compiler.capture.marking import require_shapes

        net = build()
        require_shapes(net)
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
        sys.path.append(os.getcwd())  # as `python` does, but after installed packages
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
    except Exception as err:  # the user's code may raise anything
        raise ConfigError(f'{name!r} cannot be imported ({told(err)})',
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
        except Exception as err:  # the user's code may raise anything
            raise ConfigError(f'{name}() failed ({told(err)})',
                              'a function without arguments that returns a network') from err
        if not callable(getattr(net, 'state_dict', None)):
            raise ConfigError(f'{name}() returned a {type(net).__name__}', 'a torch module')
        return net

    return build


def _needed_arguments(function: Callable[..., Any]) -> list[str]:
    """Return the arguments without a default, as far as `signature` finds them."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (
        p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _require_numbers(net: Any, source: object) -> None:
    """Raise if a parameter is NaN or infinite; buffers may hold infinity, as masks do."""
    for name, values in net.named_parameters():
        if not bool(values.isfinite().all()):
            raise GraphError(f'the weight {name!r} of {source} holds NaN or infinity', 'numbers',
                             'take a checkpoint from before the training diverged')


# -------------------------------------------------------------------------------------------------
# Warnings about a bundle that works but may not be what the user intended.


def warn(text: str) -> None:
    """Write a warning to stderr."""
    print(f'WARNING: {text}.', file=sys.stderr)
