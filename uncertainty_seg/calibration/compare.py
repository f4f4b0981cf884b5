# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Compare bundles with the first, and with one deterministic pass, in quality and latency.

The deterministic pass of a bundle runs the same two graphs once with dropout switched off; for an
ensemble it is the first network alone. Latency is measured alternately with the baseline, frame by
frame: another program on the machine slows both sides of a pair equally, so the ratio is more
stable than absolute times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
import time
from typing import Any

import numpy as np

from uncertainty_seg.calibration.comparison_rows import Contended, FigureRow, rows_of
from uncertainty_seg.calibration.labelled_pairs import (
    count_familiar,
    every_score,
    LabelledFrames,
    opened,
)
from uncertainty_seg.calibration.report.page import (
    interval_text,
    number,
)
from uncertainty_seg.calibration.stats.bad_rule import BadRule
from uncertainty_seg.calibration.stats.evaluation import (
    accepted_by,
    evaluate,
    score_frames,
)
from uncertainty_seg.calibration.stats.promise_verdict import judge_promise, PromiseVerdict
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import Masks, PassSource, still_inputs
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import BUNDLE_PASSES, Settings
from uncertainty_seg.errors import ModelBundleError
from uncertainty_seg.storage.first_member import first_member

SINGLE = 'single'
ROUNDS = 15
# Time after which the threads of the previous call no longer spin.
_PAUSE_S = 0.05
_NOT_NETWORK = ('preprocess', 'scores')


@dataclass(frozen=True)
class Comparison:
    """
    Result of a comparison: rows, figure by figure, with the baseline first in each.

    By label, `contenders` describes each contender, `timings` its latency, and `promises` the
    verdicts on the promises of each calibrated bundle. `notes` are remarks needed to read the
    table, `frames` the number of frames, `rule` the rule for bad masks, and `rules` the rule of
    each bundle's promises.
    """

    rows: tuple[FigureRow, ...]
    contenders: Mapping[str, str]
    timings: Mapping[str, str]
    promises: Mapping[str, tuple[PromiseVerdict, ...]]
    notes: tuple[str, ...]
    frames: str = ''
    rule: str = ''
    rules: Mapping[str, str] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        """Label of the contender with which all others are compared."""
        return next(iter(self.contenders))

    def groups(self) -> list[tuple[str, list[FigureRow]]]:
        """Return each figure's title and rows."""
        return [(title, list(rows)) for title, rows in groupby(self.rows, lambda row: row.title)]

    def verdicts(self) -> dict[str, str]:
        """Return a sentence for each contender: in which figures it is better or worse."""
        return {label: self._verdict(label) for label in self.contenders if label != self.baseline}

    def sentences(self) -> list[str]:
        """Return sentences: verdicts, frames and rules, and whether each promise is kept."""
        promised = ''.join(f'; {label} was calibrated by {rule}'
                           for label, rule in self.rules.items())
        return [*self.verdicts().values(),
                f'Measured on {self.frames}. A mask counts as bad if {self.rule}{promised}.',
                *(f'{label}: {one.sentence()}'
                  for label, found in self.promises.items() for one in found)]

    def _verdict(self, label: str) -> str:
        own = [row for row in self.rows if row.label == label and row.gain]
        better, worse = ([row for row in own if row.direction == way] for way in (1, -1))
        told = [f'better in {self._listed(better)}'] if better else []
        told += [f'worse in {self._listed(worse)}'] if worse else []
        words = ', and '.join(told) or f'no difference seen: {self._listed(own[:1])}'
        return f'{label} against {self.baseline}: {words}.'

    def _listed(self, rows: Sequence[FigureRow]) -> str:
        """Return the titles of figures, the first with both values and the gain's interval."""
        first, *others = rows
        before = next(row.value.value for row in self.rows
                      if (row.label, row.figure) == (self.baseline, first.figure))
        return '; '.join([f'{first.title} ({number(before)} to {number(first.value.value)}, gain '
                          f'{interval_text(first.gain, 3, is_gain=True)})',
                          *(row.title for row in others)])

    def line(self) -> dict[str, Any]:
        """Return the machine-readable line: gain and 95 % interval by bundle and figure."""
        gains = {label: {row.figure: [row.gain.value, row.gain.lower, row.gain.upper]
                         for row in self.rows if row.label == label and row.gain}
                 for label in self.contenders if label != self.baseline}
        return {'baseline': self.baseline, 'bad': self.rule, 'gains': gains, 'better': {
            label: [row.figure for row in self.rows if row.label == label and row.direction > 0]
            for label in gains}}

    def summary(self) -> dict[str, Any]:
        """Return all figures."""
        return {
            'baseline': self.baseline, 'bundles': dict(self.contenders),
            'verdicts': self.verdicts(), 'promises_kept': {
                label: [asdict(one) for one in found] for label, found in self.promises.items()},
            'timings': dict(self.timings),
            'notes': list(self.notes), 'bad': self.rule,
            'rows': [row.facts() for row in self.rows],
        }

    def text(self) -> str:
        """Return the text for the terminal; only the report has the table."""
        costs = [f'{label}: {self.timings[label]}' for label in self.verdicts()]
        return '\n'.join([*self.sentences(), *costs, *self.notes])


