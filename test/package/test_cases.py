# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A test folded by `for_each` still runs every case and names the one that fails."""

from __future__ import annotations

import inspect

from cases import for_each
import pytest


def test_every_case_of_every_decorator_runs() -> None:
    seen = []

    @for_each('a', [1, 2])
    @for_each('b, c', [(3, 4), (5, 6)])
    def check(a: int, b: int, c: int) -> None:
        seen.append((a, b, c))

    check()
    assert seen == [(1, 3, 4), (1, 5, 6), (2, 3, 4), (2, 5, 6)]


def test_the_case_that_fails_is_named_whatever_it_raises() -> None:
    @for_each('a', [1, 2])
    @for_each('kind', ['x', 'y'])
    def check(a: int, kind: str, tmp: int) -> None:
        if (a, kind) == (2, 'y'):
            with pytest.raises(ValueError, match='nothing'):
                tmp += 1

    assert list(inspect.signature(check).parameters) == ['tmp']
    with pytest.raises(AssertionError, match=r"^{'a': 2}: {'kind': 'y'}: DID NOT RAISE"):
        check(tmp=0)


def test_no_case_is_no_test() -> None:
    with pytest.raises(AssertionError, match='claims nothing'):
        for_each('a', [])(lambda a: None)
