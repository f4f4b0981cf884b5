# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Synthetic frames for comparisons: counts and scores whose result is known."""

from collections.abc import Mapping

import numpy as np

from uncertainty_seg.calibration.compare import Comparison
from uncertainty_seg.calibration.comparison_rows import Contended, FigureRow, rows_of

COUNT, BINS, FOREIGN = 90, 64, 40


def planted(
    skill: float = 0.0, accuracy: float = 0.7, seed: int = 1, more_maps: tuple[str, ...] = ()
) -> Contended:
    """Return frames whose maps and scores separate wrong, bad and foreign better with `skill`."""
    rng, plan = np.random.default_rng(seed), np.random.default_rng(0)
    bad = plan.uniform(size=COUNT) < 0.35
    right = rng.binomial(1000, accuracy, COUNT)
    confusion = np.stack([right, 1000 - right, 1000 - right, right], 1)
    bins = np.zeros((COUNT, 45))
    bins[:, 12], bins[:, 27], bins[:, 42] = 2000, 2 * right, 2000 * 0.83
    noise = rng.normal(size=COUNT)

    def pixels(lead: float) -> tuple[np.ndarray, np.ndarray]:
        wrong, fine = np.zeros((COUNT, BINS), np.uint32), np.zeros((COUNT, BINS), np.uint32)
        for frame in range(COUNT):
            for part, centre in ((wrong, 20 + 12 * lead), (fine, 16)):
                places = np.clip(rng.normal(centre, 8, 300), 1, BINS - 1).astype(int)
                part[frame] = np.bincount(places, minlength=BINS)
        return wrong, fine

    def squashed(values: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-values))

    scores = {'entropy.mean': squashed(1.2 * bad + skill * 2 * bad + noise),
              'entropy.top': squashed(rng.normal(size=COUNT))}
    foreign = {'entropy.mean': squashed(0.8 + 2 * skill + rng.normal(size=FOREIGN)),
               'entropy.top': squashed(rng.normal(size=FOREIGN))}
    return Contended(bad, np.concatenate([confusion, bins], 1).astype(float), scores,
                     {name: pixels(skill) for name in ('entropy', *more_maps)}, foreign, 1.5)


def rows(contended: Mapping[str, Contended]) -> tuple[FigureRow, ...]:
    """Return the comparison's rows of synthetic frames, each frame its own bootstrap block."""
    return rows_of(contended, np.array([f'f{i}' for i in range(COUNT)]), 2, (0.1, 0.15), 200)


def comparison(contended: Mapping[str, Contended]) -> Comparison:
    """Return the comparison of synthetic frames."""
    return Comparison(rows(contended), {label: f'{label} <as planted>.' for label in contended},
                      dict.fromkeys(contended, '30.0 ms against 20.0 ms'), {},
                      ('the frames are <planted>.',))