def compare_on(
    contenders: Sequence[Contender], frames: LabelledFrames, rule: BadRule, settings: Settings,
    alphas: Sequence[float],
) -> Comparison:
    """Measure all contenders, the baseline first, and return the rows; raises as `compare`."""
    contended: dict[str, Contended] = {}
    timings: dict[str, str] = {}
    images = [image for image, _ in frames.known.pairs]
    for one in contenders:
        ratio, timings[one.label] = measure_cost(contenders[0], one, images, settings)
        with one.opened(settings) as pipeline:
            found = evaluate(pipeline, frames.known.pairs, rule, one.label, by_frame=True)
            foreign = score_frames(pipeline, frames.foreign).scores if frames.foreign else {}
        contended[one.label] = Contended(found.is_bad, found.totals, found.scores, found.maps,
                                         foreign, ratio)
    rows = rows_of(contended, frames.blocks, contenders[0].bundle.card.num_classes, alphas)
    return Comparison(
        rows, {one.label: one.describe() for one in contenders}, timings,
        {one.label: kept for one in contenders
         if (kept := _promises(one, contended[one.label], frames, rule))},
        _notes(frames, rule, contenders, contended),
        f'{len(frames.known.pairs)} frames in {len(np.unique(frames.blocks))} blocks', rule.text,
        {one.label: one.bundle.calibration.promises[0].bad for one in contenders
         if not one.is_still and one.bundle.calibration and one.bundle.calibration.promises})


# -------------------------------------------------------------------------------------------------
# The contenders.


@dataclass(frozen=True)
class Contender:
    """A bundle to compare; with `is_still`, one deterministic pass in place of its passes."""

    label: str
    bundle: ModelBundle
    is_still: bool = False

    def describe(self) -> str:
        """Return a sentence that describes the contender."""
        card, size = self.bundle.card, self.bundle.card.input
        if self.is_still and card.members:
            how = f'the first member of {card.name!r} alone'
        elif self.is_still:
            how = f'the deterministic pass of {card.name!r}: dropout off, T = 1'
        else:
            how = f'{card.method} with T={card.passes}'
        made = self.bundle.calibration
        heat = f'temperature {made.temperature:.3g}' if made else \
            'temperature 1, since it has no calibration'
        return f'{how}; {size.width}x{size.height}, {heat}.'

    @contextmanager
    def opened(self, settings: Settings) -> Iterator[Pipeline]:
        """Open a pipeline with all scores, and close it at the end of the block."""
        used = replace(settings, passes=1 if self.is_still else BUNDLE_PASSES,
                       mask_policy='fixed')
        made = self.bundle.calibration
        # With a given temperature the pipeline has no gate: thresholds are for the card's passes.
        temperature = made.temperature if made else 1.0
        with ExitStack() as stack:
            bundle = self.bundle
            if self.is_still and bundle.card.members:
                place = Path(stack.enter_context(TemporaryDirectory()))
                bundle = first_member(bundle, place / 'first')
            source = _StillSource(bundle.card) if self.is_still else None
            yield stack.enter_context(opened(bundle, used, temperature, every_score(bundle),
                                             source))


class _StillSource(PassSource):
    """Deterministic inputs, always the same object, which backends need not copy again."""

    def of(self, passes: int, seed: int) -> Masks:
        if self._drawn is None:
            self._drawn = (passes, seed), still_inputs(self._card, passes)
        return self._drawn[1]


