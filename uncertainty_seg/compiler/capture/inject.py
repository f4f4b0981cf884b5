# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Put dropout into a torch net that has none.

Such a net was not trained with it: the caller must warn about what its passes mean.

"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
import difflib
from typing import Any

import torch
from torch import nn, Tensor
import torch.nn.functional as F
from torch.nn.modules import activation
from torch.nn.modules.batchnorm import _NormBase

from uncertainty_seg.compiler.capture.marking import first_line, named_outputs, plain_copy
from uncertainty_seg.compiler.capture.masked_reference import chosen_output
from uncertainty_seg.errors import ConfigError, GraphError

# What libraries call the part of a net behind its encoder, in order of preference.
_DECODERS = ('decoder', 'classifier', 'decode_head')
_NEW = 'injected_dropout'
# Tried one after the other where the caller gives no size.
_SIZES = ((64, 64), (128, 128), (256, 256), (512, 512))
_MIXING = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_REST_OF_BLOCK = (_NormBase, nn.GroupNorm, nn.LayerNorm, *(
    getattr(activation, name) for name in activation.__all__ if name != 'MultiheadAttention'))


class InjectedDropout(nn.Module):
    """Dropout of whole channels, or of elements where there are no planes."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.is_injected = p, True  # and so it is on, whatever train() of the net does

    def forward(self, x: Tensor) -> Tensor:
        """Drop in training mode."""
        drop = F.dropout2d if x.dim() == 4 else F.dropout
        return drop(x, self.p, self.training)


@dataclass
class _Probe:
    """The result of a run of the net: output shape of each module, in order of finishing."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    image: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def main(self) -> Tensor:
        """Return the output of logits."""
        try:
            return self.outputs[chosen_output(self.outputs)]
        except GraphError:
            return next(iter(self.outputs.values()))


def inject_dropout(
    net: nn.Module, p: float, where: str, size: tuple[int, int] | None = None
) -> tuple[nn.Module, list[str]]:
    """
    Put dropout into a copy of a net.

    Parameters
    ----------
    net : Module
        Left as it is.
    p : float
        Rate, in (0, 1).
    where : str
        'decoder': behind each block of the decoder; 'head': before the last layer that makes
        the logits; else paths of modules, separated by commas, behind which it goes.
    size : (int, int), optional
        h and w of an image that the net takes; common sizes are tried without.

    Returns
    -------
    net : Module
        The copy, in eval mode.
    names : list of str
        Paths of the new modules.

    Raises
    ------
    ConfigError
        If `p` is out of range, or a path names no module that runs.
    GraphError
        If the net has no decoder or no such layer.

    """
    if not 0 < p < 1:
        raise ConfigError(f'a dropout rate of {p:g}', 'a number between 0 and 1')
    twin = plain_copy(net)
    probe = _run(twin, size)
    if where == 'head':
        return twin, [_put_before(twin, _last_layer(twin, probe), p)]
    chosen = _decoder_blocks(twin, probe) if where == 'decoder' else _named(twin, probe, where)
    return twin, [_put_behind(twin, name, p) for name in chosen]


def _run(net: nn.Module, size: tuple[int, int] | None) -> _Probe:
    probe = _Probe()
    hooks = [module.register_forward_hook(_recorder(probe, name))
             for name, module in net.named_modules() if name]
    problem = ''
    try:
        for height, width in [size] if size else _SIZES:
            probe.shapes.clear()
            generator = torch.Generator().manual_seed(0)
            probe.image = torch.randn(1, 3, height, width, generator=generator)
            try:
                with torch.no_grad():
                    probe.outputs = named_outputs(net(probe.image))
                return probe
            except Exception as err:  # a net may raise anything at a size that it cannot take
                problem = problem or f'{type(err).__name__}: {first_line(err)}'
    finally:
        for hook in hooks:
            hook.remove()
    raise GraphError(f'the net cannot be run to see where dropout may go ({problem})',
                     'a net that takes (1, 3, h, w)')


def _recorder(probe: _Probe, name: str) -> Any:
    def record(_module: nn.Module, _args: Any, result: Any) -> None:
        probe.shapes.pop(name, None)
        probe.shapes[name] = tuple(result.shape) if isinstance(result, Tensor) else ()
    return record


