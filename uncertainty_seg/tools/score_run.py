# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Score all shards: one after the other here, in processes of this machine, or on a Ray cluster.

Whatever runs them, the shards are the same and so are their bytes. A shard that is interrupted
leaves nothing; those before it are kept.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
import multiprocessing
import os
from pathlib import Path
import sys

from tqdm import tqdm

from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendError
from uncertainty_seg.storage.find_sources import find_sources
from uncertainty_seg.tools.libraries import require_libraries
from uncertainty_seg.tools.score_shard import ShardEngine, score_shard, ShardJob, ShardReport
from uncertainty_seg.tools.score_table import locked_table, plan_jobs, write_index
from uncertainty_seg.tools.score_worker import begin_worker, num_done, POLL_S, score_in_worker

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

    Raises
    ------
    UncertaintySegError
        If nothing is found, the model or the table cannot be used, or a process died. What is
        finished by then is kept.

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
    with tqdm(total=total, desc='score', unit='frame', file=sys.stderr, disable=None) as bar:
        if choice.ray:
            from uncertainty_seg.tools.score_ray import run_on_ray

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
