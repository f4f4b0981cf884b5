# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A Label Studio of one's own for a test: started, spoken to by its API, and ended."""

from __future__ import annotations

from http.cookiejar import CookieJar
import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import time
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import build_opener, HTTPCookieProcessor, Request

_MAIL, _PASSWORD = 'tester@example.com', 'a long enough one'
# Migrations of its database take half a minute on a small machine.
_START_S, _ANSWER_S = 240.0, 60.0


class LabelStudio:
    """
    A server on this machine with an account that is logged in.

    Parameters
    ----------
    executable : str
        ``label-studio`` of its environment.
    folder : Path
        For its database and log; thrown away by whoever made it.

    """

    def __init__(self, executable: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = probe.getsockname()[1]
        self.url = f'http://127.0.0.1:{port}'
        self._jar = CookieJar()
        self._opener = build_opener(HTTPCookieProcessor(self._jar))
        kept = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
        self._log = folder / 'server.log'
        with self._log.open('w') as log:
            self._process = subprocess.Popen(
                [executable, 'start', '--no-browser', '--internal-host', '127.0.0.1', '--port',
                 str(port), '--data-dir', str(folder), '--username', _MAIL, '--password',
                 _PASSWORD],
                cwd=folder, stdout=log, stderr=log, start_new_session=True,
                # It shall ask nothing of the net.
                env={**kept, 'COLLECT_ANALYTICS': 'false', 'SENTRY_DSN': '',
                     'FRONTEND_SENTRY_DSN': '', 'LATEST_VERSION_CHECK': 'false',
                     'LABEL_STUDIO_BASE_DATA_DIR': str(folder)})

    def log_in(self) -> None:
        """Wait until it answers, and log in as its page does."""
        end = time.monotonic() + _START_S
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < end, f'Label Studio did not start in {_START_S:g} s'
            time.sleep(0.5)
        self._opener.open(f'{self.url}/user/login/', timeout=_ANSWER_S).read()
        form = {'csrfmiddlewaretoken': self.cookie('csrftoken'), 'email': _MAIL,
                'password': _PASSWORD}
        self._opener.open(Request(f'{self.url}/user/login/', urlencode(form).encode(),
                                  {'Referer': self.url}), timeout=_ANSWER_S).read()
        assert self.cookie('sessionid'), 'Label Studio let nobody in'

    def cookie(self, name: str) -> str:
        """Return a cookie it gave, or nothing."""
        return next((c.value or '' for c in self._jar if c.name == name), '')

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Call its API and return what it answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {'Content-Type': 'application/json', 'Referer': self.url,
                   'X-CSRFToken': self.cookie('csrftoken')}
        request = Request(f'{self.url}{path}', data, headers, method=method)
        with self._opener.open(request, timeout=_ANSWER_S) as answer:
            return json.loads(answer.read() or 'null')

    def close(self) -> None:
        """End it and what it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with self._opener.open(f'{self.url}/health', timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False
