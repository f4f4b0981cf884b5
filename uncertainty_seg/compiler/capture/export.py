# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Export a torch network to an ONNX graph that keeps its dropout, and load weights into a network.

Each dropout becomes a marker node that states its rate and kind; `algebra` replaces it by a mask.
torch's exporters delete dropout in eval mode and reject channel dropout in training mode, so the
marker is an operator unknown to them. There are two exporters, and each can export nets that the
other cannot. A weights file whose keys or shapes do not fit the net raises an error that lists
them; it is never loaded in part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
import io
import logging
import os
from pathlib import Path
import re
import sys
from typing import Any
import warnings

import numpy as np
import onnx
import torch
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode

from uncertainty_seg.compiler.capture.dropout_watch import Drop, Replace
from uncertainty_seg.compiler.capture.marking import find_dropout, MarkedNet
from uncertainty_seg.compiler.onnx_tools import is_marker, MARKER_DOMAIN, OPSET, told
from uncertainty_seg.core.model_card import InputSpec
from uncertainty_seg.errors import GraphError, install_command, TrainingError

_log = logging.getLogger(__name__)
INPUT = 'input'
# The opset that torch.export writes natively; a later step converts it to `OPSET`.
EXPORT_OPSET = 18
_LOUD = ('onnx_ir', 'onnxscript', 'torch.onnx', 'torch.export')
# Keys under which training frameworks store the state dict in a checkpoint.
_WRAPPERS = ('state_dict', 'model_state_dict', 'model_state', 'model')
# Key prefixes added by DataParallel and torch.compile.
_PREFIXES = ('module.', '_orig_mod.')
_NAMED = 3
_TENSORS = 'a state dict of tensors'


def export_marked(net: nn.Module, spec: InputSpec) -> onnx.ModelProto:
    """
    Export a network with a marker for each dropout of a rate above 0.

    The net maps (1, 3, h, w), of the size of `spec`, to logits, or to a dict, sequence or
    dataclass that contains logits; it is not modified. All but dropout runs in eval mode. Each
    tensor becomes an output, named 'output', or by key, field or index ('output_0'). Raises
    GraphError if a dropout is not a multiplication by a mask, or torch cannot export the net.
    """
    return export_net(find_dropout(net, spec.height, spec.width), spec.height, spec.width)


def export_net(marked: MarkedNet, height: int, width: int) -> onnx.ModelProto:
    """
    Export by the older exporter, or by torch.export if that fails or loses dropout.

    If both fail, raises the GraphError that names a fault of the net, if any, or else one with the
    reasons of both exporters.
    """
    image = torch.zeros(1, 3, height, width)
    reasons: list[str] = []
    ours: GraphError | None = None
    found: list[onnx.ModelProto] = []
    # The older exporter is five to ten times faster and writes `OPSET` directly.
    for name, exporter in (('the older exporter', export_by_trace),
                           ('torch.export', export_by_graph)):
        try:
            with _silence():
                found.append(exporter(marked, image))
        except Exception as err:  # they raise errors of any class
            reasons.append(f'{name}: {told(err.__cause__ or err)}')
            ours = err if isinstance(err, GraphError) else ours
            _log.info('%s', reasons[-1])
        if found and _markers(found[-1]) == len(marked.drops):
            break
    if found:
        return max(found, key=_markers)
    if ours is not None:
        raise ours
    raise GraphError(f'torch cannot export the net ({"; ".join(reasons)})',
                     'operations that it can write to ONNX', 'replace that one in the net')


def _markers(model: onnx.ModelProto) -> int:
    """Count the markers: the older exporter loses dropout that writes into part of a tensor."""
    return sum(is_marker(node) for node in model.graph.node)


def export_by_trace(marked: MarkedNet, image: Tensor) -> onnx.ModelProto:
    """Export by the older exporter."""
    def replace(x: Tensor, drop: Drop) -> Tensor:
        return _Mark.apply(x, drop.p, drop.kind, drop.site)

    file = io.BytesIO()
    with _WrittenPooling():
        torch.onnx.export(
            _Traced(marked, replace), (image,), file,
            input_names=[INPUT], output_names=list(marked.outputs),
            opset_version=OPSET, dynamo=False, custom_opsets={MARKER_DOMAIN: 1},
        )
    return onnx.load_from_string(file.getvalue())


def export_by_graph(marked: MarkedNet, image: Tensor) -> onnx.ModelProto:
    """Export by torch.export, in opset 18."""
    def replace(x: Tensor, drop: Drop) -> Tensor:
        attributes = {'p': drop.p, 'kind': drop.kind, 'site': drop.site}
        return torch.onnx.ops.symbolic(f'{MARKER_DOMAIN}::Dropout', (x,), attributes,
                                       dtype=x.dtype, shape=x.shape, version=1)

    program = torch.export.export(_Traced(marked, replace), (image,), strict=False)
    written = torch.onnx.export(
        program, (image,), dynamo=True, input_names=[INPUT], output_names=list(marked.outputs),
        opset_version=EXPORT_OPSET, verbose=False,
    )
    return written.model_proto


_POOLS = (torch.nn.functional.adaptive_avg_pool2d, torch._C._nn.adaptive_avg_pool2d)


