# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The plots of a report: risk over coverage, reliability, values of a score, severity of corruption.

Each function takes values of `report.data` and returns an SVG as a ``data:`` address. Letters are
outlines: sharp in print, the same on every machine, and no font is fetched. The bytes depend on
the data only.

"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import io
import math
from typing import Any, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.report.data import RiskCoverageCurves, RiskCurve, ScoreSpread
from uncertainty_seg.calibration.report.pictures import data_address
from uncertainty_seg.calibration.statistics.metrics import (
    ExpectedCalibrationError,
    ReliabilityDiagram,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from uncertainty_seg.calibration.evaluation_run import Ladder

# Told apart with any kind of colour blindness, and dark enough for words on white; the last three
# are for lines of many, which differ in their dashes too.
BLUE, RED, PLUM = '#0072B2', '#C44E00', '#6B0F4F'
GREEN, SKY, SAND = '#007A5A', '#4FA3D1', '#C9A227'
INK, QUIET, GRID = '#1b1f24', '#59636e', '#d8dde3'
SERIES = (BLUE, RED, PLUM, SKY, SAND, GREEN)
# Lines differ in form too: for print in grey.
DASHES: tuple[Any, ...] = ('-', (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 2)),
                           (0, (1, 1)))

_STYLE = {
    'svg.hashsalt': 'uncertainty_seg', 'svg.fonttype': 'path', 'text.parse_math': False,
    'font.family': 'DejaVu Sans', 'font.size': 9.5, 'axes.titlesize': 10.5,
    'axes.titleweight': 'bold', 'axes.titlelocation': 'left', 'axes.labelsize': 9.5,
    'axes.labelcolor': INK, 'text.color': INK, 'axes.edgecolor': QUIET, 'axes.linewidth': 0.8,
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True,
    'axes.axisbelow': True, 'grid.color': GRID, 'grid.linewidth': 0.6, 'xtick.color': QUIET,
    'ytick.color': QUIET, 'xtick.labelcolor': INK, 'ytick.labelcolor': INK,
    'xtick.labelsize': 8.5, 'ytick.labelsize': 8.5, 'lines.linewidth': 1.8,
    'figure.facecolor': 'white', 'hatch.linewidth': 0.6,
}


# -------------------------------------------------------------------------------------------------
# Risk over coverage.

_MAX_POINTS = 400
# Below the first, a risk is the share among a handful of frames, and no curve is drawn; what lies
# below the second does not stretch the axis.
_DRAWN_COVERAGE, _STEADY_COVERAGE = 0.05, 0.15
_PALE = '#b4bcc4'
_POINT: dict[str, Any] = {'marker': 'o', 'markersize': 9, 'color': 'white',
                          'markeredgecolor': INK, 'markeredgewidth': 2.4}


def plot_risk_coverage(data: RiskCoverageCurves) -> str:
    """
    Draw the share of bad frames among the accepted over the share accepted; a ``data:`` address.

    The gate's curve is black and in front; others have a colour while there are colours, then
    grey.
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
    steady = [c.points.risk[c.points.coverage >= _STEADY_COVERAGE] for c in data.curves]
    values = np.concatenate([*steady, np.zeros(1)])
    values = values[np.isfinite(values)]
    highest = max(float(values.max()), data.alpha or 0.0, data.point[1] if data.point else 0.0)
    return float(min(max(1.12 * highest, 0.02), 1.02))


def _thin(curve: RiskCurve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points = curve.points
    drawn = np.flatnonzero(points.coverage >= _DRAWN_COVERAGE)
    steps = np.linspace(0, max(drawn.size - 1, 0), min(drawn.size, _MAX_POINTS))
    kept = drawn[steps.round().astype(int)]
    return points.coverage[kept], points.risk[kept]


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


# -------------------------------------------------------------------------------------------------
# Reliability.


def plot_reliability(errors: Mapping[str, ExpectedCalibrationError]) -> str:
    """
    Draw accuracy over confidence, and below it where the pixels lie; a ``data:`` address.

    The errors are by name, such as 'before' and 'after'; the last one is solid and in front.
    """
    curves = {f'{name}\nECE {error.value():.3f}': error.diagram()
              for name, error in errors.items()}

    def paint(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        lower = _lowest(list(curves.values()))
        top.plot([lower, 1], [lower, 1], color=QUIET, linewidth=1, zorder=1)
        span = 1 - lower
        for x, y, words in ((0.30, 0.80, 'underconfident'), (0.72, 0.16, 'overconfident')):
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


def _lowest(curves: Sequence[ReliabilityDiagram]) -> float:
    values = [v[c.share > 0] for c in curves for v in (c.confidence, c.accuracy)]
    known = np.concatenate([*values, np.ones(1)])
    return min(max(0.0, math.floor(float(np.nanmin(known)) * 10 + 1e-9) / 10), 0.9)


def _paint_reliability(
    top: Axes, bottom: Axes, curves: Mapping[str, ReliabilityDiagram], lower: float
) -> None:
    # The last is what is used: blue and solid.
    styles = [(SERIES[k], '-' if k == 0 else DASHES[k], 'os^Dvp'[k]) for k in range(len(SERIES))]
    ends = []
    for k, (name, curve) in enumerate(reversed(list(curves.items()))):
        color, dash, marker = styles[k % len(styles)]
        known = curve.share > 0
        x, y = curve.confidence[known], curve.accuracy[known]
        top.plot(x, y, color=color, linestyle=dash, marker=marker, markersize=5, zorder=5 - k,
                 clip_on=False)
        bottom.plot(x, curve.share[known], color=color, linestyle=dash, marker=marker,
                    markersize=3.5, linewidth=1.2, zorder=5 - k, clip_on=False)
        if x.size:
            ends.append((float(y[-1]), name, color))
    label_ends(top, ends, 0.13 * (1 - lower), lower, 0.97)
    bottom.axhline(0, color=GRID, linewidth=0.8)


# -------------------------------------------------------------------------------------------------
# Values of one score.

_NUM_BINS = 28
# The axis ends at this quantile: with a long tail on it, the other values could not be told apart.
_SHOWN_QUANTILE = 0.99


def plot_spread(spread: ScoreSpread) -> str:
    """
    Draw the histogram of a score on training, validation and foreign frames; a ``data:`` address.

    Values that are not finite are left out; those beyond the axis are in the last bin.
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


