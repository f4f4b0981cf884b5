# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Each cell of docs/neighbours.md names where it can be checked; modules are looked up there."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs' / 'neighbours.md').read_text(encoding='utf-8')
INSTALLED = {'torch-uncertainty': 'torch_uncertainty', 'baal': 'baal'}


def tables(page: str) -> dict[str, list[list[str]]]:
    """Return heading to the cells of each row below it."""
    found = {}
    for section in page.split('\n## ')[1:]:
        rows = re.findall(r'^\| (?!\|)(.+) \|$', section.split('| where to check |')[1],
                          re.MULTILINE)
        found[section.partition('\n')[0]] = [row.split(' | ') for row in rows]
    return found


TABLES = tables(PAGE)


def test_every_row_says_where_and_every_neighbour_does_something_better() -> None:
    assert len(TABLES) == 4
    for name, rows in TABLES.items():
        assert len(rows) > 3, name
        assert [row for row in rows if len(row) != 4] == [], name
        assert [row for row in rows if not re.search(r'`\w|\[\w[^]]*\]\[', row[3])] == [], name
        assert sum(row[2].startswith('**') for row in rows) >= 3, name


def test_every_link_of_the_page_has_an_address() -> None:
    used = set(re.findall(r'\]\[([\w-]+)\]', PAGE))
    given = dict(re.findall(r'^\[([\w-]+)\]: (https://\S+)$', PAGE, re.MULTILINE))
    assert used == set(given)


def neighbour(name: str) -> tuple[str, Path]:
    """Return the heading of an installed neighbour and the folder of its source."""
    heading = next(text for text in TABLES if text.startswith(name))
    try:
        installed = version(INSTALLED[name])
    except PackageNotFoundError:
        pytest.skip(f'{name} is not installed')
    wanted = heading.split()[-1]
    if not installed.startswith(wanted + '.'):
        pytest.skip(f'the page is of {name} {wanted}, installed is {installed}')
    spec = find_spec(INSTALLED[name])
    assert spec is not None and spec.origin is not None
    return heading, Path(spec.origin).parent


@pytest.mark.parametrize('name', INSTALLED)
def test_the_modules_that_are_named_exist_and_hold_what_is_said(name: str) -> None:
    heading, folder = neighbour(name)
    checked = 0
    for row in TABLES[heading]:
        sources = []
        for module in re.findall(r'`([\w.]+)`', row[3]):
            place = folder.joinpath(*module.split('.'))
            files = [*place.rglob('*.py')] or [place.with_suffix('.py')]
            assert all(path.is_file() for path in files), f'{row[0]}: {module}'
            sources += [path.read_text(encoding='utf-8') for path in files]
            checked += 1
        for word in re.findall(r'`(\w+)`', row[2]):
            pattern = rf'^class {word}\b'
            assert any(re.search(pattern, text, re.MULTILINE) for text in sources), word
    assert checked >= 5


def test_what_torch_uncertainty_is_said_to_lack_is_not_there() -> None:
    _, folder = neighbour('torch-uncertainty')
    words = re.compile(r'mahalanobis|nearest.?neighbou?r', re.IGNORECASE)
    assert [path for path in folder.rglob('*.py')
            if words.search(path.read_text(encoding='utf-8'))] == []
