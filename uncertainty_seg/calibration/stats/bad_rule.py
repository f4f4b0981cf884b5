# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What "this mask is bad" means, as a mission programmer writes it: ``iou[diver]<0.5 or iou<0.4``.

A promise about bad frames is a promise about this rule and nothing else, so it is a text that
can be printed beside the promise.

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
# A class may have an "or" in its name: only one outside of brackets separates terms.
_OR = re.compile(r'\s+or\s+(?![^\[\]]*\])')
_TERM = re.compile(r'\s*(iou|accuracy)\s*(?:\[([^\[\]]*)\])?\s*<\s*'
                   r'([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*')


class Term(NamedTuple):
    """One comparison: 'iou' (of a class, or the mean over those that occur) or 'accuracy'."""

    measure: str
    class_id: int | None
    limit: float

    def value(self, counts: ConfusionMatrix) -> float:
        """Return what is compared, 0..1; NaN if the frame has nothing to compare."""
        if not counts.counts.any():
            return math.nan
        if self.measure == 'accuracy':
            return counts.accuracy()
        return counts.mean_iou() if self.class_id is None else float(counts.iou()[self.class_id])


@dataclass(frozen=True)
class BadRule:
    """Terms joined by "or": a frame below the limit of any is bad."""

    text: str  # As it was written.
    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str, class_names: Sequence[str]) -> BadRule:
        """
        Read a rule of at least one term, joined by ``or``; class names are in order of the ids.

        A term is ``iou<0.5`` (mean IoU over the classes that occur in truth or prediction),
        ``iou[name]<0.5`` (of one class) or ``accuracy<0.7`` (share of right pixels). Raises
        ConfigError if a term cannot be read, names an unknown class, or its limit is not in (0,
        1].
        """
        return cls(text.strip(), tuple(_term(part, text, class_names) for part in _OR.split(text)))

    def is_bad(self, counts: ConfusionMatrix) -> bool:
        """
        Say whether a mask is bad, by the counts of its frame.

        A frame without the class of a term, in truth and prediction, is good for that term. So is
        one without a known pixel: leave such out.
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