# -------------------------------------------------------------------------------------------------
# Severity of a corruption.


def plot_ladder(ladder: Ladder) -> str:
    """
    Draw the effect of a corruption by growing severity; a ``data:`` address.

    Above are shares of the frames, below is the ratio of score to threshold.
    """

    def paint(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
        severity = [step.severity for step in ladder.steps]
        lines = [('mean IoU', [s.mean_iou for s in ladder.steps], BLUE, 'o'),
                 ('accepted', [s.accepted for s in ladder.steps], PLUM, 's'),
                 ('accepted\nand bad', [s.accepted_and_bad for s in ladder.steps], RED, '^')]
        ends = []
        for name, values, color, marker in lines:
            if all(math.isnan(value) for value in values):
                continue  # without limits nothing is accepted or refused
            top.plot(severity, values, color=color, marker=marker, markersize=5, clip_on=False)
            ends.append((_last(values), name, color))
        top.set(ylim=(0, 1), title=ladder.kind, ylabel='share, IoU')
        label_ends(top, ends, 0.15, 0.03, 0.97)
        ratios = [s.ratio for s in ladder.steps]
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


# -------------------------------------------------------------------------------------------------
# What all plots use: from a figure to an address, axes of shares, and labels kept apart.


def picture(paint: Callable[[Figure], None], width_in: float, height_in: float) -> str:
    """
    Draw with `paint` on an empty figure of this size in inches; a ``data:`` address of an SVG.

    A page shows about 96 pixels an inch; the layout keeps axes apart.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(['default', _STYLE]):
        figure = Figure(figsize=(width_in, height_in), layout='constrained')
        paint(figure)
        file = io.BytesIO()
        # No date and no version: equal data are equal bytes.
        nothing = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
        figure.savefig(file, format='svg', metadata=nothing)
    return data_address('image/svg+xml', file.getvalue())


def spread_apart(
    wanted: Sequence[float], gap: float, lower: float, upper: float
) -> list[float]:
    """
    Move labels as little as possible so that none overlaps another.

    Parameters
    ----------
    wanted : sequence of float
        The best place of each.
    gap : float
        Least distance between two.
    lower, upper : float
        Range of the places, as far as there is room.

    Returns
    -------
    list of float
        Places in the order of `wanted`, whose rank they keep.

    """
    count = len(wanted)
    order = np.argsort(wanted, kind='stable')
    # Less the gaps below it, a place may be equal to its neighbour's and not lower, so that the
    # nearest places are an isotonic regression, here by its max-min formula.
    gaps = gap * np.arange(count)
    free = np.asarray(wanted, np.float64)[order] - gaps
    fitted = [max(min(free[i:j].mean() for j in range(k + 1, count + 1)) for i in range(k + 1))
              for k in range(count)]
    places = np.empty(count)
    places[order] = gaps + np.clip(fitted, lower, max(upper - gap * (count - 1), lower))
    return places.tolist()


def label_ends(
    axes: Axes, ends: Sequence[tuple[float, str, str]], gap: float, lower: float, upper: float
) -> None:
    """
    Write names beside the right ends of lines.

    Parameters
    ----------
    axes : Axes
        With its limits set.
    ends : sequence of (float, str, str)
        Height of each line's end in the axis's unit, its name and its colour.
    gap, lower, upper : float
        As in `spread_apart`.

    """
    places = spread_apart([end[0] for end in ends], gap, lower, upper)
    for place, (_, name, color) in zip(places, ends, strict=True):
        axes.annotate(name, (1, place), (6, 0), xycoords=('axes fraction', 'data'),
                      textcoords='offset points', color=color, va='center', ha='left',
                      fontsize=8.5, annotation_clip=False)


def percent_axis(axis: Any) -> None:
    """Write the ticks of an axis of shares as per cent."""
    axis.set_major_formatter(lambda share, _: f'{100 * share:.6g} %')
