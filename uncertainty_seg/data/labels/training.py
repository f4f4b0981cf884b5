# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Corrected labels as a training folder: images/, masks/, classes.json and three more files.

`labelled_folder.load_folder` reads it. splits.json has the splits; blocks.json, the dive of each
frame, is for ``calibrate --blocks``; review.json says what is known of the labels.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
import json
from pathlib import Path

import numpy as np

from uncertainty_seg.data.labels.folder import MASKS, write_classes
from uncertainty_seg.data.labels.frames import (
    decoded,
    ExportedFrames,
    FrameRow,
    IMAGES,
    write_mask,
)
from uncertainty_seg.data.labels.regions import Labelled
from uncertainty_seg.data.labels.review import LabelReview, ReviewRules, STRICT
from uncertainty_seg.errors import ConfigError, DatasetError
from uncertainty_seg.storage.review_record import CONTROL, write_review


def split_by_dive(
    dive_of: Mapping[str, str], shares: Mapping[str, float], seed: int
) -> dict[str, list[str]]:
    """
    Assign every dive to one split.

    Neighbouring frames of a dive look alike: with one in training and one in validation, a network
    is tested on what it has memorised. Raises ConfigError if the shares are not above 0 or do not
    add up to 1.

    Parameters
    ----------
    dive_of : mapping of str to str
        Dive of each frame, by stem.
    shares : mapping of str to float
        Share of the frames by name of the split; they add up to 1.
    seed : int
        Decides between choices that are equally near.

    Returns
    -------
    dict of str to list of str
        Stems of each split, sorted. Splits are filled from the smallest share to the largest,
        which gets the rest. Each gets the dives whose number of frames is nearest to its share
        (optimal for two splits), and at least one while there are enough dives.

    """
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        listed = ' '.join(f'{name}={share:g}' for name, share in shares.items())
        raise ConfigError(f'shares {listed or "of nothing"}', 'some above 0 that add up to 1')
    stems: dict[str, list[str]] = {}
    for stem, dive in sorted(dive_of.items()):
        stems.setdefault(dive, []).append(stem)
    order = np.random.default_rng(seed).permutation(len(stems))
    left = [sorted(stems)[i] for i in order]
    splits: dict[str, list[str]] = {name: [] for name in shares}
    by_share = sorted(shares, key=lambda name: shares[name])
    for waiting, name in zip(range(len(shares) - 1, 0, -1), by_share, strict=False):
        chosen = _nearest([len(stems[d]) for d in left], shares[name] * len(dive_of),
                          max_count=len(left) - waiting)
        splits[name] = sorted(stem for i in chosen for stem in stems[left[i]])
        left = [dive for i, dive in enumerate(left) if i not in chosen]
    splits[by_share[-1]] = sorted(stem for dive in left for stem in stems[dive])
    return splits


def _nearest(sizes: Sequence[int], target: float, max_count: int) -> set[int]:
    """
    Choose items whose sizes add up nearest to a target.

    At least one is chosen and at most `max_count`; none if that is 0. Of two sums that are equally
    near the smaller one is taken.
    """
    if max_count < 1:
        return set()
    # fewest[i][s]: the least number of the first i items that add up to s (subset sums).
    total, unreachable = sum(sizes), len(sizes) + 1
    fewest = np.full((len(sizes) + 1, total + 1), unreachable, np.int32)
    fewest[0, 0] = 0
    for i, size in enumerate(sizes):
        fewest[i + 1] = fewest[i]
        np.minimum(fewest[i + 1, size:], fewest[i, :total + 1 - size] + 1,
                   out=fewest[i + 1, size:])
    sums = np.flatnonzero((fewest[-1] >= 1) & (fewest[-1] <= max_count))
    rest = int(sums[np.argmin(np.abs(sums - target))])
    chosen = set()
    for i in reversed(range(len(sizes))):
        if fewest[i + 1, rest] != fewest[i, rest]:
            chosen.add(i)
            rest -= sizes[i]
    return chosen


@dataclass(frozen=True)
class TrainingFolder:
    """
    Numbers of what was written.

    Attributes
    ----------
    frames, unlabelled, dives : int
        Labelled frames; other frames of the export; dives of the labelled ones.
    splits : mapping of str to int
        Frames of each split.
    control : int
        Labelled frames that were drawn by chance.
    skipped : int
        Frames left out because nobody corrected them; they count as `unlabelled` too.
    control_skipped : int
        Of them, those that were drawn by chance; if there are some, no frame counts as drawn.
    reviewed : mapping of str to int
        Labelled frames by what shows that a person looked at them.
    control_unlabelled : int
        Frames that were drawn by chance and came back without any label, where others have some.

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


def write_training_folder(
    folder: Path, table: ExportedFrames, labels: Iterable[tuple[str, Labelled]],
    shares: Mapping[str, float], seed: int, rules: ReviewRules = STRICT,
) -> TrainingFolder:
    """
    Write corrected labels with the images of their export.

    Raises DatasetError if no frame is labelled, labels are refused (see `review`), or an image is
    missing or of another size; ConfigError if the shares are invalid.

    Parameters
    ----------
    folder : Path
        An empty folder.
    table : ExportedFrames
        The export.
    labels : iterable of (str, Labelled)
        Where they come from, and the labels of a frame.
    shares, seed : mapping of str to float, int
        As for `split_by_dive`.
    rules : ReviewRules
        Which labels count.

    """
    split_by_dive({}, shares, seed)  # refuses wrong shares before the work
    (folder / IMAGES).mkdir()
    review, seen = LabelReview(table, rules), set[str]()
    for source, one in labels:
        row = table.rows[one.stem]
        if one.stem not in seen:
            (folder / IMAGES / row.file).write_bytes(_checked_image(table, row))
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
    splits = split_by_dive(dive_of, shares, seed)
    write_classes(folder, table.classes)
    write_json(folder / 'splits.json', splits)
    write_json(folder / 'blocks.json', dive_of)
    write_review(folder, reviews)
    control = sum(one.origin == CONTROL for one in reviews.values())
    return TrainingFolder(
        len(dive_of), len(table.rows) - len(dive_of), len(set(dive_of.values())),
        {name: len(stems) for name, stems in splits.items()},
        control, len(seen) - len(reviews), dict(Counter(one.evidence for one in reviews.values())),
        sum(table.rows[stem].origin == CONTROL for stem in seen - set(reviews)),
        sum(row.origin == CONTROL and stem not in seen for stem, row in table.rows.items())
        if control else 0)


def _checked_image(table: ExportedFrames, row: FrameRow) -> bytes:
    data = table.image_file(row)
    height, width = decoded(data, row.file).shape[:2]
    if (height, width) != (row.height, row.width):
        raise DatasetError(f'image {row.file} of {table.folder} is {width}x{height}',
                           f'{row.width}x{row.height}, as it was sent')
    return data


def write_json(path: Path, content: object) -> None:
    """Write a value as JSON."""
    path.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')
