# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""From what `calibrate` and `evaluate` measured to the parts of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core import selective
from uncertainty_seg.core.bootstrap import Interval
from uncertainty_seg.core.calibration import Calibration
from uncertainty_seg.core.calibration import Promise as Promised
from uncertainty_seg.core.conformal import mean_block_share
from uncertainty_seg.core.evaluation import Evaluation
from uncertainty_seg.core.frame_ranking import FrameRanking
from uncertainty_seg.core.frame_table import Column, FrameTable
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.tools import report_data as report
from uncertainty_seg.tools import report_parts as parts
from uncertainty_seg.tools.labelled_pairs import Pair

# What the promise is compared with, beside the gate.
COMPARED = ('entropy.mean', 'mutual_information.mean')
HEAT_MAP = 'entropy'
GATE = 'the gate'


def bundle_facts(
    card: ModelCard, calibration: Calibration, date: str, facts: Mapping[str, str]
) -> parts.BundleFacts:
    """Say what was measured, and with what."""
    return parts.BundleFacts(
        card.name, card.method, calibration.passes, calibration.seed, calibration.precision,
        calibration.temperature, date,
        {'model': calibration.model_sha256, 'validation data': calibration.data_sha256}, facts)


def promise_part(
    promise: Promised, frames: FrameTable, bad_upper: float, measured_on: str
) -> parts.PromiseEntry:
    """Hold a promise against frames, of which every block counts alike."""
    accepted = frames.accepted(promise.limits)
    return parts.PromiseEntry(
        promise.bad, promise.alpha, promise.bound, promise.num_blocks, promise.num_frames,
        mean_block_share(accepted, frames.blocks),
        mean_block_share(accepted & frames.is_bad, frames.blocks), bad_upper,
        measured_on=measured_on)


def score_rows(
    calibration: Calibration, promise: Promised | None, rankings: Mapping[str, FrameRanking]
) -> tuple[parts.ScoreEntry, ...]:
    """Make a row of every score, the gate's first, then by how well they rank bad frames."""
    limits = promise.limits if promise else {}

    def row(name: str, found: FrameRanking) -> parts.ScoreEntry:
        ood = found.ood_auroc
        return parts.ScoreEntry(
            name, limits.get(name, calibration.thresholds.get(name)),
            calibration.train_thresholds.get(name), calibration.distances.get(name), found.aurc,
            _interval(found.excess_aurc), _interval(ood) if ood else None, name in limits)

    rows = [row(name, found) for name, found in rankings.items()]
    return tuple(sorted(rows, key=lambda r: (not r.is_gated, r.aurc)))


def _interval(found: Interval) -> parts.IntervalEntry:
    return parts.IntervalEntry(found.value, found.lower, found.upper)


def risk_curves(
    frames: FrameTable, gate: Column, promise: Promised | None,
    compared: Sequence[str] = COMPARED,
) -> parts.RiskCoverageCurves:
    """Draw the gate, made stricter by its one number, and some single scores."""
    losses = frames.is_bad.astype(np.float64)

    def curve(name: str, values: Column, is_gate: bool = False) -> parts.RiskCurve:
        found = selective.risk_coverage(values, losses)
        return parts.RiskCurve(name, found.coverage, found.risk, selective.aurc(values, losses),
                               is_gate)

    curves = [curve(GATE, gate, True), *(curve(n, frames.scores[n]) for n in compared)]
    if promise is None:
        return parts.RiskCoverageCurves(tuple(curves))
    accepted = frames.accepted(promise.limits)
    risk = float(frames.is_bad[accepted].mean()) if accepted.any() else 0.0
    return parts.RiskCoverageCurves(tuple(curves), (float(accepted.mean()), risk), promise.alpha)


def reliability(found: Evaluation) -> parts.Reliability:
    """Draw confidence against accuracy."""
    diagram = found.pixels.calibration.diagram()
    return parts.Reliability(diagram.confidence, diagram.accuracy, diagram.share, found.ece)


def class_rows(
    found: Evaluation, card: ModelCard, limits: Mapping[str, float]
) -> tuple[parts.ClassRow, ...]:
    """Make a row of every class, with the limit of its entropy where it has one."""
    pixels, entropy = found.pixels.confusion.counts.sum(1), found.pixels.mean_entropy()
    return tuple(
        parts.ClassRow(name, float(found.iou[i]), int(pixels[i]), float(entropy[i]),
                       limits.get(f'entropy.class.{name}'), card.palette[i])
        for i, name in enumerate(card.class_names))


def legend(card: ModelCard, frames: FrameTable) -> report.Legend:
    """Say how masks and heatmaps are painted."""
    # As bright as it gets where the unsure parts of most frames are.
    upper = float(np.nanquantile(frames.scores[f'{HEAT_MAP}.top'], 0.9))
    return report.Legend(card.class_names, card.palette, card.ignore_index, HEAT_MAP,
                         min(max(upper, 0.05), 1.0))


def worst_accepted(
    pipeline: Pipeline, pairs: Sequence[Pair], frames: FrameTable, limits: Mapping[str, float]
) -> report.FrameGroup:
    """Show the accepted frames whose masks are bad, the worst first."""
    rows = frames.accepted(limits) & frames.is_bad
    return _group(pipeline, pairs, frames, limits, rows, frames.mean_iou)


def wrongly_refused(
    pipeline: Pipeline, pairs: Sequence[Pair], frames: FrameTable, limits: Mapping[str, float]
) -> report.FrameGroup:
    """Show the refused frames whose masks are good, the best first."""
    rows = ~frames.accepted(limits) & ~frames.is_bad
    return _group(pipeline, pairs, frames, limits, rows, -frames.mean_iou)


def _group(
    pipeline: Pipeline, pairs: Sequence[Pair], frames: FrameTable, limits: Mapping[str, float],
    rows: NDArray[np.bool_], order: Column,
) -> report.FrameGroup:
    found = sorted(np.flatnonzero(rows).tolist(), key=lambda i: float(order[i]))
    shown = (_shown(pipeline, pairs[i], frames, limits, i) for i in found[:report.MAX_FRAMES])
    return report.FrameGroup(tuple(shown), len(found))


def _shown(
    pipeline: Pipeline, pair: Pair, frames: FrameTable, limits: Mapping[str, float], index: int
) -> report.ReportFrame:
    image, truth = pair
    result = pipeline.measure(image, 0)
    ratios = {name: float(frames.scores[name][index]) / limit for name, limit in limits.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    reason = f'{worst} {frames.scores[worst][index]:.3g}, limit {limits[worst]:.3g}'
    return report.ReportFrame(
        frames.sources[index], image, truth, result.label_at_source(),
        result.map_at_source(HEAT_MAP), max(ratios.values()), float(frames.mean_iou[index]),
        reason)
