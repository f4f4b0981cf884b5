# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Everything that needs an NVIDIA GPU to be known, in one run, written to one JSON file to send back.

    scripts/gpu_check [BUNDLE] [--precision tf32] [--frames 300] [--out gpu_check.json]

Parts, each of which fails alone, with a sentence in the file:

engines         build what is missing (minutes the first time), and how long each took
self_check      `uncertainty_seg self-check`: maps against ONNX Runtime on the processor, CUDA
                graph against enqueued, repeatability, memory
parity          the same comparison for other T: one pass, chunks of two sizes, more than a chunk
passes          milliseconds of T = 1, 20 and 100 passes, stage by stage, taking turns
camera_to_flag  an image in memory to its verdict at camera rate, without ROS: p50, p99, largest
node            the same over ROS 2 from another process (bench_node_latency), where ROS is

Exit code: 0 if every part passed, 1 if one did not, 2 without a GPU or TensorRT. The file names
the GPU, the driver and the versions, no host or user, and a path only where a failure names one.

"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib import metadata
import json
import math
from pathlib import Path
import platform
import subprocess
import sys
import time
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]
FORMAT = 1
PARITY_PASSES = (1, 7, 20, 33)
TIMED_PASSES = (1, 20, 100)
CAMERA = (480, 640)
_NODE_TIMEOUT_S = 900.0
_PACKAGES = ('numpy', 'onnxruntime', 'cuda-bindings')


