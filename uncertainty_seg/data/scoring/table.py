# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The folder of a score table: which parts are finished, which are to be made, and its index.

What made a part stands in the part. The index repeats it for people and scripts; it is made from
the parts and never trusted.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
import hashlib
import json
import os
from pathlib import Path
import re
import sys
import textwrap
from typing import Any

from uncertainty_seg.core.scores.vector import SCORES
from uncertainty_seg.data.scoring.shard import ShardEngine, ShardJob, ShardReport
from uncertainty_seg.errors import ConfigError, TableError
from uncertainty_seg.storage.frame_sources import FrameSource
from uncertainty_seg.storage.score_rows import list_parts, PART_ENDING, read_facts, read_info
from uncertainty_seg.storage.whole_files import lock_file, whole_file

# -------------------------------------------------------------------------------------------------
# What each kind of score measures, what raises it, and what it cannot detect.
# No score detects everything; a gate combines several, so that they cover each other's gaps. The
# list in docs/scores.md is written from this one, and a test compares the two.

LIST_BEGIN = '<!-- scores: made by python -m uncertainty_seg.data.scoring.table -->'
LIST_END = '<!-- end of scores -->'
PAGE_COLUMNS = 110


def scores_list() -> str:
    """Return the scores as a Markdown list."""
    lines = []
    for kind in SCORES:
        of_maps = f' ({", ".join(kind.maps)})' * bool(kind.maps)
        lines += textwrap.wrap(
            f'- **`{kind.name}`**{of_maps}: {kind.meaning}. *Detects*: {kind.sees}. *Misses*: '
            f'{kind.misses}. *Kept*: {kind.reason}.', PAGE_COLUMNS, subsequent_indent='  ',
            break_long_words=False, break_on_hyphens=False)
    return '\n'.join(lines) + '\n'


def with_list(page: str) -> str:
    """Return a page with the list between its markers renewed."""
    head, _, rest = page.partition(LIST_BEGIN)
    _, _, tail = rest.partition(LIST_END)
    return f'{head}{LIST_BEGIN}\n\n{scores_list()}\n{LIST_END}{tail}'


# -------------------------------------------------------------------------------------------------
# The list in docs/scores.md is written from the scores themselves.
#
# ``python -m uncertainty_seg.data.scoring.table`` rewrites it in a source tree; a test compares.

PAGE_PATH = Path('docs') / 'scores.md'


INDEX_FILE, LOCK_FILE = 'index.json', '.lock'


@contextmanager
def locked_table(table: Path) -> Iterator[None]:
    """
    Hold a table for one run, and make its folder.

    Raises TableError if it is no folder of parts, cannot be written, or another run holds it.
    """
    _require_table(table)
    try:
        table.mkdir(parents=True, exist_ok=True)
        lock = lock_file(table / LOCK_FILE)
    except BlockingIOError as err:
        raise TableError(f'another run is writing to {table}', 'one at a time',
                         'wait for it, or give another --out') from err
    except OSError as err:
        raise TableError(f'{table} cannot be written ({err.strerror})',
                         'a folder that this user may write to') from err
    try:
        _remove_drafts(table)
        yield
    finally:
        os.close(lock)


def plan_jobs(
    table: Path, sources: Sequence[FrameSource], engine: ShardEngine, stride: int
) -> tuple[list[ShardJob], list[ShardReport]]:
    """
    Tell what is to be scored from what is finished.

    Raises ConfigError if the table has parts of other sources that were made with another model or
    settings: nothing could be compared with them.

    Parameters
    ----------
    table : Path
        Folder of the table.
    sources : sequence of FrameSource
        All that is asked for.
    engine : Engine
        Opened for the settings of the run.
    stride : int
        Each `stride`-th frame is scored.

    Returns
    -------
    jobs : list of ShardJob
        Shards without a part, or whose source, model or settings have changed since.
    finished : list of ShardReport
        Of the others.

    """
    jobs, finished = [], []
    for source in sources:
        job = ShardJob(source, table / part_name(source), stride, engine.settings, engine.info,
                       engine.fingerprint(source, stride), os.getcwd())
        done = _report_of(job.part)
        if done is not None and done.fingerprint == job.fingerprint:
            finished.append(done)
        else:
            jobs.append(job)
    mine = {part_name(source) for source in sources}
    foreign = [part for part in list_parts(table)
               if part.name not in mine and read_info(part) != engine.info]
    if foreign:
        raise ConfigError(
            f'{table} holds {len(foreign)} parts of other sources, scored with another model or '
            f'settings ({foreign[0].name})', 'one model and one set of settings a table',
            'give their sources too, or another --out')
    return jobs, finished


def part_name(source: FrameSource) -> str:
    """Return the file name of a source's part: the same however its path is written."""
    path = Path(source.path).resolve()
    digest = hashlib.sha256(os.fsencode(f'{path}#{source.topic}')).hexdigest()[:12]
    return f'{re.sub(r"[^A-Za-z0-9_.-]", "_", path.name)}-{digest}{PART_ENDING}'


def write_index(table: Path) -> None:
    """Write what the parts say of themselves, by rename."""
    parts = list_parts(table)
    reports = [asdict(report) for report in map(_report_of, parts) if report]
    info: dict[str, Any] = asdict(read_info(parts[0])) if parts else {}
    with whole_file(table / INDEX_FILE) as draft:
        draft.write_text(json.dumps({'table': info, 'parts': reports}, indent=1) + '\n')


def _require_table(table: Path) -> None:
    """Refuse a folder of something else, where parts would get lost among it."""
    if not table.exists():
        return
    if not table.is_dir():
        raise TableError(f'{table} is a file', 'a folder for the table', 'give another --out')
    known = (INDEX_FILE, LOCK_FILE)
    others = [path.name for path in table.iterdir()
              if path.name not in known and not path.name.endswith((PART_ENDING, '.tmp'))]
    if others and not (table / LOCK_FILE).exists():
        raise TableError(f'{table} is no score table (it holds {sorted(others)[0]})',
                         'a new or empty folder', 'give another --out')


def _remove_drafts(table: Path) -> None:
    """Remove what a run that was killed left behind."""
    for draft in table.glob('.*.tmp'):
        draft.unlink(missing_ok=True)


def _report_of(part: Path) -> ShardReport | None:
    """Return what a part says of itself; None for one that is missing or damaged."""
    if not part.is_file():
        return None
    try:
        return ShardReport(**read_facts(part))
    except (TableError, TypeError):
        return None


def main() -> int:
    """Rewrite the page in the source tree this module lies in."""
    page = Path(__file__).resolve().parents[3] / PAGE_PATH
    page.write_text(with_list(page.read_text(encoding='utf-8')), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
