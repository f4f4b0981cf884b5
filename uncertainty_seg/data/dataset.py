# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A labelled folder that grows: reviewed labels are added by dive, and no dive is in two splits.

``dataset.json`` has the shares of the splits and the facts of each frame; ``splits.json``,
``blocks.json`` (the dives, for calibration) and ``review.json`` are derived from it. All files are
plain, so that git or DVC can version them. Images and masks are written first and splits.json
last, each atomically: a reader of splits.json sees the old dataset or the new one. If a process
dies in between, the next one completes its work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import dataclasses
from dataclasses import dataclass, field
import hashlib
from pathlib import Path
import re
from typing import Any

import numpy as np

from uncertainty_seg.data.label_frames import (
    CLASSES_FILE,
    IMAGES,
    MASKS,
    write_classes,
)
from uncertainty_seg.data.label_review import require_shares, write_json
from uncertainty_seg.data.likeness import bits_apart
from uncertainty_seg.errors import ConfigError, DatasetError, some_of
from uncertainty_seg.storage.foreign_files import (
    MAX_JSON_BYTES,
    parse_json,
    plain_name,
    read_bytes,
    why,
)
from uncertainty_seg.storage.labelled_folder import (
    BLOCKS_FILE,
    ClassTable,
    DATASET_FILE,
    image_path,
    listed_splits,
    read_blocks,
    read_classes,
    read_each,
    read_pair,
    require_ids,
    require_same_classes,
)
from uncertainty_seg.storage.perceptual_hash import perceptual_hash
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.review_record import (
    CONTROL,
    CONTROL_SPLIT,
    FrameReview,
    mask_sha256,
    read_review,
    require_reviewed,
    require_texts,
    write_review,
)
from uncertainty_seg.storage.whole_files import one_at_a_time, replace_file

FORMAT_VERSION = 2
SPLITS_FILE = 'splits.json'
# Thresholds are fitted on frames on which no network was trained or chosen.
SHARES = {'train': 0.7, 'val': 0.15, 'limits': 0.15}
NO_RECORD = 'no record'
# Frames of two splits whose hashes differ in fewer bits are reported as the same view.
_NEAR_BITS = 12
# Characters that a plain file name does not contain.
_NO_NAME = re.compile(r'[/\\:\x00-\x1f]')


@dataclass(frozen=True)
class DatasetFrame:
    """
    A frame: its split, and digests of its decoded image and of its mask's ids, with their sizes.

    `phash` is the perceptual hash of the image, as 16 hex digits; `review` the record of the
    labels.
    """

    split: str
    pixels_sha256: str
    ids_sha256: str
    phash: str
    review: FrameReview


@dataclass
class Dataset:
    """The content of dataset.json: shares of the splits, and frames by stem."""

    folder: Path
    shares: Mapping[str, float]
    frames: dict[str, DatasetFrame] = field(default_factory=dict)

    @property
    def splits(self) -> list[str]:
        """Return the names of the splits with a share, and of those that frames were drawn for."""
        return [*self.shares, *sorted({one.split for one in self.frames.values()}
                                      - set(self.shares))]

    def split_of(self, key: str) -> str:
        """
        Return the split of a dive or frame by its name alone, so that added data never changes it.

        The first 8 bytes of the SHA-256 of the name, as a big-endian number divided by 2^64, fall
        into one of the consecutive shares.
        """
        place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], 'big') / 2**64
        *others, last = self.shares
        for name in others:
            place -= self.shares[name]
            if place < 0:
                return name
        return last


@dataclass(frozen=True)
class Growth:
    """The result of an addition: dataset, stems of new frames, numbers of known and replaced."""

    dataset: Dataset
    added: tuple[str, ...]
    same: int
    replaced: int
    remarks: tuple[str, ...]


def dataset_add(
    folder: Path | str, source: Path | str, *, shares: Mapping[str, float] | None = None,
    dive: str = '', split: str = '', replace: bool = False,
) -> Growth:
    """
    Add a labelled folder to a dataset, completely or not at all; create the dataset if needed.

    Parameters
    ----------
    folder, source : Path or str
        The dataset, and the folder to add, which is not changed.
    shares : mapping of str to float, optional
        For a new dataset: share of the dives by name of the split; default `SHARES`.
    dive, split, replace
        See `add_folder`.

    Returns
    -------
    Growth
        The grown dataset, and the new frames.

    Raises
    ------
    DatasetError, ConfigError
        As of `locked_dataset` and `add_folder`.

    """
    with locked_dataset(Path(folder), shares) as dataset:
        return add_folder(dataset, Path(source), dive=dive, split=split, replace=replace)


