# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A build of engines in a thread of its own, so that whoever waits for it can stop it.

TensorRT calls back from C++, where an interrupt would be lost: Ctrl-C that came inside of a report
of progress did nothing, and the build went on to its end. A build that is stopped ends at the next
report; TensorRT before 10 reports none, and is then left behind.

"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import threading

from uncertainty_seg.backends.gpu.engine_build import Progress
from uncertainty_seg.errors import BackendError, UncertaintySegError

# How long to wait for a build that was stopped.
STOP_TIMEOUT_S = 5.0


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

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """End it at the next report of progress; False if none came for too long."""
        self._is_stopped = True
        return self._done.wait(timeout_s)

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
