# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Score all shards: one after the other here, in processes of this machine, or on a Ray cluster.

Whatever runs them, the shards are the same and so are their bytes. A shard that is interrupted
leaves nothing; those before it are kept.

"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
import multiprocessing
from multiprocessing.process import BaseProcess
import os
from pathlib import Path
import signal
import threading
import time
from typing import Any

import cv2
from tqdm import tqdm

from uncertainty_seg.core.settings import Settings
from uncertainty_seg.data.scoring.shard import score_shard, ShardEngine, ShardJob, ShardReport
from uncertainty_seg.data.scoring.table import LOCK_FILE, locked_table, plan_jobs, write_index
from uncertainty_seg.errors import (
    BackendError,
    BackendUnavailableError,
    require_libraries,
    TableError,
    UncertaintySegError,
)
from uncertainty_seg.storage.frame_sources import find_sources
from uncertainty_seg.storage.progress import progress

_PROBLEMS_SHOWN = 10


@dataclass(frozen=True)
class RunChoice:
    """
    How to run.

    Attributes
    ----------
    workers : int
        Processes on this machine.
    ray : str or None
        Address of a Ray cluster; None stays on this machine.
    stride : int
        Each `stride`-th frame is scored.
    dive : str
        Name of the run that all inputs are of; empty takes the names of their folders.

    """

    workers: int = 1
    ray: str | None = None
    stride: int = 1
    dive: str = ''


