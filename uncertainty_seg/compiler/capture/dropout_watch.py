# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Intercept every dropout of a running torch net, in any form, and replace it.

torch passes each call of its API to an active mode, however the function was imported. So dropout
is found wherever it is called: in a module, in a plain function, inside attention, behind
``if self.training``. The caller chooses the replacement (nothing, a marker, a given mask);
`marking` decides in which mode the modules run.

A net that draws zeros and ones itself, by ``bernoulli`` or by comparing uniform numbers with one
rate as stochastic depth does, drops too: its draw becomes a mask. Any other use of random numbers
is reported to `on_random`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import math
import re
from types import FunctionType
from typing import Any

import torch
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from uncertainty_seg.compiler.capture.draws import NoMaskError, OwnDraws
from uncertainty_seg.errors import GraphError


@dataclass(frozen=True)
class Drop:
    """One dropout of one forward pass."""

    site: str  # Readable name, also of the mask: [a-zA-Z0-9_], unique in the net.
    module: str  # Path of the module that drops, '' for the net itself.
    p: float  # Probability to drop, in (0, 1).
    kind: str  # 'element' or 'channel'.
    shape: tuple[int, ...]  # Shape of the dropout's input for one image.


Replace = Callable[[Tensor, Drop], Tensor]

# Names of torch's functions in Python and C++; with an underscore at the end they work in place.
_KINDS = {
    'dropout': 'element', 'dropout1d': 'channel', 'dropout2d': 'channel', 'dropout3d': 'channel',
    'feature_dropout': 'channel', 'alpha_dropout': 'element', 'feature_alpha_dropout': 'channel',
}
# The lower bound of SELU, with which AlphaDropout replaces dropped values.
_SATURATED = -1.7580993408473766
# Inside a mode a trace does not record `data`, and would treat its result as a constant.
_DATA = torch.Tensor.data.__get__
# Methods that pass a tensor's values out of torch, where no mode sees their use.
_READS = {'numpy', 'tolist', '__array__', '__dlpack__'}
_BLOCK_CLASS = re.compile(r'^DropBlock')
# Largest relative difference of equal rates in runs of different dtypes.
_SAME_RATE = 1e-6
DRAW_BY_DROPOUT = "use torch's own dropout there, or a module without randomness"


def unchanged(x: Tensor, drop: Drop) -> Tensor:
    """Replace a dropout by nothing, as in eval mode."""
    return x


