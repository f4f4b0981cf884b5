# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Time the scores of a frame on one core: all of them, each group of them, and what a gate takes.

The frame is drawn: eight classes, 20 passes, soft borders. The budget is 10 ms for all scores of
640x480. The time of a group is what it adds to the check that every frame gets; its share is of
all scores at once. Groups share work (the division into classes), so that shares may sum to more
than 1.

    python benchmarks/score_speed.py [--width 640] [--height 480] [--rounds 100] [--ignore]

"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import dataclasses
import time

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.scores.density import DENSITY_INPUTS, DENSITY_SCORE, ScoreDensity
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.core.uncertainty import maps_from_coarse_logits, UncertaintyMaps
from uncertainty_seg.storage.model_bundle import load_bundle

BUDGET_MS = 10.0
# What the shipped bundles gate on when this was written, and a gate that looks at more.
GATES = {
    'three of maps': ('entropy.mean', 'mutual_information.top', 'mutual_information.worst_window'),
    'with classes and density': ('entropy.class_mean', 'mutual_information.worst_window',
                                 DENSITY_SCORE),
}


def drawn_frame(card: ModelCard, width: int, height: int) -> tuple[UncertaintyMaps, ImageU8]:
    """Draw an image with detail, and the maps of passes that nearly agree."""
    rng = np.random.default_rng(0)
    shape = card.num_classes, height // 4, width // 4
    common = np.stack([cv2.GaussianBlur(plane, (0, 0), 6) for plane in rng.normal(size=shape)])
    own = rng.normal(size=(card.passes, card.num_classes, 1, 1))
    drawn = maps_from_coarse_logits(80 * common + 0.5 * own, height, width)
    # Rows after rows, as the backends give them.
    maps = UncertaintyMaps(**{
        field.name: np.ascontiguousarray(values) for field in dataclasses.fields(drawn)
        if (values := getattr(drawn, field.name)) is not None})
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return maps, np.asarray(image, np.uint8)


def any_density() -> ScoreDensity:
    """Return four Gaussians: time does not care where."""
    size = len(DENSITY_INPUTS)
    return ScoreDensity(DENSITY_INPUTS, np.zeros(size), np.ones(size), np.full(4, 0.25),
                        np.eye(4, size), np.stack([np.eye(size)] * 4))


def median_ms(call: Callable[[], object], rounds: int) -> float:
    """Time a call after three to warm up, in time of its own core: others may be busy."""
    times = []
    for _ in range(rounds + 3):
        start_s = time.process_time()
        call()
        times.append((time.process_time() - start_s) * 1e3)
    return float(np.median(times[3:]))


def groups_of(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Put scores that share their work together."""
    def ending(*kinds: str) -> tuple[str, ...]:
        return tuple(n for n in names if n.split('.', 1)[1] in kinds or
                     any(f'.{kind}.' in n for kind in kinds))

    return {
        'largest pixels': ending('top'),
        'largest, as foreground': ending('foreground_top'),
        'worst window': ending('worst_window'),
        'largest region': ending('largest_region'),
        'classes and borders': ending('foreground', 'class_mean', 'interior', 'class'),
        'photograph': tuple(n for n in names if n.startswith('image.')),
        'density': (DENSITY_SCORE,),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=480)
    parser.add_argument('--rounds', type=int, default=100)
    parser.add_argument('--ignore', action='store_true', help='leave a corner out')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    card = load_bundle('suim').card
    maps, image = drawn_frame(card, args.width, args.height)
    ignore = np.zeros(image.shape[:2], np.bool_) if args.ignore else None
    if ignore is not None:
        ignore[args.height * 3 // 4:, : args.width // 2] = True
    limits = {name: float(np.quantile(getattr(maps, name), 0.9))
              for name in ('entropy', 'mutual_information')}

    def timed(names: tuple[str, ...] | None) -> float:
        vector = ScoreVector(card, limits, any_density(), names)
        return median_ms(lambda: vector.compute(maps, image, ignore), args.rounds)

    names = ScoreVector(card, limits, any_density()).names
    everything, check = timed(None), timed(('entropy.mean',))
    print(f'{args.width}x{args.height}, {len(names)} scores, one core: {everything:.2f} ms '
          f'(budget for 640x480: {BUDGET_MS:g} ms)')
    print(f'{"check and mean":>26} {check:6.2f} ms {check / everything:6.0%}')
    for title, group in groups_of(names).items():
        own = timed(group) - check
        print(f'{title:>26} {own:6.2f} ms {own / everything:6.0%}')
    for title, gate in GATES.items():
        print(f'gate, {title}: {timed(gate):.2f} ms')


if __name__ == '__main__':
    main()