@dataclass
class ScoreSummary:
    """
    What a run did, and what the table holds of the sources asked for.

    Attributes
    ----------
    model, backend, passes : str, str, int
        What judged the frames.
    num_sources, num_kept : int
        Shards; those of them that were finished before.
    num_scored, num_frames, num_bad, num_lost, num_confident : int
        Rows of this run; rows, frames that could not be used, frames that were cut off with the
        end of a bag, and rows with the flag up, of all.
    problems : list of str
        The reasons of some bad frames.
    broken : list of str
        Sources that cannot be read or broke off, a sentence each.

    """

    model: str
    backend: str
    passes: int
    num_sources: int = 0
    num_kept: int = 0
    num_scored: int = 0
    num_frames: int = 0
    num_bad: int = 0
    num_lost: int = 0
    num_confident: int = 0
    problems: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Return all for scripts."""
        return asdict(self)

    def add(self, report: ShardReport) -> None:
        """Count a shard."""
        self.num_frames += report.num_frames
        self.num_bad += report.num_bad
        self.num_lost += report.num_lost
        self.num_confident += report.num_confident
        room = _PROBLEMS_SHOWN - len(self.problems)
        self.problems += [f'{report.source}: {text}' for text in report.problems[:room]]
        if report.broke_off:
            self.broken.append(report.broke_off)
        elif not report.part:
            why = f' ({report.problems[0]})' if report.problems else ''
            self.broken.append(f'{report.source} has no frame that can be used{why}')


def require_engines(choice: RunChoice) -> None:
    """Refuse to begin without the libraries; raises BackendUnavailableError."""
    require_libraries('pyarrow', *(['ray'] if choice.ray else []))


def score_sources(
    inputs: Sequence[Path], topics: Sequence[str], table: Path, settings: Settings,
    choice: RunChoice,
) -> ScoreSummary:
    """
    Score everything below some paths.

    Raises UncertaintySegError if nothing is found, the model or the table cannot be used, or a
    process died. What is finished by then is kept.

    Parameters
    ----------
    inputs, topics : sequence of Path, sequence of str
        As `find_sources` takes them.
    table : Path
        Folder of the table.
    settings : Settings
        Model, backend, T, seed and so on.
    choice : RunChoice
        How to run.

    Returns
    -------
    ScoreSummary
        Counts, for people and scripts.

    """
    broken: list[str] = []
    sources = find_sources(inputs, topics, broken, choice.dive)
    with closing(ShardEngine(_shared_out(settings, choice))) as engine, locked_table(table):
        jobs, finished = plan_jobs(table, sources, engine, choice.stride)
        info = engine.info
        summary = ScoreSummary(info.model, engine.settings.backend, info.passes, len(sources),
                               len(finished), broken=broken)
        for report in finished:
            summary.add(report)
        try:
            for report in _run(jobs, engine, choice):
                summary.num_scored += report.num_frames
                summary.add(report)
        finally:
            write_index(table)
    return summary


def _shared_out(settings: Settings, choice: RunChoice) -> Settings:
    """Give each process its share of the cores, unless threads were asked for."""
    if settings.threads or (choice.workers == 1 and not choice.ray):
        return settings
    # On a cluster a core is what a task asks for.
    share = 1 if choice.ray else max(1, _num_cores() // choice.workers)
    return replace(settings, threads=share)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1


def _run(
    jobs: Sequence[ShardJob], engine: ShardEngine, choice: RunChoice
) -> Iterator[ShardReport]:
    total = sum(-(-job.source.num_frames // job.stride) for job in jobs)
    with progress(desc='score', total=total) as bar:
        if choice.ray:
            yield from run_on_ray(jobs, choice.ray, bar)
        elif choice.workers > 1 and len(jobs) > 1:
            yield from _run_in_processes(jobs, choice.workers, bar)
        else:
            yield from _run_here(jobs, engine, bar)


def _run_here(jobs: Sequence[ShardJob], engine: ShardEngine, bar: tqdm) -> Iterator[ShardReport]:
    for job in jobs:
        start = bar.n

        def on_frame(count: int, start: int = start) -> None:
            bar.update(start + count - bar.n)

        yield score_shard(job, engine, on_frame)


def _run_in_processes(
    jobs: Sequence[ShardJob], workers: int, bar: tqdm
) -> Iterator[ShardReport]:
    # Not fork: runtimes hold threads and locks.
    context = multiprocessing.get_context('spawn')
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, begin_worker)
    # The longest first, so that none of them is left over at the end.
    ordered = sorted(jobs, key=lambda job: -job.source.num_frames)
    num_before = num_finished = 0
    try:
        # Within the block: an interrupt may come while the processes start.
        pending = {pool.submit(score_in_worker, job) for job in ordered}
        while pending:
            done, pending = wait(pending, POLL_S, FIRST_COMPLETED)
            for future in done:
                report = future.result()
                num_finished += 1
                num_before += report.num_frames + report.num_bad
                yield report
            bar.update(num_before + num_done(jobs) - bar.n)
    except BrokenProcessPool as err:
        raise BackendError(
            'a worker process died, by want of memory or by a signal', 'all to live',
            f'run the same command again: {num_finished} of {len(jobs)} shards are finished and '
            'will be kept') from err
    except BaseException:
        # Not to wait for hours until their shards are finished.
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


# -------------------------------------------------------------------------------------------------
# Score shards in a process that is not the one that asked, on this machine or another.
# Such a process keeps its model open from shard to shard. How far it is stands in a small file
# beside the part, which the process that asked reads for its progress bar.

POLL_S = 0.5


def begin_worker() -> None:
    """Make a process of this machine end with the one that asked, and not before."""
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    # A parent that is killed tells nobody: its workers would wait for the next shard for ever.
    parent.join()
    os._exit(1)


def score_in_worker(job: ShardJob) -> ShardReport:
    """
    Score a shard with the engine of this process.

    Raises TableError if the folder of the table is not the one of the process that asked, and
    UncertaintySegError as `score_shard` and `ShardEngine` do.
    """
    # A worker of a cluster was started elsewhere; absolute paths need no such folder.
    if Path(job.folder).is_dir():
        os.chdir(job.folder)
    if not (job.part.parent / LOCK_FILE).exists():
        raise TableError(f'{job.part.parent} is not there on a machine of the cluster',
                         'a folder that all of them share', 'give a shared --out and inputs')
    engine = _engine(job.settings, job.info.model_sha256)
    place = _progress_file(job)
    last_s = time.monotonic()

    def on_frame(count: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= POLL_S:
            last_s = now_s
            place.write_text(str(count))

    try:
        return score_shard(job, engine, on_frame)
    finally:
        place.unlink(missing_ok=True)


def num_done(jobs: Iterable[ShardJob]) -> int:
    """Return how many frames are done of the shards that are being scored."""
    total = 0
    for job in jobs:
        try:
            total += int(_progress_file(job).read_text() or 0)
        except (OSError, ValueError):
            continue
    return total


def _progress_file(job: ShardJob) -> Path:
    return job.part.with_name(f'.{job.part.stem}.count.tmp')


@lru_cache(maxsize=1)
def _engine(settings: Settings, model_sha256: str) -> ShardEngine:
    # One model a process; the hash tells another bundle under the same name.
    cv2.setNumThreads(max(1, settings.threads))
    return ShardEngine(settings)


# -------------------------------------------------------------------------------------------------
# Score shards on a Ray cluster: one task a shard.
# Tasks, since Ray itself runs one again elsewhere when its process or its machine dies, and a part
# appears under its name only when it is whole. Sources, table and a bundle that is no shipped one
# must lie under the same path on every machine.

# Times that a shard is begun again after its process died.
RETRIES = 5


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

    connect_ray(ray, address)
    try:
        yield from _reports(ray, jobs, bar)
    finally:
        ray.shutdown()


def connect_ray(ray: Any, address: str) -> None:
    """Join a cluster, of the module `ray`; BackendUnavailableError if there is none."""
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
            # Without asking for one, a task does not see the GPU of its machine.
            num_gpus=1 if job.settings.backend == 'tensorrt' else 0,
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
