# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write labelled scenes to disk, in the layout of a labelled folder.

`images/STEM.jpg` pairs with `masks/STEM.png` (one channel, pixel = class id);
`classes.json` names ids and colours, `splits.json` lists stems.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path

import cv2
import numpy as np

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.sim.pipe import CLASS_NAMES, IGNORE, PALETTE
from uncertainty_seg.sim.scene import check_scene, render_all, render_scene
from uncertainty_seg.storage.progress import progress

SPLITS: Mapping[str, float] = {'train': 0.89, 'val': 0.11}
JPEG_QUALITY = 92
SEEDS_A_SET = 1_000_000
# Each kind has seeds of its own.
OOD_KINDS = {'turbid': 0, 'diver': 2, 'fish': 3}


@dataclass(frozen=True)
class _Job:
    """One scene to render and write."""

    folder: str
    stem: str
    seed: int
    size: tuple[int, int]
    turbidity: float | None
    unknown: str | None
    split: str


def _write_one(job: _Job) -> tuple[str, str]:
    """Render and write one scene; return its stem and its split."""
    cv2.setNumThreads(1)
    scene = render_scene(job.seed, size=job.size, turbidity=job.turbidity, unknown=job.unknown)
    pictures = [('images', '.jpg', scene.image), ('masks', '.png', scene.mask)]
    if job.split == 'ood':
        pictures.append(('unknown', '.png', scene.unknown.astype(np.uint8) * 255))
    for part, ending, picture in pictures:
        path = Path(job.folder) / part / (job.stem + ending)
        if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise ConfigError(f'{path} could not be written', 'a folder with room')
    return job.stem, job.stem.split('_')[0] if job.split == 'ood' else job.split


def _split_of(index: int, count: int, splits: Mapping[str, float]) -> str:
    """Return the split of a scene: the first share of the scenes goes to the first split."""
    edges = np.cumsum(list(splits.values())) / sum(splits.values()) * count
    return list(splits)[min(int((index >= np.rint(edges)).sum()), len(splits) - 1)]


def _run(place: Path, jobs: Sequence[_Job], name: str, splits: Iterable[str], workers: int
         ) -> None:
    """Render and write scenes, and what says what they are."""
    try:
        for part in ('images', 'masks', *(['unknown'] if jobs[0].split == 'ood' else [])):
            (place / part).mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f'{place} cannot be made ({err.strerror})', 'a folder to write to') \
            from err
    done = progress(render_all(_write_one, jobs, workers), desc='scenes', total=len(jobs),
                    unit='scene')
    _describe(place, name, done, splits)


def _describe(folder: Path, name: str, done: Iterable[tuple[str, str]],
              split_names: Iterable[str]) -> None:
    """Write classes.json and splits.json."""
    splits: dict[str, list[str]] = {split: [] for split in split_names}
    for stem, split in done:
        splits[split].append(stem)
    facts = {
        'dataset': name, 'ignore_index': IGNORE,
        'classes': [{'id': i, 'code': label, 'name': label.replace('_', ' '), 'rgb': list(rgb)}
                    for i, (label, rgb) in enumerate(zip(CLASS_NAMES, PALETTE, strict=True))]}
    (folder / 'classes.json').write_text(json.dumps(facts, indent=1) + '\n')
    (folder / 'splits.json').write_text(json.dumps(splits, indent=0) + '\n')


def write_dataset(folder: Path | str, count: int, seed: int = 0,
                  size: tuple[int, int] = (512, 384), workers: int = 0, ood: int = 0) -> None:
    """
    Write a data set of single scenes, 0.89 of them to train on.

    Parameters
    ----------
    folder : Path or str
        Where; made when missing. Files of the same names are overwritten.
    count : int
        How many scenes of normal operation.
    seed : int, optional
        Sets of different seeds share no scene.
    size : tuple of int, optional
        Width and height in pixels.
    workers : int, optional
        Processes; 0 chooses them.
    ood : int, optional
        How many scenes a kind to write under `ood/`: turbid water beyond the training range,
        and each unknown object, with `ood/unknown/STEM.png` (255 on the object).

    Raises
    ------
    ConfigError
        If an argument is out of its range, or the folder cannot be written.

    """
    if not (count >= 1 and ood >= 0 and 0 <= seed):
        raise ConfigError(f'count={count}, seed={seed}, ood={ood}', 'a count of at least 1, seed '
                          'and ood of at least 0')
    check_scene(seed, size, None, None)
    place = Path(folder)
    jobs = [_Job(str(place), f'scene_{seed}_{i:05d}', seed * SEEDS_A_SET + i, size, None, None,
                 _split_of(i, count, SPLITS)) for i in range(count)]
    _run(place, jobs, 'synthetic pipeline scenes', SPLITS, workers)
    jobs = []
    for kind, k in OOD_KINDS.items():
        for i in range(ood):
            # From the end of the set's own seeds, so that no background occurs twice.
            scene_seed = (seed + 1) * SEEDS_A_SET - 1 - (k * ood + i)
            murk = 0.68 + 0.27 * i / max(ood - 1, 1) if kind == 'turbid' else None
            jobs.append(_Job(str(place / 'ood'), f'{kind}_{seed}_{i:05d}', scene_seed, size, murk,
                             None if kind == 'turbid' else kind, 'ood'))
    if jobs:
        _run(place / 'ood', jobs, 'synthetic pipeline scenes out of distribution', OOD_KINDS,
             workers)
