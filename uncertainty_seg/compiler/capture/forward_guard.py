# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Refuse what a trace of a net would freeze: random numbers, and choices by values.

A trace records the operations of one run. A random number would be frozen in it, and so would the
branch that the image took where the net decides by values: `ForwardGuard` refuses both when they
happen.

"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
import re
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from uncertainty_seg.compiler.capture.dropout_watch import DropoutWatch, place
from uncertainty_seg.errors import GraphError

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
