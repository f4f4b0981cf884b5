# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Add a labelled folder to a dataset: which of its frames are new, and in which split they are.

An image is the same as another if all their pixels are. What a folder says of its frames (dive,
reason, labeller, how they were chosen) stays with them.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
from dataclasses import dataclass
import itertools
from pathlib import Path
import re
import shutil

from uncertainty_seg.data.dataset.book import (
    DatasetBook,
    DatasetFrame,
    is_dataset,
    locked_book,
    split_key,
    SPLITS,
    with_version,
)
from uncertainty_seg.data.dataset.upkeep import file_facts, require_untouched
from uncertainty_seg.data.labels.folder import CLASSES_FILE, MASKS
from uncertainty_seg.data.labels.frames import IMAGES, safe_name
from uncertainty_seg.errors import ConfigError, DatasetError, some_of
from uncertainty_seg.storage.labelled_folder import (
    BLOCKS_FILE,
    ClassTable,
    image_path,
    listed_splits,
    read_blocks,
    read_classes,
)
from uncertainty_seg.storage.review_record import (
    CONTROL,
    FrameReview,
    read_review,
    require_reviewed,
)

# As --split: those of the folder's own splits.json.
GIVEN = 'given'
NEW, OLD = 'new', 'old'
NO_RECORD = 'no record'
# What a plain file name has none of.
_NO_NAME = re.compile(r'[/\\:\x00-\x1f]')
Watch = Callable[[Sequence[str]], Iterable[str]]


@dataclass(frozen=True)
class AddRules:
    """
    How to add a folder.

    Attributes
    ----------
    dive : str
        Of the frames that have none.
    split : str
        One of `SPLITS`, `GIVEN`, or empty: by the name of the dive.
    prefer : str
        Whose mask of an image is taken where two differ: `NEW`, `OLD`, or empty: refuse.
    labeller : str
        Of the frames that do not say it.
    words : str
        Why, for the list of versions.

    """

    dive: str = ''
    split: str = ''
    prefer: str = ''
    labeller: str = ''
    words: str = ''


@dataclass(frozen=True)
class Growth:
    """
    What an addition came to.

    Attributes
    ----------
    book : DatasetBook
        The dataset after it.
    added : tuple of DatasetFrame
        Frames that are new, with those that took the place of others.
    replaced, same, kept, drawn : int
        Frames with another mask of which the new one was taken; of equal image and mask; with
        another mask of which the old one was kept; frames that are known to be drawn by chance
        only now.
    remarks : tuple of str
        What the user should know.

    """

    book: DatasetBook
    added: tuple[DatasetFrame, ...]
    replaced: int
    same: int
    kept: int
    drawn: int
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _ReadFrame:
    """A frame of the folder, without its pixels; `line` is as it would be written."""

    image: Path
    mask: Path
    given: str
    line: DatasetFrame


def add_folder(book: DatasetBook, folder: Path, rules: AddRules, watch: Watch = iter) -> Growth:
    """
    Add a labelled folder, an import or another dataset, and write the next version.

    If nothing is new no version is written. Raises DatasetError, and changes nothing, if the
    dataset or the folder was edited by hand, the folder is empty, has other classes, frames that
    nobody reviewed or files that are missing, masks differ, or an image or dive would be in two
    splits; ConfigError for rules that do not fit the folder.

    Parameters
    ----------
    book : DatasetBook
        The dataset, locked.
    folder : Path
        What to add; it is only read.
    rules : AddRules
        How.
    watch : callable
        Goes through the stems, to show progress.

    """
    require_untouched(book)
    if folder.resolve() == book.folder.resolve():
        raise DatasetError(f'{folder} is the dataset itself', 'another folder')
    if not folder.is_dir():
        raise DatasetError(f'no folder {folder}', 'a folder with images, masks and classes.json')
    if is_dataset(folder):
        with locked_book(folder) as other:
            require_untouched(other)
    found, classes = _read(book, folder, rules, watch)
    if rules.split == GIVEN:
        _require_one_split(found, folder)
    addition = _Addition(book, folder, rules)
    for one in found:
        addition.judge(one)
    addition.refuse()
    return addition.write(dataclasses.replace(book, classes=book.classes or classes))


