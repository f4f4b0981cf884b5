# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
List the dropouts of a torch net, and the mode its modules must run in for all of them to show.

Dropout behind ``if self.training`` shows in training mode only. A net whose other results change
in that mode stays in eval mode, except for the modules that drop. In both cases random images
prove that, dropout aside, the net computes what it computes in eval mode.

A trace records the operations of one run. A random number would be frozen in it, and so would the
branch that the image took where the net decides by values: `ForwardGuard` refuses both when they
happen.

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import copy
import dataclasses
from dataclasses import dataclass, field
import logging
import re
from typing import Any
import warnings

import torch
from torch import nn, Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.utils._python_dispatch import TorchDispatchMode

from uncertainty_seg.errors import GraphError, UncertaintySegError
from uncertainty_seg.training.dropout_watch import (
    Drop,
    DropoutWatch,
    place,
    prepare_paths,
    Replace,
    unchanged,
    watch,
)

# Operations that use only the shape of their argument.
_LIKE = re.compile(r'^new_|_like$')
_DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
SINGLE = 'output'
_log = logging.getLogger(__name__)
# Largest difference between the two modes, relative to the largest output.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class MarkedNet:
    """
    A copy of a net that is ready to run with something in the place of its dropout.

    Attributes
    ----------
    net : Module
        The copy, in eval mode.
    drops : tuple of Drop
        Every dropout of a rate above 0, in the order they run.
    outputs : tuple of str
        Names of the net's output tensors.
    training : frozenset of str
        Modules that must be in training mode to drop.
    takes_eval : bool
        Whether dropout counts although its module is in eval mode.

    """

    net: nn.Module
    drops: tuple[Drop, ...]
    outputs: tuple[str, ...]
    training: frozenset[str]
    takes_eval: bool

    def run(self, image: Tensor, replace: Replace = unchanged) -> dict[str, Tensor]:
        """Run the net with `replace` in the place of each dropout."""
        with watch(self.net, replace, self.takes_eval, self.drops, self.training):
            return named_outputs(self.net(image))


def find_dropout(net: nn.Module, height: int, width: int) -> MarkedNet:
    """
    Find every dropout of a net.

    Parameters
    ----------
    net : Module
        Maps float32 (1, 3, h, w) to a tensor, or to a dict, sequence or dataclass of tensors;
        left as it is.
    height, width : int
        h and w.

    Returns
    -------
    MarkedNet
        A copy.

    Raises
    ------
    GraphError
        If the net cannot run at that size, draws random numbers in another way, or cannot be
        brought to drop without changing what else it does.

    """
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    plain = _try(_ready_copy(net), image)
    if not plain.outputs:
        raise GraphError(f'the net fails on an image of (1, 3, {height}, {width}): '
                         f'{plain.problem}', 'a net that runs in eval mode at the given size')
    twin = _ready_copy(net)
    training = frozenset(n for n, module in twin.named_modules() if not _is_norm(module))
    live = _try(twin, image, training)
    problem = live.problem or _difference(plain.outputs, live.outputs)
    if not problem:
        return MarkedNet(twin, live.drops, tuple(plain.outputs), training, False)
    _log.info('the net changes in training mode (%s): it stays in eval mode', problem)
    return _in_eval_mode(_ready_copy(net), image, plain, live, problem)


def _in_eval_mode(
    twin: nn.Module, image: Tensor, plain: _Trial, live: _Trial, why: str
) -> MarkedNet:
    """Keep eval mode, and put only the modules that drop in training mode into it."""
    first = _try(copy.deepcopy(twin), image, takes_eval=True)
    seen = {drop.module for drop in first.drops}
    hidden = frozenset({drop.module for drop in live.drops} & plain.called - seen)
    trial = _try(twin, image, hidden, takes_eval=True)
    problem = trial.problem or _difference(plain.outputs, trial.outputs)
    lost = hidden - {drop.module for drop in trial.drops}
    if problem or lost:
        name = min(lost or hidden or seen or {''})
        raise GraphError(
            f'{place(name)} drops in training mode only, where the net computes something else '
            f'({problem or why})', 'the same result but for the dropout',
            'give its dropout a module of its own, such as torch.nn.Dropout',
        )
    return MarkedNet(twin, trial.drops, tuple(plain.outputs), hidden, True)


@dataclass
class _Trial:
    outputs: dict[str, Tensor] = field(default_factory=dict)
    drops: tuple[Drop, ...] = ()
    called: frozenset[str] = frozenset()
    problem: str = ''


