# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which precision a bundle is computed in: what its card and the settings say together.

Which of them a runtime can do is the backends' own. The reduction is float32 in all of them.

"""

from __future__ import annotations

from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.errors import ConfigError

BUNDLE_PRECISION = 'bundle'
# Precision of the card -> what its graphs may be computed in. What was rounded to 16 or 8 bits
# when the bundle was made cannot become float32 again.
_ALLOWED = {
    'fp32': ('fp32', 'bf16'),
    'bf16': ('bf16',),
    'fp16': ('fp16',),
    'int8': ('int8', 'bf16'),
}


def precision_of(card: ModelCard, wanted: str) -> str:
    """
    Decide what to compute in.

    Parameters
    ----------
    card : ModelCard
        Says what the graphs were made for.
    wanted : str
        The setting: 'bundle' for what the card says, or a precision by name. 'bf16' of an
        'int8' card computes in bf16 what is not quantised.

    Returns
    -------
    str
        One of `core.model_card.PRECISIONS`; a calibration holds for this one only.

    Raises
    ------
    ConfigError
        If the graphs cannot be computed in it.

    """
    if wanted == BUNDLE_PRECISION:
        return card.precision
    allowed = _ALLOWED[card.precision]
    if wanted not in allowed:
        raise ConfigError(
            f'precision is {wanted}, but the graphs of {card.name!r} are {card.precision}',
            ' or '.join(allowed), f'set precision to {BUNDLE_PRECISION}, or compile a bundle '
            f'with --precision {wanted}',
        )
    return wanted
