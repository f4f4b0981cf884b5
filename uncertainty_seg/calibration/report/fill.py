# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The reports of `calibrate` and `evaluate`: from what they measured to what a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.calibration_run import CalibrationOutcome, CalibrationRequest
from uncertainty_seg.calibration.cross_fitted import FoldsRequest
from uncertainty_seg.calibration.evaluation_run import (
    Evaluated,
    EvaluationRequest,
    FlagFigures,
    NO_FLAG,
)
from uncertainty_seg.calibration.labelled_pairs import opened, Pair
from uncertainty_seg.calibration.report.data import (
    ClassRow,
    FrameGroup,
    Legend,
    MAX_FRAMES,
    ReportData,
    ReportFrame,
    RiskCoverageCurves,
    RiskCurve,
    ScoreEntry,
    ScoreSpread,
)
from uncertainty_seg.calibration.report.page import write_report
from uncertainty_seg.calibration.statistics.bootstrap import Interval
from uncertainty_seg.calibration.statistics.conformal import mean_block_share
from uncertainty_seg.calibration.statistics.evaluation import Evaluation, FrameRanking, rank_frames
from uncertainty_seg.calibration.statistics.frame_table import FrameTable
from uncertainty_seg.calibration.statistics.nested import NestedFigures
from uncertainty_seg.calibration.statistics.selective import aurc, risk_coverage
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import Calibration, Column, Promise
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings

# Single scores that are drawn beside the gate.
COMPARED = ('entropy.mean', 'mutual_information.mean')
HEAT_MAP = 'entropy'
GATE = 'the gate'


def write_calibration_report(
    path: Path, request: CalibrationRequest | FoldsRequest, found: CalibrationOutcome
) -> None:
    """
    Write the report of a calibration: what the limits were fitted on, and what they cost.

    Raises ConfigError if the file cannot be written.

    Parameters
    ----------
    path : Path
        HTML file; its folder exists.
    request : CalibrationRequest or FoldsRequest
        What was asked for.
    found : CalibrationOutcome
        What came out.

    """
    made, card = found.calibration, request.bundle.card
    promise = made.promises[0]
    assert made.family is not None  # calibrate makes one
    # The pipeline of `found` had no limits yet.
    calibrated = ModelBundle(request.bundle.folder, card, made, found.features)
    accepted, refused = _frame_groups(
        found.networks or [calibrated], request.settings, found.pairs, found.val, promise.limits,
        made)
    order = found.nested.order if found.nested else \
        made.family.frame_ranks(found.val.scores, made.gate_scores)
    before = {} if found.before is None else \
        {'temperature 1': found.before.pixels.calibration}
    write_report(path, ReportData(
        f'Calibration of {card.name}',
        facts={**_bundle_facts(card, made), **_calibration_facts(found)},
        hashes=_hashes(made), promise=promise,
        measured_on='frames that chose nothing of the limits that judged them' if found.nested
        else 'the frames the limits were fitted on',
        scores=_score_entries(made, promise, {
            name: rank_frames(values, found.val) for name, values in found.val.scores.items()}),
        risk_coverage=_risk_curves(found.val, order, promise, is_nested=bool(found.nested)),
        reliability={**before, f'temperature {made.temperature:g}':
                     found.after.pixels.calibration},
        spreads=tuple(
            ScoreSpread(name, found.train.scores[name], values, None,
                        promise.limits.get(name, made.thresholds.get(name)),
                        made.distances.get(name), name in promise.limits)
            for name, values in found.val.scores.items()
            if name in promise.limits or name in COMPARED),
        classes=_class_rows(found.after, card, promise.limits), legend=_legend(card, found.val),
        worst_accepted=accepted, wrongly_refused=refused, notes=_calibration_notes(found)))


def write_evaluation_report(path: Path, request: EvaluationRequest, found: Evaluated) -> None:
    """
    Write the report of an evaluation: what the bundle is worth on frames of the user's choice.

    Raises ConfigError if the file cannot be written.

    Parameters
    ----------
    path : Path
        HTML file; its folder exists.
    request : EvaluationRequest
        What was asked for.
    found : Evaluated
        What came out.

    """
    made = request.bundle.calibration
    write_report(path, _cold_report(request, found) if found.flag is None or made is None else
                 _flag_report(request, found, made, found.flag))