def _try(
    net: nn.Module, image: Tensor, training: frozenset[str] = frozenset(),
    takes_eval: bool = False,
) -> _Trial:
    """Run a net without its dropout; an error that it raises is the trial's problem."""
    before = {key: value.clone() for key, value in net.state_dict().items()
              if isinstance(value, Tensor)}
    trial = _Trial()
    with (torch.no_grad(), warnings.catch_warnings(),
          watch(net, takes_eval=takes_eval, training=training) as catcher):
        warnings.simplefilter('ignore')
        try:
            given = image.clone()
            with ForwardGuard(catcher, given):
                trial.outputs = named_outputs(net(given))
        except UncertaintySegError:
            raise
        except Exception as err:
            trial.problem = f'{type(err).__name__}: {first_line(err)}'
    trial.drops, trial.called = tuple(catcher.drops), frozenset(catcher.called)
    after = net.state_dict()
    moved = [key for key, value in before.items() if not torch.equal(value, after[key])]
    if moved and not trial.problem:
        trial.problem = f'it writes to its {moved[0]!r}'
    return trial


def _difference(plain: dict[str, Tensor], other: dict[str, Tensor]) -> str:
    """Say how two results of a net differ; the empty string if they do not."""
    if list(plain) != list(other):
        return f'it returns {list(other)} in place of {list(plain)}'
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


def _ready_copy(net: nn.Module) -> nn.Module:
    twin = plain_copy(net)
    for name, module in twin.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise GraphError(
                f'module {name!r} is {type(module).__name__} without running statistics, so that '
                'a pass depends on the others of its batch', 'track_running_stats=True',
                'train it so, or take GroupNorm',
            )
    prepare_paths(twin)
    return twin


def plain_copy(net: nn.Module) -> nn.Module:
    """
    Return a copy on the CPU, in float32 and eval mode, without torch's wrappers.

    Raises GraphError if the net is scripted, so that its dropout cannot be seen, or is no net.

    """
    inner = getattr(net, '_orig_mod', net)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner.module
    if isinstance(inner, torch.jit.ScriptModule):
        raise GraphError('the net is a scripted or traced one, whose dropout cannot be seen',
                         'a net of Python modules', 'return it before torch.jit, or export ONNX')
    if not isinstance(inner, nn.Module):
        raise GraphError(f'the net is {type(inner).__name__}', 'a torch.nn.Module')
    try:
        twin = copy.deepcopy(inner)
    except Exception as err:  # torch's own words: weights that are computed cannot be copied
        raise GraphError(f'the net cannot be copied ({err})', 'one that copy.deepcopy takes',
                         'take weight_norm off, with torch.nn.utils.remove_weight_norm') from err
    return twin.cpu().float().eval()


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) or hasattr(module, 'running_mean')


def first_line(err: Exception) -> str:
    """Return the first line of an error's text that says something, at most 200 letters."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[0][:200] if lines else 'without a message'


def named_outputs(returned: Any) -> dict[str, Tensor]:
    """
    Name every tensor of a net's result.

    Parameters
    ----------
    returned : object
        As the net's forward returned it.

    Returns
    -------
    dict of str to Tensor
        'output' for a single tensor; else keys and fields by name, elements of a sequence as
        'output_0' and on, nested names joined by an underscore, one more where two clash.

    Raises
    ------
    GraphError
        If there is no tensor in it.

    """
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


class ForwardGuard(TorchDispatchMode):
    """
    Check every operation of a run, and raise GraphError from within it.

    `watch` knows which module is running, and has taken the dropout out. Whatever is computed from
    `image` is followed.

    """

    def __init__(self, watch: DropoutWatch, image: Tensor) -> None:
        super().__init__()
        self._watch = watch
        # By address; the weak reference keeps the address from being used again.
        self._of_image: dict[int, StorageWeakRef] = {}
        self._follow(image)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Check one operation and run it."""
        options = kwargs or {}
        name = str(func).split('.')[1]
        # Attention has the tag for its dropout, whose rate is 0 when it arrives here.
        if torch.Tag.nondeterministic_seeded in func.tags and 'scaled_dot_product' not in name:
            raise GraphError(
                f'{place(self._watch.module)} draws random numbers with {name}',
                'no randomness but dropout, which masks can replace',
                "use torch's own dropout there, or a module without randomness",
            )
        given = [x for x in _tensors([args, options]) if self._is_of_image(x)]
        if given and _is_choice(func, args):
            raise GraphError(
                f'{place(self._watch.module)} looks at the values of its tensors ({name}) to '
                'decide what to do', 'the same operations for every image',
                'write it with torch.where, or take that check out',
            )
        result = func(*args, **options)
        if given and not _LIKE.search(name):
            for x in _tensors([result]):
                self._follow(x)
        return result

    def _follow(self, x: Tensor) -> None:
        reference = StorageWeakRef(x.untyped_storage())
        self._of_image.setdefault(reference.cdata, reference)

    def _is_of_image(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self._of_image


def _is_choice(func: Any, args: Any) -> bool:
    if str(func) == 'aten.index.Tensor':  # by numbers it is a gather, by a mask a choice
        return any(x.dtype in (torch.bool, torch.uint8) for x in _tensors(args[1]))
    return bool(_DATA_DEPENDENT & set(func.tags))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
