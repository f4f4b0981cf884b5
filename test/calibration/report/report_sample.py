# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A report with every kind of part, generated from a seed, for the tests of reports."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from uncertainty_seg.calibration.report.page import (
    Facts,
    Frames,
    Notes,
    Plot,
    Report,
    Row,
    Section,
    Table,
)
from uncertainty_seg.calibration.report.pictures import (
    frame_tiles,
    IGNORED_RGB,
    legend_tile,
    plot_reliability,
    plot_risk_coverage,
    Tile,
)
from uncertainty_seg.calibration.stats.metrics import ExpectedCalibrationError
from uncertainty_seg.core.render import heatmap, HeatScale

# A name of a folder, class or score that must be shown literally.
NASTY = '<script>alert("x")</script> & \'$a_b$\' \\frac'
CLASSES = ('water', NASTY, 'pipe')
PALETTE = ((0, 0, 0), (0, 120, 255), (255, 255, 255))
SCORES = ('entropy.mean', 'entropy.top', 'mutual_information.top',
          'mutual_information.mean', 'entropy.class.aquatic plants and sea-grass', NASTY)
SCALE = HeatScale('entropy', 0.1, 0.4, 0.7)
CARD: Any = SimpleNamespace(palette=PALETTE, ignore_index=255)


def sample_frame(seed: int, height: int = 120, width: int = 160) -> tuple[np.ndarray, ...]:
    """Return image, truth, prediction and heatmap of a frame: smooth colours with a disc."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([rows % 256, columns % 256, np.full_like(rows, 90)], -1).astype(np.uint8)
    centre = rng.integers(height // 4, max(height // 2, height // 4 + 1), 2)
    label = (np.hypot(rows - centre[0], columns - centre[1]) < height / 5).astype(np.uint8) * 2
    heat = np.exp(-np.hypot(rows - 60, columns - 60) / 30).astype(np.float32) / 2
    return image, label, label.copy(), heatmap(image, heat, SCALE[1:3])


def sample_tiles(seed: int) -> tuple[Tile, ...]:
    """Return the pictures of a sample frame."""
    return frame_tiles(*sample_frame(seed), CARD)


def sample_orders(count: int = 200) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return orders of frames by increasingly noisy scores, and which frames are bad."""
    rng = np.random.default_rng(5)
    bad = rng.random(count) < 0.2
    return {name: bad + rng.normal(0, 0.4 + 0.3 * k, count)
            for k, name in enumerate(('the gate', SCORES[0], NASTY))}, bad.astype(float)


def sample_reliability(bend: float) -> ExpectedCalibrationError:
    """Return sums of bins that deviate from the diagonal by `bend`; the lowest are empty."""
    confidence = np.linspace(1 / 30, 29 / 30, 15)
    count = np.r_[np.zeros(3), np.linspace(100, 800, 11), 6000]
    accuracy = confidence - bend * np.sin(3 * confidence) ** 2
    return ExpectedCalibrationError(count, count * accuracy, count * confidence)


def sample_plots() -> dict[str, str]:
    """Return one plot of each kind."""
    orders, bad = sample_orders()
    return {
        'risk': plot_risk_coverage(orders, bad, 'the gate', (0.6, 0.04), 0.05),
        'reliability': plot_reliability({'before': sample_reliability(0.12),
                                         'after': sample_reliability(0.02)})}


def sample_report() -> Report:
    """Return a report with every kind of part."""
    plots = sample_plots()
    scores = [Row([name, 'yes' if k == 0 else '', f'0.{k}512', '0.913 [0.870, 0.950]'], k == 0)
              for k, name in enumerate(SCORES)]
    classes = [Row([name, f'{k / 3:.3f}', '1,234,567'], color=PALETTE[k])
               for k, name in enumerate(CLASSES)]
    frames = Frames([(f'dive/frame {k} {NASTY}', sample_tiles(k)) for k in range(3)],
                    [*zip(CLASSES, PALETTE, strict=True), ('ignored', IGNORED_RGB)],
                    legend_tile(SCALE))
    return Report(f'Calibration of {NASTY}', [
        Section('bundle', 'What was measured', [
            Facts([('camera', 'left'), (NASTY, NASTY), ('hash', 'ab12' * 16)])], NASTY),
        Section('risk', 'Risk', [Plot(plots['risk'], f'Risk of {NASTY}')], 'How.'),
        Section('scores', 'Scores', [
            Table(['score', NASTY, 'threshold', 'AUROC'], scores)], 'How.', is_folded=True),
        Section('reliability', 'Reliability', [Plot(plots['reliability'], 'ECE', 'middle')]),
        Section('classes', 'Classes', [Table(['class', 'IoU', 'pixels'], classes)]),
        Section('accepted', 'Worst frames', [Notes(['3 of 17 such frames.']), frames], 'Look.'),
        Section('notes', 'Notes', [Notes(['Frames of one dive share a block.', NASTY])]),
    ], leads=['What is promised.', NASTY], warnings=[NASTY],
        tiles=[('61.3 %', 'of frames accepted'), ('5 %', NASTY), ('0.712', 'mean IoU')])
