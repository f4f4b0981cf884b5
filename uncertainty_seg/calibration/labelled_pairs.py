# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Read labelled and out-of-distribution images, and open a pipeline to measure them.

This module drops or rejects images that would bias a figure or invalidate a promise: frames that
were selected by their scores, frames without a labelled pixel, copies of an image under another
name, and images that are in two sets that must be disjoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
import hashlib
import logging
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.calibration.stats.bad_rule import BadRule
from uncertainty_seg.calibration.stats.evaluation import Pair
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.calibration import image_digest
from uncertainty_seg.core.dropout_masks import PassSource
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import ConfigError, DatasetError, some_of
from uncertainty_seg.storage.foreign_files import load_ignore_mask
from uncertainty_seg.storage.labelled_folder import (
    LabelledFolder,
    load_folder,
    read_blocks,
    read_image,
    require_ids,
    subset,
)
from uncertainty_seg.storage.review_record import CONTROL, read_review

_log = logging.getLogger(__name__)
_IMAGES = ('.jpg', '.jpeg', '.png')


def bgr_pairs(bundle: ModelBundle, data: LabelledFolder) -> list[Pair]:
    """
    Return (BGR image, mask) pairs of a folder that has the bundle's classes.

    Raises DatasetError if the class names differ, or a mask has an id that is no class.
    """
    card = bundle.card
    if data.class_names != card.class_names:
        raise DatasetError(f'the folder has the classes {", ".join(data.class_names)}',
                           f'those of {card.name!r}, {", ".join(card.class_names)}')
    for stem, mask in zip(data.stems, data.masks, strict=True):
        require_ids(mask, card.num_classes, data.ignore_index, f'the mask of {stem!r}')
    # Later code expects the card's ignore index, which may differ from the folder's.
    masks = [np.where(mask == data.ignore_index, np.uint8(card.ignore_index), mask)
             for mask in data.masks]
    images = [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in data.images]
    return list(zip(images, masks, strict=True))


def drawn_frames(data: LabelledFolder, folder: Path) -> LabelledFolder:
    """
    Return the frames that represent a dive: those that were drawn at random.

    Frames that were selected by their scores are the hard ones, so their shares of bad or accepted
    frames are not those of a dive. The ``review.json`` of the folder states how each frame was
    chosen; without it all count as drawn at random. A warning reports the number of frames left
    out. Raises DatasetError if every frame was selected.
    """
    drawn, remark = without_selected(data, folder)
    if drawn is data and remark:
        raise DatasetError(remark, 'frames that were drawn at random',
                           'label control frames of the frame log, or a random selection')
    return drawn


def without_selected(data: LabelledFolder, folder: Path) -> tuple[LabelledFolder, str]:
    """
    Return the frames that were drawn at random, and a remark on the others.

    If none was drawn at random, all frames are returned. The remark is empty if no frame is known
    to be selected.
    """
    reviews = read_review(folder) or {}
    drawn = [row for row, stem in enumerate(data.stems)
             if stem not in reviews or reviews[stem].origin == CONTROL]
    count, every = len(data.stems) - len(drawn), len(data.stems)
    if count == 0:
        return data, ''
    remark = (f'{count} of {every} frames of {folder} are left out, since they were selected by '
              f'their scores; the {len(drawn)} that were drawn at random represent the dive') \
        if drawn else (f'all {every} frames of {folder} were selected by their scores: their '
                       'shares are not those of a dive')
    _log.warning('%s', remark)
    return subset(data, drawn) if drawn else data, remark


@dataclass(frozen=True)
class KnownFrames:
    """Frames with labelled pixels: pairs of (BGR image, mask), and the stem of each."""

    pairs: list[Pair]
    stems: list[str]

    def take(self, rows: Iterable[int]) -> KnownFrames:
        """Return some of the frames, in this order."""
        picked = list(rows)
        return KnownFrames([self.pairs[i] for i in picked], [self.stems[i] for i in picked])

    def named(self) -> dict[str, ImageU8]:
        """Return the images keyed by stem."""
        return {stem: image for stem, (image, _) in zip(self.stems, self.pairs, strict=True)}


