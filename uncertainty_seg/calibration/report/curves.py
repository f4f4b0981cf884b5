# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The curves of a training: a table for programs, and a page with two plots for people.

Both are written again after each epoch, so that a run can be looked at while it lasts.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import csv
from importlib.util import find_spec
import math
from pathlib import Path
from typing import Any, TYPE_CHECKING

from uncertainty_seg.storage.whole_files import replace_file, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ('epoch', 'loss', 'val_mean_iou', 'learning_rate', 'seconds', 'note')


def write_curves(weights: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """
    Write NAME.curves.csv, and where matplotlib and jinja2 are installed NAME.curves.html.

    Parameters
    ----------
    weights : Path
        NAME.pt, beside which they are.
    rows : sequence of mapping
        Of each epoch, by `COLUMNS`; an IoU that was not measured is NaN.

    """
    with whole_file(weights.with_suffix('.curves.csv')) as draft, \
            draft.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(COLUMNS)
        writer.writerows([_text(row[name]) for name in COLUMNS] for row in rows)
    if all(find_spec(name) for name in ('matplotlib', 'jinja2')):
        replace_file(weights.with_suffix('.curves.html'), _page(weights.stem, rows))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.6g}' if math.isfinite(value) else ''
    return str(value)


def _page(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    from uncertainty_seg.calibration.report.page import render_page

    return render_page('curves.html', title=f'Training of {name}', rows=rows,
                       plot=_plot(rows), notes=[row for row in rows if row['note']])


def _plot(rows: Sequence[Mapping[str, Any]]) -> str:
    from uncertainty_seg.calibration.report.plots import BLUE, picture, RED

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        epochs = [row['epoch'] for row in rows]
        for axes, key, color, label in ((left, 'loss', BLUE, 'loss'), (
                right, 'val_mean_iou', RED, 'mean IoU on images not trained on')):
            axes.plot(epochs, [row[key] for row in rows], color=color, marker='.')
            axes.set(xlabel='epoch', ylabel=label)
        right.set_ylim(0, 1)

    return picture(paint, 8.4, 3.2)
