# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run a torch net pass by pass with given masks in the place of its dropout.

Compiled graphs are compared with this, so it shares nothing with them but the names of the masks
and the layout of planes: no export, no graph, torch's own arithmetic. In float64 it tells an
error of the compiler from the noise of float32, in which a wide net's logits are not exact to 1e-5
of their spread.

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
import difflib
import itertools

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from uncertainty_seg.compiler.capture.dropout_watch import Drop, watch
from uncertainty_seg.compiler.capture.forward_guard import in_training, own_randomness, trained
from uncertainty_seg.compiler.capture.marking import (
    copied,
    few,
    MarkedNet,
    named_outputs,
    plain_copy,
)
from uncertainty_seg.compiler.frontend.outputs import in_planes, OutputForm, USUAL_OUTPUTS
from uncertainty_seg.errors import GraphError

Array = NDArray[np.float32]
MASK = 'mask_'


def run_masked(
    marked: MarkedNet, image: Array, masks: Mapping[str, Array], form: OutputForm
) -> Array:
    """
    Run a net once a pass, each dropout multiplied by its mask.

    Parameters
    ----------
    marked : MarkedNet
        From `find_dropout`; of any type.
    image : ndarray of float32, shape (1, 3, h, w)
        Normalised.
    masks : mapping of str to ndarray of float32, shape (T, ...)
        By 'mask_' and the site's name; 0, 1 / (1 - p), or 1 for no dropout.
    form : OutputForm
        Which output, where the net has several, and its classes.

    Returns
    -------
    ndarray of float32, shape (T, C, hl, wl)
        In planes, and else as the net returns it.

    Raises GraphError if a mask belongs to no dropout, does not fit, or one that matters is
    missing.

    """
    _require_known(marked, masks)
    passes = {len(rows) for rows in masks.values()}
    if len(passes) != 1:
        raise GraphError(f'the masks are of {sorted(passes)} passes', 'one number of passes')
    return in_planes(np.concatenate([
        _one_pass(marked, image, {name: rows[t] for name, rows in masks.items()}, form)
        for t in range(passes.pop())
    ]), form)


def run_exact(
    marked: MarkedNet, image: Array, masks: Mapping[str, Array], form: OutputForm
) -> Array | None:
    """Compute `run_masked` in float64, rounded at the end; None for a net that cannot."""
    twin = replace(marked, net=copied(marked.net).double())
    with _float64():
        try:
            return run_masked(twin, image.astype(np.float64), masks, form)
        except Exception:  # a net that contains float32 may raise anything
            return None


@contextmanager
def _float64() -> Iterator[None]:
    """Let tensors that a net makes itself be of float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


class UntouchedNet:
    """A copy of a net in eval mode with nothing replaced: what no check may differ from."""

    def __init__(self, net: nn.Module, form: OutputForm) -> None:
        self._net, self._form = plain_copy(net), form

    def __call__(self, image: Array) -> Array:
        """Return the logits (1, C, hl, wl) of a normalised image (1, 3, h, w)."""
        return self._run(self._net, torch.from_numpy(image.copy()))

    def exact(self, image: Array) -> Array | None:
        """Return the same computed in float64; None for a net that cannot run so."""
        twin, precise = copied(self._net).double(), torch.from_numpy(image).double()
        with _float64():
            try:
                return self._run(twin, precise)
            except Exception:  # a net that contains float32 may raise anything
                return None

    def _run(self, net: nn.Module, image: Tensor) -> Array:
        with torch.no_grad():
            with watch(net) as seen:
                outputs = named_outputs(net(image))
            if not seen.drops and not in_training(net):  # eval() has switched all off by itself
                outputs = named_outputs(net(image))
        return _planes(outputs, self._form)


class OwnPasses:
    """Passes that a copy of a net draws itself, by torch and with nothing replaced in it."""

    def __init__(self, net: nn.Module, marked: MarkedNet, form: OutputForm) -> None:
        self._net, self._marked, self._form = plain_copy(net), marked, form
        if not marked.takes_eval:  # else all but its dropout is another net in training mode
            trained(self._net)  # by its own train(), whatever was found before
            for name, module in self._net.named_modules():
                module.training = name in marked.drawn_by

    def passes(self, image: Array, seed: int) -> Iterator[Array]:
        """Yield pass after pass of a normalised image (1, 3, h, w), each (1, C, hl, wl)."""
        given, number = torch.from_numpy(image.copy()), itertools.count(seed << 20)
        while True:
            with own_randomness(next(number)), torch.no_grad():
                outputs = self._drawn(given)
            yield _planes(outputs, self._form)

    def _drawn(self, image: Tensor) -> dict[str, Tensor]:
        marked = self._marked
        if not marked.takes_eval:
            return named_outputs(self._net(image))
        with watch(self._net, _draw, takes_eval=True, training=marked.training):
            return named_outputs(self._net(image))


def _draw(x: Tensor, drop: Drop) -> Tensor:
    """Drop by torch's own functions."""
    if drop.kind == 'channel':
        return torch.feature_dropout(x, drop.p, True)
    return torch.dropout(x, drop.p, True)


