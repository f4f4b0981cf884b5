# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The report in a real browser: headless Chromium, spoken to over a pipe in its DevTools protocol.

No driver is needed, and nothing listens on a port. UNCERTAINTY_SEG_CHROMIUM names a browser that
is not on the path.

"""

from __future__ import annotations

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

from calibration_helpers import write_folder
from comparison_sample import comparison, planted
from conftest import make_tiny_bundle
import cv2
import numpy as np
import pytest
from report_sample import sample_report

pytest.importorskip('matplotlib', reason='matplotlib is not installed: no report is drawn')

import uncertainty_seg as us  # noqa: E402
from uncertainty_seg.calibration.report.page import Report  # noqa: E402
from uncertainty_seg.calibration.report.reports import comparison_page  # noqa: E402

_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
_ANSWER_S = 60.0
# The protocol wants its two pipes as descriptors 3 and 4.
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
    """One tab, and everything it complained about."""

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
        """Send a command and wait for its answer; events that come in between are kept."""
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

    def open(self, path: Path, width_px: int) -> None:  # noqa: A003
        """Load a page at a width and wait until it and all its pictures are there."""
        self.events.clear()
        self.ask('Emulation.setDeviceMetricsOverride', width=width_px, height=900,
                 deviceScaleFactor=1, mobile=False)
        self.ask('Page.navigate', url=path.as_uri())
        while not self.of('Page.loadEventFired'):
            self._next()

    def of(self, *methods: str) -> list[dict[str, Any]]:
        """Return what was told under these names since the page was opened."""
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


@pytest.fixture(scope='module')
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp('report') / 'report.html'
    place.write_text(sample_report().page())
    return place


def complaints(browser: Browser) -> list[dict[str, Any]]:
    told = browser.of('Runtime.consoleAPICalled', 'Runtime.exceptionThrown',
                      'Network.loadingFailed')
    return told + [e for e in browser.of('Log.entryAdded') if e['entry']['level'] != 'verbose']


# Elements that leave the window and do not scroll inside a box of their own.
OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(e => {
  const r = e.getBoundingClientRect();
  return r.width > 0 && (r.right > innerWidth + 0.5 || r.left < -0.5) &&
    !e.closest('.wide, figure.large');
}).map(e => e.outerHTML.slice(0, 80))
"""


@pytest.mark.release
@pytest.mark.parametrize('width_px', [1280, 400])
def test_the_page_is_whole_and_fits(browser: Browser, path: Path, width_px: int) -> None:
    browser.open(path, width_px)
    assert complaints(browser) == []
    asked = {event['request']['url'].split(',')[0][:60]
             for event in browser.of('Network.requestWillBeSent')}
    assert all(url.startswith('data:') or url == path.as_uri()[:60] for url in asked)
    pictures = browser.run("""Promise.all([...document.images].map(i => i.decode().then(
        () => [i.naturalWidth, i.naturalHeight, i.clientWidth, i.clientHeight])))""")
    assert len(pictures) == 4 + 3 * 4 + 1
    assert all(side > 5 for picture in pictures for side in picture)
    assert browser.run('document.documentElement.scrollWidth') == width_px
    assert browser.run(OVERFLOWING) == []


@pytest.mark.release
def test_a_bundle_without_a_calibration_has_a_page_that_says_so(
    browser: Browser, tmp_path: Path
) -> None:
    folder, page = write_folder(tmp_path / 'labelled', 12, 3), tmp_path / 'cold.html'
    us.evaluate(make_tiny_bundle(tmp_path / 'tiny', calibrated=False), folder, report=page,
                settings=us.Settings(backend='onnxruntime', threads=1), corrupt_frames=2)
    browser.open(page, 1280)
    assert complaints(browser) == []
    assert 'there are no figures of it' in browser.run(
        "document.querySelector('header .warning').textContent")
    assert browser.run('Promise.all([...document.images].map(i => i.decode())).then(p => p.length)'
                       ) == 1 + 2 + 1 + 5
    assert browser.run(OVERFLOWING) == []


