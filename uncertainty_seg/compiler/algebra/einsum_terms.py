# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The equation of an Einsum, axis by axis, with a letter for each axis that an ellipsis means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
import string

import onnx

from uncertainty_seg.compiler.onnx_tools import attribute

_ELLIPSIS = '...'


@dataclass(frozen=True)
class EinsumTerms:
    """
    An equation whose axes all have a letter.

    Attributes
    ----------
    terms : tuple of str
        Of each input, a letter an axis.
    result : str
        Of the output.

    """

    terms: tuple[str, ...]
    result: str

    @property
    def equation(self) -> str:
        """Return it as Einsum writes it."""
        return f'{",".join(self.terms)}->{self.result}'

    @property
    def unused(self) -> str:
        """Return a letter that no axis has."""
        return _unused(self.equation)[0]

    def with_term(self, index: int, term: str) -> EinsumTerms:
        """Return the equation with other axes of one input."""
        return replace(self, terms=(*self.terms[:index], term, *self.terms[index + 1:]))


def einsum_terms(node: onnx.NodeProto, ranks: Sequence[int]) -> EinsumTerms | None:
    """
    Read the equation of a node whose inputs have so many axes; None if it names no output.

    In ONNX every ellipsis of an equation means as many axes.

    """
    equation = attribute(node, 'equation').replace(' ', '')
    left, arrow, result = equation.partition('->')
    if not arrow:
        return None
    terms = left.split(',')
    wide = max(rank - len(term.replace(_ELLIPSIS, ''))
               for term, rank in zip(terms, ranks, strict=True))
    letters = _unused(equation)[:wide]
    full = tuple(term.replace(_ELLIPSIS, letters) for term in terms)
    return EinsumTerms(full, result.replace(_ELLIPSIS, letters))


def _unused(equation: str) -> str:
    return ''.join(letter for letter in string.ascii_letters if letter not in equation)
