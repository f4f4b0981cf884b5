# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Intercept every dropout of a running torch net, in any form, and put something in its place.

torch passes each call of its API to an active mode, however the function was imported. So dropout
is found where it happens: in a module, in a plain function, inside attention, behind
``if self.training``. What takes its place (nothing, a marker, a given mask) is the caller's
choice; `marking` decides in which mode the modules run.

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import inspect
import re
import sys
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import nn, Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary, TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

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
        'element', 'channel', 'path', 'alpha' or 'feature_alpha'.
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
    'feature_dropout': 'channel', 'alpha_dropout': 'alpha',
    'feature_alpha_dropout': 'feature_alpha',
}
_PATH_CLASS = re.compile(r'(DropPath|StochasticDepth)$')
_BLOCK_CLASS = re.compile(r'^DropBlock')
_BLOCK_FUNCTION = re.compile(r'^_?drop_?block', re.IGNORECASE)
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
        as while a net is traced.
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


def prepare_paths(net: nn.Module) -> None:
    """
    Let DropPath and StochasticDepth modules drop by `_drop_path`, in place.

    Raises GraphError if one of them, or a DropBlock, drops in a way that is no multiplication by a
    mask.

    """
    for name, module in net.named_modules():
        class_name = type(module).__name__
        rate = _rate_of(module)
        if _BLOCK_CLASS.search(class_name) and rate:
            raise _is_drop_block(name)
        if not _PATH_CLASS.search(class_name) or rate is None or not _takes_one(module):
            continue  # one that keeps its rate elsewhere is found where it draws
        if not getattr(module, 'scale_by_keep', True) and rate:
            raise GraphError(f'{name} is {class_name} with scale_by_keep=False, whose mean is not '
                             'its value in eval mode', 'scale_by_keep=True')
        module.forward = _path_forward(module, rate)


def _rate_of(module: nn.Module) -> float | None:
    """Return the rate of a module that drops, if it has one under a usual name."""
    for name in ('drop_prob', 'p'):
        value = getattr(module, name, '')
        if value is None or isinstance(value, int | float):
            return float(value or 0.0)
    return None


def _takes_one(module: nn.Module) -> bool:
    return len(inspect.signature(module.forward).parameters) == 1


def _path_forward(module: nn.Module, rate: float) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        is_row = getattr(module, 'mode', 'row') == 'row'
        return _drop_path(x, rate, module.training, is_row)
    return forward


def _drop_path(x: Tensor, p: float, training: bool, is_row: bool) -> Tensor:
    if has_torch_function_unary(x):
        return handle_torch_function(_drop_path, (x,), x, p, training, is_row)
    return x


class DropoutWatch(TorchFunctionMode):
    """
    The mode behind `watch`.

    Attributes
    ----------
    drops : list of Drop
        Dropouts met so far, those of rate 0 left out.
    called : set of str
        Paths of the modules that ran.

    """

    def __init__(
        self, replace: Replace, takes_eval: bool, known: Iterable[Drop] | None
    ) -> None:
        super().__init__()
        self.drops: list[Drop] = []
        self.called: set[str] = set()
        self._replace = replace
        self._takes_eval = takes_eval
        self._known = None if known is None else iter(known)
        self._stack = ['']

    @property
    def module(self) -> str:
        """Path of the module that is running."""
        return self._stack[-1]

    def follow(self, name: str, module: nn.Module) -> list[Any]:
        """Record when a module runs; return the hooks."""
        def enter(_module: nn.Module, _args: Any) -> None:
            self._stack.append(name)
            self.called.add(name)

        def leave(_module: nn.Module, _args: Any, _result: Any) -> None:
            self._stack.pop()
        return [module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave, always_call=True)]

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Intercept dropout, and pass everything else to torch."""
        options = kwargs or {}
        name = getattr(func, '__name__', '')
        if func is _drop_path:
            return self._path(*args, **options)
        if name.removesuffix('_') in _KINDS:
            return self._dropout(name, args, options)
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
        whole = x.unsqueeze(0) if has_no_batch else x
        result = self._take(whole, p, _KINDS[stem])
        result = result.squeeze(0) if has_no_batch else result
        return x.copy_(result) if inplace or name.endswith('_') else result

    def _path(self, x: Tensor, p: float, training: bool, is_row: bool) -> Tensor:
        if p == 0 or not (training or self._takes_eval):
            return x
        if is_row and x.shape[0] != 1:  # a row is then no whole sample, and each has its own
            ones = torch.ones([int(x.shape[0]), *[1] * (x.dim() - 1)], dtype=x.dtype)
            return x * self._take(ones, p, 'element')
        return self._take(x, p, 'path')

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
        if self._known is None:
            keep = self._constant(0.5 if source is None else source)
            if keep in (0.0, 1.0):
                return func(*args, **options)
        else:
            keep = 0.5  # the known drop says what it is
        drop = self._drop(x, 1 - keep, 'element')
        level = torch.full(drop.shape, 1 - drop.p, dtype=x.dtype)
        result = self._replace(level, drop)
        return x.copy_(result) if name.endswith('_') else result

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

    def _drop(self, x: Tensor, p: float, kind: str) -> Drop:
        if self._known is not None:
            drop = next(self._known)
        else:
            if not 0 < p < 1:
                raise GraphError(f'{place(self.module)} has a dropout rate of {p:g}',
                                 'a rate below 1, that keeps something')
            drop = Drop(self._site(), self.module, p, kind, tuple(int(n) for n in x.shape))
        self.drops.append(drop)
        return drop

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
