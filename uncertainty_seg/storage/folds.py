# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Folds of a labelled folder for cross-fitting: which network must not see which image.

The fold of an image follows from its name, the other names and a seed, on every machine alike.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import hashlib
import json
from pathlib import Path

from uncertainty_seg.errors import DatasetError
from uncertainty_seg.storage.foreign_files import MAX_JSON_BYTES, parse_json, read_bytes
from uncertainty_seg.storage.labelled_folder import LabelledFolder, require_classes, subset
from uncertainty_seg.storage.whole_files import replace_file

FOLDS_FILE = 'folds.json'


def fold_of(stems: Sequence[str], folds: int, seed: int = 0) -> dict[str, int]:
    """
    Return the fold, 0..folds-1, of each image; folds differ by one image at most.

    Parameters
    ----------
    stems : sequence of str
        Names without ending, each once; their order makes no difference.
    folds : int
        K, at least 2 and at most the number of images.
    seed : int
        Another one gives other folds.

    Raises
    ------
    DatasetError
        If K is out of range or a name comes twice.

    """
    if len(set(stems)) < len(stems):
        raise DatasetError('a name of an image comes twice', 'each image once')
    if not 2 <= folds <= len(stems):
        raise DatasetError(f'{folds} folds of {len(stems)} images', f'2 to {len(stems)} folds')
    order = sorted(stems, key=lambda stem: hashlib.sha256(f'{seed}:{stem}'.encode()).digest())
    return {stem: rank % folds for rank, stem in enumerate(order)}


def without_fold(data: LabelledFolder, fold: int, fold_by_stem: Mapping[str, int]) -> \
        LabelledFolder:
    """
    Return the images outside of a fold, for the network that must not see it.

    Raises DatasetError if there is no such fold, or the rest lacks a class that all images
    together have.
    """
    folds = max(fold_by_stem.values()) + 1
    if not 0 <= fold < folds:
        raise DatasetError(f'fold {fold} of {folds}', f'0 to {folds - 1}')
    rest = subset(data, [i for i, s in enumerate(data.stems) if fold_by_stem[s] != fold])
    require_classes(rest, data, f'the images outside of fold {fold}')
    return rest


def write_folds(path: Path, fold_by_stem: Mapping[str, int]) -> None:
    """Write ``{"STEM": FOLD, ...}``, sorted by name."""
    replace_file(path, json.dumps(dict(sorted(fold_by_stem.items())), indent=1) + '\n')


def read_folds(path: Path) -> dict[str, int]:
    """Read what `write_folds` wrote; raises DatasetError if it is missing or something else."""
    try:
        raw = parse_json(read_bytes(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as err:
        raise DatasetError(f'{path} cannot be read ({err})', '{"STEM": FOLD, ...}') from err
    if not isinstance(raw, dict) or not raw or not all(type(v) is int for v in raw.values()):
        raise DatasetError(f'{path} has another form', '{"STEM": FOLD, ...}')
    return {str(stem): fold for stem, fold in raw.items()}
