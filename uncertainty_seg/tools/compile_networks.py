# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Load the networks that `compile` is asked for: ONNX files, or what a torch factory builds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
import logging
from typing import Any, TYPE_CHECKING

from uncertainty_seg.errors import ConfigError, GraphError

if TYPE_CHECKING:
    from uncertainty_seg.tools.compile_checks import ExactNetwork, MaskedNetwork
    from uncertainty_seg.tools.compile_request import CompileRequest

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

    return LoadedNetworks(models, masked_network(nets[0], height, width, *wanted), exact)


def _require_numbers(net: Any, source: object) -> None:
    """Refuse parameters that are NaN or infinite; a buffer may hold infinity, as masks do."""
    for name, values in net.named_parameters():
        if not bool(values.isfinite().all()):
            raise GraphError(f'the weight {name!r} of {source} holds NaN or infinity', 'numbers',
                             'take a checkpoint from before the training diverged')
