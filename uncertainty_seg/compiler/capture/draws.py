# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Follow the random numbers that a net draws itself to the place where they decide what is dropped.

Stochastic depth draws zeros and ones by ``bernoulli``, or compares uniform numbers with its rate:
``floor(keep + rand)``, ``rand < keep``. Both equal a mask of mean 1 times the keep probability, so
that for a net which divides by that probability, a mask of ones gives the result of eval mode.
Booleans are represented by zeros and ones. Any other use of drawn numbers raises `NoMaskError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
import math
from typing import Any

import torch
from torch import Tensor

# Takes shape, probability to drop (None to use the known drop's) and dtype; returns a mask and the
# probability.
MakeMask = Callable[[Iterable[int], 'float | None', torch.dtype], tuple[Tensor, float]]
_SAME_RATE = 1e-6
# Operations that return the same values, and operations that read no values.
_COPIES = {'to', 'float', 'type', 'type_as', 'contiguous', 'clone', 'detach'}
# Operations that only change the shape.
_SHAPES = {'view', 'reshape', 'unsqueeze', 'expand', 'expand_as', '__getitem__'}
_QUESTIONS = {'__get__', 'size', 'dim', 'numel', '__len__', 'is_floating_point', 'stride'}
# The effect of adding or subtracting a number on the interval from low to low + 1.
_SHIFTS: dict[str, Callable[[float, float], float]] = {
    'add': lambda low, number: low + number, 'sub': lambda low, number: low - number,
    '__rsub__': lambda low, number: number - low - 1,
}
_NOT = {'__invert__', 'logical_not', 'bitwise_not'}
# Operations that need real booleans (indexing) or combine several draws.
_CHOICES = {'__setitem__', '__getitem__', 'masked_select', 'nonzero', 'index_put',
            *(form.format(word) for form in ('__{}__', 'logical_{}', 'bitwise_{}')
              for word in ('and', 'or', 'xor'))}


class NoMaskError(Exception):
    """Raised if drawn numbers are not used as an independent multiplicative mask."""


@dataclass(frozen=True)
class _Uniform:
    """Numbers drawn from low to low + 1."""

    low: float


@dataclass(frozen=True)
class _Kept:
    """A mask times a factor: 1 where values are kept, else 0."""

    mask: Tensor
    factor: float


class OwnDraws:
    """The drawn numbers of a run; `make_mask` returns a draw's mask and records the dropout."""

    def __init__(self, make_mask: MakeMask) -> None:
        self._make_mask = make_mask
        # By id; holding the tensor prevents its id from being reused.
        self._known: dict[int, tuple[Tensor, _Uniform | _Kept]] = {}

    def are_among(self, values: Any) -> bool:
        """Return whether nested values contain a tensor of drawn numbers."""
        return bool(self._known) and any(id(x) in self._known for x in tensors(values))

    def uniform(self, x: Tensor) -> Tensor:
        """Register a tensor of 0.5 as the representation of numbers drawn from 0 to 1."""
        return self._noted(x, _Uniform(0.0))

    def kept(self, shape: Iterable[int], keep: float | None, dtype: torch.dtype) -> Tensor:
        """Return drawn ones (with probability `keep`) and zeros."""
        sides = tuple(shape)
        if sides in ((), (1,)):  # the passes need an axis, and the mask one beside it
            sides = (1, 1)
        mask, p = self._make_mask(sides, None if keep is None else 1 - keep, dtype)
        return self._noted(mask * (1 - p), _Kept(mask, 1 - p))

    def renamed(self, x: Tensor, source: Tensor) -> Tensor:
        """Copy drawn numbers into another tensor, which is then registered as drawn."""
        return self._noted(x.copy_(source), self._known[id(source)][1])

    def followed(self, func: Any, name: str, args: Any, options: dict[str, Any]) -> Any:
        """Run a torch function on drawn numbers; NoMaskError if they are used in another way."""
        if name in _QUESTIONS:
            return func(*args, **options)
        x, *rest = args
        own = self._of(x)
        others = [self._of(value) for value in tensors([rest, options])]
        is_in_place = name.endswith('_') and not name.startswith('__')
        stem = name.removesuffix('_') if is_in_place else name

        def run() -> Any:
            return func(*args, **options)

        now: _Uniform | _Kept | None = None
        if isinstance(own, _Uniform) and not any(others):
            result, now = self._of_uniform(stem, x, own, rest, run)
        elif any(isinstance(one, _Uniform) for one in (own, *others)):
            raise NoMaskError
        elif isinstance(own, _Kept):
            result, now = _of_kept(stem, x, own, [*rest, *options.values()], run)
        else:
            result = _beside_kept(stem, x, rest, run)
        if is_in_place:
            self._known.pop(id(x), None)
            result = x if result is x else x.copy_(result)
        return result if now is None else self._noted(result, now)

    def _noted(self, x: Tensor, what: _Uniform | _Kept) -> Tensor:
        self._known[id(x)] = x, what
        return x

    def _of(self, x: Any) -> _Uniform | _Kept | None:
        return self._known.get(id(x), (x, None))[1]

    def _of_uniform(
        self, stem: str, x: Tensor, own: _Uniform, rest: list[Any], run: Callable[[], Any]
    ) -> tuple[Tensor, _Uniform | _Kept | None]:
        """Follow sums of uniform numbers; draw a mask where they are compared with a rate."""
        number = _number(rest)
        if stem in _COPIES | _SHAPES and (result := run()).is_floating_point() \
                and result.numel() == x.numel():
            return result, own
        if stem in _SHIFTS and number is not None:
            return x * 1, _Uniform(_SHIFTS[stem](own.low, number))
        keep = None
        if stem in ('lt', 'le', 'gt', 'ge') and number is not None:
            below = min(max(number - own.low, 0.0), 1.0)
            keep = below if stem in ('lt', 'le') else 1 - below
        elif stem == 'floor' and 0 <= own.low <= 1:
            keep = own.low
        if keep is None:
            raise NoMaskError
        if keep in (0.0, 1.0):
            return torch.full_like(x, keep), None
        result = self.kept(x.shape, keep, x.dtype)
        return result, self._of(result)


def _of_kept(
    stem: str, x: Tensor, own: _Kept, rest: list[Any], run: Callable[[], Any]
) -> tuple[Any, _Kept | None]:
    """Compute operations on booleans with zeros and ones."""
    number = _number(rest)
    if stem in _SHAPES and not (stem == '__getitem__' and list(tensors(rest))):
        result = run()
        return result, _Kept(result / own.factor, own.factor)
    if stem in _CHOICES:
        raise NoMaskError
    if stem == 'bool' or any(value is torch.bool for value in rest):
        return x, own
    if stem in _NOT:
        result = 1 - x
        return result, _Kept(result, 1.0)
    if stem == 'where' and len(rest) == 2:
        x = _aligned(x, rest[0])
        return x * rest[0] + (1 - x) * rest[1], None
    if stem == 'mul' and rest and isinstance(rest[0], Tensor):
        return _aligned(x, rest[0]) * rest[0], None
    if stem == 'div' and number and math.isclose(own.factor, number, rel_tol=_SAME_RATE):
        return own.mask * 1, None
    return run(), None


def _beside_kept(stem: str, x: Any, rest: list[Any], run: Callable[[], Any]) -> Any:
    if stem in _CHOICES:
        raise NoMaskError
    if stem == 'masked_fill' and len(rest) == 2:
        return x * (1 - rest[0]) + rest[0] * rest[1]
    return x * _aligned(rest[0], x) if stem == 'mul' else run()


def _aligned(kept: Tensor, x: Tensor) -> Tensor:
    """Reshape a single drawn number to the rank of the tensor that it multiplies."""
    is_less = kept.numel() == 1 and kept.dim() < x.dim()
    return kept.reshape([1] * x.dim()) if is_less else kept


def _number(values: list[Any]) -> float | None:
    is_one = len(values) == 1 and isinstance(values[0], int | float)
    return float(values[0]) if is_one else None


def tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dicts."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors(value)
    elif isinstance(values, dict):
        yield from tensors(list(values.values()))
