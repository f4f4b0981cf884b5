# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Intercept every dropout of a running torch net, in any form, and put something in its place.

torch passes each call of its API to an active mode, however the function was imported. So dropout
is found where it happens: in a module, in a plain function, inside attention, behind
``if self.training``. What takes its place (nothing, a marker, a given mask) is the caller's
choice; `marking` decides in which mode the modules run. Modules that draw their own numbers are
replaced where running them proves what they drop; what a trace would freeze is refused.

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
import copy
from dataclasses import dataclass
from functools import partial
import math
import random
import re
import sys
from types import FrameType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import handle_torch_function, has_torch_function_unary, TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes, TorchDispatchMode

from uncertainty_seg.errors import GraphError


@dataclass(frozen=True)
class Drop:
    """
    One dropout of one forward pass.

    Attributes
    ----------
    site : str
        Its name, for people and for the mask: [a-zA-Z0-9_], unique in the net.
    module : str
        Path of the module it happens in, '' for the net itself.
    p : float
        Chance to drop, in (0, 1).
    kind : str
        'element', 'channel' or 'path'.
    shape : tuple of int
        Shape of what is dropped from, for one image.

    """

    site: str
    module: str
    p: float
    kind: str
    shape: tuple[int, ...]


Replace = Callable[[Tensor, Drop], Tensor]

# Names of torch's functions, in Python and in C++; an underscore at the end means in place.
_KINDS = {
    'dropout': 'element', 'dropout1d': 'channel', 'dropout2d': 'channel', 'dropout3d': 'channel',
    'feature_dropout': 'channel',
}
_ALPHA = ('alpha_dropout', 'feature_alpha_dropout')
# Inside a mode a trace does not see it, and would take what it gives for a constant.
_DATA = torch.Tensor.data.__get__
# Methods of a tensor that hand its values to what is not torch, and is not seen.
_READS = {'numpy', 'tolist', '__array__', '__dlpack__'}
_BLOCK_CLASS = re.compile(r'^DropBlock')
_BLOCK_FUNCTION = re.compile(r'^_?drop_?block', re.IGNORECASE)
# Relative difference of rates that are one, where a net is run in another type.
_SAME_RATE = 1e-6
_HOW_TO_DRAW = ("use torch's own dropout there, or a module without randomness")


def unchanged(x: Tensor, drop: Drop) -> Tensor:
    """Replace a dropout by nothing: the net of eval mode."""
    return x


@contextmanager
def watch(
    net: nn.Module, replace: Replace = unchanged, takes_eval: bool = False,
    known: Iterable[Drop] | None = None, training: Iterable[str] = (),
) -> Iterator[DropoutWatch]:
    """
    Put `replace` in the place of each dropout of `net` while the block runs.

    Parameters
    ----------
    net : Module
        From `prepare_paths`; hooks are on it inside the block only.
    replace : callable
        Gets what would have been dropped from, and which dropout it is.
    takes_eval : bool
        Take calls with ``training=False`` for live ones too.
    known : iterable of Drop, optional
        What an earlier run of the same net met, in order; needed where values cannot be read,
        as while a net is traced. Another dropout than the one whose turn it is, is a GraphError.
    training : iterable of str
        Modules that run in training mode; all others run in eval mode.

    Yields
    ------
    DropoutWatch
        Whose `drops` grow.

    """
    catcher = DropoutWatch(replace, takes_eval, known)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it ignores attention dropout
    modules = dict(net.named_modules())
    before = {name: module.training for name, module in modules.items()}
    hooks = [hook for name, module in modules.items() for hook in catcher.follow(name, module)]
    chosen = set(training)
    try:
        for name, module in modules.items():
            module.training = name in chosen
        with catcher:
            yield catcher
    finally:
        for name, module in modules.items():
            module.training = before[name]
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()


def require_no_blocks(net: nn.Module) -> None:
    """Raise GraphError if a net has a DropBlock with a rate."""
    for name, module in net.named_modules():
        if _BLOCK_CLASS.search(type(module).__name__) and _rate_of(module):
            raise _is_drop_block(name)


