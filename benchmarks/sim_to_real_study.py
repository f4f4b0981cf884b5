# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
What each way from rendered scenes to photographs (or to other water) is worth.

``real``: 400 scenes, 1 020 photographs of SUIM with the same four classes, measured on 120
photographs that nothing else looks at. ``water``: 400 scenes of clear water, 400 of turbid water,
measured on 150 of those. Each arm is trained by the same number of steps from ImageNet weights, or
where it says so from those of the arm ``scenes``, with three seeds; what is labelled of the target
is drawn by the seed. The gain is that over ``scenes`` or, with labels, over ``labels alone`` of
the same seed, with a 95 % t interval over the seeds.

    python benchmarks/sim_to_real_study.py real|water --data DIR --imagenet DIR --work DIR

DIR of --data is what active_learning_data.py made. An arm that is finished is kept in DIR of
--work; the page is docs/studies/sim_to_real_NAME.md.

"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
import json
from pathlib import Path
import time
from typing import Any

import numpy as np
import torch

from uncertainty_seg.calibration.statistics.learning_curves import band_of
from uncertainty_seg.calibration.statistics.metrics import ExpectedCalibrationError
from uncertainty_seg.core.arrays import ImageU8, LabelMap
from uncertainty_seg.core.confusion import ConfusionMatrix
from uncertainty_seg.storage.labelled_folder import LabelledFolder, load_folder, subset
from uncertainty_seg.training.active.judging import Jury
from uncertainty_seg.training.active.prepared import prepare, PreparedImages
from uncertainty_seg.training.active.rounds import NetPlan, recipe_of, round_net
from uncertainty_seg.training.init_weights import read_weights
from uncertainty_seg.training.recipes import train_weights, with_epochs
from uncertainty_seg.training.run_facts import Extras
from uncertainty_seg.training.sim_to_real import (
    adapt_norms,
    colour_statistics,
    NO_TARGET,
    pseudo_labelled,
    SimToReal,
)

ROOT = Path(__file__).resolve().parents[1]
NAMES = {'real': ('scenes', 'suim'), 'water': ('clear', 'turbid')}
PLAN = NetPlan(size=(128, 96), steps=200, batch=16, learning_rate=4e-3, passes=20)
FROZEN, SHARE, SEEDS = 7, 0.05, (0, 1, 2)
ARMS = ('scenes', 'scenes, colours of the target', 'scenes, batch norms of the target',
        'scenes, colours and batch norms', 'scenes, then pseudo-labels', 'labels alone',
        'scenes, then labels', 'scenes and labels in each batch',
        'recoloured scenes and labels in each batch', 'all labels')
LABELLED = ARMS.index('labels alone')
ABOUT = """Each arm is trained by the same number of steps from ImageNet weights, or where it says
so from those of the arm "scenes", with three seeds, and measured on images that nothing else
looked at; what is labelled of the target is drawn by the seed. The gain is that over "scenes" or,
with labels, over "labels alone" of the same seed, with a 95 % t interval over the seeds."""


@dataclass(frozen=True)
class Ground:
    """Images of a study: scenes, the target to choose from, what is labelled, and a test."""

    scenes: LabelledFolder
    pool: LabelledFolder
    test: PreparedImages
    work: Path
    imagenet: Path

    def few(self, seed: int) -> LabelledFolder:
        """Return the labelled share of the target of a seed."""
        count = round(SHARE * len(self.pool.stems))
        return subset(self.pool, np.random.default_rng(seed).permutation(
            len(self.pool.stems))[:count].tolist())


def at_size(data: LabelledFolder) -> LabelledFolder:
    """Return images and masks at the network's size, so that they are resized once."""
    spec = recipe_of(PLAN, None).input
    small = prepare(data, spec, False)
    return replace(data, images=list(small.images), masks=list(small.masks))


def both(first: LabelledFolder, more: LabelledFolder) -> LabelledFolder:
    """Return the images of both, those of the second last."""
    return replace(first, images=first.images + more.images, masks=first.masks + more.masks,
                   stems=first.stems + more.stems)


