# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A process that builds engines with one version of TensorRT-RTX, for test_tensorrt_build_gate.

Two versions cannot be imported by one process. Each line on stdin is a job in JSON, each line on
stdout its result. The jobs call the package's own functions, which the test is about.

    tensorrt_gate_worker.py FOLDER     FOLDER has the content of the wheels
"""

import json
from pathlib import Path
import sys
import tempfile
import traceback
from typing import Any

sys.path.append(sys.argv[1])

from uncertainty_seg.backends.gpu.engine_build import (  # noqa: E402
    build_engine,
    engines_of,
    EngineWork,
    key_of_graph,
    work_ahead,
)
from uncertainty_seg.backends.gpu.engine_cache import EngineCache, EngineTarget  # noqa: E402
from uncertainty_seg.backends.gpu.nvidia import load_tensorrt, TensorRt  # noqa: E402
from uncertainty_seg.core.settings import Settings  # noqa: E402
from uncertainty_seg.errors import UncertaintySegError  # noqa: E402
from uncertainty_seg.storage.model_bundle import load_bundle  # noqa: E402

# A target without a specific GPU.
TARGET = EngineTarget('tensorrt_rtx', '1', 'none', '0.0', '0', 1)


def bundle(
    trt: TensorRt, folder: str, passes: int, capability: str, **settings: Any
) -> dict[str, Any]:
    """Build the engines of a bundle, without storing them."""
    asked = load_bundle(folder), Settings(passes=passes, **settings)
    work = work_ahead(*asked, capability, trt) if capability \
        else EngineWork(trt, engines_of(*asked, trt, TARGET))
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        cache = EngineCache(Path(temporary))
        built = work.build(cache, lambda share, _: shares.append(share))
        again = work.build(cache)
        sizes = {engine.role: cache.plan_path(engine.key.digest).stat().st_size
                 for engine in work.engines.all}
    return {'sizes': sizes, 'built': built, 'again': again, 'shares': shares,
            'chunk': work.engines.calls[0].stop, 'profiles': work.engines.passes.key.profiles}


def graph(
    trt: TensorRt, path: str, profiles: dict[str, Any], precision: str = 'fp32',
    is_stopped: bool = False,
) -> dict[str, Any]:
    """Build an engine from one graph, or with `is_stopped` abort at the first progress."""
    def stop(share: float, phase: str) -> None:
        if is_stopped and share > 0:
            raise InterruptedError(phase)

    content = Path(path).read_bytes()
    key = key_of_graph(trt, TARGET, content, precision, profiles)
    try:
        return {'size': len(build_engine(trt, Path(path).name, content, key, stop))}
    except InterruptedError as err:
        return {'stopped_in': str(err)}


def version(trt: TensorRt) -> dict[str, Any]:
    """Return the imported version."""
    return {'version': trt.version}


JOBS = {job.__name__: job for job in (bundle, graph, version)}


def main() -> None:
    """Run jobs until stdin ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # keeps output of libraries out of the answers
    trt = load_tensorrt()
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = {'is_done': True, **JOBS[job.pop('job')](trt, **job)}
        except UncertaintySegError as err:
            answer = {'is_done': False, 'error': type(err).__name__, 'text': str(err)}
        except Exception:
            answer = {'is_done': False, 'error': 'other', 'text': traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
    main()
