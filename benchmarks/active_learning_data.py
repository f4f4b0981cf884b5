# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Make the labelled folders of the active learning studies; photographs are read, never copied here.

``redundant``: a vehicle that hovers. Of 100 photographs of the training split each is seen 1 to 40
times, a geometric number, by a camera that shifts, zooms and gets other light, so that a drawn
sample is full of the few that were seen often.

``water``: scenes of clear water (source) and of water more turbid than any of them (target).

``mapped``: photographs of SUIM and rendered scenes with the same four classes: seabed, structure,
growth, other.

``split``: SUIM with a third of its validation split as val and the rest as test, and its 60
images to start from in start.json.

``camvid``: CamVid, by links, with a table of its 11 classes; the one that comes with it lists the
ignored id among them.

The same arguments give the same bytes, and a folder that is whole is not made again.

    python benchmarks/active_learning_data.py WHAT OUT --photographs DIR

"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from select_study import views
from tqdm import tqdm

from uncertainty_seg.sim.pipe import CLASS_NAMES, PALETTE
from uncertainty_seg.sim.scene import render_scene
from uncertainty_seg.storage.labelled_folder import load_folder

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Named = tuple[str, str, NDArray[np.uint8], NDArray[np.uint8]]
IGNORE = 255
SIZE = (256, 192)
CLEAR, TURBID = (0.0, 0.12), (0.4, 0.65)
# Classes that photographs and scenes share, and what each class of either becomes.
SHARED = {'seabed': (60, 60, 160), 'structure': (0, 255, 255), 'growth': (0, 158, 115),
          'other': (0, 0, 0)}
OF_SUIM = (3, 3, 2, 1, 1, 2, 3, 0)
OF_SCENES = (0, 1, 1, 1, 2, 1)


def write_folder(
    folder: Path, classes: Mapping[str, Sequence[int]], pairs: Iterable[Named], note: str,
) -> None:
    """Write pairs of (split, stem, RGB image, mask) as a labelled folder; splits.json last."""
    for name in ('images', 'masks'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[str]] = {}
    for split, stem, image, mask in tqdm(pairs, desc=folder.name, disable=None):
        cv2.imwrite(str(folder / 'images' / f'{stem}.jpg'), image[..., ::-1],
                    [cv2.IMWRITE_JPEG_QUALITY, 92])
        cv2.imwrite(str(folder / 'masks' / f'{stem}.png'), mask)
        splits.setdefault(split, []).append(stem)
    table = [{'id': k, 'name': name, 'rgb': list(rgb)} for k, (name, rgb)
             in enumerate(classes.items())]
    (folder / 'classes.json').write_text(
        json.dumps({'dataset': note, 'ignore_index': IGNORE, 'classes': table}, indent=1))
    (folder / 'splits.json').write_text(json.dumps(splits))


def redundant(out: Path, photographs: Path) -> None:
    """Write OUT/redundant: splits train (what the camera saw), val and test (photographs)."""
    data, held_out = load_folder(photographs, 'train'), load_folder(photographs, 'val')
    rng = np.random.default_rng(0)

    def pairs() -> Iterable[Named]:
        for place in rng.permutation(len(data.stems))[:100]:
            seen = int(min(40, rng.geometric(1 / 6)))
            for k, (image, mask) in enumerate(views(data.images[place], data.masks[place], seen,
                                                    rng)):
                yield 'train', f'{data.stems[place]}_{k:02d}', image, mask
        for split, stem, image, mask in in_two(held_out.stems, held_out.images, held_out.masks):
            yield split, stem, image, mask

    write_folder(out / 'redundant', dict(zip(data.class_names, data.palette, strict=True)),
                 pairs(), 'photographs as a hovering camera sees them')


def split(out: Path, photographs: Path) -> None:
    """Write OUT/split: train as it is, val and test, and start.json."""
    train, held_out = load_folder(photographs, 'train'), load_folder(photographs, 'val')
    pairs: list[Named] = [('train', *pair) for pair in
                          zip(train.stems, train.images, train.masks, strict=True)]
    pairs += in_two(held_out.stems, held_out.images, held_out.masks)
    write_folder(out / 'split', dict(zip(train.class_names, train.palette, strict=True)), pairs,
                 'photographs of SUIM')
    listed = json.loads((photographs / 'splits.json').read_text())
    (out / 'split' / 'start.json').write_text(json.dumps(listed['active_learning_seed']))


