# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Build engines inside the node while it goes on publishing its state.

A build takes minutes and does not return meanwhile, so it runs in a thread, and the thread that
waits for it reports its progress.

"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import logging
import time

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.gpu.engine_build import (
    build_here,
    BuildState,
    EngineBuild,
    Progress,
)
from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendError, EngineMissingError

_log = logging.getLogger(__name__)


def open_or_build(
    bundle: ModelBundle, settings: Settings, report: Callable[[BuildState], None],
    is_stopping: Callable[[], bool], ignore: NDArray[np.bool_] | None = None,
) -> Pipeline:
    """
    Open a pipeline; if its engine was never built here, build that first.

    Parameters
    ----------
    bundle, settings : ModelBundle, Settings
        As `open_pipeline` takes them.
    report, is_stopping : callable
        As `wait_for_build` takes them; not called if nothing is built.
    ignore : ndarray of bool, optional
        As `Pipeline` takes it.

    Returns
    -------
    Pipeline
        Ready for the first frame.

    Raises
    ------
    UncertaintySegError
        As `open_pipeline` and `wait_for_build`; EngineMissingError if what was built is not
        what is missing.

    """
    try:
        return open_pipeline(bundle, settings, ignore)
    except EngineMissingError as err:
        _log.warning('%s Building it now, which may take minutes.', err)
    # Often enough for subscribers that ask for the deadline of the flag.
    period_s = min(settings.stale_timeout_s / 4, 0.25)
    wait_for_build(partial(build_here, bundle, settings), report, is_stopping, period_s)
    return open_pipeline(bundle, settings, ignore)


def wait_for_build(
    build: Callable[[Progress], None], report: Callable[[BuildState], None],
    is_stopping: Callable[[], bool], period_s: float,
) -> None:
    """
    Build in a thread, and report the progress from this one until it is done.

    Parameters
    ----------
    build : callable
        As `EngineBuild` takes it.
    report : callable
        Called at once and then every `period_s`, with the progress.
    is_stopping : callable
        Asked as often; True gives the build up.
    period_s : float
        Seconds.

    Raises
    ------
    BackendError
        If it was given up, or failed for a reason of the runtime.
    UncertaintySegError
        As the build did.

    """
    start_s = time.monotonic()
    running = EngineBuild(build)
    report(running.state)
    while not running.wait(period_s):
        if is_stopping():
            if not running.stop():
                _log.warning('the build of the engine does not stop; it is left behind')
            raise BackendError('the node is stopping before its engine was built',
                               fix='build it beforehand by uncertainty_seg self-check')
        report(running.state)
    _log.info('engine built in %.0f s', time.monotonic() - start_s)
