# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
A child process that prints JSON lines, is watched while it runs and stopped in order.

What it does is not known here.

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import TextIO

from uncertainty_seg.errors import UncertaintySegError

STOP_TIMEOUT_S = 30.0


class ChildProcess:
    """
    A module in its own process; it is stopped at the end of the `with` block.

    Parameters
    ----------
    name : str
        For people, and for its log files.
    module : str
        Run as ``python -m``.
    words : sequence of str
        Its arguments.
    logs : Path
        Folder of its log files.
    environment : mapping of str to str
        Its environment.

    """

    def __init__(
        self, name: str, module: str, words: Sequence[str], logs: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._name = name
        self._environment = {**environment, 'PYTHONUNBUFFERED': '1'}
        self._log_path = logs / f'{name}.log'
        self._out_path = logs / f'{name}.out'
        self._command = [sys.executable, '-m', module, *words]
        self._process: subprocess.Popen[bytes] | None = None
        self._files: list[TextIO] = []

    def __enter__(self) -> ChildProcess:
        """Start it."""
        self._files = [path.open('w') for path in (self._out_path, self._log_path)]
        # A session of its own: Ctrl-C reaches this process alone, which stops them in order.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._files[0],
            stderr=self._files[1], env=self._environment, start_new_session=True,
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop it, whatever has happened."""
        self.stop(is_checked=False)
        for file in self._files:
            file.close()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._running().poll() is None

    def require_running(self) -> None:
        """Raise what it said last if it has ended."""
        if not self.is_running:
            raise self._error('ended too early')

    def wait_for(self, key: str, timeout_s: float, others: Sequence[ChildProcess]) -> None:
        """Wait until it prints a JSON line with this key."""
        end_s = time.monotonic() + timeout_s
        while key not in self._said():
            for process in (self, *others):
                process.require_running()
            if time.monotonic() > end_s:
                raise others[0]._error(f'published nothing within {timeout_s:g} s')
            time.sleep(0.1)

    def result(self) -> Mapping[str, object]:
        """Return its last JSON line; it must have ended well."""
        if self._running().wait() != 0:
            raise self._error('failed')
        return self._said()

    def stop(self, is_checked: bool = True) -> None:
        """Interrupt it and wait; kill what does not listen."""
        process = self._running()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if is_checked and process.returncode != 0:
            raise self._error('did not end in order')

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _said(self) -> dict[str, object]:
        lines = [line for line in self._out_path.read_text().splitlines() if line.startswith('{')]
        try:
            found: dict[str, object] = json.loads(lines[-1]) if lines else {}
        except ValueError:  # caught in the middle of writing
            return {}
        return found

    def _error(self, what: str) -> UncertaintySegError:
        lines = self._log_path.read_text(errors='replace').strip().splitlines()
        said = lines[-1] if lines else 'it said nothing'
        return UncertaintySegError(
            f'the {self._name} {what} ({said})', fix=f'all it said is in {self._log_path}'
        )
