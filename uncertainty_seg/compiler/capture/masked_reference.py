# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run a torch net pass by pass with given masks in place of its dropout.

This is the reference for compiled graphs, so it shares only the names of the masks and the layout
of planes with them: no export, no graph, torch's own arithmetic. In float64 it separates errors of
the compiler from float32 rounding, which moves a wide net's logits by more than 1e-5 of their
spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
import itertools

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from uncertainty_seg.compiler.capture.dropout_watch import Drop, watch
from uncertainty_seg.compiler.capture.forward_guard import in_training, own_randomness, trained
from uncertainty_seg.compiler.capture.marking import (
    copied,
    MarkedNet,
    named_outputs,
    plain_copy,
)
from uncertainty_seg.compiler.frontend.outputs import choose_output, in_planes, OutputForm
from uncertainty_seg.errors import GraphError

Array = NDArray[np.float32]
MASK = 'mask_'


def run_masked(
    marked: MarkedNet, image: Array, masks: Mapping[str, Array], form: OutputForm
) -> Array:
    """
    Run a net once per pass, with masks in place of dropout; return planes (T, C, hl, wl).

    The image is normalised float32 (1, 3, h, w). Masks are float32 (T, ...), keyed by 'mask_' and
    the site's name, with values 0, 1 / (1 - p), or 1 for no dropout; a dropout without a mask is
    off. `form` names the output, if there are several, and its classes. A result that cannot be
    brought into planes is returned as it is. Raises GraphError if a mask does not fit.
    """
    passes = len(next(iter(masks.values())))
    return np.concatenate([
        _one_pass(marked, image, {name: rows[t] for name, rows in masks.items()}, form)
        for t in range(passes)
    ])


def run_exact(
    marked: MarkedNet, image: Array, masks: Mapping[str, Array], form: OutputForm
) -> Array | None:
    """Compute `run_masked` in float64, rounded at the end; None if the net cannot run so."""
    twin = replace(marked, net=copied(marked.net).double())
    return _in_float64(lambda: run_masked(twin, image.astype(np.float64), masks, form))


def _in_float64(run: Callable[[], Array]) -> Array | None:
    """Run a net of float64, which creates tensors of that dtype; None if it cannot run so."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return run()
    except Exception:  # a net that contains float32 may raise anything
        return None
    finally:
        torch.set_default_dtype(default)


class UntouchedNet:
    """An unchanged copy of a net in eval mode: the reference of the checks."""

    def __init__(self, net: nn.Module, form: OutputForm) -> None:
        self._net, self._form = plain_copy(net), form

    def __call__(self, image: Array) -> Array:
        """Return the logits (1, C, hl, wl) of a normalised image (1, 3, h, w)."""
        return self._run(self._net, torch.from_numpy(image.copy()))

    def exact(self, image: Array) -> Array | None:
        """Return the same computed in float64; None for a net that cannot run so."""
        twin, precise = copied(self._net).double(), torch.from_numpy(image).double()
        return _in_float64(lambda: self._run(twin, precise))

    def _run(self, net: nn.Module, image: Tensor) -> Array:
        with torch.no_grad():
            with watch(net) as seen:
                outputs = named_outputs(net(image.clone()))  # it may write to it
            if not seen.drops and not in_training(net):  # eval() alone switches all dropout off
                outputs = named_outputs(net(image.clone()))
        return _planes(outputs, self._form)


class OwnPasses:
    """Passes that an unchanged copy of a net draws itself, with torch's randomness."""

    def __init__(self, net: nn.Module, marked: MarkedNet, form: OutputForm) -> None:
        self._net, self._marked, self._form = plain_copy(net), marked, form
        # The net runs in training mode unless that changes more than dropout. Silenced randomness
        # needs training mode, too.
        self._is_trained = not marked.takes_eval or bool(marked.silenced)
        if self._is_trained:
            trained(self._net)  # train() may do more than set the modes set below
            for name, module in self._net.named_modules():
                module.training = name in marked.drawn_by

    def passes(self, image: Array, seed: int) -> Iterator[Array]:
        """Yield logits (1, C, hl, wl) of a normalised image (1, 3, h, w) without end."""
        given, number = torch.from_numpy(image.copy()), itertools.count(seed << 20)
        while True:
            with own_randomness(next(number)), torch.no_grad():
                outputs = self._drawn(given.clone())
            yield _planes(outputs, self._form)

    def _drawn(self, image: Tensor) -> dict[str, Tensor]:
        marked = self._marked
        if self._is_trained:
            return named_outputs(self._net(image))
        with watch(self._net, _draw, takes_eval=True, training=marked.training):
            return named_outputs(self._net(image))


def _draw(x: Tensor, drop: Drop) -> Tensor:
    """Drop with torch's own functions."""
    if drop.kind == 'channel':
        return torch.feature_dropout(x, drop.p, True)
    return torch.dropout(x, drop.p, True)


def apply_mask(x: Tensor, drop: Drop, mask: Array | None) -> Tensor:
    """Multiply by a dropout's mask, in the layout of model cards; None switches it off."""
    if mask is None:
        return x
    scale = torch.from_numpy(np.array(mask, np.float32))
    if scale.numel() == x.numel():
        scale = scale.reshape(x.shape)  # masks leave out the batch axis, wherever it is
    try:
        scale = scale.expand(x.shape)
    except RuntimeError as err:
        raise GraphError(f'the mask of {drop.site!r} has the shape {mask.shape}',
                         f'one for a tensor of {tuple(x.shape)}') from err
    return x * scale


def _one_pass(
    marked: MarkedNet, image: Array, masks: Mapping[str, Array], form: OutputForm
) -> Array:
    def replace(x: Tensor, drop: Drop) -> Tensor:
        return apply_mask(x, drop, masks.get(MASK + drop.site))

    with torch.no_grad():
        outputs = marked.run(torch.from_numpy(image.copy()), replace)
    return _planes(outputs, form)


def _planes(outputs: Mapping[str, Tensor], form: OutputForm) -> Array:
    """Return the output of logits, chosen by the rule of `frontend.outputs`."""
    dims = {name: tuple(value.shape) for name, value in outputs.items()}
    return in_planes(outputs[choose_output(dims, form)].float().numpy(), form)