def _flag_report(
    request: EvaluationRequest, found: Evaluated, made: Calibration, flag: FlagFigures
) -> ReportData:
    """Return the report of a calibrated bundle."""
    accepted, refused = _frame_groups(
        [request.bundle], request.settings, found.pairs, found.frames, flag.limits, made)
    return replace(
        _plain_report(request, found, flag.limits),
        facts={**_bundle_facts(request.bundle.card, made), **_evaluation_facts(found)},
        hashes=_hashes(made),
        promise=None if flag.promise is None else _held_against(
            flag.promise, found.frames, flag.bad_if_accepted.upper),
        measured_on=_measured_on(found),
        scores=_score_entries(made, flag.promise, found.rankings),
        risk_coverage=_risk_curves(found.frames, flag.order, flag.promise),
        reliability={f'temperature {made.temperature:g}': found.evaluation.pixels.calibration},
        worst_accepted=accepted, wrongly_refused=refused,
        notes=(*_carried_notes(made), *_evaluation_notes(flag)))


def _cold_report(request: EvaluationRequest, found: Evaluated) -> ReportData:
    """Return the report of a bundle that nobody calibrated: no gate, and it says so."""
    card = request.bundle.card
    facts = {'bundle': card.name, 'method': card.method, 'passes T': f'{found.passes}',
             'precision': found.precision, 'temperature': '1 (no calibration)',
             'date': f'{datetime.now():%Y-%m-%d}'}
    return replace(
        _plain_report(request, found, {}), facts={**facts, **_evaluation_facts(found)},
        warnings=(f'{_sentence(NO_FLAG)} uncertainty_seg calibrate fits limits.',
                  *_of_selected(found)))


def _of_selected(found: Evaluated) -> tuple[str, ...]:
    return (_sentence(found.selected),) if found.selected else ()


def _sentence(text: str) -> str:
    return f'{text[0].upper()}{text[1:]}.'


def _plain_report(
    request: EvaluationRequest, found: Evaluated, limits: Mapping[str, float]
) -> ReportData:
    """Return what the report has with and without a gate."""
    card, foreign = request.bundle.card, found.foreign.scores if found.foreign else {}
    return ReportData(
        f'Evaluation of {card.name}', warnings=_of_selected(found),
        scores=tuple(ScoreEntry(name, ranking=ranking)
                     for name, ranking in found.rankings.items()),
        risk_coverage=_risk_curves(found.frames, None, None),
        reliability={'temperature 1': found.evaluation.pixels.calibration},
        spreads=tuple(
            ScoreSpread(name, None, values, foreign.get(name), limits.get(name), None,
                        name in limits)
            for name, values in found.frames.scores.items()
            if name in limits or name in COMPARED),
        classes=_class_rows(found.evaluation, card, limits),
        ladders=found.ladders or None, legend=_legend(card, found.frames))


# -------------------------------------------------------------------------------------------------
# Facts and notes.


def _bundle_facts(card: ModelCard, calibration: Calibration) -> dict[str, str]:
    return {
        'bundle': card.name, 'method': card.method, 'passes T': f'{calibration.passes}',
        'seed': f'{calibration.seed}', 'precision': calibration.precision,
        'temperature': f'{calibration.temperature:.4g}', 'date': f'{datetime.now():%Y-%m-%d}',
    }


def _hashes(calibration: Calibration) -> dict[str, str]:
    return {'model': calibration.model_sha256, 'validation data': calibration.data_sha256}


def _calibration_facts(found: CalibrationOutcome) -> dict[str, str]:
    made = found.calibration
    folds = {} if found.nested is None else {
        'Folds': f'{found.nested.num_folds}', 'Foreign frames': f'{found.nested.num_foreign}',
        **{f'{name} of frames that chose nothing': _text(value)
           for name, value in _nested_rankings(found.nested).items()}}
    return {
        'Training frames': f'{made.num_train}',
        'Frames scored by a network that never saw them' if found.nested else
        'Validation frames': f'{made.num_val}', **folds,
        'Bad validation frames': f'{found.val.is_bad.mean():.0%}',
        'Scores of the gate': ', '.join(made.gate_scores),
    }


def _nested_rankings(nested: NestedFigures) -> dict[str, Interval]:
    found = {'E-AURC': nested.excess_aurc, 'AUROC of bad frames': nested.bad_auroc}
    return found if nested.ood_auroc is None else \
        {**found, 'AUROC of foreign frames': nested.ood_auroc}


