# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What balanced masks do to the statistics, against the noise of the sampler itself.

Balanced masks keep the same number of channels in every pass, so that a runtime need not compute
the dropped ones; independent masks are what the network was trained with. Four sets are drawn for
each image anew, two of each kind, and the maps of the same image under two sets are compared:

* ``two independent draws`` is the noise anyone who runs T passes already accepts;
* ``two balanced draws`` says whether that noise grows or shrinks;
* ``balanced and independent`` holds the noise and, on top, what balancing changes;
* ``... and T=many`` compares T passes with independent masks of many: what T passes stand for.

Columns: share of mask pixels that change; mean absolute difference of the maps of entropy (H) and
mutual information (MI); correlation of the MI maps of a frame, and of the frames' mean MI, which
is what a gate sees; how far that mean moves (root mean square, as a share of it); and the mean of
MI of the second set over that of the first (1: no bias).

    python benchmarks/balanced_study.py BUNDLE DATA [--frames 40] [--many 256] [--threads 1]

Prints two tables and, last, one JSON line.

"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.calibration.labelled_pairs import bgr_pairs
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import kept_channels, make_masks
from uncertainty_seg.core.pipeline import Backend
from uncertainty_seg.core.preprocess import fit_image, Geometry
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.storage.labelled_folder import load_folder
from uncertainty_seg.storage.model_bundle import load_bundle

SETS = {'independent 1': (False, 1), 'independent 2': (False, 2),
        'balanced 1': (True, 3), 'balanced 2': (True, 4)}
Frames = list[UncertaintyMaps]


def images_of(bundle: ModelBundle, folder: Path, frames: int) -> list[tuple[ImageU8, Geometry]]:
    """Return an evenly spread part of the validation images, fitted to the network."""
    data = load_folder(folder, 'val')
    step = max(1, len(data.images) // frames)
    data = dataclasses.replace(data, images=data.images[::step], masks=data.masks[::step],
                               stems=data.stems[::step])
    pairs = [(image, Geometry.of(image.shape[0], image.shape[1], bundle.card.input))
             for image, _ in bgr_pairs(bundle, data)]
    return [(fit_image(image, geometry, bundle.card.input), geometry)
            for image, geometry in pairs[:frames]]


def maps_of(
    bundle: ModelBundle, backend: Backend, images: Sequence[tuple[ImageU8, Geometry]], passes: int,
) -> dict[str, Frames]:
    """Run every image under every set of masks."""
    temperature = bundle.calibration.temperature if bundle.calibration else 1.0
    found: dict[str, Frames] = {name: [] for name in SETS}
    for index, (image, geometry) in enumerate(tqdm(images, desc=f'T={passes}')):
        for name, (balanced, seed) in SETS.items():
            masks = make_masks(bundle.card.dropout_sites, passes, 10 * index + seed, balanced)
            maps = backend.run(image, masks, temperature)
            found[name].append(maps.cut(geometry.rows, geometry.columns))
    return found


def compare(one: Frames, two: Frames) -> dict[str, float]:
    """Average over the frames how two sets of maps differ."""
    pairs = list(zip(one, two, strict=True))
    means = np.array([[a.mutual_information.mean(), b.mutual_information.mean()]
                      for a, b in pairs])
    return {
        'mask px': float(np.mean([(a.label != b.label).mean() for a, b in pairs])),
        'H': float(np.mean([abs(a.entropy - b.entropy).mean() for a, b in pairs])),
        'MI': float(np.mean([abs(a.mutual_information - b.mutual_information).mean()
                             for a, b in pairs])),
        'MI corr': float(np.mean([np.corrcoef(a.mutual_information.ravel(),
                                              b.mutual_information.ravel())[0, 1]
                                  for a, b in pairs])),
        'frame MI corr': float(np.corrcoef(means.T)[0, 1]),
        'frame MI moves': float(np.sqrt(np.mean(
            (2 * (means[:, 1] - means[:, 0]) / means.sum(1)) ** 2))),
        'MI ratio': float(means[:, 1].mean() / means[:, 0].mean()),
    }


def averages(sets: dict[str, Frames], kind: str) -> dict[str, float]:
    """Average maps over pixels, frames, and both draws of a kind."""
    frames = [maps for name in sets if name.startswith(kind) for maps in sets[name]]
    names = {'H': 'entropy', 'MI': 'mutual_information', 'aleatoric': 'aleatoric',
             'variance': 'total_variance', 'variation ratio': 'variation_ratio'}
    return {short: float(np.mean([getattr(maps, name).mean() for maps in frames]))
            for short, name in names.items()}


def print_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print rows as markdown."""
    columns = list(next(iter(rows.values())))
    print(f'\n| {title} | ' + ' | '.join(columns) + ' |\n|' + '---|' * (len(columns) + 1))
    for name, row in rows.items():
        print(f'| {name} | ' + ' | '.join(f'{row[c]:.4f}' for c in columns) + ' |', flush=True)


def main() -> None:
    """Compare balanced and independent masks on one bundle."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bundle')
    parser.add_argument('data', type=Path)
    parser.add_argument('--frames', type=int, default=40)
    parser.add_argument('--many', type=int, default=256)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    bundle = load_bundle(args.bundle)
    backend = open_backend('onnxruntime', bundle, Settings(threads=args.threads))
    images = images_of(bundle, args.data, args.frames)
    few = bundle.card.passes
    maps = {passes: maps_of(bundle, backend, images, passes) for passes in (few, args.many)}
    backend.close()
    means = {f'{kind}, T={passes}': averages(sets, kind)
             for passes, sets in maps.items() for kind in ('independent', 'balanced')}
    rows = {}
    for passes, sets in maps.items():
        for name, one, two in (('two independent draws', 'independent 1', 'independent 2'),
                               ('two balanced draws', 'balanced 1', 'balanced 2'),
                               ('balanced and independent', 'independent 1', 'balanced 1')):
            rows[f'{name}, T={passes}'] = compare(sets[one], sets[two])
    reference = maps[args.many]['independent 1']
    for kind in ('independent', 'balanced'):
        rows[f'{kind} T={few} and T={args.many}'] = compare(reference, maps[few][f'{kind} 2'])
    sites = {s.name: f'{kept_channels(s)} of {s.shape[0]}' for s in bundle.card.dropout_sites}
    print(f'{bundle.card.name}, {len(images)} frames, kept channels: {sites}')
    print_table('means', means)
    print_table('differences', rows)
    print(json.dumps({'bundle': bundle.card.name, 'frames': len(images), 'kept': sites,
                      'means': means, 'differences': rows}))


if __name__ == '__main__':
    main()
