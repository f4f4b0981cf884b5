# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A mutation operator that cosmic-ray lacks: it replaces a statement of a function by `pass`.

It shows whether a test detects a missing call. Assignments to local names are not deleted, since
the resulting NameError is detected by any test.

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
        """Yield start and end of the statement at this node, if it may be deleted."""
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
        """Return examples of mutations, which cosmic-ray's own tests use."""
        return (
            Example('def f():\n    g(1)\n', 'def f():\n    pass\n'),
            Example('def f(a):\n    a.b = 1\n    c = 2\n', 'def f(a):\n    pass\n    c = 2\n'),
            Example('def f():\n    return 1\n', 'def f():\n    pass\n'),
        )


class Provider:
    """The operators by name, in the form that cosmic-ray expects of an entry point."""

    def __iter__(self) -> Iterator[str]:
        """Return an iterator over the names of the operators."""
        return iter(['StatementDeletion'])

    def __getitem__(self, name: str) -> type[Operator]:
        """Return the class of an operator."""
        return {'StatementDeletion': StatementDeletion}[name]
