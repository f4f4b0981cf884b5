# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
Words, plates and the score plot: what contact sheet and video are drawn with.

Only OpenCV's own strokes are used, so that the demo needs no font and no plotting library. Knows
pixels and colours (BGR), not bags.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from uncertainty_seg.core.arrays import ImageU8

Color = tuple[int, int, int]

BACKGROUND: Color = (33, 27, 23)
PANEL: Color = (52, 44, 38)
INK: Color = (240, 240, 240)
DIM: Color = (170, 160, 152)
GRID: Color = (84, 74, 66)
LINE: Color = (255, 205, 120)
FLAG_COLORS: dict[str, Color] = {
    'confident': (88, 160, 40),
    'uncertain': (0, 122, 230),
    'recovering': (40, 170, 235),
    'fault': (50, 50, 205),
    'dropped': (95, 88, 80),
}
FLAG_WORDS = {
    'confident': 'CONFIDENT',
    'uncertain': 'NOT CONFIDENT',
    'recovering': 'RECOVERING',
    'fault': 'FAULT',
    'dropped': 'NOT PROCESSED',
}
_FONT = cv2.FONT_HERSHEY_DUPLEX
# Height of a capital letter of the font at scale 1.
_CAP_PX = 21.0


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column right of it."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """First row below it."""
        return self.top + self.height


def blank(width: int, height: int) -> ImageU8:
    """Return an empty canvas (height, width, 3)."""
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def fill(canvas: ImageU8, box: Box, color: Color, alpha: float = 1.0) -> None:
    """Fill a rectangle, mixing with what is there if `alpha` is below 1."""
    area = canvas[box.top:box.bottom, box.left:box.right]
    if alpha >= 1:
        area[:] = color
    else:
        area[:] = np.rint(area * (1 - alpha) + np.asarray(color) * alpha).astype(np.uint8)


def paste(canvas: ImageU8, box: Box, picture: ImageU8) -> None:
    """Put a picture into a rectangle, scaled to it."""
    is_shrinking = picture.shape[1] > box.width
    scaled = cv2.resize(
        picture, (box.width, box.height),
        interpolation=cv2.INTER_AREA if is_shrinking else cv2.INTER_NEAREST,
    )
    canvas[box.top:box.bottom, box.left:box.right] = scaled


def text_width(text: str, cap_px: float, weight: int = 1) -> int:
    """Return the width in pixels of a line with capitals `cap_px` high."""
    return int(cv2.getTextSize(text, _FONT, cap_px / _CAP_PX, weight)[0][0])


def fit_text(text: str, cap_px: float, room: int, weight: int = 1) -> str:
    """Cut a line with an ellipsis so that it is not wider than `room` pixels."""
    if text_width(text, cap_px, weight) <= room:
        return text
    while text and text_width(f'{text}...', cap_px, weight) > room:
        text = text[:-1]
    return f'{text.rstrip()}...'


def write(
    canvas: ImageU8,
    text: str,
    left: int,
    middle: int,
    cap_px: float = 12,
    color: Color = INK,
    weight: int = 1,
    align: str = 'left',
) -> None:
    """
    Write a line.

    Parameters
    ----------
    canvas : ndarray of uint8, shape (H, W, 3)
        Drawn upon.
    text : str
        ASCII; the font has no other letters.
    left, middle : int
        Where the line begins (or is centred, or ends), and the row of its middle.
    cap_px : float
        Height of its capitals.
    color : tuple of int
        BGR.
    weight : int
        Stroke width in pixels.
    align : str
        'left', 'centre' or 'right' of `left`.

    """
    shift = {'left': 0.0, 'centre': 0.5, 'right': 1.0}[align]
    x = left - round(shift * text_width(text, cap_px, weight))
    origin = (x, middle + round(cap_px / 2))
    cv2.putText(canvas, text, origin, _FONT, cap_px / _CAP_PX, color, weight, cv2.LINE_AA)


def plate(canvas: ImageU8, box: Box, kind: str, cap_px: float, weight: int = 2) -> None:
    """Draw the flag as a coloured plate with its word."""
    fill(canvas, box, FLAG_COLORS[kind])
    middle = (box.left + box.right) // 2, (box.top + box.bottom) // 2
    write(canvas, FLAG_WORDS[kind], *middle, cap_px, (255, 255, 255), weight, 'centre')


def legend(
    canvas: ImageU8,
    names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    left: int,
    middle: int,
    cap_px: float,
) -> int:
    """Draw a row of class colours with their names; return the column where it ends."""
    side = round(cap_px * 1.7)
    for name, (red, green, blue) in zip(names, palette, strict=True):
        swatch = Box(left, middle - side // 2, side, side)
        fill(canvas, swatch, (blue, green, red))
        cv2.rectangle(canvas, (swatch.left, swatch.top), (swatch.right, swatch.bottom), DIM, 1)
        words = name.replace('_', ' ')
        write(canvas, words, swatch.right + side // 2, middle, cap_px)
        left = swatch.right + side // 2 + text_width(words, cap_px) + side * 3 // 2
    return left