class Check:
    """A bundle on the GPU of this machine, by the options of `parsed`."""

    def __init__(self, options: argparse.Namespace, device: Any) -> None:
        from uncertainty_seg.core.settings import Settings
        from uncertainty_seg.storage.model_bundle import load_bundle

        self.options, self.device = options, device
        self.bundle = load_bundle(options.bundle)
        self.settings = Settings(backend='tensorrt', precision=options.precision)

    def facts(self) -> dict[str, Any]:
        """Say what is measured, on what."""
        from uncertainty_seg import __version__
        from uncertainty_seg.backends.gpu.nvidia import load_tensorrt
        from uncertainty_seg.core.bundle import reduction_of
        from uncertainty_seg.core.settings import precision_of

        trt = load_tensorrt()
        card = self.bundle.card
        return {
            'format': FORMAT, 'package': __version__,
            'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'gpu': vars(self.device), 'machine': platform.machine(),
            'python': platform.python_version(), 'tensorrt': f'{trt.name} {trt.version}',
            'versions': {name: found for name in _PACKAGES if (found := _version(name))},
            'bundle': card.name, 'precision': precision_of(card, self.options.precision),
            'files': dict(card.sha256), 'size': [card.input.height, card.input.width],
            'classes': card.num_classes, 'reduction': reduction_of(self.bundle, self.settings),
        }

    def engines(self) -> dict[str, Any]:
        """Build what is missing."""
        from uncertainty_seg.backends.gpu.engine_build import work_here
        from uncertainty_seg.backends.gpu.engine_cache import EngineCache

        work, cache = work_here(self.bundle, self.settings), EngineCache()
        start_s = time.perf_counter()
        built = work.build(cache, lambda share, phase: None)
        build_s = time.perf_counter() - start_s
        sizes = {one.role: cache.plan_path(one.key(work.target)).stat().st_size
                 for one in work.engines.all}
        return {'built': [one.role for one in built], 'build_s': round(build_s, 1),
                'passes_a_call': work.engines.chunking.passes,
                'mb': {role: round(size / 1e6, 2) for role, size in sizes.items()}}

    def self_check(self) -> dict[str, Any]:
        """Run the package's own check, which also keeps its result for the node."""
        from uncertainty_seg.compiler.self_check import self_check

        found = self_check(self.bundle, settings=self.settings, frames=4, runs=40).values
        return {**found, 'is_passed': found['is_passed']}

    def parity(self) -> dict[str, Any]:
        """Compare with the reference of the self-check for several T."""
        from uncertainty_seg.compiler.self_check import (
            closeness_checks,
            difference,
            fixed_images,
            Reference,
            TOLERANCES,
        )
        from uncertainty_seg.core.bundle import reduction_of
        from uncertainty_seg.core.dropout_masks import pass_inputs
        from uncertainty_seg.core.settings import precision_of

        card = self.bundle.card
        image = fixed_images(card.input, 1)[0]
        reference = Reference(self.bundle, reduction=reduction_of(self.bundle, self.settings))
        tolerance = TOLERANCES[precision_of(card, self.options.precision)]
        found: dict[str, Any] = {}
        with self._open() as backend:
            for passes in self._passes(PARITY_PASSES):
                masks = pass_inputs(card, passes, 1)
                gap = difference(backend.run(image, masks, 1.0),
                                 reference.run(image, masks, 1.0), passes, {})
                checks = [one for one in closeness_checks(gap, tolerance) if one.name != 'score']
                found[f'T={passes}'] = {
                    **{one.name: one.measured if math.isfinite(one.measured) else None
                       for one in checks},
                    'failed': [one.name for one in checks if not one.is_passed]}
        return {**found, 'is_passed': not any(one['failed'] for one in found.values())}

    def passes(self) -> dict[str, Any]:
        """Time T passes, in turns, so that a clock that changes is seen by all."""
        from uncertainty_seg.compiler.self_check import fixed_images
        from uncertainty_seg.core.dropout_masks import pass_inputs

        card = self.bundle.card
        image = fixed_images(card.input, 1)[0]
        counts = self._passes(TIMED_PASSES)
        masks = {passes: pass_inputs(card, passes, 0) for passes in counts}
        times: dict[int, dict[str, list[float]]] = {passes: {} for passes in counts}
        with self._open() as backend:
            for _ in range(4):
                for passes in counts:
                    self._timed(backend, image, masks[passes], times[passes])
            is_recorded = backend.is_recorded
        found: dict[str, Any] = {
            f'T={passes}': {stage: _spread(values) for stage, values in stages.items()}
            for passes, stages in times.items()}
        medians = {passes: found[f'T={passes}']['total']['p50'] for passes in counts}
        return {**found, 'is_recorded': is_recorded,
                'of_one_pass': {f'T={passes}': round(medians[passes] / medians[counts[0]], 3)
                                for passes in counts}}

    def camera_to_flag(self) -> dict[str, Any]:
        """Pass images at camera rate through all that the node does between image and verdict."""
        from common import camera_pictures

        from uncertainty_seg.backends.registry import open_pipeline

        images = camera_pictures(8, *CAMERA)
        calibration = self.bundle.calibration
        period_s = 1.0 / self.options.rate
        temperature = calibration.temperature if calibration else 1.0
        times = []
        with open_pipeline(self.bundle, self.settings, temperature=temperature) as pipeline:
            due_s = time.perf_counter()
            for index in range(self.options.frames + 10):
                time.sleep(max(0.0, due_s - time.perf_counter()))
                due_s += period_s
                start_s = time.perf_counter()
                result = pipeline.process(images[index % len(images)], time.time_ns())
                times.append((time.perf_counter() - start_s) * 1e3)
                assert result.verdict is not None, 'a frame without a verdict'
        return {'ms': _spread(times[10:]), 'rate_hz': self.options.rate,
                'late': sum(ms > period_s * 1e3 for ms in times[10:])}

    def node(self) -> dict[str, Any]:
        """Measure the node over ROS 2, in processes of their own."""
        import rclpy  # noqa: F401  a machine without ROS says so before anything is started

        command = [sys.executable, str(ROOT / 'benchmarks' / 'bench_node_latency.py'), '--model',
                   str(self.options.bundle), '--backend', 'tensorrt', '--frames', '100']
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              timeout=_NODE_TIMEOUT_S)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ['nothing was said'])[-1]
            raise RuntimeError(f'bench_node_latency ended with {done.returncode}: {last}')
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def _open(self) -> Any:
        from uncertainty_seg.backends.registry import open_backend

        return open_backend('tensorrt', self.bundle, self.settings)

    def _passes(self, wanted: Sequence[int]) -> list[int]:
        """Return the T that this bundle can have; members of an ensemble are what they are."""
        card = self.bundle.card
        return list(wanted) if card.method == 'mc_dropout' else [card.passes]

    def _timed(self, backend: Any, image: Any, masks: Any, times: dict[str, list[float]]) -> None:
        """Warm up for this T, then time some runs."""
        for _ in range(3):
            backend.run(image, masks, 1.0)
        for _ in range(max(1, self.options.frames // 4)):
            start_s = time.perf_counter()
            backend.run(image, masks, 1.0)
            total_ms = (time.perf_counter() - start_s) * 1e3
            for stage, ms in {**backend.timings_ms, 'total': total_ms}.items():
                times.setdefault(stage, []).append(ms)


PARTS = ('engines', 'self_check', 'parity', 'passes', 'camera_to_flag', 'node')


def _spread(times: Sequence[float]) -> dict[str, float]:
    points = {f'p{p}': round(float(np.percentile(times, p)), 3) for p in (50, 90, 99)}
    return {**points, 'max': round(max(times), 3), 'runs': len(times)}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ''


def sentence(err: BaseException) -> str:
    """Say on one line what went wrong, without a path of this machine."""
    from uncertainty_seg.errors import UncertaintySegError

    says = ' '.join(str(err).split())
    says = says if isinstance(err, UncertaintySegError) else f'{type(err).__name__}: {says}'
    return says.replace(str(Path.home()), '~')


def run_part(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a part; what goes wrong in it is a sentence in its place."""
    from uncertainty_seg.backends.gpu.engine_cache import checking

    start_s = time.perf_counter()
    try:
        with checking():  # what failed the self-check is measured nevertheless
            found = {'is_passed': True, **part()}
    except Exception as err:  # noqa: B902  whatever it is, the other parts are run
        found = {'is_passed': False, 'failed': sentence(err)}
    return {**found, 'took_s': round(time.perf_counter() - start_s, 1)}


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='gpu_check', description=(__doc__ or '').strip().splitlines()[0])
    parser.add_argument('bundle', nargs='?', default='pipeline', help='shipped name or folder')
    parser.add_argument('--precision', default='bundle', help='as the parameter [bundle]')
    parser.add_argument('--frames', type=int, default=300, help='frames that are timed [300]')
    parser.add_argument('--rate', type=float, default=30.0, help='of the camera, in Hz [30]')
    parser.add_argument('--only', nargs='+', choices=PARTS, default=PARTS, metavar='PART',
                        help=f'of {", ".join(PARTS)}')
    parser.add_argument('--out', type=Path, default=Path('gpu_check.json'), help='file to write')
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts; the file is written after each."""
    from uncertainty_seg.backends.gpu.nvidia import find_device
    from uncertainty_seg.errors import UncertaintySegError
    from uncertainty_seg.storage.whole_files import replace_file

    options = parsed(words)
    try:
        check = Check(options, find_device())
        report: dict[str, Any] = {**check.facts(), 'parts': {}}
    except UncertaintySegError as err:
        print(f'gpu_check: {sentence(err)}', file=sys.stderr)
        return 2
    for name in PARTS:
        if name not in options.only:
            continue
        print(f'{name} ...', end=' ', flush=True)
        report['parts'][name] = found = run_part(getattr(check, name))
        print('ok' if found['is_passed'] else f'FAILED: {found.get("failed") or "see the file"}')
        replace_file(options.out, json.dumps(report, indent=1) + '\n')
    passed = {name: part['is_passed'] for name, part in report['parts'].items()}
    print(f'{options.out} is complete: please send it back, whatever it says')
    print(json.dumps({'is_passed': all(passed.values()), 'parts': passed,
                      'out': str(options.out)}))
    return 0 if all(passed.values()) else 1


if __name__ == '__main__':
    sys.exit(main())
