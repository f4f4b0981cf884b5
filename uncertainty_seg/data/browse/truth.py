# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The true masks of frames of a table, from a labelled folder, and where the model contradicts them.

A frame of the table is known again in the folder by its key in review.json, as `import-labels`
writes it, or as a picture of a folder by its name; the picture must be the one that was scored.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
import csv
from dataclasses import dataclass, field
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from uncertainty_seg.calibration.labelled_pairs import without_ignored
from uncertainty_seg.calibration.report.pictures import Legend, paint_mask
from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.image_codec import decode
from uncertainty_seg.core.render import overlay
from uncertainty_seg.data.browse.label_errors import LabelCheck, SuspectRegion
from uncertainty_seg.data.labels.frames import read_mask
from uncertainty_seg.data.selection.sheet import small_picture, TableModel
from uncertainty_seg.errors import DatasetError, some_of, UncertaintySegError
from uncertainty_seg.storage.foreign_files import csv_text, load_ignore_mask, read_image_file, why
from uncertainty_seg.storage.frame_sources import pictures, Whereabouts
from uncertainty_seg.storage.labelled_folder import (
    ClassTable,
    image_path,
    listed_splits,
    read_classes,
)
from uncertainty_seg.storage.perceptual_hash import hash_distance, perceptual_hash
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.review_record import FrameReview, is_prediction, read_review
from uncertainty_seg.storage.score_rows import files_of, frame_key, TableInfo, unique_dives

# As for pictures of a sheet: another release of a JPEG decoder rounds in another way.
_DECODERS_DIFFER = 2
_COLOUR = 0.55


