# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A mutation operator that cosmic-ray lacks: a statement of a function is replaced by `pass`.

Without it nothing tells whether a test notices a call that is left out. Local names that are set
are kept: without them the mutant ends in a NameError, which any test notices.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cosmic_ray.operators.operator import Example, Operator
from parso.python.tree import Keyword, search_ancestor

DELETED = ('atom_expr', 'power', 'return_stmt', 'raise_stmt', 'yield_expr')


class StatementDeletion(Operator):
    """Delete calls, assignments to attributes and items, `return VALUE` and `raise`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the place of the statement that begins with this node, if it may be deleted."""
        if node.type == 'simple_stmt' and search_ancestor(node, 'funcdef'):
            first = node.children[0]
            is_attribute_set = first.type == 'expr_stmt' and first.children[0].type != 'name'
            if first.type in DELETED or is_attribute_set:
                yield first.start_pos, first.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Put `pass` in place of the statement."""
        first = node.children[0]
        node.children[0] = Keyword('pass', first.start_pos, first.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return what it does, for cosmic-ray's own checks."""
        return (
            Example('def f():\n    g(1)\n', 'def f():\n    pass\n'),
            Example('def f(a):\n    a.b = 1\n    c = 2\n', 'def f(a):\n    pass\n    c = 2\n'),
            Example('def f():\n    return 1\n', 'def f():\n    pass\n'),
        )


class Provider:
    """What cosmic-ray asks an entry point for: names and classes of operators."""

    def __iter__(self) -> Iterator[str]:
        """Name the operator."""
        return iter(['StatementDeletion'])

    def __getitem__(self, name: str) -> type[Operator]:
        """Return the operator."""
        return {'StatementDeletion': StatementDeletion}[name]
