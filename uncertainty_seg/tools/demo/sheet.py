# Copyright 2026 The uncertainty_seg authors. SPDX-License-Identifier: Apache-2.0
"""
The contact sheet: chosen moments of a dive side by side, and the flag over the whole of it.

A column is a moment, in order of time; its rows are camera, classes, uncertainty and flag. Below
runs the score, with the same letters.

"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
import math
from pathlib import Path
import sys

import cv2
import numpy as np
from tqdm import tqdm

from uncertainty_seg.core.arrays import ImageU8
from uncertainty_seg.core.model_card import ModelCard
from uncertainty_seg.core.render import color_mask
from uncertainty_seg.errors import UncertaintySegError
from uncertainty_seg.tools.demo import plot as draw
from uncertainty_seg.tools.demo.plot import Box, ScorePlot
from uncertainty_seg.tools.demo.report import Accuracy
from uncertainty_seg.tools.demo.timeline import (
    DemoFrame,
    iter_frames,
    Moment,
    PLAIN_EVENT,
    read_timeline,
    Timeline,
)
from uncertainty_seg.tools.demo.video import DiveVideo

CELL_WIDTH = 400
MAX_COLUMNS = 6
_MARGIN, _GAP, _GUTTER = 28, 10, 150
_HEADER, _TITLE, _PLATE, _REASON, _PLOT, _LEGEND = 96, 44, 48, 84, 420, 56
_NUM_REASONS = 3


def choose_moments(timeline: Timeline) -> list[Moment]:
    """
    Choose what to show: a plain moment, the worst of each event, and the recovery.

    Parameters
    ----------
    timeline : Timeline
        The dive.

    Returns
    -------
    list of Moment
        At most `MAX_COLUMNS`, in order of time; only frames the node took.

    """
    taken = timeline.taken
    plain = [m for m in taken if m.event == PLAIN_EVENT and m.is_confident]
    chosen = plain[len(plain) // 8:][:1]
    for event in timeline.events:
        inside = [m for m in taken if event.start_s <= m.time_s < event.stop_s]
        chosen += sorted(inside, key=_badness)[-1:]
    fallen = [event.stop_s for event in timeline.events if math.isfinite(event.fell_after_s)]
    # In the calm after the first fall, so that the sheet shows a flag that came back.
    later = [e.start_s for e in timeline.events if fallen and e.start_s > fallen[0]]
    calm = [m for m in plain if fallen and fallen[0] <= m.time_s < (later or [math.inf])[0]]
    chosen += calm[len(calm) // 2:][:1]
    if len(chosen) < MAX_COLUMNS:
        chosen += plain[-1:]
    unique = {m.stamp_ns: m for m in chosen[:MAX_COLUMNS]}
    return sorted(unique.values(), key=lambda m: m.stamp_ns)


def draw_sheet(
    frames: Sequence[DemoFrame], timeline: Timeline, card: ModelCard, subtitle: str
) -> ImageU8:
    """
    Draw the sheet.

    Parameters
    ----------
    frames : sequence of DemoFrame
        The chosen moments with their pictures.
    timeline : Timeline
        The whole dive.
    card : ModelCard
        Classes and colours.
    subtitle : str
        One line under the title.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        BGR.

    """
    first = frames[0].image if frames else np.zeros((3, 4, 3), np.uint8)
    cell_height = round(CELL_WIDTH * first.shape[0] / first.shape[1])
    columns_width = MAX_COLUMNS * (CELL_WIDTH + _GAP) - _GAP
    width = 2 * _MARGIN + _GUTTER + columns_width
    rows_height = _TITLE + 3 * (cell_height + _GAP) + _PLATE + _REASON
    canvas = draw.blank(width, _HEADER + rows_height + _PLOT + _LEGEND + _MARGIN)
    _draw_header(canvas, subtitle)
    for k, frame in enumerate(frames):
        left = _MARGIN + _GUTTER + k * (CELL_WIDTH + _GAP)
        _draw_column(canvas, left, cell_height, chr(ord('A') + k), frame, card)
    _draw_row_names(canvas, cell_height)
    plot_top = _HEADER + rows_height
    plot = ScorePlot(Box(_MARGIN + _GUTTER, plot_top, columns_width, _PLOT), timeline, 15)
    plot.draw(canvas)
    for k, name in enumerate(('score', '/ threshold')):
        draw.write(canvas, name, _MARGIN, plot_top + 70 + 26 * k, 13, draw.DIM)
    for k, frame in enumerate(frames):
        plot.mark(canvas, frame.moment.time_s, chr(ord('A') + k))
    _draw_legend(canvas, plot_top + _PLOT + _LEGEND // 2, card)
    return canvas


def _draw_header(canvas: ImageU8, subtitle: str) -> None:
    draw.write(canvas, 'What the vehicle sees, and how far to trust it', _MARGIN, 38, 24, weight=2)
    draw.write(canvas, subtitle, _MARGIN, 76, 14, draw.DIM)


def _draw_column(
    canvas: ImageU8, left: int, height: int, letter: str, frame: DemoFrame, card: ModelCard
) -> None:
    moment = frame.moment
    words = moment.event.replace('_', ' ')
    draw.write(canvas, f'{letter}  {moment.time_s:.1f} s  {words}', left, _HEADER + 20, 15,
               weight=2)
    pictures = (
        frame.image,
        None if frame.label is None else color_mask(frame.label, card.palette),
        frame.heatmap,
    )
    top = _HEADER + _TITLE
    for picture in pictures:
        box = Box(left, top, CELL_WIDTH, height)
        draw.fill(canvas, box, draw.PANEL)
        if picture is not None:
            draw.paste(canvas, box, picture)
        top += height + _GAP
    draw.plate(canvas, Box(left, top, CELL_WIDTH, _PLATE), moment.kind, 17)
    for line, reason in enumerate(moment.reason.split('; ')[:_NUM_REASONS]):
        text = draw.fit_text(reason, 9, CELL_WIDTH)
        draw.write(canvas, text, left, top + _PLATE + 18 + 22 * line, 9, draw.INK)


def _draw_row_names(canvas: ImageU8, height: int) -> None:
    top = _HEADER + _TITLE
    for name, more in (('camera', ''), ('classes', ''), ('uncertain', 'where warm')):
        draw.write(canvas, name, _MARGIN, top + height // 2, 16, weight=1)
        draw.write(canvas, more, _MARGIN, top + height // 2 + 26, 11, draw.DIM)
        top += height + _GAP
    draw.write(canvas, 'flag', _MARGIN, top + _PLATE // 2, 16)
    draw.write(canvas, 'why', _MARGIN, top + _PLATE + 18, 16)


def _draw_legend(canvas: ImageU8, middle: int, card: ModelCard) -> None:
    end = draw.legend(canvas, card.class_names, card.palette, _MARGIN + _GUTTER, middle, 14)
    scale = Box(end + 60, middle - 12, 260, 24)
    ramp = np.tile(np.linspace(0, 255, scale.width).astype(np.uint8), (scale.height, 1))
    draw.paste(canvas, scale, np.asarray(cv2.applyColorMap(ramp, cv2.COLORMAP_TURBO), np.uint8))
    draw.write(canvas, 'sure', scale.left - 12, middle, 14, align='right')
    draw.write(canvas, 'unsure', scale.right + 12, middle, 14)


def _badness(moment: Moment) -> float:
    return -math.inf if math.isnan(moment.ratio) else moment.ratio


# -------------------------------------------------------------------------------------------------
# Make contact sheet and video of a dive in one walk through its bags.


def make_pictures(
    dive: Path, outputs: Path, card: ModelCard, subtitle: str, sheet_path: Path, video_path: Path
) -> tuple[Timeline, Accuracy]:
    """
    Draw what happened.

    Parameters
    ----------
    dive, outputs : Path
        Bag of the dive; bag of what the node said.
    card : ModelCard
        Of the model that said it.
    subtitle : str
        For the sheet.
    sheet_path, video_path : Path
        A .png and an .mp4; replaced if they are there.

    Returns
    -------
    Timeline, Accuracy
        What happened, and how right the masks were.

    Raises
    ------
    UncertaintySegError
        If a bag cannot be read or a file cannot be written.

    """
    timeline = read_timeline(dive, outputs)
    accuracy = Accuracy(card.num_classes, card.ignore_index)
    wanted = {moment.stamp_ns for moment in choose_moments(timeline)}
    chosen: list[DemoFrame] = []
    frames = iter_frames(dive, outputs, timeline)
    first = next(frames)
    size = first.image.shape[0], first.image.shape[1]
    with DiveVideo(video_path, timeline, card, size) as video:
        for frame in tqdm(chain([first], frames), total=len(timeline.moments), desc='video',
                          unit='frame', file=sys.stderr, disable=None):
            video.add(frame)
            accuracy.add(frame)
            if frame.moment.stamp_ns in wanted:
                chosen.append(frame)
    if not cv2.imwrite(str(sheet_path), draw_sheet(chosen, timeline, card, subtitle)):
        raise UncertaintySegError(f'{sheet_path} cannot be written', 'a folder with room')
    return timeline, accuracy
