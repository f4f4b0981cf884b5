# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The page of browse in a real browser: whole, harmless, and filters, plot and list at work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from browse_sample import FOLDER, HOSTILE, page_values, PLANTED, write_sample
import numpy as np
import pytest

pytest.importorskip('pyarrow', reason='pyarrow is not installed: no score table')
pytest.importorskip('jinja2', reason='jinja2 is not installed: no page')
pytest.importorskip('matplotlib', reason='matplotlib is not installed, which the browser needs')

from test_report_browser import (  # noqa: E402, F401
    Browser,
    browser,
    complaints,
    OVERFLOWING,
)

from uncertainty_seg.cli.main import main  # noqa: E402

# More frames than are shown at once.
COUNT = 30


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a page of a table whose folder and dive have hostile names."""
    folder = tmp_path_factory.mktemp('hostile')
    labelled, table = write_sample(folder, is_hostile=True, count=COUNT)
    assert main(['browse', str(table), '-o', str(folder / 'page.html'), '--labelled',
                 str(labelled)]) == 0
    yield folder / 'page.html'


def choose(browser: Browser, name: str, value: object) -> None:  # noqa: F811
    """Set a filter as a user does."""
    browser.run(f"""(() => {{ const one = document.getElementById('{name}');
        one.value = '{value}';
        one.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()""")


def fitting(browser: Browser) -> int:  # noqa: F811
    """Return how many frames the page says fit; the plot has as many dots."""
    text = browser.run("document.getElementById('count').textContent")
    dots = browser.run("document.querySelectorAll('#plot circle:not(.other)').length")
    count, _, total, *_ = text.split()
    assert (int(total), int(count)) == (COUNT, dots)
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
    assert len(sizes) == 24 * 4 and all(size == [64, 48] for size in sizes)


def test_hostile_names_are_shown_and_do_nothing(
    browser: Browser, page: Path  # noqa: F811
) -> None:
    browser.open(page, 1280)
    assert browser.run('document.title') == f'{COUNT} of {COUNT} frames'
    words = browser.run("document.querySelector('.card .words').textContent")
    assert HOSTILE in words and FOLDER in words
    assert browser.run("[...document.querySelectorAll('#dive option')].map(o => o.text)") == [
        'all', HOSTILE]
    assert browser.run('document.scripts.length') == 2
    # Nor would a script run that had got in: the policy of the page allows its own alone.
    browser.run("""(() => { const script = document.createElement('script');
        script.textContent = 'document.title = "ran"'; document.body.append(script);
        const box = document.createElement('div'); document.body.append(box);
        box.innerHTML = '<img src="data:," onerror="document.title = 5">'; })()""")
    assert browser.run("""new Promise(done => setTimeout(() => done(document.title), 200))""") \
        == f'{COUNT} of {COUNT} frames'


def test_filters_leave_the_frames_that_the_table_says(
    browser: Browser, page: Path  # noqa: F811
) -> None:
    values = page_values(page)
    browser.open(page, 1280)
    assert fitting(browser) == COUNT
    scores = np.array(values['scores']['entropy.mean'])
    limit = float(np.median(scores))
    choose(browser, 'score', 'entropy.mean')
    choose(browser, 'value-least', limit)
    assert fitting(browser) == (scores >= limit).sum() < COUNT
    choose(browser, 'value-largest', limit)
    assert fitting(browser) == (scores == limit).sum()
    choose(browser, 'value-least', '')
    assert fitting(browser) == (scores <= limit).sum()
    choose(browser, 'value-largest', '')
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
    choose(browser, 'dive', 0)
    assert fitting(browser) == COUNT
    choose(browser, 'label', 'unreviewed')
    assert fitting(browser) == 0
    choose(browser, 'label', 'reviewed')
    assert fitting(browser) == COUNT
    order = """[...document.querySelectorAll('.card')].map(c => Number(c.id.split('-')[1]))"""
    choose(browser, 'order', 'up')
    shown = browser.run(order)
    assert len(shown) == 24 and np.isin(shown, np.argsort(scores, kind='stable')[:24]).all()
    assert (np.diff(scores[shown]) >= 0).all()
    browser.run("document.getElementById('more').click()")
    assert len(browser.run(order)) == COUNT
    assert browser.run("document.getElementById('more').hidden") is True


def test_a_dot_shows_its_frame_and_a_click_opens_it(
    browser: Browser, page: Path  # noqa: F811
) -> None:
    values = page_values(page)
    browser.open(page, 1280)
    last = browser.run("""[...document.querySelectorAll('.card')].pop().id""")
    hidden = next(k for k in range(COUNT) if browser.run(
        f"document.getElementById('frame-{k}')") is None and f'frame-{k}' != last)
    at = browser.run(f"""(() => {{
        const dot = document.querySelector('#plot circle[data-frame="{hidden}"]');
        dot.parentNode.append(dot);  // above its neighbours
        dot.scrollIntoView({{ block: 'center' }});
        const r = dot.getBoundingClientRect();
        return [r.left + r.width / 2, r.top + r.height / 2]; }})()""")
    for kind in ('mouseMoved', 'mousePressed', 'mouseReleased'):
        browser.ask('Input.dispatchMouseEvent', type=kind, x=at[0], y=at[1], clickCount=1,
                    button='none' if kind == 'mouseMoved' else 'left')
        if kind == 'mouseMoved':
            peek = browser.run("document.getElementById('peek').textContent")
            assert values['frames'][hidden]['key'] in peek
            assert browser.run("document.querySelector('#peek img').naturalWidth") == 64
            assert browser.run(f"document.getElementById('frame-{hidden}')") is None
    assert browser.run("document.querySelector('.card.on').id") == f'frame-{hidden}'
    assert browser.run("""(() => { const r = document.querySelector('.card.on')
        .getBoundingClientRect(); return r.top < innerHeight && r.bottom > 0; })()""")
    # A colour a class: the dots have those of the palette.
    choose(browser, 'colour', 'class')
    colours = browser.run("""[...new Set([...document.querySelectorAll(
        '#plot circle:not(.other)')].map(c => c.style.fill))].sort()""")
    assert colours == ['rgb(0, 0, 255)', 'rgb(0, 255, 0)', 'rgb(255, 0, 0)']
    assert complaints(browser) == []


def test_a_suspected_label_is_listed_and_marked_in_its_pictures(
    browser: Browser, page: Path  # noqa: F811
) -> None:
    browser.open(page, 1280)
    cells = browser.run("""[...document.querySelector('#errors tbody tr').cells].map(
        c => c.textContent)""")
    assert cells[:3] == [PLANTED, 'red', 'blue']
    browser.run("document.querySelector('#errors tbody tr').click()")
    browser.run("Promise.all([...document.querySelectorAll('.card.on img')].map(i => i.decode()))")
    boxes = browser.run("""[...document.querySelectorAll('.card.on .frame')].map(f => {
        const r = f.getBoundingClientRect(), b = f.querySelector('.box').getBoundingClientRect();
        return [(b.left - r.left) / r.width, (b.top - r.top) / r.height, b.width / r.width,
                b.height / r.height]; })""")
    assert len(boxes) == 4
    # Pixels 2 to 18 of 64 and 8 to 40 of 48, and the picture fills its frame.
    np.testing.assert_allclose(boxes, [[2 / 64, 8 / 48, 16 / 64, 32 / 48]] * 4, atol=0.02)
    browser.run("""document.querySelector('#errors tbody tr').dispatchEvent(
        new KeyboardEvent('keydown', { key: 'Enter' }))""")
    assert browser.run("document.querySelectorAll('.card.on').length") == 1
    assert complaints(browser) == []
