# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Active learning with people: each round is exported to be labelled, and goes on when it was.

What a round asks for is in STUDY/round-K/to_label, an export as export-labels writes it, with the
masks of the network of the round before to correct. Its labels are expected in
STUDY/round-K/labelled, as import-labels writes them, or in several folders whose names begin so.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.confusion import ConfusionMatrix
from uncertainty_seg.data.labels.formats import write_export
from uncertainty_seg.data.labels.frames import kind_of_export, LabelFrame, read_mask, safe_name
from uncertainty_seg.errors import ConfigError, DatasetError, some_of
from uncertainty_seg.storage.foreign_files import read_bytes
from uncertainty_seg.storage.labelled_folder import (
    ClassTable,
    LabelledFolder,
    read_classes,
    UnlabelledImages,
)
from uncertainty_seg.storage.review_record import (
    is_prediction,
    read_review,
    refuse_export,
    TABLE_FILE,
)
from uncertainty_seg.storage.score_rows import short_digest
from uncertainty_seg.storage.whole_files import replace_file
from uncertainty_seg.training.active.chain import (
    ChainTask,
    first_picks,
    Picks,
    StrategyChain,
    text_of,
)
from uncertainty_seg.training.active.prepared import (
    prepare,
    PreparedImages,
    read_prepared,
    write_prepared,
)
from uncertainty_seg.training.active.study import START, StudyPlace

_NAMED = 5
_MOST_IMAGE_BYTES = 2**28


@dataclass(frozen=True)
class Waiting:
    """
    What people have to do before a study goes on.

    Attributes
    ----------
    number : int
        Of the round.
    to_label, labelled : Path
        What to label, and where the labels are expected.
    missing : tuple of str
        The frames without labels.
    label_format : str
        Of what is to be labelled.
    unreviewed : int
        Of them, those whose labels nobody looked at.

    """

    number: int
    to_label: Path
    labelled: Path
    missing: tuple[str, ...]
    label_format: str
    unreviewed: int = 0

    @property
    def sentence(self) -> str:
        """Say what to do next."""
        seen = f' ({self.unreviewed} have labels that nobody reviewed)' if self.unreviewed else ''
        return (
            f'Round {self.number} waits for labels of {len(self.missing)} frames{seen}: label '
            f'{self.to_label}, bring the labels back with "uncertainty_seg import-labels '
            f'{self.to_label} {self.labelled} --format {self.label_format}", and run the same '
            'command again, whenever that is.')


def label_rounds(
    task: ChainTask, images: UnlabelledImages, label_format: str, notes: list[str]
) -> Waiting | None:
    """
    Do what can be done without further labels; return what is waited for, None at the end.

    Parameters
    ----------
    task : ChainTask
        The strategy and seed.
    images : UnlabelledImages
        The pool.
    label_format : str
        Of what is exported, as `write_export` knows it.
    notes : list of str
        Gets a sentence for each round that goes on without some of its labels.

    Raises
    ------
    DatasetError
        If labels are of other frames, classes or sizes, or two labellers disagree.
    ConfigError
        If the rounds that people see are of another strategy or seed.

    """
    from uncertainty_seg.training.active.rounds import use_threads

    use_threads(task.threads)
    place = StudyPlace(task.folder)
    _require_one_chain(task, place)
    paths = {path.stem: path for path in images.paths}
    for number in range(len(task.settings.labels)):
        of = task if number else replace(task, strategy=START)
        if place.result(of.strategy, of.seed, number).is_file():
            notes += _late_labels(place, number)
            continue
        place.chain(of.strategy, of.seed).mkdir(parents=True, exist_ok=True)
        chain = StrategyChain(of, place)
        chain.pool = with_labels(chain.pool, place)
        round_ = _LabelRound(chain, number, paths, label_format)
        if number and not round_.picks().frames:
            notes.append(f'round {number} finds no frame to ask for, and the study ends there')
            return None
        waiting = round_.advance(notes)
        if waiting is not None:
            return waiting
    return None


def _require_one_chain(task: ChainTask, place: StudyPlace) -> None:
    ours = {(START, task.seed), (task.strategy, task.seed)}
    others = [pair for pair in place.chains() if pair not in ours]
    if others:
        strategy, seed = max(others, key=lambda pair: pair[0] != START)
        said = f'the seed {seed}' if strategy == START else f'--strategy {strategy} --seeds {seed}'
        raise ConfigError(f'people label the rounds in {place.folder} for {said}',
                          'the same again', 'take another folder for another study')


def _late_labels(place: StudyPlace, number: int) -> list[str]:
    """Return a sentence if a finished round has labels that it was trained without."""
    file = place.images(f'labels-{number}')
    if not file.is_file():
        return []
    used = set(read_prepared(file).stems)
    late = sorted({frame for folder in (place.folder / f'round-{number}').glob('labelled*')
                   if folder.is_dir() for frame, _, is_reviewed in _masks_of(folder)
                   if is_reviewed} - used)
    return [f'labels of {len(late)} frames of round {number} came after it had gone on and are '
            f'not used ({some_of(late, _NAMED)})'] if late else []


