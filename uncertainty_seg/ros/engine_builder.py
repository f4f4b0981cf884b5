# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Build engines inside the node while it goes on publishing its state.

A build takes minutes and does not return meanwhile, so it runs in a thread, and the thread that
waits for it reports its progress. A build that is stopped ends at the next report of progress;
TensorRT before 10 reports none, and is then left behind.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
import logging
import threading
import time

import numpy as np
from numpy.typing import NDArray

from uncertainty_seg.backends.gpu.bundle_engines import build_here
from uncertainty_seg.backends.gpu.engine_build import Progress
from uncertainty_seg.backends.registry import open_pipeline
from uncertainty_seg.core.bundle import ModelBundle
from uncertainty_seg.core.pipeline import Pipeline
from uncertainty_seg.core.settings import Settings
from uncertainty_seg.errors import BackendError, EngineMissingError, UncertaintySegError

# How long to wait for a build that was stopped.
STOP_TIMEOUT_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildState:
    """
    How far a build is.

    Attributes
    ----------
    share : float
        Of its steps, 0..1; not of its time.
    phase : str
        The engine and what is done to it; empty before the first report.

    """

    share: float = 0.0
    phase: str = ''

    def __str__(self) -> str:
        """Return it as a reason for the flag to be down."""
        return f'building engine ({self.share * 100:.0f} %)'


class _Stopped(Exception):
    """Ends the build from within; never leaves this file."""


class EngineBuild:
    """
    One build, in a thread of its own from the start.

    Parameters
    ----------
    build : callable
        Given a function to report progress to, from any thread; returns when it is built.

    """

    def __init__(self, build: Callable[[Progress], None]) -> None:
        self._build = build
        self._state = BuildState()
        self._error: Exception | None = None
        self._is_stopped = False
        self._done = threading.Event()
        # A build that cannot be stopped must not keep the process.
        threading.Thread(target=self._run, name='engine-build', daemon=True).start()

    @property
    def state(self) -> BuildState:
        """How far it is."""
        return self._state

    def wait(self, timeout_s: float) -> bool:
        """
        Wait for the end.

        Parameters
        ----------
        timeout_s : float
            At most so long.

        Returns
        -------
        bool
            True if it is built, False if it is still running.

        Raises
        ------
        UncertaintySegError
            As the build did; BackendError for any other of its errors.

        """
        if not self._done.wait(timeout_s):
            return False
        if self._error is not None:
            raise self._error
        return True

    def stop(self) -> bool:
        """End it at the next report of progress; False if none came for too long."""
        self._is_stopped = True
        return self._done.wait(STOP_TIMEOUT_S)

    def _tell(self, share: float, phase: str) -> None:
        if self._is_stopped:
            raise _Stopped
        self._state = BuildState(share, phase)

    def _run(self) -> None:
        try:
            self._build(self._tell)
        except _Stopped:
            self._error = BackendError('the build was stopped')
        except UncertaintySegError as err:
            self._error = err
        except Exception as err:  # TensorRT's and the system's own; the thread must report them
            self._error = BackendError(
                f'the engine cannot be built ({type(err).__name__}: {err})')
            self._error.__cause__ = err
        finally:
            self._done.set()


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
                               fix='run uncertainty_seg build-engines beforehand')
        report(running.state)
    _log.info('engine built in %.0f s', time.monotonic() - start_s)
