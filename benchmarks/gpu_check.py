# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run every check and measurement that needs an NVIDIA GPU, in at most ten minutes.

    scripts/gpu_check [BUNDLE] [--precision tf32] [--minutes 10] [--only PART...] [--json FILE]

engines     builds missing engines, and the build times
parity      sums of T = 1, 7, 20 and 33 passes, compared with ONNX Runtime on the same masks
self_check  the package's self-check, whose result is stored for the node
graph       CUDA graphs and enqueued calls give equal bits, also after another T; first frame
times       milliseconds of T = 1, 20 and 100 passes, by stage, and the CPU's share
memory      GPU memory while the backend is open, and whether it grows
frames      frames per second from image to verdict, and p50 and p99 at a camera's rate

If a part fails, it reports a sentence and the others still run; a part for which no time is left
has failed. Without a GPU, TensorRT-RTX still builds the engines. Exit code: 0 all passed, 1 a part
failed, 2 no GPU or TensorRT. The report names GPU, driver and versions, and no host or user.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import dataclasses
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
import json
from pathlib import Path
import platform
import sys
import tempfile
import time
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]
PARITY_PASSES = (1, 7, 20, 33)
TIMED_PASSES = (1, 20, 100)
CAMERA = (480, 640)
RATE_HZ = 30.0
FRAMES = 300
_WARM = 3  # warm-up frames
# Compute capability to build engines for without a GPU.
AHEAD = '8.6'
GROWTH_MB = 8.0
_PACKAGES = ('numpy', 'onnxruntime', 'cuda-bindings')


@dataclass
class Part:
    """The result of a part: figures by name, and why it failed."""

    figures: dict[str, Any] = field(default_factory=dict)
    failed: str = ''
    took_s: float = 0.0

    def require(self, is_right: bool, sentence: str) -> None:
        """Record a failure unless `is_right`."""
        if not is_right:
            self.failed = '; '.join(filter(None, (self.failed, sentence)))


