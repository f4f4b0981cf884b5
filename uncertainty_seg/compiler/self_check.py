# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Self-check of a backend: compare its maps with those of a reference.

Backend and reference run on the same images and masks. Each comparison has a threshold, which NaN
never passes. The result is stored next to the engines, and a precision that failed is refused on
this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
import math
import os
from pathlib import Path
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from tqdm import tqdm

from uncertainty_seg.compiler.head_graphs import logits_of
from uncertainty_seg.compiler.onnx_tools import constants, load_model, session_of
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import lazy_inputs, Masks, num_passes
from uncertainty_seg.core.gate import gate_limits
from uncertainty_seg.core.model_card import FEATURE_MAP, InputSpec, ModelCard
from uncertainty_seg.core.plausibility import Backend
from uncertainty_seg.core.preprocess import fit_image, Geometry
from uncertainty_seg.core.scores.vector import score_names, ScoreVector
from uncertainty_seg.core.settings import passes_of, precision_of, Settings
from uncertainty_seg.core.uncertainty import (
    grid_maps,
    MAP_NAMES,
    PassSums,
    sums_of_logits,
    UncertaintyMaps,
)
from uncertainty_seg.errors import ConfigError, ModelBundleError
from uncertainty_seg.sim.scene import MAX_TRAINING_TURBIDITY, render_scene

MEMORY_LIMIT_MB = 16.0
FEWEST_RUNS = 4


@dataclass(frozen=True)
class SelfCheckOutcome:
    """
    Result of a self-check.

    Attributes
    ----------
    is_passed : bool
        Whether every check passed.
    values : dict of str to any
        Bundle, backend, every check with its threshold, and latency; for JSON.
    table : str
        The same values, human-readable.
    record : Path
        File that the backend reads before it computes in this precision.

    """

    is_passed: bool
    values: dict[str, Any]
    table: str
    record: Path


def self_check(
    bundle: ModelBundle | Path | str,
    *,
    settings: Settings | None = None,
    frames: int = 4,
    runs: int = 40,
) -> SelfCheckOutcome:
    """
    Compare a backend with ONNX Runtime on the CPU, and store the result next to the engines.

    Parameters
    ----------
    bundle : ModelBundle, Path or str
        Shipped name or folder.
    settings : Settings, optional
        Backend, precision, T, seed, threads and memory budget.
    frames : int
        Number of images that are compared with the reference.
    runs : int
        Number of runs for repeatability, memory and latency.

    Returns
    -------
    SelfCheckOutcome
        Whether the checks passed, and all figures.

    Raises
    ------
    UncertaintySegError
        If the bundle cannot be read or the backend does not work on this machine.

    """
    from uncertainty_seg.backends.check_record import (
        checking,
        key_of,
        SelfCheckRecord,
        write_record,
    )
    from uncertainty_seg.backends.opening import as_bundle, checked_settings
    from uncertainty_seg.backends.registry import open_backend

    if frames < 1 or runs < FEWEST_RUNS:
        raise ConfigError(f'{frames} frames and {runs} runs', f'at least 1 and {FEWEST_RUNS}')
    settings = checked_settings(settings)
    bundle = as_bundle(bundle, trusted_keys=settings.trusted_keys)
    precision = precision_of(bundle.card, settings.precision)
    for path in (bundle.trunk_path, bundle.passes_path):
        _require_numbers(path)
    with checking():
        backend = open_backend(settings.backend, replace(bundle, calibration=None), settings)
    try:
        plan = _plan(bundle, settings, fixed_images(bundle.card.input, frames), precision)
        key = key_of(bundle.card, backend, precision)
        reference = Reference(bundle, settings.threads)
        facts = {'bundle': bundle.card.name, 'backend': backend.name, 'version': key.version,
                 'precision': precision, 'device': key.device,
                 'passes': plan.passes, 'frames': frames}
        with tqdm(total=frames + 1 + runs, desc='self-check', leave=False) as bar:
            found = check_backend(backend, reference, plan, runs, lambda words: bar.update())
    finally:
        backend.close()
    values = report_values(found, facts)
    record = SelfCheckRecord(key, values['is_passed'], tuple(values['failed']), values)
    return SelfCheckOutcome(values['is_passed'], values, report_table(found, facts),
                            write_record(record))


