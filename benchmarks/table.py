# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write the tables of results from benchmarks/results/*.json into docs/explanation/results.md.

    python benchmarks/table.py

Each file is a topic with a title and the current figures. A figure has name, value, unit, date,
machine (a key of machines.json) and the command that measured it. If that program or option no
longer exists, `commit` names a commit that has it, and `again` a command that measures the same
today, if there is one. `parts` of a ratio are its two terms, measured in one run. Earlier values
are in the git history.
"""

from __future__ import annotations

from dataclasses import dataclass
import datetime
import json
from pathlib import Path
import re
import sys
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'
PAGE = ROOT / 'docs' / 'explanation' / 'results.md'
MACHINES = 'machines.json'
BEGIN, END = '<!-- figures: python benchmarks/table.py -->', '<!-- end of figures -->'


@dataclass(frozen=True)
class Figure:
    """A current figure; see the module docstring."""

    figure: str
    value: float | str
    unit: str
    date: str
    machine: str
    command: str
    commit: str = ''
    again: str = ''
    parts: str = ''
    note: str = ''

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid date or an empty field."""
        datetime.date.fromisoformat(self.date)
        if not (self.figure and self.unit and self.command and str(self.value)):
            raise ValueError(f'{self} lacks something')


def program(command: str) -> str:
    """Return the program of a command: a path from the root, or `uncertainty_seg VERB`."""
    first, *more = command.split()
    if first == 'scripts/bench' and more:
        return f'benchmarks/{more[0]}.py'
    if first == 'uncertainty_seg':
        return f'{first} {more[0]}'
    return more[0] if first == 'python' else first


@dataclass(frozen=True)
class Topic:
    """The figures of one file."""

    name: str
    title: str
    figures: tuple[Figure, ...]


def machines(folder: Path = RESULTS) -> dict[str, str]:
    """Return the description of each machine by its letter."""
    found: dict[str, str] = json.loads((folder / MACHINES).read_text(encoding='utf-8'))
    return found


def topics(folder: Path = RESULTS) -> list[Topic]:
    """Read every file, sorted by name; raises ValueError if a figure has an unknown machine."""
    known, found = machines(folder), []
    for path in sorted(folder.glob('*.json')):
        if path.name == MACHINES:
            continue
        content: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
        figures = tuple(Figure(**one) for one in content['figures'])
        strange = [one.machine for one in figures if one.machine not in known]
        if strange:
            raise ValueError(f'{path.name} names the machine {strange[0]!r}')
        found.append(Topic(path.stem, content['title'], figures))
    return found


def table(folder: Path = RESULTS) -> str:
    """Return the tables of all topics and the list of machines as Markdown."""
    lines = []
    for topic in topics(folder):
        lines += [f'### {topic.title}', '', '| figure | value | measured | by |',
                  '|---|---|---|---|', *(row(one) for one in topic.figures), '']
    lines += ['### Machines', '']
    lines += [f'* **{letter}**: {words}' for letter, words in machines(folder).items()]
    return '\n'.join(lines)


def row(one: Figure) -> str:
    """Return the row of a figure."""
    unit = f' {one.unit}' if one.unit != '1' else ''
    value = f'**{one.value}**{unit}' + (f' ({one.parts})' if one.parts else '')
    name = f'{one.figure}. {one.note}' if one.note else one.figure
    by = f'`{one.command}`' + (f' at {one.commit}' if one.commit else '')
    by += f'; today `{one.again}`' if one.again else ''
    return f'| {name} | {value} | {one.date}, {one.machine} | {by} |'


def written(text: str, content: str) -> str:
    """Return a page with new content between its markers; raises ValueError without markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f'the page does not hold {BEGIN} and {END} once each')
    inside = re.compile(f'{re.escape(BEGIN)}.*{re.escape(END)}', re.DOTALL)
    return inside.sub(lambda _: f'{BEGIN}\n\n{content}\n\n{END}', text)


def main() -> int:
    """Write the page."""
    text = PAGE.read_text(encoding='utf-8')
    PAGE.write_text(written(text, table()), encoding='utf-8')
    print(json.dumps({'figures': sum(len(topic.figures) for topic in topics())}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
