# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Refuse what a graph cannot hold, as it happens: other randomness, and choices made by the image.

A trace takes down the operations of one run. A random number would be frozen in it, and so would
the way that the image took where the net looks at values and branches.

"""

from __future__ import annotations

from collections.abc import Iterator
import re
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from uncertainty_seg.errors import GraphError
from uncertainty_seg.training.dropout_watch import DropoutWatch, place

# Operations that look at the shape of their argument only.
_LIKE = re.compile(r'^new_|_like$')
_DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class ForwardGuard(TorchDispatchMode):
    """
    Look at every operation of a run.

    Parameters
    ----------
    watch : DropoutWatch
        Knows which module is running, and has taken the dropout out.
    image : Tensor
        What the net is run on; whatever is computed from it is followed.

    Raises
    ------
    GraphError
        From within the run.

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
        """Judge one operation and run it."""
        options = kwargs or {}
        name = str(func).split('.')[1]
        # Attention carries the tag for its dropout, which is 0 where it gets here.
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
