# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Make docs/pictures/report_*.png from a report of `calibrate`, with headless Chromium.

The argument is the report of the calibration of `suim`. UNCERTAINTY_SEG_CHROMIUM names a browser
that is not on PATH.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

import cv2
import numpy as np

WIDTH, HEIGHT = 1080, 2400
MARGIN_PX = 12
MOST_BYTES = 250_000
# Levels per colour channel; few, to keep the files in the repository small.
LEVELS = 32
FRAMES = 2
_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
# Picture -> section of the report, and a CSS selector of its hidden elements.
PARTS = {
    'suim_risk': ('risk', ''),
    'suim_accepted': ('accepted', f'#accepted figure:nth-of-type(n+{FRAMES + 1})'),
}


def main(report: str) -> None:
    """Render and write every picture."""
    browser = os.environ.get('UNCERTAINTY_SEG_CHROMIUM') or next(
        filter(None, map(shutil.which, _NAMES)), None)
    if browser is None:
        sys.exit('no Chromium is here: set UNCERTAINTY_SEG_CHROMIUM')
    pictures = Path(__file__).parent / 'pictures'
    page = Path(report).read_text(encoding='utf-8')
    for name, (section, hidden) in PARTS.items():
        shot = _photograph(browser, _only(page, section, hidden))
        (pictures / f'report_{name}.png').write_bytes(_small_png(shot))


def _only(page: str, section: str, hidden: str) -> str:
    """Return the page with all other sections hidden."""
    rules = f'header, section:not(#{section}) {{display: none !important}}'
    if hidden:
        rules += f' {hidden} {{display: none !important}}'
    return page.replace('</head>', f'<style>{rules}</style></head>')


def _photograph(browser: str, page: str) -> np.ndarray:
    """Return the rendered page as BGR, cropped to its content."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / 'page.html', Path(folder) / 'page.png'
        source.write_text(page, encoding='utf-8')
        subprocess.run(
            [browser, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
             '--disable-dev-shm-usage', f'--window-size={WIDTH},{HEIGHT}',
             f'--user-data-dir={folder}/profile', f'--screenshot={target}', source.as_uri()],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
        shot = cv2.imread(str(target))
    if shot is None:
        sys.exit('the browser made no picture')
    # Skips the rule above the heading, which separates sections.
    inked = np.flatnonzero((shot != shot[-1, 0]).any(axis=(1, 2)))
    return shot[int(inked[inked > inked[0] + MARGIN_PX][0]) - MARGIN_PX:int(inked[-1]) + MARGIN_PX]


def _small_png(shot: np.ndarray) -> bytes:
    """Encode with fewer colours, and scale down until `MOST_BYTES` is met."""
    while True:
        steps = np.rint(shot * ((LEVELS - 1) / 255)) * (255 / (LEVELS - 1))
        coded = cv2.imencode('.png', np.rint(steps).astype(np.uint8),
                             [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
        if len(coded) <= MOST_BYTES:
            return coded
        shot = cv2.resize(shot, None, fx=0.9, fy=0.9, interpolation=cv2.INTER_AREA)


if __name__ == '__main__':
    main(*sys.argv[1:])
