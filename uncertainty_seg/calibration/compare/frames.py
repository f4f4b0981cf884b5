# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Measure one contender on every frame, and keep what was measured on disk.

What is kept of a frame is small: its scores, counts of its pixels by class and by confidence, and
for each map a histogram of wrong and right pixels. Every figure of the table comes from these, so
that a run that was stopped goes on with the next contender.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
import hashlib
import json
from pathlib import Path
from typing import Any
import zipfile

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg import __version__
from uncertainty_seg.calibration.compare.contenders import Contender
from uncertainty_seg.calibration.labelled_pairs import Pair
from uncertainty_seg.calibration.statistics.bad_rule import BadRule
from uncertainty_seg.calibration.statistics.evaluation import PixelMeasures
from uncertainty_seg.calibration.statistics.metrics import Floats, Ranking
from uncertainty_seg.calibration.statistics.picking import Histograms
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.calibration import Column
from uncertainty_seg.core.pipeline import FrameResult, Pipeline, ROUNDING
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.core.settings import Settings, settings_to_dict
from uncertainty_seg.core.uncertainty import MAP_NAMES
from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.folds import fold_of
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.whole_files import whole_file

# Bins of a map that are kept together, so that a frame takes little room.
_MERGED = 4
# Grows with every change of what a file of measured frames holds.
_FORMAT = 1


@dataclass(frozen=True)
class ComparedFrames:
    """
    The frames of a comparison, the same for every contender.

    Attributes
    ----------
    pairs : list of (ndarray (H, W, 3), ndarray (H, W))
        BGR image and true class ids, uint8.
    unseen : list of ndarray of bool, shape (H, W), or None
        Of each pair, where an object is that the network was never shown.
    foreign : mapping of str to mapping of str to ndarray
        Name of a folder -> images of another kind, by file name.
    blocks : ndarray of str, shape (n,)
        The block of each pair.
    ignore_index : int
        In the masks, where nobody knows.
    rule : BadRule
        Which masks are bad.
    folds : ndarray of int64, shape (n,)
        The fold of each pair, ascending; 0 where no network has any.
    data_sha256 : str
        `data_digest` of what was read, of which the pairs are some or all.
    remarks : tuple of str
        Sentences on how the frames were chosen, for those who read figures of them.

    """

    pairs: list[Pair]
    unseen: list[NDArray[np.bool_]] | None
    foreign: Mapping[str, Mapping[str, ImageU8]]
    blocks: NDArray[np.str_]
    ignore_index: int
    rule: BadRule
    folds: NDArray[np.int64]
    data_sha256: str = ''
    remarks: tuple[str, ...] = ()

    def of_fold(self, fold: int, folds: Sequence[int]) -> ComparedFrames:
        """
        Return the pairs of one of the folds, and the foreign images that its network looks at.

        Raises DatasetError if it has no pair, or there are fewer foreign images than folds.
        """
        rows = np.flatnonzero(self.folds == fold)
        if not rows.size:
            raise DatasetError(f'no frame of fold {fold}', 'some of every fold',
                               'take more --frames, or another --split')
        unseen, part = self.unseen, folds.index(fold)
        foreign = {folder: {name: images[name] for name in _dealt(images, part, len(folds))}
                   for folder, images in self.foreign.items()}
        return replace(
            self, pairs=[self.pairs[i] for i in rows], foreign=foreign, blocks=self.blocks[rows],
            unseen=None if unseen is None else [unseen[i] for i in rows], folds=self.folds[rows])

    def digest(self) -> str:
        """Return a digest of all pixels, names and the rule."""
        digest = hashlib.sha256(f'{self.rule.text} {self.ignore_index}'.encode())
        digest.update(self.folds.tobytes())
        for image, mask in self.pairs:
            digest.update(image.tobytes() + mask.tobytes() + repr(image.shape).encode())
        for unseen in self.unseen or ():
            digest.update(unseen.tobytes())
        for folder, images in self.foreign.items():
            digest.update(folder.encode())
            # With folds the name decides which network looks at it.
            for name, image in images.items():
                digest.update(image.tobytes() + repr((name, image.shape)).encode())
        return digest.hexdigest()


