# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Run the chains of a study: one after the other, in processes of this machine, or on a Ray cluster.

A chain begins when what it needs is finished: the random start of its seed, and all labels at
once. What is finished is on disk, so that whatever is killed loses at most the epoch in work.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
import multiprocessing
import os
from pathlib import Path
import platform
from typing import Any, TYPE_CHECKING

from uncertainty_seg.data.scoring.run import begin_worker, connect_ray, RETRIES
from uncertainty_seg.errors import BackendError, ConfigError, TrainingError, UncertaintySegError
from uncertainty_seg.storage.whole_files import lock_file
from uncertainty_seg.training.active.chain import ChainTask, enter_folder, run_chain
from uncertainty_seg.training.active.study import (
    FULL,
    LOCK,
    network_digests,
    read_study,
    START,
    StudyPlace,
    StudySettings,
)

if TYPE_CHECKING:
    from uncertainty_seg.training.active.rounds import NetPlan


def plan_chains(
    folder: Path, settings: StudySettings, strategies: Sequence[str], seeds: Sequence[int],
    threads: int,
) -> list[ChainTask]:
    """Return the tasks of a study: starts and full sets first, then the strategies by seed."""
    first = [(name, seed) for seed in seeds for name in (START, FULL)]
    rest = [(name, seed) for seed in seeds for name in strategies if name != FULL]
    return [ChainTask(name, seed, folder.resolve(), settings, threads, os.getcwd())
            for name, seed in (*first, *rest)]


@contextmanager
def locked_study(folder: Path) -> Iterator[None]:
    """Keep other runs out of a study; raises ConfigError if one is at work."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = lock_file(folder / LOCK)
    except BlockingIOError as err:
        raise ConfigError(f'another run works in {folder}', 'one at a time',
                          'wait for it, or end it') from err
    try:
        yield
    finally:
        os.close(descriptor)


def run_chains(tasks: Sequence[ChainTask], jobs: int, ray: str | None) -> Iterator[str]:
    """
    Run tasks, each after what it needs, and yield their names as they are finished.

    Raises what a task raised, BackendError if a process died, BackendUnavailableError if there is
    no cluster at the address.
    """
    if ray:
        yield from _on_ray(tasks, ray)
    elif jobs > 1 and len(tasks) > 1:
        yield from _in_processes(tasks, jobs)
    else:
        for task in tasks:
            yield run_chain(task)


def run_in_worker(task: ChainTask) -> str:
    """Run a task in another process, which may see other code or weights; errors as of both."""
    enter_folder(task)
    require_noted_network(task.folder, task.settings.plan)
    return run_chain(task)


@lru_cache(maxsize=16)
def require_noted_network(folder: Path, plan: NetPlan) -> None:
    """
    Raise ConfigError if the network of this process is not what study.json has noted.

    It is looked at once a process: what is imported stays as it is, though its file may change.
    """
    place = StudyPlace(folder)
    noted, own = read_study(place), network_digests(plan)
    other = [name for name, value in own.items() if noted.get(name) != value]
    if other:
        raise ConfigError(
            f'a worker on {platform.node()} has other {other[0]} than {place.study_file} has '
            'noted',
            'the same files on all machines, unchanged while a study runs',
            'copy them there, or put them into a folder that all of them share, and run the same '
            'command again')


def _ready(waiting: list[ChainTask], left: set[str]) -> list[ChainTask]:
    """Take out of the list what needs nothing that is left."""
    found = [task for task in waiting if not left & set(task.needs)]
    for task in found:
        waiting.remove(task)
    return found


def _in_processes(tasks: Sequence[ChainTask], jobs: int) -> Iterator[str]:
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context('spawn'), begin_worker)
    waiting, left = list(tasks), {task.name for task in tasks}
    pending: set[Future[str]] = set()
    try:
        while left:
            pending |= {pool.submit(run_in_worker, task) for task in _ready(waiting, left)}
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                left.discard(name := future.result())
                yield name
    except BrokenProcessPool as err:
        raise BackendError('a worker process died, by want of memory or by a signal',
                           'all to live', 'run the same command again: finished rounds are kept') \
            from err
    except BaseException:
        # Not to wait for hours until their chains are finished.
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _on_ray(tasks: Sequence[ChainTask], address: str) -> Iterator[str]:
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    import ray

    connect_ray(ray, address)
    waiting, left = list(tasks), {task.name for task in tasks}
    pending: list[Any] = []
    try:
        remote = ray.remote(run_in_worker)
        while left:
            pending += [remote.options(num_cpus=task.threads, max_retries=RETRIES,
                                       name=task.name).remote(task)
                        for task in _ready(waiting, left)]
            done, pending = ray.wait(pending)
            left.discard(name := _result_of(ray, done[0]))
            yield name
    finally:
        ray.shutdown()


def _result_of(ray: Any, reference: Any) -> str:
    try:
        return str(ray.get(reference))
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, UncertaintySegError):
            raise err.cause from None
        raise
    except ray.exceptions.RayError as err:
        raise TrainingError(f'a chain died {RETRIES + 1} times ({err})', 'one that ends',
                            'run the same command again: finished rounds are kept') from err