class Check:
    """The parts of the check, for a bundle on this machine's GPU with the options of `parsed`."""

    def __init__(self, options: argparse.Namespace, deadline_s: float) -> None:
        from uncertainty_seg.core.settings import passes_of, precision_of, Settings
        from uncertainty_seg.storage.model_bundle import load_bundle

        self.deadline_s = deadline_s
        self.bundle = load_bundle(options.bundle)
        self.settings = Settings(backend='tensorrt', precision=options.precision)
        self.card = self.bundle.card
        self.passes = passes_of(self.card, self.settings)
        self.precision = precision_of(self.card, options.precision)

    def engines(self, part: Part, work: Any = None) -> None:
        """Build the missing engines."""
        from uncertainty_seg.backends.gpu.engine_build import EngineBuild, work_here
        from uncertainty_seg.backends.gpu.engine_cache import EngineCache

        work, roles = work or work_here(self.bundle, self.settings), []
        with tempfile.TemporaryDirectory() as folder:
            cache = EngineCache(Path(folder) if work.engines.trunk.key.is_ahead else None)
            start_s = time.perf_counter()
            running = EngineBuild(lambda tell: roles.extend(work.build(cache, tell)))
            if not running.wait(max(0.0, self.deadline_s - time.monotonic())):
                running.stop()
                part.require(False, 'not built in the time that there was')
                return
            part.figures = {
                'built': roles, 's': round(time.perf_counter() - start_s, 1),
                **{f'{one.role} MB': round(cache.plan_path(one.key.digest).stat().st_size / 1e6, 2)
                   for one in work.engines.all},
                'calls': [call.stop - call.start for call in work.engines.calls]}

    def parity(self, part: Part) -> None:
        """Compare the sums over T passes with those of a CPU runtime."""
        from uncertainty_seg.backends.registry import open_backend
        from uncertainty_seg.compiler.self_check import TOLERANCES
        from uncertainty_seg.core.dropout_masks import pass_inputs

        allowed, image = TOLERANCES[self.precision], self._image()
        written = dataclasses.replace(self.settings, precision='bundle')  # CPUs have no TF32
        name = 'openvino' if self.precision == 'bf16' else 'onnxruntime'  # ORT has no bf16
        with self._open() as ours, open_backend(name, self.bundle, written) as theirs:
            for passes in self._counts(PARITY_PASSES):
                masks = pass_inputs(self.card, passes, 1)
                gaps = sum_gaps(ours.run(image, masks, 1.0), theirs.run(image, masks, 1.0), passes)
                part.figures[f'T={passes}'] = gaps
                part.require(gaps['mean'] <= allowed.mean and gaps['largest'] <= allowed.largest
                             and gaps['votes'] <= allowed.vote_share,
                             f'sums of T={passes} are not those of ONNX Runtime')

    def self_check(self, part: Part) -> None:
        """Run the package's self-check, which also stores its result for the node."""
        from uncertainty_seg.compiler.self_check import self_check

        found = self_check(self.bundle, settings=self.settings, frames=4, runs=20).values
        part.figures = {name: one['measured'] for name, one in found['checks'].items()}
        part.require(found['is_passed'], f'failed {", ".join(found["failed"])}')

    def graph(self, part: Part) -> None:
        """Compare captured graphs with enqueued calls, and the first frame with later ones."""
        from uncertainty_seg.core.dropout_masks import pass_inputs

        image, masks = self._image(), pass_inputs(self.card, self.passes, 2)
        found: list[Any] = []
        for is_recorded in (True, False):
            with self._open(is_recorded) as backend:
                part.require(backend.is_recorded == is_recorded, 'nothing could be recorded')
                first_ms = self._run_ms(backend, image, masks)
                times = [self._run_ms(backend, image, masks) for _ in range(30)]
                for passes in self._counts((2,)):  # with another number of passes
                    backend.run(image, pass_inputs(self.card, passes, 2), 1.0)
                found.append(backend.run(image, masks, 1.0))
            name = 'recorded' if is_recorded else 'enqueued'
            part.figures[f'{name} ms'] = {'first': round(first_ms, 2), **spread(times)}
        part.require(sum_gaps(*found, self.passes)['largest'] == 0, 'replayed sums differ')

    def times(self, part: Part) -> None:
        """Time T passes, all T alternately, so that a change of clock rate affects all."""
        from uncertainty_seg.core.dropout_masks import pass_inputs

        image, counts = self._image(), self._counts(TIMED_PASSES)
        masks = {passes: pass_inputs(self.card, passes, 0) for passes in counts}
        times: dict[int, dict[str, list[float]]] = {passes: {} for passes in counts}
        with self._open() as backend:
            for _ in range(4):
                for passes in counts:
                    for index in range(_WARM + FRAMES // 10):
                        cpu_s = time.process_time()
                        total_ms = self._run_ms(backend, image, masks[passes])
                        cpu_ms = (time.process_time() - cpu_s) * 1e3
                        stages = {**backend.timings_ms, 'total': total_ms, 'processor': cpu_ms}
                        for name, ms in stages.items() if index >= _WARM else ():
                            times[passes].setdefault(name, []).append(ms)
        for passes, stages in times.items():
            part.figures[f'T={passes} ms'] = {
                name: round(float(np.median(ms)), 2) for name, ms in stages.items()}

    def memory(self, part: Part) -> None:
        """Measure the backend's GPU memory, and whether it grows."""
        from uncertainty_seg.backends.gpu.nvidia import call_cuda, load_cuda
        from uncertainty_seg.core.dropout_masks import pass_inputs

        image, cuda = self._image(), load_cuda()
        free = [call_cuda(cuda, 'cudaMemGetInfo')]
        with self._open() as backend:
            for seed in range(2 * _WARM + FRAMES // 3):
                passes = self._counts((self.passes, 2))[seed % 2 - 1]
                self._run_ms(backend, image, pass_inputs(self.card, passes, seed))
                free.append(call_cuda(cuda, 'cudaMemGetInfo'))
        free.append(call_cuda(cuda, 'cudaMemGetInfo'))
        grown_mb = (free[_WARM] - min(free[_WARM:-1])) / 1e6
        part.figures = {'open MB': round((free[0] - free[1]) / 1e6, 1),
                        'growth MB': round(grown_mb, 1),
                        'kept MB': round((free[0] - free[-1]) / 1e6, 1)}
        part.require(grown_mb <= GROWTH_MB, 'memory grows from frame to frame')

    def frames(self, part: Part) -> None:
        """Time all steps that the node runs between image and verdict."""
        from common import camera_pictures

        from uncertainty_seg.backends.registry import open_pipeline

        images, calibration = camera_pictures(8, *CAMERA), self.bundle.calibration
        temperature = calibration.temperature if calibration else 1.0
        with open_pipeline(self.bundle, self.settings, temperature=temperature) as pipeline:
            def frame_ms(index: int) -> float:
                start_s = time.perf_counter()
                result = pipeline.process(images[index % len(images)], time.time_ns())
                assert result.verdict is not None, 'a frame without a verdict'
                return (time.perf_counter() - start_s) * 1e3

            fast = [frame_ms(index) for index in range(_WARM + FRAMES)][_WARM:]
            paced, due_s = [], time.perf_counter()
            for index in range(_WARM + FRAMES):
                time.sleep(max(0.0, due_s - time.perf_counter()))
                due_s += 1 / RATE_HZ
                paced.append(frame_ms(index))
        part.figures = {'frames/s': round(1e3 / float(np.mean(fast)), 1), 'ms': spread(fast),
                        f'ms at {RATE_HZ:g} Hz': spread(paced[_WARM:])}

    def _open(self, is_recorded: bool = True) -> Any:
        from uncertainty_seg.backends.gpu.tensorrt import TensorRtBackend

        return TensorRtBackend(self.bundle, self.settings, is_recorded=is_recorded)

    def _run_ms(self, backend: Any, image: Any, masks: Any) -> float:
        """Run once and return the milliseconds; raises TimeoutError after the deadline."""
        start_s = time.perf_counter()
        if time.monotonic() > self.deadline_s:
            raise TimeoutError('no time was left')
        backend.run(image, masks, 1.0)
        return (time.perf_counter() - start_s) * 1e3

    def _image(self) -> Any:
        from uncertainty_seg.compiler.self_check import fixed_images

        return fixed_images(self.card.input, 1)[0]

    def _counts(self, wanted: Sequence[int]) -> list[int]:
        """Return the T that this bundle supports; that of an ensemble is fixed."""
        return list(wanted) if self.card.method == 'mc_dropout' else [self.passes]


PARTS = ('engines', 'parity', 'self_check', 'graph', 'times', 'memory', 'frames')


def sum_gaps(ours: Any, theirs: Any, passes: int) -> dict[str, float]:
    """Return the differences of sums over T passes, per pass, and the share of unequal votes."""
    apart = {name: np.abs(getattr(ours, name) - getattr(theirs, name)) / passes
             for name in ('p', 'entropy_nats', 'p_squared')}
    votes = np.abs(ours.votes - theirs.votes).max(axis=0) > 0.5
    return {'mean': float(max(gap.mean() for gap in apart.values())),
            'largest': float(max(gap.max() for gap in apart.values())),
            'votes': float(votes.mean())}


def spread(times: Sequence[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum."""
    return {**{f'p{p}': round(float(np.percentile(times, p)), 2) for p in (50, 99)},
            'max': round(max(times), 2)}


def sentence(err: BaseException) -> str:
    """Return an error as one line, with the home folder shown as ~."""
    from uncertainty_seg.errors import UncertaintySegError

    says = ' '.join(str(err).split())
    says = says if isinstance(err, UncertaintySegError) else f'{type(err).__name__}: {says}'
    return says.replace(str(Path.home()), '~')


def run_part(check: Check, work: Callable[[Part], None]) -> Part:
    """Run a part; an exception becomes the sentence of its failure."""
    from uncertainty_seg.backends.check_record import checking

    part, start_s = Part(), time.monotonic()
    if start_s >= check.deadline_s:
        return Part(failed='no time was left')
    try:
        with checking():  # measures also a bundle that failed the self-check
            work(part)
    except Exception as err:  # noqa: B902  so that the other parts still run
        part.require(False, sentence(err))
    part.took_s = round(time.monotonic() - start_s, 1)
    return part


def environment(check: Check, device: Any) -> dict[str, str]:
    """Return names and versions of the bundle, the software and the GPU."""
    from uncertainty_seg import __version__
    from uncertainty_seg.backends.gpu.nvidia import load_tensorrt
    from uncertainty_seg.errors import UncertaintySegError

    versions = {'uncertainty_seg': __version__, 'Python': platform.python_version(),
                **{name: _version(name) for name in _PACKAGES}}
    try:
        trt = load_tensorrt()
        versions[trt.name] = trt.version
    except UncertaintySegError:
        versions['TensorRT'] = 'not installed'
    size = check.card.input
    return {
        'date': datetime.now(timezone.utc).isoformat(timespec='minutes'),
        'machine': platform.machine(),
        'gpu': ', '.join(f'{name} {value}' for name, value in vars(device).items())
        if device else 'none',
        'versions': ', '.join(f'{name} {found}' for name, found in versions.items()),
        'bundle': f'{check.card.name} in {check.precision}, {size.width}x{size.height}, '
        f'{check.card.num_classes} classes, T = {check.passes}'}


def page(facts: dict[str, str], parts: dict[str, Part]) -> str:
    """Return the report as text."""
    lines = [f'{name:11}{value}' for name, value in facts.items()]
    for name, part in parts.items():
        lines.append(f'{name:11}{"FAILED" if part.failed else "ok"}, {part.took_s:g} s')
        lines += [f'  {key:20}' + _text(value) for key, value in part.figures.items()]
    failed = [f'{name}: {part.failed}' for name, part in parts.items() if part.failed]
    return '\n'.join([*lines, *(f'failed     {one}' for one in failed or ['nothing'])])


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{name} {_text(one)}' for name, one in value.items())
    return f'{value:.3g}' if isinstance(value, float) and abs(value) < 0.1 else str(value)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return 'not installed'


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog='gpu_check', description=(__doc__ or '').strip().splitlines()[0])
    parser.add_argument('bundle', nargs='?', default='pipeline', help='shipped name or folder')
    parser.add_argument('--precision', default='bundle', help='as the parameter [bundle]')
    parser.add_argument('--minutes', type=float, default=10.0, help='at most [10]')
    parser.add_argument('--only', nargs='+', choices=PARTS, default=PARTS, metavar='PART',
                        help=f'of {", ".join(PARTS)}')
    parser.add_argument('--json', type=Path, help='file to write everything to')
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts and print the report."""
    from uncertainty_seg.backends.gpu.engine_build import work_ahead
    from uncertainty_seg.backends.gpu.nvidia import find_device
    from uncertainty_seg.errors import UncertaintySegError

    options = parsed(words)
    check = Check(options, time.monotonic() + 60 * options.minutes)
    device, parts = None, {}
    try:
        device = find_device()
    except UncertaintySegError as err:
        parts['engines'] = run_part(check, lambda part: check.engines(
            part, work_ahead(check.bundle, check.settings, AHEAD)))
        parts['gpu'] = Part(failed=f'nothing was run on one: {sentence(err)}')
    for name in options.only if device else ():
        print(f'{name} ...', file=sys.stderr, flush=True)
        parts[name] = run_part(check, getattr(check, name))
    facts = environment(check, device)
    print(page(facts, parts))
    if options.json:
        options.json.write_text(json.dumps(
            {**facts, 'parts': {name: vars(part) for name, part in parts.items()}}, indent=1))
    if device is None:
        return 2
    return 1 if any(part.failed for part in parts.values()) else 0


if __name__ == '__main__':
    sys.exit(main())