def _dealt(names: Iterable[str], part: int, count: int) -> list[str]:
    return [name for name, own in fold_of(list(names), count).items() if own == part]


@dataclass(frozen=True)
class MeasuredFrames:
    """
    What one contender makes of n labelled frames, and of foreign ones.

    Attributes
    ----------
    is_bad : ndarray of bool, shape (n,)
        By the rule.
    totals : ndarray of float64, shape (n, C * C + 45)
        As `PixelMeasures.totals` has them.
    scores : mapping of str to ndarray of float64, shape (n,)
        Of all scores that the bundle gives.
    errors : mapping of str to two ndarray, shape (n, bins)
        By map: histograms of its values over wrong, and over right pixels.
    unseen : mapping of str to two ndarray, shape (n, bins)
        By map: over pixels of unseen objects, and over those of known classes; may be empty.
    foreign : mapping of str to mapping of str to ndarray of float64, shape (m,)
        By folder: scores of the images of another kind.

    """

    is_bad: NDArray[np.bool_]
    totals: Floats
    scores: Mapping[str, Column]
    errors: Mapping[str, Histograms]
    unseen: Mapping[str, Histograms]
    foreign: Mapping[str, Mapping[str, Column]]

    def maps(self) -> tuple[str, ...]:
        """Name the maps that are not zero everywhere, as one pass has no disagreement."""
        return tuple(name for name, parts in self.errors.items()
                     if sum(int(part[:, 1:].sum()) for part in parts))

    def told_scores(self) -> tuple[str, ...]:
        """Name the scores that differ between frames."""
        return tuple(name for name, column in self.scores.items() if _says_something(
            np.concatenate([column, *(table[name] for table in self.foreign.values())])))


def _says_something(values: Column) -> bool:
    known = values[np.isfinite(values)]
    return known.size > 0 and float(known.max()) > ROUNDING and float(np.ptp(known)) > 0


def measure_frames(pipeline: Pipeline, frames: ComparedFrames, title: str) -> MeasuredFrames:
    """
    Run a pipeline over all frames, with a progress bar.

    Raises DatasetError if a mask has an id that is no class, and what the pipeline raises.
    """
    rows = [_measure(pipeline, frames, index)
            for index in progress(range(len(frames.pairs)), desc=title)]
    foreign = {folder: _columns([pipeline.measure(image, index).scores for index, image in
                                 enumerate(progress(images.values(), desc=f'{title}, {folder}'))])
               for folder, images in frames.foreign.items()}
    return MeasuredFrames(
        np.array([row['is_bad'] for row in rows]), np.array([row['totals'] for row in rows]),
        _columns([row['scores'] for row in rows]), _histograms([row['errors'] for row in rows]),
        _histograms([row['unseen'] for row in rows]), foreign)


def _measure(pipeline: Pipeline, frames: ComparedFrames, index: int) -> dict[str, Any]:
    image, truth = frames.pairs[index]
    result = pipeline.measure(image, index)
    pixels = PixelMeasures(pipeline.card.num_classes)
    pixels.add(result, truth, frames.ignore_index)
    # A map that this bundle does not give has no pixel.
    given = pixels.given
    return {
        'is_bad': frames.rule.is_bad(truth, result.label_at_source(), frames.ignore_index),
        'totals': pixels.totals(), 'scores': result.scores,
        'errors': {name: _merged(ranking) for name, ranking in given.items()},
        'unseen': {} if frames.unseen is None else _unseen(
            result, tuple(given), frames.unseen[index], truth != frames.ignore_index),
    }


def _unseen(
    result: FrameResult, names: Sequence[str], unseen: NDArray[np.bool_], known: NDArray[np.bool_]
) -> dict[str, Histograms]:
    judged, found = unseen | known, {}
    for name in names:
        ranking = Ranking()
        ranking.add(result.map_at_source(name)[judged], unseen[judged])
        found[name] = _merged(ranking)
    return found


