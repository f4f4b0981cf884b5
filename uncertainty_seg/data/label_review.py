# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Import corrected labels as a folder to train on, with the evidence that they were reviewed.

A mask that equals the exported one was not corrected, and counts only if the tool marks the frame
as finished or the user accepts it. Tools change masks by themselves: they convert them to
outlines, work at another size, or lose a class. Therefore neither pixels next to an outline nor
pixels that are unknown in one of the two masks count as a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.data.label_formats import find_table, HOW_TO_MARK, new_folder, READERS
from uncertainty_seg.data.label_frames import (
    ExportedFrames,
    FrameRow,
    IMAGES,
    Labelled,
    MASKS,
    PREDICTIONS,
    read_table,
    write_classes,
    write_mask,
)
from uncertainty_seg.errors import ConfigError, DatasetError, require_known
from uncertainty_seg.storage.foreign_files import as_paths
from uncertainty_seg.storage.labelled_folder import read_mask
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.review_record import (
    CONTROL,
    FrameReview,
    mask_sha256,
    SELECTED,
    write_review,
)
from uncertainty_seg.storage.whole_files import replace_file

CORRECTED, ACCEPTED = 'corrected', 'accepted unchanged'
# Not reviewed: equal to the exported mask.
_UNTOUCHED = 'untouched'
SHARES = {'train': 0.8, 'val': 0.2}
# How far a tool moves an outline: half a pixel by drawing it, and more to save corners.
_OUTLINE_PX = 2
# A tool that draws outlines may lose smaller regions: that is no correction.
_LEAST_PART_PX = 9
# Tools edit masks at a quarter of their size or more.
_MOST_BLOCK_PX = 4
# What to do with frames that were neither corrected nor marked as finished.
REFUSE, ACCEPT, SKIP = 'refuse', 'accept', 'skip'


@dataclass(frozen=True)
class ImportSummary:
    """
    Numbers of written frames and dives, and of frames by split and by evidence of review.

    `unlabelled` counts the other frames of the export; `skipped` of them came back uncorrected.
    `control` counts the labelled frames that were drawn at random: 0 if `control_skipped` of those
    drawn were skipped. `control_unlabelled` of them came back without any label.
    """

    frames: int
    unlabelled: int
    dives: int
    splits: Mapping[str, int]
    control: int = 0
    skipped: int = 0
    reviewed: Mapping[str, int] = field(default_factory=dict)
    control_skipped: int = 0
    control_unlabelled: int = 0


def import_labels(
    labels: Path | str | Sequence[Path | str], out: Path | str, kind: str, *,
    frames: Path | str | None = None, unchanged: str = REFUSE,
    shares: Mapping[str, float] = SHARES,
) -> ImportSummary:
    """
    Write corrected labels, with the images of their export, as a folder to train on.

    Parameters
    ----------
    labels : Path, str or sequence of them
        Output of the labelling tool, of one or several labellers.
    out : Path or str
        A new folder.
    kind : str
        Format of the labels, a key of `label_formats.READERS`.
    frames : Path or str, optional
        Folder of the export; by default that of the first labels or one around it.
    unchanged : str
        What to do if frames are neither corrected nor marked as finished: 'refuse' the import;
        'accept' them, since a person looked at each; 'skip' them.
    shares : mapping of str to float
        Share of the frames by name of the split; they add up to 1.

    Returns
    -------
    ImportSummary
        Counts of frames, dives, splits, and of the evidence that frames were reviewed.

    Raises
    ------
    DatasetError
        If labels do not match the export, are refused or missing, or `out` is not empty.
    ConfigError
        If no labels are given, or the format, `unchanged` or the shares are invalid.

    """
    require_known('the format', [kind], READERS)
    require_known('unchanged', [unchanged], (REFUSE, ACCEPT, SKIP))
    labels, out = as_paths(labels), Path(out)
    if not labels:
        raise ConfigError('no labels to import', 'at least one output of the labelling tool')
    for place in labels:
        if not place.exists():
            raise DatasetError(f'no labels at {place}', 'what the labelling tool exported')
    require_shares(shares)
    table = read_table(find_table(labels[0], frames))
    read = ((str(place), one) for place in labels for one in READERS[kind](place, table))
    review = LabelReview(table, unchanged, HOW_TO_MARK[kind])
    with new_folder(out) as work:
        return _write(work, table, progress(read, desc='import', total=len(table.rows)), review,
                      shares)


