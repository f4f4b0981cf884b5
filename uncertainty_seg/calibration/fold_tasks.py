# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Train the networks of the folds: one task a fold and seed, here or on a Ray cluster.

A task is a command in a process of its own. It counts as finished when its marker exists, which
is written after its bundle was read and checked. Whatever is killed, and whenever, loses at most
the tasks that were running, and a command that resumes by itself does not even lose those.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path
import shlex
import string
import subprocess

from uncertainty_seg.data.scoring.run import connect_ray, RETRIES
from uncertainty_seg.errors import ConfigError, ModelBundleError, TrainingError
from uncertainty_seg.storage.folds import FOLDS_FILE, read_folds, write_folds
from uncertainty_seg.storage.model_bundle import load_bundle, model_digest
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.whole_files import lock_file, replace_file

LOCK = '.crossfit.lock'
_FIELDS = ('data', 'fold', 'folder', 'folds', 'out', 'seed')
_NEEDED = ('fold', 'out')
_TAIL_LINES = 3


@dataclass(frozen=True)
class FoldTask:
    """
    One network.

    Attributes
    ----------
    fold, seed : int
        What it must not see, and its seed.
    out : str
        Folder of its bundle.
    command : tuple of str
        That writes the bundle.
    folder : str
        Where it runs: that of the process that asked.

    """

    fold: int
    seed: int
    out: str
    command: tuple[str, ...]
    folder: str

    @property
    def marker(self) -> Path:
        """File that says it is finished."""
        return Path(f'{self.out}.done')

    @property
    def log(self) -> Path:
        """File with what its command printed."""
        return Path(f'{self.out}.log')


@dataclass(frozen=True)
class TaskPlace:
    """Where tasks run: so many processes of this machine, or a Ray cluster."""

    jobs: int = 1
    ray: str | None = None
    cpus: int = 1
    gpus: float = 0.0


def plan_tasks(
    template: str, data: Path, folder: Path, num_folds: int, seeds: Sequence[int]
) -> list[FoldTask]:
    """
    Fill in a command for each fold and seed.

    Parameters
    ----------
    template : str
        A command with {fold} and {out}, and maybe {folds}, {seed}, {data}, {folder}.
    data, folder : Path
        Labelled images; where the bundles fold-0, fold-1 ... go. Those of the second seed and
        later ones are fold-0-seed-S.
    num_folds : int
        K.
    seeds : sequence of int
        Of the trainings, different ones.

    Returns
    -------
    list of FoldTask
        All folds of the first seed first.

    Raises
    ------
    ConfigError
        If the template cannot be read, lacks a needed field or has an unknown one.

    """
    words = _words(template)
    place = folder.resolve()
    tasks = []
    for seed in seeds:
        for fold in range(num_folds):
            name = f'fold-{fold}' if seed == seeds[0] else f'fold-{fold}-seed-{seed}'
            values = {'data': data.resolve(), 'fold': fold, 'folder': place, 'folds': num_folds,
                      'out': place / name, 'seed': seed}
            command = tuple(word.format(**values) for word in words)
            tasks.append(FoldTask(fold, seed, str(place / name), command, os.getcwd()))
    return tasks


def _words(template: str) -> list[str]:
    try:
        words = shlex.split(template)
        fields = {name for word in words for _, name, _, _ in string.Formatter().parse(word)
                  if name is not None}
    except ValueError as err:
        raise ConfigError(f'the command {template!r} cannot be read ({err})',
                          'words, with {fold} and {out}') from err
    unknown, missing = fields - set(_FIELDS), [n for n in _NEEDED if n not in fields]
    if unknown or missing or not words:
        raise ConfigError(
            f'the command {template!r} has {{{min(unknown)}}}' if unknown else
            f'the command {template!r} has no {{{(missing or _NEEDED)[0]}}}',
            'fields among ' + ', '.join(f'{{{name}}}' for name in _FIELDS),
            'write {{ and }} for braces of your own')
    return words


def keep_folds(folder: Path, fold_by_stem: dict[str, int]) -> None:
    """Write folds.json, or see that it is the same; ConfigError if it divides otherwise."""
    place = folder / FOLDS_FILE
    if place.is_file():
        if read_folds(place) != fold_by_stem:
            raise ConfigError(f'{place} divides the images in another way',
                              'one division in a folder', 'take another --out')
        return
    write_folds(place, fold_by_stem)


