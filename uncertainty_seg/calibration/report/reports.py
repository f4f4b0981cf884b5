# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The reports of a calibration, of an evaluation and of a comparison, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.calibrate import CalibrationOutcome, CalibrationRequest
from uncertainty_seg.calibration.compare import Comparison
from uncertainty_seg.calibration.evaluate import (
    as_sentence,
    Evaluated,
    NO_FLAG,
)
from uncertainty_seg.calibration.labelled_pairs import opened
from uncertainty_seg.calibration.report.page import (
    Facts,
    Frames,
    interval_text,
    is_known,
    limit,
    Notes,
    number,
    percent,
    Plot,
    Report,
    Row,
    Section,
    Table,
    whole_percent,
    write_page,
)
from uncertainty_seg.calibration.report.pictures import (
    frame_tiles,
    IGNORED_RGB,
    legend_tile,
    plot_forest,
    plot_reliability,
    plot_risk_coverage,
)
from uncertainty_seg.calibration.stats.evaluation import (
    Evaluation,
    FrameRanker,
    FrameRanking,
    FrameTable,
    Pair,
)
from uncertainty_seg.calibration.stats.intervals import CONFIDENCE
from uncertainty_seg.calibration.stats.metrics import ExpectedCalibrationError
from uncertainty_seg.calibration.stats.promise_verdict import (
    NOT_KEPT,
    PromiseVerdict,
)
from uncertainty_seg.core.arrays import Column
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import Calibration, CarriedFrom, Promise
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.render import FrameView, heat_scale
from uncertainty_seg.core.settings import Settings

# Single scores that are drawn together with the gate.
COMPARED = ('entropy.mean', 'mutual_information.mean')
GATE = 'the gate'
# Most frames in one section.
MAX_FRAMES = 12
# Upper bound of the share of bad frames among the accepted, above which the flag is useless.
MOST_BAD = 0.5


def write_calibration_report(
    path: Path, request: CalibrationRequest, found: CalibrationOutcome
) -> None:
    """Write the report of a calibration; ConfigError if the file cannot be written."""
    made, card = found.calibration, request.bundle.card
    promise, sentences = made.promises[0], found.sentences()
    # The pipeline that measured `found` had no thresholds yet.
    calibrated = ModelBundle(request.bundle.folder, card, made, found.features)
    order = found.held.ratios(promise.limits)
    ranker = FrameRanker(found.held)
    leads, warnings = _judged(promise)
    (warnings if promise.weakness else leads).insert(0, sentences[0])
    write_page(path, Report(f'Calibration of {card.name}', [
        _risk_section(found.held, order, promise),
        _classes_section(found.after, card, promise.limits),
        *_frame_sections(calibrated, request.settings, found.pairs, found.held, promise.limits),
        _promise_section(promise, 'the frames the thresholds were fitted on'),
        _reliability_section({f'temperature {made.temperature:g}':
                              found.after.pixels.calibration}),
        _scores_section({name: ranker.rank(values) for name, values in found.held.scores.items()},
                        made, promise.limits),
        _facts_section({
            **_bundle_facts(card, made), 'Training frames': f'{made.num_train}',
            'Frames of the split limits': f'{made.num_limits}',
            'Bad among them': f'{found.held.is_bad.mean():.0%}',
            'Scores of the gate': ', '.join(made.gate_scores)}),
        Section('notes', 'What this rests on', [Notes(sentences[1:])]),
    ], leads, warnings, _tiles(found.after, promise)).page())


