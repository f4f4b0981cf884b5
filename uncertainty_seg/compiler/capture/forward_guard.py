# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Raise for operations that a trace of a net would freeze: random numbers, and choices by values.

This module also finds out which modules the net's train() and eval() put into which mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
import random
import re
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode

from uncertainty_seg.compiler.capture.draws import tensors
from uncertainty_seg.compiler.capture.dropout_watch import DRAW_BY_DROPOUT, DropoutWatch, place
from uncertainty_seg.compiler.onnx_tools import told
from uncertainty_seg.errors import GraphError

NO_OTHER_RANDOMNESS = 'no randomness but dropout, as a module or a function of torch'
# Operations that use only the shape of their argument.
_LIKE = re.compile(r'^new_|_like$')
_DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def draws(module: str, operation: str, fix: str = '') -> GraphError:
    """Return the error of a module that draws random numbers which no mask can replace."""
    came = f'{place(module)} draws random numbers that no mask can replace ({operation})'
    return GraphError(came, NO_OTHER_RANDOMNESS, DRAW_BY_DROPOUT + fix)


class ForwardGuard(TorchDispatchMode):
    """
    Check every operation of a run, and raise GraphError from within it.

    `watch` provides the running module and has removed the dropout. Tensors computed from `image`,
    or from a draw that a mask will replace, are followed. If `noted` is given, operations that
    draw random numbers (first dict) or decide by values of the image (second dict) are recorded
    there by module instead, and run.
    """

    def __init__(
        self, watch: DropoutWatch, image: Tensor,
        noted: tuple[dict[str, str], dict[str, str]] | None = None,
    ) -> None:
        super().__init__()
        self._watch, self._noted = watch, noted
        # By address; holding the weak reference prevents the address from being reused.
        self._followed: dict[int, StorageWeakRef] = {}
        self._drawn: set[int] = set()
        self._follow(image)
        watch.on_draw = partial(self._follow, is_drawn=True)
        watch.on_random = self._random
        watch.on_read = self._read

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Check one operation and run it."""
        options = kwargs or {}
        name = str(func).split('.')[1]
        # Attention has this tag because of its dropout, whose rate is already 0 here.
        if torch.Tag.nondeterministic_seeded in func.tags and 'scaled_dot_product' not in name:
            self._random(f'{name} in C++ or a scripted function' if 'bernoulli' in name else name)
        given = [x for x in tensors([args, options]) if _address(x) in self._followed]
        is_drawn = any(_address(x) in self._drawn for x in given)
        if given and _is_choice(func, args):
            self._decides(name, is_drawn)
        result = func(*args, **options)
        if given and not _LIKE.search(name):
            for x in tensors([result]):
                self._follow(x, is_drawn)
        return result

    def _random(self, name: str) -> None:
        if self._noted is None:
            raise draws(self._watch.module, name)
        self._noted[0].setdefault(self._watch.module, name)

    def _read(self, x: Tensor, name: str) -> None:
        """Treat values that leave torch as a choice, since their further use is unknown."""
        if x.layout == torch.strided and _address(x) in self._followed:
            self._decides(name, _address(x) in self._drawn)

    def _decides(self, name: str, is_drawn: bool) -> None:
        where = place(self._watch.module)
        if self._noted is not None:
            self._noted[0 if is_drawn else 1].setdefault(self._watch.module, name)
        elif is_drawn:
            raise draws(self._watch.module, name)
        else:
            raise GraphError(
                f'{where} branches on the values of its tensors ({name}) to choose its operations',
                'the same operations for every image',
                'write it with torch.where, or remove that check')

    def _follow(self, x: Tensor, is_drawn: bool = False) -> None:
        reference = StorageWeakRef(x.untyped_storage())
        self._followed.setdefault(reference.cdata, reference)
        if is_drawn:
            self._drawn.add(reference.cdata)


def _address(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def _is_choice(func: Any, args: Any) -> bool:
    if str(func) == 'aten.index.Tensor':  # a gather by integers, a choice by a boolean mask
        return any(x.dtype in (torch.bool, torch.uint8) for x in tensors(args[1]))
    return bool(_DATA_DEPENDENT & set(func.tags))


@contextmanager
def own_randomness(seed: int = 0) -> Iterator[None]:
    """Seed every random number generator for a block, and restore its state afterwards."""
    python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also walks the stack
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


# -------------------------------------------------------------------------------------------------
# Find out which modules the net's train() and eval() put into which mode.


def switch(net: nn.Module, is_training: bool) -> nn.Module:
    """Call the net's train() or eval() and return the net; raises GraphError if it fails."""
    call = 'train()' if is_training else 'eval()'
    try:
        net.train() if is_training else net.eval()
    except Exception as err:  # an overridden method may raise anything
        raise GraphError(f'{call} of the net fails ({told(err)})',
                         'a call that sets the mode', 'repair it, or remove the override') from err
    return net


def in_training(net: nn.Module) -> frozenset[str]:
    """Return the names of the modules that are in training mode."""
    return frozenset(name for name, module in net.named_modules() if module.training)


def trained(net: nn.Module) -> frozenset[str]:
    """
    Call the net's train(), then put every module back into eval mode, in place.

    Other effects of train(), such as splitting merged weights, remain. Returns the names of the
    modules that train() puts into training mode, without normalisation layers, since a pass must
    not compute statistics from its own image.
    """
    switch(net, True)
    live = in_training(net)
    for module in net.modules():
        module.training = False
    return frozenset(name for name, module in net.named_modules()
                     if name in live and not is_norm(module))


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises by batch or running statistics."""
    return isinstance(module, _NormBase) or hasattr(module, 'running_mean')
