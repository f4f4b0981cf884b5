# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A test with `for_each` runs every case and names the one that fails."""

import inspect

from cases import for_each
import pytest


def test_the_case_that_fails_is_named_whatever_it_raises() -> None:
    seen = []

    @for_each('a', [1, 2])
    @for_each('kind', ['x', 'y'])
    def check(a: int, kind: str, tmp: int) -> None:
        seen.append((a, kind))
        if (a, kind) == (2, 'y'):
            with pytest.raises(ValueError, match='nothing'):
                tmp += 1

    assert list(inspect.signature(check).parameters) == ['tmp']
    with pytest.raises(AssertionError, match=r"^{'a': 2}: {'kind': 'y'}: DID NOT RAISE"):
        check(tmp=0)
    assert seen == [(1, 'x'), (1, 'y'), (2, 'x'), (2, 'y')]
    with pytest.raises(AssertionError, match='claims nothing'):
        for_each('a', [])(lambda a: None)