def write_evaluation_report(
    path: Path, bundle: ModelBundle, settings: Settings, found: Evaluated
) -> None:
    """Write the report of an evaluation; ConfigError if the file cannot be written."""
    made, flag, promise = bundle.calibration, found.flag, _held_against(found)
    limits = flag.limits if flag else {}
    temperature = f'temperature {made.temperature:g}' if made else 'temperature 1'
    facts = _bundle_facts(bundle.card, made) if made else {
        'bundle': bundle.card.name, 'method': bundle.card.method, 'passes T': f'{found.passes}',
        'precision': found.precision, 'temperature': '1 (no calibration)',
        'date': f'{datetime.now():%Y-%m-%d}'}
    frames = _frame_sections(bundle, settings, found.pairs, found.frames, limits) if flag else []
    carried = [_carried_note(made, made.carried_from)] if made and made.carried_from else []
    sections = [
        _risk_section(found.frames, flag.order if flag else None, promise),
        _classes_section(found.evaluation, bundle.card, limits), *frames,
        *([_promise_section(promise, _measured_on(found))] if promise else []),
        _reliability_section({temperature: found.evaluation.pixels.calibration}),
        _scores_section(found.rankings, made, limits),
        _facts_section({**facts, **_evaluation_facts(found)}),
        *([Section('notes', 'Notes', [Notes(carried)])] if carried else []),
    ]
    leads, warnings = _judged(promise, flag.verdict if flag else None)
    if not flag:
        warnings.append(f'{as_sentence(NO_FLAG)} uncertainty_seg calibrate fits thresholds.')
    if found.selected:
        warnings.append(as_sentence(found.selected))
    write_page(path, Report(f'Evaluation of {bundle.card.name}', sections, leads, warnings,
                            _tiles(found.evaluation, promise)).page())


def comparison_page(found: Comparison) -> str:
    """Return the HTML page of a comparison."""
    rows = [
        Row([title if index == 0 else '', row.label, interval_text(row.value, 3),
             interval_text(row.gain, 3, is_gain=True) if row.gain else '', row.name],
            row.direction > 0)
        for title, group in found.groups() for index, row in enumerate(group)]
    contenders = [Row([label, words, found.timings[label]])
                  for label, words in found.contenders.items()]
    forest = [(title, [(row.label, f'{number(group[0].value.value)} to {number(row.value.value)}',
                        row.gain) for row in group if row.gain])
              for title, group in found.groups() if any(row.gain for row in group)]
    return Report(f'Comparison with {found.baseline}', [
        Section('forest', 'What changed', [Plot(
            plot_forest(forest, found.baseline), 'Gain of each figure and its interval')],
            f'Right of the line is better than {found.baseline}, for every figure; a bar that '
            'crosses the line means that these frames show no difference. Scales differ.'),
        Section('contenders', 'What was compared', [
            Table(['', 'what it is', 'time'], contenders)],
            f'Everything is compared with {found.baseline}.'),
        Section('table', 'All figures', [Table(
            ['figure', 'bundle', 'value', f'gain over {found.baseline}', 'of'], rows)], (
            'Maps and scores were selected by five-fold cross-validation over blocks and measured '
            'on the frames that were not used to select them. A gain above 0 is better, for every '
            'figure, but only if its interval excludes 0.'), is_folded=True),
        Section('notes', 'How to read it', [Notes([
            'Intervals are 95 % intervals of a bootstrap over blocks of frames; all bundles share '
            'the draws. The selection is not repeated in each draw.',
            'The ranking of wrong pixels and bad frames is not comparable between networks: a '
            'better network makes fewer but harder errors. Compare mean IoU and acceptance.',
            'Accepted at a promise: conformal risk control sets the threshold of the selected '
            'score on one half of the blocks; it is applied to the other half, over random halves '
            'that all bundles share.',
            f'Time is that of network and maps, measured alternately with {found.baseline}.'])]),
    ], found.sentences(), found.notes, _gain_tiles(found)).page()


def _gain_tiles(found: Comparison) -> list[tuple[str, str]]:
    """Return the main changes of the first contender: masks, accepted frames, time."""
    label = next(iter(found.verdicts()))
    old, new = ({row.figure: row for row in found.rows if row.label == one}
                for one in (found.baseline, label))
    figures = [name for name in new if name in old and name.startswith('accepted@')][:1]
    return [*((f'{number(old[name].value.value)} to {number(new[name].value.value)}',
               f'{new[name].title}, {found.baseline} to {label}')
              for name in ('mean_iou', *figures)),
            (f'{number(new["cost_ratio"].value.value, 2)} times', f'the time of {found.baseline}')]


