# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Score the frames of bags, folders and frame logs into a table, one row per frame.

A shard is one source: a topic of a bag, at most 500 pictures of a folder, or a log. It is scored
in order into one part of the table, in this process, in processes of this machine or as a task of
a Ray cluster, with the same bytes. A part gets its name only when it is complete, so a killed run
loses only the shards in progress.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
import hashlib
import json
import multiprocessing
from multiprocessing.process import BaseProcess
import os
from pathlib import Path
import re
import signal
import threading
from typing import Any

import cv2
import numpy as np

from uncertainty_seg.backends.opening import checked_settings, offline_settings
from uncertainty_seg.backends.registry import open_backend
from uncertainty_seg.backends.runner import usable_threads
from uncertainty_seg.core.calibration import calibration_to_json, mask_digest
from uncertainty_seg.core.frame_guard import FrameGuard
from uncertainty_seg.core.frame_loop import FrameLoop, Outcome, PhotographJudge
from uncertainty_seg.core.image_codec import decode, ImageFile
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.scores.vector import ScoreVector
from uncertainty_seg.core.settings import Settings, to_dict
from uncertainty_seg.data.likeness import (
    class_means,
    frame_features,
    num_features,
)
from uncertainty_seg.errors import (
    BackendError,
    BackendUnavailableError,
    BagError,
    ConfigError,
    FrameLogError,
    ModelBundleError,
    require_libraries,
    TableError,
    UncertaintySegError,
)
from uncertainty_seg.storage.foreign_files import is_turned, load_ignore_mask
from uncertainty_seg.storage.frame_sources import (
    BadFrame,
    find_sources,
    FrameSource,
    is_lost,
    read_source,
    SourceFrame,
)
from uncertainty_seg.storage.model_bundle import lasting_name, load_bundle, model_digest
from uncertainty_seg.storage.perceptual_hash import perceptual_hash
from uncertainty_seg.storage.progress import progress
from uncertainty_seg.storage.score_rows import (
    list_parts,
    new_part,
    PART_ENDING,
    read_facts,
    read_info,
    ScoreRow,
    ScoreWriter,
    TableInfo,
    VERSION,
)
from uncertainty_seg.storage.whole_files import one_at_a_time

LOCK_FILE = '.lock'
# How often Ray restarts a shard whose process died.
RETRIES = 5
# How often a shard is sent again whose source a machine could not reach.
_LOST_RETRIES = 2
_PROBLEMS_SHOWN, _PROBLEMS_KEPT = 200, 200
# Settings that change no row.
_OF_THE_MACHINE = ('threads',)


