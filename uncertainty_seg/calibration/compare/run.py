# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The steps of ``compare``: what is read, measured once a contender, and made into rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.calibration.compare.contenders import (
    Contender,
    contenders_of,
    GivenBundle,
    shared_folds,
)
from uncertainty_seg.calibration.compare.cost import (
    load_cost,
    measure_cost,
    MeasuredCost,
    save_cost,
)
from uncertainty_seg.calibration.compare.frames import (
    ComparedFrames,
    frames_key,
    joined,
    load_frames,
    measure_frames,
    MeasuredFrames,
    save_frames,
)
from uncertainty_seg.calibration.compare.table import Row, TableMaker
from uncertainty_seg.calibration.cross_fitted import all_images, refuse_divided, require_folds
from uncertainty_seg.calibration.labelled_pairs import (
    count_fitted,
    data_digest,
    images_in,
    known_frames,
    refuse_familiar,
    without_selected,
    without_twins,
)
from uncertainty_seg.calibration.statistics.bad_rule import BadRule
from uncertainty_seg.core.image_codec import decode_unchanged
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ConfigError, DatasetError, ImageError
from uncertainty_seg.storage.foreign_files import read_image_file, why
from uncertainty_seg.storage.labelled_folder import LabelledFolder, load_folder, read_blocks

_log = logging.getLogger(__name__)
_DEFAULT_RULE = 'iou<0.5'


@dataclass(frozen=True)
class CompareRequest:
    """What to compare, and on what; `tools.compare.compare_bundles` describes the fields."""

    bundles: tuple[GivenBundle, ...]
    baseline: GivenBundle | None
    settings: Settings
    data: Path
    split: str | None
    ood: tuple[Path, ...]
    unknown: Path | None
    unknown_classes: tuple[str, ...]
    blocks: Path | None
    bad: str | None
    alphas: tuple[float, ...]
    folds: int
    draws: int
    max_frames: int
    cache: Path


@dataclass(frozen=True)
class Comparison:
    """
    What was found.

    Attributes
    ----------
    rows : tuple of Row
        Figure by figure; in each, the baseline first.
    contenders : mapping of str to str
        Label -> what it is, in a sentence; the baseline first.
    timings : mapping of str to str
        Label -> how its time was measured, in a sentence.
    facts : mapping of str to str
        What was measured, on what.
    notes : tuple of str
        Sentences that a reader of the table must know.

    """

    rows: tuple[Row, ...]
    contenders: Mapping[str, str]
    timings: Mapping[str, str]
    facts: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def baseline(self) -> str:
        """Label of what all others are compared with."""
        return next(iter(self.contenders))

    def verdicts(self) -> dict[str, str]:
        """Say in a sentence what each contender is better in, by its own and picked figures."""
        return {label: self._verdict(label) for label in self.contenders if label != self.baseline}

    def _verdict(self, label: str) -> str:
        own = [row for row in self.rows if row.label == label and row.is_picked and row.gain]
        better = [row.kind.title for row in own if row.gain and row.gain.lower > 0]
        worse = [row.kind.title for row in own if row.gain and row.gain.upper < 0]
        text = f'better than {self.baseline} in {"; ".join(better)}' if better else \
            f'not better than {self.baseline} in anything'
        return text + (f', and worse in {"; ".join(worse)}.' if worse else '.')

    def summary(self, all_rows: bool = False) -> dict[str, Any]:
        """Return the line for scripts; with all rows, what is one of many scores or maps too."""
        return {
            'baseline': self.baseline, 'bundles': dict(self.contenders),
            'verdicts': self.verdicts(), 'timings': dict(self.timings),
            'facts': dict(self.facts), 'notes': list(self.notes),
            'rows': [row.facts() for row in self.rows if all_rows or row.is_picked],
        }


def run_comparison(request: CompareRequest) -> Comparison:
    """
    Measure what is not on disk yet, and make the rows.

    Raises ModelBundleError if the bundles do not belong together; DatasetError if the folders or
    the file of blocks are wrong, or there are too few frames; ConfigError if the rule cannot be
    read, or the cache cannot be written.
    """
    contenders = contenders_of(request.bundles, request.baseline)
    frames = read_frames(request)
    maker = TableMaker.of(
        len(contenders[0].bundle.card.class_names), frames.blocks,
        {folder: len(images) for folder, images in frames.foreign.items()}, request.folds,
        request.draws, request.alphas)
    digest = frames.digest()
    measured: dict[str, MeasuredFrames] = {}
    costs: dict[str, MeasuredCost] = {}
    for contender in contenders:
        measured[contender.label] = _frames_of(contender, frames, digest, request)
        costs[contender.label] = _cost_of(contenders[0], contender, frames, digest, request)
    rows = maker.rows(measured, costs)
    return Comparison(
        rows, {one.label: one.describe() for one in contenders},
        {label: cost.describe() for label, cost in costs.items()},
        _facts(request, frames, measured),
        (*frames.remarks, *_notes_of_fit(contenders, frames),
         *_notes(frames.rule, contenders, measured, costs)))


