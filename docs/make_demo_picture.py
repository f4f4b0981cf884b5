# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""Make docs/pictures/demo_contact_sheet.jpg from a run of `uncertainty_seg demo`."""

from __future__ import annotations

from pathlib import Path
import sys

import cv2

WIDTH = 1800


def main(sheet: str = 'demo_output/contact_sheet.png') -> None:
    """Scale the contact sheet to the width of a page and write it as JPEG."""
    picture = cv2.imread(sheet)
    if picture is None:
        sys.exit(f'no picture at {sheet}: run uncertainty_seg demo, or name its contact sheet')
    height = round(picture.shape[0] * WIDTH / picture.shape[1])
    small = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
    target = Path(__file__).parent / 'pictures' / 'demo_contact_sheet.jpg'
    cv2.imwrite(str(target), small, [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == '__main__':
    main(*sys.argv[1:])
