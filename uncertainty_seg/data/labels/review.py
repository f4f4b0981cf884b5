# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Which labels that come back are a person's, and which are still the model's own.

A mask that equals the exported one was corrected by nobody, and counts only if the tool marks the
frame as finished or the user says so. Tools change masks by themselves: they make outlines of
them, work at another size, or lose a class. So neither pixels next to an outline nor pixels that
are unknown in one of the two count as a difference.

"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.data.labels.frames import ExportedFrames, FrameRow, PREDICTIONS, read_mask
from uncertainty_seg.data.labels.regions import Labelled
from uncertainty_seg.errors import ConfigError, DatasetError, some_of
from uncertainty_seg.storage.review_record import CONTROL, FrameReview, mask_sha256, SELECTED

CORRECTED, ACCEPTED = 'corrected', 'accepted unchanged'
# Not reviewed: equal to what was exported, or the export does not say what that was.
_UNTOUCHED, _UNKNOWN = 'untouched', 'unknown'
# How far a tool moves an outline: half a pixel to draw it, and more to save corners.
_OUTLINE_PX = 2
# Smaller regions may be lost when a tool makes outlines of them, and are no correction.
_LEAST_PART_PX = 9
# Masks are edited at a quarter of their size at least.
_MOST_BLOCK_PX = 4


class Unchanged(Enum):
    """What to do with frames that nobody corrected or marked as finished."""

    REFUSE = 'refuse'
    ACCEPT = 'accept'
    SKIP = 'skip'


@dataclass(frozen=True)
class ReviewRules:
    """
    How to decide what counts.

    Attributes
    ----------
    unchanged : Unchanged
        What to do with frames that nobody corrected or marked as finished.
    prefer : str
        Whose mask is taken where two differ: the labels as they were given, or a labeller.
    how_to_mark : str
        How the labelling tool marks a frame as finished; empty if it cannot.

    """

    unchanged: Unchanged = Unchanged.REFUSE
    prefer: str = ''
    how_to_mark: str = ''


STRICT = ReviewRules()


@dataclass(frozen=True)
class _Found:
    """A mask of a frame, without its pixels."""

    digest: str
    evidence: str
    source: str
    labeller: str

    @property
    def is_reviewed(self) -> bool:
        return self.evidence not in (_UNTOUCHED, _UNKNOWN)

    @property
    def who(self) -> str:
        return ' '.join(part for part in (self.source, self.labeller) if part)

    def is_of(self, name: str) -> bool:
        return bool(name) and (name == self.labeller or str(Path(name)) == self.source)


class LabelReview:
    """
    Judges labels one by one, as they come back.

    Parameters
    ----------
    table : ExportedFrames
        What was exported.
    rules : ReviewRules
        What counts.

    """

    def __init__(self, table: ExportedFrames, rules: ReviewRules) -> None:
        self._table, self._rules = table, rules
        self._found: dict[str, _Found] = {}
        self._disputes: dict[str, tuple[_Found, _Found]] = {}
        self._names: set[str] = set()
        self._exported = {row.mask_sha256: stem for stem, row in table.rows.items()}
        self._swapped: dict[str, str] = {}

    def add(self, one: Labelled, source: str = '') -> bool:
        """Judge the labels of a frame; returns whether its mask is the one to keep so far."""
        found = _Found(mask_sha256(one.mask), self._evidence(one), source, one.labeller)
        self._names |= {name for name in (source, one.labeller) if name}
        before = self._found.get(one.stem)
        if before is not None and not self._is_better(one.stem, found, before):
            return False
        self._found[one.stem] = found
        return True

    def finish(self) -> dict[str, FrameReview]:
        """
        Return what is known of the labels of each frame, by stem.

        Raises DatasetError if labellers disagree, masks came back as they were sent, or are those
        of other frames; ConfigError if nobody has the preferred name.
        """
        rules = self._rules
        if rules.prefer and not self._is_name(rules.prefer):
            raise ConfigError(f'--prefer {rules.prefer}', f'one of {some_of(sorted(self._names))}')
        self._refuse_swapped()
        self._refuse_disputes()
        unseen = [stem for stem, found in self._found.items() if not found.is_reviewed]
        if unseen and rules.unchanged is Unchanged.REFUSE:
            raise self._refusal(unseen)
        kept = set(self._found) - (set(unseen) if rules.unchanged is Unchanged.SKIP else set())
        reviews = {stem: _reviewed(self._table.rows[stem], found)
                   for stem, found in self._found.items() if stem in kept}
        if any(self._table.rows[stem].origin == CONTROL for stem in set(self._found) - kept):
            # Whether one is left depends on its mask: on those that are, the model was wrong.
            return {stem: replace(one, origin=SELECTED) for stem, one in reviews.items()}
        return reviews

    def _evidence(self, one: Labelled) -> str:
        row = self._table.rows[one.stem]
        if not row.mask_sha256:
            return one.mark or _UNKNOWN
        digest = mask_sha256(one.mask)
        if digest == row.mask_sha256:
            return one.mark or _UNTOUCHED
        unknown = self._table.classes.ignore_index
        # Of one class only, it may be a correction that happens to be the mask of another frame.
        if digest in self._exported and not one.mark and len(np.unique(one.mask)) > 1:
            self._swapped[one.stem] = self._exported[digest]
        exported = _exported(self._table, row)
        if is_redrawn(exported, one.mask, unknown, may_fill=one.has_polygons):
            return one.mark or _UNTOUCHED
        return CORRECTED

    def _is_better(self, stem: str, new: _Found, old: _Found) -> bool:
        if new.digest == old.digest or new.is_reviewed != old.is_reviewed:
            return new.is_reviewed and not old.is_reviewed
        if not new.is_reviewed:
            return False  # outlines of the same untouched mask
        is_new, is_old = (one.is_of(self._rules.prefer) for one in (new, old))
        if is_new == is_old:
            self._disputes.setdefault(stem, (old, new))
            return False
        self._disputes.pop(stem, None)
        return is_new

    def _is_name(self, name: str) -> bool:
        return name in self._names or str(Path(name)) in self._names

    def _refuse_swapped(self) -> None:
        if not self._swapped:
            return
        stem, other = next(iter(self._swapped.items()))
        mark = self._rules.how_to_mark
        raise DatasetError(
            f'{len(self._swapped)} of {len(self._found)} masks are those that were exported for '
            f'other frames (the first is that of {stem!r}, which is the one of {other!r})',
            'each mask under the name of its frame',
            f'give the masks their names back{f", or {mark} if that is meant" if mark else ""}')

    def _refuse_disputes(self) -> None:
        if not self._disputes:
            return
        stem, pair = next(iter(self._disputes.items()))
        names = [one.who or 'one without a name' for one in pair]
        raise DatasetError(
            f'{len(self._disputes)} frames have masks that differ (the first is {stem!r}, of '
            f'{names[0]} and {names[1]})', 'one mask a frame',
            'let the labellers agree, or say with --prefer whose labels to take')

    def _refusal(self, unseen: list[str]) -> DatasetError:
        num_unknown = sum(self._found[stem].evidence == _UNKNOWN for stem in unseen)
        came = f'{len(unseen)} of {len(self._found)} masks came back as they were exported'
        if num_unknown:
            came = f'{num_unknown} of {len(self._found)} masks cannot be compared with those of ' \
                'the export, which is of an older release'
        mark = self._rules.how_to_mark
        return DatasetError(
            f'{came} (the first is {unseen[0]!r})',
            f'masks that a person corrected by more than {_OUTLINE_PX} pixels along their '
            'outlines, or marked as finished, since a mask that nobody '
            'corrected agrees with the model whatever the image shows, and limits fitted on it '
            'promise too much',
            f'correct them, {f"{mark}, " if mark else ""}leave them out with --skip-unchanged, '
            'or say with --accept-unchanged that a person looked at each of them')


