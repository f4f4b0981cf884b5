# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""What the report's plots draw is what they were given, where it was, and legible."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
import itertools
import re
from typing import Any
import warnings

import cv2
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from report_sample import sample_curve, sample_report

pytest.importorskip('matplotlib', reason='matplotlib is not installed: no report is drawn')

from matplotlib.figure import Figure  # noqa: E402, I100
from matplotlib.text import Text  # noqa: E402

from uncertainty_seg.calibration.evaluation_run import Ladder, Step  # noqa: E402
from uncertainty_seg.calibration.report import plots  # noqa: E402
from uncertainty_seg.calibration.report.data import (
    RiskCoverageCurves,
    RiskCurve,
    ScoreSpread,
)
from uncertainty_seg.calibration.statistics.metrics import ExpectedCalibrationError  # noqa: E402
from uncertainty_seg.calibration.statistics.selective import RiskCoverage  # noqa: E402
from uncertainty_seg.errors import ShapeError  # noqa: E402


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they are before they become SVG, laid out."""
    figures: list[Figure] = []
    real = plots.picture

    def picture(paint: Callable[[Figure], None], width_in: float, height_in: float) -> str:
        def kept(figure: Figure) -> None:
            paint(figure)
            figures.append(figure)

        return real(kept, width_in, height_in)

    monkeypatch.setattr(plots, 'picture', picture)
    return figures


def lines_of(axes: Any) -> list[np.ndarray[Any, Any]]:
    return [np.column_stack(line.get_data()) for line in axes.get_lines()]


def has_line(axes: Any, x: Any, y: Any) -> bool:
    wanted = np.column_stack([np.asarray(x, float), np.asarray(y, float)])
    return any(line.shape == wanted.shape and np.allclose(line, wanted)
               for line in lines_of(axes))


def text_boxes(figure: Figure) -> list[tuple[str, Any]]:
    """Words that are shown, each with its rectangle in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    hidden = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
              for tick in axis.get_major_ticks() for label in (tick.label1, tick.label2)
              if not min(axis.get_view_interval()) <= tick.get_loc() <= max(
                  axis.get_view_interval())}
    found: list[Any] = list(dict.fromkeys(figure.findobj(Text)))
    return [(t.get_text(), t.get_window_extent()) for t in found
            if t.get_text().strip() and t.get_visible() and t not in hidden]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    return [(one, other) for (one, a), (other, b) in itertools.combinations(text_boxes(figure), 2)
            if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1]


def outside(figure: Figure) -> list[str]:
    """Words that leave the figure, up to half a pixel."""
    width, height = figure.get_size_inches() * figure.dpi
    return [words for words, box in text_boxes(figure)
            if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > width + 0.5 or box.y1 > height + 0.5]


