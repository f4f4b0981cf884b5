# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""One test for many cases: the test counts once, and a failure names the case."""

from collections.abc import Callable, Iterable
from functools import wraps
import inspect
from typing import Any

import pytest


def for_each(names: str, cases: Iterable[Any]) -> Callable[..., Any]:
    """
    Run a test for every case, as one test; the syntax is that of `pytest.mark.parametrize`.

    The test stops at the first case that fails and names it. Fixtures are created once for all.
    """
    words = [word.strip() for word in names.split(',')]
    listed = [dict(zip(words, case if len(words) > 1 else (case,), strict=True)) for case in cases]

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        assert listed, 'a test without a case claims nothing'
        signature = inspect.signature(test)

        @wraps(test)
        def run(**fixtures: Any) -> None:
            for values in listed:
                try:
                    test(**fixtures, **values)
                except (Exception, pytest.fail.Exception) as err:
                    raise AssertionError(f'{values}: {err}') from err

        run.__signature__ = signature.replace(
            parameters=[p for p in signature.parameters.values() if p.name not in words])
        return run
    return decorate