def _read(
    book: DatasetBook, folder: Path, rules: AddRules, watch: Watch
) -> tuple[list[_ReadFrame], ClassTable]:
    """Read all frames; see `add_folder` for what is refused."""
    splits = listed_splits(folder) if (folder / IMAGES).is_dir() else {}
    stems = sorted({stem for listed in splits.values() for stem in listed})
    if rules.split == GIVEN:
        _require_whole(splits, stems, folder)
    split_by_stem = {stem: split for split, listed in sorted(splits.items())
                     if split in SPLITS for stem in listed}
    if not stems:
        raise DatasetError(f'{folder} holds no labelled image', 'at least one in images/')
    classes = read_classes(folder / CLASSES_FILE)
    if book.classes is not None:
        _require_same_classes(classes, book.classes, folder, book.folder)
    require_reviewed(folder, stems)
    reviews = _reviews(folder, stems, rules)
    return [_read_frame(folder, stem, reviews[stem], split_by_stem.get(stem, ''), classes,
                        book.number + 1) for stem in watch(stems)], classes


def _require_whole(
    splits: Mapping[str, Sequence[str]], stems: Sequence[str], folder: Path
) -> None:
    """Refuse splits that have a frame twice, or leave one out."""
    counts = Counter(stem for split in SPLITS for stem in splits.get(split, ()))
    if len(counts) < len(stems) or counts.total() > len(counts):
        twice = [stem for stem, count in counts.items() if count > 1]
        wrong = twice or sorted(set(stems) - set(counts))
        raise DatasetError(
            f'{len(wrong)} frames of {folder} are in {"two" if twice else "none"} of '
            f'{", ".join(SPLITS)} (the first is {wrong[0]!r})', 'each in one',
            'leave --split given out')


def _reviews(folder: Path, stems: Sequence[str], rules: AddRules) -> dict[str, FrameReview]:
    written = read_review(folder)
    if written is None:
        # As for the verbs that measure: what says nothing counts as reviewed and drawn by chance.
        reviews = {stem: FrameReview(True, NO_RECORD, CONTROL) for stem in stems}
    else:
        reviews = {stem: written[stem] for stem in stems}
    if not is_dataset(folder) and (folder / BLOCKS_FILE).is_file():
        blocks = read_blocks(folder / BLOCKS_FILE, stems).tolist()
        # A frame that is a block of its own has no dive.
        dives = {stem: '' if block in (stem, f'frame {stem}') else block
                 for stem, block in zip(stems, blocks, strict=True)}
        reviews = {stem: dataclasses.replace(one, dive=one.dive or dives[stem])
                   for stem, one in reviews.items()}
    if rules.dive and all(review.dive for review in reviews.values()):
        raise ConfigError(f'--dive {rules.dive}, but every frame of {folder} has its dive',
                          'no --dive')
    return {stem: dataclasses.replace(one, dive=one.dive or rules.dive,
                                      labeller=one.labeller or rules.labeller)
            for stem, one in reviews.items()}


def _require_same_classes(new: ClassTable, old: ClassTable, folder: Path, dataset: Path) -> None:
    if new.names == old.names and new.ignore_index == old.ignore_index:
        return
    if new.names == old.names:
        came = f'{folder} has the id {new.ignore_index} where nothing is known, {dataset} ' \
            f'{old.ignore_index}'
    else:
        longer = max(len(new.names), len(old.names))
        pairs = [(i, *(f'{names[i]!r}' if i < len(names) else 'missing'
                       for names in (new.names, old.names))) for i in range(longer)]
        changed = [f'{i} is {mine} and not {theirs}' for i, mine, theirs in pairs
                   if mine != theirs]
        came = f'{folder} has other classes than {dataset}: {some_of(changed)}'
    raise DatasetError(came, f'{", ".join(old.names)}, with {old.ignore_index} for unknown',
                       'bring the masks to the ids of the dataset, or begin a new dataset')


