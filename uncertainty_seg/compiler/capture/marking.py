# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
List the dropouts of a torch net, and the mode its modules must run in to reach all of them.

Dropout behind ``if self.training`` runs only in training mode, into which the net's train() puts
some modules. If other results of the net change in that mode, the net stays in eval mode, except
for the modules that drop. Modules that draw other random numbers in training mode, which no mask
can replace, stay in eval mode too. The result is always compared with an unchanged copy of the
net; `check_compiled` does the same on other images.

`ForwardGuard` raises for operations of a run that a trace would freeze.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import copy
import dataclasses
from dataclasses import dataclass, field, replace
import logging
import random
from types import MethodType
from typing import Any
import warnings

import numpy as np
import torch
from torch import nn, Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from uncertainty_seg.compiler.capture.dropout_watch import (
    DRAW_BY_DROPOUT,
    Drop,
    place,
    Replace,
    require_no_blocks,
    unchanged,
    watch,
)
from uncertainty_seg.compiler.capture.forward_guard import (
    draws,
    ForwardGuard,
    in_training,
    is_norm,
    NO_OTHER_RANDOMNESS,
    own_randomness,
    switch,
    trained,
)
from uncertainty_seg.compiler.onnx_tools import told
from uncertainty_seg.errors import GraphError, some_of, UncertaintySegError

SINGLE = 'output'
_log = logging.getLogger(__name__)
# Largest difference between the two modes, relative to the largest output: dividing and
# multiplying by 1 - p causes rounding. The compiled graphs are compared more strictly.
_TOLERANCE = 1e-4
# Most rounds of the search for modules that draw random numbers: one may hide another.
_ROUNDS = 8
_OR_SILENCED = ', or leave them out with allow_silenced: passes then differ less than its own'


@dataclass(frozen=True)
class MarkedNet:
    """A copy of a net that can run with its dropout replaced."""

    net: nn.Module  # The copy, in eval mode.
    drops: tuple[Drop, ...]  # Every dropout of a rate above 0, in the order they run.
    outputs: tuple[str, ...]  # Names of the net's output tensors.
    training: frozenset[str]  # Modules that must be in training mode to drop.
    takes_eval: bool  # Whether dropout of modules in eval mode counts as active.
    # Modules in training mode in passes that the net draws itself.
    drawn_by: frozenset[str] = frozenset()
    # Modules whose other random numbers are disabled in every pass, and the drawing operation.
    silenced: Mapping[str, str] = field(default_factory=dict)

    def run(self, image: Tensor, replace: Replace = unchanged) -> dict[str, Tensor]:
        """Run the net with `replace` for its dropouts; GraphError if they are not `drops`."""
        with watch(self.net, replace, self.takes_eval, self.drops, self.training) as seen:
            outputs = named_outputs(self.net(image))
        seen.require_all_met()
        return outputs


def find_dropout(
    net: nn.Module, height: int, width: int, allow_silenced: bool = False, is_live: bool = True
) -> MarkedNet:
    """
    Find every dropout of a net, for an image of `height` and `width`.

    The net is not modified. `allow_silenced` disables random numbers that no mask can replace;
    without `is_live` the net runs as after eval(). Raises GraphError if the net cannot run at that
    size, draws random numbers in another way, or cannot drop without other changes of its result.
    """
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    pristine = plain_copy(net)
    _require_statistics(pristine)
    require_no_blocks(pristine)
    with own_randomness():
        plain = _try(pristine, image)
        if not plain.outputs:
            raise _fails(pristine, image, plain.problem)
        _require_repeatable(pristine, image)
        if not is_live:
            return MarkedNet(pristine, plain.drops, tuple(plain.outputs), frozenset(), False)
        _require_own_modules(net, pristine, image)
        marked = _marked(pristine, image, plain, allow_silenced)
        if marked.takes_eval:
            _require_repeatable(marked.net, image, marked.training, True)
        _require_eval(pristine, image, plain, marked)
    return marked


# Sizes to try if a net fails: sides that are multiples of these, and numbers of channels.
_STRIDES, _PLANES = (8, 16, 32, 64), (1, 2, 4, 6)


