# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Two public datasets of underwater pipelines, as their authors lay them out, as a training folder.

The layouts are those of the README of remaro-network/SubPipe-dataset (section 1.2) and of
remaro-network/MarinaPipe-dataset ("Dataset Structure"), read in November 2026; the data themselves
were not seen. Neither says what the values of a mask mean: 0 is taken for background and one other
value for the pipe, and a mask with more is refused. Of MarinaPipe neither the ending of a label
nor which of the two sizes of an image it has is written down: `NAME_label` and `NAME` are both
looked for, and the image is the one that has the size of the label.

References
----------
Alvarez-Tunon et al., 2024, arXiv:2401.17907 (SubPipe); Marnet et al., 2024, OCEANS (MarinaPipe).

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import LabelMap
from uncertainty_seg.core.image_codec import decode_unchanged
from uncertainty_seg.data.labels.folder import MASKS, write_classes
from uncertainty_seg.data.labels.frames import decoded, IMAGES, safe_name, write_mask
from uncertainty_seg.data.labels.training import split_by_dive, TrainingFolder, write_json
from uncertainty_seg.errors import DatasetError, ImageError, some_of
from uncertainty_seg.storage.foreign_files import read_bytes, read_image_file, why
from uncertainty_seg.storage.labelled_folder import BLOCKS_FILE, class_table, ENDINGS
from uncertainty_seg.storage.review_record import CONTROL, FrameReview, write_review

PUBLIC = ('subpipe', 'marinapipe')
ANNOTATIONS = ('fine', 'coarse')
CLASSES = ('background', 'pipe')
_LABEL = '_label'
_JPEG = ('.jpg', '.jpeg')
_NAMED = 3
_FORMS = {
    'subpipe': 'SubPipe/DATA/Chunk2/Segmentation with <timestamp>.png and <timestamp>_label.png',
    'marinapipe': 'video_1 to video_7 with resized_selected_images, fine_annotation and '
                  'coarse_annotation',
}


@dataclass(frozen=True)
class PublicFrame:
    """A label, the images that it may be of, and the run that both are from."""

    name: str
    dive: str
    label: Path
    images: tuple[Path, ...]

    @property
    def stem(self) -> str:
        """Name of the files that are written."""
        return safe_name(f'{self.dive}_{self.name}')


def find_public(
    kind: str, roots: Sequence[Path], annotation: str = ANNOTATIONS[0]
) -> tuple[list[PublicFrame], list[str]]:
    """
    Find the labelled frames of a dataset.

    Parameters
    ----------
    kind : str
        One of `PUBLIC`.
    roots : sequence of Path
        Whole datasets, or parts of them down to the folder of a chunk or video.
    annotation : str
        Of marinapipe: which labels.

    Returns
    -------
    list of PublicFrame, list of str
        By dive and name, and what was left out and why.

    Raises
    ------
    DatasetError
        If there are none, or a label has no image.

    """
    find = {'subpipe': _subpipe, 'marinapipe': _marinapipe}[kind]
    frames, remarks = [], []
    for root in roots:
        found, left_out = find(root, annotation)
        frames += found
        remarks += left_out
    if not frames:
        raise DatasetError(f'no labelled frames of {kind} in {", ".join(map(str, roots))}',
                           _FORMS[kind])
    lonely = [frame.label.name for frame in frames if not frame.images]
    if lonely:
        raise DatasetError(f'{len(lonely)} labels of {kind} have no image '
                           f'({some_of(lonely, _NAMED)})', _FORMS[kind])
    stems = Counter(frame.stem for frame in frames)
    twice = [stem for stem, count in stems.items() if count > 1]
    if twice:
        raise DatasetError(f'{len(twice)} frames are there twice ({some_of(twice, _NAMED)})',
                           'each once')
    return sorted(frames, key=lambda frame: (frame.dive, frame.name)), remarks


def _subpipe(root: Path, annotation: str) -> tuple[list[PublicFrame], list[str]]:
    folders = [root] if root.name == 'Segmentation' else sorted(
        folder for levels in ('', '*/', '*/*/', '*/*/*/')
        for folder in root.glob(f'{levels}Segmentation') if folder.is_dir())
    frames = []
    for folder in folders:
        files = _by_name(folder)
        frames += [PublicFrame(name[:-len(_LABEL)], folder.resolve().parent.name, path,
                               tuple(files.get(name[:-len(_LABEL)], ())))
                   for name, (path, *_) in files.items() if name.endswith(_LABEL)]
    return frames, []


def _marinapipe(root: Path, annotation: str) -> tuple[list[PublicFrame], list[str]]:
    videos = [root] if root.name.startswith('video_') else sorted(
        folder for levels in ('', '*/') for folder in root.glob(f'{levels}video_*')
        if folder.is_dir())
    frames, remarks = [], []
    for video in videos:
        labels = video / f'{annotation}_annotation'
        if not labels.is_dir():
            remarks.append(f'{video.name} has no {labels.name} and was left out')
            continue
        images = [_by_name(video / name)
                  for name in ('resized_selected_images', 'original_selected_images')]
        for name, (path, *_) in _by_name(labels).items():
            stem = name.removesuffix(_LABEL)
            frames.append(PublicFrame(stem, video.name, path, tuple(
                file for part in images for file in part.get(stem, ()))))
    return frames, remarks


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of a folder by their names without ending."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix in ENDINGS:
            files.setdefault(path.stem, []).append(path)
    return files