def _rate_of(module: nn.Module) -> float:
    values = [getattr(module, name, None) for name in ('drop_prob', 'p')]
    return next((float(value) for value in values if isinstance(value, int | float)), 0.0)


def prepare_paths(net: nn.Module, rules: Mapping[str, Mapping[int, DropRule]]) -> None:
    """Let modules whose rules were proven by `find_rules` drop by `_drop_path`, in place."""
    for name, by_rank in rules.items():
        module = net.get_submodule(name)
        # A bound method, so that that of a copy of the net belongs to the copy.
        module.forward = MethodType(_path_forward(by_rank), module)


def _path_forward(rules: Mapping[int, DropRule]) -> Callable[[nn.Module, Tensor], Tensor]:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return _drop_path(x, rules.get(x.dim()), self.training)
    return forward


def _drop_path(x: Tensor, rule: DropRule | None, training: bool) -> Tensor:
    if has_torch_function_unary(x):
        return handle_torch_function(_drop_path, (x,), x, rule, training)
    return x


class DropoutWatch(TorchFunctionMode):
    """
    The mode behind `watch`.

    Attributes
    ----------
    drops : list of Drop
        Dropouts met so far, those of rate 0 left out.
    calls : dict of str to set of ModuleCall
        Paths of the modules that ran, and how each was called.
    on_draw : callable or None
        Is given each tensor that stands for drawn numbers.
    on_read : callable or None
        Is given each tensor whose values leave torch, and by which method.

    """

    def __init__(
        self, replace: Replace, takes_eval: bool, known: Iterable[Drop] | None
    ) -> None:
        super().__init__()
        self.drops: list[Drop] = []
        self.calls: dict[str, set[ModuleCall]] = {}
        self.on_draw: Callable[[Tensor], None] | None = None
        self.on_read: Callable[[Tensor, str], None] | None = None
        self._replace = replace
        self._takes_eval = takes_eval
        self._known = None if known is None else tuple(known)
        self._stack = ['']

    @property
    def module(self) -> str:
        """Path of the module that is running."""
        return self._stack[-1]

    def follow(self, name: str, module: nn.Module) -> list[Any]:
        """Record when a module runs; return the hooks."""
        def enter(_module: nn.Module, args: Any, options: Any) -> None:
            self._stack.append(name)
            is_one = len(args) == 1 and isinstance(args[0], Tensor) and not options
            shape = tuple(int(n) for n in args[0].shape) if is_one else None
            self.calls.setdefault(name, set()).add(ModuleCall(shape))

        def leave(_module: nn.Module, _args: Any, _result: Any) -> None:
            self._stack.pop()
        return [module.register_forward_pre_hook(enter, with_kwargs=True),
                module.register_forward_hook(leave, always_call=True)]

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Intercept dropout, and pass everything else to torch."""
        options = kwargs or {}
        name = getattr(func, '__name__', '')
        if func is _drop_path:
            return self._path(*args, **options)
        if func == _DATA:
            return args[0].detach()
        if name in _READS and self.on_read is not None:
            self.on_read(args[0], name)
        if name.removesuffix('_') in _KINDS:
            return self._dropout(name, args, options)
        if name.removesuffix('_') in _ALPHA:
            return self._alpha(*args, **options)
        if name == 'scaled_dot_product_attention':
            return self._attention(func, args, options)
        if name == 'multi_head_attention_forward':
            if self._takes_eval:
                options = {**options, 'training': True}
            with self:
                return _opened(func)(*args, **options)
        if name in ('bernoulli', 'bernoulli_'):
            return self._bernoulli(func, name, args, options)
        return func(*args, **options)

    def _dropout(self, name: str, args: Any, options: dict[str, Any]) -> Tensor:
        x, p, training, inplace = _dropout_arguments(*args, **options)
        if p == 0 or not (training or self._takes_eval):
            return x
        stem = name.removesuffix('_')
        has_no_batch = (stem, x.dim()) in (('dropout1d', 2), ('dropout3d', 4))
        # Of one row, such as a batch of planes given to dropout3d, all or nothing is dropped.
        is_path = has_no_batch and x.shape[0] == 1
        has_no_batch = has_no_batch and not is_path
        whole = x.unsqueeze(0) if has_no_batch else x
        result = self._take(whole, p, 'path' if is_path else _KINDS[stem])
        result = result.squeeze(0) if has_no_batch else result
        return x.copy_(result) if inplace or name.endswith('_') else result

    def _alpha(
        self, x: Tensor, p: float = 0.5, training: bool = False, train: bool = False, *_: Any,
        **__: Any,
    ) -> Tensor:
        if p and (training or train or self._takes_eval):
            raise GraphError(f'{place(self.module)} is AlphaDropout, which shifts what it keeps',
                             'dropout that multiplies by an independent mask',
                             'train the network with Dropout')
        return x

    def _path(self, x: Tensor, rule: DropRule | None, training: bool) -> Tensor:
        if rule is None or not (training or self._takes_eval):
            return x
        shape = [int(side) if is_own else 1
                 for side, is_own in zip(x.shape, rule.axes, strict=True)]
        if all(side == 1 for side in shape):
            return self._take(x, rule.p, 'path')
        if shape == list(x.shape):
            return self._take(x, rule.p, 'element')
        return x * self._take(torch.ones(shape, dtype=x.dtype), rule.p, 'element')

    def _attention(self, func: Any, args: Any, options: dict[str, Any]) -> Tensor:
        def attend(
            query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
            dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
            enable_gqa: bool = False,
        ) -> Tensor:
            if dropout_p == 0:
                return func(*args, **options)
            weights = attention_weights(query, key, attn_mask, is_causal, scale, enable_gqa)
            if enable_gqa:
                value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
            return self._take(weights, dropout_p, 'element') @ value
        return attend(*args, **options)

    def _bernoulli(self, func: Any, name: str, args: Any, options: dict[str, Any]) -> Tensor:
        if any(_BLOCK_FUNCTION.search(caller) for caller in _callers()):
            raise _is_drop_block(self.module)
        x, given = args[0], args[1] if len(args) > 1 else options.get('p')
        source = x if given is None and name == 'bernoulli' else given
        # Values cannot be read where drops are known: those say what a tensor of chances is.
        keep = None if isinstance(source, Tensor) and self._known is not None \
            else self._constant(0.5 if source is None else source)
        if keep in (0.0, 1.0):
            return func(*args, **options)
        drop = self._drop(x, None if keep is None else 1 - keep, 'element')
        level = torch.full(drop.shape, 1 - drop.p, dtype=x.dtype)
        result = self._replace(level, drop)
        result = x.copy_(result) if name.endswith('_') else result
        if self.on_draw is not None:
            self.on_draw(result)
        return result

    def _constant(self, source: Tensor | float) -> float:
        if not isinstance(source, Tensor):
            return float(source)
        with _disable_current_modes():  # so that the guard of the run does not see this
            first = float(source.reshape(-1)[0])
            is_varied = bool((source != first).any())
        if is_varied:
            raise GraphError(f'{place(self.module)} draws with a chance that varies', 'one rate',
                             _HOW_TO_DRAW)
        return first

    def _take(self, x: Tensor, p: float, kind: str) -> Tensor:
        return self._replace(x, self._drop(x, p, kind))

    def _drop(self, x: Tensor, p: float | None, kind: str) -> Drop:
        if self._known is not None:
            drop = self._recognised(p, kind)
        else:
            assert p is not None
            if not 0 < p < 1:
                raise GraphError(f'{place(self.module)} has a dropout rate of {p:g}',
                                 'a rate below 1, that keeps something')
            drop = Drop(self._site(), self.module, p, kind, tuple(int(n) for n in x.shape))
        self.drops.append(drop)
        return drop

    def _recognised(self, p: float | None, kind: str) -> Drop:
        """Return the known drop whose turn it is; GraphError if this is another one."""
        here = f'{place(self.module)} drops{"" if p is None else f" at a rate of {p:g}"}'
        known = self._known or ()
        if len(self.drops) == len(known):
            raise _is_changed(f'{here}, after all that dropped before')
        drop = known[len(self.drops)]
        is_rate = p is None or math.isclose(p, drop.p, rel_tol=_SAME_RATE)
        if (drop.module, drop.kind) != (self.module, kind) or not is_rate:
            raise _is_changed(f'{here} ({kind}) in place of {place(drop.module)} at one of '
                              f'{drop.p:g} ({drop.kind})')
        return drop

    def require_all_met(self) -> None:
        """Raise GraphError if a run met fewer drops than are known."""
        lost = (self._known or ())[len(self.drops):]
        if lost:
            raise _is_changed(f'{place(lost[0].module)} drops at a rate of {lost[0].p:g} no more')

    def _site(self) -> str:
        wish = re.sub(r'\W', '_', self.module, flags=re.ASCII) or 'dropout'
        taken = {drop.site for drop in self.drops}
        if wish not in taken:
            return wish
        return next(s for n in range(2, len(taken) + 3) if (s := f'{wish}_{n}') not in taken)


def attention_weights(
    query: Tensor, key: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:
    """
    Return the softmax (..., L, S) that the dropout of scaled_dot_product_attention acts on.

    Arguments are those of torch's function; the result sums to 1 over S.

    """
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float('-inf'))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)


def _is_changed(what: str) -> GraphError:
    return GraphError(f'the dropout of the net changes between two runs: {what}',
                      'the same dropout in the same order in every run',
                      'let train() and eval() alone switch it on and off')


def _dropout_arguments(
    x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False,
    train: bool | None = None,
) -> tuple[Tensor, float, bool, bool]:
    return x, float(p), training if train is None else train, inplace


def _opened(func: Any) -> Any:
    """Return a copy of a function of torch whose inner calls are passed to modes."""
    inside = {**func.__globals__, 'has_torch_function': lambda _tensors: False}
    twin = FunctionType(func.__code__, inside, func.__name__, func.__defaults__)
    twin.__kwdefaults__ = func.__kwdefaults__
    return twin


def _callers() -> Iterator[str]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


def place(module: str) -> str:
    """Name a module in a sentence."""
    return f'module {module!r}' if module else 'the net itself'


def _is_drop_block(module: str) -> GraphError:
    return GraphError(
        f'{place(module)} is DropBlock, whose scale depends on all of its mask',
        'dropout that multiplies by an independent mask',
        'take Dropout2d instead, or set its rate to 0',
    )


# -------------------------------------------------------------------------------------------------
# Find by running it what a module drops that draws its own random numbers, such as DropPath.
# Names prove nothing: there are classes called StochasticDepth that contain the branch they drop,
# whose `p` means what is kept, or that never drop. A copy of the module is given thousands of
# samples instead. A mask takes its place only where it returns its input in eval mode, and in
# training mode the input divided by what is kept, or zero, as often as that says. What shares a
# fate (all of a sample, a channel) shares a value of the mask. That is seen on tensors of a few
# channels and pixels; the comparison of whole passes sees what is so on larger ones only.

_PATH_CLASS = re.compile(r'(DropPath|StochasticDepth)$')
_EXPECTED = ('one that returns its input in eval mode, and in training mode the input divided by '
             'what it keeps, or zero')
_FIX = "take torchvision.ops.StochasticDepth, or torch's own dropout, in its place"
# Samples in a run, and runs, of which at least one is to tell dropped samples from kept ones.
_SAMPLES, _RUNS = 2048, 24
# Single runs, where all samples of a run share a fate.
_SINGLE = 500
# Sizes of the axes behind the first: enough to see which of them share a fate.
_SIDE = 3
# Largest error of a kept value, relative, and of a rate that is taken for the stated one.
_EXACT = 1e-5
# Standard deviations of a count; with what `_may_be` adds, one in a million is refused by chance.
_DEVIATIONS = 5.0


@dataclass(frozen=True)
class DropRule:
    """
    What a module drops from a tensor of some number of axes.

    Attributes
    ----------
    p : float
        Chance to drop, in [0, 1).
    axes : tuple of bool
        For each axis, whether its elements are dropped independently of each other.

    """

    p: float
    axes: tuple[bool, ...]


@dataclass(frozen=True)
class ModuleCall:
    """
    How a module was called in a run of the net.

    Attributes
    ----------
    shape : tuple of int or None
        Of its only argument; None where it has others, or none.

    """

    shape: tuple[int, ...] | None


class NoRuleError(Exception):
    """A module does not drop by an independent mask; the text says what it does instead."""


def find_rules(
    net: nn.Module, calls: Mapping[str, Iterable[ModuleCall]], drew: Mapping[str, str],
    dropped: Iterable[str],
) -> dict[str, dict[int, DropRule]]:
    """
    Find the modules of a net whose dropout is proven by running them.

    Raises GraphError if a module called a drop path with a rate does something else.

    """
    known, found = set(dropped), {}
    for name, uses in calls.items():
        module = net.get_submodule(name)
        is_path = bool(_PATH_CLASS.search(type(module).__name__))
        if not name or not (is_path or name in drew):
            continue
        try:
            rules = {len(call.shape or ()): _rule(module, call) for call in uses}
        except NoRuleError as err:
            if is_path and (name in drew or _stated(module) and name not in known):
                raise _is_no_path(name, module, str(err)) from err
            continue  # its dropout is found where it draws, or it stays in eval mode
        found[name] = {rank: rule for rank, rule in rules.items() if rule.p}
        if is_path and not any(found[name].values()) and _stated(module):
            raise _is_no_path(name, module, 'drops nothing in training mode')
    return {name: rules for name, rules in found.items() if rules}


def _is_no_path(name: str, module: nn.Module, problem: str) -> GraphError:
    return GraphError(f'module {name!r} is {type(module).__name__}, which {problem}', _EXPECTED,
                      _FIX)


def _stated(module: nn.Module) -> float:
    """Return the rate of a module, whatever it means, if it has one under a usual name."""
    for name in ('drop_prob', 'p'):
        value = getattr(module, name, None)
        if isinstance(value, int | float):
            return float(value)
    return 0.0


def _rule(module: nn.Module, call: ModuleCall) -> DropRule:
    if not call.shape:
        raise NoRuleError('is given more than one tensor')
    try:
        twin = copy.deepcopy(module)
    except Exception as err:  # as its class pleases
        raise NoRuleError('cannot be copied') from err
    with torch.no_grad(), own_randomness():
        _require_still(twin, torch.rand(call.shape))
        sides = [min(side, _SIDE) for side in call.shape[1:]]
        ratios = _ratios(twin, sides)
        p = _share(ratios)
        fates = ratios == 0
        if len(call.shape) == 1 or p == 0:
            return DropRule(p, (True, *[False] * len(sides)))
        is_row = len(fates) == _SAMPLES and bool((fates != fates[:1]).any())
        if not is_row:  # all samples of a run share a fate
            fates = torch.cat([_ratios_of(twin, [1, *sides]) == 0 for _ in range(_SINGLE)])
    axes = tuple(bool((fates != fates.narrow(axis, 0, 1)).any())
                 for axis in range(1, fates.dim()))
    for axis, is_own in enumerate(axes, 1):
        fates = fates if is_own else fates.narrow(axis, 0, 1)
    _require_independent(fates.flatten(1), p)
    return DropRule(_as_stated(p, _stated(module)), (is_row, *axes))


def _ratios(twin: nn.Module, sides: list[int]) -> Tensor:
    """Run until samples of both fates were seen, if there are any; return what became of them."""
    found = []
    for _ in range(_RUNS):
        found.append(_ratios_of(twin, [_SAMPLES, *sides]))
        dropped = found[-1] == 0
        if dropped.any() and not dropped.all():
            return found[-1]
    return torch.cat(found)


def _require_still(twin: nn.Module, x: Tensor) -> None:
    still = switch(twin, False)(x.clone())
    if not isinstance(still, Tensor) or not torch.equal(still, x):
        raise NoRuleError('does not return its input in eval mode')


def _ratios_of(twin: nn.Module, shape: list[int]) -> Tensor:
    x = torch.rand(shape) + 0.5
    try:
        _require_still(twin, x)
        drawn = switch(twin, True)(x.clone())
    except NoRuleError:
        raise
    except Exception as err:
        raise NoRuleError('takes no batch of small tensors') from err
    if not isinstance(drawn, Tensor) or drawn.shape != x.shape:
        raise NoRuleError('returns another shape in training mode')
    return drawn / x


def _share(ratios: Tensor) -> float:
    """Return the share that is dropped, by the factor of what is kept."""
    kept = ratios[ratios != 0]
    if not kept.numel():
        raise NoRuleError('drops everything in training mode')
    factor = float(kept.median())
    if not float((kept - factor).abs().max()) <= _EXACT * abs(factor):
        raise NoRuleError('multiplies by more than zero and one other number in training mode')
    if factor < 1 - _EXACT or (factor < 1 + _EXACT and kept.numel() < ratios.numel()):
        raise NoRuleError(f'multiplies what it keeps by {factor:.3g} in training mode, so that '
                          'its mean is not its value in eval mode')
    return 1 - 1 / factor if factor > 1 + _EXACT else 0.0


def _require_independent(fates: Tensor, p: float) -> None:
    """Require that each column of (N, n) is dropped at the rate, and each pair at its square."""
    count, columns = fates.shape
    values = fates.double()
    drops = values.sum(0)
    if not all(_may_be(float(k), count, p) for k in drops):
        raise NoRuleError(f'drops {float(drops.mean()) / count:.3g} of its samples and divides '
                          f'the others by {1 - p:.3g}')
    pairs = values.T @ values
    for i in range(columns):
        for j in range(i):
            if not _may_be(float(pairs[i, j]), count, p * p):
                raise NoRuleError('drops elements that depend on each other')


def _may_be(found: float, count: int, p: float) -> bool:
    """Say whether a count of `count` draws may be binomial with the rate `p`."""
    return abs(found - count * p) <= _DEVIATIONS * math.sqrt(count * p * (1 - p)) + _DEVIATIONS


def _as_stated(p: float, stated: float) -> float:
    """Return the rate without the rounding of float32, where the module says which it is."""
    return next((rate for rate in (stated, 1 - stated) if abs(rate - p) < _EXACT), round(p, 6))


@contextmanager
def own_randomness(seed: int = 0) -> Iterator[None]:
    """Seed every generator of random numbers for a block, and put it back behind it."""
    python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch's own walks the stack as well
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


# -------------------------------------------------------------------------------------------------
# Refuse what a trace of a net would freeze: random numbers, and choices by values.

NO_OTHER_RANDOMNESS = 'no randomness but dropout, which masks can replace'
DRAW_BY_DROPOUT = "use torch's own dropout there, or a module without randomness"
# Operations that use only the shape of their argument.
_LIKE = re.compile(r'^new_|_like$')
_DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def draws(module: str, operation: str) -> GraphError:
    """Return the error of a module that draws random numbers which no mask can replace."""
    return GraphError(f'{place(module)} draws random numbers with {operation}',
                      NO_OTHER_RANDOMNESS, DRAW_BY_DROPOUT)


class ForwardGuard(TorchDispatchMode):
    """
    Check every operation of a run, and raise GraphError from within it.

    `watch` knows which module is running, and has taken the dropout out. What is computed from
    `image`, or from a draw that a mask will replace, is followed. Where `noted` is given,
    operations that draw random numbers and those that decide by the image are noted there by
    their module, and run.

    """

    def __init__(
        self, watch: DropoutWatch, image: Tensor,
        noted: tuple[dict[str, str], dict[str, str]] | None = None,
    ) -> None:
        super().__init__()
        self._watch, self._noted = watch, noted
        # By address; the weak reference keeps the address from being used again.
        self._followed: dict[int, StorageWeakRef] = {}
        self._drawn: set[int] = set()
        self._follow(image)
        watch.on_draw = partial(self._follow, is_drawn=True)
        watch.on_read = self._read

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Check one operation and run it."""
        options = kwargs or {}
        name = str(func).split('.')[1]
        # Attention has the tag for its dropout, whose rate is 0 when it arrives here.
        if torch.Tag.nondeterministic_seeded in func.tags and 'scaled_dot_product' not in name:
            if self._noted is None:
                raise draws(self._watch.module, name)
            self._noted[0].setdefault(self._watch.module, name)
        given = [x for x in _tensors([args, options]) if _address(x) in self._followed]
        is_drawn = any(_address(x) in self._drawn for x in given)
        if given and _is_choice(func, args):
            if self._noted is None or is_drawn:
                raise self._decides(name, is_drawn)
            self._noted[1].setdefault(self._watch.module, name)
        result = func(*args, **options)
        if given and not _LIKE.search(name):
            for x in _tensors([result]):
                self._follow(x, is_drawn)
        return result

    def _read(self, x: Tensor, name: str) -> None:
        """Look at values that are handed out of torch: what is done with them is not recorded."""
        if x.layout != torch.strided or _address(x) not in self._followed:
            return
        is_drawn = _address(x) in self._drawn
        if self._noted is None or is_drawn:
            raise self._decides(name, is_drawn)
        self._noted[1].setdefault(self._watch.module, name)

    def _decides(self, name: str, is_drawn: bool) -> GraphError:
        where = place(self._watch.module)
        if is_drawn:
            return GraphError(f'{where} decides by a random number what to do ({name})',
                              'one that is multiplied with a tensor, which a mask can replace',
                              DRAW_BY_DROPOUT)
        return GraphError(
            f'{where} looks at the values of its tensors ({name}) to decide what to do',
            'the same operations for every image',
            'write it with torch.where, or take that check out',
        )

    def _follow(self, x: Tensor, is_drawn: bool = False) -> None:
        reference = StorageWeakRef(x.untyped_storage())
        self._followed.setdefault(reference.cdata, reference)
        if is_drawn:
            self._drawn.add(reference.cdata)