def _require_numbers(path: Path) -> None:
    """Raise for a NaN weight, which OpenVINO turns into numbers; masks may hold infinity."""
    for name, values in constants(load_model(str(path)).graph).items():
        if values.dtype.kind in 'fV' and np.isnan(values).any():
            raise ModelBundleError(f'the weight {name!r} of {path} holds a NaN', 'numbers',
                                   'compile it from a checkpoint before the training diverged')


def _plan(
    bundle: ModelBundle, settings: Settings, images: Sequence[ImageU8], precision: str
) -> CheckPlan:
    card, made = bundle.card, bundle.calibration
    limits = gate_limits(made, settings.gate) if made else {}
    return CheckPlan(
        card, passes_of(card, settings), settings.seed, made.temperature if made else 1.0, images,
        limits, TOLERANCES[precision], ScoreVector(card, limits or score_names(), bundle.features),
        precision)


# -------------------------------------------------------------------------------------------------
# Run backend and reference, then repeat the backend.


@dataclass(frozen=True)
class CheckPlan:
    """
    Inputs of a self-check.

    Images are uint8 (h, w, 3) in the card's size and colour order; `limits` are the thresholds of
    the gated scores, and `scorer` computes these.
    """

    card: ModelCard
    passes: int
    seed: int
    temperature: float
    images: Sequence[ImageU8]
    limits: Mapping[str, float]
    tolerance: Tolerance
    scorer: ScoreVector
    precision: str = 'fp32'

    def masks(self, seed: int) -> Masks:
        """Draw the masks of a frame."""
        return lazy_inputs(self.card, self.passes, seed)


@dataclass
class Findings:
    """Checks and latencies of a self-check."""

    checks: list[Check] = field(default_factory=list)  # In the order of the report.
    # Milliseconds of each stage and of the whole call, one number per run.
    stages_ms: dict[str, list[float]] = field(default_factory=dict)


def fixed_images(spec: InputSpec, count: int) -> list[ImageU8]:
    """Render scenes of the seeds 1, 2, ... at 5 % to 85 % of the training's largest turbidity."""
    shares = np.linspace(0.05, 0.85, count)
    scenes = [render_scene(seed, size=(spec.width, spec.height),
                           turbidity=float(share) * MAX_TRAINING_TURBIDITY).image
              for seed, share in enumerate(shares, 1)]
    return [fit_image(scene, Geometry.of(spec.height, spec.width, spec), spec) for scene in scenes]


def check_backend(
    backend: Backend, reference: Any, plan: CheckPlan, runs: int,
    progress: Callable[[str], object] = lambda words: None,
) -> Findings:
    """Run all checks."""
    masks, others = plan.masks(plan.seed), plan.masks(plan.seed + 1)
    firsts, gaps, sane = [], [], []
    # The first image runs again with other masks, to catch a backend that reuses old masks.
    for image, chosen in [*((image, masks) for image in plan.images), (plan.images[0], others)]:
        maps = _run(backend, plan, image, chosen)
        right = _run(reference, plan, image, chosen)
        gaps.append(difference(maps, right, plan.passes, plan.limits, plan.scorer.compute))
        sane += sanity_checks(maps, plan.passes)
        firsts.append(maps)
        progress('reference')
    found = Findings([*closeness_checks(worst(gaps), plan.tolerance), *worst_checks(sane)])
    _repeat(backend, plan, masks, firsts, runs, found, progress)
    return found


def _run(runner: Any, plan: CheckPlan, image: ImageU8, masks: Masks) -> UncertaintyMaps:
    """Return the maps of an image on the logits' grid."""
    return grid_maps(runner.run(image, masks, plan.temperature))