def contenders_of(bundles: Sequence[ModelBundle]) -> tuple[Contender, ...]:
    """
    Return the contenders, the baseline first.

    With several bundles the first is the baseline, and its deterministic pass is added as the last
    contender; with one bundle that pass is the baseline. Raises ModelBundleError if a bundle has
    other classes than the first, or is given twice.
    """
    _refuse_strangers(bundles)
    labels = _labels(bundles)
    made = [Contender(label, one) for label, one in zip(labels, bundles, strict=True)]
    if any(one.bundle.card.method == SINGLE for one in made):
        return tuple(made)
    # The deterministic pass of the first network, to compare its passes with a single one.
    label = next(name for name in (SINGLE, f'{labels[0]} {SINGLE}', f'{labels[0]} one pass')
                 if name not in labels)
    still = replace(made[0], label=label, is_still=True)
    return (still, *made) if len(made) == 1 else (*made, still)


def _refuse_strangers(given: Sequence[ModelBundle]) -> None:
    first, seen = given[0].card, set()
    for one in given:
        if one.card.class_names != first.class_names:
            raise ModelBundleError(
                f'{one.card.name!r} has the classes {one.card.class_names}',
                f'those of {first.name!r}, {first.class_names}',
                'compare networks with the same classes')
        if one.folder.resolve() in seen:
            raise ModelBundleError(f'{one.folder} is given twice', 'each bundle once')
        seen.add(one.folder.resolve())


def _labels(given: Sequence[ModelBundle]) -> list[str]:
    """Return names of bundles: of their cards, or of their folders where these repeat."""
    names = [one.card.name for one in given]
    return [name if names.count(name) == 1 else str(one.folder)
            for name, one in zip(names, given, strict=True)]


# -------------------------------------------------------------------------------------------------
# Latency.


def measure_cost(
    baseline: Contender, contender: Contender, images: Sequence[ImageU8], settings: Settings,
    rounds: int = ROUNDS,
) -> tuple[float, str]:
    """
    Time network and maps of a contender and of the baseline alternately on the same images.

    Returns the median ratio of the times, and a sentence with the medians; raises as opening does.
    """
    with baseline.opened(settings) as first, contender.opened(settings) as second:
        for image in images[:2]:
            _network_ms(first, image)
            _network_ms(second, image)
        times = []
        for index in range(rounds):
            image, order = images[index % len(images)], (first, second)[::1 - 2 * (index % 2)]
            measured = {one: _network_ms(one, image) for one in order}
            times.append((measured[first], measured[second]))
    one, other = np.array(times).T
    ratio = float(np.median(other / one))
    return ratio, (f'{np.median(other):.1f} ms against {np.median(one):.1f} ms, ratio {ratio:.2f} '
                   'by medians.')


def _network_ms(pipeline: Pipeline, image: ImageU8) -> float:
    time.sleep(_PAUSE_S)
    stages = pipeline.measure(image).timings_ms
    return sum(value for name, value in stages.items() if name not in _NOT_NETWORK)


# -------------------------------------------------------------------------------------------------
# Promises, and remarks needed to read the table.


def _promises(
    one: Contender, found: Contended, frames: LabelledFrames, rule: BadRule
) -> tuple[PromiseVerdict, ...]:
    """Judge a bundle's promises; none if frames or rule differ from those of the promise."""
    made = one.bundle.calibration
    if made is None or one.is_still or not frames.is_dive:
        return ()
    is_new = not count_familiar(one.bundle, [image for image, _ in frames.known.pairs])
    return tuple(judge_promise(
        accepted_by(found.scores, promise.limits), found.is_bad, frames.blocks,
        promise.alpha + made.carried_error, is_new)
        for promise in made.promises if promise.bad == rule.text)


def _notes(
    frames: LabelledFrames, rule: BadRule, contenders: Sequence[Contender],
    contended: Mapping[str, Contended],
) -> tuple[str, ...]:
    notes = [f'{frames.remark[0].upper()}{frames.remark[1:]}.'] if frames.remark else []
    images = [*(image for image, _ in frames.known.pairs), *frames.foreign.values()]
    for one in contenders:
        made = one.bundle.calibration
        if made is None:
            notes.append(f'{one.label} has no calibration: its temperature is 1, and scores that '
                         'a calibration adds are missing.')
        if count := count_familiar(one.bundle, images):
            notes.append(f'{one.label} was trained or calibrated on {count} of {len(images)} '
                         'images, so its figures are too good.')
        bad = contended[one.label].is_bad
        if bad.all() or not bad.any():
            notes.append(f'{"every" if bad.all() else "no"} frame of {one.label} is bad by the '
                         f'rule {rule.text!r}: no figures of bad frames or a promise.')
    return tuple(notes)