def legend_words(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_risk_coverage_draws_each_curve_from_5_percent_on(drawn: list[Figure]) -> None:
    curves = (sample_curve('gate', 0.4, True), sample_curve('a', 0.7), sample_curve('b', 1.0))
    plots.plot_risk_coverage(RiskCoverageCurves(curves))
    axes = drawn[0].axes[0]
    for curve in curves:
        kept = curve.points.coverage >= 0.05
        assert has_line(axes, curve.points.coverage[kept], curve.points.risk[kept])


def test_the_edge_of_the_hatched_part_is_where_accepted_and_bad_is_alpha(
    drawn: list[Figure],
) -> None:
    plots.plot_risk_coverage(RiskCoverageCurves((sample_curve('a', 0.5),), None, 0.05))
    edge = [line for line in lines_of(drawn[0].axes[0]) if line.shape[0] == 500][0]
    inside = edge[edge[:, 1] < 1]
    assert np.allclose(inside.prod(axis=1), 0.05)
    assert edge[-1] == pytest.approx([1, 0.05])


def test_the_gate_works_where_its_point_is_drawn(drawn: list[Figure]) -> None:
    plots.plot_risk_coverage(RiskCoverageCurves((sample_curve('a', 0.5),), (0.6, 0.031)))
    assert has_line(drawn[0].axes[0], [0.6], [0.031])
    assert 'the limits are here:\n60.0 % accepted,\n3.1 % of these bad' in legend_words(drawn[0])


def test_names_stand_by_growing_area_after_the_gate_and_the_rest_is_counted(
    drawn: list[Figure],
) -> None:
    scores = [replace(sample_curve(f's{k}', 0.5), aurc=0.1 - k / 100) for k in range(8)]
    plots.plot_risk_coverage(RiskCoverageCurves((*scores, sample_curve('gate', 0.4, True))))
    names = [words.split('\n')[0] for words in legend_words(drawn[0])]
    assert names == ['gate', 's5', 's4', 's3', 's2', 's1', 's0', '2 more']


def test_a_name_in_the_legend_has_the_colour_and_dashes_of_its_line(drawn: list[Figure]) -> None:
    curves = tuple(replace(sample_curve(f's{k}', 0.4 + k / 5), aurc=(3 - k) / 10)
                   for k in range(3))
    plots.plot_risk_coverage(RiskCoverageCurves(curves))
    figure = drawn[0]
    shown = dict(zip([w.split('\n')[0] for w in legend_words(figure)],
                     figure.legends[0].get_lines(), strict=True))
    for curve in curves:
        kept = curve.points.risk[curve.points.coverage >= 0.05]
        line, = [line for line in figure.axes[0].get_lines()
                 if np.array_equal(np.asarray(line.get_ydata()), kept)]
        assert line.get_color() == shown[curve.name].get_color()
        assert line.get_linestyle() == shown[curve.name].get_linestyle()


def test_reliability_draws_the_bins_that_hold_pixels(drawn: list[Figure]) -> None:
    count, confidence = np.zeros(15), np.zeros(15)
    hits = np.zeros(15)
    count[[4, 7, 13]], confidence[[4, 7, 13]] = (10, 20, 70), (3, 10, 63)
    hits[[4, 7, 13]] = 2, 11, 56
    plots.plot_reliability({'before': ExpectedCalibrationError(count, hits, confidence)})
    top, bottom = drawn[0].axes
    assert has_line(top, [0.3, 0.5, 0.9], [0.2, 0.55, 0.8])
    assert has_line(bottom, [0.3, 0.5, 0.9], [0.1, 0.2, 0.7])
    # 0.1 * 0.1 + 0.2 * 0.05 + 0.7 * 0.1
    assert 'before\nECE 0.090' in [t.get_text() for t in top.texts]
    assert top.get_xlim()[0] == top.get_ylim()[0] == pytest.approx(0.2)


def test_every_frame_is_in_a_bin_of_its_set(drawn: list[Figure]) -> None:
    val = np.r_[np.full(100, 0.1), np.full(99, 0.5), 99.0]
    train = np.r_[np.full(5, 0.1), np.nan, np.inf]
    plots.plot_spread(ScoreSpread('s', train, val, threshold=0.7))
    axes = drawn[0].axes[0]
    patches: list[Any] = list(axes.patches)
    steps = {p.get_label(): p.get_data() for p in patches if 'child' not in p.get_label()}
    words = legend_words(drawn[0])
    assert words == ['validation (200)', 'training (5)']
    for name in words:
        assert steps[name].values.sum() == pytest.approx(1)
    bins = steps['validation (200)']
    assert bins.values[np.searchsorted(bins.edges, 0.1, 'right') - 1] == pytest.approx(0.5)
    assert bins.values[-1] == pytest.approx(0.005)
    assert has_line(axes, [0.7, 0.7], [0, 1])


def test_a_ladder_draws_its_steps(drawn: list[Figure]) -> None:
    steps = tuple(Step(k, 0.7 - k / 10, 0.6 - k / 10, 0.01 * k, 0.8 + k) for k in range(6))
    plots.plot_ladder(Ladder('turbidity', 9, steps))
    top, bottom = drawn[0].axes
    x = range(6)
    assert has_line(top, x, [s.mean_iou for s in steps])
    assert has_line(top, x, [s.accepted for s in steps])
    assert has_line(top, x, [s.accepted_and_bad for s in steps])
    assert has_line(bottom, x, [s.ratio for s in steps])
    assert top.get_title(loc='left') == 'turbidity'


def test_no_word_lies_on_another_or_leaves_its_plot(drawn: list[Figure]) -> None:
    data = sample_report()
    assert data.risk_coverage and data.reliability and data.spreads and data.ladders
    plots.plot_risk_coverage(data.risk_coverage)
    plots.plot_reliability(data.reliability)
    equal = Ladder('all at once', 9, tuple(
        Step(k, 0.0, 0.0, 0.0, 1.0) for k in range(6)))
    for ladder in (*data.ladders, equal):
        plots.plot_ladder(ladder)
    for spread in data.spreads:
        plots.plot_spread(spread)
    assert [overlapping(figure) for figure in drawn] == [[]] * len(drawn)
    assert [outside(figure) for figure in drawn] == [[]] * len(drawn)


EMPTY = np.zeros(0)
NO_POINT, ONE_POINT = (RiskCoverage(np.ones(n), np.ones(n), np.zeros(n)) for n in (0, 1))
ODD: list[Callable[[], str]] = [
    lambda: plots.plot_risk_coverage(RiskCoverageCurves(())),
    lambda: plots.plot_risk_coverage(RiskCoverageCurves((RiskCurve('a', NO_POINT),))),
    lambda: plots.plot_risk_coverage(
        RiskCoverageCurves((RiskCurve('a', ONE_POINT, None, True),), (1.0, 0.0), 0.1)
    ),
    lambda: plots.plot_reliability(
        {'x': ExpectedCalibrationError()}
    ),
    lambda: plots.plot_spread(ScoreSpread('s', EMPTY, np.full(4, np.nan))),
    lambda: plots.plot_spread(ScoreSpread('$', None, np.zeros(4), threshold=0.0)),
    lambda: plots.plot_spread(ScoreSpread('_s', None, np.ones(4), threshold=np.inf)),
    lambda: plots.plot_ladder(
        Ladder('one', 9, (Step(1, float('nan'), 0.0, 0.0, float('inf')),))
    ),
    lambda: plots.plot_ladder(Ladder('none', 9, ())),
    # Not a formula, and none that could be read.
    lambda: plots.plot_ladder(Ladder('$\\frac$', 9, ())),
]


@pytest.mark.parametrize('case', range(len(ODD)))
def test_odd_data_are_drawn_without_a_warning(case: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        address = ODD[case]()
    svg = base64.b64decode(address.removeprefix('data:image/svg+xml;base64,'))
    assert b'</svg>' in svg
    assert not re.search(rb'\bnan\b|\binf\b', svg)


def test_halves_of_a_curve_that_differ_in_length_are_refused() -> None:
    with pytest.raises(ShapeError, match="risk curve 'x'"):
        RiskCurve('x', RiskCoverage(np.zeros(3), np.zeros(3), np.zeros(4)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_keep_apart_inside_and_in_order(wanted: list[float]) -> None:
    places = plots.spread_apart(wanted, 0.1, 0.0, 1.0)
    ranked = [places[k] for k in sorted(range(len(wanted)), key=lambda k: wanted[k])]
    assert all(b - a >= 0.1 - 1e-6 for a, b in itertools.pairwise(ranked))
    assert min(places) >= -1e-6 and max(places) <= 1 + 1e-6


@given(st.lists(st.integers(0, 8), min_size=1, max_size=8, unique=True))
def test_labels_that_are_apart_stay(wanted: list[int]) -> None:
    assert plots.spread_apart(wanted, 0.9, 0, 8) == pytest.approx(wanted)


def test_two_labels_on_one_spot_move_equally_far() -> None:
    assert plots.spread_apart([0.5, 0.5], 0.2, 0, 1) == pytest.approx([0.4, 0.6])
    assert plots.spread_apart([0.0, 0.05], 0.2, 0, 1) == pytest.approx([0.0, 0.2])


def rgb(color: str) -> np.ndarray[Any, Any]:
    return np.array([int(color[k:k + 2], 16) for k in (1, 3, 5)]) / 255


def linear(color: str) -> np.ndarray[Any, Any]:
    value = rgb(color)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize('name', ['INK', 'QUIET', 'BLUE', 'RED', 'PLUM'])
def test_words_have_the_contrast_that_wcag_asks_for(name: str) -> None:
    luminance = linear(getattr(plots, name)) @ [0.2126, 0.7152, 0.0722]
    assert 1.05 / (luminance + 0.05) >= 4.5


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
SIGHT = {
    'normal': np.eye(3),
    'protan': [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    'deutan': [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    'tritan': [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize('sight', SIGHT)
def test_colours_that_share_a_plot_are_told_apart_with_any_sight(sight: str) -> None:
    def lab(color: str) -> np.ndarray[Any, Any]:
        seen = np.clip(np.asarray(SIGHT[sight]) @ linear(color), 0, 1)
        gamma = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
        return cv2.cvtColor(gamma.astype(np.float32)[None, None], cv2.COLOR_RGB2Lab)[0, 0]

    def least(colors: tuple[str, ...]) -> float:
        return min(float(np.linalg.norm(lab(one) - lab(other)))
                   for one, other in itertools.combinations(colors, 2))

    # About 2 is the least difference that people see side by side.
    assert least((plots.BLUE, plots.RED, plots.PLUM)) > 30
    assert least(plots.SERIES) > 10


def test_lines_of_scores_differ_in_form_too() -> None:
    assert len({str(dash) for dash in plots.DASHES}) == len(plots.SERIES)
