# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Headless Chromium, controlled over a pipe in its DevTools protocol, for tests of HTML pages.

It needs no driver and opens no port. UNCERTAINTY_SEG_CHROMIUM names a browser that is not on
PATH.
"""

import base64
from collections.abc import Iterator
import json
import os
from pathlib import Path
import select
import shutil
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest

_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
_ANSWER_S = 60.0
# The protocol expects its two pipes as file descriptors 3 and 4.
_START = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 20) for fd in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--no-first-run',
          '--disable-dev-shm-usage', '--disable-background-networking', '--disable-extensions',
          '--disable-component-update', '--remote-debugging-pipe')


class Browser:
    """One tab of the browser, and the events that it reported."""

    def __init__(self, binary: str, profile: Path) -> None:
        to_read, self._to_browser = os.pipe()
        self._from_browser, to_write = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, '-c', _START, str(to_read), str(to_write), binary, *_FLAGS,
             f'--user-data-dir={profile}', 'about:blank'],
            pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self._rest, self._count, self._session = b'', 0, ''
        self.events: list[dict[str, Any]] = []
        target = self.ask('Target.createTarget', url='about:blank')['targetId']
        self._session = self.ask('Target.attachToTarget', targetId=target,
                                 flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.ask(f'{domain}.enable')

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command and wait for its answer; events received meanwhile go to `events`."""
        self._count += 1
        call = {'id': self._count, 'method': method, 'params': params}
        if self._session:
            call['sessionId'] = self._session
        os.write(self._to_browser, json.dumps(call).encode() + b'\0')
        while True:
            message = self._next()
            if message.get('id') == self._count:
                assert 'error' not in message, message
                return message.get('result', {})

    def _next(self) -> dict[str, Any]:
        while b'\0' not in self._rest:
            ready, _, _ = select.select([self._from_browser], [], [], _ANSWER_S)
            assert ready, f'no answer from the browser in {_ANSWER_S:g} s'
            chunk = os.read(self._from_browser, 1 << 20)
            assert chunk, 'the browser ended'
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b'\0')
        message: dict[str, Any] = json.loads(line)
        if 'method' in message:
            self.events.append(message)
        return message

    def open(self, page: Path | str, width_px: int) -> None:  # noqa: A003
        """Load a page at a viewport width and wait until it and all its pictures are loaded."""
        self.events.clear()
        self.ask('Emulation.setDeviceMetricsOverride', width=width_px, height=900,
                 deviceScaleFactor=1, mobile=False)
        self.ask('Page.navigate', url=page if isinstance(page, str) else page.as_uri())
        while not self.of('Page.loadEventFired'):
            self._next()

    def of(self, *methods: str) -> list[dict[str, Any]]:
        """Return the parameters of the events of these names since the page was opened."""
        return [event['params'] for event in self.events if event['method'] in methods]

    def run(self, script: str) -> Any:
        """Return the value of an expression."""
        answer = self.ask('Runtime.evaluate', expression=script, returnByValue=True,
                          awaitPromise=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def picture(self) -> np.ndarray[Any, Any]:
        """Return the whole page as BGR."""
        shot = self.ask('Page.captureScreenshot', format='png', captureBeyondViewport=True)
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(shot['data']), np.uint8),
                               cv2.IMREAD_COLOR)
        assert decoded is not None
        return decoded

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to_browser)
        os.close(self._from_browser)


@pytest.fixture(scope='module')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    named = os.environ.get('UNCERTAINTY_SEG_CHROMIUM')
    binary = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if binary is None:
        pytest.skip('no Chromium is here (set UNCERTAINTY_SEG_CHROMIUM): no page is looked at')
    opened = Browser(binary, tmp_path_factory.mktemp('profile'))
    yield opened
    opened.close()


def complaints(browser: Browser) -> list[dict[str, Any]]:
    told = browser.of('Runtime.consoleAPICalled', 'Runtime.exceptionThrown',
                      'Network.loadingFailed')
    return told + [e for e in browser.of('Log.entryAdded') if e['entry']['level'] != 'verbose']


# JavaScript: elements that extend beyond the window and are in no scrollable box.
OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(e => {
  const r = e.getBoundingClientRect();
  return r.width > 0 && (r.right > innerWidth + 0.5 || r.left < -0.5) &&
    !e.closest('.wide, figure.large');
}).map(e => e.outerHTML.slice(0, 80))
"""