def _repeat(
    backend: Backend, plan: CheckPlan, masks: Masks, firsts: Sequence[UncertaintyMaps], runs: int,
    found: Findings, progress: Callable[[str], object],
) -> None:
    """Repeat runs to check for equal bits and constant memory, and to measure latency."""
    moved, memory_mb = [], []
    for index in range(runs):
        which = index % len(plan.images)
        start_s = time.perf_counter()
        maps = _run(backend, plan, plan.images[which], masks)
        total_ms = (time.perf_counter() - start_s) * 1e3
        for stage, ms in {**backend.timings_ms, 'total': total_ms}.items():
            found.stages_ms.setdefault(stage, []).append(ms)
        moved.append(same_check(firsts[which], maps))
        memory_mb.append(memory_of_process_mb())
        progress('run')
    found.checks += [*worst_checks(moved), growth_check(memory_mb, MEMORY_LIMIT_MB)]


def memory_of_process_mb() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


# -------------------------------------------------------------------------------------------------
# The reference for backends: ONNX Runtime on the CPU in float32, and the definitions in numpy.
# It shares only the bundle's files with the backends: its sessions fuse nothing, passes run one
# by one, and `core.uncertainty` sums them in float64. It is simple and slow.


class Reference:
    """
    Run a bundle without optimisations; 16-bit weights are widened to float32.

    Raises BackendUnavailableError if ONNX Runtime is not installed. `threads` are ONNX Runtime's;
    0 means all cores.
    """

    def __init__(self, bundle: ModelBundle, threads: int = 0) -> None:
        self._card = bundle.card
        self._trunk = _session(load_model(str(bundle.trunk_path)), threads)
        self._head = _session(logits_of(load_model(str(bundle.passes_path))), threads)

    def run(self, image: ImageU8, masks: Masks, temperature: float) -> PassSums:
        """Return an image's sums over the passes in float64, as `Backend.run` does."""
        found = self._trunk_of(image)
        logits = self._logits(image, found, masks)
        sums = sums_of_logits(logits, temperature, self._card.grid_offset)
        return replace(sums, features=found[FEATURE_MAP]) if self._card.feature_shape else sums

    def _trunk_of(self, image: ImageU8) -> dict[str, NDArray[np.float32]]:
        names = [info.name for info in self._trunk.get_outputs()]
        return dict(zip(names, self._trunk.run(names, {'image': image[None]}), strict=True))

    def _logits(
        self, image: ImageU8, found: dict[str, NDArray[np.float32]], masks: Masks
    ) -> NDArray[np.float32]:
        """Return the logits, float32 (T, C, hl, wl)."""
        wanted = {info.name for info in self._head.get_inputs()}
        given = {name: value for name, value in {'image': image[None], **found}.items()
                 if name in wanted}
        return np.concatenate([
            self._head.run(['logits'], {**given, **{n: m[t:t + 1] for n, m in masks.items()}})[0]
            for t in range(num_passes(masks))])


def _session(model: onnx.ModelProto, threads: int) -> Any:
    from uncertainty_seg.compiler.precision import to_float32

    # ENABLE_BASIC fuses nothing and keeps the rounding steps of a quantised trunk.
    return session_of(to_float32(model), 'ENABLE_BASIC', threads)


# -------------------------------------------------------------------------------------------------
# Reports of the self-check: a human-readable table and values for JSON.

_PERCENTILES = (50, 90, 99)


