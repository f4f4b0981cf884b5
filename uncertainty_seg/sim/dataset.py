# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Write labelled scenes to disk, in the layout of a labelled folder.

`images/STEM.jpg` pairs with `masks/STEM.png` (one channel, pixel = class id);
`classes.json` names ids and colours, `splits.json` lists stems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import json
from pathlib import Path

import cv2

from uncertainty_seg.errors import ConfigError
from uncertainty_seg.sim.basics import require_within, SIDES_PX
from uncertainty_seg.sim.pipe import CLASS_NAMES, IGNORE, PALETTE
from uncertainty_seg.sim.scene import render_all, render_scene
from uncertainty_seg.storage.progress import progress

# Share of the scenes in each of val and limits.
HELD_SHARE = 0.1
JPEG_QUALITY = 92
SEEDS_A_SET = 1_000_000
# Kind -> number of its block of seeds, which no other kind uses.
OOD_KINDS = {'turbid': 0, 'diver': 2, 'fish': 3}


@dataclass(frozen=True)
class _Job:
    """One scene to render and write."""

    folder: Path
    split: str
    stem: str
    seed: int
    size: tuple[int, int]
    turbidity: float | None = None
    unknown: str | None = None


def _write_one(job: _Job) -> None:
    """Render and write one scene."""
    cv2.setNumThreads(1)
    scene = render_scene(job.seed, size=job.size, turbidity=job.turbidity, unknown=job.unknown)
    for path, picture, how in (
            (job.folder / 'images' / f'{job.stem}.jpg', scene.image,
             [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]),
            (job.folder / 'masks' / f'{job.stem}.png', scene.mask, [])):
        if not cv2.imwrite(str(path), picture, how):
            raise ConfigError(f'{path} could not be written', 'a writable folder with free space')


def _splits(count: int) -> list[str]:
    """Return the split of each of `count` scenes; with three or more no split is empty."""
    held = min(max(1, round(HELD_SHARE * count)), count // 3)
    return ['train'] * (count - 2 * held) + ['val'] * held + ['limits'] * held


def _require_no_others(place: Path, jobs: Sequence[_Job]) -> None:
    """Raise ConfigError if a folder has images that these scenes do not replace."""
    stems = {job.stem for job in jobs}
    others = sorted(path.name for path in place.glob('images/*') if path.stem not in stems)
    if jobs and others:
        raise ConfigError(f'{place} holds {len(others)} other images ({others[0]})',
                          'a new folder', 'its classes and splits would be lost')


def _run(place: Path, jobs: Sequence[_Job], name: str) -> None:
    """Render and write scenes, their classes and splits."""
    try:
        for part in ('images', 'masks'):
            (place / part).mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigError(f'{place} cannot be made ({err.strerror})', 'a folder to write to') \
            from err
    for _ in progress(render_all(_write_one, jobs), desc='scenes', total=len(jobs), unit='scene'):
        pass
    splits: dict[str, list[str]] = {}
    for job in jobs:
        splits.setdefault(job.split, []).append(job.stem)
    facts = {
        'dataset': name, 'ignore_index': IGNORE,
        'classes': [{'id': i, 'code': label, 'name': label.replace('_', ' '), 'rgb': list(rgb)}
                    for i, (label, rgb) in enumerate(zip(CLASS_NAMES, PALETTE, strict=True))]}
    (place / 'classes.json').write_text(json.dumps(facts, indent=1) + '\n')
    (place / 'splits.json').write_text(json.dumps(splits, indent=0) + '\n')


def simulate_scenes(
    folder: Path | str, *, count: int = 1760, ood: int = 0, seed: int = 1,
    size: tuple[int, int] = (512, 384),
) -> None:
    """
    Write a labelled folder of single scenes of normal operation.

    Parameters
    ----------
    folder : Path or str
        It is made if missing; scenes of the same names are overwritten.
    count : int
        Scenes; the splits val and limits have a tenth of them each.
    ood : int
        Scenes per kind under ``ood/``: too turbid water, and each unknown object, which is 255 in
        the mask.
    seed : int
        Sets of different seeds share no scene.
    size : tuple of int
        Width and height in pixels.

    Raises
    ------
    ConfigError
        If a value is out of its range, or the folder has other images or cannot be written.

    """
    require_within('count', count, 2, 10**9)
    require_within('seed', seed, 0, 2**31 - 1)
    require_within('shorter side', min(size), *SIDES_PX)
    place = Path(folder)
    scenes = [_Job(place, split, f'scene_{seed}_{i:05d}', seed * SEEDS_A_SET + i, size)
              for i, split in enumerate(_splits(count))]
    jobs: list[_Job] = []
    for kind, k in OOD_KINDS.items():
        for i in range(ood):
            # From the end of the set's seeds, so that no background occurs twice.
            scene_seed = (seed + 1) * SEEDS_A_SET - 1 - (k * ood + i)
            murk = 0.68 + 0.27 * i / max(ood - 1, 1) if kind == 'turbid' else None
            jobs.append(_Job(place / 'ood', kind, f'{kind}_{seed}_{i:05d}', scene_seed, size, murk,
                             None if kind == 'turbid' else kind))
    _require_no_others(place, scenes)
    _require_no_others(place / 'ood', jobs)
    _run(place, scenes, 'synthetic pipeline scenes')
    if jobs:
        _run(place / 'ood', jobs, 'synthetic pipeline scenes out of distribution')