@contextmanager
def watch(
    net: nn.Module, replace: Replace = unchanged, takes_eval: bool = False,
    known: Iterable[Drop] | None = None, training: Iterable[str] = (),
) -> Iterator[DropoutWatch]:
    """
    Call `replace` in place of each dropout of `net` while the block runs.

    `replace` gets the input of the dropout and its `Drop`; the yielded watch collects `drops`.
    `takes_eval` also replaces dropout called with ``training=False``. `known` are the dropouts of
    an earlier run of the same net, in order. It is needed where values cannot be read, as while
    tracing; a dropout that differs from the next known one then raises GraphError. The modules of
    `training` run in training mode, all others in eval mode.
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
    """Raise GraphError if a net has a DropBlock with a rate above 0."""
    for name, module in net.named_modules():
        rates = [getattr(module, wish, None) for wish in ('drop_prob', 'p')]
        if _BLOCK_CLASS.search(type(module).__name__) and any(rates):
            raise GraphError(f'{place(name)} is DropBlock, whose scale depends on all of its mask',
                             'dropout that multiplies by an independent mask',
                             'take Dropout2d instead, or set its rate to 0')


def place(module: str) -> str:
    """Return the name of a module for use in a sentence."""
    return f'module {module!r}' if module else 'the net itself'


class DropoutWatch(TorchFunctionMode):
    """
    The mode behind `watch`.

    `drops` are the dropouts found so far, except those of rate 0, and `ran` the paths of the
    modules that ran. `on_draw` is called with each tensor that represents drawn zeros and ones,
    `on_random` with each operation whose use of random numbers no mask can replace, and `on_read`
    with each tensor whose values leave torch and the method by which they do.
    """

    def __init__(
        self, replace: Replace, takes_eval: bool, known: Iterable[Drop] | None
    ) -> None:
        super().__init__()
        self.drops: list[Drop] = []
        self.ran: set[str] = set()
        self.on_draw: Callable[[Tensor], None] | None = None
        self.on_random: Callable[[str], None] | None = None
        self.on_read: Callable[[Tensor, str], None] | None = None
        self._replace = replace
        self._takes_eval = takes_eval
        self._known = None if known is None else tuple(known)
        self._stack = ['']
        self._draws = OwnDraws(self._drawn_mask)

    @property
    def module(self) -> str:
        """Path of the module that is running."""
        return self._stack[-1]

    def follow(self, name: str, module: nn.Module) -> list[Any]:
        """Record when a module runs; return the hooks."""
        def enter(*_: Any) -> None:
            self._stack.append(name)
            self.ran.add(name)

        def leave(*_: Any) -> None:
            self._stack.pop()
        return [module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave, always_call=True)]

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Intercept dropout, and pass everything else to torch."""
        options = kwargs or {}
        # Modules of torch.export call operators by their overload, such as dropout.default.
        name = getattr(func, '__name__', '').partition('.')[0]
        if self._draws.are_among([args, options]):
            return self._followed(func, name, args, options)
        if func == _DATA:
            return args[0].detach()
        if name in _READS and self.on_read is not None:
            self.on_read(args[0], name)
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
        if name in ('rand', 'rand_like', 'uniform_'):
            return self._uniform(func, name, args, options)
        return func(*args, **options)

    def _dropout(self, name: str, args: Any, options: dict[str, Any]) -> Tensor:
        x, p, training, inplace = _dropout_arguments(*args, **options)
        if p == 0 or not (training or self._takes_eval):
            return x
        stem = name.removesuffix('_')
        has_no_batch = (stem, x.dim()) in (('dropout1d', 2), ('dropout3d', 4))
        if 'alpha' in stem:
            result = self._alpha(x, p, _KINDS[stem])
        elif has_no_batch and x.shape[0] == 1:
            # With one row, such as a batch of planes given to dropout3d, all or nothing drops.
            result = x * self._mask([1] * x.dim(), p, x.dtype)
        elif has_no_batch:
            result = self._take(x.unsqueeze(0), p, _KINDS[stem]).squeeze(0)
        else:
            result = self._take(x, p, _KINDS[stem])
        return x.copy_(result.clone()) if inplace or name.endswith('_') else result

    def _alpha(self, x: Tensor, p: float, kind: str) -> Tensor:
        """
        Scale and shift x where the mask m is 1 / (1 - p), and put a constant where it is 0.

        Factor and offset are parabolas in m, chosen so that a mask of ones changes nothing.
        """
        ones = x * 0 + 1  # of the net, since a constant does not show where its batch is
        for axis in range(2, x.dim() if kind == 'channel' else 0):
            ones = ones.narrow(axis, 0, 1)
        mask = self._take(ones, p, kind)
        kept, scale = 1 / (1 - p), ((1 - p) * (1 + p * _SATURATED**2)) ** -0.5
        shift = -scale * _SATURATED * p
        low = scale * _SATURATED + shift
        factor, offset = (_parabola(kept, *values) for values in ((0, 1, scale), (low, 0, shift)))
        return x * (mask * (factor[1] + factor[2] * mask)) + (
            offset[0] + mask * (offset[1] + offset[2] * mask))

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
        x, given = args[0], args[1] if len(args) > 1 else options.get('p')
        source = x if given is None and name == 'bernoulli' else given
        # With known drops, values cannot be read; the known drop then gives the probability.
        keep = None if isinstance(source, Tensor) and self._known is not None \
            else self._constant(0.5 if source is None else source)
        if keep in (0.0, 1.0):
            return func(*args, **options)
        result = self._draws.kept(x.shape, keep, x.dtype)
        return self._draws.renamed(x, result) if name.endswith('_') else result

    def _uniform(self, func: Any, name: str, args: Any, options: dict[str, Any]) -> Tensor:
        if name == 'uniform_':
            if args[1:] not in ((), (0, 1)) or options:
                return func(*args, **options)
            return self._draws.uniform(args[0].fill_(0.5))
        options = {key: value for key, value in options.items() if key != 'generator'}
        ones = torch.ones_like if name == 'rand_like' else torch.ones
        return self._draws.uniform(ones(*args, **options) * 0.5)

    def _followed(self, func: Any, name: str, args: Any, options: dict[str, Any]) -> Any:
        try:
            return self._draws.followed(func, name, args, options)
        except NoMaskError:
            if self.on_random is not None:
                self.on_random('rand')
            return func(*args, **options)

    def _constant(self, source: Tensor | float) -> float:
        if not isinstance(source, Tensor):
            return float(source)
        with _disable_current_modes():  # hides this read from the run's `ForwardGuard`
            first = float(source.reshape(-1)[0])
            is_varied = bool((source != first).any())
        if is_varied:
            raise GraphError(f'{place(self.module)} draws with a varying probability',
                             'a constant rate',
                             DRAW_BY_DROPOUT)
        return first

    def _drawn_mask(
        self, shape: Iterable[int], p: float | None, dtype: torch.dtype
    ) -> tuple[Tensor, float]:
        mask = self._mask(shape, p, dtype)
        if self.on_draw is not None:
            self.on_draw(mask)
        return mask, self.drops[-1].p

    def _mask(self, shape: Iterable[int], p: float | None, dtype: torch.dtype) -> Tensor:
        """Return a mask alone: the replacement of a dropout whose input is ones."""
        return self._take(torch.ones(tuple(shape), dtype=dtype), p, 'element')

    def _take(self, x: Tensor, p: float | None, kind: str) -> Tensor:
        if x.dtype == torch.float64 != torch.get_default_dtype():
            raise GraphError(f'{place(self.module)} drops from a tensor of float64', 'float32',
                             'leave out double() there')
        return self._replace(x, self._drop(x.shape, p, kind))

    def _drop(self, shape: Iterable[int], p: float | None, kind: str) -> Drop:
        if self._known is not None:
            drop = self._recognised(p, kind)
        else:
            assert p is not None
            if not 0 < p < 1:
                raise GraphError(f'{place(self.module)} has a dropout rate of {p:g}',
                                 'a rate below 1, that keeps something')
            drop = Drop(self._site(), self.module, p, kind, tuple(map(int, shape)))
        self.drops.append(drop)
        return drop

    def _recognised(self, p: float | None, kind: str) -> Drop:
        """Return the next known drop; GraphError if the current dropout differs from it."""
        drop = next(iter((self._known or ())[len(self.drops):]), None)
        is_rate = drop is not None and (
            p is None or math.isclose(p, drop.p, rel_tol=_SAME_RATE))
        if drop is None or (drop.module, drop.kind) != (self.module, kind) or not is_rate:
            raise _is_changed(self.module)
        return drop

    def require_all_met(self) -> None:
        """Raise GraphError if a run had fewer drops than are known."""
        for drop in (self._known or ())[len(self.drops):]:
            raise _is_changed(drop.module)

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
    Return the softmax (..., L, S) to which scaled_dot_product_attention applies its dropout.

    The arguments are those of torch's function; the result sums to 1 over S.
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


def _is_changed(module: str) -> GraphError:
    return GraphError(f'the dropout of {place(module)} changes between two runs',
                      'the same dropout in the same order in every run',
                      'let train() and eval() alone switch it on and off')


def _dropout_arguments(
    x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False,
    train: bool | None = None,
) -> tuple[Tensor, float, bool, bool]:
    return x, float(p), training if train is None else train, inplace


def _opened(func: Any) -> Any:
    """Return a copy of a torch function that passes its inner calls to modes."""
    inside = {**func.__globals__, 'has_torch_function': lambda _tensors: False}
    twin = FunctionType(func.__code__, inside, func.__name__, func.__defaults__)
    twin.__kwdefaults__ = func.__kwdefaults__
    return twin


def _parabola(third: float, *values: float) -> tuple[float, float, float]:
    """Return (c0, c1, c2) of c0 + c1 m + c2 m^2 with the given values at m = 0, 1 and `third`."""
    at_zero, at_one, at_third = values
    curve = ((at_third - at_zero) / third - (at_one - at_zero)) / (third - 1)
    return at_zero, at_one - at_zero - curve, curve