def _merged(ranking: Ranking) -> Histograms:
    # The last fine bin, of the value 1 alone, joins the one below.
    def merge(fine: Floats) -> NDArray[np.uint32]:
        whole = fine[:-1].copy()
        whole[-1] += fine[-1]
        return whole.reshape(-1, _MERGED).sum(1).astype(np.uint32)

    return merge(ranking.positive), merge(ranking.negative)


def joined(parts: Sequence[MeasuredFrames]) -> MeasuredFrames:
    """Put frames of several networks one after the other; scores that one lacks are left out."""
    first = parts[0]
    names = [name for name in first.scores if all(name in part.scores for part in parts)]

    def stacked(tables: Sequence[Mapping[str, Column]]) -> dict[str, Column]:
        return {name: np.concatenate([table[name] for table in tables]) for name in names}

    return MeasuredFrames(
        np.concatenate([part.is_bad for part in parts]),
        np.concatenate([part.totals for part in parts]),
        stacked([part.scores for part in parts]), _stacked([part.errors for part in parts]),
        _stacked([part.unseen for part in parts]),
        {folder: stacked([part.foreign[folder] for part in parts]) for folder in first.foreign})


def _stacked(parts: Sequence[Mapping[str, Histograms]]) -> dict[str, Histograms]:
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: (np.concatenate([part[name][0] for part in parts]),
                   np.concatenate([part[name][1] for part in parts])) for name in names}


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Column]:
    return {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]}


def _histograms(rows: Sequence[Mapping[str, Histograms]]) -> dict[str, Histograms]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    shape = next((row[name][0].shape for row in rows for name in names if name in row), (0,))
    nothing = np.zeros(shape, np.uint32)

    def stacked(name: str, kind: int) -> NDArray[np.number]:
        return np.stack([row[name][kind] if name in row else nothing for row in rows])

    return {name: (stacked(name, 0), stacked(name, 1)) for name in names}


# -------------------------------------------------------------------------------------------------
# On disk: one file a contender, named after everything that its content depends on.


def frames_key(contender: Contender, frames_digest: str, settings: Settings) -> str:
    """Return the name of what would be measured; another network, frame or version, another."""
    facts = (_FORMAT, __version__, MAP_NAMES, ScoreVector(contender.bundle.card).names,
             contender.digest(), frames_digest, sorted(settings_to_dict(settings).items()))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def save_frames(path: Path, found: MeasuredFrames) -> None:
    """Write what was measured, whole or not at all; OSError if the disk refuses."""
    names = {'scores': list(found.scores), 'errors': list(found.errors),
             'unseen': list(found.unseen), 'foreign': list(found.foreign)}
    arrays: dict[str, Any] = {
        'names': np.array(json.dumps(names)), 'is_bad': found.is_bad, 'totals': found.totals,
        'scores': np.array([*found.scores.values()]),
        'errors': np.array([*found.errors.values()]),
        'unseen': np.array([*found.unseen.values()]),
        **{f'foreign_{index}': np.array([table[name] for name in found.scores])
           for index, table in enumerate(found.foreign.values())},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft, draft.open('wb') as file:
        np.savez_compressed(file, **arrays)


def load_frames(path: Path) -> MeasuredFrames | None:
    """Read what `save_frames` wrote; None if there is none, or it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = json.loads(str(stored['names']))

            def pairs(kind: str) -> dict[str, Histograms]:
                return {name: (both[0], both[1])
                        for name, both in zip(names[kind], stored[kind], strict=True)}

            foreign = {folder: dict(zip(names['scores'], stored[f'foreign_{index}'], strict=True))
                       for index, folder in enumerate(names['foreign'])}
            return MeasuredFrames(
                stored['is_bad'], stored['totals'],
                dict(zip(names['scores'], stored['scores'], strict=True)), pairs('errors'),
                pairs('unseen'), foreign)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
