# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Plots and photographs as ``data:`` addresses, which a page contains as text.

Plots are SVG with text as outlines: sharp in print, equal on every machine, and without fonts; the
bytes depend only on the data. Photographs and heatmaps are JPEG; masks are PNG, to keep their
edges sharp.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
import io
from typing import Any, NamedTuple, TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.stats.intervals import Interval, weighted_aurc
from uncertainty_seg.calibration.stats.metrics import ExpectedCalibrationError, risk_coverage
from uncertainty_seg.core.arrays import Column, ImageU8, LabelMap
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.render import color_mask, heat_legend, HeatScale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue, red and plum: distinguishable with any kind of colour blindness, and dark enough for text
# on white. Dashes differ too, for print in grey.
SERIES = ('#0072B2', '#C44E00', '#6B0F4F')
DASHES: tuple[Any, ...] = ('-', (0, (6, 2)), (0, (2, 1.5)))
INK, QUIET, GRID = '#1b1f24', '#59636e', '#d8dde3'

_STYLE = {
    'svg.hashsalt': 'uncertainty_seg', 'svg.fonttype': 'path', 'text.parse_math': False,
    'font.family': 'DejaVu Sans', 'font.size': 9.5, 'axes.titlesize': 10.5,
    'axes.titleweight': 'bold', 'axes.titlelocation': 'left', 'axes.labelsize': 9.5,
    'axes.labelcolor': INK, 'text.color': INK, 'axes.edgecolor': QUIET, 'axes.linewidth': 0.8,
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True,
    'axes.axisbelow': True, 'grid.color': GRID, 'grid.linewidth': 0.6, 'xtick.color': QUIET,
    'ytick.color': QUIET, 'xtick.labelcolor': INK, 'ytick.labelcolor': INK,
    'xtick.labelsize': 8.5, 'ytick.labelsize': 8.5, 'lines.linewidth': 1.8,
    'legend.frameon': False, 'legend.fontsize': 8.5, 'legend.labelspacing': 0.9,
    'figure.facecolor': 'white', 'hatch.linewidth': 0.6,
}
# Below the first coverage, risk is a share of very few frames, and no curve is drawn. Risks below
# the second coverage do not affect the axis range.
_DRAWN_COVERAGE, _STEADY_COVERAGE = 0.05, 0.15


def data_address(kind: str, content: bytes) -> str:
    """Return content of a media type as a ``data:`` address."""
    return f'data:{kind};base64,{base64.b64encode(content).decode("ascii")}'


