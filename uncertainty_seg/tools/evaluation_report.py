# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The report of ``evaluate``: what the bundle is worth on frames that nothing was fitted on."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from uncertainty_seg.core.bootstrap import Interval
from uncertainty_seg.core.score_vector import ScoreVector
from uncertainty_seg.tools import report_fill as fill
from uncertainty_seg.tools.evaluation_run import Evaluated, PLAIN_SCORE, EvaluationRequest
from uncertainty_seg.tools.labelled_pairs import opened
from uncertainty_seg.tools.report_data import ReportData
from uncertainty_seg.tools.report_html import write_report
from uncertainty_seg.tools.report_parts import ScoreSpread, SeverityLadder, SeverityStep


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
                             for show in (fill.worst_accepted, fill.wrongly_refused))
    promise = found.promise
    write_report(path, ReportData(
        f'Evaluation of {card.name}',
        bundle=fill.bundle_facts(card, made, f'{datetime.now():%Y-%m-%d}', _evaluation_facts(found)),
        promise=None if promise is None else fill.promise_part(
            promise, found.frames, found.bad_if_accepted.upper,
            'the frames of this evaluation, some of which the limits were fitted on: it proves '
            'nothing' if found.is_fitted else 'the frames of this evaluation, which are not the '
            'set that the limits were fitted on'),
        scores=fill.score_rows(made, promise, found.rankings),
        risk_coverage=fill.risk_curves(found.frames, found.gate_order, promise),
        reliability={f'temperature {made.temperature:g}': fill.reliability(found.evaluation)},
        spreads=_evaluation_spreads(found),
        classes=fill.class_rows(found.evaluation, card, found.limits),
        ladders=_ladders(found) or None,
        legend=fill.legend(card, found.frames), worst_accepted=accepted, wrongly_refused=refused,
        notes=_evaluation_notes(found),
    ))


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
        if name in found.limits or name in fill.COMPARED)


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
