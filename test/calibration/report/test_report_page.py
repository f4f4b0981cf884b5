# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""The report says what it was given, all of it and nothing else, and needs nothing outside."""

from __future__ import annotations

import base64
from dataclasses import replace
from html.parser import HTMLParser
import os
from pathlib import Path
import re
import subprocess
import sys

import numpy as np
import pytest
from report_sample import CLASSES, NASTY, sample_frame, sample_promise, sample_report, SCORES

pytest.importorskip('matplotlib', reason='matplotlib is not installed: no report is drawn')
escape = pytest.importorskip('markupsafe', reason='jinja2 is not installed: no report').escape

from uncertainty_seg.calibration.evaluation_run import Ladder, Step  # noqa: E402
from uncertainty_seg.calibration.report.data import (  # noqa: E402
    FrameGroup,
    ReportData,
    RiskCoverageCurves,
    RiskCurve,
    ScoreEntry,
    ScoreSpread,
)
from uncertainty_seg.calibration.report.page import report_page, write_report  # noqa: E402
from uncertainty_seg.calibration.statistics.bootstrap import Interval  # noqa: E402
from uncertainty_seg.calibration.statistics.evaluation import FrameRanking  # noqa: E402
from uncertainty_seg.calibration.statistics.selective import RiskCoverage  # noqa: E402
from uncertainty_seg.errors import ConfigError, ShapeError  # noqa: E402

PARTS = {'promise': 'promise', 'facts': 'bundle', 'risk_coverage': 'risk', 'scores': 'scores',
         'spreads': 'spreads', 'reliability': 'reliability', 'classes': 'classes',
         'ladders': 'ladders', 'worst_accepted': 'accepted', 'wrongly_refused': 'refused',
         'notes': 'notes'}
VOID = {'meta', 'link', 'img', 'br'}


