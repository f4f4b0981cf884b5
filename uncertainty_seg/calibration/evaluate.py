# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Measure the masks, the uncertainty and the flag of a bundle on labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.opening import offline_settings
from uncertainty_seg.calibration.basis import (
    evaluated_sentence,
    guard_facts,
    iou_facts,
    split_facts,
)
from uncertainty_seg.calibration.labelled_pairs import (
    count_familiar,
    every_score,
    labelled_frames,
    opened,
    require_classes,
)
from uncertainty_seg.calibration.report.page import interval_text
from uncertainty_seg.calibration.stats.bad_rule import BadRule, DEFAULT_RULE
from uncertainty_seg.calibration.stats.conformal import bad_share, BadShare
from uncertainty_seg.calibration.stats.evaluation import (
    evaluate,
    Evaluation,
    FrameRanker,
    FrameRanking,
    FrameTable,
    is_rounding,
    Pair,
    score_frames,
)
from uncertainty_seg.calibration.stats.intervals import Draws, Interval, weighted_totals
from uncertainty_seg.calibration.stats.promise_verdict import (
    judge_promise,
    PromiseVerdict,
    share_interval,
)
from uncertainty_seg.core.arrays import Column, ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import Calibration, Promise
from uncertainty_seg.core.gate import NO_CALIBRATION
from uncertainty_seg.core.settings import Settings

_log = logging.getLogger(__name__)
# Text in place of the flag's figures for a bundle without a calibration.
NO_FLAG = (f'{NO_CALIBRATION}, so the flag is never true and not measured; masks and uncertainty '
           'are measured at temperature 1')


def as_sentence(text: str) -> str:
    """Return a text with an initial capital and a full stop."""
    return f'{text[0].upper()}{text[1:]}.'


@dataclass(frozen=True)
class FlagFigures:
    """
    Figures of a calibrated bundle's flag on the labelled frames.

    `verdict` states whether the promise, if there is one for these frames, is kept on them.
    `order` (n,) is the gate's order of the frames. Shares weight all blocks equally, as the
    promise does. `bad_if_accepted` counts blocks if there is a file of blocks; on images that the
    thresholds were fitted on, its bound is corrected for all possible thresholds.
    """

    limits: Mapping[str, float]
    promise: Promise | None
    verdict: PromiseVerdict | None
    order: Column
    ranking: FrameRanking
    accepted_and_bad: Interval
    accepted: Interval
    bad_if_accepted: BadShare
    foreign_accepted: float | None

    def summary(self) -> dict[str, Any]:
        """Return the gate's figures for the machine-readable line."""
        verdict = self.verdict
        return {'promise_kept': verdict and {**asdict(verdict), 'text': verdict.sentence()},
                'limits': dict(self.limits), 'accepted': asdict(self.accepted),
                'accepted_and_bad': asdict(self.accepted_and_bad),
                'bad_if_accepted': asdict(self.bad_if_accepted), **asdict(self.ranking),
                'foreign_accepted': self.foreign_accepted}


@dataclass(frozen=True)
class Evaluated:
    """
    Measurements on labelled frames, and on out-of-distribution frames if there are any.

    `rankings` has an entry for every score. `flag` is None for a bundle without a calibration,
    which has no thresholds and no promise. `is_fitted` states whether the network or its
    thresholds were fitted on some of these images; `selected` is a remark on frames that were
    selected by their scores. `precision` is that of the network.
    """

    evaluation: Evaluation
    pixel_intervals: Mapping[str, Interval]
    frames: FrameTable
    foreign: FrameTable | None
    pairs: list[Pair]
    rule: str
    rankings: Mapping[str, FrameRanking]
    flag: FlagFigures | None
    is_fitted: bool
    passes: int
    precision: str
    has_blocks: bool
    selected: str = ''

    def sentence(self) -> str:
        """Return a human-readable summary: quality of the masks, and whether the promise holds."""
        iou = self.pixel_intervals['mean_iou']
        first = (f'Mean IoU {interval_text(iou, 3)}. ' + evaluated_sentence(
            self.frames, self.has_blocks, self.rule) + ' ')
        if self.flag is None:
            return first + as_sentence(NO_FLAG)
        if self.flag.promise and self.flag.promise.weakness:
            first += f'The flag has {self.flag.promise.weakness}. '
        if self.flag.verdict is None:
            return first + ('No promise was made for these frames: the rule for bad masks or the '
                            'gate differs, or the frames were selected by their scores.')
        return first + self.flag.verdict.sentence()

    def line(self) -> dict[str, Any]:
        """Return the machine-readable line: `summary` without the figures of each score."""
        return {name: value for name, value in self.summary().items() if name != 'scores'}

    def summary(self) -> dict[str, Any]:
        """Return all figures."""
        found = self.evaluation
        promise = self.flag.promise if self.flag else None
        return {
            'intervals': {k: asdict(v) for k, v in self.pixel_intervals.items()},
            'mean_iou': found.mean_iou, 'accuracy': found.accuracy, 'iou': found.iou.tolist(),
            'ece': found.ece,
            'error_auroc': found.error_auroc,
            'bad': self.rule, 'bad_share': float(self.frames.is_bad.mean()),
            'basis': {**split_facts(self.frames, self.has_blocks),
                      **iou_facts(self.frames.mean_iou),
                      'guards': guard_facts(self.flag.limits if self.flag else {}, self.frames)},
            'gate': self.flag.summary() if self.flag else None, 'is_fitted': self.is_fitted,
            'promise': asdict(promise) if promise else None,
            'no_promise': None if self.flag else NO_FLAG, 'selected': self.selected or None,
            'scores': {name: asdict(ranking) for name, ranking in self.rankings.items()},
        }