@dataclass
class Truth:
    """
    What is known of the labels of a table's frames.

    Attributes
    ----------
    stems : dict of str to str
        Frame key -> name of the frame in the labelled folder.
    reviewed : dict of str to bool
        Frame key -> whether a person looked at the label; True where no record says otherwise.
    agreement : dict of str to float
        Frame key -> share of the known pixels that the model predicts as they are labelled.
    suspects : list of SuspectRegion
        Regions of labels that are contradicted, the strongest evidence first; `frame` is the key.
    problems : list of str
        Sentences for frames that could not be compared.

    """

    stems: dict[str, str] = field(default_factory=dict)
    reviewed: dict[str, bool] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    suspects: list[SuspectRegion] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class LabelledFrames:
    """
    The labelled folder of a table's frames.

    Raises DatasetError if it is no labelled folder, or of other classes than the table.

    Parameters
    ----------
    folder : Path
        With images/, masks/ and classes.json.
    info : TableInfo
        Of the table.

    """

    def __init__(self, folder: Path, info: TableInfo) -> None:
        self._folder, self._info = folder, info
        self.classes: ClassTable = read_classes(folder / 'classes.json')
        if self.classes.names != info.class_names:
            raise DatasetError(f'{folder} has the classes {", ".join(self.classes.names)}',
                               f'those of the table, {", ".join(info.class_names)}')
        self._legend = Legend(info.class_names, info.palette, self.classes.ignore_index)

    def known(self, table: Any, where: Whereabouts) -> Truth:
        """Find the frames of a table, a `pyarrow.Table`, that have a label."""
        found = Truth()
        reviews = read_review(self._folder)
        for key, stem in self._told_apart(table, self._claims(table, where, reviews or {}), found):
            found.stems[key] = stem
            found.reviewed[key] = not is_prediction(self._mask(stem)) and (
                reviews is None or (stem in reviews and reviews[stem].reviewed))
        return found

    def _claims(
        self, table: Any, where: Whereabouts, reviews: Mapping[str, FrameReview]
    ) -> dict[str, list[str]]:
        """Return the frames of the folder, each with the keys of the rows that may be it."""
        stems = {stem for names in listed_splits(self._folder).values() for stem in names}
        recorded = _recorded(table, reviews)
        names: dict[str, list[Path]] = {}
        claims: dict[str, list[str]] = {}
        columns = [table.column(name).to_pylist()
                   for name in ('frame_key', 'source', 'kind', 'index')]
        for key, source, kind, index, file in zip(*columns, files_of(table), strict=True):
            wanted = recorded.get(key, [])
            if not wanted and kind == 'folder' and file:
                wanted = [Path(file).stem]
            elif not wanted and kind == 'folder':  # a table of an older release
                if source not in names:
                    place = Path(where.find(source))
                    names[source] = pictures(place) if place.is_dir() else []
                wanted = [names[source][index].stem] if index < len(names[source]) else []
            for stem in wanted:
                if stem in stems and self._mask(stem).is_file():
                    claims.setdefault(stem, []).append(key)
        return claims

    def _told_apart(
        self, table: Any, claims: Mapping[str, Sequence[str]], found: Truth
    ) -> list[tuple[str, str]]:
        """
        Return key and frame of each claim, by the pictures where sources have one name.

        Frames whose picture is that of no row or of several are left out, with a sentence in
        `found`.
        """
        times = Counter(key for keys in claims.values() for key in keys)
        hashes = dict(zip(table.column('frame_key').to_pylist(),
                          table.column('phash').to_pylist(), strict=True))
        taken: dict[str, str] = {}
        unclear: list[str] = []
        others: list[str] = []
        for stem, keys in claims.items():
            alike: list[str] | None = list(keys)
            if len(keys) > 1 or times[keys[0]] > 1:
                alike = self._alike(stem, {key: hashes[key] for key in keys}, found)
            if alike is None:
                continue
            if not alike:
                others.append(stem)
            elif len(alike) > 1 or alike[0] in taken:
                unclear.append(stem)
            else:
                taken[alike[0]] = stem
        found.problems += _other_pictures(others)
        if unclear:
            found.problems.append(
                f'The labels of {len(unclear)} frames ({some_of(unclear)}) are of pictures that '
                'several sources of one name have, and are left out.')
        return list(taken.items())

    def _alike(
        self, stem: str, hashes: Mapping[str, int], found: Truth
    ) -> list[str] | None:
        """Return the keys of the rows whose picture a frame is; None if it cannot be read."""
        try:
            image, _ = self.pair(stem)
        except DatasetError as err:
            found.problems.append(' '.join(str(err).split()))
            return None
        own = perceptual_hash(image)
        return [key for key, phash in hashes.items()
                if hash_distance(phash, own) <= _DECODERS_DIFFER]

    def compare(self, table: Any, truth: Truth, model: TableModel) -> None:
        """
        Leave out of `truth` what is no label of its frame, and put in what the model contradicts.

        Without a model the pictures are compared alone. What the ignore mask of the table touches
        is not known, as in `calibrate`.
        """
        unknown = self.classes.ignore_index
        check = LabelCheck(len(self._info.class_names), unknown)
        ignore = None if model.why_not else load_ignore_mask(
            str(self._info.settings.get('ignore_mask', '')))
        rows = zip(table.column('frame_key').to_pylist(), table.column('stamp_ns').to_pylist(),
                   table.column('phash').to_pylist(), strict=True)
        wanted = [row for row in rows if row[0] in truth.stems]
        others: list[str] = []
        for key, stamp_ns, phash in progress(wanted, desc='labels'):
            try:
                image, given = self.pair(truth.stems[key])
                if hash_distance(phash, perceptual_hash(image)) > _DECODERS_DIFFER:
                    others.append(truth.stems.pop(key))
                    continue
                result = model.measure(image, stamp_ns)
                if result is None:
                    continue
                given = without_ignored(given, ignore, unknown)
                predicted, margin = result.label_at_source(), result.map_at_source('margin')
                check.add(key, given, predicted, np.float32(1) - margin)
            except UncertaintySegError as err:
                truth.problems.append(' '.join(str(err).split()))
                del truth.stems[key]
                continue
            is_known = given != unknown
            if is_known.any():
                truth.agreement[key] = float((given == predicted)[is_known].mean())
        truth.problems += _other_pictures(others)
        truth.suspects = check.suspects()

    def pair(self, stem: str) -> tuple[ImageU8, LabelMap]:
        """Read image and mask of a frame; DatasetError if that fails or their sizes differ."""
        path = image_path(self._folder, stem)
        if path is None:
            raise DatasetError(f'the image of {stem!r} in {self._folder} is missing')
        try:
            image = decode(read_image_file(path))
        except (OSError, ValueError) as err:
            raise DatasetError(f'{path} cannot be read ({why(err)})', 'JPEG or PNG') from err
        mask = read_mask(self._mask(stem))
        if image.shape[:2] != mask.shape:
            raise DatasetError(f'image {stem!r} is {image.shape[:2]}, its mask {mask.shape}',
                               'equal sizes')
        count = len(self.classes.names)
        strange = mask[(mask >= count) & (mask != self.classes.ignore_index)]
        if strange.size:
            raise DatasetError(f'the mask of {stem!r} has the class id {int(strange[0])}',
                               f'0 to {count - 1}, or {self.classes.ignore_index}')
        return image, mask

    def _mask(self, stem: str) -> Path:
        return self._folder / 'masks' / f'{stem}.png'

    def picture(self, stem: str) -> str:
        """Return the labels over the image, grey where nobody knows, as a ``data:`` address."""
        image, mask = self.pair(stem)
        painted = overlay(image, mask, self._info.palette, _COLOUR)
        unknown = mask == self.classes.ignore_index
        painted[unknown] = paint_mask(mask, self._legend)[unknown]
        return small_picture(painted)


