# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Run a backend and its reference on the same images and masks, and collect what to judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
import math
import os
from pathlib import Path
import shutil
import subprocess
import sys
import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.compiler.self_check.reference import (
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
from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.dropout_masks import lazy_inputs, Masks, num_passes
from uncertainty_seg.core.model_card import FEATURE_MAP, InputSpec, ModelCard
from uncertainty_seg.core.plausibility import Backend
from uncertainty_seg.core.preprocess import fit_image, Geometry
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.core.uncertainty import (
    MapRequest,
    maps_from_coarse_logits,
    maps_from_logits,
    NO_MORE,
    UncertaintyMaps,
    upsample_bilinear,
)
from uncertainty_seg.errors import BackendUnavailableError, install_command
from uncertainty_seg.sim.scene import MAX_TRAINING_TURBIDITY, render_scene

MEMORY_LIMIT_MB = 16.0
# Reading the power may start a program, which takes longer than a frame.
_POWER_EVERY = 5


class ReferenceRunner(Protocol):
    """What is asked of a reference."""

    def run(
        self, image: ImageU8, masks: Masks, temperature: float, request: MapRequest = NO_MORE
    ) -> UncertaintyMaps:
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
        T, of the masks.
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
    request : MapRequest
        Maps that these scores need besides the usual ones.
    reduction : str
        How the passes become maps, 'exact' or 'coarse'.
    precision : str
        What the backend computes in.

    """

    card: ModelCard
    passes: int
    seed: int
    temperature: float
    images: Sequence[ImageU8]
    limits: Mapping[str, float]
    tolerance: Tolerance
    scorer: ScoreVector | None = None
    request: MapRequest = NO_MORE
    reduction: str = 'exact'
    precision: str = 'fp32'

    def masks(self, seed: int) -> Masks:
        """Draw the masks of a frame."""
        return lazy_inputs(self.card, self.passes, seed)


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
    masks, others = plan.masks(plan.seed), plan.masks(plan.seed + 1)
    has_steps = plan.reduction == 'exact'
    firsts, gaps, sane = [], [], []
    # The first image comes again with other masks: a backend that keeps masks must notice.
    for image, chosen in [*((image, masks) for image in plan.images), (plan.images[0], others)]:
        maps = _run(backend, plan, image, chosen)
        right = _run(reference, plan, image, chosen)
        gaps.append(_gap(maps, right, plan, image))
        sane += sanity_checks(maps, plan.passes, has_steps)
        firsts.append(maps)
        progress('reference')
    found = Findings([*closeness_checks(worst(gaps), plan.tolerance), *worst_checks(sane)])
    found.checks += _device_checks(backend, plan, masks, unrecorded)
    _repeat(backend, plan, masks, firsts, runs, found, power, progress)
    return found


def _gap(
    maps: UncertaintyMaps, right: UncertaintyMaps, plan: CheckPlan, image: ImageU8
) -> Difference:
    if plan.scorer is None:
        return difference(maps, right, plan.passes, plan.limits)
    score = partial(plan.scorer.compute, image=image)
    return difference(maps, right, plan.passes, plan.limits, score)


def _run(
    runner: ReferenceRunner, plan: CheckPlan, image: ImageU8, masks: Masks
) -> UncertaintyMaps:
    """Return the maps of an image that the plan asks for, all of them in every run."""
    # As the pipeline does: an empty request is left out.
    request = (plan.request,) if plan.request.names else ()
    return runner.run(image, masks, plan.temperature, *request)


def _device_checks(
    backend: Backend, plan: CheckPlan, masks: Masks, unrecorded: Callable[[], Backend] | None,
) -> list[Check]:
    """Compare recorded CUDA graphs with the calls themselves, where a backend has both."""
    checks = []
    if unrecorded is not None and getattr(backend, 'is_recorded', False):
        plain = unrecorded()
        try:
            maps = _run(plain, plan, plan.images[0], masks)
        finally:
            plain.close()
        checks.append(same_check('graph', _run(backend, plan, plan.images[0], masks), maps,
                                 'values that differ when the CUDA graph is replayed'))
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
        maps = _run(backend, plan, plan.images[which], masks)
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


# -------------------------------------------------------------------------------------------------
# What a backend is held against: ONNX Runtime on the CPU in float32, and the definitions in numpy.
# It shares no line with the backends but the files of the bundle: sessions that fuse nothing, one
# pass after the other, and `core.uncertainty` in float64 for what follows. Slow, and simple.

_STRIPE = 32  # rows at a time in float64


class Reference:
    """
    Run a bundle as literally as it can be run.

    Raises BackendUnavailableError if ONNX Runtime is not installed.

    Parameters
    ----------
    bundle : ModelBundle
        A checked bundle, of any precision: weights of 16 bits are widened, an int8 trunk is
        computed with float32 between its rounding steps.
    threads : int
        Of ONNX Runtime; 0 takes every core.
    reduction : str
        How the passes become maps, 'exact' or 'coarse'.

    """

    def __init__(
        self, bundle: ModelBundle, threads: int = 0, reduction: str = 'exact'
    ) -> None:
        self._card, self._reduction = bundle.card, reduction
        self._trunk = _session(bundle.trunk_path, threads)
        self._head = _session(bundle.head_path, threads)

    def run(
        self, image: ImageU8, masks: Masks, temperature: float, request: MapRequest = NO_MORE
    ) -> UncertaintyMaps:
        """Return the maps of an image; as `Backend.run`."""
        found = self._trunk_of(image)
        logits = self._logits(image, found, masks)
        maps = self._maps(logits, temperature, request)
        return maps.with_features(found[FEATURE_MAP]) if self._card.feature_shape else maps

    def _maps(
        self, logits: NDArray[np.floating], temperature: float, request: MapRequest
    ) -> UncertaintyMaps:
        card, spec = self._card, self._card.input
        if self._reduction == 'coarse':
            return maps_from_coarse_logits(
                logits, spec.height, spec.width, temperature, card.upsampling, request)
        full = np.stack([upsample_bilinear(one, spec.height, spec.width, card.upsampling)
                         .astype(np.float32) for one in logits])
        stripes = [
            maps_from_logits(part, part.shape[2], part.shape[3], temperature, request=request)
            for part in (full[:, :, row:row + _STRIPE] for row in range(0, spec.height, _STRIPE))
        ]
        return UncertaintyMaps(**{
            name: np.concatenate([getattr(part, name) for part in stripes])
            for name in stripes[0].present})

    def _trunk_of(self, image: ImageU8) -> dict[str, NDArray[np.float32]]:
        names = [info.name for info in self._trunk.get_outputs()]
        return dict(zip(names, self._trunk.run(names, {'image': image[None]}), strict=True))

    def _logits(
        self, image: ImageU8, found: dict[str, NDArray[np.float32]], masks: Masks
    ) -> NDArray[np.float32]:
        """Return (T, C, hl, wl)."""
        wanted = {info.name for info in self._head.get_inputs()}
        given = {name: value for name, value in {'image': image[None], **found}.items()
                 if name in wanted}
        passes, step = num_passes(masks), self._card.chunk or 1
        return np.concatenate([
            self._head.run(['logits'], {**given, **_rows(masks, first, step)})[0][:passes - first]
            for first in range(0, passes, step)])


def _rows(masks: Masks, first: int, count: int) -> dict[str, NDArray[np.float32]]:
    """Cut some passes out of the masks; the last is repeated where there are too few."""
    rows = np.arange(min(count, num_passes(masks) - first))
    rows = np.append(rows, np.repeat(rows[-1:], count - len(rows)))
    return {name: mask[first:first + count][rows] for name, mask in masks.items()}


def _session(path: Path, threads: int) -> Any:
    from uncertainty_seg.compiler.onnx_tools import load_model
    from uncertainty_seg.compiler.precision import to_float32

    try:
        import onnxruntime
    except ImportError as err:
        raise BackendUnavailableError(
            f'onnxruntime cannot be imported ({err}), and the check compares with it',
            fix=install_command('onnxruntime'),
        ) from err
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Fuses nothing, and leaves the rounding steps of an int8 trunk where they are.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    content = to_float32(load_model(str(path))).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])


# -------------------------------------------------------------------------------------------------
# What the board draws, where it tells: the sensors of a Jetson, or nvidia-smi.
# Nothing is estimated: a machine without a sensor gives nothing.

# Voltage and current of each rail, by the driver of the INA3221 that JetPack 5 and later use.
_RAILS = 'sys/class/hwmon/hwmon*/in*_label'
_SMI = 'nvidia-smi'
_SMI_TIMEOUT_S = 5.0


def power_reader(root: Path = Path('/')) -> Callable[[], dict[str, float]] | None:
    """
    Return a function that reads the power, in watts by rail; None if no sensor is found.

    `root` is the folder of the system's files.
    """
    if _rails_w(root):
        return partial(_rails_w, root)
    return _gpu_w if _gpu_w() else None


def _rails_w(root: Path) -> dict[str, float]:
    found = {}
    for label in sorted(root.glob(_RAILS)):
        number = label.name.removeprefix('in').removesuffix('_label')
        if not number.isdigit():
            continue
        milli = [_number(label.with_name(name)) for name in (f'in{number}_input',
                                                             f'curr{number}_input')]
        if milli[0] is not None and milli[1] is not None:
            found[_text(label)] = milli[0] * milli[1] / 1e6
    return found


def _gpu_w() -> dict[str, float]:
    program = shutil.which(_SMI)
    if program is None:
        return {}
    command = [program, '--query-gpu=power.draw', '--format=csv,noheader,nounits']
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True,
                              timeout=_SMI_TIMEOUT_S).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return {}
    watts = {f'gpu{index}': _float(text) for index, text in enumerate(said)}
    return {name: value for name, value in watts.items() if value is not None}


def _number(path: Path) -> float | None:
    return _float(_text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='ascii').strip()
    except (OSError, ValueError):
        return ''


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # nvidia-smi says [N/A]
        return None


# -------------------------------------------------------------------------------------------------
# What the self-check found, as a table for people and as values for JSON.

PERCENTILES = (50, 90, 99)


def report_values(found: Findings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """
    Put everything that was found into one dictionary.

    It holds `facts` (bundle, backend, version, precision, passes), then `is_passed`, `failed`,
    `checks`, `latency_ms`, `power_w`. A number that is NaN or infinite is None.
    """
    return {
        **facts,
        'is_passed': all(check.is_passed for check in found.checks),
        'failed': [check.name for check in found.checks if not check.is_passed],
        'checks': {check.name: {'measured': _finite(check.measured), 'limit': check.limit,
                                'is_passed': check.is_passed} for check in found.checks},
        'latency_ms': {stage: _percentiles(times) for stage, times in found.stages_ms.items()},
        'power_w': {rail: {'mean': round(float(np.mean(watts)), 3), 'max': round(max(watts), 3)}
                    for rail, watts in found.power_w.items()},
    }


def report_table(found: Findings, facts: Mapping[str, Any]) -> str:
    """Write the same for a reader, 99 columns wide at most."""
    lines = [', '.join(f'{name} {value}' for name, value in facts.items() if value != ''), '']
    lines += _check_lines(found.checks)
    if found.stages_ms:
        count = len(found.stages_ms['total'])
        lines += ['', f'{f"ms, {count} runs":20}' + ''.join(f'{f"p{p}":>10}' for p in PERCENTILES)
                  + f'{"max":>10}']
        for stage, times in found.stages_ms.items():
            numbers = _percentiles(times).values()
            lines.append(f'{stage:20}' + ''.join(f'{number:10.2f}' for number in numbers))
    if found.power_w:
        lines += ['', f'{"W":20}{"mean":>10}{"max":>10}']
        lines += [f'{rail:20}{np.mean(watts):10.2f}{max(watts):10.2f}'
                  for rail, watts in found.power_w.items()]
    return '\n'.join(lines)


def _check_lines(checks: Sequence[Check]) -> list[str]:
    lines = [f'{"check":20}{"measured":>10}{"at most":>10}']
    for check in checks:
        verdict = 'ok    ' if check.is_passed else 'FAILED'
        lines.append(f'{check.name:20}{check.measured:10.3g}{check.limit:10.3g}  {verdict}  '
                     f'{check.about}')
    return lines


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    points = {f'p{p}': round(float(np.percentile(times, p)), 3) for p in PERCENTILES}
    return {**points, 'max': round(max(times), 3)}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