def picture(paint: Callable[[Figure], None], width_in: float, height_in: float) -> str:
    """
    Draw with `paint` on an empty figure, size in inches; return the ``data:`` address of an SVG.

    A page shows about 96 pixels per inch; the layout prevents overlapping axes.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(['default', _STYLE]):
        figure = Figure(figsize=(width_in, height_in), layout='constrained')
        paint(figure)
        file = io.BytesIO()
        # No date and no version, so that equal data give equal bytes.
        nothing = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
        figure.savefig(file, format='svg', metadata=nothing)
    return data_address('image/svg+xml', file.getvalue())


def percent_axis(axis: Any) -> None:
    """Format the ticks of an axis of shares as percentages."""
    axis.set_major_formatter(lambda share, _: f'{100 * share:.6g} %')


def plot_risk_coverage(
    orders: Mapping[str, Column], losses: Column, gate: str = '',
    point: tuple[float, float] | None = None, alpha: float | None = None,
) -> str:
    """
    Draw the risk-coverage curves of some orders; return a ``data:`` address.

    `orders` holds values (n,) by name that grow with uncertainty: at most two and the gate. A loss
    is 1 for a bad frame, else 0. The order named `gate` is black and in front, `point` is its
    operating point (coverage, risk). The area where more than `alpha` is accepted and bad is
    hatched.
    """

    def paint(figure: Figure) -> None:
        axes, top = figure.add_subplot(), 0.02
        areas = {name: float(weighted_aurc(values, losses, np.ones((1, len(losses))))[0])
                 for name, values in orders.items()}
        others = sorted((name for name in orders if name != gate), key=lambda name: areas[name])
        for rank, name in enumerate([gate, *others] if gate in orders else others):
            coverage, risk = risk_coverage(orders[name], losses)
            drawn = coverage >= _DRAWN_COVERAGE
            steady = risk[coverage >= _STEADY_COVERAGE]
            top = max(top, 1.12 * float(steady.max(initial=0.0)))
            form: dict[str, Any] = {'color': INK, 'linewidth': 2.6, 'zorder': 5} \
                if name == gate else {'color': SERIES[rank], 'linestyle': DASHES[rank]}
            axes.plot(coverage[drawn], risk[drawn], **form,
                      label=f'{name}\nAURC {areas[name]:.4f}')
        top = min(max(top, 1.12 * (alpha or 0), 1.12 * point[1] if point else 0), 1.02)
        if alpha is not None:
            _paint_promise(axes, alpha, top)
        if point is not None:
            axes.plot([point[0], point[0], 0], [0, point[1], point[1]], color=INK, linewidth=0.9,
                      linestyle=(0, (1, 2)), zorder=6)
            words = f'the thresholds are here:\n{point[0]:.1%} accepted,\n{point[1]:.1%} of ' \
                'these bad'
            axes.plot([point[0]], [point[1]], marker='o', markersize=9, color='white',
                      markeredgecolor=INK, markeredgewidth=2.4, linestyle='', zorder=7,
                      clip_on=False, label=words.replace('%', ' %'))
        axes.set(xlim=(0, 1), ylim=(0, top), xlabel='coverage: share of frames accepted',
                 ylabel='risk: share of accepted frames that are bad')
        percent_axis(axes.xaxis)
        percent_axis(axes.yaxis)
        figure.legend(loc='outside right center')

    return picture(paint, 8.4, 4.4)


def _paint_promise(axes: Axes, alpha: float, top: float) -> None:
    # The share accepted and bad is coverage times risk, so the promise is a hyperbola.
    coverage = np.linspace(1e-3, 1, 500)
    edge = np.minimum(alpha / coverage, 10)
    axes.fill_between(coverage, edge, 10, facecolor='#f3f4f6', edgecolor='#c9d0d7',
                      hatch='////', linewidth=0, zorder=0.5)
    axes.plot(coverage, edge, color=QUIET, linewidth=1.1, zorder=1)
    axes.annotate(f'accepted and bad above {100 * alpha:.4g} %', (0.985, top), (0, -6),
                  textcoords='offset points', ha='right', va='top', color=QUIET, fontsize=8.5,
                  bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 1.5, 'alpha': 0.9},
                  zorder=4)


def plot_reliability(errors: Mapping[str, ExpectedCalibrationError]) -> str:
    """
    Draw accuracy over confidence, with the share of pixels below; return a ``data:`` address.

    `errors`, at most three, are keyed by name, such as 'before'; the last is solid and in front.
    """

    def paint(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        for rank, (name, error) in enumerate(reversed(list(errors.items()))):
            confidence, accuracy, share = error.diagram()
            form: dict[str, Any] = {'color': SERIES[rank], 'linestyle': DASHES[rank],
                                    'marker': 'os^'[rank], 'zorder': 5 - rank}
            top.plot(confidence, accuracy, **form, label=f'{name}\nECE {error.value():.3f}')
            bottom.plot(confidence, share, markersize=3.5, linewidth=1.2, **form)
        top.plot([0, 1], [0, 1], color=QUIET, linewidth=1, zorder=1)
        for x, y, words in ((0.30, 0.80, 'underconfident'), (0.72, 0.16, 'overconfident')):
            top.text(x, y, words, color=QUIET, ha='center', style='italic')
        top.set(xlim=(0, 1), ylim=(0, 1), ylabel='accuracy: share of right pixels')
        bottom.set(xlabel='confidence of the pixel', ylabel='pixels', ylim=(0, None))
        for axis in (top.yaxis, bottom.yaxis, bottom.xaxis):
            percent_axis(axis)
        bottom.locator_params(axis='y', nbins=3)
        figure.legend(loc='outside right upper')

    return picture(paint, 6.4, 5.0)


def plot_forest(
    rows: Sequence[tuple[str, Sequence[tuple[str, str, Interval]]]], baseline: str
) -> str:
    """
    Draw gains with their intervals, one row per figure; return a ``data:`` address.

    A row is the title of a figure, and for each bundle its label, the change in words, and the
    gain, which is above 0 if better. Each row is scaled separately to the width of the plot.
    """
    labels = list(dict.fromkeys(label for _, group in rows for label, *_ in group))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, (_, group) in enumerate(rows):
            ends = [abs(end) for *_, gain in group for end in (gain.lower, gain.upper, gain.value)]
            span = max((end for end in ends if np.isfinite(end)), default=0.0) or 1.0
            for label, words, gain in group:
                rank = labels.index(label)
                height = place + 0.7 * ((rank + 0.5) / len(labels) - 0.5)
                color = SERIES[rank % len(SERIES)]
                axes.plot([gain.lower / span, gain.upper / span], [height] * 2, color=color)
                axes.plot([gain.value / span], [height], 'os^'[rank % 3], color=color,
                          label=label if label not in axes.get_legend_handles_labels()[1] else '')
                axes.text(1.06, height, words, color=color, va='center', fontsize=8.5)
        axes.axvline(0, color=INK, linewidth=1, zorder=0)
        axes.set(xlim=(-1.03, 1.03), ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)),
                 yticklabels=[title for title, _ in rows], xticks=(-0.5, 0, 0.5),
                 xticklabels=('worse', f'as {baseline}', 'better'))
        axes.grid(visible=False)
        figure.legend(loc='outside upper left', ncols=3)

    return picture(paint, 9.6, 0.9 + max(0.34, 0.26 * len(labels)) * len(rows))


# -------------------------------------------------------------------------------------------------
# Photographs.

# Box that frames of a report are fitted into, and the JPEG quality.
_WIDTH_PX, _HEIGHT_PX, _QUALITY = 240, 180, 75
_LEGEND_PX = 48
IGNORED_RGB = (150, 150, 150)


class Tile(NamedTuple):
    """A picture's caption and its ``data:`` address."""

    caption: str
    address: str