@dataclass
class ScoreSummary:
    """
    What a run did, and what the table holds of the given sources.

    Attributes
    ----------
    model, backend, passes : str, str, int
        Model, backend and T that judged the frames.
    num_sources, num_kept : int
        Shards; those that were finished before.
    num_scored : int
        Rows of this run.
    num_frames, num_bad, num_lost, num_confident : int
        Of all shards: rows, unusable frames, frames after the damage of a bag, rows with a true
        flag.
    num_doubtful, num_turned : int
        Rows of images that look damaged, frozen or out of time; of photographs with a rotation in
        EXIF, which are scored as stored.
    problems, broken, unread : list of str
        Reasons of bad frames; sources that cannot be read or ended early; files that are ignored.

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
    num_doubtful: int = 0
    num_turned: int = 0
    problems: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def add(self, report: ShardReport) -> None:
        """Count a shard."""
        self.num_frames += report.num_frames
        self.num_bad += report.num_bad
        self.num_lost += report.num_lost
        self.num_confident += report.num_confident
        self.num_doubtful += report.num_doubtful
        self.num_turned += report.num_turned
        room = _PROBLEMS_SHOWN - len(self.problems)
        self.problems += [f'{report.source}: {text}' for text in report.problems[:room]]
        if report.broke_off:
            self.broken.append(report.broke_off)
        elif not report.num_frames:
            why = f' ({report.problems[0]})' if report.problems else ''
            self.broken.append(f'{report.source} has no frame that can be used{why}')


def score(
    inputs: Path | str | Sequence[Path | str],
    table: Path | str,
    *,
    settings: Settings | None = None,
    topics: Sequence[str] = (),
    dive: str = '',
    stride: int = 1,
    workers: int = 1,
    ray: str | None = None,
) -> ScoreSummary:
    """
    Score the frames of bags, folders of images and frame logs into a table, one row per frame.

    Parameters
    ----------
    inputs : Path, str or sequence of them
        Bags, folders of pictures, frame logs, or folders of such.
    table : Path or str
        Folder of the table; finished parts in it are kept.
    settings : Settings, optional
        Model, backend, T, seed, mask policy, precision and ignore mask; all scores are computed.
    topics : sequence of str
        Image topics of the bags; needed if a bag has several.
    dive : str
        Name of the dive of all inputs; if empty, the name of each folder.
    stride : int
        Score each `stride`-th frame only.
    workers : int
        Processes on this machine.
    ray : str, optional
        Address of a Ray cluster ('auto' for the one of this machine), instead of `workers`.

    Returns
    -------
    ScoreSummary
        Counts; sources that could not be read are in ``broken``.

    Raises
    ------
    UncertaintySegError
        If nothing is found, or the model, the table or a setting cannot be used. Finished parts
        are kept.

    """
    require_libraries('pyarrow', *(['ray'] if ray else []))
    paths = [inputs] if isinstance(inputs, (str, Path)) else inputs
    if min(len(paths), stride, workers) < 1:
        raise ConfigError(f'{len(paths)} inputs, stride {stride}, {workers} workers',
                          'at least 1 of each')
    settings = _shared_out(checked_settings(settings), workers, is_cluster=bool(ray))
    table, broken, unread = Path(table), list[str](), list[str]()
    sources = find_sources([Path(path) for path in paths], topics, broken, dive.strip(), unread)
    with closing(ShardEngine(settings)) as engine, locked_table(table):
        jobs, finished = plan_jobs(table, sources, engine, stride)
        summary = ScoreSummary(engine.info.model, engine.settings.backend, engine.info.passes,
                               len(sources), len(finished), broken=broken, unread=unread)
        for report in finished:
            summary.add(report)
        for report in _run(jobs, engine, workers, ray):
            summary.num_scored += report.num_frames
            summary.add(report)
    return summary


def _shared_out(settings: Settings, workers: int, *, is_cluster: bool) -> Settings:
    """Give each process its share of the cores, unless the number of threads is set."""
    if settings.threads or (workers == 1 and not is_cluster):
        return settings
    # On a cluster a task requests one core.
    return replace(settings, threads=1 if is_cluster else max(1, usable_threads(0) // workers))


def _run(
    jobs: Sequence[ShardJob], engine: ShardEngine, workers: int, ray: str | None
) -> Iterator[ShardReport]:
    total = sum(-(-job.source.num_frames // job.stride) for job in jobs)
    with progress(desc='score', total=total) as bar:
        if not ray and (workers == 1 or len(jobs) == 1):
            for job in jobs:
                yield score_shard(job, engine, bar.update)
            return
        # Longest first, so that no long shard runs alone at the end.
        ordered = sorted(jobs, key=lambda job: -job.source.num_frames)
        for report in _run_on_ray(ordered, ray) if ray else _run_in_processes(ordered, workers):
            bar.update(report.num_frames + report.num_bad)
            yield report


def _run_in_processes(jobs: Sequence[ShardJob], workers: int) -> Iterator[ShardReport]:
    # Not fork, since runtimes hold threads and locks.
    context = multiprocessing.get_context('spawn')
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, begin_worker)
    num_finished = 0
    try:
        # Within the block: an interrupt may come while the processes start.
        for future in as_completed([pool.submit(score_in_worker, job) for job in jobs]):
            report = future.result()
            num_finished += 1
            yield report
    except BrokenProcessPool as err:
        raise BackendError(
            'a worker process died (out of memory, or killed)', 'all workers to finish',
            f'run the same command again: {num_finished} of {len(jobs)} shards are finished and '
            'will be kept') from err
    except BaseException:
        # Else the shutdown would wait, perhaps for hours, for their shards.
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


# -------------------------------------------------------------------------------------------------
# A worker process, on this machine or a cluster, which keeps its model open between shards.


def begin_worker() -> None:
    """Make a worker process of this machine end with its parent, and not before."""
    # Ctrl-C reaches the whole process group, but the parent decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    # A killed parent sends nothing: its workers would wait for the next shard for ever.
    parent.join()
    os._exit(1)


def score_in_worker(job: ShardJob) -> ShardReport:
    """Score a shard with the engine of this process; errors as of `score_shard`."""
    # A worker of a cluster starts in another folder; absolute paths do not need this one.
    if Path(job.folder).is_dir():
        os.chdir(job.folder)
    if not (job.part.parent / LOCK_FILE).exists():
        raise TableError(f'{job.part.parent} is missing on a machine of the cluster',
                         'a folder that all machines share', 'put table and inputs on a shared '
                         'disk')
    return score_shard(job, _engine(job.settings, job.info.model_sha256))


@lru_cache(maxsize=1)
def _engine(settings: Settings, model_sha256: str) -> ShardEngine:
    # One model per process; the hash distinguishes another bundle of the same name.
    cv2.setNumThreads(max(1, settings.threads))
    return ShardEngine(settings)


# -------------------------------------------------------------------------------------------------
# On a Ray cluster a shard is one task, which Ray repeats elsewhere when its process or machine
# dies. Sources, table and a custom bundle must have the same path on every machine.


def _run_on_ray(jobs: Sequence[ShardJob], address: str) -> Iterator[ShardReport]:
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    import ray

    connect_ray(ray, address)
    try:
        task = ray.remote(score_in_worker)

        def send(job: ShardJob) -> Any:
            return task.options(
                num_cpus=max(1, job.settings.threads), max_retries=RETRIES, name=job.part.stem,
                # A task that requests no GPU does not see that of its machine.
                num_gpus=1 if job.settings.backend == 'tensorrt' else 0,
            ).remote(job)

        tries = Counter[Path]()
        pending = {send(job): job for job in jobs}
        while pending:
            done, _ = ray.wait(list(pending))
            for reference in done:
                job = pending.pop(reference)
                report = _report(ray, reference, job)
                tries[job.part] += 1
                if report.is_lost and tries[job.part] <= _LOST_RETRIES:
                    pending[send(job)] = job
                else:
                    yield report
    finally:
        ray.shutdown()


def connect_ray(ray: Any, address: str) -> None:
    """
    Join a cluster with the module `ray`; BackendUnavailableError if there is none.

    `address` is 'auto' for the cluster of this machine, HOST:PORT, or 'local' to start one here
    that ends with the run.
    """
    try:
        # Output of workers must not follow the last line on stdout.
        ray.init(address=address, log_to_driver=False, logging_level='error',
                 include_dashboard=False if address == 'local' else None)
    except (ConnectionError, ValueError, RuntimeError) as err:
        raise BackendUnavailableError(
            f'no Ray cluster at {address!r} ({str(err).split(".")[0]})', 'a running cluster',
            'start it with ray start --head, or score without a cluster') from err


def _report(ray: Any, reference: Any, job: ShardJob) -> ShardReport:
    try:
        report: ShardReport = ray.get(reference)
        return report
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, UncertaintySegError):
            raise err.cause from None
        raise
    except ray.exceptions.RayError as err:
        return ShardReport(
            job.source.path, job.fingerprint, broke_off=f'{job.source.path}: its process died '
            f'{RETRIES + 1} times ({type(err).__name__})')


# -------------------------------------------------------------------------------------------------
# The folder of a table. Each part records what it was made with.


@contextmanager
def locked_table(table: Path) -> Iterator[None]:
    """Lock a table for one run, and make its folder; TableError if another run has it."""
    _require_table(table)
    with one_at_a_time(table, TableError, LOCK_FILE):
        # Drafts of a run that was killed.
        for draft in table.glob('.*.tmp'):
            draft.unlink(missing_ok=True)
        yield


def plan_jobs(
    table: Path, sources: Sequence[FrameSource], engine: ShardEngine, stride: int
) -> tuple[list[ShardJob], list[ShardReport]]:
    """
    Return the shards to score, and the reports of those that are finished.

    Raises ConfigError if the table has parts of other sources that were made with another model or
    settings, since their scores are not comparable.
    """
    jobs, finished = [], []
    for source in sources:
        job = ShardJob(source, table / part_name(source), stride, engine.settings, engine.info,
                       engine.fingerprint(source, stride), os.getcwd())
        done = _report_of(job.part)
        if done is not None and done.fingerprint == job.fingerprint and not done.is_lost:
            finished.append(done)
        else:
            jobs.append(job)
    mine = {part_name(source) for source in sources}
    foreign = [part for part in list_parts(table)
               if part.name not in mine and read_info(part) != engine.info]
    if foreign:
        raise ConfigError(
            f'{table} holds {len(foreign)} parts of other sources, scored with another model or '
            f'settings ({foreign[0].name})', 'one model and one set of settings a table',
            'give their sources too, or name another table')
    return jobs, finished


def part_name(source: FrameSource) -> str:
    """Return the file name of a source's part, whatever the notation of its path."""
    path = Path(source.path).resolve()
    part = f'{path}#{source.topic}' + (f'#{source.first}' if source.first else '')
    digest = hashlib.sha256(os.fsencode(part)).hexdigest()[:12]
    return f'{re.sub(r"[^A-Za-z0-9_.-]", "_", path.name)}-{digest}{PART_ENDING}'