def run_tasks(tasks: Sequence[FoldTask], folder: Path, place: TaskPlace) -> int:
    """
    Do what is not done yet.

    Parameters
    ----------
    tasks : sequence of FoldTask
        As planned.
    folder : Path
        Of the bundles; exists.
    place : TaskPlace
        Here or on a cluster.

    Returns
    -------
    int
        How many were done now.

    Raises
    ------
    ConfigError
        If a finished task had another command, or another run works in the folder.
    TrainingError
        If a command failed; tasks that run are waited for, further ones are not begun.
    BackendUnavailableError
        If there is no cluster at the address.

    """
    with _locked(folder) as descriptor:
        left = [task for task in tasks if not is_finished(task)]
        runner = _on_ray(left, place) if place.ray else _here(left, place.jobs, descriptor)
        for _ in progress(runner, desc='folds', total=len(left), unit='network'):
            pass
    return len(left)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    try:
        descriptor = lock_file(folder / LOCK)
    except BlockingIOError as err:
        raise ConfigError(f'another run, or a command it left behind, works in {folder}',
                          'one at a time', 'wait for it, or end it') from err
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_finished(task: FoldTask) -> bool:
    """
    Say whether a task was done, and its bundle is still the one that was checked.

    Raises ConfigError if it was done by another command.
    """
    try:
        said = json.loads(task.marker.read_text(encoding='utf-8'))
        done_by, digest = said['command'], said['model_sha256']
    except (OSError, ValueError, TypeError, KeyError):
        return False
    if done_by != list(task.command):
        raise ConfigError(
            f'{Path(task.out).name} was trained by {shlex.join(map(str, done_by))!r}',
            repr(shlex.join(task.command)),
            f'take another --out, or delete {task.marker} to train it again')
    try:
        return model_digest(load_bundle(task.out, has_calibration=False).card) == digest
    except ModelBundleError:
        return False


def run_task(task: FoldTask, kept: Sequence[int] = ()) -> FoldTask:
    """
    Run the command of a task and mark it as finished.

    Parameters
    ----------
    task : FoldTask
        Not finished.
    kept : sequence of int
        Descriptors that the command keeps open: as long as it lives, the folder stays locked.

    Returns
    -------
    FoldTask
        The same.

    Raises
    ------
    TrainingError
        If the command cannot be run or fails, or leaves no bundle.

    """
    name = Path(task.out).name
    try:
        with task.log.open('ab') as log:
            code = subprocess.run(
                task.command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                cwd=task.folder, pass_fds=tuple(kept), check=False).returncode
    except OSError as err:
        raise TrainingError(f'the command of {name} cannot be run ({err})',
                            'a program that is installed') from err
    if code:
        said = ' / '.join(task.log.read_text(errors='replace').splitlines()[-_TAIL_LINES:])
        raise TrainingError(f'the command of {name} ended with code {code} ({said:.600})',
                            'code 0', f'read {task.log}, mend it and run the same again')
    try:
        digest = model_digest(load_bundle(task.out, has_calibration=False).card)
    except ModelBundleError as err:
        raise TrainingError(f'the command of {name} left no bundle in {task.out} ({err.reason})',
                            'one', 'let it write to {out}') from err
    replace_file(task.marker, json.dumps({**asdict(task), 'model_sha256': digest}, indent=1))
    return task


def _here(tasks: Sequence[FoldTask], jobs: int, descriptor: int) -> Iterator[FoldTask]:
    with ThreadPoolExecutor(jobs) as pool:
        pending: list[Future[FoldTask]] = [
            pool.submit(run_task, task, (descriptor,)) for task in tasks]
        try:
            for future in as_completed(pending):
                yield future.result()
        finally:
            for future in pending:
                future.cancel()


def _on_ray(tasks: Sequence[FoldTask], place: TaskPlace) -> Iterator[FoldTask]:
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    import ray

    connect_ray(ray, place.ray or '')
    try:
        remote = ray.remote(run_task)
        pending = [
            remote.options(num_cpus=place.cpus, num_gpus=place.gpus, max_retries=RETRIES,
                           name=Path(task.out).name).remote(task) for task in tasks]
        while pending:
            done, pending = ray.wait(pending)
            try:
                yield ray.get(done[0])
            except ray.exceptions.RayTaskError as err:
                if isinstance(err.cause, TrainingError):
                    raise err.cause from None
                raise
            except ray.exceptions.RayError as err:
                raise TrainingError(f'a training died {RETRIES + 1} times ({err})', 'one that '
                                    'ends', 'run the same again: what is finished is kept') \
                    from err
    finally:
        ray.shutdown()
