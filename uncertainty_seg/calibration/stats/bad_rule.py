# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The rule for bad masks, as a mission programmer writes it: ``iou[diver]<0.5 or iou<0.4``.

A promise about bad frames holds only for its rule, so the rule is a text that can be printed next
to the promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
import re
from typing import NamedTuple

from uncertainty_seg.core.arrays import ConfusionMatrix
from uncertainty_seg.errors import ConfigError

DEFAULT_RULE = 'iou<0.5'
# A class name may contain "or": only outside of brackets it separates terms.
_OR = re.compile(r'\s+or\s+(?![^\[\]]*\])')
_TERM = re.compile(r'\s*(iou|accuracy)\s*(?:\[([^\[\]]*)\])?\s*<\s*'
                   r'([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*')


class Term(NamedTuple):
    """One comparison: 'iou' (of a class, or the mean over those that occur) or 'accuracy'."""

    measure: str
    class_id: int | None
    limit: float

    def value(self, counts: ConfusionMatrix) -> float:
        """Return the measured value, 0..1; NaN if the frame has no known pixel."""
        if not counts.counts.any():
            return math.nan
        if self.measure == 'accuracy':
            return counts.accuracy()
        return counts.mean_iou() if self.class_id is None else float(counts.iou()[self.class_id])


@dataclass(frozen=True)
class BadRule:
    """Terms joined by "or": a frame below the limit of any is bad."""

    text: str  # The rule as the user wrote it.
    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str, class_names: Sequence[str]) -> BadRule:
        """
        Parse a rule of one or more terms joined by ``or``; class names are in order of the ids.

        A term is ``iou<0.5`` (mean IoU over the classes that occur in truth or prediction),
        ``iou[name]<0.5`` (IoU of one class) or ``accuracy<0.7`` (share of right pixels). Raises
        ConfigError if a term cannot be parsed, names an unknown class, or has a limit outside
        (0, 1].
        """
        return cls(text.strip(), tuple(_term(part, text, class_names) for part in _OR.split(text)))

    def is_bad(self, counts: ConfusionMatrix) -> bool:
        """
        Return whether a mask is bad, from the counts of its frame.

        A frame without the class of a term in truth and prediction is good for that term. A frame
        without a known pixel is good too, so the caller must leave such frames out.
        """
        return any(term.value(counts) < term.limit for term in self.terms)


def _term(part: str, text: str, class_names: Sequence[str]) -> Term:
    match = _TERM.fullmatch(part)
    measure, name, number = match.groups() if match else ('accuracy', '', '0')
    limit = float(number)
    if measure == 'accuracy' and name is not None:
        raise ConfigError(
            f'the rule for bad frames has {part.strip()!r} in {text!r}',
            f"terms like 'iou<0.5', 'iou[{class_names[-1]}]<0.5' or 'accuracy<0.7', joined by or",
        )
    if not 0 < limit <= 1:
        raise ConfigError(f'the rule {text!r} compares with {limit:g}',
                          'a share above 0 and at most 1')
    if name is not None and name.strip() not in class_names:
        raise ConfigError(f'the rule {text!r} names the class {name.strip()!r}',
                          f'one of {", ".join(class_names)}')
    class_id = None if name is None else list(class_names).index(name.strip())
    return Term(measure, class_id, limit)