@contextmanager
def locked_dataset(folder: Path, shares: Mapping[str, float] | None = None) -> Iterator[Dataset]:
    """
    Read a dataset, or create one, and lock it for other processes until the end of the block.

    The unfinished work of a dead process is completed first. Raises DatasetError if the folder
    holds something else, the dataset has other shares, or another process uses it; ConfigError for
    invalid shares.
    """
    require_shares(shares or SHARES)
    there = [name for name in (IMAGES, MASKS, SPLITS_FILE) if (folder / name).exists()]
    if there and not (folder / DATASET_FILE).is_file():
        raise DatasetError(f'{folder} holds {there[0]} and is no dataset', 'a new folder',
                           'create a dataset in another folder, and add this one to it')
    with one_at_a_time(folder, DatasetError, '.lock'):
        if not (folder / DATASET_FILE).is_file():
            _write(Dataset(folder, shares or SHARES))
        for draft in folder.rglob('.*.tmp'):
            draft.unlink()
        dataset = read_dataset(folder)
        if shares is not None and shares != dataset.shares:
            raise DatasetError(f'{folder} has the shares {dict(dataset.shares)}', 'the same',
                               'shares are fixed, since a dive stays in its split: create another '
                               'dataset for others')
        _write_tables(dataset)
        yield dataset


