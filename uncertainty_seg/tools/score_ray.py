# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Score shards on a Ray cluster: one task a shard.

Tasks, since Ray itself runs one again elsewhere when its process or its machine dies, and a part
appears under its name only when it is whole. Sources, table and a bundle that is no shipped one
must lie under the same path on every machine.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import os
from typing import Any

from tqdm import tqdm

from uncertainty_seg.errors import BackendUnavailableError, UncertaintySegError
from uncertainty_seg.tools.score_shard import ShardJob, ShardReport
from uncertainty_seg.tools.score_worker import num_done, POLL_S, score_in_worker

# Times that a shard is begun again after its process died.
RETRIES = 5
# Without asking for one, a task does not see the GPU of its machine.
_GPU_BACKENDS = ('tensorrt', 'onnxruntime_cuda', 'onnxruntime_tensorrt')


def run_on_ray(
    jobs: Sequence[ShardJob], address: str, bar: tqdm
) -> Iterator[ShardReport]:
    """
    Score shards on a cluster.

    Parameters
    ----------
    jobs : sequence of ShardJob
        What to do.
    address : str
        As `ray.init` takes it: 'auto' for the cluster this machine belongs to, HOST:PORT, or
        'local' for one that is started here and ends with the run.
    bar : tqdm
        Counts frames.

    Yields
    ------
    ShardReport
        As they are finished; one whose process died again and again says so.

    Raises
    ------
    BackendUnavailableError
        If there is no cluster at the address.
    UncertaintySegError
        What a shard raised; those that are finished are kept.

    """
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    import ray

    _connect(ray, address)
    try:
        yield from _reports(ray, jobs, bar)
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    try:
        # What workers print must not follow the last line on stdout.
        ray.init(address=address, log_to_driver=False, logging_level='error',
                 include_dashboard=False if address == 'local' else None)
    except (ConnectionError, ValueError, RuntimeError) as err:
        raise BackendUnavailableError(
            f'no Ray cluster at {address!r} ({str(err).split(".")[0]})', 'one that runs',
            'start it with ray start --head, or leave out --ray') from err


def _reports(ray: Any, jobs: Sequence[ShardJob], bar: tqdm) -> Iterator[ShardReport]:
    task = ray.remote(score_in_worker)
    # The longest first, so that none of them is left over at the end.
    ordered = sorted(jobs, key=lambda job: -job.source.num_frames)
    pending = {
        task.options(
            num_cpus=max(1, job.settings.threads), max_retries=RETRIES, name=job.part.stem,
            num_gpus=1 if job.settings.backend in _GPU_BACKENDS else 0,
        ).remote(job): job
        for job in ordered
    }
    num_before = 0
    while pending:
        done, _ = ray.wait(list(pending), timeout=POLL_S)
        for reference in done:
            report = _report(ray, reference, pending.pop(reference))
            num_before += report.num_frames + report.num_bad
            yield report
        bar.update(num_before + num_done(pending.values()) - bar.n)


def _report(ray: Any, reference: Any, job: ShardJob) -> ShardReport:
    try:
        report: ShardReport = ray.get(reference)
        return report
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, UncertaintySegError):
            raise err.cause from None
        raise
    except ray.exceptions.RayError as err:
        source = job.source
        reason = f'{source.path}: its process died {RETRIES + 1} times ({type(err).__name__})'
        return ShardReport('', source.path, source.kind, source.topic, source.dive,
                           job.fingerprint, broke_off=reason)
