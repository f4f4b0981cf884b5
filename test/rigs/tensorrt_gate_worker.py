# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A process that builds engines with one version of TensorRT-RTX, as test_tensorrt_build_gate asks.

Two versions cannot be imported by one process. Each line that comes in is a job in JSON, each that
goes out its result; that the functions called are the package's own is what the test is about.

    tensorrt_gate_worker.py FOLDER     FOLDER holds the wheels' content

"""

from __future__ import annotations

import json
from pathlib import Path
import sys
import tempfile
import time
import traceback
from types import SimpleNamespace
from typing import Any
import warnings

sys.path.append(sys.argv[1])

from uncertainty_seg.backends.gpu.bundle_engines import build_missing, engines_of  # noqa: E402
from uncertainty_seg.backends.gpu.engine_build import (  # noqa: E402
    build_engine,
    EngineSpec,
    merge_timing_caches,
)
from uncertainty_seg.backends.gpu.engine_cache import EngineCache, EngineTarget  # noqa: E402
from uncertainty_seg.backends.gpu.tensorrt_api import load_tensorrt, TensorRt  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.errors import UncertaintySegError  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402

NO_GPU = SimpleNamespace(name='none', compute_capability='0.0', driver='0', multiprocessors=1)


class WithTimingCache(TensorRt):
    """TensorRT-RTX, whose timing cache does nothing, asked for one as TensorRT is."""

    @property
    def has_timing_cache(self) -> bool:
        return True


def bundle(
    trt: TensorRt, folder: str, passes: int, capabilities: list[str], **settings: str
) -> dict[str, Any]:
    """Build what a bundle needs, into a cache that is thrown away."""
    made = load_bundle(folder)
    engines = engines_of(made, Settings(**settings), passes, trt,
                         compute_capabilities=tuple(capabilities))
    target = EngineTarget.of(trt, NO_GPU)
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        cache = EngineCache(Path(temporary))
        built = build_missing(trt, engines, cache, target, lambda share, _: shares.append(share))
        again = build_missing(trt, engines, cache, target)
        plans = {engine.role: cache.load(engine.key(target)) or b'' for engine in built}
    return {'sizes': {role: len(plan) for role, plan in plans.items()}, 'again': len(again),
            'shares': shares, 'chunk': engines.chunking.passes,
            'profiles': engines.head_stats.spec.profiles}


def graph(trt: TensorRt, path: str, spec: dict[str, Any], is_content: bool) -> dict[str, Any]:
    """Build one graph from its file, or from its content."""
    source: Path | bytes = Path(path).read_bytes() if is_content else Path(path)
    shares: list[float] = []
    built = build_engine(trt, source, EngineSpec(**spec), lambda share, _: shares.append(share))
    return {'size': len(built.plan), 'shares': shares}


def stopped(trt: TensorRt, path: str) -> dict[str, Any]:
    """Stop a build from its progress, and build again."""
    def stop(share: float, phase: str) -> None:
        if share > 0:
            raise ValueError(f'stop in {phase}')

    try:
        build_engine(trt, Path(path), EngineSpec('fp32'), stop)
    except ValueError as err:
        said = str(err)
    return {'said': said, 'size': len(build_engine(trt, Path(path), EngineSpec('fp32')).plan)}


def timing(trt: TensorRt, path: str) -> dict[str, Any]:
    """Build with a timing cache, then with that of the first, and merge both."""
    trt = WithTimingCache(trt.module)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        caches = [b'']
        for _ in range(2):
            caches.append(build_engine(trt, Path(path), EngineSpec('fp32'),
                                       timing_cache=caches[-1]).timing_cache)
        merged = merge_timing_caches(trt, *caches[1:])
        mended = merge_timing_caches(trt, b'no cache', caches[1])
    return {'sizes': [len(data) for data in (*caches, merged)], 'is_mended': mended == caches[1]}


def version(trt: TensorRt) -> dict[str, Any]:
    """Say what was imported."""
    return {'version': trt.version, 'module': trt.name, 'is_rtx': trt.is_rtx,
            'strong': trt.has_strong_types, 'weak': trt.has_weak_types,
            'dtypes': [str(trt.numpy_dtype(trt.data_type(name)))
                       for name in ('float32', 'float16', 'uint8', 'int32', 'int64', 'bool')]}


JOBS = {job.__name__: job for job in (bundle, graph, stopped, timing, version)}


def main() -> None:
    """Do jobs until there are no more."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not be taken for an answer
    trt = load_tensorrt()
    for line in sys.stdin:
        job = json.loads(line)
        start_s = time.monotonic()
        try:
            answer = {'is_done': True, **JOBS[job.pop('job')](trt, **job)}
        except UncertaintySegError as err:
            answer = {'is_done': False, 'error': type(err).__name__, 'text': str(err)}
        except Exception:
            answer = {'is_done': False, 'error': 'other', 'text': traceback.format_exc()}
        answer['seconds'] = time.monotonic() - start_s
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
    main()
