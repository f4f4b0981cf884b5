# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""How a network is to be compiled, apart from the image it takes."""

from __future__ import annotations

from dataclasses import dataclass

from uncertainty_seg.core.model_card import PRECISIONS
from uncertainty_seg.errors import ConfigError


@dataclass(frozen=True)
class CompileOptions:
    """
    Choices of whoever compiles.

    Attributes
    ----------
    passes : int
        T that costs are weighed for; other numbers of passes work too.
    num_classes : int
        C that the network must have; 0 to take what comes.
    output : str or None
        Which output holds the logits; None where there is no doubt.
    inject : (float, str) or None
        Rate and place of dropout to put into an ONNX network that has none.
    is_half : bool
        Store large weights in 16 bits.
    precision : str
        'fp32', 'fp16' or 'bf16': what trunk and head compute in. ('int8' is a trunk quantised
        afterwards.)
    chunk : int
        Passes a call of the head, for a head that computes kept channels only; 0 for a head that
        computes all channels and takes any number of passes.

    """

    passes: int = 20
    num_classes: int = 0
    output: str | None = None
    inject: tuple[float, str] | None = None
    is_half: bool = True
    precision: str = 'fp32'
    chunk: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.precision not in PRECISIONS:
            raise ConfigError(f'precision {self.precision!r}', f'one of {", ".join(PRECISIONS)}')
        if self.passes < 1 or self.chunk < 0:
            raise ConfigError(f'{self.passes} passes in chunks of {self.chunk}', 'at least 1 pass')