def camvid(out: Path, photographs: Path) -> None:
    """Write OUT/camvid: links to images and masks, and a table of classes without the void."""
    folder = out / 'camvid'
    folder.mkdir(parents=True, exist_ok=True)
    for name in ('images', 'masks'):
        (folder / name).symlink_to((photographs / name).resolve())
    table = json.loads((photographs / 'classes.json').read_text())
    table['classes'] = [entry for entry in table['classes']
                        if entry['id'] != table['ignore_index']]
    (folder / 'classes.json').write_text(json.dumps(table))
    (folder / 'splits.json').write_text((photographs / 'splits.json').read_text())


def in_two(
    stems: Sequence[str], images: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]],
) -> Iterable[Named]:
    """Yield every third as val and the rest as test."""
    for k, (stem, image, mask) in enumerate(zip(stems, images, masks, strict=True)):
        yield 'test' if k % 3 else 'val', stem, image, mask


def scenes(count: int, first: int, turbidity: tuple[float, float]) -> Iterable[Pair]:
    """Yield RGB images and masks of rendered scenes."""
    rng = np.random.default_rng(first)
    for k in range(count):
        scene = render_scene(first + k, size=SIZE, turbidity=float(rng.uniform(*turbidity)))
        yield np.ascontiguousarray(scene.image[..., ::-1]), scene.mask


def water(out: Path, _: Path) -> None:
    """Write OUT/clear (train, val) and OUT/turbid (train, val, test)."""
    classes = dict(zip(CLASS_NAMES, PALETTE, strict=True))
    for name, first, turbidity, sizes in (
            ('clear', 31_000_000, CLEAR, {'train': 400, 'val': 60}),
            ('turbid', 32_000_000, TURBID, {'train': 400, 'val': 60, 'test': 150})):
        split_of = [split for split, count in sizes.items() for _ in range(count)]
        drawn = scenes(len(split_of), first, turbidity)
        write_folder(out / name, classes,
                     ((split, f'{name}_{k:04d}', image, mask) for k, (split, (image, mask))
                      in enumerate(zip(split_of, drawn, strict=True))), f'scenes, {name} water')


def mapped(out: Path, photographs: Path) -> None:
    """Write OUT/scenes (train, val) and OUT/suim (train, val, test) with the shared classes."""
    drawn = scenes(460, 33_000_000, (0.0, 0.5))
    write_folder(out / 'scenes', SHARED,
                 (('val' if k >= 400 else 'train', f'scene_{k:04d}', image, remap(mask, OF_SCENES))
                  for k, (image, mask) in enumerate(drawn)), 'scenes with the shared classes')
    train, held_out = load_folder(photographs, 'train'), load_folder(photographs, 'val')

    def pairs() -> Iterable[Named]:
        for stem, image, mask in zip(train.stems, train.images, train.masks, strict=True):
            yield 'train', stem, image, remap(mask, OF_SUIM)
        for split, stem, image, mask in in_two(held_out.stems, held_out.images, held_out.masks):
            yield split, stem, image, remap(mask, OF_SUIM)

    write_folder(out / 'suim', SHARED, pairs(), 'photographs with the shared classes')


def remap(mask: NDArray[np.uint8], to: Sequence[int]) -> NDArray[np.uint8]:
    """Give every class another id; what is none stays ignored."""
    table = np.full(256, IGNORE, np.uint8)
    table[:len(to)] = to
    return np.asarray(table[mask], np.uint8)


# What makes each, and the folder of it that is written last.
MAKERS = {'redundant': (redundant, 'redundant'), 'water': (water, 'turbid'),
          'mapped': (mapped, 'suim'), 'split': (split, 'split'), 'camvid': (camvid, 'camvid')}


def main() -> None:
    """Make what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=tuple(MAKERS))
    parser.add_argument('out', type=Path)
    parser.add_argument('--photographs', type=Path, required=True)
    args = parser.parse_args()
    if not (args.out / MAKERS[args.what][1] / 'splits.json').is_file():
        MAKERS[args.what][0](args.out, args.photographs)


if __name__ == '__main__':
    main()