def jpeg_address(picture_bgr: ImageU8, quality: int) -> str:
    """Return a picture as the ``data:`` address of a JPEG."""
    _, content = cv2.imencode('.jpg', picture_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data_address('image/jpeg', content.tobytes())


def png_address(picture_bgr: ImageU8) -> str:
    """Return a picture as the ``data:`` address of a PNG."""
    _, content = cv2.imencode('.png', picture_bgr, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    return data_address('image/png', content.tobytes())


def fitted_size(image: NDArray[Any], width_px: int, height_px: float) -> tuple[int, int]:
    """Return (width, height) of an image fitted into a box, never enlarged, for OpenCV."""
    height, width = image.shape[:2]
    scale = min(width_px / width, height_px / height, 1.0)
    return max(1, round(width * scale)), max(1, round(height * scale))


def frame_tiles(
    image_bgr: ImageU8, truth: LabelMap, predicted: LabelMap, heat_bgr: ImageU8, card: ModelCard
) -> tuple[Tile, ...]:
    """Return image, truth, prediction and heatmap of a frame, all (H, W), as small pictures."""
    size = fitted_size(image_bgr, _WIDTH_PX, _HEIGHT_PX)
    image, heat = (np.asarray(cv2.resize(one, size, interpolation=cv2.INTER_AREA), np.uint8)
                   for one in (image_bgr, heat_bgr))
    masks = (Tile(name, png_address(paint_mask(
        cv2.resize(label, size, interpolation=cv2.INTER_NEAREST), card)))
        for name, label in (('truth', truth), ('prediction', predicted)))
    return (Tile('image', jpeg_address(image, _QUALITY)), *masks,
            Tile('heatmap', jpeg_address(heat, _QUALITY)))


def paint_mask(label: LabelMap, card: ModelCard) -> ImageU8:
    """Paint class ids in the colours of a card, and ignored pixels in grey."""
    painted = color_mask(label, card.palette)
    painted[label == card.ignore_index] = IGNORED_RGB[::-1]
    return painted


def legend_tile(scale: HeatScale) -> Tile:
    """Return the legend of a heatmap at twice its display size, with a caption in words."""
    words = f'{scale.name}: grey up to {scale.lower:.3g}, brightest from {scale.upper:.3g}'
    if scale.unknown_above is not None:
        words += '; cyan surrounds regions unlike the training images'
    return Tile(words, png_address(heat_legend(scale, _LEGEND_PX)))
