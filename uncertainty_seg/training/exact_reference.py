# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The masked torch net in float64: tells an error of the compiler from the noise of float32.

A wide net's logits are not exact to 1e-5 of their spread in float32, whoever computes them.

"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn

from uncertainty_seg.training.marking import find_dropout
from uncertainty_seg.training.masked_reference import run_masked


def exact_logits(
    net: nn.Module, image: NDArray[np.float32], masks: Mapping[str, NDArray[np.float32]],
    output: str | None = None, num_classes: int | None = None,
) -> NDArray[np.float32] | None:
    """
    Run a net once a pass in float64.

    Parameters
    ----------
    net, image, masks, output, num_classes
        As `masked_reference.masked_logits`.

    Returns
    -------
    ndarray of float32, shape (T, C, hl, wl), or None
        Rounded at the very end; None for a net that cannot run in float64.

    """
    _, _, height, width = image.shape
    marked = find_dropout(net, height, width)  # which works on a copy
    marked.net.double()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for what the net makes itself
    try:
        return run_masked(marked, image.astype(np.float64), masks, output, num_classes)
    except Exception:  # a net with float32 of its own fails in ways of its own
        return None
    finally:
        torch.set_default_dtype(default)
