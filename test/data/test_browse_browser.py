# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The page of browse in a real browser: complete, safe, and with working filters."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

from browse_sample import page_values, picture, scored
from chromium import Browser, browser, complaints, OVERFLOWING  # noqa: F401
from conftest import make_tiny_bundle
import numpy as np
import pytest

pytest.importorskip('pyarrow', reason='pyarrow is not installed: no score table')
pytest.importorskip('jinja2', reason='jinja2 is not installed: no page')
pytest.importorskip('matplotlib', reason='matplotlib is not installed, which the browser needs')

from test_browse import HOSTILE  # noqa: E402

import uncertainty_seg as us  # noqa: E402
from uncertainty_seg.cli.main import main  # noqa: E402

FOLDER = '<img src=x onerror=document.title=3>&amp;"\'<!--'
# More frames than the page shows at once.
COUNT = 30


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the page of a table whose folder and dive have hostile names."""
    folder = tmp_path_factory.mktemp('hostile')
    table = scored(folder, make_tiny_bundle(folder / 'tiny'), [picture(k) for k in range(COUNT)],
                   '--dive', HOSTILE, name=FOLDER)
    assert main(['browse', str(table), '-o', str(folder / 'page.html')]) == 0
    yield folder / 'page.html'


def choose(browser: Browser, name: str, value: object) -> None:  # noqa: F811
    """Set a filter as a user does."""
    browser.run(f"""(() => {{ const one = document.getElementById('{name}');
        one.value = '{value}';
        one.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()""")


def fitting(browser: Browser) -> int:  # noqa: F811
    """Return the number of matching frames that the page shows."""
    count, _, total, *_ = browser.run("document.getElementById('count').textContent").split()
    assert int(total) == COUNT
    return int(count)


@pytest.mark.parametrize('width_px', [1280, 400])
def test_the_page_is_whole_fits_and_asks_for_nothing(
    browser: Browser, page: Path, width_px: int  # noqa: F811
) -> None:
    browser.open(page, width_px)
    assert complaints(browser) == []
    asked = {event['request']['url'].split(',')[0][:60]
             for event in browser.of('Network.requestWillBeSent')}
    assert all(url.startswith('data:') or url == page.as_uri()[:60] for url in asked)
    assert browser.run('document.documentElement.scrollWidth') == width_px
    assert browser.run(OVERFLOWING) == []
    sizes = browser.run("""Promise.all([...document.images].map(i => { i.loading = 'eager';
        return i.decode().then(() => [i.naturalWidth, i.naturalHeight]); }))""")
    # The legend of the heatmaps, and three pictures for each frame.
    assert len(sizes) == 1 + 24 * 3 and all(size == [64, 48] for size in sizes[1:])


def test_hostile_names_are_shown_and_do_nothing(
    browser: Browser, page: Path  # noqa: F811
) -> None:
    browser.open(page, 1280)
    assert browser.run('document.title') == f'{COUNT} frames'
    browser.run("""new Promise(done => { const more = document.querySelector('.card details');
        more.addEventListener('toggle', () => setTimeout(done)); more.open = true; })""")
    words = browser.run("document.querySelector('.card').textContent")
    assert HOSTILE in words and FOLDER in words
    kinds = browser.run('[...document.scripts].map(one => one.type)')
    assert kinds.count('') == 1 and set(kinds) == {'', 'application/json', 'text/plain'}
    # An injected script would not run either: the page's policy only allows its own.
    browser.run("""(() => { const script = document.createElement('script');
        script.textContent = 'document.title = "ran"'; document.body.append(script);
        const box = document.createElement('div'); document.body.append(box);
        box.innerHTML = '<img src="data:," onerror="document.title = 5">'; })()""")
    assert browser.run("""new Promise(done => setTimeout(() => done(document.title), 200))""") \
        == f'{COUNT} frames'


def test_filters_leave_the_frames_that_the_table_says(
    browser: Browser, page: Path  # noqa: F811
) -> None:
    values = page_values(page)
    browser.open(page, 1280)
    assert fitting(browser) == COUNT
    scores = np.array(values['scores']['entropy.mean'])
    limit = float(np.median(scores))
    choose(browser, 'score', list(values['scores']).index('entropy.mean'))
    choose(browser, 'value-least', limit)
    assert fitting(browser) == (scores >= limit).sum() < COUNT
    choose(browser, 'value-least', '')
    choose(browser, 'class', 1)
    green = np.array(values['shares'][1])
    assert fitting(browser) == (green > 0).sum() < COUNT
    choose(browser, 'share-least', 50)
    assert fitting(browser) == (100 * green >= 50).sum()
    choose(browser, 'class', '')
    flags = np.array([frame['flag'] for frame in values['frames']])
    for value, wanted in (('1', flags.sum()), ('0', (~flags).sum()), ('', COUNT)):
        choose(browser, 'flag', value)
        assert fitting(browser) == wanted
    order = """[...document.querySelectorAll('.card')].map(c => Number(c.id.split('-')[1]))"""
    choose(browser, 'order', 'up')
    shown = browser.run(order)
    assert len(shown) == 24 and (np.diff(scores[shown]) >= 0).all()
    browser.run("document.getElementById('more').click()")
    assert len(browser.run(order)) == COUNT


def test_photographs_without_a_picture_in_the_page_are_read_from_their_files(
    browser: Browser, page: Path, tmp_path: Path  # noqa: F811
) -> None:
    few = tmp_path / 'few.html'
    assert main(['browse', str(page.parent / 'table'), '-o', str(few), '--most', '1']) == 0
    browser.open(few, 800)
    sizes = """Promise.all([...document.querySelectorAll('.card img')].map(i => {
        i.loading = 'eager'; return i.decode().then(() => i.naturalWidth); }))"""
    assert browser.run(sizes) == [64] * (24 + 2)
    assert complaints(browser) == []
    choose(browser, 'pictured', 1)
    assert fitting(browser) == 1
    # The served page has three pictures of every frame.
    with us.browse(page.parent / 'table', few, most=1, force=True).server() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        browser.open(server.address, 800)
        assert browser.run(sizes) == [64] * 3 * 24
        assert complaints(browser) == [] and browser.run(OVERFLOWING) == []
        server.shutdown()
