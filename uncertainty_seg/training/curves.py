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
    from uncertainty_seg.calibration.report.page import number, Plots, Report, Row, Section, Table

    table = [Row([f'{row["epoch"]}', number(row['loss']), number(row['val_mean_iou']),
                  f'{row["learning_rate"]:.2g}', number(row['seconds'], 1)]) for row in rows]
    return Report(f'Training of {name}', [
        Section('curves', 'Curves', [Plots([(_plot(rows), 'loss and mean IoU over epochs')],
                                           'large')], (
            'The loss is of augmented training images with dropout. Where it falls and the IoU of '
            'images that are not trained on no longer rises, the network learns its images by '
            'heart: take more of them, or stop earlier.')),
        Section('epochs', 'Epochs', [Table(
            ['epoch', 'loss', 'mean IoU', 'learning rate', 'seconds'], table)]),
    ], warnings=[f'Epoch {row["epoch"]}: {row["note"]}.' for row in rows if row['note']]).page()


def _plot(rows: Sequence[Mapping[str, Any]]) -> str:
    from uncertainty_seg.calibration.report.pictures import BLUE, picture, RED

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        epochs = [row['epoch'] for row in rows]
        for axes, key, color, label in ((left, 'loss', BLUE, 'loss'), (
                right, 'val_mean_iou', RED, 'mean IoU on images not trained on')):
            axes.plot(epochs, [row[key] for row in rows], color=color, marker='.')
            axes.set(xlabel='epoch', ylabel=label)
        right.set_ylim(0, 1)

    return picture(paint, 8.4, 3.2)