def _nested_notes(nested: NestedFigures) -> tuple[str, ...]:
    """Say what each promise came to, and what the gates of the folds were made of."""
    notes = [
        f'Each fold was judged by scores, guards and limits chosen on the other '
        f'{nested.num_folds - 1}, and the figures here are of all {nested.num_frames} frames '
        'together; the gate that ships was chosen on all of them.']
    for held in nested.promises:
        folds = ', '.join(f'{share:.1%}' for share in held.of_folds)
        foreign = '' if held.foreign_accepted is None else (
            f' {held.foreign_accepted.value:.1%} of {nested.num_foreign} foreign frames were '
            'accepted.')
        notes.append(
            f'At alpha {held.alpha:g} {held.accepted.value:.1%} were accepted '
            f'({held.accepted.lower:.1%} to {held.accepted.upper:.1%}), '
            f'{held.accepted_and_bad.value:.1%} accepted and bad '
            f'({held.accepted_and_bad.lower:.1%} to {held.accepted_and_bad.upper:.1%}; by fold '
            f'{folds}).{foreign}')
    gates = '; '.join(', '.join(choice.names) for choice in nested.choices)
    return (*notes, f'Scores chosen without each fold: {gates}.')


def _calibration_notes(found: CalibrationOutcome) -> tuple[str, ...]:
    if found.nested is not None:
        return _nested_notes(found.nested)
    notes = [
        f'Limits were fitted on one half of the blocks and measured on the other, '
        f'{r.num_splits} times: on average {r.accepted_and_bad:.1%} of the held-out frames were '
        f'accepted and bad (promised {r.alpha:.0%}) and {r.accepted:.0%} were accepted. '
        f'{r.share_above:.0%} of the halves were above the promise, which is one about their mean.'
        for r in found.rehearsals]
    others = [
        f'At alpha {p.alpha:g} the gate accepts {p.accepted:.0%} of the frames, '
        f'{p.accepted_and_bad:.1%} are accepted and bad.' for p in found.calibration.promises[1:]]
    return (*others, *notes)


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
    telling = pixels.telling
    for name in (name for name in ('entropy', 'mutual_information') if name in telling):
        ranking = telling[name]
        facts[f'Wrong pixels by {name}'] = (
            f'AUROC {ranking.auroc():.3f}, AUPR {ranking.average_precision():.3f}, '
            f'FPR95 {ranking.fpr_at_tpr():.3f}')
    if found.foreign is not None:
        facts['Foreign frames'] = f'{len(found.foreign)}'
    return facts


def _text(found: Interval, digits: int = 3) -> str:
    return f'{found.value:.{digits}f} ({_ends(found, digits)})'


def _ends(found: Interval, digits: int) -> str:
    if math.isnan(found.lower):
        return 'no interval'
    return f'{found.lower:.{digits}f} to {found.upper:.{digits}f}'


def _carried_notes(made: Calibration) -> tuple[str, ...]:
    """Say what is of another network, where limits were carried over."""
    if not made.carried_error:
        return ()
    source, shares = made.carried_from, ''
    if source is not None:
        shares = f' On {source.num_images} images without labels ' + ', and '.join(
            f'{source.bundle} accepted {before:.1%} and this one {after:.1%} at alpha {alpha}'
            for alpha, (before, after) in source.accepted.items()) + '.'
    name = 'another precision of this network' if source is None else \
        f'{source.bundle} in {source.precision}'
    return (f'The limits were carried over from {name}: {made.carried_error:.2g} is to be added '
            'to what is promised, and blocks and bound of the promise, temperature and limits '
            f'outside of the gate are those of the labels that were seen there.{shares}',)


def _evaluation_notes(flag: FlagFigures) -> tuple[str, ...]:
    gain = flag.gain.excess_aurc
    notes = [f'The E-AURC of the gate is {gain.value:.4f} below that of {flag.plain} '
             f'({_ends(gain, 4)}).']
    ood, of_gate = flag.gain.ood_auroc, flag.ranking.ood_auroc
    if ood is not None and flag.foreign_accepted is not None and of_gate is not None:
        notes.append(
            f'The gate ranks foreign frames with AUROC {of_gate.value:.3f}, '
            f'{ood.value:.3f} above {flag.plain} ({_ends(ood, 3)}); it '
            f'accepts {flag.foreign_accepted:.0%} of them.')
    return tuple(notes)


# -------------------------------------------------------------------------------------------------
# Parts that both reports have.


def _held_against(promise: Promise, frames: FrameTable, bad_upper: float) -> Promise:
    """Return a promise with the shares of other frames, of which every block counts alike."""
    accepted = frames.accepted(promise.limits)
    return replace(
        promise, accepted=mean_block_share(accepted, frames.blocks),
        accepted_and_bad=mean_block_share(accepted & frames.is_bad, frames.blocks),
        bad_if_accepted_upper=bad_upper)