class _WrittenPooling(TorchFunctionMode):
    """Replaces adaptive average pooling with unequal windows by two matrix products."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch; see the class."""
        kwargs = kwargs or {}
        if func not in _POOLS:
            return func(*args, **kwargs)
        x, size = args[0], args[1] if len(args) > 1 else kwargs['output_size']
        wanted = size if isinstance(size, (tuple, list)) else (size, size)
        pairs = [(int(old), int(old if new is None else new))
                 for old, new in zip(x.shape[-2:], wanted, strict=True)]
        if all(old % new == 0 for old, new in pairs):
            return func(*args, **kwargs)
        rows, columns = (averaging(*pair) for pair in pairs)
        return rows @ x @ columns.T


def averaging(old: int, new: int) -> Tensor:
    """Return the matrix (new, old) that computes adaptive average pooling along an axis."""
    matrix = np.zeros((new, old), np.float32)
    for index in range(new):
        first, last = index * old // new, -(-(index + 1) * old // new)
        matrix[index, first:last] = 1 / (last - first)
    return torch.from_numpy(matrix)


class _Mark(torch.autograd.Function):
    """Identity for torch, a marker node for the older exporter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, kind: str, site: str) -> Tensor:
        return x.clone()

    @staticmethod
    def symbolic(g: Any, x: Any, p: float, kind: str, site: str) -> Any:
        node = g.op(f'{MARKER_DOMAIN}::Dropout', x, p_f=p, kind_s=kind, site_s=site)
        return node.setType(x.type())


class _StaticSizes(TorchFunctionMode):
    """Returns sizes as plain numbers, so that a tracer records no arithmetic on them."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Return sizes as plain numbers, all other results unchanged."""
        result = func(*args, **(kwargs or {}))
        if func == Tensor.shape.__get__ or func is Tensor.size:
            return int(result) if len(args) > 1 or kwargs else torch.Size(map(int, result))
        return result


class _Traced(nn.Module):
    """A marked net whose forward returns its output tensors as a tuple."""

    def __init__(self, marked: MarkedNet, replace: Replace) -> None:
        super().__init__()
        self.net = marked.net
        self.training = False  # only for this wrapper, see train()
        self._run = (marked, replace)

    def train(self, mode: bool = True) -> _Traced:
        """Do nothing: exporters call it, and that of the net may do more than set modes."""
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        marked, replace = self._run
        with _StaticSizes():
            return tuple(marked.run(image, replace).values())


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the exporters' progress, warnings and graph dumps."""
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    sys.stdout.flush()
    terminals, nowhere = (os.dup(1), os.dup(2)), os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):  # the older exporter writes whole graphs to these from C++
            os.dup2(nowhere, number)
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        for number, terminal in enumerate(terminals, 1):
            os.dup2(terminal, number)
            os.close(terminal)
        os.close(nowhere)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def load_weights(net: nn.Module, path: Path) -> None:
    """
    Load the weights of a file into a network, in place, if all keys and shapes fit.

    The file is a state dict as .safetensors or from torch.save, alone or as 'state_dict' or
    'model' of a checkpoint. Raises TrainingError if it is missing, holds no state dict, or holds
    that of another network.
    """
    state = read_state(path)
    wanted = net.state_dict()
    missing = [k for k in wanted if k not in state]
    unexpected = [k for k in state if k not in wanted]
    reshaped = [f'{k} {tuple(state[k].shape)} for {tuple(v.shape)}' for k, v in wanted.items()
                if k in state and isinstance(v, Tensor) and state[k].shape != v.shape]
    problems = [
        f'{len(found)} {what} ({", ".join(found[:_NAMED])}{", ..." * (len(found) > _NAMED)})'
        for what, found in (('missing', missing), ('unexpected', unexpected),
                            ('of another shape', reshaped)) if found
    ]
    if problems:
        raise TrainingError(
            f'of {len(state)} weights in {path} and {len(wanted)} of the network, '
            f'{"; ".join(problems)}', 'weights of this network',
            'build it with the classes and options that it was trained with',
        )
    net.load_state_dict(state)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict without prefixes; TrainingError if the file is missing or holds none."""
    if not path.is_file():
        came = f'{path} is a folder' if path.is_dir() else f'no weights at {path}'
        raise TrainingError(came, 'a file of weights')
    content = _read_safetensors(path) if path.suffix == '.safetensors' else _read_torch(path)
    while isinstance(content, Mapping):
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise TrainingError(f'{path} holds {type(content).__name__}', 'a state dict',
                            'save net.state_dict()')
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        keys = ', '.join(map(str, list(content)[:_NAMED])) or 'nothing'
        raise TrainingError(f'{path} holds no tensor, but {keys}', 'a state dict',
                            "save net.state_dict(), alone or as 'state_dict'")
    return _strip(tensors)


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the error below covers them
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as err:  # damaged pickles raise almost anything
        # torch's message is a page about its options, with terminal escapes.
        _log.debug('torch.load of %s: %s', path, err)
        found = re.search(r'[Uu]nsupported (?:global: )?GLOBAL ([\w.]+)', str(err))
        if found:
            raise TrainingError(
                f'{path} holds an object of {found[1]}, which could run code when it is loaded',
                _TENSORS, 'save net.state_dict() alone, not the whole net') from err
        raise TrainingError(f'{path} is empty, damaged or no file of torch.save', _TENSORS,
                            'copy it again, or save net.state_dict() again') from err


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as err:
        raise TrainingError(f'{path} needs safetensors, which is not installed', '',
                            install_command('safetensors')) from err
    try:
        return load_file(path)
    except (OSError, SafetensorError) as err:
        _log.debug('safetensors of %s: %s', path, err)
        raise TrainingError(f'{path} cannot be loaded (it is damaged, or of another kind)',
                            'a whole safetensors file', 'copy or save it again') from err


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix):]: value for key, value in state.items()}
    return state
