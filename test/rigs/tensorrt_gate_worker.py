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
from typing import Any

sys.path.append(sys.argv[1])

from uncertainty_seg.backends.gpu.engine_build import (  # noqa: E402
    build_engine,
    engines_of,
    EngineSpec,
    EngineWork,
)
from uncertainty_seg.backends.gpu.engine_cache import EngineCache, EngineTarget  # noqa: E402
from uncertainty_seg.backends.gpu.nvidia import load_tensorrt, TensorRt  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.errors import UncertaintySegError  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402

TARGET = EngineTarget('tensorrt_rtx', '1', 'none', '0.0', '0', 1)


def bundle(
    trt: TensorRt, folder: str, passes: int, capabilities: list[str], **settings: Any
) -> dict[str, Any]:
    """Build what a bundle needs, into a cache that is thrown away."""
    made = load_bundle(folder)
    engines = engines_of(made, Settings(passes=passes, **settings), tuple(capabilities))
    work = EngineWork(trt, engines, TARGET)
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        cache = EngineCache(Path(temporary))
        built = work.build(cache, lambda share, _: shares.append(share))
        again = work.build(cache)
        plans = {engine.role: cache.load(engine.key(TARGET)) or b'' for engine in built}
    return {'sizes': {role: len(plan) for role, plan in plans.items()}, 'again': len(again),
            'shares': shares, 'chunk': engines.chunking.passes,
            'profiles': engines.head_stats.spec.profiles}


def graph(trt: TensorRt, path: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Build one graph."""
    built = build_engine(trt, Path(path).name, Path(path).read_bytes(), EngineSpec(**spec))
    return {'size': len(built.plan)}


def stopped(trt: TensorRt, path: str) -> dict[str, Any]:
    """Stop a build from its progress, and build again."""
    def stop(share: float, phase: str) -> None:
        if share > 0:
            raise ValueError(f'stop in {phase}')

    content = Path(path).read_bytes()
    try:
        build_engine(trt, 'trunk', content, EngineSpec('fp32'), stop)
    except ValueError as err:
        said = str(err)
    return {'said': said, 'size': len(build_engine(trt, 'trunk', content,
                                                   EngineSpec('fp32')).plan)}


def version(trt: TensorRt) -> dict[str, Any]:
    """Say what was imported."""
    return {'version': trt.version, 'is_rtx': trt.is_rtx,
            'dtypes': [str(trt.numpy_dtype(getattr(trt.module.DataType, name)))
                       for name in ('FLOAT', 'HALF', 'UINT8', 'INT32', 'INT64', 'BOOL')]}


JOBS = {job.__name__: job for job in (bundle, graph, stopped, version)}


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
