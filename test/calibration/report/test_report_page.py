# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""A report shows exactly its data, and needs no external resources."""

import base64
from html.parser import HTMLParser
import os
from pathlib import Path
import re
import subprocess
import sys

import pytest
from report_sample import CLASSES, NASTY, sample_report, SCORES

pytest.importorskip('matplotlib', reason='matplotlib is not installed: no report is drawn')
escape = pytest.importorskip('markupsafe', reason='jinja2 is not installed: no report').escape

from uncertainty_seg.calibration.report.page import (  # noqa: E402
    limit,
    number,
    percent,
    Report,
    whole_percent,
    write_page,
)
from uncertainty_seg.calibration.report.reports import _judged  # noqa: E402
from uncertainty_seg.core.calibration import Promise  # noqa: E402
from uncertainty_seg.errors import ConfigError  # noqa: E402

VOID = {'meta', 'link', 'img', 'br'}


class Reader(HTMLParser):
    """Collects the text, attributes and ids of a page; fails on unclosed tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if 'style' not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return ' '.join(' '.join(self.words).split())

    def attributes(self, name: str) -> list[str]:
        return [values[name] or '' for _, values in self.tags if name in values]


@pytest.fixture(scope='module')
def page() -> str:
    return sample_report().page()


def test_sections_are_listed_and_shown_in_order(page: str) -> None:
    names = [section.name for section in sample_report().sections]
    reader = Reader(page)
    assert [v['id'] for tag, v in reader.tags if tag == 'section'] == names
    assert [v['href'] for tag, v in reader.tags if tag == 'a'] == [f'#{name}' for name in names]
    bare = Reader(Report('Only <this>', []).page())
    assert bare.text == 'Only <this> Only <this>'


@pytest.mark.parametrize('figure', [
    '61.3 % of frames accepted', 'camera left', 'ab12' * 16, 'entropy.mean yes 0.0512 0.913',
    '0.712 mean IoU', '1,234,567', '3 of 17 such frames', 'dive/frame 2',
    'Frames of one dive share a block.', 'What is promised.',
])
def test_what_was_given_is_printed(page: str, figure: str) -> None:
    assert figure in Reader(page).text


def test_gated_rows_are_marked_and_scores_are_folded(page: str) -> None:
    assert page.count('<tr class="marked">') == 1
    folded = page[page.index('<details>'):page.index('</details>')]
    assert all(str(escape(name)) in folded for name in SCORES)
    assert page.count('background:rgb(0,120,255)') == 2  # in the class table and in the legend


def test_names_are_shown_as_they_are_and_never_run(page: str) -> None:
    reader = Reader(page)
    assert ' '.join(NASTY.split()) in reader.text and NASTY in CLASSES
    assert '<script' not in page
    # As text and in attributes, without breaking out of quotes.
    assert page.count(str(escape(NASTY))) == len(re.findall('&lt;script&gt;', page)) > 20
    assert not [tag for tag, _ in reader.tags if tag in ('script', 'iframe', 'object', 'form')]


def test_a_page_needs_nothing_from_outside(page: str) -> None:
    reader = Reader(page)
    bare = re.sub('data:image/[^"]*', '', page)
    assert not re.search(r'https?:|//|@import|url\(|srcset|ftp:', bare)
    assert all(value.startswith('data:image/') for value in reader.attributes('src'))
    assert all(value.startswith(('#', 'data:')) for value in reader.attributes('href'))
    assert not [name for _, values in reader.tags for name in values if name.startswith('on')]
    pictures = [values for tag, values in reader.tags if tag == 'img']
    assert len(pictures) == 2 + 3 * 4 + 1 and all(values.get('alt') for values in pictures)
    for plot in re.findall('data:image/svg[^,]*,([^"]*)', page):
        svg = base64.b64decode(plot).decode()
        assert set(re.findall('href="(.)', svg)) == {'#'}
        assert set(re.findall(r'url\((.)', svg)) <= {'#'}
        assert '<text' not in svg and '<script' not in svg and '<metadata' not in svg


def test_equal_data_make_equal_bytes_whatever_the_process(page: str, tmp_path: Path) -> None:
    style = tmp_path / 'matplotlibrc'
    style.write_text('font.size: 20\naxes.facecolor: red\nsvg.fonttype: none\n', encoding='utf-8')
    code = ('import sys; from report_sample import sample_report;'
            'sys.stdout.buffer.write(sample_report().page().encode())')
    helpers = Path(sys.modules['report_sample'].__file__ or '').parent
    places = os.pathsep.join([str(helpers), os.environ.get('PYTHONPATH', '')])
    environment = {**os.environ, 'PYTHONHASHSEED': '77', 'MATPLOTLIBRC': str(style),
                   'PYTHONPATH': places}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, check=True,
                          env=environment)
    assert done.stdout == page.encode()


def test_a_page_without_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='no_folder'):
        write_page(tmp_path / 'no_folder' / 'report.html', 'new')


def test_numbers_are_written_for_people_and_what_is_not_known_is_a_dash() -> None:
    nan = float('nan')
    assert [number(nan), limit(nan), percent(nan), percent(None)] == ['–'] * 4
    assert [number(0.12345), number(float('inf')), limit(0.1)] == ['0.123', '∞', '0.1000']
    assert [percent(0.0834), whole_percent(0.05)] == ['8.3\N{NO-BREAK SPACE}%',
                                                      '5\N{NO-BREAK SPACE}%']


@pytest.mark.parametrize(('upper', 'is_useless'), [(0.995, True), (0.12, False)])
def test_a_flag_of_which_most_may_be_bad_is_not_to_be_used(upper: float, is_useless: bool) -> None:
    promise = Promise(0.05, {'entropy.mean': 0.3}, 'iou<0.5', 30, 30, 12, 0.04, 0.03, 0.01, upper)
    leads, warnings = _judged(promise)
    assert (f'{100 * upper:.1f}' in ' '.join(warnings)) == is_useless
    assert (f'{100 * upper:.1f}' in ' '.join(leads)) != is_useless