def _write(
    folder: Path, table: ExportedFrames, labels: Iterable[tuple[str, Labelled]],
    review: LabelReview, shares: Mapping[str, float],
) -> ImportSummary:
    (folder / IMAGES).mkdir()
    seen = set[str]()
    for source, one in labels:
        row = table.rows[one.stem]
        if one.stem not in seen:
            (folder / IMAGES / row.file).write_bytes(table.image_file(row))
        if review.add(one, source):
            write_mask(folder / MASKS, one.stem, one.mask)
        seen.add(one.stem)
    reviews = review.finish()
    if not reviews:
        skipped = f' ({len(seen)} came back unchanged)' if seen else ''
        raise DatasetError(
            f'none of the {len(table.rows)} frames of {table.folder} is labelled{skipped}',
            'at least one', 'submit annotations in the tool, then export again')
    for stem in seen - set(reviews):
        (folder / IMAGES / table.rows[stem].file).unlink()
        (folder / MASKS / f'{stem}.png').unlink()
    dive_of = {stem: table.rows[stem].dive for stem in sorted(reviews)}
    splits = split_by_dive({stem: dive for stem, dive in dive_of.items()
                            if not table.rows[stem].split}, shares)
    for stem in dive_of:
        if name := table.rows[stem].split:
            splits.setdefault(name, []).append(stem)
    write_classes(folder, table.classes)
    write_json(folder / 'splits.json', splits)
    write_json(folder / 'blocks.json', dive_of)
    write_review(folder, reviews)
    control = sum(one.origin == CONTROL for one in reviews.values())
    return ImportSummary(
        len(dive_of), len(table.rows) - len(dive_of), len(set(dive_of.values())),
        {name: len(stems) for name, stems in splits.items()},
        control, len(seen) - len(reviews), dict(Counter(one.evidence for one in reviews.values())),
        sum(table.rows[stem].origin == CONTROL for stem in seen - set(reviews)),
        sum(row.origin == CONTROL and stem not in seen for stem, row in table.rows.items())
        if control else 0)


def write_json(path: Path, content: object) -> None:
    """Write a value as JSON, whole or not at all."""
    replace_file(path, json.dumps(content, indent=1) + '\n')


def require_shares(shares: Mapping[str, float]) -> None:
    """Raise ConfigError if shares of splits are not above 0 or do not add up to 1."""
    numbers = list(shares.values()) or [0.0]
    # Written so that NaN is refused.
    if '' in shares or not (min(numbers) > 0 and abs(sum(numbers) - 1) <= 1e-6):
        listed = ' '.join(f'{name}={share:g}' for name, share in shares.items())
        raise ConfigError(f'shares {listed or "of nothing"}',
                          'names with shares above 0 that add up to 1')


def split_by_dive(
    dive_of: Mapping[str, str], shares: Mapping[str, float]
) -> dict[str, list[str]]:
    """
    Assign every dive to one split; return the stems of each split, sorted.

    Neighbouring frames of a dive look alike: with one in training and one in validation, a network
    is tested on what it has memorised. Dives are assigned from the largest down, each to the split
    that lacks most of its share, and no split stays empty if there are enough dives. `dive_of` has
    the dive of each frame by stem, `shares` the share of the frames by name of the split.
    """
    stems: dict[str, list[str]] = {}
    for stem, dive in sorted(dive_of.items()):
        stems.setdefault(dive, []).append(stem)
    splits: dict[str, list[str]] = {name: [] for name in shares}
    order = sorted(stems, key=lambda dive: (-len(stems[dive]), dive))
    for left, dive in zip(range(len(order), 0, -1), order, strict=True):
        empty = [name for name in splits if not splits[name]]
        places = empty if len(empty) >= left else list(splits)
        missing = {name: shares[name] * len(dive_of) - len(splits[name]) for name in places}
        splits[max(places, key=lambda name: missing[name])] += stems[dive]
    return {name: sorted(members) for name, members in splits.items()}


@dataclass(frozen=True)
class _Found:
    """A mask of a frame, without its pixels."""

    digest: str
    evidence: str
    source: str
    labeller: str

    @property
    def is_reviewed(self) -> bool:
        return self.evidence != _UNTOUCHED