# -------------------------------------------------------------------------------------------------
# The promise.


def _judged(
    promise: Promise | None, verdict: PromiseVerdict | None = None
) -> tuple[list[str], list[str]]:
    """Return the statements at the top: leads, and warnings if the flag is not reliable."""
    leads, warnings = [] if verdict is None else [verdict.sentence()], list[str]()
    if verdict is not None and verdict.word == NOT_KEPT:
        warnings = [f'{leads.pop()} These frames are unlike those of the calibration: do not rely '
                    'on the flag there.']
    upper = None if promise is None else promise.bad_if_accepted_upper
    if is_known(upper) and upper > MOST_BAD:
        warnings.append(f'Do not use this flag: up to {percent(upper)} of the frames it accepts '
                        'may be bad, since too few were accepted, or too many of those were bad '
                        f'({whole_percent(CONFIDENCE)} confidence).')
    elif is_known(upper):
        leads.append(f'When the flag is true, the mask is bad in at most {percent(upper)} of the '
                     f'frames, with {whole_percent(CONFIDENCE)} confidence.')
    if promise is not None:
        leads.append(f'Promise: at most {whole_percent(promise.alpha)} of all frames are both '
                     'accepted and bad, on average over blocks of frames like those of the '
                     'calibration.')
    return leads, warnings


def _tiles(found: Evaluation, promise: Promise | None) -> list[tuple[str, str]]:
    """Return the three main figures."""
    masks = (number(found.mean_iou), 'mean IoU of the masks')
    if promise is None:
        return [masks, (percent(float(found.is_bad.mean())), 'of the masks are bad'),
                (number(found.ece), 'calibration error of the confidence (ECE)')]
    return [(percent(promise.accepted), 'of frames accepted'),
            (percent(promise.accepted_and_bad), 'of frames accepted and bad; promised are at most '
             f'{whole_percent(promise.alpha)}'), masks]


def _held_against(found: Evaluated) -> Promise | None:
    """Return the promise with shares measured on these frames, all blocks weighted equally."""
    flag = found.flag
    if flag is None or flag.promise is None:
        return None
    return replace(flag.promise, accepted=flag.accepted.value,
                   accepted_and_bad=flag.accepted_and_bad.value,
                   bad_if_accepted_upper=flag.bad_if_accepted.upper)


def _measured_on(found: Evaluated) -> str:
    if found.is_fitted:
        return ('the frames of this evaluation, some of which the network or its thresholds were '
                'fitted on, so this proves nothing')
    return 'the frames of this evaluation, unseen by the network and its thresholds'


def _promise_section(promise: Promise, measured_on: str) -> Section:
    return Section('promise', 'What the flag promises', [
        Facts([
            ('accepted and bad at most: the promise', whole_percent(promise.alpha)),
            ('bound that the thresholds reach', percent(promise.bound, 2)),
            (f'bad among accepted, at most ({whole_percent(CONFIDENCE)} confidence)',
             percent(promise.bad_if_accepted_upper)),
            ('fitted on', f'{promise.num_blocks} blocks, {promise.num_frames} frames')]),
        Notes([
            '“Accepted and bad” is a share of all frames and is promised; “bad among accepted” is '
            'a share of the accepted frames. Its bound assumes that blocks (or, without a file of '
            'blocks, frames) are independent, which neighbours in a video are not. Neither holds '
            'for water, light or objects unlike those of the calibration.']),
    ], f'Measured on {measured_on}. A frame is bad if {promise.bad}.', is_folded=True)


# -------------------------------------------------------------------------------------------------
# Facts and notes.


def _bundle_facts(card: ModelCard, made: Calibration) -> dict[str, str]:
    return {
        'bundle': card.name, 'method': card.method, 'passes T': f'{made.passes}',
        'seed': f'{made.seed}', 'precision': made.precision,
        'temperature': f'{made.temperature:.4g}', 'date': f'{datetime.now():%Y-%m-%d}',
        'hash of the model': made.model_sha256, 'hash of the split limits': made.data_sha256,
    }


