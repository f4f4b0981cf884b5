# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""From what `calibrate` and `evaluate` measured to the parts of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.analysis import selective
from uncertainty_seg.analysis.bootstrap import Interval
from uncertainty_seg.analysis.conformal import mean_block_share
from uncertainty_seg.analysis.evaluation import Evaluation, FrameRanking, rank_frames
from uncertainty_seg.analysis.frame_table import Column, FrameTable
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import Calibration, Promise
from uncertainty_seg.core.calibration import Promise as Promised
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.tools.calibrate.calibration_run import CalibrationOutcome, CalibrationRequest
from uncertainty_seg.tools.calibrate.evaluation_run import (
    Evaluated,
    EvaluationRequest,
    PLAIN_SCORE,
)
from uncertainty_seg.tools.calibrate.labelled_pairs import opened, Pair
from uncertainty_seg.tools.report import data as parts
from uncertainty_seg.tools.report.data import ReportData, ScoreSpread, SeverityLadder, SeverityStep
from uncertainty_seg.tools.report.page import write_report

# -------------------------------------------------------------------------------------------------
# The report of ``calibrate``: on what the limits stand, and what they cost.


def write_calibration_report(
    path: Path, request: CalibrationRequest, found: CalibrationOutcome
) -> None:
    """
    Write the report of a calibration.

    Parameters
    ----------
    path : Path
        HTML file; its folder exists.
    request : Request
        What was asked for.
    found : Found
        What came out.

    Raises
    ------
    ConfigError
        If the file cannot be written.

    """
    made, card = found.calibration, request.bundle.card
    promise = made.promises[0]
    assert made.family is not None  # calibrate makes one
    gate = made.family.frame_ranks(found.val.scores, made.gate_scores)
    rankings = {name: rank_frames(values, found.val) for name, values in found.val.scores.items()}
    # Limits are the bundle's, which the pipeline of `found` had not yet.
    calibrated = ModelBundle(request.bundle.folder, card, made)
    scorer = ScoreVector(card, made.pixel_limits, made.density)
    with opened(calibrated, request.settings, scorer=scorer) as pipeline:
        accepted, refused = (show(pipeline, found.pairs, found.val, promise.limits)
                             for show in (worst_accepted, wrongly_refused))
    write_report(
        path,
        ReportData(
            f'Calibration of {card.name}',
            bundle=bundle_facts(
                card, made, f'{datetime.now():%Y-%m-%d}', _calibration_facts(found)
            ),
            promise=promise_part(
                promise,
                found.val,
                promise.bad_if_accepted_upper,
                'the frames the limits were fitted on',
            ),
            scores=score_rows(made, promise, rankings),
            risk_coverage=risk_curves(found.val, gate, promise),
            reliability={
                'temperature 1': reliability(found.before),
                f'temperature {made.temperature:g}': reliability(found.after),
            },
            spreads=_calibration_spreads(found, promise),
            classes=class_rows(found.after, card, promise.limits),
            legend=legend(card, found.val),
            worst_accepted=accepted,
            wrongly_refused=refused,
            notes=_calibration_notes(found),
        ),
    )


def _calibration_facts(found: CalibrationOutcome) -> dict[str, str]:
    made = found.calibration
    return {
        'Training frames': f'{made.num_train}', 'Validation frames': f'{made.num_val}',
        'Bad validation frames': f'{found.val.is_bad.mean():.0%}',
        'Scores of the gate': ', '.join(made.gate_scores),
    }


def _calibration_spreads(found: CalibrationOutcome, promise: Promise) -> tuple[ScoreSpread, ...]:
    made = found.calibration
    return tuple(
        ScoreSpread(name, found.train.scores[name], values, None,
                    promise.limits.get(name, made.thresholds.get(name)),
                    made.distances.get(name), name in promise.limits)
        for name, values in found.val.scores.items()
        if name in promise.limits or name in COMPARED)