def _last_layer(net: nn.Module, probe: _Probe) -> str:
    """Find the last layer with as many outputs as there are classes that the logits need."""
    num_classes = probe.main.shape[1] if probe.main.dim() > 1 else 0
    for name in reversed(probe.shapes):
        layer = net.get_submodule(name)
        width = getattr(layer, 'out_channels', getattr(layer, 'out_features', 0))
        if isinstance(layer, _MIXING) and width == num_classes and _matters(net, name, probe):
            return name
    raise GraphError(f'no convolution of the net makes its {num_classes} logits',
                     'a last layer that does', 'name the module to put dropout behind')


def _matters(net: nn.Module, name: str, probe: _Probe) -> bool:
    """Say whether the logits change when a layer's result is all zeros."""
    hook = net.get_submodule(name).register_forward_hook(
        lambda _module, _args, result: torch.zeros_like(result))
    try:
        with torch.no_grad():
            changed = named_outputs(net(probe.image))
    finally:
        hook.remove()
    before = probe.main
    key = next(k for k, value in probe.outputs.items() if value is before)
    return not torch.equal(before, changed[key])


def _decoder_of(net: nn.Module) -> str:
    paths: list[str] = [name for name, _ in net.named_modules()]
    for wanted in _DECODERS:
        for path in paths:
            if path.rpartition('.')[2] == wanted:
                return path
    parts = ', '.join(name for name, _ in net.named_children())
    raise GraphError(f'the net has no decoder, but {parts or "no parts at all"}',
                     f'a part called {" or ".join(_DECODERS)}',
                     'name the modules to put dropout behind')


def _decoder_blocks(net: nn.Module, probe: _Probe) -> list[str]:
    """List the last module of each block: a layer that mixes channels and what belongs to it."""
    root = _decoder_of(net)
    children = {name for name, _ in _flat(net.get_submodule(root), root)}
    blocks: list[str] = []
    for name in [ran for ran in probe.shapes if ran in children]:
        module = net.get_submodule(name)
        if any(isinstance(part, _MIXING) for part in module.modules()):
            blocks.append(name)
        elif blocks and isinstance(module, _REST_OF_BLOCK):
            blocks[-1] = name
    widths = {value.shape[1] for value in probe.outputs.values() if value.dim() == 4}
    found = [name for name in blocks
             if len(probe.shapes[name]) == 4 and probe.shapes[name][1] not in widths]
    if not found:
        raise GraphError(f'{root!r} has no blocks that return planes', 'at least one',
                         "take 'head', or name the modules to put dropout behind")
    return found


def _flat(module: nn.Module, path: str) -> Iterable[tuple[str, nn.Module]]:
    """Yield children; those of lists in place of the lists."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _flat(child, f'{path}.{name}')
        else:
            yield f'{path}.{name}', child


def _named(net: nn.Module, probe: _Probe, where: str) -> list[str]:
    modules = {name: module for name, module in net.named_modules() if name}
    found: list[str] = []
    for name in filter(None, (part.strip() for part in where.split(','))):
        if name not in modules:
            near = difflib.get_close_matches(name, modules, 3, 0.4)
            raise ConfigError(f'the net has no module {name!r}', 'decoder, head, or a module',
                              f'did you mean {", ".join(near) or ", ".join(list(modules)[:3])}?')
        is_list = isinstance(modules[name], nn.ModuleList | nn.ModuleDict)
        found += [n for n, _ in _flat(modules[name], name)] if is_list else [name]
    for name in found:
        if not probe.shapes.get(name):
            raise ConfigError(f'module {name!r} does not return a tensor when the net runs',
                              'one that does')
    if not found:
        raise ConfigError(f'{where!r} names no place', 'decoder, head, or modules by commas')
    return list(dict.fromkeys(found))


def _put_behind(net: nn.Module, name: str, p: float) -> str:
    module = net.get_submodule(name)
    module.add_module(_NEW, InjectedDropout(p).eval())
    if not isinstance(module, nn.Sequential):  # which runs its new last child by itself
        module.register_forward_hook(_behind)
    return f'{name}.{_NEW}'


def _put_before(net: nn.Module, name: str, p: float) -> str:
    module = net.get_submodule(name)
    module.add_module(_NEW, InjectedDropout(p).eval())
    module.register_forward_pre_hook(_before)
    return f'{name}.{_NEW}'


def _behind(module: nn.Module, _args: Any, result: Tensor) -> Tensor:
    return getattr(module, _NEW)(result)


def _before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (getattr(module, _NEW)(args[0]), *args[1:])