def _require_table(table: Path) -> None:
    """Refuse a folder with other content, where parts would be hard to find."""
    if not table.exists():
        return
    if not table.is_dir():
        raise TableError(f'{table} is a file', 'a folder for the table', 'name another one')
    others = [path.name for path in table.iterdir()
              if path.name != LOCK_FILE and not path.name.endswith((PART_ENDING, '.tmp'))]
    if others and not (table / LOCK_FILE).exists():
        raise TableError(f'{table} is no score table (it holds {sorted(others)[0]})',
                         'a new or empty folder', 'name another table')


def _report_of(part: Path) -> ShardReport | None:
    """Return the report in a part; None if the part is missing or damaged."""
    if not part.is_file():
        return None
    try:
        return ShardReport(**read_facts(part))
    except (TableError, TypeError):
        return None


# -------------------------------------------------------------------------------------------------
# One shard. Each shard, and each dive and camera of a log, has a new gate, which sees its frames
# in order. No row depends on another shard.


@dataclass(frozen=True)
class ShardJob:
    """
    One shard to score: each `stride`-th frame of a source, into a part of the table.

    `fingerprint` is a digest of all that changes a row; relative paths start at `folder`.
    """

    source: FrameSource
    part: Path
    stride: int
    settings: Settings
    info: TableInfo
    fingerprint: str
    folder: str = '.'