def _calibration_notes(found: CalibrationOutcome) -> tuple[str, ...]:
    notes = [
        f'Promised on one half of the blocks and held against the other, {r.num_splits} times: '
        f'{r.accepted_and_bad:.1%} of the held-out frames were accepted and bad on average '
        f'(promised {r.alpha:.0%}), {r.accepted:.0%} were accepted; {r.share_above:.0%} of the '
        'halves were above the promise, which is about their mean.' for r in found.rehearsals]
    others = [
        f'At alpha {p.alpha:g} the gate accepts {p.accepted:.0%} of the frames, '
        f'{p.accepted_and_bad:.1%} are accepted and bad.' for p in found.calibration.promises[1:]]
    return (*others, *notes)


# -------------------------------------------------------------------------------------------------
# The report of ``evaluate``: what the bundle is worth on frames that nothing was fitted on.


def write_evaluation_report(path: Path, request: EvaluationRequest, found: Evaluated) -> None:
    """
    Write the report of an evaluation.

    Parameters
    ----------
    path : Path
        HTML file; its folder exists.
    request : Request
        What was asked for.
    found : Evaluated
        What came out.

    Raises
    ------
    ConfigError
        If the file cannot be written.

    """
    card, made = request.bundle.card, request.bundle.calibration
    assert made is not None  # evaluate_bundle refuses a bundle without
    scorer = ScoreVector(card, made.pixel_limits, made.density)
    with opened(request.bundle, request.settings, scorer=scorer) as pipeline:
        accepted, refused = (show(pipeline, found.pairs, found.frames, found.limits)
                             for show in (worst_accepted, wrongly_refused))
    promise = found.promise
    write_report(
        path,
        ReportData(
            f'Evaluation of {card.name}',
            bundle=bundle_facts(
                card, made, f'{datetime.now():%Y-%m-%d}', _evaluation_facts(found)
            ),
            promise=None if promise is None else promise_part(
                promise, found.frames, found.bad_if_accepted.upper, _measured_on(found)),
            scores=score_rows(made, promise, found.rankings),
            risk_coverage=risk_curves(found.frames, found.gate_order, promise),
            reliability={f'temperature {made.temperature:g}': reliability(found.evaluation)},
            spreads=_evaluation_spreads(found),
            classes=class_rows(found.evaluation, card, found.limits),
            ladders=_ladders(found) or None,
            legend=legend(card, found.frames),
            worst_accepted=accepted,
            wrongly_refused=refused,
            notes=_evaluation_notes(found),
        ),
    )


def _measured_on(found: Evaluated) -> str:
    if found.is_fitted:
        return ('the frames of this evaluation, some of which the limits were fitted on: '
                'it proves nothing')
    return ('the frames of this evaluation, which are not the set that the limits were '
            'fitted on')


def _evaluation_facts(found: Evaluated) -> dict[str, str]:
    pixels = found.evaluation.pixels
    facts = {
        'Frames': f'{len(found.frames)}', 'Bad frames': f'{found.frames.is_bad.mean():.0%}',
        'Mean IoU': _text(found.pixel_intervals['mean_iou']),
        'Pixel accuracy': _text(found.pixel_intervals['accuracy']),
        'Calibration error': _text(found.pixel_intervals['ece'], 4),
        'Adaptive calibration error': f'{pixels.adaptive.value():.4f}',
        'Brier score of the most likely class': f'{pixels.brier.value():.4f}',
    }
    for name in ('entropy', 'mutual_information'):
        ranking = pixels.rankings[name]
        facts[f'Wrong pixels by {name}'] = (
            f'AUROC {ranking.auroc():.3f}, AUPR {ranking.average_precision():.3f}, '
            f'FPR95 {ranking.fpr_at_tpr():.3f}')
    if found.foreign is not None:
        facts['Foreign frames'] = f'{len(found.foreign)}'
    return facts


def _text(found: Interval, digits: int = 3) -> str:
    lower, upper = (f'{end:.{digits}f}' for end in (found.lower, found.upper))
    return f'{found.value:.{digits}f} ({lower} to {upper})'


