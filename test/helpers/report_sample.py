# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A report with every part, made from a seed, for the tests that read and look at one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.evaluation_run import Ladder, Step
from uncertainty_seg.calibration.report.data import (
    ClassRow,
    FrameGroup,
    Legend,
    ReportData,
    ReportFrame,
    RiskCoverageCurves,
    RiskCurve,
    ScoreEntry,
    ScoreSpread,
)
from uncertainty_seg.calibration.statistics.bootstrap import Interval
from uncertainty_seg.calibration.statistics.evaluation import FrameRanking
from uncertainty_seg.calibration.statistics.metrics import ExpectedCalibrationError
from uncertainty_seg.calibration.statistics.selective import RiskCoverage
from uncertainty_seg.core.calibration import Promise

# Whatever a folder, a class or a score is called must be shown as it is.
NASTY = '<script>alert("x")</script> & \'$a_b$\' \\frac'
CLASSES = ('water', NASTY, 'pipe')
PALETTE = ((0, 0, 0), (0, 120, 255), (255, 255, 255))
SCORES = ('entropy.mean', 'entropy.top', 'mutual_information.top',
          'mutual_information.worst_window', 'entropy.class.aquatic plants and sea-grass',
          'density.scores', 'image.darkness', 'image.blur')


def sample_promise(**changes: object) -> Promise:
    """Return a promise that holds."""
    promise = Promise(0.05, {SCORES[0]: 0.25}, 'iou<0.5', 42, 220, 0.0473, 0.613, 0.0317, 0.0834)
    return replace(promise, **changes)  # type: ignore[arg-type]


def sample_frame(seed: int, source: str = 'dive/frame', height: int = 120, width: int = 160,
                 has_truth: bool = True) -> ReportFrame:
    """Return a frame of smooth colours, with a disc for a mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([rows % 256, columns % 256, np.full_like(rows, 90)], -1).astype(np.uint8)
    centre = rng.integers(height // 4, height // 2, 2)
    label = (np.hypot(rows - centre[0], columns - centre[1]) < height / 5).astype(np.uint8) * 2
    heat = np.exp(-np.hypot(rows - 60, columns - 60) / 30).astype(np.float32) / 2
    return ReportFrame(f'{source} {seed}', image, label if has_truth else None, label, heat,
                       0.7 + 0.01 * seed, 0.2 + 0.01 * seed, f'entropy.mean over <{seed}>')


def sample_curve(name: str, noise: float, is_gate: bool = False) -> RiskCurve:
    """Return the curve of a score that is this noisy."""
    rng = np.random.default_rng(5)
    is_bad = rng.random(200) < 0.2
    order = np.argsort(is_bad + rng.normal(0, noise, 200))
    ranks = np.arange(1, 201)
    risk = np.cumsum(is_bad[order]) / ranks
    points = RiskCoverage(ranks.astype(float), ranks / 200, risk)
    return RiskCurve(name, points, float(risk.mean()), is_gate)


def sample_reliability(bend: float) -> ExpectedCalibrationError:
    """Return the sums of bins that lie below the diagonal by so much; the lowest are empty."""
    confidence = np.linspace(1 / 30, 29 / 30, 15)
    count = np.r_[np.zeros(3), np.linspace(100, 800, 11), 6000]
    accuracy = confidence - bend * np.sin(3 * confidence) ** 2
    return ExpectedCalibrationError(count, count * accuracy, count * confidence)


def _beta(seed: int, a: float, b: float, size: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).beta(a, b, size)


def sample_report() -> ReportData:
    """Return a report with every part."""
    gate = sample_curve('gate', 0.4, is_gate=True)
    curves = (gate, *(sample_curve(name, 0.4 + 0.3 * k) for k, name in enumerate(SCORES)))
    rows = tuple(
        ScoreEntry(name, 0.2512 + k / 100, 0.2017 + k / 100, 0.13 + k / 100, FrameRanking(
            0.0512 + k / 1000, Interval(0.0211 + k / 1000, 0.01, 0.04, 0.95, 42),
            Interval(0.913, 0.87, 0.95, 0.95, 42)), k in (0, 3))
        for k, name in enumerate(SCORES))
    spreads = tuple(
        ScoreSpread(name, _beta(k, 2, 18, 300), _beta(k + 50, 2.3, 16, 200),
                    _beta(k + 90, 5, 12, 80), 0.28, 0.13, k in (0, 3))
        for k, name in enumerate(SCORES))
    classes = tuple(ClassRow(name, (0.91, 0.42, float('nan'))[k], (1234567, 4321, 0)[k],
                             0.1 + k / 10, 0.3, PALETTE[k]) for k, name in enumerate(CLASSES))
    ladders = tuple(
        Ladder(kind, 20, tuple(
            Step(s, 0.65 - 0.1 * s, 0.6 / (1 + s), 0.03 / (1 + s), 0.8 + 0.4 * s)
            for s in range(6)))
        for kind in ('turbidity', 'darkness', 'blur'))
    return ReportData(
        'Calibration of tiny',
        facts={'bundle': 'tiny', 'method': 'mc_dropout', 'passes T': '20', 'camera': 'left'},
        hashes={'graphs': 'ab12' * 16}, promise=sample_promise(),
        measured_on='the frames that the limits were fitted on', scores=rows,
        risk_coverage=RiskCoverageCurves(
            curves, (float(gate.points.coverage[120]), float(gate.points.risk[120])), 0.05),
        reliability={'before': sample_reliability(0.12), 'after': sample_reliability(0.02)},
        spreads=spreads, classes=classes, ladders=ladders,
        legend=Legend(CLASSES, PALETTE, 255, 'entropy', 0.4),
        worst_accepted=FrameGroup(tuple(sample_frame(k) for k in range(12)), 17),
        wrongly_refused=FrameGroup(tuple(sample_frame(k, 'other') for k in range(3)), 3),
        notes=('Frames of one dive share a block.', f'Odd: {NASTY}'),
    )