@dataclass
class ShardReport:
    """
    The report of a shard, which is written into the part; a shard without rows has no part.

    `num_lost` frames are in the index of a bag but could not be found; `broke_off` is why the
    source ended early. `is_lost`: its disk or network failed, so the next run reads it again.
    """

    source: str
    fingerprint: str
    num_frames: int = 0
    num_bad: int = 0
    num_lost: int = 0
    num_confident: int = 0
    num_doubtful: int = 0
    num_turned: int = 0
    problems: list[str] = field(default_factory=list)
    broke_off: str = ''
    is_lost: bool = False


class ShardEngine:
    """The opened model, for shard after shard."""

    def __init__(self, settings: Settings) -> None:
        self._bundle = load_bundle(settings.model, trusted_keys=settings.trusted_keys)
        self.card = self._bundle.card
        settings = offline_settings(self._bundle, settings)
        self._ignore = load_ignore_mask(settings.ignore_mask)
        self._scorer = ScoreVector(self._bundle.card, features=self._bundle.features)
        self._backend = open_backend(settings.backend, self._bundle, settings)
        # The backend that `auto` chose here is used for every shard of the table.
        self.settings = replace(settings, backend=self._backend.name)
        try:
            pipeline = self.pipeline()
            pipeline.check_masks()
            self.info = self._info(pipeline)
        except BaseException:
            self.close()
            raise

    def pipeline(self) -> Pipeline:
        """Return a pipeline with a new gate."""
        return Pipeline(self._bundle, self._backend, self.settings, ignore=self._ignore,
                        scorer=self._scorer)

    def fingerprint(self, source: FrameSource, stride: int) -> str:
        """Return a digest of all that changes a row of a source."""
        calibration = self._bundle.calibration
        says = {
            'version': VERSION, 'source': asdict(source), 'stride': stride,
            **({'each': 'by itself'} if source.kind == 'folder' else {}),
            'info': asdict(replace(self.info, model='')),
            'calibration': calibration_to_json(calibration) if calibration else '',
            'ignore': mask_digest(self._ignore),
        }
        return hashlib.sha256(json.dumps(says, sort_keys=True).encode()).hexdigest()[:32]

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def _info(self, pipeline: Pipeline) -> TableInfo:
        card = pipeline.card
        settings = {name: value for name, value in to_dict(self.settings).items()
                    if name not in _OF_THE_MACHINE}
        del settings['model']  # it has its own field
        if self._bundle.calibration is not None:
            del settings['uncalibrated']  # without effect on a calibrated bundle
        return TableInfo(
            lasting_name(self.settings.model), model_digest(card), card.class_names, card.palette,
            pipeline.passes, self.settings.seed, self._scorer.names,
            num_features(card.num_classes),
            # As they come back from JSON: tuples become lists.
            json.loads(json.dumps(settings)))