class LabelReview:
    """
    Judge the labels of an export one by one, as they are read.

    `unchanged` is as in `import_labels`; `how_to_mark` says how a labeller marks a frame as
    finished, and is empty if the tool cannot.
    """

    def __init__(
        self, table: ExportedFrames, unchanged: str = REFUSE, how_to_mark: str = ''
    ) -> None:
        self._table, self._unchanged, self._how_to_mark = table, unchanged, how_to_mark
        self._found: dict[str, _Found] = {}
        self._disputes: dict[str, str] = {}
        self._exported = {row.mask_sha256: stem for stem, row in table.rows.items()}
        self._swapped: dict[str, str] = {}

    def add(self, one: Labelled, source: str = '') -> bool:
        """Judge the labels of a frame; return whether its mask is the one to keep so far."""
        found = _Found(mask_sha256(one.mask), self._evidence(one), source, one.labeller)
        old = self._found.setdefault(one.stem, found)
        if old is found:
            return True
        if found.digest != old.digest and found.is_reviewed and old.is_reviewed:
            names = [mask.labeller or mask.source for mask in (old, found)]
            self._disputes.setdefault(one.stem, f'of {names[0]} and {names[1]}')
        # Among redrawn versions of an untouched mask the first one stays.
        if found.is_reviewed and not old.is_reviewed:
            self._found[one.stem] = found
        return self._found[one.stem] is found

    def finish(self) -> dict[str, FrameReview]:
        """
        Return the review record of each frame, by stem.

        Raises DatasetError if labellers disagree, or masks came back unchanged or are those of
        other frames.
        """
        self._refuse_swapped()
        if self._disputes:
            stem, names = next(iter(self._disputes.items()))
            raise DatasetError(
                f'{len(self._disputes)} frames have masks that differ (the first is {stem!r}, '
                f'{names})', 'one mask a frame',
                'let the labellers agree, or import the labels of one of them')
        unseen = [stem for stem, found in self._found.items() if not found.is_reviewed]
        if unseen and self._unchanged == REFUSE:
            raise self._refusal(unseen)
        kept = set(self._found) - (set(unseen) if self._unchanged == SKIP else set())
        reviews = {stem: _reviewed(self._table.rows[stem], found)
                   for stem, found in self._found.items() if stem in kept}
        if any(self._table.rows[stem].origin == CONTROL for stem in set(self._found) - kept):
            # The remaining frames are no random sample: whether one remains depends on its mask.
            return {stem: replace(one, origin=SELECTED) for stem, one in reviews.items()}
        return reviews

    def _evidence(self, one: Labelled) -> str:
        row = self._table.rows[one.stem]
        digest = mask_sha256(one.mask)
        if digest == row.mask_sha256:
            return one.mark or _UNTOUCHED
        unknown = self._table.classes.ignore_index
        # A mask of one class may be a correction that happens to equal another frame's mask.
        if digest in self._exported and not one.mark and len(np.unique(one.mask)) > 1:
            self._swapped[one.stem] = self._exported[digest]
        exported = _exported(self._table, row)
        if is_redrawn(exported, one.mask, unknown, may_fill=one.has_polygons):
            return one.mark or _UNTOUCHED
        return CORRECTED

    def _refuse_swapped(self) -> None:
        if not self._swapped:
            return
        stem, other = next(iter(self._swapped.items()))
        mark = self._how_to_mark
        raise DatasetError(
            f'{len(self._swapped)} of {len(self._found)} masks are those that were exported for '
            f'other frames (the first is that of {stem!r}, which is the one of {other!r})',
            'each mask under the name of its frame',
            f'give the masks their names back{f", or {mark} if that is meant" if mark else ""}')

    def _refusal(self, unseen: list[str]) -> DatasetError:
        mark = self._how_to_mark
        return DatasetError(
            f'{len(unseen)} of {len(self._found)} masks came back as they were exported '
            f'(the first is {unseen[0]!r})',
            f'masks that a person corrected by more than {_OUTLINE_PX} pixels along their '
            'outlines, or marked as finished; other masks always agree with the model, so '
            'thresholds fitted on them would be too loose',
            f'correct them, {f"{mark}, " if mark else ""}skip them (skip unchanged), or confirm '
            'that a person looked at each of them (accept unchanged)')


