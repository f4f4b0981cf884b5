# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Score shards in a process that is not the one that asked, on this machine or another.

Such a process keeps its model open from shard to shard. How far it is stands in a small file
beside the part, which the process that asked reads for its progress bar.

"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
import multiprocessing
from multiprocessing.process import BaseProcess
import os
from pathlib import Path
import signal
import threading
import time

import cv2

from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import TableError
from uncertainty_seg.tools.score_shard import ShardEngine, score_shard, ShardJob, ShardReport
from uncertainty_seg.tools.score_table import LOCK_FILE

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

    Raises
    ------
    TableError
        If the folder of the table is not the one of the process that asked.
    UncertaintySegError
        As `score_shard`, and as `ShardEngine`.

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