def write_public(
    folder: Path, frames: Iterable[PublicFrame], kind: str, shares: Mapping[str, float],
    seed: int, parts: int = 1,
) -> TrainingFolder:
    """
    Write frames as a training folder.

    Parameters
    ----------
    folder : Path
        An empty folder.
    frames : iterable of PublicFrame
        From `find_public`.
    kind : str
        For the record of who labelled them.
    shares, seed : mapping of str to float, int
        As of `split_by_dive`.
    parts : int
        Cut each dive into so many parts in the order of the names, which are times; each counts as
        a dive.

    Raises
    ------
    DatasetError
        If an image or label cannot be read, no image has the size of its label, or the label has
        more than two values.

    """
    split_by_dive({}, shares, seed)  # refuses wrong shares before the work
    (folder / IMAGES).mkdir()
    written = []
    for frame in frames:
        mask = read_public_mask(frame.label)
        image, data = _image_of(frame, mask)
        (folder / IMAGES / f'{frame.stem}{image.suffix.lower()}').write_bytes(data)
        write_mask(folder / MASKS, frame.stem, mask)
        written.append(frame)
    dive_of = _dives(written, parts)
    splits = split_by_dive(dive_of, shares, seed)
    write_classes(folder, class_table(CLASSES))
    write_json(folder / 'splits.json', splits)
    write_json(folder / BLOCKS_FILE, dive_of)
    evidence = f'published with {kind}'
    write_review(folder, {
        frame.stem: FrameReview(True, evidence, CONTROL, dive_of[frame.stem], frame.name)
        for frame in written})
    return TrainingFolder(
        len(written), 0, len(set(dive_of.values())),
        {name: len(stems) for name, stems in splits.items()}, len(written),
        reviewed={evidence: len(written)})


def _dives(frames: Sequence[PublicFrame], parts: int) -> dict[str, str]:
    """Return the dive of each stem; neighbours in time are in one part but at its ends."""
    of_dive: dict[str, list[str]] = {}
    for frame in frames:
        of_dive.setdefault(frame.dive, []).append(frame.stem)
    if parts == 1:
        return {stem: dive for dive, stems in of_dive.items() for stem in stems}
    return {stem: f'{dive}_{index * parts // len(stems) + 1}'
            for dive, stems in of_dive.items() for index, stem in enumerate(stems)}


def read_public_mask(path: Path) -> LabelMap:
    """
    Read a label of two values as class ids: 0 where it is 0, 1 elsewhere; of a JPEG by half.

    Raises DatasetError if it cannot be read or has other values.
    """
    try:
        pixels = decode_unchanged(read_image_file(path))
    except (OSError, ValueError, ImageError) as err:
        raise DatasetError(f'label {path} cannot be read ({why(err)})',
                           'a whole png file') from err
    if pixels.ndim == 3:
        pixels = _joined(pixels[..., :3], path.suffix.lower() in _JPEG)  # without transparency
    if path.suffix.lower() in _JPEG:
        return np.asarray(pixels > np.iinfo(pixels.dtype).max // 2, np.uint8)
    others = np.setdiff1d(np.unique(pixels), [0])
    if len(others) > 1:
        said = f'{len(others)} colours besides black' if others[-1] > np.iinfo(np.uint16).max \
            else f'the values 0, {some_of(others.tolist(), _NAMED)}'
        raise DatasetError(f'label {path} has {said}',
                           '0 for background and one other for the pipe')
    return np.asarray(pixels != 0, np.uint8)


def _joined(colours: NDArray[Any], is_lossy: bool) -> NDArray[Any]:
    """Return one number for each colour (H, W, 3): equal ones have equal numbers, black has 0."""
    if is_lossy:
        return np.asarray(colours.max(2))
    wide = colours.astype(np.int64)
    return np.asarray(wide[..., 0] << 32 | wide[..., 1] << 16 | wide[..., 2])


def _image_of(frame: PublicFrame, mask: LabelMap) -> tuple[Path, bytes]:
    """Return the first image that has the size of the label, and its bytes."""
    sizes = []
    for path in frame.images:
        try:
            data = read_bytes(path)
        except (OSError, ValueError) as err:
            raise DatasetError(f'{path} cannot be read ({why(err)})', 'an image') from err
        height, width = decoded(data, str(path)).shape[:2]
        if (height, width) == mask.shape:
            return path, data
        sizes.append(f'{width}x{height}')
    raise DatasetError(f'label {frame.label} is {mask.shape[1]}x{mask.shape[0]} and its image '
                       f'{" or ".join(sizes)}', 'equal sizes')