def report_values(found: Findings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return all results in one dictionary for JSON; NaN and infinite numbers become None.

    Its keys are those of `facts` (bundle, backend, version, precision, passes), then `is_passed`,
    `failed`, `checks`, `latency_ms`.
    """
    return {
        **facts,
        'is_passed': all(check.is_passed for check in found.checks),
        'failed': [check.name for check in found.checks if not check.is_passed],
        'checks': {check.name: {'measured': _finite(check.measured), 'limit': check.limit,
                                'is_passed': check.is_passed} for check in found.checks},
        'latency_ms': {stage: _percentiles(times) for stage, times in found.stages_ms.items()},
    }


def report_table(found: Findings, facts: Mapping[str, Any]) -> str:
    """Return the same results as a table, at most 99 columns wide."""
    lines = [', '.join(f'{name} {value}' for name, value in facts.items() if value != ''), '']
    lines += _check_lines(found.checks)
    if found.stages_ms:
        count = len(found.stages_ms['total'])
        lines += ['', f'{f"ms, {count} runs":20}' + ''.join(f'{f"p{p}":>10}' for p in _PERCENTILES)
                  + f'{"max":>10}']
        for stage, times in found.stages_ms.items():
            numbers = _percentiles(times).values()
            lines.append(f'{stage:20}' + ''.join(f'{number:10.2f}' for number in numbers))
    return '\n'.join(lines)


def _check_lines(checks: Sequence[Check]) -> list[str]:
    lines = [f'{"check":20}{"measured":>10}{"at most":>10}']
    for check in checks:
        verdict = 'ok    ' if check.is_passed else 'FAILED'
        lines.append(f'{check.name:20}{check.measured:10.3g}{check.limit:10.3g}  {verdict}  '
                     f'{check.about}')
    return lines


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    points = {f'p{p}': round(float(np.percentile(times, p)), 3) for p in _PERCENTILES}
    return {**points, 'max': round(max(times), 3)}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# -------------------------------------------------------------------------------------------------
# The comparisons.

# Maps compared by value. The variation ratio changes in steps of 1 / T, so its differing pixels
# are counted instead; least confidence is computed from confidence.
VALUE_MAPS = ('confidence', *(name for name in MAP_NAMES
                              if name not in ('variation_ratio', 'least_confidence')))
QUANTILE = 0.999
# How far rounding may take a map beyond the range 0..1.
_SLACK = 1e-5
# Scale for score differences if there are no calibrated thresholds.
_PLAIN_LIMIT = 0.1


@dataclass(frozen=True)
class Tolerance:
    """Largest permitted differences from the reference."""

    label_share: float  # Share of pixels with another label.
    vote_share: float  # Share of pixels whose variation ratio differs.
    mean: float  # Mean absolute difference of a map, whose values are within 0..1.
    quantile: float  # Quantile `QUANTILE` of a map's absolute differences.
    largest: float  # Largest absolute difference at any pixel.
    score: float  # Difference of a frame score, as a share of its calibrated threshold.


@dataclass(frozen=True)
class Difference(Tolerance):
    """Measured differences from the reference, in the same quantities."""


@dataclass(frozen=True)
class Check:
    """One comparison of a measured value with its limit."""

    name: str
    measured: float  # The check passes if this is at most `limit`; NaN never passes.
    limit: float
    about: str  # Human-readable meaning of the value.

    @property
    def is_passed(self) -> bool:
        """Whether the check passed."""
        return self.measured <= self.limit


# By precision; about four times the differences measured on the shipped bundles
# (docs/explanation/results.md), for fp16 in the backend onnxruntime with each result rounded.
# tf32 was not measured: it rounds less often than fp16, to a mantissa of the same length. A bf16
# network differs enough to need its own calibration.
TOLERANCES: Mapping[str, Tolerance] = {
    'fp32': Tolerance(2e-4, 1e-3, 5e-6, 5e-5, 1e-3, 1e-4),
    'tf32': Tolerance(7e-3, 0.05, 2e-3, 0.03, 0.05, 0.03),
    'fp16': Tolerance(7e-3, 0.05, 2e-3, 0.03, 0.05, 0.03),
    'bf16': Tolerance(0.02, 0.2, 0.025, 0.25, 0.6, 0.05),
}


def difference(
    maps: UncertaintyMaps, reference: UncertaintyMaps, passes: int, limits: Mapping[str, float],
    score: Callable[[UncertaintyMaps], Mapping[str, float]],
) -> Difference:
    """
    Measure the differences of maps from the reference's, for the same image and masks.

    A variation ratio differs where it changed by half a vote or more. Score differences are shares
    of the score's threshold; scores without one are not compared. Without any thresholds, all
    scores are compared on a scale of 0.1. A difference is NaN if a map holds NaN.
    """
    gaps = [_apart(maps.of(name), reference.of(name)) for name in VALUE_MAPS]
    votes = _apart(maps.variation_ratio, reference.variation_ratio)
    return Difference(
        label_share=float((maps.label != reference.label).mean()),
        # Negated, so that a NaN vote counts as different.
        vote_share=float((~(votes < 0.5 / passes)).mean()),
        mean=_largest(gap.mean() for gap in gaps),
        quantile=_largest(np.quantile(gap, QUANTILE) for gap in gaps),
        largest=_largest(gap.max() for gap in gaps),
        score=_score_gap(score(maps), score(reference), limits),
    )


def worst(differences: Iterable[Difference]) -> Difference:
    """Return the largest of each quantity; NaN if any is NaN."""
    found = list(differences)
    names = [f.name for f in fields(Difference)]
    return Difference(*(_largest(getattr(d, name) for d in found) for name in names))


def closeness_checks(found: Difference, tolerance: Tolerance) -> list[Check]:
    """Compare a difference with its tolerance, quantity by quantity."""
    about = {
        'label_share': 'share of pixels with another label',
        'vote_share': 'share of pixels with another variation ratio',
        'mean': 'mean difference of a map',
        'quantile': f'difference of a map that {QUANTILE:.1%} of its pixels stay below',
        'largest': 'largest difference of a map at any pixel',
        'score': 'largest difference of a frame score, in shares of its limit',
    }
    return [Check(name, getattr(found, name), getattr(tolerance, name), text)
            for name, text in about.items()]


def sanity_checks(maps: UncertaintyMaps, passes: int) -> list[Check]:
    """Check what must hold for any network: finite, within 0..1, variation ratio k / T."""
    floats = {name: maps.of(name) for name in ('confidence', *MAP_NAMES)}
    broken = sum(int((~np.isfinite(values)).sum()) for values in floats.values())
    # Total variance is at most 1 - 1/C, so the range 0..1 holds for all maps.
    beyond = _largest(max(0.0, -float(v.min()), float(v.max()) - 1.0) for v in floats.values())
    votes = maps.variation_ratio.astype(np.float64) * passes
    off = float(np.abs(votes - np.rint(votes)).max())
    return [
        Check('finite', broken, 0, 'values that are not finite'),
        Check('range', beyond, _SLACK, 'how far a map goes beyond 0..1'),
        Check('votes', off, 1e-3, 'how far T times variation ratio is from whole'),
    ]


def same_check(first: UncertaintyMaps, again: UncertaintyMaps) -> Check:
    """Count the values whose bits differ between two runs; equal NaN bits are equal."""
    moved = sum(int((_bits(first.of(name)) != _bits(again.of(name))).sum()) for name in MAP_NAMES)
    return Check('repeatable', moved, 0, 'values that differ when the same frame is run again')


def worst_checks(checks: Iterable[Check]) -> list[Check]:
    """Keep the worst check of each name, in the order of first appearance."""
    kept: dict[str, Check] = {}
    for check in checks:
        before = kept.get(check.name, check)
        kept[check.name] = replace(check, measured=_largest([before.measured, check.measured]))
    return list(kept.values())


def growth_check(samples_mb: Iterable[float], limit_mb: float) -> Check:
    """
    Check that memory, in MB after each run, does not keep growing.

    The first half of the samples is ignored as warm-up; the second half may grow by `limit_mb`
    above its first sample. Fewer than four samples fail.
    """
    samples = list(samples_mb)
    late = samples[len(samples) // 2:]
    grown = max(late) - late[0] if len(samples) >= 4 else math.nan
    return Check('memory', grown, limit_mb, 'MB of growth in the second half of the runs')


def _apart(values: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    if values.shape != reference.shape:
        return np.full(reference.shape, np.nan)
    return np.abs(values.astype(np.float64) - reference.astype(np.float64))


def _score_gap(
    scores: Mapping[str, float], wanted: Mapping[str, float], limits: Mapping[str, float]
) -> float:
    scales = dict(limits) or dict.fromkeys(wanted, _PLAIN_LIMIT)
    return _largest(abs(scores[name] - wanted[name]) / scale for name, scale in scales.items())


def _largest(values: Iterable[float]) -> float:
    """Return the maximum, or NaN if any value is NaN; with NaN, max() depends on the order."""
    return float(np.max(np.fromiter(values, np.float64), initial=0.0))


def _bits(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return values.view(np.uint32) if values.dtype == np.float32 else values
