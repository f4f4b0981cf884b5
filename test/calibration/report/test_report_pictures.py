# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Plots and pictures of a report show their data, at the right place and legibly."""

import base64
from collections.abc import Callable
import itertools
import re
from typing import Any
import warnings

import cv2
import numpy as np
import pytest
from report_sample import CARD, PALETTE, sample_frame, sample_orders, sample_tiles

pytest.importorskip('matplotlib', reason='matplotlib is not installed: no report is drawn')

from matplotlib.figure import Figure  # noqa: E402, I100
from matplotlib.text import Text  # noqa: E402

from uncertainty_seg.calibration.report import pictures  # noqa: E402
from uncertainty_seg.calibration.stats.metrics import (  # noqa: E402
    ExpectedCalibrationError,
    risk_coverage,
)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return the figures after layout, before they are written as SVG."""
    figures: list[Figure] = []
    real = pictures.picture

    def picture(paint: Callable[[Figure], None], width_in: float, height_in: float) -> str:
        def kept(figure: Figure) -> None:
            paint(figure)
            figures.append(figure)

        return real(kept, width_in, height_in)

    monkeypatch.setattr(pictures, 'picture', picture)
    return figures


def has_line(axes: Any, x: Any, y: Any) -> bool:
    wanted = np.column_stack([np.asarray(x, float), np.asarray(y, float)])
    lines = [np.column_stack(line.get_data()) for line in axes.get_lines()]
    return any(line.shape == wanted.shape and np.allclose(line, wanted, equal_nan=True)
               for line in lines)


def legend_words(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_risk_coverage_draws_each_order_from_5_percent_on_and_names_it(
    drawn: list[Figure],
) -> None:
    orders, bad = sample_orders()
    pictures.plot_risk_coverage(orders, bad, 'the gate')
    axes = drawn[0].axes[0]
    shown = dict(zip([words.split('\n')[0] for words in legend_words(drawn[0])],
                     drawn[0].legends[0].get_lines(), strict=True))
    assert list(shown)[0] == 'the gate'
    for name, values in orders.items():
        coverage, risk = risk_coverage(values, bad)
        kept = coverage >= 0.05
        assert has_line(axes, coverage[kept], risk[kept])
        # A legend entry has the colour and dashes of its line.
        line, = [line for line in axes.get_lines()
                 if np.array_equal(np.asarray(line.get_ydata()), risk[kept])]
        assert line.get_color() == shown[name].get_color()
        assert line.get_linestyle() == shown[name].get_linestyle()


def test_the_edge_of_the_hatched_part_is_where_accepted_and_bad_is_alpha(
    drawn: list[Figure],
) -> None:
    orders, bad = sample_orders()
    pictures.plot_risk_coverage(orders, bad, 'the gate', (0.6, 0.031), 0.05)
    lines = [np.column_stack(line.get_data()) for line in drawn[0].axes[0].get_lines()]
    edge = next(line for line in lines if line.shape[0] == 500)
    assert np.allclose(edge[edge[:, 1] < 1].prod(axis=1), 0.05)
    assert edge[-1] == pytest.approx([1, 0.05])
    assert has_line(drawn[0].axes[0], [0.6], [0.031])
    assert any('60.0 % accepted' in words and '3.1 %' in words for words in legend_words(drawn[0]))


def test_reliability_draws_the_bins_that_hold_pixels(drawn: list[Figure]) -> None:
    count, confidence, hits = np.zeros(15), np.zeros(15), np.zeros(15)
    count[[4, 7, 13]], confidence[[4, 7, 13]], hits[[4, 7, 13]] = \
        (10, 20, 70), (3, 10, 63), (2, 11, 56)
    pictures.plot_reliability({'before': ExpectedCalibrationError(count, hits, confidence)})
    line = drawn[0].axes[0].get_lines()[0]
    known = np.isfinite(line.get_ydata())
    assert np.asarray(line.get_xdata())[known] == pytest.approx([0.3, 0.5, 0.9])
    assert np.asarray(line.get_ydata())[known] == pytest.approx([0.2, 0.55, 0.8])
    # 0.1 * 0.1 + 0.2 * 0.05 + 0.7 * 0.1
    assert legend_words(drawn[0]) == ['before\nECE 0.090']


def text_boxes(figure: Figure) -> list[tuple[str, Any]]:
    """Return the visible texts, each with its rectangle in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    hidden = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
              for tick in axis.get_major_ticks() for label in (tick.label1, tick.label2)
              if not min(axis.get_view_interval()) <= tick.get_loc() <= max(
                  axis.get_view_interval())}
    found: list[Any] = list(dict.fromkeys(figure.findobj(Text)))
    return [(t.get_text(), t.get_window_extent()) for t in found
            if t.get_text().strip() and t.get_visible() and t not in hidden]


