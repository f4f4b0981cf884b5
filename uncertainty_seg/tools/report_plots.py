# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The report's plots about ranking and honesty: risk-coverage and reliability.

Each function takes values of `report_parts` and returns an SVG as a ``data:`` address.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.tools.report_canvas import (
    DASHES,
    GRID,
    INK,
    label_ends,
    percent_axis,
    picture,
    QUIET,
    SERIES,
)
from uncertainty_seg.tools.report_parts import Reliability, RiskCoverageCurves, RiskCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_POINTS = 400
# Below the first, a risk is the share among a handful of frames, and no curve is drawn; what lies
# below the second does not stretch the axis.
_DRAWN_COVERAGE, _STEADY_COVERAGE = 0.05, 0.15
_PALE = '#b4bcc4'
_POINT: dict[str, Any] = {'marker': 'o', 'markersize': 9, 'color': 'white',
                          'markeredgecolor': INK, 'markeredgewidth': 2.4}


def plot_risk_coverage(data: RiskCoverageCurves) -> str:
    """
    Draw the share of bad frames among the accepted over the share accepted.

    Parameters
    ----------
    data : RiskCoverage
        The gate's curve is black and in front; the rest as many as there are colours, then grey.

    Returns
    -------
    str
        A ``data:`` address.

    """

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        top = _risk_limit(data)
        if data.alpha is not None:
            _paint_promise(axes, data.alpha, top)
        scores = [curve for curve in data.curves if not curve.is_gate]
        for k, curve in reversed(list(enumerate(scores))):
            known = k < len(SERIES)
            axes.plot(*_thin(curve), color=SERIES[k] if known else _PALE,
                      linestyle=DASHES[k] if known else '-', linewidth=1.6 if known else 0.9,
                      zorder=3 if known else 2)
        for curve in data.curves:
            if curve.is_gate:
                axes.plot(*_thin(curve), color=INK, linewidth=2.6, zorder=5)
        if data.point is not None:
            _paint_point(axes, data.point)
        axes.set(xlim=(0, 1), ylim=(0, top), xlabel='coverage: share of frames accepted',
                 ylabel='risk: share of the accepted that is bad')
        percent_axis(axes.xaxis)
        percent_axis(axes.yaxis)
        _list_curves(figure, data)

    return picture(paint, 8.4, 4.4)


def _risk_limit(data: RiskCoverageCurves) -> float:
    steady = [curve.risk[curve.coverage >= _STEADY_COVERAGE] for curve in data.curves]
    values = np.concatenate([*steady, np.zeros(1)])
    values = values[np.isfinite(values)]
    highest = max(float(values.max()), data.alpha or 0.0, data.point[1] if data.point else 0.0)
    return float(min(max(1.12 * highest, 0.02), 1.02))


def _thin(curve: RiskCurve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    drawn = np.flatnonzero(curve.coverage >= _DRAWN_COVERAGE)
    steps = np.linspace(0, max(drawn.size - 1, 0), min(drawn.size, _MAX_POINTS))
    kept = drawn[steps.round().astype(int)]
    return curve.coverage[kept], curve.risk[kept]


def _paint_promise(axes: Axes, alpha: float, top: float) -> None:
    # Accepted and bad is coverage times risk: the promise is a hyperbola.
    coverage = np.linspace(1e-3, 1, 500)
    limit = np.minimum(alpha / coverage, 10)
    axes.fill_between(coverage, limit, 10, facecolor='#f3f4f6', edgecolor='#c9d0d7',
                      hatch='////', linewidth=0, zorder=0.5)
    axes.plot(coverage, limit, color=QUIET, linewidth=1.1, zorder=1)
    axes.annotate(f'accepted and bad above {100 * alpha:.4g} %', (0.985, top), (0, -6),
                  textcoords='offset points', ha='right', va='top', color=QUIET, fontsize=8.5,
                  bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 1.5, 'alpha': 0.9},
                  zorder=4)


def _paint_point(axes: Axes, point: tuple[float, float]) -> None:
    coverage, risk = point
    axes.plot([coverage, coverage, 0], [0, risk, risk], color=INK, linewidth=0.9,
              linestyle=(0, (1, 2)), zorder=6)
    axes.plot([coverage], [risk], **_POINT, zorder=7, clip_on=False)


