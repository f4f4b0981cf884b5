# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The report's small plots, many of a kind: values of a score, and corruption by severity.

Each function takes values of `report_parts` and returns an SVG as a ``data:`` address.

"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.tools.report_canvas import (
    BLUE,
    INK,
    label_ends,
    percent_axis,
    picture,
    PLUM,
    QUIET,
    RED,
)
from uncertainty_seg.tools.report_parts import ScoreSpread, SeverityLadder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUM_BINS = 28
# A plot that shows the last of a long tail shows nothing of the rest.
_SHOWN_QUANTILE = 0.99


def plot_spread(spread: ScoreSpread) -> str:
    """
    Draw how often a score takes which value, on training, validation and foreign frames.

    Parameters
    ----------
    spread : ScoreSpread
        Values that are not finite are left out; those beyond the axis are in the last bin.

    Returns
    -------
    str
        A ``data:`` address.

    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        upper = _upper(spread)
        for k, (name, values) in enumerate(_sets(spread).items()):
            _paint_histogram(axes, values, upper, name, k)
        # Words in the colours of the lines; above the bins, which are tall anywhere.
        figure.legend(loc='outside upper right', ncols=3, frameon=False, fontsize=8.5,
                      labelcolor='linecolor', handlelength=1.8, columnspacing=1.2)
        if spread.threshold is not None and math.isfinite(spread.threshold):
            _paint_threshold(axes, spread.threshold, upper)
        axes.set(xlim=(0, upper), xlabel=spread.name, ylabel='share of frames')
        axes.set_ylim(0, axes.get_ylim()[1] * 1.18)
        axes.locator_params(axis='x', nbins=6)
        axes.locator_params(axis='y', nbins=4)
        percent_axis(axes.yaxis)

    return picture(paint, 4.4, 2.6)


def _sets(spread: ScoreSpread) -> dict[str, NDArray[np.float64]]:
    given = {'validation': spread.val, 'training': spread.train, 'foreign': spread.ood}
    flat = {k: np.asarray(v, np.float64).ravel() for k, v in given.items() if v is not None}
    return {name: values[np.isfinite(values)] for name, values in flat.items()}


def _upper(spread: ScoreSpread) -> float:
    sets = _sets(spread).values()
    ends = [float(np.quantile(values, _SHOWN_QUANTILE)) for values in sets if values.size]
    if spread.threshold is not None and math.isfinite(spread.threshold):
        ends.append(1.3 * spread.threshold)
    return 1.03 * max([*ends, 1e-6])


def _paint_histogram(
    axes: Axes, values: NDArray[np.float64], upper: float, name: str, rank: int
) -> None:
    color, dash = (RED, BLUE, PLUM)[rank], ('-', (0, (6, 1.5)), (0, (2, 1)))[rank]
    edges = np.linspace(0, upper, _NUM_BINS + 1)
    counts, _ = np.histogram(np.clip(values, 0, upper), edges)
    share = counts / max(values.size, 1)
    if rank == 0:
        axes.stairs(share, edges, color=color, fill=True, alpha=0.22, linewidth=0, zorder=2)
    axes.stairs(share, edges, color=color, linestyle=dash, linewidth=1.5, zorder=3,
                label=f'{name} ({values.size})')


def _paint_threshold(axes: Axes, threshold: float, upper: float) -> None:
    axes.axvline(threshold, color=INK, linewidth=1.3, zorder=4)
    is_right = threshold > 0.6 * upper
    axes.annotate(f'limit {threshold:.3g}', (threshold, 0.98), (-4 if is_right else 4, 0),
                  xycoords=('data', 'axes fraction'), textcoords='offset points',
                  ha='right' if is_right else 'left', va='top', fontsize=8.5, color=INK,
                  bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 1, 'alpha': 0.85},
                  zorder=5)


def plot_ladder(ladder: SeverityLadder) -> str:
    """
    Draw what a corruption does: shares above, the ratio of score to threshold below.

    Parameters
    ----------
    ladder : SeverityLadder
        By growing severity.

    Returns
    -------
    str
        A ``data:`` address.

    """

    def paint(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
        severity = [step.severity for step in ladder.steps]
        lines = [('mean IoU', [s.mean_iou for s in ladder.steps], BLUE, 'o'),
                 ('accepted', [s.accepted_share for s in ladder.steps], PLUM, 's'),
                 ('accepted\nand bad', [s.accepted_bad_share for s in ladder.steps], RED, '^')]
        ends = []
        for name, values, color, marker in lines:
            top.plot(severity, values, color=color, marker=marker, markersize=5, clip_on=False)
            ends.append((_last(values), name, color))
        top.set(ylim=(0, 1), title=ladder.kind, ylabel='share, IoU')
        label_ends(top, ends, 0.15, 0.03, 0.97)
        ratios = [s.mean_ratio for s in ladder.steps]
        bottom.plot(severity, ratios, color=INK, marker='D', markersize=4, clip_on=False)
        bottom.axhline(1, color=QUIET, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1)
        finite = [r for r in ratios if math.isfinite(r)]
        bottom.set(xlabel='severity', ylabel='ratio', ylim=(0, 1.15 * max([1.5, *finite])))
        bottom.locator_params(axis='y', nbins=4)
        label_ends(bottom, [(1.0, 'limit', QUIET)], 0.1, 0.0, 1.0)
        bottom.set_xticks(severity)

    return picture(paint, 4.4, 3.7)


def _last(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return known[-1] if known else 0.0