def _score_entries(
    calibration: Calibration, promise: Promise | None, rankings: Mapping[str, FrameRanking]
) -> tuple[ScoreEntry, ...]:
    limits = promise.limits if promise else {}
    return tuple(
        ScoreEntry(name, limits.get(name, calibration.thresholds.get(name)),
                   calibration.train_thresholds.get(name), calibration.distances.get(name),
                   ranking, name in limits)
        for name, ranking in rankings.items())


def _risk_curves(
    frames: FrameTable, gate: Column | None, promise: Promise | None, is_nested: bool = False,
) -> RiskCoverageCurves:
    """Return the curve of the gate, made stricter by its one number, if any, and of scores."""
    losses = frames.is_bad.astype(np.float64)
    compared = {name: frames.scores[name] for name in COMPARED if name in frames.scores}
    drawn = compared if gate is None else {GATE: gate, **compared}
    curves = [RiskCurve(name, risk_coverage(values, losses), aurc(values, losses), name == GATE)
              for name, values in drawn.items()]
    if promise is None:
        return RiskCoverageCurves(tuple(curves))
    if is_nested and promise.accepted is not None and promise.accepted_and_bad is not None:
        risk = promise.accepted_and_bad / max(promise.accepted, 1e-9)
        return RiskCoverageCurves(tuple(curves), (promise.accepted, risk), promise.alpha)
    accepted = frames.accepted(promise.limits)
    risk = float(frames.is_bad[accepted].mean()) if accepted.any() else 0.0
    return RiskCoverageCurves(tuple(curves), (float(accepted.mean()), risk), promise.alpha)


def _class_rows(
    found: Evaluation, card: ModelCard, limits: Mapping[str, float]
) -> tuple[ClassRow, ...]:
    """Return a row of every class, with the limit of its entropy where it has one."""
    pixels, entropy = found.pixels.confusion.counts.sum(1), found.pixels.mean_entropy()
    return tuple(
        ClassRow(name, float(found.iou[i]), int(pixels[i]), float(entropy[i]),
                 limits.get(f'entropy.class.{name}'), card.palette[i])
        for i, name in enumerate(card.class_names))


def _legend(card: ModelCard, frames: FrameTable) -> Legend:
    # The heatmap is brightest where the most uncertain parts of most frames are.
    upper = float(np.nanquantile(frames.scores[f'{HEAT_MAP}.top'], 0.9))
    return Legend(card.class_names, card.palette, card.ignore_index, HEAT_MAP,
                  min(max(upper, 0.05), 1.0))


def _frame_groups(
    bundles: Sequence[ModelBundle], settings: Settings, pairs: Sequence[Pair], frames: FrameTable,
    limits: Mapping[str, float], made: Calibration,
) -> tuple[FrameGroup, FrameGroup]:
    """
    Return accepted frames with bad masks by growing IoU, rejected good ones by falling IoU.

    `bundles` are the network that measured each frame, or one of all.
    """
    accepted = frames.accepted(limits)

    def shown(rows: NDArray[np.bool_], order: Column) -> FrameGroup:
        found = sorted(np.flatnonzero(rows).tolist(), key=lambda i: float(order[i]))
        drawn: dict[int, ReportFrame] = {}
        for bundle in {id(bundle): bundle for bundle in bundles}.values():
            own = [i for i in found[:MAX_FRAMES] if len(bundles) == 1 or bundles[i] is bundle]
            if own:
                with opened(bundle, settings, made.temperature) as pipeline:
                    drawn |= {i: _shown(pipeline, pairs[i], frames, limits, i) for i in own}
        return FrameGroup(tuple(drawn[i] for i in found[:MAX_FRAMES]), len(found))

    return (shown(accepted & frames.is_bad, frames.mean_iou),
            shown(~accepted & ~frames.is_bad, -frames.mean_iou))


def _shown(
    pipeline: Pipeline, pair: Pair, frames: FrameTable, limits: Mapping[str, float], index: int
) -> ReportFrame:
    image, truth = pair
    result = pipeline.measure(image, 0)
    ratios = {name: float(frames.scores[name][index]) / limit for name, limit in limits.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    reason = f'{worst} {frames.scores[worst][index]:.3g}, limit {limits[worst]:.3g}'
    return ReportFrame(
        frames.sources[index], image, truth, result.label_at_source(),
        result.map_at_source(HEAT_MAP), ratios[worst], float(frames.mean_iou[index]), reason)