def _facts_section(facts: Mapping[str, str]) -> Section:
    return Section('bundle', 'What was measured', [Facts([*facts.items()])], is_folded=True)


def _evaluation_facts(found: Evaluated) -> dict[str, str]:
    facts = {
        'Frames': f'{len(found.frames)}', 'Bad frames': f'{found.frames.is_bad.mean():.0%}',
        'Mean IoU': interval_text(found.pixel_intervals['mean_iou'], 3),
        'Pixel accuracy': interval_text(found.pixel_intervals['accuracy'], 3),
        'Calibration error': interval_text(found.pixel_intervals['ece'], 4),
    }
    facts |= {f'Wrong pixels by {name}': f'AUROC {value:.3f}'
              for name, value in found.evaluation.error_auroc.items()}
    if found.foreign is not None:
        facts['Foreign frames'] = f'{len(found.foreign)}'
    return facts


def _carried_note(made: Calibration, source: CarriedFrom) -> str:
    """Return a note on carried-over thresholds: the parts that belong to another bundle."""
    shares = ', and '.join(
        f'{source.bundle} accepted {before:.1%} and this one {after:.1%} at alpha {alpha}'
        for alpha, (before, after) in source.accepted.items())
    return (f'The thresholds were carried over from {source.bundle} in {source.precision}: '
            f'{made.carried_error:.2g} is added to the promised share. Blocks, bound, temperature '
            'and the other thresholds are those of that bundle and its labels. On '
            f'{source.num_images} images without labels {shares}.')


# -------------------------------------------------------------------------------------------------
# Scores, classes and plots.


def _risk_section(frames: FrameTable, gate: Column | None, promise: Promise | None) -> Section:
    """Return the risk-coverage curves of single scores and, if given, of the gate's rank."""
    orders = {name: frames.scores[name] for name in COMPARED if name in frames.scores}
    orders |= {} if gate is None else {GATE: gate}
    point = None
    if promise is not None:
        accepted = frames.accepted(promise.limits)
        risk = float(frames.is_bad[accepted].mean()) if accepted.any() else 0.0
        point = float(accepted.mean()), risk
    plot = plot_risk_coverage(orders, frames.is_bad.astype(np.float64), GATE, point,
                              promise.alpha if promise else None)
    return Section('risk', 'Risk against coverage', [
        Plot(plot, f'Risk over coverage of {", ".join(orders)}')], (
        'The gate gets stricter from right to left. The line of a good score falls steeply at '
        'first, because it rejects bad frames first. A flat line is no better than rejecting '
        'frames at random. Left of about 15 % only few frames remain, and the lines are mostly '
        'chance. In the hatched area more frames than promised are accepted and bad.'))


def _scores_section(
    rankings: Mapping[str, FrameRanking], made: Calibration | None, limits: Mapping[str, float]
) -> Section:
    def row(name: str) -> Row:
        ranking = rankings[name]
        return Row([
            name, 'yes' if name in limits else '',
            limit(limits.get(name, made.thresholds.get(name) if made else None)),
            interval_text(ranking.excess_aurc, 4), interval_text(ranking.ood_auroc, 3),
        ], name in limits)

    rows = [row(name) for name in sorted(rankings, key=lambda name: (
        name not in limits, np.nan_to_num(rankings[name].excess_aurc.value, nan=np.inf), name))]
    table = Table(['score', 'gate', 'threshold', 'E-AURC', 'OOD AUROC'], rows)
    gate = 'The gate uses the scores of the highlighted rows; a frame is accepted only if each ' \
        'of them is within its threshold. ' if limits else ''
    return Section('scores', 'Scores and thresholds', [table], (
        f'{gate}Thresholds come from the split limits; intervals are in brackets. Low is good for '
        'E-AURC, the area under risk and coverage minus that of the best possible order; high '
        '(near 1) is good for OOD AUROC.'), is_folded=True)


