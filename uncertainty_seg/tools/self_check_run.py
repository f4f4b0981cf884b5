# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Run a backend and its reference on the same images and masks, and collect what to judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
import os
from pathlib import Path
import sys
import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.dropout_masks import pass_inputs
from uncertainty_seg.core.model_card import InputSpec, ModelCard
from uncertainty_seg.core.pipeline import Backend
from uncertainty_seg.core.preprocess import fit_image, Geometry
from uncertainty_seg.core.score_vector import ScoreVector
from uncertainty_seg.core.self_check import (
    Check,
    closeness_checks,
    Difference,
    difference,
    growth_check,
    same_check,
    sanity_checks,
    Tolerance,
    worst,
    worst_checks,
)
from uncertainty_seg.core.uncertainty import UncertaintyMaps
from uncertainty_seg.synthetic.scene import MAX_TRAINING_TURBIDITY, render_scene

MEMORY_LIMIT_MB = 16.0
# Reading the power may start a program, which takes longer than a frame.
_POWER_EVERY = 5
Masks = Mapping[str, NDArray[np.float32]]


class ReferenceRunner(Protocol):
    """What is asked of a reference."""

    def run(self, image: ImageU8, masks: Masks, temperature: float) -> UncertaintyMaps:
        """Return the maps of an image."""
        ...


@dataclass(frozen=True)
class CheckPlan:
    """
    What is run.

    Attributes
    ----------
    card : ModelCard
        Of the bundle.
    passes, seed : int
        T; of the masks.
    temperature : float
        The logits are divided by it.
    images : sequence of ndarray of uint8, shape (h, w, 3)
        In the card's size and colour order.
    limits : mapping of str to float
        Calibrated limit of each gated score.
    tolerance : Tolerance
        How far the maps may lie from the reference.
    scorer : ScoreVector, optional
        Computes the gate's scores; the usual six without it.

    """

    card: ModelCard
    passes: int
    seed: int
    temperature: float
    images: Sequence[ImageU8]
    limits: Mapping[str, float]
    tolerance: Tolerance
    scorer: ScoreVector | None = None


@dataclass
class Findings:
    """
    What was found.

    Attributes
    ----------
    checks : list of Check
        In the order in which a reader wants them.
    stages_ms : mapping of str to list of float
        Time of each stage and of the whole call, one number a run.
    power_w : mapping of str to list of float
        By rail, sampled between runs.

    """

    checks: list[Check] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    power_w: dict[str, list[float]] = field(default_factory=dict)


def fixed_images(spec: InputSpec, count: int) -> list[ImageU8]:
    """Render the scenes of the seeds 1.. , from clear water to the murkiest of the training."""
    shares = np.linspace(0.05, 0.85, count)
    scenes = [render_scene(seed, size=(spec.width, spec.height),
                           turbidity=float(share) * MAX_TRAINING_TURBIDITY).image
              for seed, share in enumerate(shares, 1)]
    return [fit_image(scene, Geometry.of(spec.height, spec.width, spec), spec)
            for scene in scenes]


def check_backend(
    backend: Backend, reference: ReferenceRunner, plan: CheckPlan, runs: int,
    power: Callable[[], dict[str, float]] | None = None,
    progress: Callable[[str], object] = lambda words: None,
    unrecorded: Callable[[], Backend] | None = None,
) -> Findings:
    """
    Run all checks.

    Parameters
    ----------
    backend : Backend
        Open for the bundle of the plan.
    reference : Runner
        What is right.
    plan : Plan
        What to run.
    runs : int
        How often the backend runs for times, repeatability and memory.
    power : callable, optional
        Returns watts by rail.
    progress : callable, optional
        Told once for each image and each run.
    unrecorded : callable, optional
        Opens the same backend without CUDA graphs, if it has them.

    Returns
    -------
    Findings
        Checks, times and power.

    """
    masks = pass_inputs(plan.card, plan.passes, plan.seed)
    others = pass_inputs(plan.card, plan.passes, plan.seed + 1)
    has_steps = plan.card.reduction == 'full'
    firsts, gaps, sane = [], [], []
    # The first image comes again with other masks: a backend that keeps masks must notice.
    for image, chosen in [*((image, masks) for image in plan.images), (plan.images[0], others)]:
        maps = backend.run(image, chosen, plan.temperature)
        right = reference.run(image, chosen, plan.temperature)
        gaps.append(_gap(maps, right, plan, image))
        sane += sanity_checks(maps, plan.passes, has_steps)
        firsts.append(maps)
        progress('reference')
    found = Findings([*closeness_checks(worst(gaps), plan.tolerance), *worst_checks(sane)])
    found.checks += _device_checks(backend, firsts[0], plan, masks, unrecorded)
    _repeat(backend, plan, masks, firsts, runs, found, power, progress)
    return found


def _gap(
    maps: UncertaintyMaps, right: UncertaintyMaps, plan: CheckPlan, image: ImageU8
) -> Difference:
    if plan.scorer is None:
        return difference(maps, right, plan.passes, plan.limits)
    score = partial(plan.scorer.compute, image=image)
    return difference(maps, right, plan.passes, plan.limits, score)


def _device_checks(
    backend: Backend, first: UncertaintyMaps, plan: CheckPlan, masks: Masks,
    unrecorded: Callable[[], Backend] | None,
) -> list[Check]:
    """Compare ways to the same maps that only some backends have."""
    checks = []
    drawn: Any = getattr(backend, 'pass_inputs', None)
    if drawn is not None:
        maps = backend.run(plan.images[0], drawn(plan.passes, plan.seed), plan.temperature)
        checks.append(same_check('drawn', first, maps,
                                 'values that differ with masks drawn on the device'))
    if unrecorded is not None and getattr(backend, 'is_recorded', False):
        plain = unrecorded()
        try:
            maps = plain.run(plan.images[0], masks, plan.temperature)
        finally:
            plain.close()
        checks.append(same_check('graph', backend.run(plan.images[0], masks, plan.temperature),
                                 maps, 'values that differ when the CUDA graph is replayed'))
    return checks


def _repeat(
    backend: Backend, plan: CheckPlan, masks: Masks, firsts: Sequence[UncertaintyMaps], runs: int,
    found: Findings, power: Callable[[], dict[str, float]] | None,
    progress: Callable[[str], object],
) -> None:
    """Run again and again: the same bits, no more memory, and how long it takes."""
    moved, memory_mb = [], []
    for index in range(runs):
        which = index % len(plan.images)
        start_s = time.perf_counter()
        maps = backend.run(plan.images[which], masks, plan.temperature)
        total_ms = (time.perf_counter() - start_s) * 1e3
        for stage, ms in {**backend.timings_ms, 'total': total_ms}.items():
            found.stages_ms.setdefault(stage, []).append(ms)
        moved.append(same_check('repeatable', firsts[which], maps,
                                'values that differ when the same frame is run again'))
        memory_mb.append(memory_of_process_mb() + _device_mb(backend))
        if power is not None and index % _POWER_EVERY == 0:
            for rail, watts in power().items():
                found.power_w.setdefault(rail, []).append(watts)
        progress('run')
    found.checks += [*worst_checks(moved), growth_check(memory_mb, MEMORY_LIMIT_MB)]


def memory_of_process_mb() -> float:
    """Return what this process holds in memory now; at its most where the system tells no more."""
    try:
        pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    except (OSError, ValueError, IndexError):
        import resource

        unit = 1 if sys.platform == 'darwin' else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


def _device_mb(backend: Backend) -> float:
    """Return the memory a backend holds on its device, where it says so."""
    return float(getattr(backend, 'device_memory_bytes', 0)) / 1e6