def _read_frame(
    folder: Path, stem: str, review: FrameReview, given: str, classes: ClassTable, number: int
) -> _ReadFrame:
    image, mask = image_path(folder, stem), folder / MASKS / f'{stem}.png'
    if image is None or not mask.is_file():
        what = 'image' if image is None else 'mask'
        raise DatasetError(f'the {what} of {stem!r} in {folder} is missing', 'both',
                           'add it, or take the frame out of splits.json')
    name = _NO_NAME.sub('_', stem)
    line = DatasetFrame(
        name, f'{name}{image.suffix}', SPLITS[0], safe_name(folder.resolve().name), number,
        number, None, **file_facts(image, mask, classes), review=review)
    return _ReadFrame(image, mask, given, line)


def _require_one_split(found: Sequence[_ReadFrame], folder: Path) -> None:
    split_of: dict[str, str] = {}
    for one in found:
        keys = [(f'image {one.line.stem!r}', one.line.pixels_sha256)]
        if one.line.review.dive:
            keys.append((f'dive {one.line.review.dive!r}', f'dive {one.line.review.dive}'))
        for what, key in keys:
            if split_of.setdefault(key, one.given) != one.given:
                raise DatasetError(
                    f'the {what} of {folder} is in {split_of[key]} and in {one.given}',
                    'each in one split', 'leave --split given out: splits then follow from the '
                    'dives')


