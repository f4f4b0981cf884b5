# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
How many planted label errors `browse --labelled` finds, and how many of the first it names are.

In every third frame of a labelled folder one object is given another class (swap), or the class 0
(drop), or a box of class 0 the last class (phantom), by turns; each is 0.3 % to 20 % of the image.
The list is then compared with what was planted: a hit is a region of that frame and given class,
at least 30 % of whose box is planted. The network's own errors count as false, although some of
them may be errors of the labels too.

    python benchmarks/label_errors.py DIR [--bundle pipeline] [--split val] [--draws 6]

"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.opening import offline_settings
from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.data.browse.label_errors import LabelCheck, SuspectRegion
from uncertainty_seg.storage.labelled_folder import LabelledFolder, load_folder
from uncertainty_seg.storage.model_bundle import load_bundle

KINDS = ('swap', 'drop', 'phantom')
LEAST, LARGEST, HIT, EVERY = 0.003, 0.2, 0.3, 3
Mask = NDArray[np.uint8]
Planted = dict[str, tuple[NDArray[np.bool_], int]]


def objects(mask: Mask, num_classes: int) -> list[tuple[int, NDArray[np.bool_]]]:
    """Return class and pixels of each object that is neither tiny nor the whole image."""
    found = []
    for index in range(1, num_classes):
        count, parts = cv2.connectedComponents((mask == index).astype(np.uint8), connectivity=4)
        found += [(index, parts == part) for part in range(1, count)
                  if LEAST <= (parts == part).mean() <= LARGEST]
    return found


def planted(
    mask: Mask, kind: str, num_classes: int, rng: np.random.Generator
) -> tuple[Mask, NDArray[np.bool_], int] | None:
    """Return a mask with an error, its pixels and its class; None where nothing fits."""
    mask = mask.copy()
    if kind == 'phantom':
        height, width = mask.shape
        top, left = rng.integers(0, height * 4 // 5), rng.integers(0, width * 4 // 5)
        where = np.zeros(mask.shape, np.bool_)
        where[top:top + height // 8, left:left + width // 8] = True
        where &= mask == 0
        given = num_classes - 1
    else:
        some = objects(mask, num_classes)
        if not some:
            return None
        true, where = some[rng.integers(len(some))]
        given = 0 if kind == 'drop' else int(rng.choice(
            [index for index in range(1, num_classes) if index != true]))
    if where.mean() < LEAST:
        return None
    mask[where] = given
    return mask, where, given


def is_hit(region: SuspectRegion, errors: Planted) -> bool:
    """Say whether a region is a planted one."""
    if region.frame not in errors:
        return False
    where, given = errors[region.frame]
    left, top, width, height = region.box
    inside = where[top:top + height, left:left + width]
    return region.given == given and bool(inside.mean() > HIT)


def draw(data: LabelledFolder, seen: list[tuple[Mask, NDArray[np.float32]]], seed: int) -> str:
    """Plant errors and return a row of the table."""
    rng, errors = np.random.default_rng(seed), Planted()
    check = LabelCheck(data.num_classes, data.ignore_index)
    for k, (stem, mask, (predicted, margin)) in enumerate(
            zip(data.stems, data.masks, seen, strict=True)):
        made = planted(mask, KINDS[k // EVERY % 3], data.num_classes, rng) \
            if k % EVERY == 0 else None
        if made is not None:
            mask, where, given = made
            errors[stem] = where, given
        check.add(stem, mask, predicted, margin)
    hits, found = [], set[str]()
    for region in check.suspects():
        if is_hit(region, errors):
            # A further region of an error is neither a hit nor a miss.
            if region.frame in found:
                continue
            found.add(region.frame)
            hits.append(True)
        else:
            hits.append(False)
    count = len(errors)
    return (f'| {seed} | {count} | {np.mean(hits[:10]):.2f} | {np.mean(hits[:count]):.2f} | '
            f'{len(found) / count:.2f} | {len(hits)} |')


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--bundle', default='pipeline')
    parser.add_argument('--split', default='val')
    parser.add_argument('--draws', type=int, default=6)
    args = parser.parse_args()
    bundle, data = load_bundle(args.bundle), load_folder(args.folder, args.split)
    seen = []
    with open_pipeline(bundle, offline_settings(bundle, Settings(model=args.bundle))) as pipeline:
        pipeline.want(('margin',))
        for image in data.images:
            result = pipeline.measure(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            seen.append((result.label_at_source(),
                         np.float32(1) - result.map_at_source('margin')))
    print('| draw | planted | of the first 10 | of as many as were planted | found | listed |')
    for seed in range(args.draws):
        print(draw(data, seen, seed), flush=True)


if __name__ == '__main__':
    main()