def _planes(outputs: Mapping[str, Tensor], form: OutputForm) -> Array:
    return in_planes(outputs[_chosen_output(outputs, form)].float().numpy(), form)


def _chosen_output(outputs: Mapping[str, Tensor], form: OutputForm) -> str:
    """
    Choose the output of logits by the rule of `frontend.outputs`; GraphError if none qualifies.

    Beside an output of log-variances it is another one. A network that is to have variances and no
    output of that name may have both in one, of 2C channels.

    """
    output, variance, num_classes = form.output, form.variance, form.num_classes
    names = [name for name in outputs if name != variance]
    if output is not None:
        if output in names:
            return output
        near = difflib.get_close_matches(output, names, 3)
        raise GraphError(f'the network has no output {output!r}', f'one of {few(names)}',
                         f'did you mean {" or ".join(near)}?' if near else '')
    usual = [name for name in names if name in USUAL_OUTPUTS]
    fitting = _of_channels(outputs, names, num_classes)
    both = [name for name in _of_channels(outputs, names, 2 * num_classes)
            if name not in fitting] if variance is not None and variance not in outputs else []
    for candidates in (names, both, usual, fitting):
        if len(candidates) == 1:
            return candidates[0]
    raise GraphError(f'the network has the outputs {few(names)}', 'one of logits',
                     'name the one of logits')


def _of_channels(
    outputs: Mapping[str, Tensor], names: list[str], channels: int
) -> list[str]:
    return [name for name in names if outputs[name].dim() == 4
            and channels in (outputs[name].shape[1], outputs[name].shape[3])]


def _apply_mask(x: Tensor, drop: Drop, mask: Array | None) -> Tensor:
    """Apply a dropout whose mask is given; None puts in NaN, which shows whether it matters."""
    if mask is None:
        return x * float('nan')
    scale = torch.from_numpy(np.array(mask, np.float32))
    if scale.numel() == x.numel():
        scale = scale.reshape(x.shape)  # an axis of batch 1 was left out, wherever it was
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
        return _apply_mask(x, drop, masks.get(MASK + drop.site))

    with torch.no_grad():
        outputs = marked.run(torch.from_numpy(image.copy()), replace)
    result = outputs[_chosen_output(outputs, form)].float().numpy()
    missing = [d.site for d in marked.drops if MASK + d.site not in masks]
    if missing and np.isnan(result).any():
        raise GraphError(f'the masks have none for {few(missing)}', 'a mask for each dropout that '
                         'reaches the output')
    return result


def _require_known(marked: MarkedNet, masks: Mapping[str, Array]) -> None:
    known = {MASK + drop.site for drop in marked.drops}
    strange = [name for name in masks if name not in known]
    if strange or not masks:
        raise GraphError(f'the masks {few(strange)} belong to no dropout of the network' if strange
                         else 'there are no masks', f'some of {few(sorted(known))}')