def read_frames(request: CompareRequest) -> ComparedFrames:
    """
    Read the labelled frames, the masks of unseen objects, and the foreign images.

    Frames that were selected by their scores are left aside where others were drawn by chance.

    Raises DatasetError if a folder is wrong, or no frame has a mask of an unseen object;
    ConfigError if the rule cannot be read.
    """
    first = request.bundles[0].bundle
    given = [*request.bundles, *filter(None, [request.baseline])]
    folds = shared_folds(given)
    promises = first.calibration.promises if first.calibration else ()
    text = request.bad or (promises[0].bad if promises else _DEFAULT_RULE)
    rule = BadRule.parse(text, first.card.class_names)
    data, remark = without_selected(_labelled(request, folds), request.data)
    if remark:  # now, and with the table, which may come much later
        _log.warning('%s', remark)
    kept, unseen_of = _without_unknown(data, request.unknown_classes)
    known = known_frames(first, kept, request.settings.ignore_mask)
    known, blocks = without_twins(known, read_blocks(request.blocks, known.stems))
    foreign = {name: images_in(folder) for name, folder in _named(request.ood).items()}
    for images in foreign.values():
        refuse_familiar(images, known)
    if request.unknown is not None:
        shapes = {stem: mask.shape for stem, mask in zip(data.stems, data.masks, strict=True)}
        unseen_of = _unknown_masks(request.unknown, shapes)
    count = len(known.stems)
    rows = np.unique(np.linspace(0, count - 1, min(request.max_frames, count)).round()
                     .astype(int))
    # By fold, as they are measured.
    rows = np.array(sorted(rows, key=lambda i: folds.get(known.stems[i], 0)))
    stems = [known.stems[i] for i in rows]
    return ComparedFrames(
        [known.pairs[i] for i in rows],
        [unseen_of[stem] for stem in stems] if unseen_of else None,
        foreign, blocks[rows], first.card.ignore_index, rule,
        np.array([folds.get(stem, 0) for stem in stems]), data_digest(data),
        (f'{remark[:1].upper()}{remark[1:]}.',) if remark else ())


def _labelled(request: CompareRequest, folds: Mapping[str, int]) -> LabelledFolder:
    if not folds:
        return load_folder(request.data, request.split or 'val')
    data = all_images(request.data)
    chosen = load_folder(request.data, request.split) if request.split else data
    require_folds(chosen.stems, folds)
    # Of all of them: a network may have seen the sibling of a frame that is looked at.
    known = [i for i, stem in enumerate(data.stems) if stem in folds]
    stems = [data.stems[i] for i in known]
    refuse_divided(stems, [data.images[i] for i in known], read_blocks(request.blocks, stems),
                   np.array([folds[stem] for stem in stems]))
    return chosen


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    names = [folder.resolve().name for folder in folders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f'more than one folder of foreign images is named {twice[0]!r}',
                          'a name of its own for each, which the table shows')
    return dict(zip(names, folders, strict=True))


def _without_unknown(
    data: LabelledFolder, names: Sequence[str]
) -> tuple[LabelledFolder, dict[str, NDArray[np.bool_]]]:
    """Take classes out of a folder: their pixels are not known; return where they were."""
    if not names:
        return data, {}
    strange = [name for name in names if name not in data.class_names]
    if strange:
        raise DatasetError(f'no class {strange[0]!r} in the folder',
                           f'one of {", ".join(data.class_names)}')
    kept = [i for i, name in enumerate(data.class_names) if name not in names]
    table = np.full(256, data.ignore_index, np.uint8)
    table[kept] = np.arange(len(kept))
    gone = [i for i, name in enumerate(data.class_names) if name in names]
    left = replace(data, masks=[table[mask] for mask in data.masks],
                   class_names=tuple(data.class_names[i] for i in kept),
                   palette=tuple(data.palette[i] for i in kept))
    return left, {stem: np.isin(mask, gone)
                  for stem, mask in zip(data.stems, data.masks, strict=True)}


def _unknown_masks(
    folder: Path, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.bool_]]:
    """Read STEM.png, not zero on an unseen object; a frame without a file has none."""
    found: dict[str, NDArray[np.bool_]] = {}
    for stem, shape in shapes.items():
        path = folder / f'{stem}.png'
        try:
            mask = decode_unchanged(read_image_file(path)) if path.is_file() else np.zeros(shape)
        except (OSError, ValueError, ImageError) as err:
            raise DatasetError(f'{path} is no mask that can be read ({why(err)})',
                               'a png file of one byte a pixel') from err
        if mask.shape != shape:
            came = f'{mask.shape[1]}x{mask.shape[0]}' + ' in colours' * (mask.ndim > 2)
            raise DatasetError(f'{path} is {came}', f'{shape[1]}x{shape[0]} and one channel, as '
                               'its image', 'save the mask in the size of the image')
        found[stem] = mask > 0
    if not any(mask.any() for mask in found.values()):
        raise DatasetError(f'no mask in {folder} shows an unseen object',
                           'STEM.png for the images, not zero on the object')
    return found