def known_frames(bundle: ModelBundle, data: LabelledFolder, ignore_mask: str) -> KnownFrames:
    """
    Return the frames of a folder that have labelled pixels.

    Pixels under the ignore mask (a path, empty for none) count as unlabelled. Frames without a
    labelled pixel are left out, since they would count as good; a warning reports their number.
    Raises DatasetError as `bgr_pairs`, or if no frame is left; ConfigError if the ignore mask
    cannot be read.
    """
    ignore, unknown = load_ignore_mask(ignore_mask), bundle.card.ignore_index
    pairs = bgr_pairs(bundle, data)
    if ignore is not None:
        # Every pixel that the ignore mask touches is left out, as in the scores.
        pairs = [(image, np.where(cv2.resize(
            ignore.astype(np.float32), mask.shape[::-1], interpolation=cv2.INTER_AREA) > 0,
            np.uint8(unknown), mask)) for image, mask in pairs]
    kept = [i for i, (_, mask) in enumerate(pairs) if (mask != unknown).any()]
    if not kept:
        raise DatasetError('all pixels of all masks are unknown', 'labelled pixels')
    if len(kept) < len(pairs):
        _log.warning('%d of %d frames are left out: no pixel of their masks is known',
                     len(pairs) - len(kept), len(pairs))
    return KnownFrames(pairs, data.stems).take(kept)


def without_twins(
    known: KnownFrames, blocks: NDArray[np.str_]
) -> tuple[KnownFrames, NDArray[np.str_]]:
    """
    Leave out images that are pixel-identical to one in another block, with a warning.

    Promises and intervals treat blocks as independent, so an image must not be in two blocks.
    Within a block it may repeat, as from a camera that stands still. `blocks` are (n,). Returns
    the remaining frames and their blocks. Raises DatasetError if such an image has two different
    masks.
    """
    first: dict[str, int] = {}
    kept, again = [], []
    for row, ((image, mask), stem) in enumerate(zip(known.pairs, known.stems, strict=True)):
        other = first.setdefault(image_digest(image), row)
        if blocks[other] == blocks[row]:
            kept.append(row)
            continue
        again.append(stem)
        if not np.array_equal(known.pairs[other][1], mask):
            raise DatasetError(
                f'{stem!r} is the image {known.stems[other]!r}, pixel for pixel, with another '
                'mask', 'one mask an image', 'remove the wrong one')
    if again:
        _log.warning('%d of %d frames are duplicates under another name and count once: %s',
                     len(again), len(known.stems), some_of(again, 3))
    return known.take(kept), blocks[kept]


def warn_of_lone_frames(blocks: NDArray[np.str_]) -> None:
    """Warn if each frame is a block, as without a file of blocks or with dives unknown."""
    if len(np.unique(blocks)) == len(blocks):
        _log.warning('no blocks: each image counts as independent; frames of one video are not')


def images_in(folder: Path) -> dict[str, ImageU8]:
    """
    Read the images of a folder, or of its folder images/, by name.

    Raises DatasetError if there is none, or one cannot be read.
    """
    place = folder / 'images' if (folder / 'images').is_dir() else folder
    paths = sorted(p for p in place.iterdir() if p.suffix.lower() in _IMAGES) \
        if place.is_dir() else []
    if not paths:
        raise DatasetError(f'no image in {place}', 'files that end with ' + ' or '.join(_IMAGES))
    return {path.name: read_image(path) for path in paths}


