# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run a torch net pass by pass with given masks in the place of its dropout.

Compiled graphs are compared with this, so it shares nothing with them but the names of the masks:
no export, no graph, torch's own arithmetic. In float64 it tells an error of the compiler from the
noise of float32, in which a wide net's logits are not exact to 1e-5 of their spread.

"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
import difflib
import itertools

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from uncertainty_seg.compiler.capture.dropout_watch import Drop, own_randomness, watch
from uncertainty_seg.compiler.capture.marking import (
    copied,
    few,
    find_dropout,
    MarkedNet,
    named_outputs,
    plain_copy,
)
from uncertainty_seg.compiler.capture.modes import in_training, trained
from uncertainty_seg.errors import GraphError

Array = NDArray[np.float32]
MASK = 'mask_'
# Names that the libraries of segmentation nets give to their logits.
_USUAL = ('out', 'logits', 'output')
# The value SELU saturates at, negated: torch's own digits.
_SATURATION = -1.7580993408473766


def masked_logits(
    net: nn.Module, image: Array, masks: Mapping[str, Array], output: str | None = None,
    num_classes: int | None = None,
) -> Array:
    """
    Run a net once a pass, each dropout multiplied by its mask.

    Parameters
    ----------
    net : Module
        Left as it is.
    image : ndarray of float32, shape (1, 3, h, w)
        Normalised.
    masks : mapping of str to ndarray of float32, shape (T, ...)
        By 'mask_' and the site's name; 0, 1 / (1 - p), or 1 for no dropout.
    output : str, optional
        Which output, where the net has several; else the one of a usual name, or of
        `num_classes`.
    num_classes : int, optional
        C.

    Returns
    -------
    ndarray of float32, shape (T, C, hl, wl)
        As the net returns it.

    Raises
    ------
    GraphError
        If a mask belongs to no dropout, does not fit, or one that matters is missing.

    """
    _, _, height, width = image.shape
    return masked_network(net, height, width, output, num_classes)(image, masks)


def masked_network(
    net: nn.Module, height: int, width: int, output: str | None = None,
    num_classes: int | None = None,
) -> Callable[[Array, Mapping[str, Array]], Array]:
    """Return `masked_logits` of one net, whose dropout is looked for only once."""
    marked = find_dropout(net, height, width)

    def run(image: Array, masks: Mapping[str, Array]) -> Array:
        return run_masked(marked, image, masks, output, num_classes)

    return run


def run_masked(
    marked: MarkedNet, image: Array, masks: Mapping[str, Array], output: str | None = None,
    num_classes: int | None = None, variance: str | None = None,
) -> Array:
    """Compute `masked_logits` of a net whose dropout was found already, in any type."""
    _require_known(marked, masks)
    passes = {len(rows) for rows in masks.values()}
    if len(passes) != 1:
        raise GraphError(f'the masks are of {sorted(passes)} passes', 'one number of passes')
    return np.concatenate([
        _one_pass(marked, image, {name: rows[t] for name, rows in masks.items()}, output,
                  num_classes, variance)
        for t in range(passes.pop())
    ])


def exact_logits(
    net: nn.Module, image: NDArray[np.float32], masks: Mapping[str, NDArray[np.float32]],
    output: str | None = None, num_classes: int | None = None,
) -> NDArray[np.float32] | None:
    """
    Return `masked_logits` computed in float64 and rounded at the end, with the same arguments.

    None for a net that cannot run in float64.

    """
    _, _, height, width = image.shape
    return run_exact(find_dropout(net, height, width), image, masks, output, num_classes)


def run_exact(
    marked: MarkedNet, image: Array, masks: Mapping[str, Array], output: str | None = None,
    num_classes: int | None = None, variance: str | None = None,
) -> Array | None:
    """Compute `exact_logits` of a net whose dropout was found already."""
    twin = replace(marked, net=copied(marked.net).double())
    with _float64():
        try:
            return run_masked(twin, image.astype(np.float64), masks, output, num_classes,
                              variance)
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
    """
    A copy of a net in eval mode, in which nothing was replaced: what no check may differ from.

    Parameters
    ----------
    net : Module
        As the user gave it.
    output : str, optional
        Which output, where the net has several.
    num_classes : int, optional
        C.
    variance : str, optional
        The output of log-variances, which is not that of the logits.

    """

    def __init__(
        self, net: nn.Module, output: str | None = None, num_classes: int | None = None,
        variance: str | None = None,
    ) -> None:
        self._net = plain_copy(net)
        self._wanted = output, num_classes, variance

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
        return outputs[chosen_output(outputs, *self._wanted)].float().numpy()