def trained(
    ground: Ground, name: str, seed: int, data: LabelledFolder, target: SimToReal = NO_TARGET,
    start: Path | None = None,
) -> Path:
    """Train an arm, if it is not yet, and return its weights."""
    weights = ground.work / f'{name.replace(", ", "_").replace(" ", "-")}_{seed}.pt'
    if weights.with_suffix('.done').is_file():
        return weights
    steps = max(1, len(data.stems) // PLAN.batch)
    made = recipe_of(PLAN, None)
    made = replace(made, frozen_layers=FROZEN, fit=replace(made.fit, seed=seed))
    made = with_epochs(made, max(1, round(PLAN.steps / steps)))
    train_weights(made, data, None if start else ground.imagenet, weights, 1,
                  extras=Extras(init=read_weights(start) if start else None, target=target))
    weights.with_suffix('.done').touch()
    return weights


def net_of(ground: Ground, weights: Path) -> torch.nn.Module:
    """Return a trained network."""
    return round_net(PLAN, None, weights, ground.test.num_classes)


def jury_of(net: torch.nn.Module, seed: int) -> Jury:
    """Return what judges by it."""
    return Jury((net,), recipe_of(PLAN, None).input, PLAN.passes, seed)


def measured(ground: Ground, net: torch.nn.Module, seed: int) -> dict[str, float]:
    """Return mean IoU and calibration error on the test images."""
    table, gap = ConfusionMatrix(ground.test.num_classes), ExpectedCalibrationError()
    for truth, (label, confidence) in zip(
            ground.test.truths, jury_of(net, seed).predictions(ground.test), strict=True):
        table.add(truth, label, ground.test.ignore_index)
        known = truth != ground.test.ignore_index
        gap.add(confidence[known], (label == truth)[known])
    return {'mean_iou': table.mean_iou(), 'ece': gap.value()}


def with_pseudo(ground: Ground, seed: int, scenes: Path) -> Path:
    """Go on from a network on scenes with the labels it gives to the target where it is sure."""
    spec = recipe_of(PLAN, None).input
    pool = prepare(ground.pool, spec, False)
    maps = jury_of(net_of(ground, scenes), seed).maps(pool)

    def predict(_: ImageU8) -> tuple[LabelMap, Any]:
        one = next(maps)
        return one.label, one.entropy

    def images() -> Iterator[tuple[str, ImageU8]]:
        for stem, image, (top, end, left, right) in zip(pool.stems, pool.images, pool.boxes,
                                                        strict=True):
            yield stem, np.ascontiguousarray(image[top:end, left:right])

    part = pseudo_labelled(images(), predict, ground.pool, 0.5, by_class=True)
    target = SimToReal(mixed=len(part.stems), share=0.5, pseudo=len(part.stems))
    return trained(ground, 'scenes, then pseudo-labels', seed, both(ground.scenes, at_size(part)),
                   target, scenes)


def nets(ground: Ground, seed: int) -> Iterator[tuple[str, Callable[[], torch.nn.Module]]]:
    """Yield every arm of a seed and what trains and returns its network."""
    colours = np.stack([colour_statistics(image) for image in ground.pool.images])
    adapted = partial(_adapted, ground, seed)
    scenes = partial(trained, ground, ARMS[0], seed, ground.scenes)
    coloured = partial(trained, ground, ARMS[1], seed, ground.scenes, SimToReal(colours=colours))
    few = ground.few(seed)
    mixed = SimToReal(mixed=len(few.stems), share=0.5)
    together = both(ground.scenes, few)
    runs: dict[str, Callable[[], Path]] = {
        ARMS[0]: scenes, ARMS[1]: coloured,
        ARMS[4]: lambda: with_pseudo(ground, seed, scenes()),
        ARMS[5]: lambda: trained(ground, ARMS[5], seed, few),
        ARMS[6]: lambda: trained(ground, ARMS[6], seed, few, start=scenes()),
        ARMS[7]: lambda: trained(ground, ARMS[7], seed, together, mixed),
        ARMS[8]: lambda: trained(ground, ARMS[8], seed, together,
                                 replace(mixed, colours=colours)),
        ARMS[9]: lambda: trained(ground, ARMS[9], seed, ground.pool)}
    for arm in ARMS:
        if arm in runs:
            yield arm, partial(_of, ground, runs[arm])
        else:
            yield arm, partial(adapted, scenes if arm == ARMS[2] else coloured)


def _of(ground: Ground, run: Callable[[], Path]) -> torch.nn.Module:
    return net_of(ground, run())


def _adapted(ground: Ground, seed: int, run: Callable[[], Path]) -> torch.nn.Module:
    net = net_of(ground, run())
    adapt_norms(net, ground.pool.images, seed)
    return net


def page(name: str, found: dict[str, list[dict[str, float]]], hours: float) -> str:
    """Return the table as Markdown."""
    rows = ['| trained on | mean IoU | least to most | gain | ECE |', '|---|---|---|---|---|']
    for place, arm in enumerate(ARMS):
        values = [one['mean_iou'] for one in found[arm]]
        base = found[ARMS[0] if place < LABELLED else ARMS[LABELLED]]
        gain = band_of([one - other['mean_iou'] for one, other in zip(values, base, strict=True)])
        said = '' if arm in (ARMS[0], ARMS[LABELLED]) else \
            f'{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]'
        rows.append(f'| {arm} | {np.mean(values):.3f} | {min(values):.3f} to {max(values):.3f} | '
                    f'{said} | {np.mean([one["ece"] for one in found[arm]]):.3f} |')
    source, target = NAMES[name]
    return '\n'.join([
        f'# What leads from {source} to {target}', '',
        ABOUT, '',
        f'    python benchmarks/sim_to_real_study.py {name} --data DIR --imagenet DIR --work DIR',
        '', *rows, '',
        f'"Labels" are {SHARE:.0%} of the target, "all labels" all of them. {len(SEEDS)} seeds, '
        f'{PLAN.steps} steps of {PLAN.batch} images, input\n{PLAN.size[0]}x{PLAN.size[1]}, '
        f'MobileNetV2; {hours:.1f} hours of one core.', ''])


def main() -> None:
    """Train and measure all arms, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', choices=tuple(NAMES))
    for option in ('--data', '--imagenet', '--work'):
        parser.add_argument(option, type=Path, required=True)
    args = parser.parse_args()
    source, target = NAMES[args.name]
    work = args.work / f'sim_to_real_{args.name}'
    work.mkdir(parents=True, exist_ok=True)
    spec = recipe_of(PLAN, None).input
    ground = Ground(at_size(load_folder(args.data / source, 'train')),
                    at_size(load_folder(args.data / target, 'train')),
                    prepare(load_folder(args.data / target, 'test'), spec, True), work,
                    args.imagenet)
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in SEEDS:
        for arm, run in nets(ground, seed):
            started_s = time.process_time()
            found[arm].append(measured(ground, run(), seed))
            print(seed, arm, found[arm][-1], f'{time.process_time() - started_s:.0f} s',
                  flush=True)
    (work / 'found.json').write_text(json.dumps(found))
    (ROOT / 'docs' / 'studies' / f'sim_to_real_{args.name}.md').write_text(
        page(args.name, found, time.process_time() / 3600))


if __name__ == '__main__':
    main()