def _reliability_section(errors: Mapping[str, ExpectedCalibrationError]) -> Section:
    alt = ', '.join(f'{name}: ECE {error.value():.3f}' for name, error in errors.items())
    return Section('reliability', 'Reliability of the confidence', [
        Plot(plot_reliability(errors), f'Accuracy over confidence, {alt}', 'middle')], (
        'On the diagonal, a confidence of 80 % is right for 80 % of the pixels. Below it the '
        'network is overconfident. The lower plot shows the number of pixels of each point: an '
        'outlier of few pixels matters little.'), is_folded=True)


def _classes_section(
    found: Evaluation, card: ModelCard, limits: Mapping[str, float]
) -> Section:
    pixels = found.pixels.confusion.counts.sum(1)
    total = max(int(pixels.sum()), 1)
    rows = [Row([name, number(float(found.iou[i])), f'{int(pixels[i]):,}',
                 percent(float(pixels[i]) / total), limit(limits.get(f'entropy.class.{name}'))],
                color=card.palette[i])
            for i, name in enumerate(card.class_names)]
    return Section('classes', 'Classes', [Table(
        ['class', 'IoU', 'true pixels', 'share', 'threshold'], rows)],
        'Thresholds are for the mean entropy of the pixels predicted as the class.')


# -------------------------------------------------------------------------------------------------
# Frames that were judged wrongly.


def _frame_sections(
    bundle: ModelBundle, settings: Settings, pairs: Sequence[Pair], frames: FrameTable,
    limits: Mapping[str, float],
) -> list[Section]:
    """Return accepted frames with bad masks by growing IoU, rejected good ones by falling IoU."""
    accepted = frames.accepted(limits)
    return [
        _frames_section('accepted', 'Worst frames that were accepted', bundle, settings, pairs,
                        frames, limits, accepted & frames.is_bad, frames.mean_iou,
                        'The gate accepted the frame although the mask is bad. Compare prediction '
                        'and truth, and check whether the heatmap is bright where they differ.'),
        _frames_section('refused', 'Good frames that were rejected', bundle, settings, pairs,
                        frames, limits, ~accepted & ~frames.is_bad, -frames.mean_iou,
                        'The gate rejected the frame although the mask is good. The reason names '
                        'the score that was furthest above its threshold.'),
    ]


def _frames_section(
    name: str, title: str, bundle: ModelBundle, settings: Settings, pairs: Sequence[Pair],
    frames: FrameTable, limits: Mapping[str, float], rows: NDArray[np.bool_], order: Column,
    look: str,
) -> Section:
    found = sorted(np.flatnonzero(rows).tolist(), key=lambda row: float(order[row]))
    if not found:
        return Section(name, title, [Notes(['No such frame.'])])
    scale = heat_scale(
        settings.map, bundle.calibration.thresholds if bundle.calibration else {}, frames.scores)
    card, shown = bundle.card, []
    # A given temperature opens no gate, which could raise for settings that differ.
    heat = bundle.calibration.temperature if bundle.calibration else 1.0
    with opened(bundle, settings, heat) as pipeline:
        for row in found[:MAX_FRAMES]:
            image, truth = pairs[row]
            view = FrameView(image, pipeline.measure(image, 0), card, settings, {})
            tiles = frame_tiles(image, truth, view.mask, view.plain_heatmap(scale), card)
            shown.append((_caption(frames, limits, row), tiles))
    colors = [*zip(card.class_names, card.palette, strict=False), ('ignored', IGNORED_RGB)]
    return Section(name, title, [
        Notes([f'{len(shown)} of {len(found)} such frames.']),
        Frames(shown, colors, legend_tile(scale))], look)


def _caption(frames: FrameTable, limits: Mapping[str, float], row: int) -> str:
    ratios = {name: float(frames.scores[name][row]) / at for name, at in limits.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    return (f'{frames.sources[row]}: IoU {frames.mean_iou[row]:.2f}, score over threshold '
            f'{ratios[worst]:.2f}; {worst} {frames.scores[worst][row]:.3g}, threshold '
            f'{limits[worst]:.3g}')