def read_dataset(folder: Path | str) -> Dataset:
    """
    Read a dataset; raise DatasetError if the folder is not a dataset, or is damaged.

    Parameters
    ----------
    folder : Path or str
        The dataset.

    """
    folder = Path(folder)
    path = folder / DATASET_FILE
    if not path.is_file():
        raise DatasetError(f'{folder} is not a dataset', f'a folder with {DATASET_FILE}',
                           'add labels to a new folder, which creates one')
    try:
        raw = parse_json(read_bytes(path, MAX_JSON_BYTES))
        if raw['version'] != FORMAT_VERSION:
            raise ValueError(f'version {raw["version"]!s:.20}')
        shares = {str(name): float(share) for name, share in raw['shares'].items()}
        require_shares(shares)
        frames = {plain_name(stem): _frame(one, shares) for stem, one in raw['frames'].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as err:
        raise DatasetError(f'{path} is damaged ({why(err)})', 'the file as it was written',
                           'restore it') from err
    return Dataset(folder, shares, frames)


def _frame(raw: dict[str, Any], shares: Mapping[str, float]) -> DatasetFrame:
    frame = DatasetFrame(**{**raw, 'review': FrameReview(**raw['review'])})
    if frame.split not in (*shares, CONTROL_SPLIT):
        raise ValueError(f'split {frame.split!s:.20}')
    require_texts(frame, 'pixels_sha256', 'ids_sha256', 'phash')
    int(frame.phash, 16)
    return frame


def _write(dataset: Dataset) -> None:
    frames = {stem: dataclasses.asdict(one) for stem, one in sorted(dataset.frames.items())}
    write_json(dataset.folder / DATASET_FILE, {
        'version': FORMAT_VERSION, 'shares': dict(dataset.shares), 'frames': frames})
    _write_tables(dataset)


def _write_tables(dataset: Dataset) -> None:
    """Write the derived tables; the splits, which readers go by, come last."""
    frames = dict(sorted(dataset.frames.items()))
    write_review(dataset.folder, {stem: one.review for stem, one in frames.items()})
    write_json(dataset.folder / BLOCKS_FILE, {
        stem: one.review.dive or f'frame {stem}' for stem, one in frames.items()})
    write_json(dataset.folder / SPLITS_FILE, {
        split: [stem for stem, one in frames.items() if one.split == split]
        for split in dataset.splits})


def add_folder(
    dataset: Dataset, folder: Path, *, dive: str = '', split: str = '', replace: bool = False
) -> Growth:
    """
    Add the frames of a labelled folder, such as an import.

    Images with equal pixels are one image, which is in the dataset once. `dive` is the dive of
    frames whose dive is unknown; without it each of them stands alone. New dives go to `split`, or
    by default where their name puts them. With `replace` a new mask replaces another mask of the
    same image.

    Raises DatasetError, and leaves the dataset as it was, if the folder is empty, has other
    classes, unreviewed frames or missing files, if masks of an image differ, or an image or a dive
    would be in two splits; ConfigError if `split` does not exist.
    """
    if split and split not in dataset.shares:
        raise ConfigError(f'the split {split!r}', f'one of {", ".join(dataset.shares)}')
    stems = sorted({stem for listed in listed_splits(folder).values() for stem in listed}
                   if (folder / IMAGES).is_dir() else ())
    if not stems or folder.resolve() == dataset.folder.resolve():
        raise DatasetError(f'{folder} holds no labelled image that is new', 'at least one in '
                           f'{IMAGES}/')
    classes = read_classes(folder / CLASSES_FILE)
    if dataset.frames:
        require_same_classes(classes, read_classes(dataset.folder / CLASSES_FILE), str(folder),
                             str(dataset.folder))
    require_reviewed(folder, stems)
    reviews = _reviews(folder, stems, dive)
    addition = _Addition(dataset, folder, split, is_replacing=replace)
    with progress(desc='dataset add', total=len(stems)) as bar:
        def judge(stem: str) -> None:
            bar.update()
            addition.judge(stem, reviews[stem], classes)

        read_each(stems, judge)
    addition.refuse()
    return addition.write(classes)


def _reviews(folder: Path, stems: Sequence[str], dive: str) -> dict[str, FrameReview]:
    """Return the review record of each frame, with its dive."""
    # As in calibration: a folder without a record counts as reviewed and drawn at random.
    written = read_review(folder) or {
        stem: FrameReview(True, NO_RECORD, CONTROL) for stem in stems}
    has_blocks = (folder / BLOCKS_FILE).is_file()
    blocks = read_blocks(folder / BLOCKS_FILE if has_blocks else None, stems).tolist()
    # A frame that forms its own block has no dive.
    return {stem: dataclasses.replace(
        written[stem], dive=written[stem].dive or dive if block in (stem, f'frame {stem}')
        else written[stem].dive or block) for stem, block in zip(stems, blocks, strict=True)}


class _Addition:
    """The decisions about the frames of a folder, one by one."""

    def __init__(
        self, dataset: Dataset, folder: Path, split: str, *, is_replacing: bool
    ) -> None:
        self._dataset, self._folder, self._split = dataset, folder, split
        self._is_replacing = is_replacing
        self._frames = dict(dataset.frames)
        self._by_pixels = {one.pixels_sha256: stem for stem, one in self._frames.items()}
        self._split_by_dive = {one.review.dive: one.split for one in self._frames.values()
                               if one.review.dive}
        # Stem -> files to copy: an image, unless the dataset has it, and a mask.
        self._files: dict[str, tuple[Path | None, Path]] = {}
        self._new: list[str] = []
        self._disputes: list[str] = []
        self._elsewhere: list[str] = []
        self._same = self._replaced = 0

    def judge(self, stem: str, review: FrameReview, classes: ClassTable) -> None:
        """Decide whether a frame is added, known, replaced or in dispute."""
        picture, ids = read_pair(self._folder, stem)
        image, mask = image_path(self._folder, stem), self._folder / MASKS / f'{stem}.png'
        assert image is not None  # it was read
        require_ids(ids, len(classes.names), classes.ignore_index, f'mask {mask}')
        facts = {'pixels_sha256': mask_sha256(picture), 'ids_sha256': mask_sha256(ids),
                 'phash': f'{perceptual_hash(picture):016x}'}
        there = self._by_pixels.get(facts['pixels_sha256'])
        if there is None:
            split = self._split_for(stem, review, facts['pixels_sha256'])
            self._take(stem, image, mask, DatasetFrame(split, **facts, review=review))
            return
        old = self._frames[there]
        is_drawn = CONTROL in (old.review.origin, review.origin)
        wanted = self._split_for(stem, review, '') if review.dive else self._split or old.split
        if wanted != old.split:
            self._elsewhere.append(f'{stem!r} in {old.split}')
        elif old.ids_sha256 == facts['ids_sha256']:
            self._same += 1
            review = old.review
        elif self._is_replacing and there not in self._new:
            self._replaced += 1
            self._files[there] = (None, mask)
            old = dataclasses.replace(old, ids_sha256=facts['ids_sha256'])
        else:
            self._disputes.append(stem)
        # A frame that was drawn at random once keeps that origin.
        self._frames[there] = dataclasses.replace(old, review=dataclasses.replace(
            review, dive=old.review.dive, origin=CONTROL if is_drawn else review.origin))

    def _split_for(self, stem: str, review: FrameReview, pixels_sha256: str) -> str:
        dive = review.dive
        known = self._split_by_dive.get(dive) if dive else None
        if review.split:
            if known not in (None, review.split):
                raise DatasetError(
                    f'{stem!r} was drawn to measure on, and its dive {dive!r} is in {known}',
                    'control frames of dives that nothing is trained on',
                    'draw them before frames of the dive are added, or from other dives')
            return review.split
        if known is not None and self._split not in ('', known):
            raise DatasetError(
                f'dive {dive!r} is in {known}, and {stem!r} of it is to be in {self._split}',
                'a dive in one split', 'name no split: it then stays where it is')
        key = f'dive {dive}' if dive else f'image {pixels_sha256}'
        return known or self._split or self._dataset.split_of(key)

    def _take(self, stem: str, image: Path, mask: Path, frame: DatasetFrame) -> None:
        name = self._free_stem(_NO_NAME.sub('_', stem), image, frame.pixels_sha256[:8])
        self._frames[name] = frame
        self._by_pixels[frame.pixels_sha256] = name
        if frame.review.dive:
            self._split_by_dive[frame.review.dive] = frame.split
        self._files[name] = (image, mask)
        self._new.append(name)

    def _free_stem(self, stem: str, image: Path, suffix: str) -> str:
        """Return a name that no frame has, and no foreign image in the folder."""
        for name in (stem, f'{stem}_{suffix}'):
            there = image_path(self._dataset.folder, name)
            # A process that died may have left the same file.
            if name not in self._frames and (
                    there is None or there.read_bytes() == image.read_bytes()):
                return name
        raise DatasetError(f'{self._dataset.folder / IMAGES} has another image {stem!r}',
                           'only images of the dataset', 'remove it')

    def refuse(self) -> None:
        """Raise DatasetError if masks differ, or images are in another split than wanted."""
        if self._elsewhere:
            raise DatasetError(
                f'{len(self._elsewhere)} images of {self._folder} are in {self._dataset.folder} '
                f'already, in another split (the first is {self._elsewhere[0]})',
                'no image in two splits', 'name no split, or give the frames their dive')
        if self._disputes:
            raise DatasetError(
                f'{len(self._disputes)} images of {self._folder} have another mask already (the '
                f'first is {self._disputes[0]!r})', 'one mask an image',
                'let the labellers agree, or say that the new masks replace the old ones')

    def write(self, classes: ClassTable) -> Growth:
        """Copy the files and write the tables, in an order that is safe if the process dies."""
        dataset = self._dataset
        for name in (IMAGES, MASKS):
            (dataset.folder / name).mkdir(exist_ok=True)
        if not dataset.frames:
            write_classes(dataset.folder, classes)
        for stem, (image, mask) in self._files.items():
            if image is not None:
                replace_file(dataset.folder / IMAGES / f'{stem}{image.suffix}',
                             image.read_bytes())
            replace_file(dataset.folder / MASKS / f'{stem}.png', mask.read_bytes())
        dataset.frames = self._frames
        _write(dataset)
        return Growth(dataset, tuple(self._new), self._same, self._replaced,
                      tuple(_remarks(dataset, self._new)))


def _remarks(dataset: Dataset, new: Sequence[str]) -> Iterator[str]:
    empty = set(dataset.shares) - {one.split for one in dataset.frames.values()}
    if empty:
        yield f'{some_of(sorted(empty))} is empty: of few dives none may fall to it; add more, ' \
            'or put a new dive there by name'
    stems, pairs = list(dataset.frames), []
    hashes = np.array([int(one.phash, 16) for one in dataset.frames.values()], np.uint64)
    for stem in new:
        own = np.uint64(int(dataset.frames[stem].phash, 16))
        # An image without content has the hash 0.
        near = np.flatnonzero(bits_apart(own, hashes) < _NEAR_BITS) if own else ()
        pairs += [(stem, stems[row]) for row in near if hashes[row]
                  and dataset.frames[stems[row]].split != dataset.frames[stem].split][:1]
    if pairs:
        places = [f'{stem!r} in {dataset.frames[stem].split}' for stem in pairs[0]]
        yield f'{len(pairs)} new frames look like one in another split (the first is ' \
            f'{places[0]}, as {places[1]}): if they are of one dive, give both one name'