def test_a_phone_stacks_and_a_desk_lays_side_by_side(browser: Browser, path: Path) -> None:
    columns = """getComputedStyle(document.querySelector('{}')).gridTemplateColumns
                 .split(' ').length"""
    found = {}
    for width_px in (1280, 400):
        browser.open(path, width_px)
        found[width_px] = [browser.run(columns.format(c)) for c in ('.strip', '.plots', '.tiles')]
    assert found == {1280: [4, 3, 6], 400: [2, 1, 2]}


@pytest.mark.parametrize('width_px', [1280, 400])
def test_every_section_shows_ink_and_pictures_of_frames_their_colours(
    browser: Browser, path: Path, width_px: int
) -> None:
    browser.open(path, width_px)
    page = browser.picture()
    assert page.shape[1] == width_px
    assert (page[:4] == 255).all()
    boxes = browser.run("""[...document.querySelectorAll('header, section')].map(e => {
        const r = e.getBoundingClientRect();
        return [e.id, Math.round(r.top + scrollY), Math.round(r.bottom + scrollY)]; })""")
    assert len(boxes) == 10
    for name, top, bottom in boxes:
        share = (page[top:bottom].min(axis=-1) < 128).mean()
        assert 0.001 < share < 0.6, (name, share)
    tile = browser.run("""(() => { const i = document.querySelectorAll('.strip img')[2];
        const r = i.getBoundingClientRect();
        return [r.left, r.top + scrollY, r.width, r.height].map(Math.round); })()""")
    left, top, width, height = tile
    mask = page[top:top + height, left:left + width].reshape(-1, 3)
    assert (mask == 255).all(-1).mean() > 0.02
    assert (mask == 0).all(-1).mean() > 0.5


def test_the_checks_see_a_page_that_is_broken(browser: Browser, tmp_path: Path) -> None:
    broken = Report('t', []).page().replace(
        '</main>', '<img src="missing.png"><div style="width:3000px">wide</div>'
        '<script>console.error("no")</script></main>')
    path = tmp_path / 'broken.html'
    path.write_text(broken, encoding='utf-8')
    browser.open(path, 400)
    assert len(complaints(browser)) >= 2
    assert browser.run('document.images[0].naturalWidth') == 0
    assert browser.run('document.documentElement.scrollWidth') > 400
    assert len(browser.run(OVERFLOWING)) == 1


def test_a_printed_page_cuts_nothing_off(browser: Browser, path: Path) -> None:
    browser.open(path, 700)
    browser.ask('Emulation.setEmulatedMedia', media='print')
    try:
        assert browser.run(OVERFLOWING) == []
        pdf = base64.b64decode(browser.ask('Page.printToPDF', printBackground=False)['data'])
    finally:
        browser.ask('Emulation.setEmulatedMedia', media='')
    assert pdf.startswith(b'%PDF') and len(pdf) > 50_000


@pytest.mark.parametrize('width_px', [1280, 400])
def test_the_page_of_a_comparison_is_whole_fits_and_unfolds(
    browser: Browser, tmp_path: Path, width_px: int
) -> None:
    path = tmp_path / 'compare.html'
    path.write_text(comparison_page(
        comparison({'single': planted(), 'better <i>': planted(0.8, 0.9, 1)})))
    browser.open(path, width_px)
    assert complaints(browser) == []
    assert browser.run('document.documentElement.scrollWidth') == width_px
    assert browser.run(OVERFLOWING) == []
    marked = browser.run("""[...document.querySelectorAll('#table tr.marked')].map(
        row => [row.cells[1].innerText, row.cells[5].innerText])""")
    assert len(marked) >= 6 and {row[0] for row in marked} == {'better <i>'}
    page = browser.picture()
    assert page.shape[1] == width_px and 0.005 < (page.min(axis=-1) < 128).mean() < 0.3