def _evaluation_spreads(found: Evaluated) -> tuple[ScoreSpread, ...]:
    foreign = found.foreign.scores if found.foreign else {}
    return tuple(
        ScoreSpread(name, None, values, foreign.get(name), found.limits.get(name), None,
                    name in found.limits)
        for name, values in found.frames.scores.items()
        if name in found.limits or name in COMPARED)


def _ladders(found: Evaluated) -> tuple[SeverityLadder, ...]:
    return tuple(
        SeverityLadder(ladder.kind, tuple(
            SeverityStep(s.severity, s.mean_iou, s.accepted, s.accepted_and_bad, s.ratio)
            for s in ladder.steps)) for ladder in found.ladders)


def _evaluation_notes(found: Evaluated) -> tuple[str, ...]:
    gain = found.gain.excess_aurc
    notes = [f'The E-AURC of the gate is {gain.value:.4f} below that of {PLAIN_SCORE} '
             f'({gain.lower:.4f} to {gain.upper:.4f}).']
    ood = found.gain.ood_auroc
    if ood is not None and found.foreign is not None and found.gate.ood_auroc is not None:
        accepted = found.foreign.accepted(found.limits).mean()
        notes.append(
            f'The gate ranks foreign frames with AUROC {found.gate.ood_auroc.value:.3f}, '
            f'{ood.value:.3f} above {PLAIN_SCORE} ({ood.lower:.3f} to {ood.upper:.3f}); it '
            f'accepts {accepted:.0%} of them.')
    return tuple(notes)


# -------------------------------------------------------------------------------------------------

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


def legend(card: ModelCard, frames: FrameTable) -> parts.Legend:
    """Say how masks and heatmaps are painted."""
    # As bright as it gets where the unsure parts of most frames are.
    upper = float(np.nanquantile(frames.scores[f'{HEAT_MAP}.top'], 0.9))
    return parts.Legend(card.class_names, card.palette, card.ignore_index, HEAT_MAP,
                        min(max(upper, 0.05), 1.0))


def worst_accepted(
    pipeline: Pipeline, pairs: Sequence[Pair], frames: FrameTable, limits: Mapping[str, float]
) -> parts.FrameGroup:
    """Show the accepted frames whose masks are bad, the worst first."""
    rows = frames.accepted(limits) & frames.is_bad
    return _group(pipeline, pairs, frames, limits, rows, frames.mean_iou)


def wrongly_refused(
    pipeline: Pipeline, pairs: Sequence[Pair], frames: FrameTable, limits: Mapping[str, float]
) -> parts.FrameGroup:
    """Show the refused frames whose masks are good, the best first."""
    rows = ~frames.accepted(limits) & ~frames.is_bad
    return _group(pipeline, pairs, frames, limits, rows, -frames.mean_iou)


def _group(
    pipeline: Pipeline, pairs: Sequence[Pair], frames: FrameTable, limits: Mapping[str, float],
    rows: NDArray[np.bool_], order: Column,
) -> parts.FrameGroup:
    found = sorted(np.flatnonzero(rows).tolist(), key=lambda i: float(order[i]))
    shown = (_shown(pipeline, pairs[i], frames, limits, i) for i in found[:parts.MAX_FRAMES])
    return parts.FrameGroup(tuple(shown), len(found))


def _shown(
    pipeline: Pipeline, pair: Pair, frames: FrameTable, limits: Mapping[str, float], index: int
) -> parts.ReportFrame:
    image, truth = pair
    result = pipeline.measure(image, 0)
    ratios = {name: float(frames.scores[name][index]) / limit for name, limit in limits.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    reason = f'{worst} {frames.scores[worst][index]:.3g}, limit {limits[worst]:.3g}'
    return parts.ReportFrame(
        frames.sources[index], image, truth, result.label_at_source(),
        result.map_at_source(HEAT_MAP), max(ratios.values()), float(frames.mean_iou[index]),
        reason)