def evaluate_bundle(
    bundle: ModelBundle, settings: Settings, data: Path, split: str, ood: Path | None,
    blocks: Path | None, bad: str | None,
) -> Evaluated:
    """
    Measure one bundle, with bootstrap intervals.

    Without a calibration, masks, maps and scores are measured at temperature 1, and there is no
    flag. Raises as `api.evaluate` does.
    """
    calibration, settings = bundle.calibration, offline_settings(bundle, settings)
    promise = calibration.promise_of(settings.gate.alpha) if calibration else None
    rule = BadRule.parse(bad or (promise.bad if promise else DEFAULT_RULE),
                         bundle.card.class_names)
    read = labelled_frames(bundle, settings, data, split, blocks, ood)
    known = read.known
    require_classes(rule, known, bundle.card.class_names)
    is_fitted = _has_used(bundle, [image for image, _ in known.pairs], 'images')
    _has_used(bundle, [*read.foreign.values()], 'foreign images')
    with opened(bundle, settings, scorer=every_score(bundle)) as pipeline:
        limits, passes, precision = pipeline.thresholds, pipeline.passes, pipeline.precision
        evaluation = evaluate(pipeline, known.pairs, rule, f'{split} frames')
        foreign = score_frames(pipeline, read.foreign) if read.foreign else None
    frames = evaluation.table(known.stems, read.blocks)
    told = [name for name in frames.scores if not is_rounding(bundle.card, name)]
    frames, foreign = frames.only(told), foreign and foreign.only(told)
    # The promise holds neither for another rule, nor for frames that were all selected by scores,
    # nor for looser thresholds or other scores.
    kept = promise if promise and rule.text == promise.bad and read.is_dive and all(
        limits.get(name, 1.0) <= limit for name, limit in promise.limits.items()) else None
    draws, ranker = Draws.of(read.blocks), FrameRanker(frames, len(read.foreign))
    flag = None if calibration is None else _flag(
        calibration, kept, limits, frames, foreign, ranker, read.blocks if blocks else None,
        is_fitted)
    figures = weighted_totals(evaluation.totals, bundle.card.num_classes, draws.weights)
    return Evaluated(
        evaluation, {name: draws.interval(values) for name, values in figures.items()},
        frames, foreign, known.pairs, rule.text,
        {name: ranker.rank(values, foreign.scores[name] if foreign else None)
         for name, values in frames.scores.items()},
        flag, is_fitted, passes, precision, blocks is not None, read.remark)


def _has_used(bundle: ModelBundle, images: Sequence[ImageU8], what: str) -> bool:
    """Return whether network or calibration were made with any of these images, and warn."""
    count = count_familiar(bundle, images)
    if count:
        _log.warning('network or calibration were made with %d of the %d %s: figures on these '
                     'prove nothing', count, len(images), what)
    return count > 0


def _flag(
    calibration: Calibration, promise: Promise | None, limits: Mapping[str, float],
    frames: FrameTable, foreign: FrameTable | None, ranker: FrameRanker,
    blocks: NDArray[np.str_] | None, is_fitted: bool,
) -> FlagFigures:
    """Return the gate's figures; `blocks` are those of a file, if given."""
    accepted, order = frames.accepted(limits), frames.ratios(limits)
    strange = None if foreign is None else foreign.ratios(limits)
    verdict = None if promise is None else judge_promise(
        accepted, frames.is_bad, frames.blocks, promise.alpha + calibration.carried_error,
        is_new=not is_fitted)
    return FlagFigures(
        limits, promise, verdict, order, ranker.rank(order, strange),
        share_interval(accepted & frames.is_bad, frames.blocks),
        share_interval(accepted, frames.blocks),
        bad_share(accepted, frames.is_bad, blocks, num_tries=len(frames) if is_fitted else 1),
        None if foreign is None else float(foreign.accepted(limits).mean()))
