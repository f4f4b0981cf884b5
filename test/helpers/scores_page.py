# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The list of scores in docs/reference/scores.md, written from the scores themselves.

``python test/helpers/scores_page.py`` writes it anew; a test compares.

"""

from __future__ import annotations

from pathlib import Path
import textwrap

from uncertainty_seg.core.scores.vector import SCORES

PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'reference' / 'scores.md'
BEGIN = '<!-- scores: made by python test/helpers/scores_page.py -->'
END = '<!-- end of scores -->'
COLUMNS = 119


def scores_list() -> str:
    """Return the scores as a Markdown list."""
    lines = []
    for kind in SCORES:
        of_maps = f' ({", ".join(kind.maps)})' * bool(kind.maps)
        lines += textwrap.wrap(
            f'- **`{kind.name}`**{of_maps}: {kind.meaning}. *Detects*: {kind.sees}. *Misses*: '
            f'{kind.misses}. *Kept*: {kind.reason}.', COLUMNS, subsequent_indent='  ',
            break_long_words=False, break_on_hyphens=False)
    return '\n'.join(lines) + '\n'


def with_list(page: str) -> str:
    """Return a page with the list between its markers renewed."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f'{head}{BEGIN}\n\n{scores_list()}\n{END}{tail}'


if __name__ == '__main__':
    PAGE.write_text(with_list(PAGE.read_text(encoding='utf-8')), encoding='utf-8')