def _list_curves(figure: Figure, data: RiskCoverageCurves) -> None:
    """Write the names beside the plot, gate first and then from low to high area."""
    from matplotlib.lines import Line2D

    scores = [curve for curve in data.curves if not curve.is_gate]
    entries = [(_name(c), Line2D([], [], color=INK, linewidth=2.6))
               for c in data.curves if c.is_gate]
    if data.point is not None:
        coverage, risk = data.point
        words = f'the limits are here:\n{coverage:.1%} accepted,\n{risk:.1%} of these bad'
        entries.append((words.replace('%', ' %'), Line2D([], [], **_POINT, linestyle='')))
    ranked = sorted(range(min(len(scores), len(SERIES))), key=lambda k: _area(scores[k]))
    entries += [(_name(scores[k]), Line2D([], [], color=SERIES[k], linestyle=DASHES[k],
                                          linewidth=1.6)) for k in ranked]
    if len(scores) > len(SERIES):
        words = f'{len(scores) - len(SERIES)} more'
        entries.append((words, Line2D([], [], color=_PALE, linewidth=0.9)))
    if entries:
        names, handles = zip(*entries, strict=True)
        figure.legend(handles, names, loc='outside right center', frameon=False, fontsize=8.5,
                      handlelength=2.6, labelspacing=0.9)


def _name(curve: RiskCurve) -> str:
    return curve.name if curve.aurc is None else f'{curve.name}\nAURC {curve.aurc:.4f}'


def _area(curve: RiskCurve) -> float:
    return math.inf if curve.aurc is None else curve.aurc


def plot_reliability(curves: Mapping[str, Reliability]) -> str:
    """
    Draw accuracy over confidence, and below it where the pixels lie.

    Parameters
    ----------
    curves : mapping of str to Reliability
        By name, such as 'before' and 'after'; the last one is solid and in front.

    Returns
    -------
    str
        A ``data:`` address.

    """

    def paint(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        lower = _lowest(list(curves.values()))
        top.plot([lower, 1], [lower, 1], color=QUIET, linewidth=1, zorder=1)
        span = 1 - lower
        for x, y, words in ((0.30, 0.80, 'less sure than right'), (0.72, 0.16, 'too sure')):
            top.text(lower + x * span, lower + y * span, words, color=QUIET, fontsize=9,
                     ha='center', style='italic')
        _paint_reliability(top, bottom, curves, lower)
        top.set(xlim=(lower, 1), ylim=(lower, 1.0), ylabel='accuracy: share that is right')
        bottom.set(xlabel='confidence of the pixel', ylabel='pixels')
        bottom.set_ylim(bottom=0)
        for axis in (top.yaxis, bottom.yaxis, bottom.xaxis):
            percent_axis(axis)
        bottom.locator_params(axis='y', nbins=3)

    return picture(paint, 5.6, 5.0)


def _lowest(curves: Sequence[Reliability]) -> float:
    values = [v[c.share > 0] for c in curves for v in (c.confidence, c.accuracy)]
    known = np.concatenate([*values, np.ones(1)])
    return min(max(0.0, math.floor(float(np.nanmin(known)) * 10 + 1e-9) / 10), 0.9)


def _paint_reliability(
    top: Axes, bottom: Axes, curves: Mapping[str, Reliability], lower: float
) -> None:
    # The last is what is used: blue and solid.
    styles = [(SERIES[k], '-' if k == 0 else DASHES[k], 'os^Dvp'[k]) for k in range(len(SERIES))]
    ends = []
    for k, (name, curve) in enumerate(reversed(list(curves.items()))):
        color, dash, marker = styles[k % len(styles)]
        known = (curve.share > 0) & np.isfinite(curve.accuracy)
        order = np.argsort(curve.confidence[known])
        x, y = curve.confidence[known][order], curve.accuracy[known][order]
        top.plot(x, y, color=color, linestyle=dash, marker=marker, markersize=5, zorder=5 - k,
                 clip_on=False)
        bottom.plot(x, curve.share[known][order], color=color, linestyle=dash, marker=marker,
                    markersize=3.5, linewidth=1.2, zorder=5 - k, clip_on=False)
        if x.size:
            ends.append((float(y[-1]), f'{name}\nECE {curve.ece:.3f}', color))
    label_ends(top, ends, 0.13 * (1 - lower), lower, 0.97)
    bottom.axhline(0, color=GRID, linewidth=0.8)