def _reviewed(row: FrameRow, found: _Found) -> FrameReview:
    evidence = found.evidence if found.is_reviewed else ACCEPTED
    return FrameReview(True, evidence, row.origin, row.dive, row.key, row.reason, row.score,
                       found.labeller, row.split)


def _exported(table: ExportedFrames, row: FrameRow) -> LabelMap:
    file = table.folder / PREDICTIONS / f'{row.stem}.png'
    mask = read_mask(file)
    if mask_sha256(mask) != row.mask_sha256:
        raise DatasetError(f'{file} is not the mask that was exported',
                           'the file as it was exported',
                           f'correct masks in the labelling tool, and leave {PREDICTIONS}/ alone')
    return mask


def is_redrawn(
    exported: LabelMap, mask: LabelMap, ignore_index: int, may_fill: bool = True
) -> bool:
    """
    Return whether a mask is the exported one, changed by a tool alone.

    Only pixels that are known in both are compared. Those that differ are within 2 pixels of an
    outline or the rim, or in regions of less than 9 pixels, and no region of a class of 9 pixels
    or more is lost or new. With `may_fill` holes may be filled too, as outlines have none. A mask
    made of blocks was edited at a smaller size: outlines may be moved by a block, and parts
    narrower than a block may be lost.
    """
    bases = (exported, _without_holes(exported)) if may_fill else (exported,)
    block = block_of(mask) if block_of(exported) < _OUTLINE_PX else 1
    return any(_is_near(base, mask, ignore_index, block) for base in bases)


def block_of(mask: LabelMap) -> int:
    """Return the size of the blocks that a mask is made of, up to `_MOST_BLOCK_PX`; 1 for none."""
    gaps = [np.diff(np.flatnonzero((mask.take(range(1, size), axis)
                                    != mask.take(range(size - 1), axis)).any(1 - axis)))
            for axis, size in enumerate(mask.shape)]
    # One or two straight outlines show no block size.
    if any(len(gap) < 2 for gap in gaps):
        return 1
    return min(int(min(gap.min() for gap in gaps)), _MOST_BLOCK_PX)


def _is_near(base: LabelMap, mask: LabelMap, ignore_index: int, block: int = 1) -> bool:
    is_known = (base != ignore_index) & (mask != ignore_index)
    if not is_known.any():
        return False  # all known pixels are new
    edge = max(_OUTLINE_PX, block)
    rim = cv2.copyMakeBorder(base, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=[254])
    kernel = np.ones((2 * edge + 1, 2 * edge + 1), np.uint8)
    is_outline = (cv2.dilate(rim, kernel) != cv2.erode(rim, kernel))[edge:-edge, edge:-edge]
    differs = (base != mask) & is_known & ~is_outline
    if not _has_parts(differs, ~differs):
        return False
    ids = np.unique(np.concatenate([base[is_known], mask[is_known]]))
    return all(_has_parts(_wide((base == i) & is_known, block), mask == i)
               and _has_parts(_wide((mask == i) & is_known, block), base == i) for i in ids)


def _wide(whole: NDArray[np.bool_], block: int) -> NDArray[np.bool_]:
    """Return the parts of a region wider than a block: a single block may appear or vanish."""
    if block == 1:
        return whole
    kernel = np.ones((block + 1, block + 1), np.uint8)
    return cv2.morphologyEx(whole.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0


def _has_parts(whole: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Return whether each region of `whole` that is not tiny has a pixel of `other`."""
    count, parts = cv2.connectedComponents(whole.astype(np.uint8), connectivity=8)
    areas = np.bincount(parts.ravel(), minlength=count)
    hits = np.bincount(parts[other].ravel(), minlength=count)
    return bool(((hits > 0) | (areas < _LEAST_PART_PX))[1:].all())


def _without_holes(mask: LabelMap) -> LabelMap:
    filled = mask.copy()
    for class_id in np.unique(mask):
        outlines, _ = cv2.findContours((mask == class_id).astype(np.uint8), cv2.RETR_EXTERNAL,
                                       cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(filled, outlines, -1, int(class_id), cv2.FILLED)
    return filled
