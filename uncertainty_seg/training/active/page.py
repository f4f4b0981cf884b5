# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The page of a study: curves with bands over seeds, what they gain over random, what was chosen.

Equal results give equal bytes.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from pathlib import Path
from typing import TYPE_CHECKING

from uncertainty_seg.calibration.report.page import render_page
from uncertainty_seg.calibration.report.plots import DASHES, INK, picture, SERIES
from uncertainty_seg.calibration.statistics.learning_curves import band_of
from uncertainty_seg.storage.whole_files import replace_file
from uncertainty_seg.training.active.results import (
    Curve,
    curves_of,
    POINT,
    points,
    reached_text,
    Row,
    signed,
    StudySummary,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the picks of a round that are listed.
_MOST_PICKS = 40


def write_page(path: Path, title: str, rows: Sequence[Row], summary: StudySummary) -> None:
    """Write the page of a study, whole or not at all."""
    curves = curves_of(rows)
    replace_file(path, render_page(
        'active_learn.html', title=f'Active learning: {title}', summary=summary, point=POINT,
        plots=[plot_curves(curves, summary.full.mean, label, over) for label, over in (
            ('share of the pool that is labelled, %', _shares),
            ('labelled pixels, millions', _pixels), ('labelled regions', _regions))],
        points=points, signed=signed, reached=lambda name: reached_text(summary, name),
        rounds=[row for row in rows if row['picks']], most=_MOST_PICKS))


def _shares(curve: Curve) -> tuple[float, ...]:
    return tuple(100 * share for share in curve.shares)


def _pixels(curve: Curve) -> tuple[float, ...]:
    return tuple(count / 1e6 for count in curve.pixels)


def _regions(curve: Curve) -> tuple[float, ...]:
    return curve.regions


def plot_curves(
    curves: Sequence[Curve], full: float, label: str, over: Callable[[Curve], tuple[float, ...]]
) -> str:
    """
    Draw test mean IoU over what was labelled, the mean over seeds and a band of all seeds.

    Parameters
    ----------
    curves : sequence of Curve
        Of all strategies and seeds.
    full : float
        What all labels give; NaN draws no line.
    label : str
        Of the horizontal axis.
    over : callable
        Returns the places of a curve's points on it.

    """
    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        if math.isfinite(full):
            axes.axhline(100 * full, color=INK, linewidth=1, label='all labels')
        for index, name in enumerate(dict.fromkeys(curve.strategy for curve in curves)):
            _paint(axes, [curve for curve in curves if curve.strategy == name], index, over)
        axes.set(xlabel=label, ylabel='test mean IoU, points')
        axes.legend(frameon=False, loc='lower right')

    return picture(paint, 8.4, 4.6)


def _paint(
    axes: Axes, curves: Sequence[Curve], index: int, over: Callable[[Curve], tuple[float, ...]]
) -> None:
    color = SERIES[index % len(SERIES)]
    dash = DASHES[(index + index // len(SERIES)) % len(DASHES)]
    count = max(len(curve.shares) for curve in curves)
    places = [band_of([over(c)[k] for c in curves if k < len(c.shares)]).mean
              for k in range(count)]
    bands = [band_of([c.values[k] for c in curves if k < len(c.shares)]) for k in range(count)]
    axes.plot(places, [100 * band.mean for band in bands], color=color, linestyle=dash,
              marker='.', label=curves[0].strategy)
    axes.fill_between(places, [100 * band.least for band in bands],
                      [100 * band.most for band in bands], color=color, alpha=0.13, linewidth=0)
