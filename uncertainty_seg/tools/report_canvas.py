# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
One style for every plot of the report, and the way from a plot to text in a page.

Plots are SVG with letters as outlines: sharp in print, the same on every machine, and no font is
fetched. The bytes depend on the data only.

"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
import io
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def picture(paint: Callable[[Figure], None], width_in: float, height_in: float) -> str:
    """
    Draw a figure.

    Parameters
    ----------
    paint : callable
        Draws on an empty figure; axes keep clear of each other by themselves.
    width_in, height_in : float
        Size in inches; a page shows about 96 pixels an inch.

    Returns
    -------
    str
        A ``data:`` address of an SVG.

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


def data_address(kind: str, content: bytes) -> str:
    """Return content as an address that a page can hold."""
    return f'data:{kind};base64,{base64.b64encode(content).decode("ascii")}'


def spread_apart(
    wanted: Sequence[float], gap: float, lower: float, upper: float
) -> list[float]:
    """
    Move labels as little as is needed for none to lie on another.

    Parameters
    ----------
    wanted : sequence of float
        Where each would lie best.
    gap : float
        Least distance between two.
    lower, upper : float
        They stay within, as far as there is room.

    Returns
    -------
    list of float
        Places in the order of `wanted`, whose rank they keep.

    """
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    groups: list[list[float]] = []  # [sum of wanted centres, count, centre]
    for k in order:
        groups.append([wanted[k], 1, _held(wanted[k], 1, gap, lower, upper)])
        while len(groups) > 1 and _overlap(groups[-2], groups[-1], gap):
            total, count, _ = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += count
            mean = groups[-1][0] / groups[-1][1]
            groups[-1][2] = _held(mean, groups[-1][1], gap, lower, upper)
    places = [0.0] * len(wanted)
    ranks = iter(order)
    for _, count, centre in groups:
        for step in range(int(count)):
            places[next(ranks)] = centre + (step - (count - 1) / 2) * gap
    return places


def _held(centre: float, count: float, gap: float, lower: float, upper: float) -> float:
    half = (count - 1) * gap / 2
    return max(min(centre, upper - half), lower + half)


def _overlap(below: list[float], above: list[float], gap: float) -> bool:
    reach = (below[1] + above[1]) / 2 * gap
    return above[2] - below[2] < reach - 1e-9


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