class OwnPasses:
    """
    Passes that a copy of a net draws itself, by torch and with nothing replaced in it.

    Parameters
    ----------
    net : Module
        With its dropout.
    marked : MarkedNet
        Of the same net: the modules that run in training mode.
    output : str, optional
        Which output, where the net has several.
    num_classes : int, optional
        C.

    """

    def __init__(
        self, net: nn.Module, marked: MarkedNet, output: str | None = None,
        num_classes: int | None = None,
    ) -> None:
        self._net, self._marked = plain_copy(net), marked
        self._wanted = output, num_classes
        if not marked.takes_eval:  # else all but its dropout is another net in training mode
            live = trained(self._net)  # by its own train(), whatever was found before
            for name, module in self._net.named_modules():
                module.training = name in live & marked.training

    def passes(self, image: Array, seed: int) -> Iterator[Array]:
        """Yield pass after pass of a normalised image (1, 3, h, w), each (1, C, hl, wl)."""
        given, number = torch.from_numpy(image.copy()), itertools.count(seed << 20)
        while True:
            with own_randomness(next(number)), torch.no_grad():
                outputs = self._drawn(given)
            yield outputs[chosen_output(outputs, *self._wanted)].float().numpy()

    def _drawn(self, image: Tensor) -> dict[str, Tensor]:
        marked = self._marked
        if marked.takes_eval:
            training = marked.training | marked.paths
            with watch(self._net, _draw, takes_eval=True, training=training):
                return named_outputs(self._net(image))
        return named_outputs(self._net(image))


def _draw(x: Tensor, drop: Drop) -> Tensor:
    """Drop by torch's own functions."""
    if drop.kind == 'alpha':
        return torch.alpha_dropout(x, drop.p, True)
    if drop.kind == 'feature_alpha':
        return torch.feature_alpha_dropout(x, drop.p, True)
    if drop.kind == 'channel':
        return torch.feature_dropout(x, drop.p, True)
    return torch.dropout(x, drop.p, True)


def chosen_output(
    outputs: Mapping[str, Tensor], output: str | None = None, num_classes: int | None = None,
    variance: str | None = None,
) -> str:
    """
    Choose the output of logits by the rule of `graph.outputs`.

    Beside an output of log-variances, `variance`, it is another one. A network that is to have
    variances and no output of that name may have both in one, of 2C channels.

    Raises GraphError if none is called `output`, or no single one qualifies.

    """
    names = [name for name in outputs if name != variance]
    if output is not None:
        if output in names:
            return output
        near = difflib.get_close_matches(output, names, 3)
        raise GraphError(f'the network has no output {output!r}', f'one of {few(names)}',
                         f'did you mean {" or ".join(near)}?' if near else '')
    usual = [name for name in names if name in _USUAL]
    fitting = _of_channels(outputs, names, num_classes)
    both = [name for name in _of_channels(outputs, names, 2 * (num_classes or 0))
            if name not in fitting] if variance is not None and variance not in outputs else []
    for candidates in (names, both, usual, fitting):
        if len(candidates) == 1:
            return candidates[0]
    raise GraphError(f'the network has the outputs {few(names)}', 'one of logits',
                     'choose it with --output')


def _of_channels(
    outputs: Mapping[str, Tensor], names: list[str], channels: int | None
) -> list[str]:
    return [name for name in names if outputs[name].dim() == 4
            and channels in (outputs[name].shape[1], outputs[name].shape[3])]


def apply_mask(x: Tensor, drop: Drop, mask: Array | None) -> Tensor:
    """
    Apply a dropout whose mask is given.

    Parameters
    ----------
    x : Tensor
        Of `drop.shape`.
    drop : Drop
        The site.
    mask : ndarray of float32 or None
        Of one pass; None puts in NaN, which shows whether the result depends on it.

    Returns
    -------
    Tensor
        As large as `x`.

    """
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
    if drop.kind not in ('alpha', 'feature_alpha'):
        return x * scale
    gain = ((_SATURATION**2 * drop.p + 1) * (1 - drop.p)) ** -0.5
    shift = -gain * _SATURATION * drop.p
    kept = torch.where(scale == 1, x, x * gain + shift)
    return torch.where(scale == 0, torch.full_like(x, gain * _SATURATION + shift), kept)


def _one_pass(
    marked: MarkedNet, image: Array, masks: Mapping[str, Array], output: str | None,
    num_classes: int | None, variance: str | None,
) -> Array:
    def replace(x: Tensor, drop: Drop) -> Tensor:
        return apply_mask(x, drop, masks.get(MASK + drop.site))

    with torch.no_grad():
        outputs = marked.run(torch.from_numpy(image.copy()), replace)
    result = outputs[chosen_output(outputs, output, num_classes, variance)].float().numpy()
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