class Reader(HTMLParser):
    """Collects a page's text, attributes and ids; fails on tags that do not close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.cells: dict[str, list[str]] = {}
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
    return report_page(sample_report())


def only(part: str) -> ReportData:
    whole = sample_report()
    legend = whole.legend if part in ('worst_accepted', 'wrongly_refused') else None
    return ReportData('t', legend=legend, **{part: getattr(whole, part)})


@pytest.mark.parametrize('part', PARTS)
def test_a_section_appears_exactly_when_its_part_is_given(part: str) -> None:
    reader = Reader(report_page(only(part)))
    assert [v['id'] for tag, v in reader.tags if tag == 'section'] == [PARTS[part]]
    assert [v['href'] for tag, v in reader.tags if tag == 'a'] == [f'#{PARTS[part]}']


def test_all_parts_have_a_section_and_ids_are_unique(page: str) -> None:
    ids = Reader(page).attributes('id')
    assert sorted(ids) == sorted(PARTS.values())


def test_a_title_alone_is_a_page() -> None:
    reader = Reader(report_page(ReportData('Only <this>')))
    assert reader.text == 'Only <this> Only <this>'
    assert not [tag for tag, _ in reader.tags if tag in ('section', 'img')]


@pytest.mark.parametrize('figure', [
    '61.3 % of the frames accepted, 3.2 % accepted and bad', '61.3 % of frames accepted',
    '3.2 % of frames accepted and bad', '5 % accepted and bad at most', '4.73 % bound that',
    '8.3 % bad among accepted, at most (95 % confidence)', '42 blocks, 220 frames', 'iou<0.5',
    'the frames that the limits were fitted on', 'mc_dropout', 'ab12' * 16, 'camera left',
    'passes T 20', '1,234,567', '0.420',
    'turbidity 5 0.150 10.0 % 0.5 % 2.80', '12 of 17 such frames', '3 of 3 such frames',
    'other 2 : IoU 0.22, score over limit 0.72; entropy.mean over <2>',
])
def test_figures_that_were_given_are_printed(page: str, figure: str) -> None:
    assert figure in Reader(page).text


def test_a_row_of_scores_reads_as_given_and_the_gated_come_first(page: str) -> None:
    text = Reader(page).text
    row = ('mutual_information.worst_window yes 0.2812 0.2317 0.16 0.0542 '
           '0.0241 [0.0100, 0.0400] 0.913 [0.870, 0.950]')
    assert row in text
    table = text[text.index('score gate limit'):]
    order = sorted(SCORES, key=lambda name: table.index(f'{name} '))
    assert order[:2] == ['entropy.mean', 'mutual_information.worst_window']
    assert order[2:4] == ['entropy.top', 'mutual_information.top']
    assert page.count('<tr class="marked">') == 2


def test_a_long_tail_of_scores_is_folded_and_complete() -> None:
    rows = tuple(
        ScoreEntry(f's{k:03d}',
                   ranking=FrameRanking(k / 50, Interval(k / 100, 0, 1, 0.95, 9), None))
        for k in range(60))
    text = Reader(report_page(ReportData('t', scores=rows))).text
    assert '36 more scores' in text
    assert all(row.name in text for row in rows)


def test_more_small_plots_than_fit_are_counted() -> None:
    values = np.linspace(0, 1, 20)
    spreads = tuple(ScoreSpread(f's{k}', None, values) for k in range(14))
    reader = Reader(report_page(ReportData('t', spreads=spreads)))
    assert sum(tag == 'img' for tag, _ in reader.tags) == 12
    assert '2 more scores are not drawn.' in reader.text


def test_what_is_not_known_is_a_dash_and_not_a_number() -> None:
    text = Reader(report_page(ReportData('t', scores=(
        ScoreEntry('bare'), ScoreEntry('odd', float('nan'), ranking=FrameRanking(
            float('nan'), Interval(*[float('nan')] * 3, 0.95, 9), None)))))).text
    assert 'bare – – – – – –' in text
    assert 'odd – – – – – –' in text
    assert 'nan' not in text.lower()


def test_names_are_shown_as_they_are_and_never_run(page: str) -> None:
    reader = Reader(page)
    assert ' '.join(NASTY.split()) in reader.text
    assert NASTY in CLASSES
    assert '<script' not in page
    assert escape(NASTY) in page
    assert not [tag for tag, _ in reader.tags if tag in ('script', 'iframe', 'object', 'form')]


def test_every_text_of_a_report_is_escaped() -> None:
    whole = sample_report()
    assert whole.legend and whole.spreads
    points = RiskCoverage(np.r_[1.0, 2], np.r_[0.5, 1], np.r_[0.1, 0.2])
    nasty = ReportData(
        NASTY, facts={NASTY: NASTY}, hashes={NASTY: NASTY}, promise=sample_promise(bad=NASTY),
        measured_on=NASTY, scores=(ScoreEntry(NASTY),),
        risk_coverage=RiskCoverageCurves((RiskCurve(NASTY, points),)),
        reliability={NASTY: next(iter((whole.reliability or {}).values()))},
        spreads=(replace(whole.spreads[0], name=NASTY),), classes=whole.classes,
        ladders=(Ladder(NASTY, 1, (Step(1, 0.5, 0.5, 0.1, 1.0),)),),
        legend=replace(whole.legend, heat_name=NASTY),
        worst_accepted=FrameGroup((replace(sample_frame(1), source=NASTY, reason=NASTY),), 1),
        notes=(NASTY,))
    page = report_page(nasty)
    assert '<script' not in page
    # As text and as an attribute: nothing breaks out of quotes.
    assert page.count(escape(NASTY)) == len(re.findall(re.escape('&lt;script&gt;'), page)) > 20
    Reader(page)


def test_a_page_needs_nothing_from_outside(page: str) -> None:
    reader = Reader(page)
    bare = re.sub('data:image/[^"]*', '', page)
    assert not re.search(r'https?:|//|@import|url\(|srcset|ftp:', bare)
    assert all(value.startswith('data:image/') for value in reader.attributes('src'))
    assert all(value.startswith(('#', 'data:')) for value in reader.attributes('href'))
    assert not [name for _, values in reader.tags for name in values if name.startswith('on')]


def test_plots_need_nothing_from_outside_and_hold_no_letters_of_a_font(page: str) -> None:
    plots = re.findall('data:image/svg[^,]*,([^"]*)', page)
    assert len(plots) == 1 + len(SCORES) + 1 + 3
    for plot in plots:
        svg = base64.b64decode(plot).decode()
        assert set(re.findall('href="(.)', svg)) == {'#'}
        assert set(re.findall(r'url\((.)', svg)) <= {'#'}
        assert '<text' not in svg and '<script' not in svg and '<metadata' not in svg


def test_every_picture_says_what_it_shows(page: str) -> None:
    pictures = [values for tag, values in Reader(page).tags if tag == 'img']
    assert len(pictures) == 1 + len(SCORES) + 1 + 3 + 15 * 4 + 2
    assert all(values.get('alt') for values in pictures)


def test_no_frame_found_is_said_and_is_not_the_same_as_not_looked_for() -> None:
    legend = sample_report().legend
    page = report_page(ReportData('t', legend=legend, worst_accepted=FrameGroup((), 0)))
    assert 'There is none.' in page
    assert 'id="refused"' not in page


def test_a_frame_without_truth_says_so() -> None:
    group = FrameGroup((sample_frame(1, has_truth=False),), 1)
    page = report_page(ReportData('t', legend=sample_report().legend, worst_accepted=group))
    assert page.count('not known') == 1


def test_frames_without_a_legend_are_refused() -> None:
    with pytest.raises(ShapeError, match='no legend'):
        ReportData('t', worst_accepted=FrameGroup((sample_frame(1),), 1))


def test_equal_data_make_equal_bytes_whatever_the_process(page: str, tmp_path: Path) -> None:
    style = tmp_path / 'matplotlibrc'
    style.write_text('font.size: 20\naxes.facecolor: red\nsvg.fonttype: none\n', encoding='utf-8')
    code = ('import sys; from report_sample import sample_report;'
            'from uncertainty_seg.calibration.report.page import report_page;'
            'sys.stdout.buffer.write(report_page(sample_report()).encode())')
    here = Path(__file__).parent
    places = os.pathsep.join([str(here), str(here.parent), os.environ.get('PYTHONPATH', '')])
    environment = {**os.environ, 'PYTHONHASHSEED': '77', 'MATPLOTLIBRC': str(style),
                   'PYTHONPATH': places}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, check=True,
                          env=environment)
    assert done.stdout == page.encode()


def test_a_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'report.html'
    write_report(path, ReportData('old'))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(ConfigError, match='No space left'):
        write_report(path, ReportData('new'))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'report .*no_folder.* cannot be written \(No such'):
        write_report(tmp_path / 'no_folder' / 'report.html', ReportData('t'))


def test_24_frames_of_noise_stay_below_4_megabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)

    def noise(k: int) -> object:
        frame = sample_frame(k, height=480, width=640)
        return replace(frame, image_bgr=rng.integers(0, 256, (480, 640, 3), np.uint8),
                       predicted=rng.integers(0, 3, (480, 640)).astype(np.uint8),
                       heat=rng.random((480, 640), np.float32))

    group = FrameGroup(tuple(noise(k) for k in range(12)), 12)  # type: ignore[misc]
    data = replace(sample_report(), worst_accepted=group, wrongly_refused=group)
    write_report(tmp_path / 'r.html', data)
    assert (tmp_path / 'r.html').stat().st_size < 4_000_000


def opening(**changes: object) -> str:
    page = report_page(ReportData('t', promise=sample_promise(**changes)))
    return Reader(page).text


def test_the_opening_tells_what_was_promised_from_what_was_bounded() -> None:
    assert (
        'When the flag is true, the mask is bad in at most 8.3 % of the frames, with 95 % '
        'confidence. What is promised: at most 5 % of all frames are both accepted and bad, on '
        'average over blocks of frames like those of the calibration.') in opening()
    plain = opening(bad_if_accepted_upper=float('nan'))
    assert 'When the flag is true, the frame is accepted: at most 5 % of all' in plain
    assert 'What is promised' not in plain


@pytest.mark.parametrize(('share', 'is_warned'), [(0.05, False), (0.0501, True),
                                                  (float('nan'), True), (0.0, False)])
def test_a_promise_that_did_not_hold_is_said_first(share: float, is_warned: bool) -> None:
    page = report_page(ReportData('t', promise=sample_promise(accepted_and_bad=share)))
    said = 'class="warning"' in page[:page.index('<main>')]
    assert said == is_warned