# -------------------------------------------------------------------------------------------------
# Measured once, and kept: a run that was stopped loses the contender that it was at.


def _frames_of(
    contender: Contender, frames: ComparedFrames, digest: str, request: CompareRequest
) -> MeasuredFrames:
    path = request.cache / f'frames-{frames_key(contender, digest, request.settings)}.npz'
    found = load_frames(path)
    if found is None:
        found = _measured(contender, frames, request)
        _keep(request.cache, lambda: save_frames(path, found))
    return found


def _measured(
    contender: Contender, frames: ComparedFrames, request: CompareRequest
) -> MeasuredFrames:
    if not contender.by_fold:
        with contender.opened(request.settings) as pipeline:
            return measure_frames(pipeline, frames, contender.label)
    parts = []
    folds = sorted(contender.by_fold)
    for fold in folds:
        own = frames.of_fold(fold, folds)
        with contender.of_fold(fold).opened(request.settings) as pipeline:
            parts.append(measure_frames(pipeline, own, f'{contender.label}, fold {fold}'))
    return joined(parts)


def _cost_of(
    baseline: Contender, contender: Contender, frames: ComparedFrames, digest: str,
    request: CompareRequest,
) -> MeasuredCost:
    keys = [frames_key(one, digest, request.settings) for one in (baseline, contender)]
    name = hashlib.sha256(' '.join(keys).encode()).hexdigest()[:32]
    path = request.cache / f'cost-{name}.json'
    cost = load_cost(path)
    if cost is None:
        images = [image for image, _ in frames.pairs]
        cost = measure_cost(baseline, contender, images, request.settings)
        _keep(request.cache, lambda: save_cost(path, cost))
    return cost


def _keep(folder: Path, write: Any) -> None:
    try:
        write()
    except OSError as err:
        raise ConfigError(f'nothing can be kept in {folder} ({err.strerror})',
                          'a folder to write to', 'name one with --cache') from err


def _facts(
    request: CompareRequest, frames: ComparedFrames, measured: Mapping[str, MeasuredFrames]
) -> dict[str, str]:
    shares = ', '.join(f'{label} {found.is_bad.mean():.1%}'.replace('%', ' %')
                       for label, found in measured.items())
    facts = {
        'frames': f'{len(frames.pairs)} in {len(np.unique(frames.blocks))} blocks',
        'folds': str(request.folds), 'draws of the bootstrap': str(request.draws),
        'bad frame': frames.rule.text, 'share of bad frames': shares,
    }
    if frames.foreign:
        facts['foreign frames'] = ', '.join(f'{name} {len(images)}'
                                            for name, images in frames.foreign.items())
    if frames.unseen is not None:
        facts['frames with an unseen object'] = str(sum(mask.any() for mask in frames.unseen))
    return facts


def _notes_of_fit(contenders: Sequence[Contender], frames: ComparedFrames) -> list[str]:
    """Name the bundles that were calibrated on what they are measured on."""
    images, notes = [image for image, _ in frames.pairs], []
    for one in contenders:
        fitted = one.bundle.calibration
        if fitted and (count := count_fitted(fitted, frames.data_sha256, images)):
            some = '' if count == len(images) else f'{count} of '
            notes.append(f'{one.label} was calibrated on {some}these images: its '
                         'temperature and the scores that a calibration adds were fitted to them, '
                         'so that its figures are too good.')
    return notes


def _notes(
    rule: BadRule, contenders: Sequence[Contender],
    measured: Mapping[str, MeasuredFrames], costs: Mapping[str, MeasuredCost],
) -> tuple[str, ...]:
    first, notes = contenders[0], []
    for one in contenders:
        if one.bundle.calibration is None:
            notes.append(f'{one.label} has no calibration: its temperature is 1, and scores that '
                         'a calibration adds are missing.')
        own, other = one.bundle.card.input, first.bundle.card.input
        if (own.width, own.height) != (other.width, other.height):
            notes.append(f'{one.label} sees {own.width}x{own.height} and {first.label} '
                         f'{other.width}x{other.height}: its figures and its time are of another '
                         'input size as well.')
        bad = measured[one.label].is_bad
        if bad.all() or not bad.any():
            notes.append(f'{"every" if bad.all() else "no"} frame of {one.label} is bad by the '
                         f'rule {rule.text!r}: nothing is said of bad frames or a promise.')
    if any(cost.is_busy for cost in costs.values()):
        notes.append('The machine was busy when times were measured: compare ratios, and not '
                     'milliseconds.')
    return tuple(notes)