def _address(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


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


# -------------------------------------------------------------------------------------------------
# Ask a net itself which of its modules train() and eval() put into which mode.

_MOST_SAID = 200  # letters


def switch(net: nn.Module, is_training: bool) -> nn.Module:
    """Call train() or eval() of a net, whatever they return; raises GraphError if they fail."""
    call = 'train()' if is_training else 'eval()'
    try:
        net.train() if is_training else net.eval()
    except Exception as err:  # as its class pleases
        said = ' '.join(str(err).split())[:_MOST_SAID]
        raise GraphError(f'{call} of the net fails ({type(err).__name__}: {said})',
                         'one that sets the mode', 'mend it, or leave it out') from err
    return net


def in_training(net: nn.Module) -> frozenset[str]:
    """Name the modules of a net that are in training mode."""
    return frozenset(name for name, module in net.named_modules() if module.training)


def trained(net: nn.Module) -> frozenset[str]:
    """
    Call train() of a net, and put every module into eval mode behind it.

    What else train() does, such as taking merged weights apart, stays done.

    Parameters
    ----------
    net : Module
        Changed in place.

    Returns
    -------
    frozenset of str
        The modules that train() puts into training mode; normalisation left out, which no pass
        may compute from its own image.

    """
    switch(net, True)
    live = in_training(net)
    for module in net.modules():
        module.training = False
    return frozenset(name for name, module in net.named_modules()
                     if name in live and not is_norm(module))


def is_norm(module: nn.Module) -> bool:
    """Say whether a module normalises by statistics."""
    return isinstance(module, _NormBase) or hasattr(module, 'running_mean')