def refuse_familiar(
    images: Mapping[str, ImageU8], known: KnownFrames, what: str = 'foreign images',
    whose: str = 'labelled frames',
) -> None:
    """
    Raise DatasetError if any image is pixel-identical to a known frame, whatever its name.

    A share of such images refused, or a promise fitted on them, would be meaningless.
    """
    stems = {image_digest(image): stem
             for (image, _), stem in zip(known.pairs, known.stems, strict=True)}
    both = [(name, stems[digest]) for name, image in images.items()
            if (digest := image_digest(image)) in stems]
    if both:
        raise DatasetError(
            f'{len(both)} of {len(images)} {what} are {whose} too, pixel for pixel (the first is '
            f'{both[0][0]!r}, which is {both[0][1]!r})', 'other images',
            'take them out of one of the two, or give a folder of both a splits.json')


def require_classes(rule: BadRule, known: KnownFrames, names: Sequence[str]) -> None:
    """
    Raise ConfigError if the rule names a class that no mask of the frames has.

    Nearly every frame would be good by such a term, and a bad frame would only be one on which the
    network sees the class.
    """
    named = {term.class_id for term in rule.terms if term.class_id is not None}
    found = set[int]().union(*(np.unique(mask).tolist() for _, mask in known.pairs))
    missing = [names[label] for label in sorted(named - found)]
    if missing:
        raise ConfigError(
            f'the rule {rule.text!r} names the class {missing[0]!r}, which no frame has',
            'one of ' + ', '.join(name for label, name in enumerate(names) if label in found),
            'label frames with it, or leave that term out')


@dataclass(frozen=True)
class LabelledFrames:
    """
    The frames to measure: labelled frames with their blocks (n,), and foreign images by name.

    `remark` reports frames that were selected by their scores, if any. `is_dive` is False if all
    were, in which case shares of these frames are not those of a dive.
    """

    known: KnownFrames
    blocks: NDArray[np.str_]
    foreign: dict[str, ImageU8]
    remark: str
    is_dive: bool


def labelled_frames(
    bundle: ModelBundle, settings: Settings, folder: Path, split: str, blocks: Path | None,
    ood: Path | None,
) -> LabelledFrames:
    """
    Read the frames to measure, without selected frames if others were drawn at random.

    Raises DatasetError if a folder is invalid, or an image of `ood` is also a labelled frame.
    """
    read = load_folder(folder, split)
    data, remark = without_selected(read, folder)
    known = known_frames(bundle, data, settings.ignore_mask)
    known, names = without_twins(known, read_blocks(blocks, known.stems))
    if bundle.calibration and bundle.calibration.promises:
        warn_of_lone_frames(names)
    foreign = images_in(ood) if ood else {}
    refuse_familiar(foreign, known)
    return LabelledFrames(known, names, foreign, remark, not remark or data is not read)


def count_familiar(bundle: ModelBundle, images: Sequence[ImageU8]) -> int:
    """Count the BGR images recorded as used for a bundle's training or calibration."""
    made = bundle.calibration
    seen = frozenset((*bundle.card.seen_images, *(made.seen_images if made else ())))
    return sum(image_digest(image) in seen for image in images) if seen else 0


def every_score(bundle: ModelBundle) -> ScoreVector:
    """Return the score vector with all scores that a bundle provides."""
    return ScoreVector(bundle.card, features=bundle.features)


@contextmanager
def opened(
    bundle: ModelBundle, settings: Settings, temperature: float | None = None,
    scorer: ScoreVector | None = None, source: PassSource | None = None,
) -> Iterator[Pipeline]:
    """Open a pipeline with the ignore mask of the settings, and close it at the end."""
    judged = bundle if temperature is None else replace(bundle, calibration=None)
    backend = open_backend(settings.backend, judged, settings)
    try:
        yield Pipeline(bundle, backend, settings, temperature, scorer=scorer,
                       ignore=load_ignore_mask(settings.ignore_mask), source=source)
    finally:
        backend.close()


def data_digest(data: LabelledFolder) -> str:
    """Return one digest over the stems, images and masks of a set."""
    digest = hashlib.sha256()
    for stem, image, mask in zip(data.stems, data.images, data.masks, strict=True):
        digest.update(stem.encode())
        digest.update(image.tobytes())
        digest.update(mask.tobytes())
    return digest.hexdigest()