def _fails(net: nn.Module, image: Tensor, problem: str) -> GraphError:
    """Return the error of a net that fails, with a size or channel count that works if found."""
    height, width = image.shape[2:]
    came = f'the net fails on an image of (1, 3, {height}, {width})'
    for stride in _STRIDES:
        sides = [-(-side // stride) * stride for side in (height, width)]
        if sides != [height, width] and _takes(net, torch.zeros(1, 3, *sides)):
            return GraphError(f'{came}, and takes one of (1, 3, {sides[0]}, {sides[1]})',
                              'a size that it takes', f'compile for {sides[1]}x{sides[0]}')
    for planes in _PLANES:
        if _takes(net, torch.zeros(1, planes, height, width)):
            return GraphError(f'the net takes images of {planes} planes and not of three',
                              'red, green and blue', 'put a layer in front that converts these')
    return GraphError(f'{came}: {problem}', 'a net that runs in eval mode at the given size, on '
                      'the CPU and in float32')


def _takes(net: nn.Module, image: Tensor) -> bool:
    return bool(_try(net, image, is_strict=False).outputs)


def _marked(
    pristine: nn.Module, image: Tensor, plain: _Trial, allow_silenced: bool
) -> MarkedNet:
    source = copied(pristine)
    training = trained(source)
    first = _try(copied(source), image, training, is_strict=False)
    norms = {name for name, module in source.named_modules() if is_norm(module)}
    dropped = (*first.drops, *(  # norms stay in eval mode, with their dropout, if they have any
        drop for drop in _try(copied(source), image, takes_eval=True, is_strict=False).drops
        if drop.module in norms))
    own = training - first.wrote
    if first.drew and not allow_silenced:
        raise draws(*next(iter(first.drew.items())), _OR_SILENCED)
    twin, live, training, silenced = _settled(source, image, own)
    _require_repeatable(twin, image, training)
    problem = live.problem or _difference(plain.outputs, live.outputs)
    apart = {*silenced, *first.chose, *first.wrote, *norms}
    lost = [drop.site for drop in dropped if drop.module in apart and drop not in live.drops]
    if problem or lost:
        problem = problem or f'it draws, chooses, writes or normalises beside {lost[0]!r}'
        _log.log(logging.WARNING if 'differs by' in problem else logging.INFO,
                 'the net changes in training mode (%s): passes are those of eval mode, with '
                 'dropout on', problem)
        both = replace(live, drops=(*live.drops, *(d for d in dropped if d not in live.drops)))
        marked = _in_eval_mode(copied(pristine), image, plain, both, problem, set(silenced))
        if first.outputs:
            _require_live(marked.drops, both.drops)
    else:
        marked = MarkedNet(twin, live.drops, tuple(plain.outputs), training, False)
    return replace(marked, drawn_by=own, silenced=silenced)


def _require_eval(
    pristine: nn.Module, image: Tensor, plain: _Trial, marked: MarkedNet
) -> None:
    """
    Require that modules which eval() leaves in training mode contain all dropout and nothing else.

    Some nets keep dropout on for Monte Carlo passes. With the dropout removed, they must compute
    the same as with every module in eval mode, which is the reference for all other checks.
    """
    still = in_training(pristine)
    if not still:
        return
    trial = _try(copied(pristine), image, still)
    problem = trial.problem or _difference(plain.outputs, trial.outputs)
    if problem:
        norms = [n for n, module in pristine.named_modules() if n in still and is_norm(module)]
        raise GraphError(
            f'eval() of the net leaves {place(min(norms or still))} in training mode, where the '
            f'net computes something else ({problem})', 'nothing but dropout left on by eval()',
            'let eval() put it into eval mode')
    always = {_key(drop) for drop in plain.drops}
    drops = {_key(drop) for drop in marked.drops}
    kept = {_key(drop) for drop in trial.drops} - always
    apart = kept ^ (drops - always)
    if apart and kept:
        name = min(str(key[0]) for key in apart)
        raise GraphError(
            f'{place(name)} drops after only one of train() and eval() of the net, and eval() '
            'keeps other dropout on', 'the same dropout in both modes, or none after eval()',
            'let eval() switch all of it off, or keep on what train() switches on')


def _key(drop: Drop) -> tuple[object, ...]:
    return drop.module, drop.p, drop.kind


def _require_live(found: Iterable[Drop], live: Iterable[Drop]) -> None:
    """Raise for dropout found in eval mode that is off in training mode, so is never drawn."""
    known = {_key(drop) for drop in live}
    off = [drop for drop in found if _key(drop) not in known]
    if off:
        raise GraphError(
            f'{place(off[0].module)} has a dropout of rate {off[0].p:g} that is off in training '
            'mode, or of another rate, in a net that must be kept in eval mode',
            'the same rate in training mode', 'switch it on at that rate, or leave it out')


def _settled(
    source: nn.Module, image: Tensor, training: frozenset[str]
) -> tuple[nn.Module, _Trial, frozenset[str], dict[str, str]]:
    """Put modules into eval mode until none draws or chooses; return the last trial."""
    drew: dict[str, str] = {}
    for left in reversed(range(_ROUNDS)):
        twin = copied(source)
        trial = _try(twin, image, training, is_strict=not left)
        if not trial.drew and not trial.chose:
            break
        for name in trial.drew | trial.chose:  # in eval mode, a module around it switches it on
            training -= {name} if name in training else _around(name)
        drew |= trial.drew
    return twin, trial, training, drew


def _around(name: str) -> frozenset[str]:
    """Return the names of the modules that contain a module, including the net itself."""
    parts = name.split('.')
    return frozenset('.'.join(parts[:n]) for n in range(len(parts)))


def _in_eval_mode(
    twin: nn.Module, image: Tensor, plain: _Trial, live: _Trial, why: str, silenced: set[str]
) -> MarkedNet:
    """Keep the net in eval mode, except for modules that drop only in training mode."""
    first = _try(copied(twin), image, takes_eval=True)
    seen = {drop.module for drop in first.drops}
    hidden = frozenset({drop.module for drop in live.drops} & plain.ran - seen - silenced)
    trial = _try(twin, image, hidden, takes_eval=True)
    problem = trial.problem or _difference(plain.outputs, trial.outputs)
    lost = hidden - {drop.module for drop in trial.drops}
    if problem or lost:
        name = min(lost or hidden or seen or {''})
        raise GraphError(
            f'{place(name)} drops in training mode only, where the net computes something else '
            f'({problem or why})', 'the same result where nothing is dropped',
            'divide what is kept by 1 - p, in a module of its own, such as torch.nn.Dropout',
        )
    return MarkedNet(twin, trial.drops, tuple(plain.outputs), hidden, True)


@dataclass
class _Trial:
    outputs: dict[str, Tensor] = field(default_factory=dict)
    drops: tuple[Drop, ...] = ()
    ran: set[str] = field(default_factory=set)
    drew: dict[str, str] = field(default_factory=dict)
    chose: dict[str, str] = field(default_factory=dict)
    wrote: frozenset[str] = frozenset()
    problem: str = ''


def _try(
    net: nn.Module, image: Tensor, training: frozenset[str] = frozenset(),
    takes_eval: bool = False, is_strict: bool = True,
) -> _Trial:
    """
    Run a net without its dropout; an error that it raises becomes the trial's `problem`.

    Other randomness and choices by values raise GraphError; if not `is_strict`, they are recorded.
    """
    before = {key: value.clone() for key, value in net.state_dict().items()
              if isinstance(value, Tensor)}
    trial = _Trial()
    with (torch.no_grad(), warnings.catch_warnings(),
          watch(net, takes_eval=takes_eval, training=training) as catcher):
        warnings.simplefilter('ignore')
        try:
            given = image.clone()
            noted = None if is_strict else (trial.drew, trial.chose)
            with ForwardGuard(catcher, given, noted):
                trial.outputs = named_outputs(net(given))
        except UncertaintySegError:
            raise
        except Exception as err:
            trial.problem = told(err)
    trial.drops, trial.ran = tuple(catcher.drops), catcher.ran
    after = net.state_dict()
    moved = [key for key, value in before.items() if not torch.equal(value, after[key])]
    trial.wrote = frozenset(key.rpartition('.')[0] for key in moved)
    if moved and not trial.problem:
        trial.problem = f'it writes to its {moved[0]!r}'
    return trial


def _difference(plain: dict[str, Tensor], other: dict[str, Tensor]) -> str:
    """Return how two results of a net differ; an empty string if they do not."""
    if list(plain) != list(other):
        return (f'it returns {some_of(map(repr, other))} in place of '
                f'{some_of(map(repr, plain))}')
    for name, value in plain.items():
        if value.shape != other[name].shape:
            return f'its {name!r} is {tuple(other[name].shape)} in place of {tuple(value.shape)}'
        if not value.is_floating_point() or not value.numel():
            continue
        scale = value.abs().max().clamp(min=1e-6)
        apart = float((value - other[name]).abs().max() / scale)
        if not apart <= _TOLERANCE:
            return f'its {name!r} differs by {apart:.2g} of its largest value'
    return ''


def _require_statistics(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise GraphError(
                f'module {name!r} is {type(module).__name__} without running statistics, so that '
                'a pass depends on the others of its batch', 'track_running_stats=True',
                'train it so, or take GroupNorm',
            )


def plain_copy(net: nn.Module) -> nn.Module:
    """
    Return a copy on the CPU, in float32 and eval mode, without torch's wrappers.

    Raises GraphError if it is no net, is scripted, which hides its dropout, or cannot be copied.
    """
    return switch(copied(_unwrapped(net)).cpu().float(), False)


def _unwrapped(net: nn.Module) -> nn.Module:
    inner = getattr(net, '_orig_mod', net)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner.module
    if not isinstance(inner, nn.Module):
        raise GraphError(f'the net is {type(inner).__name__}', 'a torch.nn.Module')
    for name, module in inner.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise GraphError(
                f'{place(name)} is scripted or traced by torch.jit, where no dropout can be seen',
                'modules of Python', 'build it without torch.jit, or export ONNX')
    return inner


def copied(net: nn.Module) -> nn.Module:
    """Return a copy that shares members which cannot be copied; GraphError if that fails too."""
    try:
        return copy.deepcopy(net)
    except Exception as err:  # some members cannot be copied, such as locks or computed weights
        _log.info('some members are shared with the copy, since they cannot be copied (%s)',
                  told(err))
    try:
        return copy.deepcopy(net, dict(_shared(net)))
    except Exception as err:
        raise GraphError('the net cannot be copied by copy.deepcopy',
                         'a net that can be copied, since the result is compared with a copy',
                         'remove members that hold a file, a lock or a process') from err


def _shared(net: nn.Module) -> Iterator[tuple[int, Any]]:
    """Yield id and replacement for each attribute that cannot be copied."""
    for module in net.modules():
        for value in (*vars(module).values(), *module.buffers(recurse=False)):
            if isinstance(value, Tensor):
                if not value.is_leaf:  # a hook such as weight_norm's computes it in each run
                    yield id(value), value.detach().clone()
            elif not isinstance(value, dict | nn.Module | MethodType) and not _is_copied(value):
                yield id(value), value


def _is_copied(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:  # a class may raise anything when it is copied
        return False
    return True


def require_shapes(net: nn.Module) -> None:
    """Raise GraphError if a net has lazy modules that have not run yet."""
    inner = _unwrapped(net)
    if any(is_lazy(x) for x in (*inner.parameters(), *inner.buffers())):
        raise GraphError('the net has lazy modules without shapes', 'one that has run',
                         'run it once on an image of the size to compile for')


def named_outputs(returned: Any) -> dict[str, Tensor]:
    """Return every tensor of a net's result by name; GraphError if there is none."""
    found: dict[str, Tensor] = {}
    for wish, value in _walk(returned, ''):
        name = wish
        while name in found:
            name += '_'
        found[name] = value
    if not found:
        raise GraphError(f'the net returns {type(returned).__name__} without a tensor',
                         'logits, alone or in a dict, sequence or dataclass')
    if len(found) == 1 and not isinstance(returned, Mapping):
        return {SINGLE: next(iter(found.values()))}
    return found


def _walk(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or SINGLE, value
        return
    for key, part in _parts(value):
        is_place = isinstance(key, int) and not name
        yield from _walk(part, f'{SINGLE}_{key}' if is_place else f'{name}_{key}'.lstrip('_'))


def _parts(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if hasattr(value, '_fields'):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return []


# -------------------------------------------------------------------------------------------------
# Randomness from outside torch is detected by running the net again.

_REPEATS = 5


def _require_own_modules(net: nn.Module, twin: nn.Module, image: Tensor) -> None:
    """Require that the dropout of a copy does not follow the modes of the net it was made of."""
    modes = {module: module.training for module in net.modules() if not is_norm(module)}
    drops = []
    try:
        for is_training in (False, True):
            for module in modes:
                module.training = is_training
            drops.append(_try(twin, image, is_strict=False).drops)
    finally:
        for module, mode in modes.items():
            module.training = mode
    for drop in drops[0] != drops[1] and drops[1] or ():
        raise GraphError(
            f'the dropout of {place(drop.module)} is called by a function that holds the net '
            'which was given (a forward or hook that was replaced), so that no copy can switch it',
            'a forward that finds its modules by its argument self',
            'write it as a method of the class, or bind it by types.MethodType')


def _require_repeatable(
    net: nn.Module, image: Tensor, training: frozenset[str] = frozenset(),
    takes_eval: bool = False,
) -> None:
    """Require that a net without its dropout always returns the same result."""
    first = _try(net, image, training, takes_eval, is_strict=False)
    for seed in range(_REPEATS):
        random.seed(seed)
        np.random.seed(seed)
        other = _try(net, image, training, takes_eval, is_strict=False)
        if not first.outputs or not other.outputs:
            return
        problem = _difference(first.outputs, other.outputs) or \
            first.drops != other.drops and 'another dropout runs'
        if problem:
            raise GraphError(f'two runs of the net on one image differ ({problem})',
                             NO_OTHER_RANDOMNESS, DRAW_BY_DROPOUT)