def with_labels(pool: PreparedImages, place: StudyPlace) -> PreparedImages:
    """Return the pool with all masks that people gave it so far."""
    masks, pixels, regions = pool.masks.copy(), pool.pixels.copy(), pool.regions.copy()
    rows = {stem: row for row, stem in enumerate(pool.stems)}
    for file in sorted(place.images('pool').parent.glob('labels-*.npz')):
        part = read_prepared(file)
        own = [rows[stem] for stem in part.stems]
        masks[own], pixels[own], regions[own] = part.masks, part.pixels, part.regions
    return replace(pool, masks=masks, pixels=pixels, regions=regions)


@dataclass(frozen=True)
class _LabelRound:
    """One round: its frames, their export, their labels, its training."""

    chain: StrategyChain
    number: int
    paths: dict[str, Path]
    label_format: str

    @property
    def place(self) -> Path:
        """Return the folder that people see."""
        return self.chain.place.folder / f'round-{self.number}'

    @property
    def classes(self) -> ClassTable:
        """Return the classes of the study."""
        pool = self.chain.pool
        return ClassTable(pool.class_names, pool.palette, pool.ignore_index)

    def advance(self, notes: list[str]) -> Waiting | None:
        """Go on as far as there are labels."""
        picks = self.picks()
        file = self.chain.place.images(f'labels-{self.number}')
        if picks.frames and not file.is_file():
            self._ask(picks)
            found, unreviewed = read_labelled(self.place, picks.frames, self.classes)
            missing = tuple(frame for frame in picks.frames if frame not in found)
            if not found:
                # It may have been written with another --label-format before.
                return Waiting(self.number, self.place / 'to_label', self.place / 'labelled',
                               missing, kind_of_export(self.place / 'to_label'), unreviewed)
            if missing:
                notes.append(f'round {self.number} goes on without labels of {len(missing)} of '
                             f'{len(picks.frames)} frames ({some_of(missing, _NAMED)}), '
                             f'{unreviewed} of which nobody reviewed')
            self._keep(file, found)
        if file.is_file():
            picks = _labelled_part(picks, set(read_prepared(file).stems))
            replace_file(self._kept(), text_of(picks))
            self.chain.pool = with_labels(self.chain.pool, self.chain.place)
        self.chain.train(self.number, picks)
        return None

    def _ask(self, picks: Picks) -> None:
        """Write what is to be labelled, once; ConfigError if something else is there."""
        export = self.place / 'to_label'
        if not export.is_dir():
            write_export(export, self.label_format, self._frames(picks), self.classes)
        elif not (export / TABLE_FILE).is_file():
            raise ConfigError(f'{export} has no {TABLE_FILE}', 'what this verb wrote',
                              'delete the folder and run the same command again, which writes the '
                              'same frames')

    def picks(self) -> Picks:
        """Return what the round asks for, chosen once."""
        kept = self._kept()
        if not kept.is_file():
            replace_file(kept, text_of(self._chosen()))
        return self.chain.kept(kept)

    def _kept(self) -> Path:
        task = self.chain.task
        return self.chain.place.picks(task.strategy, task.seed, self.number)

    def _chosen(self) -> Picks:
        if not self.number:
            return first_picks(self.chain.task, self.chain.pool)
        return self.chain.pick(self.number)

    def _frames(self, picks: Picks) -> Iterator[LabelFrame]:
        """Yield the frames with the masks to correct."""
        sizes = [_size_of(self.paths[frame]) for frame in picks.frames]
        masks = self._masks(picks.frames, sizes)
        for frame, stem, score, reason, mask in zip(
                picks.frames, stems_of(picks.frames), picks.scores, picks.reasons, masks,
                strict=True):
            path = self.paths[frame]
            ending = '.png' if path.suffix.lower() == '.png' else '.jpg'
            # Each is a run of its own, so that import-labels may divide them.
            yield LabelFrame(stem, frame, frame, 0, '',
                             read_bytes(path, _MOST_IMAGE_BYTES), ending, mask, None, reason,
                             score if math.isfinite(score) else math.nan)

    def _masks(
        self, frames: Sequence[str], sizes: Sequence[tuple[int, int]]
    ) -> Iterator[NDArray[np.uint8]]:
        if not self.number:  # nothing is known: the first class everywhere
            yield from (np.zeros(size, np.uint8) for size in sizes)
            return
        part = self.chain.pool.cut([self.chain.index[frame] for frame in frames])
        jury = self.chain.jury(self.number - 1)
        shaped = replace(part, truths=tuple(np.zeros(size, np.uint8) for size in sizes))
        yield from (label for label, _ in jury.predictions(shaped))

    def _keep(self, file: Path, found: dict[str, NDArray[np.uint8]]) -> None:
        """Write down masks at the network's size: the study needs no folder of labels again."""
        images = [image for _, image in UnlabelledImages(
            'labelled', tuple(self.paths[stem] for stem in found))]
        for stem, image, mask in zip(found, images, found.values(), strict=True):
            if image.shape[:2] != mask.shape:
                sizes = [f'{part.shape[1]}x{part.shape[0]}' for part in (mask, image)]
                raise DatasetError(f'the mask of {stem!r} is {sizes[0]}, its image {sizes[1]}',
                                   'equal sizes', 'save the mask in the size of the image')
        table = self.classes
        data = LabelledFolder(images, list(found.values()), list(found), table.names,
                              table.palette, table.ignore_index)
        write_prepared(file, prepare(data, self.chain.spec, is_measured=False))