class _Addition:
    """What is decided of the frames of a folder, one by one."""

    def __init__(self, book: DatasetBook, folder: Path, rules: AddRules) -> None:
        self._book, self._folder, self._rules = book, folder, rules
        self._number = book.number + 1
        self._lines = {one.stem: one for one in book.frames}
        self._by_pixels = {one.pixels_sha256: one for one in book.present}
        self._split_by_dive = {one.review.dive: one.split for one in book.frames
                               if one.review.dive}
        self._files: list[tuple[_ReadFrame, DatasetFrame]] = []
        self._disputes: list[tuple[DatasetFrame, DatasetFrame]] = []
        self._elsewhere: list[tuple[DatasetFrame, DatasetFrame]] = []
        self._renamed: set[tuple[str, str]] = set()
        self._replaced = self._same = self._kept = self._drawn = 0

    def judge(self, one: _ReadFrame) -> None:
        """Decide what becomes of a frame."""
        old = self._by_pixels.get(one.line.pixels_sha256)
        if old is None:
            self._take(one, self._split(one))
            return
        if one.line.review.dive and one.line.review.dive != old.review.dive:
            self._renamed.add((one.line.review.dive, old.review.dive))
        if self._rules.split and self._split(one) != old.split:
            self._elsewhere.append((old, one.line))
        elif old.ids_sha256 == one.line.ids_sha256:
            self._same += 1
            self._note_draw(old, one.line)
        elif not self._rules.prefer or old.added == self._number:
            self._disputes.append((old, one.line))
        elif self._rules.prefer == OLD:
            self._kept += 1
            self._note_draw(old, one.line)
        else:
            self._replace(old, one)

    def _split(self, one: _ReadFrame) -> str:
        dive = one.line.review.dive
        wanted = one.given if self._rules.split == GIVEN else self._rules.split
        known = self._split_by_dive.get(dive) if dive else None
        if known is not None and wanted not in ('', known):
            raise DatasetError(
                f'dive {dive!r} is in {known}, and {one.line.stem!r} of it is to be in {wanted}',
                'a dive in one split', 'leave --split out: it then stays where it is')
        return known or wanted or self._book.shares.split_of(
            split_key(dive, one.line.pixels_sha256))

    def _take(self, one: _ReadFrame, split: str, suffix: str = '') -> None:
        stem = self._free_stem(one.line.stem, suffix or one.line.pixels_sha256[:8])
        line = dataclasses.replace(one.line, stem=stem, split=split,
                                   image=f'{stem}{Path(one.line.image).suffix}')
        self._lines[stem] = self._by_pixels[line.pixels_sha256] = line
        if line.review.dive:
            self._split_by_dive[line.review.dive] = split
        self._files.append((one, line))

    def _free_stem(self, stem: str, suffix: str) -> str:
        """Return a name that no frame has or had, and no file that somebody put there."""
        names = itertools.chain([stem, f'{stem}_{suffix}'],
                                (f'{stem}_{suffix}_{i}' for i in itertools.count(2)))
        folder = self._book.folder
        return next(name for name in names if name not in self._lines
                    and image_path(folder, name) is None
                    and not (folder / MASKS / f'{name}.png').exists())

    def _replace(self, old: DatasetFrame, one: _ReadFrame) -> None:
        """Take the new mask of an image, in the place of the old one in its dive."""
        self._replaced += 1
        origin = CONTROL if CONTROL in (old.review.origin, one.line.review.origin) else \
            one.line.review.origin
        review = dataclasses.replace(one.line.review, origin=origin, dive=old.review.dive)
        line = dataclasses.replace(one.line, stem=old.stem, review=review)
        self._lines[old.stem] = dataclasses.replace(old, removed=self._number)
        self._take(dataclasses.replace(one, line=line), old.split, f'v{self._number}')

    def _note_draw(self, old: DatasetFrame, new: DatasetFrame) -> None:
        """Keep that a frame that was selected has been drawn by chance as well."""
        if new.review.origin == CONTROL != old.review.origin:
            review = dataclasses.replace(old.review, origin=CONTROL)
            line = dataclasses.replace(old, review=review)
            self._lines[old.stem] = self._by_pixels[old.pixels_sha256] = line
            self._drawn += 1

    def refuse(self) -> None:
        """Raise DatasetError if frames are in dispute, or in another split than wanted."""
        if self._elsewhere:
            old, new = self._elsewhere[0]
            raise DatasetError(
                f'{len(self._elsewhere)} images of {self._folder} are in {self._book.folder} '
                f'already, in another split (the first is {new.stem!r}, in {old.split})',
                'no image in two splits', 'leave --split out, or these frames')
        if self._disputes:
            old, new = self._disputes[0]
            who = ' and '.join(one.review.labeller or one.source for one in (old, new))
            raise DatasetError(
                f'{len(self._disputes)} images of {self._folder} have another mask already (the '
                f'first is {new.stem!r}, of {who})', 'one mask an image',
                'let the labellers agree' if old.added == self._number else
                'let the labellers agree, or say with --prefer new or old which to take')

    def write(self, book: DatasetBook) -> Growth:
        """Write the version, if anything has changed."""
        if self._files or self._drawn:
            words = self._rules.words or f'add {safe_name(self._folder.resolve().name)}'
            book = with_version(book, list(self._lines.values()), words,
                                safe_name(self._folder.resolve().name), self._fill)
        return Growth(book, tuple(line for _, line in self._files), self._replaced, self._same,
                      self._kept, self._drawn, tuple(self._remarks(book)))

    def _fill(self, draft: Path) -> None:
        for one, line in self._files:
            shutil.copyfile(one.image, draft / IMAGES / line.image)
            shutil.copyfile(one.mask, draft / MASKS / f'{line.stem}.png')

    def _remarks(self, book: DatasetBook) -> Iterable[str]:
        for new, old in sorted(self._renamed)[:3]:
            yield f'frames of dive {new!r} are in the dataset as those of ' \
                f'{f"dive {old!r}" if old else "no dive"}: it may be one dive under two names'
        if is_dataset(self._folder):
            moved = sorted({one.block for f, one in self._files if f.given != one.split})
            if moved:
                yield f'{len(moved)} dives are in another split here than in {self._folder} ' \
                    f'(the first is {moved[0]!r}): a network trained there may have seen what ' \
                    'is held out here'
