# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Reports in a real browser: complete, and nothing is cut off on desktop or phone."""

from pathlib import Path

from calibration_helpers import write_folder
from chromium import Browser, browser, complaints, OVERFLOWING  # noqa: F401
from comparison_sample import comparison, planted
from conftest import make_tiny_bundle
import pytest
from report_sample import sample_report

pytest.importorskip('matplotlib', reason='matplotlib is not installed: no report is drawn')

import uncertainty_seg as us  # noqa: E402
from uncertainty_seg.calibration.report.reports import comparison_page  # noqa: E402

WIDTHS = (1280, 400)
PICTURES = """Promise.all([...document.images].map(i => i.decode().then(
    () => Math.min(i.naturalWidth, i.naturalHeight, i.clientHeight), () => 0)))"""


def looked_at(browser: Browser, page: str, folder: Path, width_px: int) -> list[int]:  # noqa: F811
    """Open a page, assert that it is complete and fits; return each picture's shorter side."""
    path = folder / 'page.html'
    path.write_text(page, encoding='utf-8')
    browser.open(path, width_px)
    assert complaints(browser) == []
    assert browser.run('document.documentElement.scrollWidth') == width_px
    assert browser.run(OVERFLOWING) == []
    sides: list[int] = browser.run(PICTURES)
    return sides


@pytest.mark.parametrize(('width_px', 'columns'), [(1280, [4, 7]), (400, [2, 2])])
def test_a_report_is_whole_and_fits_a_desk_and_a_phone(
    browser: Browser, tmp_path: Path, width_px: int, columns: list[int]  # noqa: F811
) -> None:
    sides = looked_at(browser, sample_report().page(), tmp_path, width_px)
    assert len(sides) == 2 + 3 * 4 + 1 and min(sides) > 5
    assert [browser.run(f"getComputedStyle(document.querySelector('{name}')).gridTemplateColumns")
            .count('px') for name in ('.strip', '.tiles')] == columns
    asked = {event['request']['url'][:5] for event in browser.of('Network.requestWillBeSent')}
    assert asked == {'data:', 'file:'}


def test_the_page_of_a_comparison_fits_and_marks_what_is_better(
    browser: Browser, tmp_path: Path  # noqa: F811
) -> None:
    page = comparison_page(comparison({'single': planted(), 'better <i>': planted(0.8, 0.9, 1)}))
    for width_px in WIDTHS:
        sides = looked_at(browser, page, tmp_path, width_px)
        assert len(sides) == 1 and sides[0] > 200  # the forest plot of gains
        assert browser.run("document.querySelectorAll('.tile').length") == 3
        marked = browser.run("[...document.querySelectorAll('tr.marked')].map(row => "
                             'row.cells[1].textContent)')
        assert len(marked) >= 6 and set(marked) == {'better <i>'}


@pytest.mark.release
def test_a_bundle_without_a_calibration_has_a_page_that_is_whole(
    browser: Browser, tmp_path: Path  # noqa: F811
) -> None:
    folder, page = write_folder(tmp_path / 'labelled', 12, 3), tmp_path / 'cold.html'
    us.evaluate(make_tiny_bundle(tmp_path / 'tiny', calibrated=False), folder, report=page,
                settings=us.Settings(backend='onnxruntime', threads=1))
    sides = looked_at(browser, page.read_text(), tmp_path, 1280)
    assert len(sides) == 1 + 1 and all(sides)
