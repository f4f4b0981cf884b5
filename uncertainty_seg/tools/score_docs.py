# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Writes the table of docs/scores.md from the scores themselves.

``python -m uncertainty_seg.tools.score_docs`` rewrites it in a source tree; a test compares.

"""

from __future__ import annotations

from pathlib import Path
import sys

from uncertainty_seg.core.score_table import with_table

PAGE_PATH = Path('docs') / 'scores.md'


def main() -> int:
    """Rewrite the page in the source tree this module lies in."""
    page = Path(__file__).resolve().parents[2] / PAGE_PATH
    page.write_text(with_table(page.read_text(encoding='utf-8')), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