def test_no_word_lies_on_another_or_leaves_its_plot(drawn: list[Figure]) -> None:
    orders, bad = sample_orders()
    pictures.plot_risk_coverage(orders, bad, 'the gate', (0.6, 0.04), 0.05)
    pictures.plot_reliability({'before': ExpectedCalibrationError()})
    for figure in drawn:
        boxes = text_boxes(figure)
        width, height = figure.get_size_inches() * figure.dpi
        assert not [words for words, box in boxes if box.x0 < -0.5 or box.y0 < -0.5
                    or box.x1 > width + 0.5 or box.y1 > height + 0.5]
        assert not [(one, other) for (one, a), (other, b) in itertools.combinations(boxes, 2)
                    if min(a.x1, b.x1) - max(a.x0, b.x0) > 1
                    and min(a.y1, b.y1) - max(a.y0, b.y0) > 1]


ODD: list[Callable[[], str]] = [
    lambda: pictures.plot_risk_coverage({'a': np.ones(1)}, np.zeros(1), 'a', (1.0, 0.0), 0.1),
    lambda: pictures.plot_reliability({'x': ExpectedCalibrationError()}),
    # Must not be parsed as a formula, which would be invalid.
    lambda: pictures.plot_risk_coverage({'$\\frac$': np.ones(3)}, np.zeros(3)),
]


@pytest.mark.parametrize('case', range(len(ODD)))
def test_odd_data_are_drawn_without_a_warning(case: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        address = ODD[case]()
    svg = base64.b64decode(address.removeprefix('data:image/svg+xml;base64,'))
    assert b'</svg>' in svg
    assert not re.search(rb'\bnan\b|\binf\b', svg)


# -------------------------------------------------------------------------------------------------
# Photographs.


def pixels(address: str) -> np.ndarray[Any, Any]:
    raw = base64.b64decode(address.split(',')[1])
    decoded = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


def test_four_pictures_stand_in_order_and_show_what_they_are_called() -> None:
    source, _, label, warm = sample_frame(3)
    tiles = sample_tiles(3)
    assert [t.caption for t in tiles] == ['image', 'truth', 'prediction', 'heatmap']
    assert np.abs(pixels(tiles[0].address).astype(int) - source).mean() < 4
    colours = np.array(PALETTE, np.uint8)[:, ::-1][label]
    np.testing.assert_array_equal(pixels(tiles[2].address), colours)
    assert np.abs(pixels(tiles[3].address).astype(int) - warm).mean() < 6


def test_truth_and_prediction_are_not_mixed_up_and_ignored_is_grey() -> None:
    source, truth, label, warm = sample_frame(3)
    truth[:10], truth[10:20] = 255, 1
    _, shown, predicted, _ = pictures.frame_tiles(source, truth, label, warm, CARD)
    assert (pixels(shown.address)[:10] == pictures.IGNORED_RGB[::-1]).all()
    assert (pixels(shown.address)[10:20] == PALETTE[1][::-1]).all()
    assert (pixels(predicted.address)[:20] == PALETTE[0][::-1]).all()


@pytest.mark.parametrize(('height', 'width', 'shape'), [
    (480, 640, (180, 240)), (640, 480, (180, 135)), (90, 1280, (17, 240)), (60, 80, (60, 80)),
    (1, 5000, (1, 240)),
])
def test_pictures_keep_their_form_fit_a_box_and_their_masks_have_no_other_colour(
    height: int, width: int, shape: tuple[int, int]
) -> None:
    tiles = pictures.frame_tiles(*sample_frame(1, height, width), CARD)
    assert {pixels(tile.address).shape[:2] for tile in tiles} == {shape}
    colours = {tuple(int(v) for v in c) for c in pixels(tiles[2].address).reshape(-1, 3)}
    assert colours <= {PALETTE[0][::-1], PALETTE[2][::-1]}
