# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Ask a net itself which of its modules train() and eval() put into which mode.

A net may overrule them: train() that leaves a frozen encoder in eval mode, eval() that leaves
dropout on for Monte Carlo passes. What drops in a pass is what drops after net.train(): that is
what the net was trained with.

"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from uncertainty_seg.errors import GraphError

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
        The modules that train() puts into training mode, and injected dropout; normalisation
        left out, which no pass may compute from its own image.

    """
    switch(net, True)
    live = in_training(net)
    for module in net.modules():
        module.training = False
    return frozenset(name for name, module in net.named_modules() if not is_norm(module)
                     and (name in live or getattr(module, 'is_injected', False)))


def is_norm(module: nn.Module) -> bool:
    """Say whether a module normalises by statistics."""
    return isinstance(module, _NormBase) or hasattr(module, 'running_mean')