def _size_of(path: Path) -> tuple[int, int]:
    (_, image), = UnlabelledImages('', (path,))
    return image.shape[0], image.shape[1]


def stems_of(frames: Sequence[str]) -> list[str]:
    """Return a name for the files of each frame that every tool accepts, no two alike."""
    safe = [safe_name(frame) for frame in frames]
    # Some file systems and archives tell no capitals from small letters.
    count = Counter(name.casefold() for name in safe)
    return [name if count[name.casefold()] == 1 else f'{name}_{short_digest(frame)}'
            for name, frame in zip(safe, frames, strict=True)]


def _labelled_part(picks: Picks, labelled: set[str]) -> Picks:
    """Return picks without what has no labels: it may be chosen again."""
    kept = [k for k, frame in enumerate(picks.frames) if frame in labelled]
    lost = set(picks.frames) - labelled
    return replace(
        picks, frames=tuple(picks.frames[k] for k in kept),
        scores=tuple(picks.scores[k] for k in kept),
        reasons=tuple(picks.reasons[k] for k in kept),
        labelled=tuple(stem for stem in picks.labelled if stem not in lost))


def read_labelled(
    place: Path, frames: Sequence[str], classes: ClassTable
) -> tuple[dict[str, NDArray[np.uint8]], int]:
    """
    Read the reviewed masks of a round, and count the others.

    Parameters
    ----------
    place : Path
        Of the round; labels are in its folders whose names begin with ``labelled``.
    frames : sequence of str
        What was asked for.
    classes : ClassTable
        Of the study.

    Returns
    -------
    masks : dict of str to ndarray of uint8, shape (H, W)
        By frame, in the order of `frames`.
    unreviewed : int
        Frames with a mask that nobody looked at.

    Raises
    ------
    DatasetError
        If labels are of other frames or classes, a folder is an export that was copied, or two
        labellers disagree.

    """
    found: dict[str, NDArray[np.uint8]] = {}
    unreviewed: set[str] = set()
    for folder in sorted(path for path in place.glob('labelled*') if path.is_dir()):
        _require_classes_of(folder, classes)
        for frame, file, is_reviewed in _masks_of(folder):
            if frame not in frames:
                raise DatasetError(f'{folder} has labels of {frame!r}, which {place.name} did not '
                                   'ask for', f'frames of {place / "to_label"}')
            if not is_reviewed:
                unreviewed.add(frame)
                continue
            mask = read_mask(file)
            _require_ids(mask, frame, classes)
            if frame in found:
                _require_agreement(found[frame], mask, frame, classes)
            found[frame] = mask
    ordered = {frame: found[frame] for frame in frames if frame in found}
    return ordered, len(unreviewed - set(found))


def _masks_of(folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield the frame of each mask, its file, and whether a person looked at it."""
    reviews = read_review(folder)
    if reviews is None:  # made elsewhere, by hand
        refuse_export(folder)
    for file in sorted((folder / 'masks').glob('*.png')):
        review = None if reviews is None else reviews.get(file.stem)
        frame = file.stem if review is None else review.frame or file.stem
        is_reviewed = reviews is None or (review is not None and review.reviewed)
        # What was copied out of an export says that a model made it.
        yield frame, file, is_reviewed and not is_prediction(file)


def _require_classes_of(folder: Path, classes: ClassTable) -> None:
    own = read_classes(folder / 'classes.json')
    if (own.names, own.ignore_index) != (classes.names, classes.ignore_index):
        raise DatasetError(
            f'{folder} has the classes {", ".join(own.names)} (ignored: {own.ignore_index}), and '
            f'the study {", ".join(classes.names)} (ignored: {classes.ignore_index})',
            'the classes of --test')


def _require_ids(mask: NDArray[np.uint8], frame: str, classes: ClassTable) -> None:
    strange = mask[(mask >= len(classes.names)) & (mask != classes.ignore_index)]
    if strange.size:
        raise DatasetError(f'the mask of {frame!r} has the class id {int(strange[0])}',
                           f'ids below {len(classes.names)}, or {classes.ignore_index}')


def _require_agreement(
    one: NDArray[np.uint8], other: NDArray[np.uint8], frame: str, classes: ClassTable
) -> None:
    """Raise DatasetError if two labellers gave a frame different masks."""
    if one.shape == other.shape and (one == other).all():
        return
    said = 'sizes differ'
    if one.shape == other.shape:
        table = ConfusionMatrix(len(classes.names))
        known = other != classes.ignore_index
        table.add(np.where(known, one, classes.ignore_index), other, classes.ignore_index)
        said = f'their mean IoU is {table.mean_iou():.3f}'
    raise DatasetError(f'two labellers disagree about {frame!r} ({said})', 'one mask a frame',
                       'agree on one, or take the folder of one of them away')