def _reviewed(row: FrameRow, found: _Found) -> FrameReview:
    evidence = found.evidence if found.is_reviewed else ACCEPTED
    return FrameReview(True, evidence, row.origin, row.dive, row.key, row.reason, row.score,
                       found.labeller)


def _exported(table: ExportedFrames, row: FrameRow) -> LabelMap:
    file = table.folder / PREDICTIONS / f'{row.stem}.png'
    mask = read_mask(file)
    if mask_sha256(mask) != row.mask_sha256:
        raise DatasetError(f'{file} is not the mask that was exported',
                           'it as export-labels wrote it',
                           f'correct masks in the labelling tool, and leave {PREDICTIONS}/ alone')
    return mask


def is_redrawn(
    exported: LabelMap, mask: LabelMap, ignore_index: int, may_fill: bool = True
) -> bool:
    """
    Say whether a mask is another one that a tool has changed by itself.

    Only pixels that are known in both are compared. Those that differ are within 2 pixels of an
    outline or the rim, or in regions of less than 9 pixels, and no region of a class of 9 pixels
    or more is lost or new. With `may_fill` holes may be filled too, as outlines have none. A mask
    of blocks went through a smaller size: outlines moved by a block, and what was narrower than a
    block may be lost.
    """
    bases = (exported, _without_holes(exported)) if may_fill else (exported,)
    block = block_of(mask) if block_of(exported) < _OUTLINE_PX else 1
    return any(_is_near(base, mask, ignore_index, block) for base in bases)


def block_of(mask: LabelMap) -> int:
    """Return the size of the blocks that a mask is made of, up to `_MOST_BLOCK_PX`; 1 for none."""
    gaps = [np.diff(np.flatnonzero((mask.take(range(1, size), axis)
                                    != mask.take(range(size - 1), axis)).any(1 - axis)))
            for axis, size in enumerate(mask.shape)]
    # Of one or two straight outlines nothing can be said.
    if any(len(gap) < 2 for gap in gaps):
        return 1
    return min(int(min(gap.min() for gap in gaps)), _MOST_BLOCK_PX)


def _is_near(base: LabelMap, mask: LabelMap, ignore_index: int, block: int = 1) -> bool:
    is_known = (base != ignore_index) & (mask != ignore_index)
    if not is_known.any():
        return False  # all that is known is new
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
    """Return what of a region is wider than a block: one alone comes and goes."""
    if block == 1:
        return whole
    kernel = np.ones((block + 1, block + 1), np.uint8)
    return cv2.morphologyEx(whole.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0


def _has_parts(whole: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether each region of `whole` that is not tiny has a pixel of `other`."""
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
