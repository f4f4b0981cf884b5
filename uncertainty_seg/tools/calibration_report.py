# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The report of ``calibrate``: on what the limits stand, and what they cost."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import Promise
from uncertainty_seg.core.frame_ranking import rank_frames
from uncertainty_seg.core.score_vector import ScoreVector
from uncertainty_seg.tools import report_fill as fill
from uncertainty_seg.tools.calibration_run import CalibrationOutcome, CalibrationRequest
from uncertainty_seg.tools.labelled_pairs import opened
from uncertainty_seg.tools.report_data import ReportData
from uncertainty_seg.tools.report_html import write_report
from uncertainty_seg.tools.report_parts import ScoreSpread


def write_calibration_report(path: Path, request: CalibrationRequest, found: CalibrationOutcome) -> None:
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
                             for show in (fill.worst_accepted, fill.wrongly_refused))
    write_report(path, ReportData(
        f'Calibration of {card.name}',
        bundle=fill.bundle_facts(card, made, f'{datetime.now():%Y-%m-%d}', _calibration_facts(found)),
        promise=fill.promise_part(promise, found.val, promise.bad_if_accepted_upper,
                                  'the frames the limits were fitted on'),
        scores=fill.score_rows(made, promise, rankings),
        risk_coverage=fill.risk_curves(found.val, gate, promise),
        reliability={'temperature 1': fill.reliability(found.before),
                     f'temperature {made.temperature:g}': fill.reliability(found.after)},
        spreads=_calibration_spreads(found, promise),
        classes=fill.class_rows(found.after, card, promise.limits),
        legend=fill.legend(card, found.val), worst_accepted=accepted, wrongly_refused=refused,
        notes=_calibration_notes(found),
    ))


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
        if name in promise.limits or name in fill.COMPARED)


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