def _other_pictures(stems: list[str]) -> list[str]:
    """Return the sentence for labelled frames that are none of the pictures of the table."""
    return [f'{len(stems)} labelled frames have another picture than the one that was scored '
            f'({some_of(stems)}): score it again.'] if stems else []


def _recorded(table: Any, reviews: Mapping[str, FrameReview]) -> dict[str, list[str]]:
    """
    Return the stems that review.json may have for the frames of a table, by their keys.

    An export names a frame without the folders of its source: by the name of the run where two
    sources have one name, and else by that name alone. Where it does not say which of two sources
    of the table it is, both have the stem. Records of older releases have the position of a
    picture in the place of its name.
    """
    by_name: dict[tuple[str, str], list[str]] = {}
    for stem, one in reviews.items():
        for dive in {one.dive, ''}:
            by_name.setdefault((dive, one.frame), []).append(stem)
    keys, *columns = (table.column(name).to_pylist()
                      for name in ('frame_key', 'source', 'topic', 'index'))
    files = files_of(table)
    names = [frame_key(Path(source).name, topic, index, file)
             for source, topic, index, file in zip(*columns, files, strict=True)]
    sure: dict[str, list[str]] = {}
    older = [frame_key(Path(source).name, topic, index)
             for source, topic, index in zip(*columns, strict=True)]
    for key, name, old, dive in zip(keys, names, older, unique_dives(table), strict=True):
        asked = (by_name.get(one, []) for one in (('', key), (dive, name), (dive, old)))
        if stems := next((stems for stems in asked if len(stems) == 1), []):
            sure[key] = stems
    known = {stems[0] for stems in sure.values()}
    return {key: sure.get(key) or [stem for one in dict.fromkeys((name, old))
                                   for stem in by_name.get(('', one), ()) if stem not in known]
            for key, name, old in zip(keys, names, older, strict=True)}


# -------------------------------------------------------------------------------------------------
# The list of suspected regions, for the page and for scripts.

COLUMNS = ('frame', 'dive', 'label', 'given', 'predicted', 'margin', 'evidence', 'share', 'left',
           'top', 'width', 'height', 'reviewed')


def suspect_rows(truth: Truth, dives: dict[str, str], names: tuple[str, ...]) -> list[Any]:
    """Return the values of `COLUMNS` for each suspected region, the strongest evidence first."""
    return [(one.frame, dives[one.frame], truth.stems[one.frame], names[one.given],
             names[one.predicted], round(one.margin, 4), round(one.evidence, 4),
             round(one.share, 6), *one.box, truth.reviewed[one.frame]) for one in truth.suspects]


def suspects_text(rows: list[Any], ending: str) -> str:
    """Write the list as CSV, or as JSON where the file ends so."""
    if ending == '.json':
        return json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows], indent=1) + '\n'
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(COLUMNS)
    writer.writerows([csv_text(value) if isinstance(value, str) else value for value in row]
                     for row in rows)
    return text.getvalue()


def scaled_box(region: SuspectRegion, size: tuple[int, int]) -> list[float]:
    """Return the box of a region in per cent of an image (height, width)."""
    height, width = size
    left, top, wide, high = region.box
    return [round(100 * value, 2) for value in (
        left / width, top / height, wide / width, high / height)]
