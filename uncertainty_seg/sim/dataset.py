# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write labelled scenes to disk, in the layout of the project's photograph sets.

`images/STEM.jpg` pairs with `masks/STEM.png` (one channel, pixel = class id);
`classes.json` names ids and colours, `splits.json` lists stems.

"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
import json
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.sim.pipe import CLASS_NAMES, IGNORE, PALETTE
from uncertainty_seg.sim.scene import check_scene, render_scene

DEFAULT_SPLITS: Mapping[str, float] = {'train': 0.8, 'val': 0.1, 'test': 0.1}
JPEG_QUALITY = 92
SEEDS_A_SET = 1_000_000
OOD_KINDS = ('turbid', 'wreck', 'diver', 'fish')


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


def _write_one(job: _Job) -> tuple[str, str, list[int]]:
    """Render and write one scene; return its stem, its split and its pixels a class id."""
    cv2.setNumThreads(1)
    scene = render_scene(job.seed, size=job.size, turbidity=job.turbidity, unknown=job.unknown)
    folder = Path(job.folder)
    files: list[tuple[Path, np.ndarray, list[int]]] = [
        (folder / 'images' / f'{job.stem}.jpg', scene.image,
         [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]),
        (folder / 'masks' / f'{job.stem}.png', scene.mask, [])]
    if job.split == 'ood':
        files.append((folder / 'unknown' / f'{job.stem}.png',
                      scene.unknown.astype(np.uint8) * 255, []))
    for path, picture, options in files:
        if not cv2.imwrite(str(path), picture, options):
            raise ConfigError(f'{path} could not be written', 'a folder with room',
                              'choose another folder or free some space')
    return job.stem, job.split, np.bincount(scene.mask.ravel(), minlength=256).tolist()


def _split_of(index: int, count: int, splits: Mapping[str, float]) -> str:
    """Return the split of a scene: the first share of the scenes goes to the first split."""
    edge = 0.0
    total = sum(splits.values())
    for name, share in splits.items():
        edge += share / total * count
        if index < round(edge):
            return name
    return next(reversed(list(splits)))


def _run(jobs: list[_Job], workers: int, title: str) -> Iterator[tuple[str, str, list[int]]]:
    """Run the jobs in order, in this process or in several."""
    bar = {'total': len(jobs), 'desc': title, 'unit': 'scene'}
    if workers == 1:
        yield from tqdm(map(_write_one, jobs), **bar)
        return
    # OpenCV's threads do not survive a fork: its pool would wait for ever.
    with multiprocessing.get_context('spawn').Pool(workers) as pool:
        yield from tqdm(pool.imap(_write_one, jobs, chunksize=4), **bar)


def _make_folders(place: Path, names: Iterable[str]) -> None:
    """Make the folders of a set."""
    try:
        for name in names:
            (place / name).mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f'{place} cannot be made ({err.strerror})', 'a folder to write to',
                          'choose another folder') from err


def _describe(folder: Path, name: str, done: Iterable[tuple[str, str, list[int]]],
              split_names: Iterable[str]) -> None:
    """Write classes.json and splits.json."""
    splits: dict[str, list[str]] = {split: [] for split in split_names}
    pixels = np.zeros(256, np.int64)
    for stem, split, counts in done:
        splits.setdefault(split, []).append(stem)
        pixels += counts
    share = pixels / max(int(pixels.sum()), 1)
    ids = [*range(len(CLASS_NAMES)), IGNORE]
    facts = {
        'dataset': name, 'ignore_index': IGNORE,
        'classes': [{'id': i, 'code': label, 'name': label.replace('_', ' '), 'rgb': list(rgb)}
                    for i, (label, rgb) in enumerate(zip(CLASS_NAMES, PALETTE, strict=True))],
        'pixel_share': {str(i): round(float(share[i]), 5) for i in ids},
        'n_images': sum(len(stems) for stems in splits.values()),
    }
    (folder / 'classes.json').write_text(json.dumps(facts, indent=1) + '\n')
    (folder / 'splits.json').write_text(json.dumps(splits, indent=0) + '\n')


def write_dataset(folder: Path | str, count: int, seed: int = 0,
                  size: tuple[int, int] = (512, 384), workers: int = 2,
                  splits: Mapping[str, float] = DEFAULT_SPLITS, ood: int = 0) -> None:
    """
    Write a data set of single scenes.

    Raises ConfigError if an argument is out of its range.

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
        Processes; 1 renders in this one.
    splits : mapping of str to float, optional
        Share of the scenes a split, in the order of the scenes.
    ood : int, optional
        How many scenes a kind to write under `ood/`: turbid water beyond the training range,
        and each unknown object, with `ood/unknown/STEM.png` (255 on the object).

    """
    if not (count >= 1 and ood >= 0 and workers >= 1 and 0 <= seed):
        raise ConfigError(f'count={count}, seed={seed}, workers={workers}, ood={ood}',
                          'count and workers of at least 1, seed and ood of at least 0',
                          'correct the one that is not')
    if not splits or not all(share >= 0 for share in splits.values()) \
            or not sum(splits.values()) > 0:
        raise ConfigError(f'splits is {dict(splits)!r}', 'a share of at least 0 for each name',
                          'pass for example {"train": 0.8, "val": 0.2}')
    check_scene(seed, size, None, None)
    place = Path(folder)
    _make_folders(place, ('images', 'masks'))
    jobs = [_Job(str(place), f'scene_{seed}_{i:05d}', seed * SEEDS_A_SET + i, size, None, None,
                 _split_of(i, count, splits)) for i in range(count)]
    _describe(place, 'synthetic pipeline scenes', _run(jobs, workers, 'scenes'), splits)
    if ood:
        _write_ood(place / 'ood', ood, seed, size, workers)


def _write_ood(place: Path, count: int, seed: int, size: tuple[int, int], workers: int) -> None:
    """Write scenes training never shows; each kind is a split."""
    _make_folders(place, ('images', 'masks', 'unknown'))
    jobs = []
    for k, kind in enumerate(OOD_KINDS):
        for i in range(count):
            # From the end of the set's own seeds, so that no background occurs twice.
            scene_seed = (seed + 1) * SEEDS_A_SET - 1 - (k * count + i)
            murk = 0.68 + 0.27 * i / max(count - 1, 1) if kind == 'turbid' else None
            jobs.append(_Job(str(place), f'{kind}_{seed}_{i:05d}', scene_seed, size, murk,
                             None if kind == 'turbid' else kind, 'ood'))
    done = ((stem, stem.split('_')[0], counts) for stem, _, counts in _run(jobs, workers, 'ood'))
    _describe(place, 'synthetic pipeline scenes out of distribution', done, OOD_KINDS)