def score_shard(
    job: ShardJob, engine: ShardEngine, on_frame: Callable[[], object] = lambda: None
) -> ShardReport:
    """
    Score the frames of a source and write its part; call `on_frame` after each.

    Raises ModelBundleError if the engine has another model than the job, since a machine has other
    files; TableError if the part cannot be written.
    """
    if engine.fingerprint(job.source, job.stride) != job.fingerprint:
        raise ModelBundleError(
            f'model {job.settings.model!r} or its calibration differs in this process',
            'the same files on every machine', 'install the same bundle, or give a shared path')
    report = ShardReport(job.source.path, job.fingerprint)
    with suppress(_NoRowsError), new_part(job.part, job.info) as writer:
        _Shard(engine, job, report, writer).read(on_frame)
        if not report.num_frames:
            raise _NoRowsError
        writer.note(asdict(report))
    return report


class _NoRowsError(Exception):
    """Raised to leave the part unwritten."""


class _Shard:
    """The frames of a source, with a loop per camera and dive, since a log mixes these."""

    def __init__(
        self, engine: ShardEngine, job: ShardJob, report: ShardReport, writer: ScoreWriter
    ) -> None:
        self._engine, self._job, self._report = engine, job, report
        self._writer = writer
        self._loops: dict[tuple[str, str], FrameLoop] = {}
        self._num_classes = engine.card.num_classes

    def read(self, on_frame: Callable[[], object]) -> None:
        report, source = self._report, self._job.source
        num_seen = 0
        try:
            for item in read_source(source, self._job.stride):
                num_seen = item.index + 1
                self._take(item)
                on_frame()
        except (BagError, FrameLogError, OSError) as err:
            report.broke_off = ' '.join(str(err).split())
            report.num_lost = max(0, source.num_frames - num_seen + source.first)
            report.is_lost |= is_lost(err) or is_lost(err.__cause__)
        if report.is_lost or not Path(source.path).exists():
            report.is_lost = True
            report.broke_off = report.broke_off or f'{source.path} could not be reached in part'

    def _take(self, item: SourceFrame | BadFrame) -> None:
        if isinstance(item, BadFrame):
            # The flag falls, as in the node; for every camera if its camera is unknown.
            loops = list(self._loops.values())
            if item.dive is not None and item.topic is not None:
                loops = [self._loop_of(item.dive, item.topic)]
            for loop in loops:
                loop.refuse(item.reason)
            self._report.is_lost |= item.is_lost
            self._count_bad(item, item.reason)
            return
        received_ns, stamp_ns = item.received_ns, item.stamp_ns
        if received_ns is not None and self._engine.settings.stamps == 'receipt':
            stamp_ns = received_ns
        outcome = self._loop_of(item.dive, item.topic).take(
            lambda: decode(item.raw, self._job.settings.decode_limits), stamp_ns,
            clock_ns=None if received_ns is None else lambda: received_ns)
        assert outcome is not None  # this judge is never stopped
        if outcome.result is None or outcome.image_bgr is None:
            self._count_bad(item, outcome.problem)
            return
        self._report.num_frames += 1
        self._report.num_confident += outcome.verdict.is_confident
        self._report.num_doubtful += bool(outcome.doubt)
        self._report.num_turned += isinstance(item.raw, ImageFile) and is_turned(item.raw)
        self._writer.add(self._row(item, outcome))

    def _loop_of(self, dive: str, topic: str) -> FrameLoop:
        if (dive, topic) not in self._loops:
            pipeline, settings = self._engine.pipeline(), self._engine.settings
            judge = PhotographJudge(pipeline) if self._job.source.kind == 'folder' else None
            self._loops[dive, topic] = FrameLoop(
                pipeline, judge, FrameGuard(settings), measures_damaged=True,
                timeout_s=self._job.stride * settings.stale_timeout_s)
        return self._loops[dive, topic]

    def _count_bad(self, item: SourceFrame | BadFrame, reason: str) -> None:
        self._report.num_bad += 1
        if len(self._report.problems) < _PROBLEMS_KEPT:
            name = item.file if isinstance(item, SourceFrame) and item.file else \
                f'frame {item.index}'
            self._report.problems.append(f'{name}: {" ".join(reason.split())}')

    def _row(self, item: SourceFrame, outcome: Outcome) -> ScoreRow:
        image, result = outcome.image_bgr, outcome.result
        assert image is not None and result is not None
        source, scores, verdict = self._job.source, result.scores, result.verdict
        label, ratio = result.label, verdict.score_ratio
        if outcome.doubt and outcome.thresholds:
            # A doubtful frame is ranked by its measured scores, too.
            ratio = float(np.max([scores[name] / limit
                                  for name, limit in outcome.thresholds.items()]))
        height, width = label.shape
        counts = np.bincount(label.ravel(), minlength=self._num_classes)
        shares = (counts / label.size).tolist()
        maps = result.maps.cut(result.geometry.rows, result.geometry.columns)
        features = frame_features(
            image, shares, *(class_means(values, maps.label, self._num_classes)
                             for values in (maps.entropy, maps.mutual_information)))
        return ScoreRow(
            item.dive, source.path, source.kind, item.topic, item.index, item.stamp_ns,
            height, width, verdict.is_confident, verdict.kind, ratio,
            [scores[name] for name in self._job.info.score_names], shares,
            perceptual_hash(image), features, source.run, item.file, '; '.join(verdict.reasons))
